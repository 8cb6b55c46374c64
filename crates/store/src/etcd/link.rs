//! The way to etcd: which endpoint to talk to, and when to try another.
//!
//! All calls go to one member, the leader where it is known: that saves a hop, and the death of another member is then
//! not even noticed, while that of the leader breaks the connection and is known at once. A call that fails for reasons
//! of the connection or the member lets the next one choose anew. Reads are then repeated; a write only if it certainly
//! was never sent, since otherwise nobody knows whether it happened.

use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use skiff_meta::WorldRef;
use skiff_meta::world::WorldExt;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Response, Status};

use super::convert::{Fault, is_elsewhere, was_never_sent};
use crate::contract::StoreError;
use crate::proto::etcdserverpb::StatusRequest;
use crate::proto::etcdserverpb::maintenance_client::MaintenanceClient;

/// How long a call may take with all its attempts.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long one read may take before another member is tried.
const READ: Duration = Duration::from_secs(4);
/// How long a write may take once it is under way. A leader's death costs about a second, a full disk queue less.
const WRITE: Duration = Duration::from_secs(3);
/// How long a member has to accept a connection and tell its state.
const GREETING: Duration = Duration::from_secs(2);
/// How long to wait for the leader's greeting when another member has answered.
const PREFERENCE: Duration = Duration::from_millis(300);
/// Pause before all endpoints are tried again.
const PAUSE: Duration = Duration::from_millis(100);
/// A quiet connection is tried after this time; etcd forbids less than 5 s.
const KEEP_ALIVE: Duration = Duration::from_secs(6);

/// Where etcd is, and how both sides know each other.
#[derive(Clone, Debug)]
pub struct EtcdConfig {
    /// URLs of members, `http://` or `https://`.
    pub endpoints: Vec<String>,
    /// Who signs etcd's certificates (PEM).
    pub ca: Option<Vec<u8>>,
    /// Our certificate and its key (PEM), where etcd asks for one.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// How often history is compacted: it lives for one to two of these intervals.
    pub compact_every: Duration,
}

impl EtcdConfig {
    /// Members without TLS, and upstream's interval of compaction.
    pub fn new(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let endpoints = endpoints.into_iter().map(Into::into).collect();
        Self { endpoints, ca: None, identity: None, compact_every: Duration::from_secs(5 * 60) }
    }
}

/// Whether a call may be repeated.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Read,
    Write,
}

/// A connection in use; `generation` tells it from those before it.
#[derive(Clone)]
pub(crate) struct Chosen {
    pub(crate) channel: Channel,
    pub(crate) generation: u64,
}

pub(crate) struct Link {
    pub(crate) world: WorldRef,
    members: Vec<Endpoint>,
    state: tokio::sync::Mutex<State>,
}

#[derive(Default)]
struct State {
    chosen: Option<Chosen>,
    generation: u64,
}

/// A member that knows a leader.
struct Greeting {
    channel: Channel,
    leads: bool,
}

impl Link {
    pub(crate) fn new(config: &EtcdConfig, world: WorldRef) -> Result<Self, StoreError> {
        let members = config.endpoints.iter().map(|url| member(url, config)).collect::<Result<Vec<_>, _>>()?;
        if members.is_empty() {
            return Err(StoreError::BadEndpoint { url: String::new(), why: "there must be at least one".into() });
        }
        Ok(Self { world, members, state: Default::default() })
    }

    /// The connection to use now.
    pub(crate) async fn chosen(&self) -> Result<Chosen, Fault> {
        let mut state = self.state.lock().await;
        if let Some(chosen) = &state.chosen {
            return Ok(chosen.clone());
        }
        let channel = self.choose().await?;
        state.generation += 1;
        let chosen = Chosen { channel, generation: state.generation };
        state.chosen = Some(chosen.clone());
        Ok(chosen)
    }

    /// Lets the next call choose anew, unless that has happened since.
    pub(crate) async fn discard(&self, generation: u64) {
        let mut state = self.state.lock().await;
        if state.chosen.as_ref().is_some_and(|chosen| chosen.generation == generation) {
            state.chosen = None;
        }
    }

