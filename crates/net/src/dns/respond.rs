//! From the bytes of a question to the bytes of an answer.

use std::sync::Arc;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, Record, RecordType};
use parking_lot::RwLock;
use skiff_meta::WorldRef;

use super::cache::Reply;
use super::lookup::{Answer, Lookup};
use super::metrics::Metrics;
use super::settings::Settings;
use super::upstream::{MAX_UDP, Upstream};
use super::zone::Zone;

/// Longest chain of names that lead on to names.
const MAX_ALIASES: usize = 8;
/// Largest answer to a client that does not say what it can take (RFC 1035).
const PLAIN_UDP: usize = 512;

/// How a question came, which says how large the answer may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

/// Answers questions.
#[derive(Clone)]
pub(super) struct Responder {
    pub(super) zone: Arc<RwLock<Zone>>,
    pub(super) upstream: Arc<Upstream>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) world: WorldRef,
}

/// What can be said at once.
pub(super) enum Step {
    /// Not a question: no answer.
    Ignore,
    /// This.
    Reply(Vec<u8>),
    /// Nothing before others have been asked: [`Responder::finish`].
    Ask(Box<Pending>),
}

/// A question on its way to another name server.
pub(super) struct Pending {
    response: Message,
    limit: usize,
    name: Name,
    renamed: Option<Name>,
}

impl Responder {
    /// Answers what the zone or the cache can answer; does not wait.
    pub(super) fn start(&self, bytes: &[u8], transport: Transport) -> Step {
        let Ok(request) = Message::from_vec(bytes) else { return unreadable(bytes) };
        if request.metadata.message_type != MessageType::Query {
            return Step::Ignore;
        }
        self.metrics.asked(transport);
        let limit = limit(&request, transport);
        let mut response = response_to(&request);
        if let Some(code) = refusal(&request) {
            response.metadata.response_code = code;
            return Step::Reply(self.encode(response, limit));
        }
        let settings = self.upstream.settings();
        let renamed = response.queries.first().and_then(|query| settings.rewritten(query.name()));
        match self.resolve(&mut response, renamed.as_ref(), &settings) {
            None => {
                name_back(&mut response, renamed.as_ref());
                Step::Reply(self.encode(response, limit))
            }
            Some(name) => Step::Ask(Box::new(Pending { response, limit, name, renamed })),
        }
    }

    /// Asks others what is still open, and answers.
    pub(super) async fn finish(&self, pending: Pending) -> Vec<u8> {
        let Pending { mut response, limit, name, renamed } = pending;
        let (record_type, class) = asked(&response);
        let reply = self.upstream.ask(&(name.to_lowercase(), record_type, class)).await;
        match reply {
            Some(reply) => append(&mut response, reply),
            // With the alias at least, where there is one.
            None if response.answers.is_empty() => response.metadata.response_code = ResponseCode::ServFail,
            None => {}
        }
        name_back(&mut response, renamed.as_ref());
        self.encode(response, limit)
    }

    fn encode(&self, response: Message, limit: usize) -> Vec<u8> {
        self.metrics.answered(response.metadata.response_code);
        encode(response, limit)
    }

    /// Fills `response` from what the administrator says, the zone and the cache; returns the name to ask others for, if
    /// there is one. `renamed` is the name that stands for the one asked for.
    fn resolve(&self, response: &mut Message, renamed: Option<&Name>, settings: &Settings) -> Option<Name> {
        let (record_type, class) = asked(response);
        let mut name = renamed.or(response.queries.first().map(Query::name))?.clone();
        for _ in 0..MAX_ALIASES {
            if let Some(records) = settings.hosts(&name, record_type) {
                response.metadata.authoritative = true;
                response.answers.extend(records);
                return None;
            }
            let lookup = self.zone.read().lookup(&name, record_type);
            let Lookup::Found(answer) = lookup else {
                let question = (name.to_lowercase(), record_type, class);
                let reply = self.upstream.cached(&question);
                self.metrics.outside(reply.is_some());
                let Some(reply) = reply else { return Some(name) };
                append(response, reply);
                return None;
            };
            response.metadata.authoritative = true;
            let alias = answer.alias.clone();
            self.take(response, answer);
            name = alias?;
        }
        response.metadata.response_code = ResponseCode::ServFail;
        None
    }

