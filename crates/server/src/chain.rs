//! What a request passes on its way to the resource pipeline: who asks, may they, and what others have to say.
//!
//! The pipeline knows these narrow traits and nothing of certificates, tokens, RBAC or admission plug-ins, which live
//! in rooms of their own. They see the cluster through [`View`] (the server's cache), so that no check costs a read of
//! the store, and take part in a write only through [`Extra`], so that everything commits together or not at all.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use parking_lot::Mutex;
use rustls_pki_types::CertificateDer;
use serde_json::Value;
use skiff_client::Body;
use skiff_meta::schema::KindSchema;
use skiff_meta::{GroupResource, GroupVersionKind, GroupVersionResource, Object, Status};
use skiff_store::{Compare, Revision, Write};
use tokio::sync::mpsc::Receiver;

use crate::proxy::aggregate::Aggregator;

use crate::webhooks::Reinvocation;

/// Somebody known by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// `system:node:a`, `alice`, `system:serviceaccount:NAMESPACE:NAME`.
    pub name: String,
    /// Unique for ever where the source knows one (service accounts), else empty.
    pub uid: String,
    /// `system:authenticated` and others.
    pub groups: Vec<String>,
    /// What else the authenticator knows, such as the pod a token is bound to.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// A user with a name and groups only.
    pub fn new(name: impl Into<String>, groups: &[&str]) -> Self {
        let groups = groups.iter().map(|&g| g.to_owned()).collect();
        Self { name: name.into(), groups, ..Self::default() }
    }
    /// `system:anonymous`, for requests without any credentials.
    pub fn anonymous() -> Self {
        Self::new("system:anonymous", &["system:unauthenticated"])
    }
    /// Whether the user is in `group`.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }
}

/// The other end of a connection.
#[derive(Clone, Debug, Default)]
pub struct Peer {
    /// The client's certificate chain; its signature is verified, leaf first, empty when it sent none.
    pub certificates: Vec<CertificateDer<'static>>,
    /// Where it comes from.
    pub address: Option<SocketAddr>,
}

/// Whose request this is. In-process callers are bound to a user by type, never by a header.
#[derive(Clone, Debug)]
pub enum Identity {
    /// A component of this process.
    Bound(Arc<User>),
    /// Somebody on a connection, to be authenticated.
    Peer(Arc<Peer>),
}

/// Finds out who asks.
#[async_trait]
pub trait Authenticator: Send + Sync {
    /// The user behind client certificate or bearer token; anonymous requests are a user too, where their path allows it.
    ///
    /// # Errors
    /// 401 when credentials were shown and are not good.
    async fn authenticate(&self, path: &str, headers: &HeaderMap, peer: &Peer) -> Result<Arc<User>, Status>;
}

/// What somebody wants to do. `resource` is empty for paths that are no resource (`/healthz`), `path` otherwise counts
/// for nothing.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    /// Who.
    pub user: &'a User,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, or for paths the lower-case
    /// HTTP method.
    pub verb: &'a str,
    /// API group, empty for core.
    pub group: &'a str,
    /// API version.
    pub version: &'a str,
    /// Plural resource, or empty.
    pub resource: &'a str,
    /// `status`, `scale`, `log`, ... or empty.
    pub subresource: &'a str,
    /// Namespace, empty for cluster-scoped resources and across namespaces.
    pub namespace: &'a str,
    /// Name, empty for collections.
    pub name: &'a str,
    /// The `fieldSelector` of a list, watch or deletecollection, as it stands in the query; else empty.
    pub fields: &'a str,
    /// The `labelSelector` of the same.
    pub labels: &'a str,
    /// The URL's path.
    pub path: &'a str,
}

/// An authorizer's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Yes, and why.
    Allow(String),
    /// No, whatever others say.
    Deny(String),
    /// Not that I know.
    NoOpinion(String),
}