    /// Calls a method until it answers or the patience ends.
    pub(crate) async fn call<T, F>(&self, kind: Kind, method: impl Fn(Channel) -> F + Send + Sync) -> Result<T, Fault>
    where
        F: Future<Output = Result<Response<T>, Status>> + Send,
        T: Send,
    {
        let end = self.world.elapsed() + PATIENCE;
        let mut last = Fault::Unavailable(String::new());
        loop {
            let left = end.saturating_sub(self.world.elapsed());
            if left.is_zero() {
                return Err(last);
            }
            let chosen = match self.world.timeout(left, self.chosen()).await {
                Some(Ok(chosen)) => chosen,
                Some(Err(fault)) => {
                    last = fault;
                    self.world.sleep(PAUSE).await;
                    continue;
                }
                None => return Err(last),
            };
            let limit = if kind == Kind::Read { READ.min(left) } else { WRITE };
            let repeat = match self.world.timeout(limit, method(chosen.channel)).await {
                Some(Ok(answer)) => return Ok(answer.into_inner()),
                Some(Err(status)) if is_elsewhere(&status) => {
                    let repeat = kind == Kind::Read || was_never_sent(&status);
                    last = status.into();
                    repeat
                }
                Some(Err(status)) => return Err(status.into()),
                None => {
                    last = Fault::Unavailable(format!("no answer within {} s", limit.as_secs()));
                    kind == Kind::Read
                }
            };
            self.discard(chosen.generation).await;
            if !repeat {
                return Err(last);
            }
            self.world.sleep(PAUSE).await;
        }
    }

    /// Greets all members at once and takes the leader, else one that knows it. Those that know none are left alone: they
    /// would keep requests for seconds, and answer them with an error even if a leader is found meanwhile.
    async fn choose(&self) -> Result<Channel, Fault> {
        let mut greetings: FuturesUnordered<_> = self.members.iter().map(|member| self.greet(member)).collect();
        let (mut best, mut faults): (Option<Greeting>, Vec<String>) = (None, Vec::new());
        let mut wait = GREETING * 2;
        while let Some(Some(greeting)) = self.world.timeout(wait, greetings.next()).await {
            match greeting {
                Ok(greeting) if greeting.leads => return Ok(greeting.channel),
                Ok(greeting) => {
                    best = Some(greeting);
                    wait = PREFERENCE;
                }
                Err(why) => faults.push(why),
            }
        }
        match best {
            Some(greeting) => Ok(greeting.channel),
            None => Err(Fault::Unavailable(format!("no endpoint of etcd is of use: {}", faults.join("; ")))),
        }
    }

    async fn greet(&self, member: &Endpoint) -> Result<Greeting, String> {
        let greeting = async {
            let channel = member.connect().await.map_err(|error| root_cause(&error))?;
            let status = MaintenanceClient::new(channel.clone()).status(StatusRequest {}).await;
            let status = status.map_err(|status| status.message().to_owned())?.into_inner();
            if status.leader == 0 {
                return Err("it knows no leader".to_owned());
            }
            let leads = status.header.is_some_and(|header| header.member_id == status.leader);
            Ok(Greeting { channel, leads })
        };
        let told = self.world.timeout(GREETING, greeting).await;
        told.unwrap_or_else(|| Err("no answer".into())).map_err(|why: String| format!("{}: {why}", member.uri()))
    }
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.last().map(ToString::to_string).unwrap_or_default()
}

fn member(url: &str, config: &EtcdConfig) -> Result<Endpoint, StoreError> {
    let bad = |why: String| StoreError::BadEndpoint { url: url.to_owned(), why };
    let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|error| bad(root_cause(&error)))?;
    let endpoint = match endpoint.uri().scheme_str() {
        Some("http") => endpoint,
        Some("https") => {
            let mut tls = ClientTlsConfig::new();
            if let Some(ca) = &config.ca {
                tls = tls.ca_certificate(Certificate::from_pem(ca));
            }
            if let Some((certificate, key)) = &config.identity {
                tls = tls.identity(Identity::from_pem(certificate, key));
            }
            endpoint.tls_config(tls).map_err(|error| bad(root_cause(&error)))?
        }
        _ => return Err(bad("it must begin with http:// or https://".into())),
    };
    Ok(endpoint
        .connect_timeout(GREETING)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(GREETING)
        .keep_alive_while_idle(true)
        // A list of large objects must not wait for a round trip per 64 KiB.
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(16 << 20))
}

/// Answers a question for all who asked it before it was put: callers that wait share the next answer.
pub(crate) struct Shared<T> {
    answer: tokio::sync::Mutex<(u64, Option<Result<T, StoreError>>)>,
    put: std::sync::atomic::AtomicU64,
}

impl<T: Copy> Shared<T> {
    pub(crate) fn new() -> Self {
        Self { answer: tokio::sync::Mutex::new((0, None)), put: Default::default() }
    }

    /// The answer to a question that `ask` puts after this call began.
    pub(crate) async fn get<F>(&self, ask: impl FnOnce() -> F + Send) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>> + Send,
    {
        use std::sync::atomic::Ordering::SeqCst;
        let arrived = self.put.load(SeqCst);
        let mut known = self.answer.lock().await;
        if let (number, Some(answer)) = &*known
            && *number > arrived
        {
            return answer.clone();
        }
        let number = self.put.fetch_add(1, SeqCst) + 1;
        let answer = ask().await;
        *known = (number, Some(answer.clone()));
        answer
    }
}
