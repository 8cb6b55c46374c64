//! A cluster and a world for tests.

#![allow(clippy::expect_used, reason = "helpers of tests fail as tests do")]

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use http::{Request, Response};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use serde_json::Value;
use skiff_client::config::Remote;
use skiff_client::{Backend, Body, Client, ClientError, Event, ListTarget};
use skiff_meta::world::Task;
use skiff_meta::{Object, World, WorldRef};

/// A world in which no time passes by itself and waiting takes no time.
pub(crate) struct Hurry(Mutex<Duration>);

impl Hurry {
    pub(crate) fn shared() -> WorldRef {
        Arc::new(Self(Mutex::default()))
    }
}

impl World for Hurry {
    fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::UNIX_EPOCH
    }
    fn elapsed(&self) -> Duration {
        *self.0.lock()
    }
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        *self.0.lock() += duration;
        async {}.boxed()
    }
    fn spawn(&self, _name: &'static str, task: BoxFuture<'static, ()>) -> Task {
        task.now_or_never().expect("tasks that wait need the real world");
        Task::new(|| {}, async {}.boxed())
    }
    fn random(&self) -> u64 {
        0
    }
}

/// An API server of which each resource is a channel; requests are kept, and refused as often as wanted.
#[derive(Default)]
pub(crate) struct Cluster {
    sources: Mutex<HashMap<String, UnboundedReceiver<Event>>>,
    pub(crate) requests: Mutex<Vec<(String, Value)>>,
    pub(crate) refusals: Mutex<usize>,
}

impl Cluster {
    /// The sending end of a resource, to be made before it is watched.
    pub(crate) fn source(&self, resource: &str) -> UnboundedSender<Event> {
        let (sender, receiver) = unbounded();
        self.sources.lock().insert(resource.to_owned(), receiver);
        sender
    }

    pub(crate) fn client(self: &Arc<Self>) -> Client {
        Client::new(self.clone())
    }
}

impl Backend for Cluster {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'static, Result<Response<Body>, ClientError>> {
        let path = format!("{} {}", request.method(), request.uri());
        let body: Value = serde_json::from_slice(request.body()).unwrap_or_default();
        let mut refusals = self.refusals.lock();
        if *refusals > 0 {
            *refusals -= 1;
            return async { Err(ClientError::Transport("made to fail".to_owned())) }.boxed();
        }
        let answer = Bytes::from(body.to_string());
        self.requests.lock().push((path, body));
        let body = http_body_util::Full::new(answer).map_err(|never| match never {}).boxed_unsync();
        async { Ok(Response::new(body)) }.boxed()
    }
    fn list_watch(&self, target: ListTarget) -> BoxStream<'static, Event> {
        self.sources.lock().remove(&target.resource.resource).expect("a source for the resource").boxed()
    }
    fn remote(&self) -> Option<Arc<Remote>> {
        None
    }
}

/// An object as the wire has it.
pub(crate) fn object(value: Value) -> Arc<Object> {
    Arc::new(Object::from_wire(value).expect("an object with a uid"))
}
