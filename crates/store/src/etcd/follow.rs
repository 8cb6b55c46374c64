//! All changes of all keys after a revision, without end: what every watch is made of.
//!
//! It follows the whole key space because that makes it checkable. Each revision changes at least one key, so whoever
//! sees all keys sees every revision: a gap means that events were lost, and having seen revision N means having seen
//! everything up to N. Progress therefore needs no word of etcd's, which is wrong in versions before 3.4.31 and 3.5.13.

use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::once;
use skiff_meta::world::WorldExt;
use tokio::sync::oneshot;
use tonic::metadata::MetadataValue;
use tonic::{Request, Status, Streaming};

use super::convert::{Fault, signed, unsigned};
use super::link::Link;
use crate::contract::Revision;
use crate::proto::etcdserverpb::watch_client::WatchClient;
use crate::proto::etcdserverpb::watch_request::RequestUnion;
use crate::proto::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse};
use crate::proto::mvccpb::Event;

/// How long a member has to begin a watch.
const BEGIN: Duration = Duration::from_secs(4);
/// Pause before the next attempt, the first and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// What was to come next has been compacted.
#[derive(Debug)]
pub(crate) struct Overtaken;

/// A position in the history, and the stream that moves it on.
pub(crate) struct Follow {
    link: Arc<Link>,
    /// Everything up to here has been told.
    told: Revision,
    stream: Option<Open>,
    pause: Duration,
    /// After which revision events were missing, to try again only once.
    gap: Option<Revision>,
}

/// A watch of etcd's.
struct Open {
    answers: Streaming<WatchResponse>,
    generation: u64,
    /// The stream of requests, and with it the watch, ends when this is dropped.
    _requests: oneshot::Sender<()>,
}

impl Follow {
    /// Follows what happens after `told`, which is at least 1: there never is a change at revision 1.
    /// If etcd cannot be reached now, the first call of [`Follow::next`] tries again.
    pub(crate) async fn begin(link: Arc<Link>, told: Revision) -> Self {
        let mut follow = Self { link, told: told.max(1), stream: None, pause: PAUSE.0, gap: None };
        follow.stream = follow.open().await.ok();
        follow
    }

    /// Everything up to here has been told.
    pub(crate) fn told(&self) -> Revision {
        self.told
    }

    /// The next changes: whole revisions, each once, in order. Survives lost connections; nothing is lost if the future
    /// is dropped before it is done.
    pub(crate) async fn next(&mut self) -> Result<Vec<Event>, Overtaken> {
        loop {
            let answer = match &mut self.stream {
                Some(open) => open.answers.message().await,
                None => match self.open().await {
                    Ok(open) => {
                        self.stream = Some(open);
                        continue;
                    }
                    Err(status) => Err(status),
                },
            };
            match answer {
                Ok(Some(answer)) if answer.canceled && answer.compact_revision > 0 => return Err(Overtaken),
                Ok(Some(answer)) if !answer.canceled => {
                    let events = self.take(answer.events);
                    if !events.is_empty() {
                        return Ok(events);
                    }
                }
                Ok(Some(answer)) => self.interrupted(&answer.cancel_reason).await,
                Ok(None) => self.interrupted("it ended").await,
                Err(status) => self.interrupted(status.message()).await,
            }
        }
    }

    async fn open(&self) -> Result<Open, Status> {
        let unavailable = |fault: Fault| Status::unavailable(format!("{fault:?}"));
        let chosen = self.link.chosen().await.map_err(unavailable)?;
        let create = WatchCreateRequest {
            key: Bytes::from_static(b"\0"),
            range_end: Bytes::from_static(b"\0"),
            start_revision: signed(self.told + 1),
            prev_kv: true,
            ..WatchCreateRequest::default()
        };
        let first = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        let (requests, end) = oneshot::channel::<()>();
        let mut request = Request::new(once(ready(first)).chain(once(end).filter_map(|_| ready(None))));
        // A member that is cut off from the others then ends the watch instead of keeping silent.
        request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
        let mut client = WatchClient::new(chosen.channel).max_decoding_message_size(usize::MAX);
        let begun = self.link.world.timeout(BEGIN, client.watch(request)).await;
        let begun = begun.unwrap_or_else(|| Err(Status::deadline_exceeded("no answer")));
        match begun {
            Ok(answers) => {
                Ok(Open { answers: answers.into_inner(), generation: chosen.generation, _requests: requests })
            }
            Err(status) => {
                self.link.discard(chosen.generation).await;
                Err(status)
            }
        }
    }

    async fn interrupted(&mut self, why: &str) {
        tracing::warn!(after = self.told, "etcd's watch was interrupted and goes on in a moment: {why}");
        let pause = self.pause;
        self.pause = (pause * 2).min(PAUSE.1);
        if let Some(open) = self.stream.take() {
            self.link.discard(open.generation).await;
        }
        self.link.world.sleep(pause).await;
    }

    /// What of `events` is new. Versions of etcd repeat some after a member has been restored from a snapshot.
    fn take(&mut self, mut events: Vec<Event>) -> Vec<Event> {
        let revision = |event: &Event| event.kv.as_ref().map_or(0, |kv| unsigned(kv.mod_revision));
        events.retain(|event| revision(event) > self.told);
        let (mut told, mut whole) = (self.told, 0);
        for event in &events {
            let next = revision(event);
            if next > told + 1 && self.gap != Some(told) {
                // From here on the stream is not to be trusted; it begins anew after what is certain.
                tracing::warn!("etcd's watch went from revision {told} to {next}; asking again");
                self.gap = Some(told);
                self.stream = None;
                break;
            }
            told = next;
            whole += 1;
        }
        events.truncate(whole);
        if told > self.told {
            self.told = told;
            self.pause = PAUSE.0;
        }
        events
    }
}
