//! NamespaceLifecycle: nothing new in namespaces that are not there or about to go, and some that must not go.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;
use skiff_meta::status::Cause;
use skiff_meta::{GroupResource, GroupVersionResource, Object, Status};
use skiff_store::Compare;

use super::{find, refuse};
use crate::chain::{Admission, AdmissionRequest, Extra, Operation};

/// What may not be deleted.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// The plug-in.
pub(super) struct NamespaceLifecycle;

fn is_namespaces(resource: &GroupVersionResource) -> bool {
    resource.group.is_empty() && resource.resource == "namespaces"
}

#[async_trait]
impl Admission for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }

    fn handles(&self, operation: Operation, resource: &GroupVersionResource, _subresource: &str) -> bool {
        match operation {
            Operation::Create => !is_namespaces(resource),
            Operation::Delete => is_namespaces(resource),
            Operation::Update | Operation::Connect => false,
        }
    }

    /// Refuses at the very beginning: whoever names a namespace that is not there shall hear that, and not what else is
    /// wrong because of it.
    async fn mutate(&self, request: &AdmissionRequest<'_>, object: &mut Value) -> Result<(), Status> {
        usable(request, Some(object)).await.map(|_| ())
    }

    async fn validate(
        &self,
        request: &AdmissionRequest<'_>,
        object: Option<&Value>,
        extra: &mut Extra,
    ) -> Result<(), Status> {
        if request.operation == Operation::Delete {
            let immortal = IMMORTAL.contains(&request.name);
            return if immortal { Err(refuse(request, object, "this namespace may not be deleted")) } else { Ok(()) };
        }
        let Some(namespace) = usable(request, object).await? else { return Ok(()) };
        // The write holds only while the namespace is as it was looked at: once it is terminating nothing can come in
        // behind the back of whoever empties it.
        let key = request.view.key(&namespaces(), "", request.namespace);
        extra.compare.push(Compare::Modified(key, namespace.revision()));
        Ok(())
    }
}

fn namespaces() -> GroupResource {
    GroupResource::new("", "namespaces")
}

/// The namespace that something new shall come into; `None` for what belongs to none.
async fn usable(request: &AdmissionRequest<'_>, object: Option<&Value>) -> Result<Option<Arc<Object>>, Status> {
    if request.namespace.is_empty() {
        return Ok(None);
    }
    let namespace = find(request.view, &namespaces(), "", request.namespace)
        .await?
        .ok_or_else(|| Status::not_found(&namespaces(), request.namespace))?;
    if is_terminating(&namespace) { Err(terminating(request, object)) } else { Ok(Some(namespace)) }
}

fn is_terminating(namespace: &Object) -> bool {
    let typed = namespace.typed::<k8s_openapi::api::core::v1::Namespace>();
    typed.is_ok_and(|n| n.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Terminating"))
}

fn terminating(request: &AdmissionRequest<'_>, object: Option<&Value>) -> Status {
    let namespace = request.namespace;
    let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
    let mut status = refuse(request, object, &why);
    if let Some(details) = &mut status.details {
        details.causes.push(Cause {
            reason: "NamespaceTerminating".to_owned(),
            message: format!("namespace {namespace} is being terminated"),
            field: "metadata.namespace".to_owned(),
        });
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::Trial;
    use serde_json::json;

    #[test]
    fn nothing_new_where_nothing_lasts() {
        let trial = Trial::new(NamespaceLifecycle);
        trial.view.put("namespaces", json!({"metadata": {"name": "live"}, "status": {"phase": "Active"}}));
        trial.view.put("namespaces", json!({"metadata": {"name": "dying"}, "status": {"phase": "Terminating"}}));
        let cases = [
            ("live", None),
            ("", None),
            ("nowhere", Some((404, "namespaces \"nowhere\" not found"))),
            (
                "dying",
                Some((
                    403,
                    "pods \"a\" is forbidden: unable to create new content in namespace dying because it is being terminated",
                )),
            ),
        ];
        for (namespace, expected) in cases {
            let outcome = trial.create("pods").namespace(namespace).validate(&json!({"metadata": {"name": "a"}}));
            let told = outcome.as_ref().err().map(|status| (status.code, status.message.as_str()));
            assert_eq!(told, expected, "{namespace}");
        }
        let refusal = trial.create("pods").namespace("dying").validate(&json!({})).unwrap_err();
        assert_eq!(refusal.details.unwrap().causes[0].reason, "NamespaceTerminating");
    }

    #[test]
    fn a_write_holds_only_while_the_namespace_is_as_it_was() {
        let trial = Trial::new(NamespaceLifecycle);
        let namespace = trial.view.put("namespaces", json!({"metadata": {"name": "live"}}));
        let extra = trial.create("pods").namespace("live").validate(&json!({})).unwrap();
        let key = bytes::Bytes::from("/registry/namespaces//live");
        assert_eq!(extra.compare, [Compare::Modified(key, namespace.revision())]);
    }

    #[test]
    fn some_namespaces_stay() {
        let trial = Trial::new(NamespaceLifecycle);
        for (name, stays) in [("default", true), ("kube-system", true), ("kube-public", true), ("mine", false)] {
            let outcome = trial.delete("namespaces", name).validate_delete();
            assert_eq!(outcome.is_err(), stays, "{name}");
        }
        assert!(!trial.plugin.handles(Operation::Delete, &GroupVersionResource::new("", "v1", "pods"), ""));
    }
}
