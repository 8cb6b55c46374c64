//! The Watch service: many watches on one stream.
//!
//! One loop per stream takes requests, changes and the clock in turn, so what is told is in the order in which it was
//! found out. Progress is told when every watch concerned has itself told how far it is: whoever hears of a revision has
//! heard of every change up to it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{self, AbortHandle, Abortable, BoxStream, SelectAll, StreamExt, abortable};
use prost::Message;
use tonic::{Request, Response, Status, Streaming};

use super::status;
use super::{Face, header, keys, pair};
use crate::contract::{Change, KeyValue, Revision, StoreError, WatchItem, WatchQuery};
use crate::proto::{etcdserverpb as pb, mvccpb};
use pb::watch_create_request::FilterType;
use pb::watch_request::RequestUnion;

/// How often watches that asked for it are told how far they are; what upstream's API server is run with.
const PROGRESS: Duration = Duration::from_secs(5);
/// Answers larger than this are split where the client said it puts them together again; etcd's figure.
const FRAGMENT: usize = 2 << 20;
/// In place of a watch's name: all of the stream, or none.
const NO_WATCH: i64 = -1;

type Items = BoxStream<'static, (i64, Result<WatchItem, StoreError>)>;

#[tonic::async_trait]
impl pb::watch_server::Watch for Face {
    type WatchStream = BoxStream<'static, Result<pb::WatchResponse, Status>>;

    async fn watch(
        &self,
        request: Request<Streaming<pb::WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let session = Session {
            tick: self.shared.world.sleep(PROGRESS),
            face: self.clone(),
            requests: Some(request.into_inner()),
            items: SelectAll::new(),
            watches: BTreeMap::new(),
            answers: VecDeque::new(),
            asked: None,
            next: 0,
        };
        let answers = stream::unfold(session, |mut session| async move {
            let answer = session.answer().await?;
            Some((answer, session))
        });
        Ok(Response::new(answers.boxed()))
    }
}

struct Session {
    face: Face,
    /// `None` once the client will ask for nothing more.
    requests: Option<Streaming<pb::WatchRequest>>,
    items: SelectAll<Abortable<Items>>,
    watches: BTreeMap<i64, Watching>,
    answers: VecDeque<pb::WatchResponse>,
    /// The client waits until all watches are this far.
    asked: Option<Revision>,
    /// The next name.
    next: i64,
    tick: BoxFuture<'static, ()>,
}

/// One watch.
struct Watching {
    stop: AbortHandle,
    /// The first revision that is told.
    from: Revision,
    /// Everything up to here has been told.
    through: Revision,
    wants: pb::WatchCreateRequest,
    /// It is time to say how far it is.
    is_due: bool,
    /// It has said something since the last tick.
    was_heard: bool,
}

impl Session {
    async fn answer(&mut self) -> Option<Result<pb::WatchResponse, Status>> {
        loop {
            if let Some(answer) = self.answers.pop_front() {
                return Some(Ok(answer));
            }
            if self.requests.is_none() && self.watches.is_empty() {
                return None;
            }
            let requests = &mut self.requests;
            let request = async {
                match requests {
                    Some(requests) => requests.next().await,
                    None => std::future::pending().await,
                }
            };
            let items = &mut self.items;
            let item = async {
                // A set of streams without any has ended, which means nothing here.
                match items.next().await {
                    Some(item) => item,
                    None => std::future::pending().await,
                }
            };
            let done = tokio::select! {
                request = request => match request {
                    Some(Ok(pb::WatchRequest { request_union: Some(request) })) => self.request(request).await,
                    Some(Ok(_)) => Ok(()),
                    Some(Err(error)) => Err(error),
                    None => {
                        self.requests = None;
                        Ok(())
                    }
                },
                (id, item) = item => self.item(id, item),
                () = &mut self.tick => self.tick().await,
            };
            if let Err(error) = done {
                return Some(Err(error));
            }
        }
    }