/// Decides who may do what.
#[async_trait]
pub trait Authorizer: Send + Sync {
    /// The decision; `NoOpinion` of the whole chain is a no. The text becomes part of the 403's message where not empty.
    async fn authorize(&self, attributes: &Attributes<'_>) -> Decision;
}

/// The server's cache as plug-ins see it. Reads cost no I/O and are true at [`View::revision`]; call [`View::refresh`]
/// first where a stale answer would be wrong (a refusal, mostly).
#[async_trait]
pub trait View: Send + Sync {
    /// One object of the cache; `namespace` is empty for cluster-scoped resources.
    fn get(&self, resource: &GroupResource, namespace: &str, name: &str) -> Option<Arc<Object>>;
    /// All objects of a resource, of one namespace or (empty) of all, ordered by namespace and name.
    fn list(&self, resource: &GroupResource, namespace: &str) -> Vec<Arc<Object>>;
    /// Revision of the newest change of any object of the resource: what was derived from the resource stays right
    /// until this moves.
    fn changed(&self, resource: &GroupResource) -> Revision;
    /// The revision the cache of the resource has reached.
    fn revision(&self, resource: &GroupResource) -> Revision;
    /// What changed of the resource after `after`, oldest first, so that whoever derives something from the resource
    /// pays for the change and not for the whole; `None` when that is no longer known: start over from
    /// [`View::list`].
    fn changes(&self, _resource: &GroupResource, _after: Revision) -> Option<Vec<Changed>> {
        None
    }
    /// Waits until the cache holds every write acknowledged before this call.
    ///
    /// # Errors
    /// 503 or 504 when the store does not answer.
    async fn refresh(&self, resource: &GroupResource) -> Result<(), Status>;
    /// The store's key of an object, for compares and writes in [`Extra`].
    fn key(&self, resource: &GroupResource, namespace: &str, name: &str) -> Bytes;
    /// Kind, group and preferred version of a resource that is served, and whether it is namespaced.
    fn kind_of(&self, resource: &GroupResource) -> Option<(GroupVersionKind, bool)>;
}

/// One change, as [`View::changes`] tells it.
#[derive(Clone, Debug)]
pub struct Changed {
    /// The revision of the change.
    pub revision: Revision,
    /// The object as it became, or for a removal as it last was.
    pub object: Arc<Object>,
    /// Whether it was removed.
    pub removed: bool,
}

/// What else must hold and happen in the transaction of a write. Values are canonical bytes.
#[derive(Clone, Debug, Default)]
pub struct Extra {
    /// Further conditions; the whole request is tried again from the start when one does not hold.
    pub compare: Vec<Compare>,
    /// Further writes; one per key.
    pub writes: Vec<Write>,
    /// Held until the transaction has ended, for what many writers would else fight over.
    pub turn: Option<Turn>,
}

/// Somebody's turn at something; over when dropped.
pub type Turn = Arc<tokio::sync::OwnedMutexGuard<()>>;

impl Extra {
    /// Adds conditions and writes of another part of the same write.
    pub fn append(&mut self, mut more: Self) {
        self.compare.append(&mut more.compare);
        self.writes.append(&mut more.writes);
        self.turn = self.turn.take().or(more.turn);
    }
}

/// What a write does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// A new object (or `create` on a subresource such as `pods/binding`).
    Create,
    /// A change of an existing one: update, patch, apply.
    Update,
    /// A removal.
    Delete,
    /// exec, attach, port-forward, proxy.
    Connect,
}

impl Operation {
    /// `CREATE`, as admission reviews say it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

/// A write on its way.
pub struct AdmissionRequest<'a> {
    /// Create, update, delete, connect.
    pub operation: Operation,
    /// Who.
    pub user: &'a User,
    /// What, as requested.
    pub resource: &'a GroupVersionResource,
    /// Its kind (of the object in hand, which for `scale` is `Scale`).
    pub kind: &'a GroupVersionKind,
    /// `status`, `scale`, `binding`, `eviction`, ... or empty.
    pub subresource: &'a str,
    /// Namespace, empty for cluster-scoped resources.
    pub namespace: &'a str,
    /// Name; empty at creation while only `generateName` is known.
    pub name: &'a str,
    /// The object as it is, for updates and deletes.
    pub old: Option<&'a Value>,
    /// Nothing will be written.
    pub dry_run: bool,
    /// CreateOptions, UpdateOptions, PatchOptions or DeleteOptions.
    pub options: &'a Value,
    /// What else there is.
    pub view: &'a dyn View,
    /// Where to say more than yes or no.
    pub notes: &'a Notes,
    /// The object in its other forms.
    pub forms: &'a dyn Forms,
    /// How often plug-ins that change objects were asked before; at most once.
    pub round: usize,
}

