//! WATCH: what is selected, as it changes.
//!
//! The stream reads a subscription of the cache. Each event was encoded once, by whoever came first, and is shared by
//! all watchers; a watcher that stays behind finds its stream ended and starts anew.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures::{FutureExt, StreamExt};
use http::{HeaderValue, Response, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::upgrade::OnUpgrade;
use serde_json::{Value, json};
use skiff_client::{Body, BodyError};
use skiff_meta::check::zero_struct;
use skiff_meta::{Object, Status};

use super::get::PATIENCE;
use crate::api::Api;
use crate::cache::{Event, EventType, Start, Subscription, TooOld, frame};
use crate::call::{Answer, Call};
use crate::conversion::Webhook;
use crate::error;
use crate::proxy::websocket;
use crate::request::{Encoding, ListOptions, Shape};
use crate::respond::shape::Include;
use crate::respond::{self, encode};
use crate::select::Selection;

/// How long a watch lasts at least, in seconds, when the client does not say; up to twice that (upstream's figures).
const LASTS: u64 = 1_800;
/// Pause between bookmarks.
const BOOKMARKS: Duration = Duration::from_secs(60);
/// Bytes gathered into one chunk.
const CHUNK: usize = 64 << 10;

/// Watches; over a WebSocket where the client wants to have its connection, `client`, for one.
pub(crate) async fn watch(call: &mut Call, client: Option<OnUpgrade>) -> Result<Answer, Status> {
    let options = ListOptions::parse(&call.query)?;
    let cache = call.cache()?;
    let mut selection = Selection::new(&call.served, &cache, call.namespace(), &options)?;
    if !call.target.selected_name.is_empty() {
        selection = selection.only(&call.target.selected_name);
    }
    let start = start(call, &options).await?;
    let writer = FrameWriter::new(call)?;
    let reached = call.api.feed.revision();
    let started = cache.watch(start, selection.lane(&cache));
    call.check_all_readable()?;
    let frames = match started {
        // No event has that form: the first one ends the watch.
        Ok(_) if call.accept.shape == Shape::Mistaken => Body::default(),
        Ok(mut subscription) => {
            if let Some(state) = subscription.state.take() {
                subscription.state = Some(call.stretch(state).await?);
            }
            let seconds = options.timeout_seconds.unwrap_or_else(|| LASTS + call.api.world.random() % LASTS);
            Watcher {
                api: call.api.clone(),
                selection,
                writer,
                reached: reached.max(subscription.revision),
                after: match start {
                    Start::State => 0,
                    Start::After(revision) => revision,
                },
                lasts: Duration::from_secs(seconds),
                bookmarks: options.bookmarks,
                permit: std::mem::take(&mut call.permit),
                // Whoever begins with the state and knows bookmarks is told its end, asked for or not (as upstream).
                end_of_state: matches!(start, Start::State) && options.bookmarks,
            }
            .run(subscription)
        }
        Err(TooOld { oldest }) => {
            let asked = options.version.unwrap_or(0);
            let status = Status::expired(format!("too old resource version: {asked} ({oldest})"));
            let line = writer.status(&status);
            StreamBody::new(futures::stream::iter([Ok::<_, BodyError>(Frame::data(line))])).boxed_unsync()
        }
    };
    if websocket::is_wanted(&call.headers) {
        let text = call.accept.encoding != Encoding::Protobuf;
        return websocket::watch(&call.headers, frames, text, client, &call.api.world).map(Answer::Raw);
    }
    let mut response = Response::new(frames);
    let content_type = HeaderValue::from_static(call.accept.encoding.stream_type());
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    Ok(Answer::Raw(response))
}

/// Where a watch begins, and until the cache is there.
async fn start(call: &Call, options: &ListOptions) -> Result<Start, Status> {
    let with_state = options.initial_events == Some(true);
    match options.version {
        None => {
            let newest = call.catch_up().await?;
            Ok(if options.initial_events == Some(false) { Start::After(newest) } else { Start::State })
        }
        Some(version) if with_state => {
            call.api.feed.reach(version, PATIENCE).await.map_err(|late| error::catch_up(&late.into()))?;
            Ok(Start::State)
        }
        Some(0) if options.initial_events.is_none() => Ok(Start::State),
        Some(0) => Ok(Start::After(call.api.feed.revision())),
        Some(version) => Ok(Start::After(version)),
    }
}

/// Puts events into the bytes a client understands.
pub(crate) struct FrameWriter {
    version: Arc<crate::resource::Version>,
    /// Who has to make events ones of this version.
    webhook: Option<Arc<Webhook>>,
    accept: crate::request::Accept,
    include: Include,
    api: Arc<Api>,
    key: u64,
    /// Whether a table has told its columns, as only the first one does.
    headed: AtomicBool,
}

impl FrameWriter {
    fn new(call: &Call) -> Result<Self, Status> {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let include = match call.accept.shape {
            Shape::Table => Include::parse(call.query.text("includeObject"))?,
            Shape::Whole | Shape::Metadata | Shape::Mistaken => Include::None,
        };
        let version = call.served.version.clone();
        let mut hasher = DefaultHasher::new();
        (&version.api_version, call.accept.encoding, call.accept.shape, include).hash(&mut hasher);
        let api = call.api.clone();
        let webhook = call.served.resource.webhook.clone();
        Ok(Self {
            version,
            webhook,
            accept: call.accept,
            include,
            api,
            key: hasher.finish(),
            headed: AtomicBool::default(),
        })
    }

    fn is_plain(&self) -> bool {
        let accept = crate::request::Accept { pretty: false, ..self.accept };
        respond::is_plain(accept) && self.version.conversion.is_same()
    }

    /// The event in this version; else how the watch ends.
    async fn in_version(&self, event: Arc<Event>) -> Result<Arc<Event>, Bytes> {
        let Some(webhook) = &self.webhook else { return Ok(event) };
        let found = self.api.event_in(webhook, &event, &self.version.api_version).await;
        found.map_err(|status| self.status(&status))
    }

    fn event(&self, event: &Event, ty: EventType) -> Bytes {
        if self.is_plain() {
            return event.json(ty);
        }
        let headed = self.head();
        event.encoded(ty, self.key ^ u64::from(headed), |object| self.shape(ty, object, headed))
    }

    /// Whether the columns have been told; they are from now on.
    fn head(&self) -> bool {
        self.accept.shape == Shape::Table && self.headed.swap(true, Relaxed)
    }

    fn object(&self, ty: EventType, object: &Object) -> Bytes {
        if self.is_plain() {
            return frame(ty, object);
        }
        self.shape(ty, object, self.head())
    }

    fn shape(&self, ty: EventType, object: &Object, headed: bool) -> Bytes {
        match object.to_value() {
            Ok(mut tree) => {
                self.version.conversion.to_served(&mut tree);
                self.tree(ty.as_str(), self.shaped(tree, headed))
            }
            Err(error) => self.status(&Status::internal(error)),
        }
    }

    fn shaped(&self, tree: Value, headed: bool) -> Value {
        match self.accept.shape {
            Shape::Whole | Shape::Mistaken => tree,
            Shape::Metadata => respond::shape::metadata_only(&tree),
            Shape::Table => {
                let revision = tree.pointer("/metadata/resourceVersion").cloned();
                let row = respond::shape::row(&self.version, tree, self.include, self.api.world.now());
                let mut table = respond::shape::table(&self.version, json!({"resourceVersion": revision}), vec![row]);
                if headed {
                    table["columnDefinitions"] = Value::Null;
                }
                table
            }
        }
    }

    fn tree(&self, ty: &str, tree: Value) -> Bytes {
        encode::event(ty, &tree, self.accept).unwrap_or_else(|status| self.status(&status))
    }

    fn status(&self, status: &Status) -> Bytes {
        let tree = serde_json::to_value(status).unwrap_or_default();
        encode::event("ERROR", &tree, self.accept).unwrap_or_default()
    }

    /// A bookmark: an object with nothing but a resourceVersion, annotated when it ends the initial events.
    fn bookmark(&self, revision: u64, ends_initial_events: bool) -> Bytes {
        let mut tree = zero_struct(self.version.root());
        tree["kind"] = json!(self.version.gvk.kind);
        tree["apiVersion"] = json!(self.version.api_version);
        tree["metadata"] = json!({"resourceVersion": revision.to_string()});
        if ends_initial_events {
            tree["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        self.tree("BOOKMARK", self.shaped(tree, self.head()))
    }
}

struct Watcher {
    api: Arc<Api>,
    selection: Selection,
    writer: FrameWriter,
    /// What the state at the beginning is true at.
    reached: u64,
    after: u64,
    lasts: Duration,
    bookmarks: bool,
    end_of_state: bool,
    /// Kept until the state is told.
    permit: crate::flow::Permit,
}

impl Watcher {
    fn run(self, subscription: Subscription) -> Body {
        // Clients that count empty frames of HTTP/2 (as h2, and so kube-rs, does) leave after a hundred of them.
        let told = self.frames(subscription).filter(|bytes| futures::future::ready(!bytes.is_empty()));
        StreamBody::new(told.map(|bytes| Ok::<_, BodyError>(Frame::data(bytes)))).boxed_unsync()
    }

    /// What the event means for this watcher, as bytes; else how the watch ends.
    async fn told(&self, event: Arc<Event>) -> Result<Option<Bytes>, Bytes> {
        if event.revision() <= self.after {
            return Ok(None);
        }
        let event = self.writer.in_version(event).await?;
        let ty = event.seen_through(|entry| self.selection.matches(entry));
        Ok(ty.map(|ty| self.writer.event(&event, ty)))
    }

    fn frames(mut self, mut subscription: Subscription) -> impl futures::Stream<Item = Bytes> + Send + use<> {
        async_stream::stream! {
            for bytes in self.state(&mut subscription) {
                yield bytes;
            }
            // What is there is told; from here on the watch costs what happens.
            drop(std::mem::take(&mut self.permit));
            for event in std::mem::take(&mut subscription.backlog) {
                match self.told(event).await {
                    Ok(Some(bytes)) => yield bytes,
                    Ok(None) => {}
                    Err(end) => { yield end; return; }
                }
            }
            let mut end = self.api.world.sleep(self.lasts).fuse();
            let mut tick = self.api.world.sleep(BOOKMARKS).fuse();
            loop {
                futures::select_biased! {
                    () = end => {
                        yield self.catch_up(&mut subscription).await.unwrap_or_else(|end| end);
                        break;
                    }
                    () = tick => {
                        tick = self.api.world.sleep(BOOKMARKS).fuse();
                        match self.catch_up(&mut subscription).await {
                            Ok(bytes) => yield bytes,
                            Err(end) => { yield end; break; }
                        }
                    }
                    event = subscription.events.recv().fuse() => {
                        // The end of the queue means that this watcher was cut off.
                        let Some(event) = event else { break };
                        match self.gather(event, &mut subscription).await {
                            Ok(bytes) if bytes.is_empty() => {}
                            Ok(bytes) => yield bytes,
                            Err(end) => { yield end; break; }
                        }
                    }
                }
            }
        }
    }

    /// What is there, in chunks made as they are sent, and the bookmark after it.
    fn state<'a>(&'a self, subscription: &mut Subscription) -> impl Iterator<Item = Bytes> + Send + use<'a> {
        let state = subscription.state.take();
        let mut at = state.as_ref().map(|s| s.place(""));
        let mut done = state.is_none();
        std::iter::from_fn(move || {
            let (items, at) = (state.as_ref()?, at.as_mut()?);
            if done {
                return None;
            }
            let mut gathered = BytesMut::new();
            while gathered.len() < CHUNK {
                match items.step(at, items.end()) {
                    Some(entry) if self.selection.matches(entry) => {
                        gathered.put_slice(&self.writer.object(EventType::Added, entry.object()));
                    }
                    Some(_) => {}
                    None => {
                        done = true;
                        if self.end_of_state {
                            gathered.put_slice(&self.writer.bookmark(self.reached, true));
                        }
                        break;
                    }
                }
            }
            Some(gathered.freeze())
        })
    }

    /// All that waits, and a bookmark where wanted. Every event up to the feed's revision is in the queue before the
    /// feed says so, so the bookmark promises nothing that was not sent.
    async fn catch_up(&self, subscription: &mut Subscription) -> Result<Bytes, Bytes> {
        let reached = self.api.feed.revision();
        let mut all = BytesMut::new();
        while let Ok(event) = subscription.events.try_recv() {
            all.put_slice(&self.told(event).await?.unwrap_or_default());
        }
        // Cut off: what was lost must not be promised.
        if self.bookmarks && !subscription.events.is_closed() {
            all.put_slice(&self.writer.bookmark(reached, false));
        }
        Ok(all.freeze())
    }

    /// The event and what waits behind it in one chunk; a single frame is passed on uncopied.
    async fn gather(&self, event: Arc<Event>, subscription: &mut Subscription) -> Result<Bytes, Bytes> {
        let mut first = self.told(event).await?.unwrap_or_default();
        let mut all = BytesMut::new();
        while all.len() < CHUNK
            && let Ok(event) = subscription.events.try_recv()
        {
            let Some(more) = self.told(event).await? else { continue };
            all.put_slice(&std::mem::take(&mut first));
            all.put_slice(&more);
        }
        Ok(if all.is_empty() { first } else { all.freeze() })
    }
}