    async fn request(&mut self, request: RequestUnion) -> Result<(), Status> {
        match request {
            RequestUnion::CreateRequest(create) => self.create(create).await,
            RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id }) => {
                if let Some(watching) = self.watches.remove(&watch_id) {
                    watching.stop.abort();
                    let header = self.face.header().await?;
                    self.answers.push_back(pb::WatchResponse {
                        header,
                        watch_id,
                        canceled: true,
                        ..Default::default()
                    });
                    self.tell_progress();
                }
                Ok(())
            }
            RequestUnion::ProgressRequest(_) => {
                let newest = self.face.store.revision().await.map_err(status::store)?;
                if !self.watches.is_empty() {
                    self.asked = Some(newest);
                    self.face.store.request_progress().await.map_err(status::store)?;
                    self.tell_progress();
                }
                Ok(())
            }
        }
    }

    async fn create(&mut self, mut wants: pb::WatchCreateRequest) -> Result<(), Status> {
        if wants.key.is_empty() {
            // The smallest key there can be.
            wants.key = vec![0].into();
        }
        let newest = self.face.store.revision().await.map_err(status::store)?;
        let created = pb::WatchResponse { header: header(newest), created: true, ..Default::default() };
        let refusal = |reason: &str, compacted: i64| pb::WatchResponse {
            watch_id: NO_WATCH,
            canceled: true,
            compact_revision: compacted,
            cancel_reason: reason.to_owned(),
            ..created.clone()
        };
        if wants.start_revision < 0 {
            self.answers.push_back(refusal(status::COMPACTED.1, 0));
            return Ok(());
        }
        let id = match wants.watch_id {
            0 => self.free_name(),
            wanted if wanted < 0 || self.watches.contains_key(&wanted) => {
                self.answers.push_back(refusal("mvcc: duplicate watch ID provided on the WatchStream", 0));
                return Ok(());
            }
            wanted => wanted,
        };
        // A watch may begin in the future: it begins now, and is silent until then.
        let from = if wants.start_revision == 0 { newest + 1 } else { wants.start_revision as Revision };
        let after = (from - 1).min(newest);
        let query = WatchQuery { keys: keys(&wants.key, &wants.range_end), after: Some(after) };
        match self.face.store.watch(query).await {
            Ok(items) => {
                let named: Items = items.map(move |item| (id, item)).boxed();
                let (items, stop) = abortable(named);
                self.items.push(items);
                let (is_due, was_heard) = (false, false);
                self.watches.insert(id, Watching { stop, from, through: after, wants, is_due, was_heard });
                self.answers.push_back(pb::WatchResponse { watch_id: id, ..created });
            }
            Err(StoreError::Compacted { oldest }) => {
                // Created and cancelled at once, as etcd does it.
                self.answers.push_back(pb::WatchResponse { watch_id: id, ..created });
                self.cancel(id, newest, oldest);
            }
            Err(error) => return Err(status::store(error)),
        }
        Ok(())
    }

    /// Names count up from 0.
    fn free_name(&mut self) -> i64 {
        while self.watches.contains_key(&self.next) {
            self.next += 1;
        }
        self.next += 1;
        self.next - 1
    }

    /// What it wanted is gone; from the revision after the oldest it can begin anew.
    fn cancel(&mut self, watch_id: i64, now: Revision, oldest: Revision) {
        self.answers.push_back(pb::WatchResponse {
            header: header(now),
            watch_id,
            canceled: true,
            compact_revision: oldest as i64 + 1,
            cancel_reason: status::COMPACTED.1.to_owned(),
            ..Default::default()
        });
    }

    fn item(&mut self, id: i64, item: Result<WatchItem, StoreError>) -> Result<(), Status> {
        let Some(watching) = self.watches.get_mut(&id) else { return Ok(()) };
        match item {
            Ok(WatchItem::Changes(changes)) => {
                watching.through = changes.last().map_or(watching.through, revision_of);
                let now = header(watching.through);
                let events: Vec<_> = changes.into_iter().filter_map(|change| watching.event(change)).collect();
                watching.was_heard |= !events.is_empty();
                let whole = pb::WatchResponse { header: now, watch_id: id, events, ..Default::default() };
                if !whole.events.is_empty() {
                    self.answers.extend(fragments(whole, if watching.wants.fragment { FRAGMENT } else { usize::MAX }));
                }
            }
            Ok(WatchItem::Progress(revision)) => {
                watching.through = watching.through.max(revision);
                if std::mem::take(&mut watching.is_due) && watching.through >= watching.from - 1 {
                    let header = header(watching.through);
                    self.answers.push_back(pb::WatchResponse { header, watch_id: id, ..Default::default() });
                }
            }
            Err(StoreError::Lagged(told)) => {
                self.watches.remove(&id);
                self.cancel(id, told, told);
            }
            Err(error) => return Err(status::store(error)),
        }
        self.tell_progress();
        Ok(())
    }

    /// Answers a request for progress once all watches are there.
    fn tell_progress(&mut self) {
        let reached = self.watches.values().map(|watching| watching.through).min();
        if let (Some(asked), Some(reached)) = (self.asked, reached)
            && reached >= asked
        {
            self.asked = None;
            let header = header(reached);
            self.answers.push_back(pb::WatchResponse { header, watch_id: NO_WATCH, ..Default::default() });
        }
    }

    /// Lets watches that wanted to be told, and were told nothing since the last tick, say how far they are.
    async fn tick(&mut self) -> Result<(), Status> {
        self.tick = self.face.shared.world.sleep(PROGRESS);
        let mut any = false;
        for watching in self.watches.values_mut() {
            let was_heard = std::mem::take(&mut watching.was_heard);
            watching.is_due = watching.wants.progress_notify && !was_heard;
            any |= watching.is_due;
        }
        if any {
            self.face.store.request_progress().await.map_err(status::store)?;
        }
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.watches.values().for_each(|watching| watching.stop.abort());
    }
}

