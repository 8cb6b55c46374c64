//! Notes what a component was refused, so that a test can insist on nothing having been refused to anybody.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use parking_lot::Mutex;
use skiff_client::config::Remote;
use skiff_client::{Backend, Body, ClientError, Event, ListTarget};

/// What was noted; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Notes {
    refused: Arc<Mutex<Vec<String>>>,
    waiting: Arc<Mutex<BTreeSet<String>>>,
}

impl Notes {
    /// What was forbidden to whom, in order.
    pub fn refused(&self) -> Vec<String> {
        self.refused.lock().clone()
    }

    /// List-watches that have not told anything yet: either they have just begun, or they are refused again and again.
    pub fn waiting(&self) -> Vec<String> {
        self.waiting.lock().iter().cloned().collect()
    }

    /// Those who wait are no more.
    pub(crate) fn forget_waiting(&self) {
        self.waiting.lock().clear();
    }

    /// `inner`, watched; `user` is the name in the notes.
    pub fn watch(&self, inner: Arc<dyn Backend>, user: &str) -> Arc<dyn Backend> {
        Arc::new(Witness { inner, user: user.to_owned(), notes: self.clone() })
    }
}

struct Witness {
    inner: Arc<dyn Backend>,
    user: String,
    notes: Notes,
}

impl Backend for Witness {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'static, Result<Response<Body>, ClientError>> {
        let what = format!("{} {} {}", self.user, request.method(), request.uri());
        let (sent, notes) = (self.inner.send(request), self.notes.clone());
        Box::pin(async move {
            let response = sent.await?;
            if response.status() != StatusCode::FORBIDDEN {
                return Ok(response);
            }
            let (parts, body) = response.into_parts();
            let body = body.collect().await.map_err(|e| ClientError::Transport(e.to_string()))?.to_bytes();
            notes.refused.lock().push(format!("{what}: {}", String::from_utf8_lossy(&body)));
            Ok(Response::from_parts(parts, Full::new(body).map_err(|never| match never {}).boxed_unsync()))
        })
    }

    fn list_watch(&self, target: ListTarget) -> BoxStream<'static, Event> {
        let what = format!("{} {target:?}", self.user);
        self.notes.waiting.lock().insert(what.clone());
        let notes = self.notes.clone();
        let told = move |_: &Event| {
            notes.waiting.lock().remove(&what);
        };
        self.inner.list_watch(target).inspect(told).boxed()
    }

    fn remote(&self) -> Option<Arc<Remote>> {
        self.inner.remote()
    }
}
