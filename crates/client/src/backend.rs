//! What a [`crate::Client`] stands on: requests, and the one list-watch source.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use skiff_meta::{GroupVersionResource, Object, Status};

/// A response's body, possibly endless (logs, watches).
pub type Body = UnsyncBoxBody<Bytes, BodyError>;

/// A body broke off.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// Why a call failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ClientError {
    /// The server said no.
    #[error("{0}")]
    Api(#[from] Status),
    /// The server was not reached, or broke off.
    #[error("{0}")]
    Transport(String),
    /// The answer is not what the API promises.
    #[error("the server's answer cannot be read: {0}")]
    BadAnswer(String),
    /// The kubeconfig or another input of the client is wrong.
    #[error("{0}")]
    Config(String),
}

impl ClientError {
    /// The status' reason, empty for other errors.
    pub fn reason(&self) -> &str {
        match self {
            Self::Api(status) => &status.reason,
            _ => "",
        }
    }
    /// No such object.
    pub fn is_not_found(&self) -> bool {
        self.reason() == "NotFound"
    }
    /// Somebody else was faster.
    pub fn is_conflict(&self) -> bool {
        self.reason() == "Conflict"
    }
    /// The name is taken.
    pub fn is_already_exists(&self) -> bool {
        self.reason() == "AlreadyExists"
    }
}

/// Which objects to list and watch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ListTarget {
    /// Group, version, resource.
    pub resource: GroupVersionResource,
    /// One namespace; empty: all, or a cluster-scoped resource.
    pub namespace: String,
    /// Which of them.
    pub selection: Selection,
}

/// Selectors, in the form of the query string.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Selection {
    /// `labelSelector`, empty: all.
    pub labels: String,
    /// `fieldSelector`, empty: all.
    pub fields: String,
}

/// What the list-watch source tells.
#[derive(Clone, Debug)]
pub enum Event {
    /// Everything there is, at the beginning and again whenever the source had to start anew: whatever is not in it
    /// is gone.
    Replace(Vec<Arc<Object>>),
    /// An object is there, or has changed, or came into the selection.
    Apply(Arc<Object>),
    /// An object is gone or left the selection; its last state.
    Delete(Arc<Object>),
}

/// How requests reach the API server.
pub trait Backend: Send + Sync + 'static {
    /// One request; the path and query of its URI count, scheme and host do not. The answer's body may be endless.
    /// A `Status` answer is not an error here.
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'static, Result<Response<Body>, ClientError>>;

    /// Lists, then watches, for ever: every change exactly once and in order per object. Breaks, expired versions and
    /// refusals are dealt with inside, with back-off, so the stream neither ends nor fails; what went wrong is logged.
    fn list_watch(&self, target: ListTarget) -> BoxStream<'static, Event>;

    /// For components on the same machine that need a raw connection (exec, port-forward): the HTTPS address and
    /// credentials, where the backend has any.
    fn remote(&self) -> Option<Arc<crate::config::Remote>>;
}