fn revision_of(change: &Change) -> Revision {
    match change {
        Change::Put { current, .. } => current.modified,
        Change::Delete { revision, .. } => *revision,
    }
}

impl Watching {
    /// A change as the client wants it, if it does.
    fn event(&self, change: Change) -> Option<mvccpb::Event> {
        let leaves_out = |filter: FilterType| self.wants.filters.contains(&(filter as i32));
        if revision_of(&change) < self.from {
            return None;
        }
        let (kind, kv, previous) = match change {
            Change::Put { .. } if leaves_out(FilterType::Noput) => return None,
            Change::Delete { .. } if leaves_out(FilterType::Nodelete) => return None,
            Change::Put { current, previous } => (mvccpb::event::EventType::Put, pair(current), previous),
            Change::Delete { key, revision, previous, .. } => {
                let kv = mvccpb::KeyValue { key, mod_revision: revision as i64, ..Default::default() };
                (mvccpb::event::EventType::Delete, kv, previous)
            }
        };
        let prev_kv = previous.filter(|_: &KeyValue| self.wants.prev_kv).map(pair);
        Some(mvccpb::Event { r#type: kind as i32, kv: Some(kv), prev_kv })
    }
}

/// Splits an answer into parts of about `limit` bytes, all but the last marked as such.
fn fragments(mut whole: pb::WatchResponse, limit: usize) -> Vec<pb::WatchResponse> {
    let mut parts = Vec::new();
    let (mut part, mut size) = (Vec::new(), 0);
    for event in std::mem::take(&mut whole.events) {
        let length = event.encoded_len();
        if !part.is_empty() && size + length > limit {
            let events = std::mem::take(&mut part);
            parts.push(pb::WatchResponse { events, fragment: true, ..whole.clone() });
            size = 0;
        }
        size += length;
        part.push(event);
    }
    parts.push(pb::WatchResponse { events: part, ..whole });
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_answers_are_split() {
        let event = |size: usize| {
            let kv = mvccpb::KeyValue { value: vec![1; size].into(), ..Default::default() };
            mvccpb::Event { kv: Some(kv), ..Default::default() }
        };
        let whole = |sizes: &[usize]| pb::WatchResponse {
            watch_id: 7,
            events: sizes.iter().map(|size| event(*size)).collect(),
            ..Default::default()
        };
        for (sizes, expected) in
            [(&[][..], vec![0]), (&[10, 10], vec![2]), (&[60, 60, 60], vec![1, 1, 1]), (&[200, 10, 10], vec![1, 2])]
        {
            let parts = fragments(whole(sizes), 100);
            assert_eq!(parts.iter().map(|part| part.events.len()).collect::<Vec<_>>(), expected, "{sizes:?}");
            let (last, others) = parts.split_last().expect("one at least");
            assert!(!last.fragment && others.iter().all(|part| part.fragment && part.watch_id == 7));
        }
    }
}