    fn take(&self, response: &mut Message, answer: Answer) {
        let Answer { code, mut records, additionals, authority, alias: _ } = answer;
        // Clients take the first address; turning the list shares the load among endpoints.
        if records.len() > 1 {
            let turn = (self.world.random() % records.len() as u64) as usize;
            records.rotate_left(turn);
        }
        response.metadata.response_code = code;
        response.answers.extend(records);
        response.additionals.extend(additionals);
        response.authorities.extend(authority);
    }
}

fn append(response: &mut Message, reply: Reply) {
    response.metadata.response_code = reply.code;
    response.answers.extend(reply.records);
    response.authorities.extend(reply.authorities);
    response.additionals.extend(reply.additionals);
}

/// Whoever asked for a name that another stands for gets answers about the one asked for.
fn name_back(response: &mut Message, renamed: Option<&Name>) {
    let (Some(renamed), Some(query)) = (renamed, response.queries.first()) else { return };
    let asked = query.name().clone();
    response.answers.iter_mut().filter(|record| record.name == *renamed).for_each(|record| record.name = asked.clone());
}

fn asked(response: &Message) -> (RecordType, DNSClass) {
    response.queries.first().map_or((RecordType::ZERO, DNSClass::IN), |query| (query.query_type(), query.query_class()))
}

fn response_to(request: &Message) -> Message {
    let mut response = Message::response(request.metadata.id, request.metadata.op_code);
    response.metadata.recursion_desired = request.metadata.recursion_desired;
    response.metadata.checking_disabled = request.metadata.checking_disabled;
    response.metadata.recursion_available = true;
    response.add_queries(request.queries.iter().cloned());
    if request.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(MAX_UDP);
        response.set_edns(edns);
    }
    response
}

/// Why a readable question gets no answer.
fn refusal(request: &Message) -> Option<ResponseCode> {
    if request.metadata.op_code != OpCode::Query {
        return Some(ResponseCode::NotImp);
    }
    if request.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        return Some(ResponseCode::BADVERS);
    }
    match request.queries.as_slice() {
        [query] if query.query_class() != DNSClass::IN => Some(ResponseCode::Refused),
        [query] if matches!(query.query_type(), RecordType::AXFR | RecordType::IXFR) => Some(ResponseCode::Refused),
        [_] => None,
        _ => Some(ResponseCode::FormErr),
    }
}

/// A question that cannot be read is told so, if it has at least a header and is not an answer.
fn unreadable(bytes: &[u8]) -> Step {
    let [first, second, flags, ..] = bytes else { return Step::Ignore };
    if bytes.len() < 12 || flags & 0x80 != 0 {
        return Step::Ignore;
    }
    let id = u16::from_be_bytes([*first, *second]);
    let response = Message::error_msg(id, OpCode::Query, ResponseCode::FormErr);
    Step::Reply(encode(response, PLAIN_UDP))
}

fn limit(request: &Message, transport: Transport) -> usize {
    match (transport, &request.edns) {
        (Transport::Tcp, _) => usize::from(u16::MAX),
        (Transport::Udp, None) => PLAIN_UDP,
        (Transport::Udp, Some(edns)) => usize::from(edns.max_payload().min(MAX_UDP)).max(PLAIN_UDP),
    }
}

/// The message's bytes, at most `limit`: what is only helpful goes first, then answers, which the client is told about.
fn encode(mut message: Message, limit: usize) -> Vec<u8> {
    loop {
        let bytes = match message.to_vec() {
            Ok(bytes) if bytes.len() <= limit => return bytes,
            Ok(bytes) => bytes,
            // Cannot happen for what was read from a message; an empty answer is ignored by the sender.
            Err(error) => {
                tracing::warn!("answer cannot be encoded: {error}");
                return Vec::new();
            }
        };
        if !message.additionals.is_empty() {
            message.additionals.clear();
            continue;
        }
        message.metadata.truncation = true;
        if message.answers.is_empty() && message.authorities.is_empty() {
            // Nothing but the question: it came in, so it goes out.
            return bytes;
        }
        message.authorities.clear();
        shorten(&mut message.answers, limit, bytes.len());
    }
}

fn shorten(records: &mut Vec<Record>, limit: usize, size: usize) {
    let fitting = records.len() * limit / size.max(1);
    records.truncate(fitting.min(records.len().saturating_sub(1)));
}
