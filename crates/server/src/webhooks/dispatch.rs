//! What both plug-ins do: find out which hooks a request is for, and ask one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::Value;
use skiff_meta::selector::LabelSelector;
use skiff_meta::world::WorldExt;
use skiff_meta::{GroupResource, GroupVersionKind, GroupVersionResource, Status, WorldRef};
use skiff_rules::policy::Input;
use skiff_store::Revision;

use super::client::HookClient;
use super::counters::{Counters, Ended};
use super::hooks::{self, Asked, Hook};
use super::review::{self, Answer, Shown, Version};
use crate::chain::{AdmissionRequest, Authorizer, Operation, View};
use crate::policies::{CelAuthorizer, attributes, described, namespace};

const GROUP: &str = "admissionregistration.k8s.io";

/// Hooks of one sort, and the way to them.
pub(super) struct Dispatcher {
    configurations: GroupResource,
    /// `admit` or `validating`.
    ty: &'static str,
    client: Arc<HookClient>,
    /// Whom conditions may ask.
    authorizer: Arc<dyn Authorizer>,
    world: WorldRef,
    /// As of the newest change of a configuration.
    known: Mutex<(Revision, Arc<Vec<Arc<Hook>>>)>,
    pub(super) counters: Counters,
}

/// A hook that is to be asked, and in which form it wants to see the object.
pub(super) struct Invocation {
    pub(super) hook: Arc<Hook>,
    resource: GroupVersionResource,
    kind: GroupVersionKind,
}

impl Invocation {
    /// Whether the hook sees the object otherwise than it was sent.
    pub(super) fn is_converted(&self, request: &AdmissionRequest<'_>) -> bool {
        self.resource != *request.resource
    }
    /// An object as the hook sees it.
    pub(super) async fn form(
        &self,
        request: &AdmissionRequest<'_>,
        object: Option<&Value>,
    ) -> Result<Option<Value>, Status> {
        let Some(mut object) = object.cloned() else { return Ok(None) };
        if self.is_converted(request) {
            request.forms.convert(&mut object, &self.resource).await?;
        }
        Ok(Some(object))
    }
    /// An object as it was sent, from what the hook made of it.
    pub(super) async fn restore(&self, request: &AdmissionRequest<'_>, object: &mut Value) -> Result<(), Status> {
        match self.is_converted(request) {
            true => request.forms.restore(object, &self.resource).await,
            false => Ok(()),
        }
    }
}

/// Why a request does not go on.
pub(super) enum Failure {
    /// The hook could not be asked; the code is that of its answer, if any.
    Calling { reason: String, code: u16 },
    /// It said no.
    Rejected(Status),
    /// It cannot be asked about this, whatever its failure policy.
    Refused(Status),
}

/// What becomes of a request whose hook was asked in vain.
pub(super) enum Verdict {
    /// It goes on without.
    Open,
    /// It ends.
    Closed(Status),
}

impl Dispatcher {
    pub(super) fn new(
        resource: &str,
        ty: &'static str,
        client: Arc<HookClient>,
        authorizer: Arc<dyn Authorizer>,
        world: WorldRef,
    ) -> Self {
        let configurations = GroupResource::new(GROUP, resource);
        Self { configurations, ty, client, authorizer, world, known: Mutex::default(), counters: Counters::default() }
    }

    /// All hooks, by configuration and in its order; none for what decides about admission itself.
    pub(super) fn hooks(&self, request: &AdmissionRequest<'_>) -> Arc<Vec<Arc<Hook>>> {
        let kind = request.kind;
        let exempt = matches!(
            kind.kind.as_str(),
            "ValidatingWebhookConfiguration"
                | "MutatingWebhookConfiguration"
                | "ValidatingAdmissionPolicy"
                | "ValidatingAdmissionPolicyBinding"
                | "MutatingAdmissionPolicy"
                | "MutatingAdmissionPolicyBinding"
        );
        if kind.group == GROUP && exempt {
            return Arc::default();
        }
        let changed = request.view.changed(&self.configurations);
        let mut known = self.known.lock();
        if known.0 != changed {
            let all = request.view.list(&self.configurations, "");
            let trees = all.iter().filter_map(|object| object.to_value().ok());
            let all = trees.flat_map(|tree| hooks::of(&tree)).map(Arc::new).collect();
            *known = (changed, Arc::new(all));
        }
        known.1.clone()
    }