/// An object on its way has other forms: the same objects are served in several versions, some in several groups.
#[async_trait]
pub trait Forms: Send + Sync {
    /// What else the object's resource and kind are called.
    fn equivalents(&self) -> Vec<(GroupVersionResource, GroupVersionKind)>;
    /// From the form of the request to that of an equivalent.
    ///
    /// # Errors
    /// When the webhook that converts the kind cannot.
    async fn convert(&self, object: &mut Value, to: &GroupVersionResource) -> Result<(), Status>;
    /// From the form of an equivalent to that of the request.
    ///
    /// # Errors
    /// As [`Forms::convert`].
    async fn restore(&self, object: &mut Value, from: &GroupVersionResource) -> Result<(), Status>;
    /// The schema of a kind that the object may be shown as.
    fn schema(&self, resource: &GroupVersionResource, kind: &GroupVersionKind) -> Option<KindSchema>;
    /// Another object, as its resource shows it at a version.
    ///
    /// # Errors
    /// As [`Forms::convert`].
    async fn read(&self, object: &Arc<Object>, resource: &GroupVersionResource) -> Result<Value, Status>;
    /// An object that was changed by others, fitting its kind and defaulted.
    ///
    /// # Errors
    /// When it cannot be made to fit.
    fn fit(&self, object: Value) -> Result<Value, Status>;
}

/// What plug-ins say beside yes and no.
#[derive(Debug, Default)]
pub struct Notes {
    said: parking_lot::Mutex<Said>,
    hooks: parking_lot::Mutex<Reinvocation>,
}

/// What was said.
#[derive(Debug, Default)]
pub struct Said {
    /// For the client, each text once.
    pub warnings: Vec<String>,
    /// For the audit log.
    pub annotations: BTreeMap<String, String>,
    /// Whether plug-ins shall have another look, since somebody from outside changed the object.
    pub again: bool,
}

impl Notes {
    /// Warns the client.
    pub fn warn(&self, text: impl Into<String>) {
        self.said.lock().warnings.push(text.into());
    }
    /// Writes something into the audit log.
    pub fn annotate(&self, key: impl Into<String>, value: impl Into<String>) {
        self.said.lock().annotations.insert(key.into(), value.into());
    }
    /// Asks for another look of all plug-ins that change objects.
    pub fn ask_again(&self) {
        self.said.lock().again = true;
    }
    /// Whether somebody asked for that.
    pub fn is_wanted_again(&self) -> bool {
        self.said.lock().again
    }
    /// All that was said.
    pub fn into_said(self) -> Said {
        self.said.into_inner()
    }
    /// Which webhooks wait to be asked again.
    pub(crate) fn take_hooks(&self) -> Reinvocation {
        std::mem::take(&mut *self.hooks.lock())
    }
    pub(crate) fn put_hooks(&self, hooks: Reinvocation) {
        *self.hooks.lock() = hooks;
    }
}

impl AdmissionRequest<'_> {
    /// Whether this is about `resource` in `group`, without subresource.
    pub fn is_for(&self, group: &str, resource: &str) -> bool {
        self.resource.group == group && self.resource.resource == resource && self.subresource.is_empty()
    }
}

/// One admission plug-in. `mutate` of all runs before `validate` of all; objects are complete (defaulted and prepared)
/// when they come, and mutated ones are defaulted again.
#[async_trait]
pub trait Admission: Send + Sync {
    /// Upstream's name of the plug-in, such as `LimitRanger`.
    fn name(&self) -> &'static str;
    /// Cheap check before anything else.
    fn handles(&self, operation: Operation, resource: &GroupVersionResource, subresource: &str) -> bool;
    /// Whether [`Admission::mutate`] may change objects; only then they are defaulted again.
    fn changes_objects(&self) -> bool {
        false
    }
    /// Changes the object, or refuses it before anybody else looks at it; not called for deletes and connects.
    ///
    /// # Errors
    /// A refusal.
    async fn mutate(&self, _request: &AdmissionRequest<'_>, _object: &mut Value) -> Result<(), Status> {
        Ok(())
    }
    /// Looks at the finished object (none for deletes) and may add to the transaction. Called again, with fresh
    /// arguments, when the transaction has to be repeated.
    ///
    /// # Errors
    /// A refusal.
    async fn validate(
        &self,
        _request: &AdmissionRequest<'_>,
        _object: Option<&Value>,
        _extra: &mut Extra,
    ) -> Result<(), Status> {
        Ok(())
    }
    /// What it counts, in Prometheus' text form.
    fn metrics(&self, _out: &mut String) {}
}

