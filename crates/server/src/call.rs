//! One request on its way through the pipeline.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use jiff::Timestamp;
use serde_json::Value;
use skiff_meta::{Object, Status, TraceContext};
use skiff_store::Revision;

use crate::api::Api;
use crate::audit::Record;
use crate::cache::{Entry, ResourceCache, Sorted, namespace_range};
use crate::chain::{Notes, User};
use crate::error;
use crate::flow::Permit;
use crate::request::{Accept, Query, Target};
use crate::resource::Served;

/// An authorized request for a resource that exists.
pub(crate) struct Call {
    /// The server.
    pub(crate) api: Arc<Api>,
    /// Who.
    pub(crate) user: Arc<User>,
    /// What the path says.
    pub(crate) target: Target,
    /// The resource it means.
    pub(crate) served: Served,
    /// The query string.
    pub(crate) query: Query,
    /// The headers.
    pub(crate) headers: HeaderMap,
    /// The form of the answer.
    pub(crate) accept: Accept,
    /// The step of the story that this request is.
    pub(crate) trace: TraceContext,
    /// When the state that is shown was, where that is not now.
    pub(crate) moment: Option<Timestamp>,
    /// Said to the client beside the answer.
    pub(crate) warnings: Vec<String>,
    /// Said to the audit log by admission.
    pub(crate) annotations: BTreeMap<String, String>,
    /// What is written down of it.
    pub(crate) record: Option<Arc<Record>>,
    /// The right to be answered; whoever answers for longer than this call takes it along.
    pub(crate) permit: Permit,
}

impl Call {
    /// The resource's cache.
    pub(crate) fn cache(&self) -> Result<Arc<ResourceCache>, Status> {
        self.served.cache().cloned()
    }

    /// The same request for another object: parts of a deletecollection.
    pub(crate) fn copy(&self) -> Self {
        Self {
            api: self.api.clone(),
            user: self.user.clone(),
            target: self.target.clone(),
            served: self.served.clone(),
            query: self.query.clone(),
            headers: HeaderMap::new(),
            accept: self.accept,
            trace: self.trace,
            moment: self.moment,
            warnings: Vec::new(),
            annotations: BTreeMap::new(),
            record: None,
            permit: Permit::default(),
        }
    }

    /// Keeps what admission has said; a repeated attempt says it again.
    pub(crate) fn note(&mut self, notes: Notes) {
        let said = notes.into_said();
        for warning in said.warnings {
            if !self.warnings.contains(&warning) {
                self.warnings.push(warning);
            }
        }
        self.annotations.extend(said.annotations);
    }

    /// When the answer is true: what ages in tables count to.
    pub(crate) fn now(&self) -> Timestamp {
        self.moment.unwrap_or_else(|| self.api.world.now())
    }

    /// Namespace of the objects this is about, empty for cluster-scoped resources.
    pub(crate) fn namespace(&self) -> &str {
        if self.served.resource.namespaced { &self.target.namespace } else { "" }
    }

    /// The tail of the key of the object called `name`.
    pub(crate) fn key(&self, name: &str) -> String {
        self.served.key(self.namespace(), name)
    }

    /// Waits until the cache holds every write acknowledged so far.
    pub(crate) async fn catch_up(&self) -> Result<Revision, Status> {
        self.api.feed.catch_up().await.map_err(|e| error::catch_up(&e))
    }

    /// The object called `name` as the cache has it, which may be a moment old.
    pub(crate) fn cached(&self, name: &str) -> Result<Option<Arc<Object>>, Status> {
        let (cache, key) = (self.cache()?, self.key(name));
        cache.check_readable(&key)?;
        Ok(cache.get(&key))
    }

    /// 500 if one of the objects of this request's namespace cannot be read.
    pub(crate) fn check_all_readable(&self) -> Result<(), Status> {
        self.cache()?.check_all_readable(&self.served.key_start(self.namespace()))
    }

    /// The object called `name` as it is now.
    pub(crate) async fn current(&self, name: &str) -> Result<Option<Arc<Object>>, Status> {
        self.catch_up().await?;
        self.cached(name)
    }

    /// 400: what shall be stored has no name.
    pub(crate) fn nameless(&self) -> Status {
        let name = &self.target.name;
        Status::bad_request(format!(
            "the name of the object ({name} based on URL) was undeterminable: name must be provided"
        ))
    }

    /// 404 for `name`.
    pub(crate) fn not_found(&self, name: &str) -> Status {
        Status::not_found(self.served.id(), name)
    }

    /// An object as this request's version shows it, with its resourceVersion.
    pub(crate) async fn show(&self, object: &Arc<Object>) -> Result<Value, Status> {
        self.shown(&*self.in_version(object).await?)
    }

    /// The same for an object that no webhook needs to convert any more.
    pub(crate) fn shown(&self, object: &Object) -> Result<Value, Status> {
        self.served.shown(object)
    }

    /// An object in this request's version, where a webhook converts.
    pub(crate) async fn in_version(&self, object: &Arc<Object>) -> Result<Arc<Object>, Status> {
        self.api.object_in(&self.served, object).await
    }

    /// What is listed of a snapshot, in this request's version, where a webhook converts.
    pub(crate) async fn stretch(&self, items: Sorted<Entry>) -> Result<Sorted<Entry>, Status> {
        let Served { resource, version } = &self.served;
        let Some(webhook) = &resource.webhook else { return Ok(items) };
        let (from, to) = namespace_range(&items, resource.namespaced, self.namespace());
        self.api.stretch_in(webhook, items.range(from, to), &version.api_version).await
    }

    /// Who owns the fields this request sets: `fieldManager`, or what stands before the first slash of the user agent.
    pub(crate) fn manager(&self, given: &str) -> String {
        if !given.is_empty() {
            return given.to_owned();
        }
        let agent = self.headers.get(http::header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let name = agent.split('/').next().unwrap_or_default();
        name.chars().filter(|c| !c.is_control()).take(128).collect()
    }
}

/// What a verb answers, before it is put into bytes.
pub(crate) enum Answer {
    /// An object of the resource, from the store.
    Object(u16, Arc<Object>),
    /// A tree that is already as the client wants it: dry runs, `Scale`, tokens, `Status`.
    Tree(u16, Value),
    /// A whole response: lists, watches, connections.
    Raw(http::Response<skiff_client::Body>),
}

/// A body read whole, with its media type.
pub(crate) struct Payload {
    /// `Content-Type` without parameters.
    pub(crate) media: String,
    /// The bytes.
    pub(crate) bytes: Bytes,
}