    /// Whether and how a hook is to be asked about an object as it is by now.
    pub(super) async fn invocation(
        &self,
        hook: &Arc<Hook>,
        request: &AdmissionRequest<'_>,
        object: Option<&Value>,
    ) -> Result<Option<Invocation>, Status> {
        if !self.objects_fit(hook, request, object) {
            return Ok(None);
        }
        let Some(invocation) = by_rules(hook, request) else { return Ok(None) };
        if !namespace_fits(&hook.namespaces, request, object).await? {
            return Ok(None);
        }
        match self.conditions_hold(&invocation, request, object).await? {
            Ok(holds) => Ok(Some(invocation).filter(|_| holds)),
            Err(_) if hook.fails_open => Ok(None),
            Err(why) => Err(crate::admission::refuse(request, object, &why)),
        }
    }

    async fn conditions_hold(
        &self,
        invocation: &Invocation,
        request: &AdmissionRequest<'_>,
        object: Option<&Value>,
    ) -> Result<Result<bool, String>, Status> {
        let conditions = &invocation.hook.conditions;
        if conditions.is_empty() {
            return Ok(Ok(true));
        }
        let (object, old) = (invocation.form(request, object).await?, invocation.form(request, request.old).await?);
        Ok(conditions.hold(&Input {
            object: &object.unwrap_or_default(),
            old: &old.unwrap_or_default(),
            namespace: &Value::Null,
            request: &described(request, &invocation.resource, &invocation.kind),
            params: &Value::Null,
            authorizer: &CelAuthorizer { authorizer: &*self.authorizer, user: request.user },
            resource: &attributes(request),
        }))
    }

    fn objects_fit(&self, hook: &Hook, request: &AdmissionRequest<'_>, object: Option<&Value>) -> bool {
        let fits = |object: Option<&Value>| object.is_some_and(|object| selects(&hook.objects, object));
        hook.objects.is_everything() || fits(object) || fits(request.old)
    }

    /// Asks a hook. `object` and `old` are in the form it wants.
    pub(super) async fn ask(
        &self,
        invocation: &Invocation,
        request: &AdmissionRequest<'_>,
        object: Option<&Value>,
        old: Option<&Value>,
    ) -> Result<Answer, Failure> {
        let hook = &invocation.hook;
        let calling = |reason: String, code: u16| Failure::Calling { reason, code };
        if request.dry_run {
            match hook.dry_runs {
                None => return Err(calling("Webhook SideEffects is nil".to_owned(), 400)),
                Some(false) => {
                    let why = format!("admission webhook {:?} does not support dry run", hook.name);
                    return Err(Failure::Refused(Status::bad_request(why)));
                }
                Some(true) => {}
            }
        }
        let version = Version::best(&hook.versions).ok_or_else(|| {
            let why = "webhook does not accept known AdmissionReview versions (v1, v1beta1)";
            calling(format!("could not create admission objects: {why}"), 400)
        })?;
        let uid = self.world.uuid();
        let shown = Shown { resource: &invocation.resource, kind: &invocation.kind, object, old };
        let body = review::review(version, &review::request(&uid, request, &shown)).to_string();
        let answered = self.client.post(request.view, &hook.client, Bytes::from(body), hook.timeout).await;
        let answered = answered.map_err(|error| calling(error.to_string(), error.code()))?;
        let mutating = self.ty == "admit";
        let mut answer = review::answer(version, &uid, mutating, &answered)
            .map_err(|why| calling(format!("received invalid webhook response: {why}"), 503))?;
        for (key, value) in answer.annotations.drain(..) {
            request.notes.annotate(format!("{}/{key}", hook.name), value);
        }
        answer.warnings.drain(..).for_each(|warning| request.notes.warn(warning));
        if answer.allowed { Ok(answer) } else { Err(Failure::Rejected(review::refusal(&hook.name, answer.status))) }
    }