/// Makes service account tokens (`serviceaccounts/token`).
#[async_trait]
pub trait TokenIssuer: Send + Sync {
    /// `request` is a TokenRequest; returned with its status.
    ///
    /// # Errors
    /// 422 for a bad request, 404 or 409 for a bound object that is not there.
    async fn issue(&self, account: &Object, request: Value, view: &dyn View) -> Result<Value, Status>;
}

/// Resources that are questions: created, answered, never stored (TokenReview, SubjectAccessReview and others).
#[async_trait]
pub trait Questions: Send + Sync {
    /// The answer to `question`, whose apiVersion and kind are those of `resource`; `None` when the resource is stored
    /// like any other.
    async fn answer(
        &self,
        user: &Arc<User>,
        resource: &GroupVersionResource,
        question: Value,
    ) -> Option<Result<Value, Status>>;
}

/// What [`Connector::connect`] is asked for: `pods/log`, `pods/exec`, `nodes/proxy`, `services/proxy`, ...
pub struct ConnectTarget {
    /// Who.
    pub user: Arc<User>,
    /// `pods`, `nodes` or `services`.
    pub resource: GroupVersionResource,
    /// `log`, `exec`, `attach`, `portforward`, `proxy`.
    pub subresource: String,
    /// Empty for nodes.
    pub namespace: String,
    /// As in the path, for services `SCHEME:NAME:PORT`.
    pub name: String,
    /// What follows `/proxy` in the path, with its leading slash, or empty.
    pub rest: String,
}

/// Passes requests on to nodes, pods and services. Authorized and admitted already.
#[async_trait]
pub trait Connector: Send + Sync {
    /// The other side's answer. An upgrade is found in the request's extensions as `hyper::upgrade::OnUpgrade`.
    ///
    /// # Errors
    /// 404, 400 or 502 and the like.
    async fn connect(&self, target: ConnectTarget, request: Request<Body>) -> Result<Response<Body>, Status>;
}

/// Explains pods: `GET .../pods/NAME/why`, which is authorized as `get` on `pods/why` and answered by whoever places pods.
#[async_trait]
pub trait Explainer: std::fmt::Debug + Send + Sync {
    /// Why a pod is where it is, or is nowhere; `None` for pods it does not know.
    async fn why(&self, namespace: &str, name: &str) -> Option<Value>;
}

/// Everything the pipeline asks, in one value; made by [`crate::auth::chain`] before the
/// first request (the view is empty then, and follows the store from there on).
#[derive(Clone)]
pub struct Chain {
    /// Who.
    pub authenticator: Arc<dyn Authenticator>,
    /// May they.
    pub authorizer: Arc<dyn Authorizer>,
    /// Plug-ins in upstream's order.
    pub admission: Vec<Arc<dyn Admission>>,
    /// `serviceaccounts/token`.
    pub tokens: Arc<dyn TokenIssuer>,
    /// Uses of tokens from Secrets that are still to be noted; taken by whoever notes them.
    pub(crate) legacy_uses: Arc<Mutex<Option<Receiver<crate::auth::LegacyUse>>>>,
    /// Reviews.
    pub questions: Arc<dyn Questions>,
    /// Logs, exec, proxies.
    pub connector: Arc<dyn Connector>,
    /// Extension servers.
    pub(crate) aggregator: Arc<Aggregator>,
    /// Objects that must exist from the first start on (RBAC defaults), with apiVersion and kind; created where
    /// missing, and brought up to date where they are roles or bindings, each by the named user's right of `system:masters`.
    pub defaults: Vec<Value>,
    /// Public documents outside the API, by path; authorized like any other path.
    pub documents: BTreeMap<&'static str, Document>,
}

/// A document served as it is.
#[derive(Clone, Debug)]
pub struct Document {
    /// Its media type.
    pub content_type: &'static str,
    /// Its text.
    pub body: Bytes,
}