    /// Counts how a call ended, and says what becomes of the request.
    pub(super) fn judge<T>(
        &self,
        hook: &Hook,
        operation: Operation,
        took: Duration,
        outcome: Result<T, Failure>,
    ) -> Result<T, Verdict> {
        let (code, refused, verdict) = match outcome {
            Ok(answer) => {
                self.count(hook, operation, took, 200, None, false);
                return Ok(answer);
            }
            Err(Failure::Calling { reason, code }) => {
                let why = format!("failed calling webhook {:?}: {reason}", hook.name);
                tracing::warn!(open = hook.fails_open, "{why}");
                let closed = Verdict::Closed(Status::internal(why));
                if hook.fails_open {
                    (code, None, Verdict::Open)
                } else {
                    (code, Some("calling_webhook_error"), closed)
                }
            }
            Err(Failure::Rejected(status)) => (status.code, Some("no_error"), Verdict::Closed(status)),
            Err(Failure::Refused(status)) => (0, Some("apiserver_internal_error"), Verdict::Closed(status)),
        };
        self.count(hook, operation, took, code, refused, matches!(verdict, Verdict::Open));
        Err(verdict)
    }

    fn count(
        &self,
        hook: &Hook,
        operation: Operation,
        took: Duration,
        code: u16,
        refused: Option<&'static str>,
        failed_open: bool,
    ) {
        let operation = operation.as_str();
        self.counters.add(&Ended { name: &hook.name, ty: self.ty, operation, code, refused, failed_open, took });
    }

    /// Monotonic time, to measure calls.
    pub(super) fn clock(&self) -> Duration {
        self.world.elapsed()
    }
}

/// The first rule that is about the request, or about the same objects under another name.
fn by_rules(hook: &Arc<Hook>, request: &AdmissionRequest<'_>) -> Option<Invocation> {
    let namespaced = !request.namespace.is_empty();
    let about = |resource: &GroupVersionResource| {
        let (operation, subresource) = (request.operation, request.subresource);
        hook.is_about(&Asked { operation, resource, subresource, namespaced })
    };
    if about(request.resource) {
        let (resource, kind) = (request.resource.clone(), request.kind.clone());
        return Some(Invocation { hook: hook.clone(), resource, kind });
    }
    let mut equivalents = if hook.equivalent { request.forms.equivalents() } else { Vec::new() };
    equivalents.retain(|(resource, _)| about(resource));
    let (resource, kind) = equivalents.into_iter().next()?;
    Some(Invocation { hook: hook.clone(), resource, kind })
}

fn selects(selector: &LabelSelector, object: &Value) -> bool {
    selector.matches_with(|key| object.pointer("/metadata/labels")?.get(key)?.as_str())
}

async fn namespace_fits(
    selector: &LabelSelector,
    request: &AdmissionRequest<'_>,
    object: Option<&Value>,
) -> Result<bool, Status> {
    let of_namespaces = request.resource.resource == "namespaces";
    if selector.is_everything() || (request.namespace.is_empty() && !of_namespaces) {
        return Ok(true);
    }
    let writes = matches!(request.operation, Operation::Create | Operation::Update);
    if of_namespaces && writes && request.subresource.is_empty() {
        return Ok(object.is_some_and(|object| selects(selector, object)));
    }
    let name = namespace(request);
    Ok(selector.matches(&labels_of(request.view, name).await?))
}

async fn labels_of(view: &dyn View, name: &str) -> Result<BTreeMap<String, String>, Status> {
    let id = GroupResource::new("", "namespaces");
    let found = crate::admission::find(view, &id, "", name).await?;
    found.map(|namespace| namespace.meta().labels.clone()).ok_or_else(|| Status::not_found(&id, name))
}
