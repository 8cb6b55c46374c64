//! Admission: what others have to say about a write, after its author and before its validation.
//!
//! One file per plug-in, named as upstream names it; those that upstream switches on by default and that do not need a
//! controller or a webhook of their own. Each is a small pure function over the object and the cache.

mod certificates;
pub mod config;
mod default_ingress_class;
mod default_storage_class;
mod default_toleration_seconds;
mod limit_ranger;
mod namespace_lifecycle;
mod node_restriction;
mod persistent_volume_claim_resize;
mod pod_resize_validator;
mod pod_security;
mod pod_topology_labels;
mod priority;
mod resource_claim;
mod resource_quota;
mod runtime_class;
mod service_account;
mod storage_object_in_use_protection;
mod taint_nodes_by_condition;
#[cfg(test)]
pub(crate) mod testing;

use std::sync::Arc;

use serde_json::Value;
use skiff_meta::{GroupResource, Object, Status, WorldRef};

use crate::chain::{Admission, AdmissionRequest, Authorizer, View};
use crate::{policies, webhooks};
use config::AdmissionConfig;

/// All plug-ins in upstream's order (`pkg/kubeapiserver/options/plugins.go`).
pub(crate) fn plugins(
    authorizer: Arc<dyn Authorizer>,
    world: WorldRef,
    config: AdmissionConfig,
) -> Vec<Arc<dyn Admission>> {
    let (mutating, validating) = webhooks::plugins(&authorizer, &world, config.webhooks);
    let (mutating_policies, validating_policies) = policies::plugins(&authorizer, &world);
    vec![
        Arc::new(namespace_lifecycle::NamespaceLifecycle),
        Arc::new(limit_ranger::LimitRanger),
        Arc::new(service_account::ServiceAccount::new(world.clone())),
        Arc::new(node_restriction::NodeRestriction::new(authorizer.clone())),
        Arc::new(taint_nodes_by_condition::TaintNodesByCondition),
        Arc::new(pod_security::PodSecurity::new(config.pod_security)),
        Arc::new(priority::Priority),
        Arc::new(default_toleration_seconds::DefaultTolerationSeconds),
        Arc::new(default_storage_class::DefaultStorageClass),
        Arc::new(storage_object_in_use_protection::StorageObjectInUseProtection),
        Arc::new(persistent_volume_claim_resize::PersistentVolumeClaimResize),
        Arc::new(runtime_class::RuntimeClass),
        Arc::new(certificates::CertificateApproval::new(authorizer.clone())),
        Arc::new(certificates::CertificateSigning::new(authorizer.clone())),
        Arc::new(resource_claim::ResourceClaim::new(authorizer)),
        Arc::new(certificates::CertificateSubjectRestriction),
        Arc::new(default_ingress_class::DefaultIngressClass),
        Arc::new(pod_topology_labels::PodTopologyLabels),
        Arc::new(pod_resize_validator::PodResizeValidator),
        mutating_policies,
        mutating,
        validating_policies,
        validating,
        // The last word: nothing is charged that somebody else refuses.
        Arc::new(resource_quota::ResourceQuota::new(world, config.limited)),
    ]
}

/// The refusal of a plug-in. Where the name is still to be generated, its beginning stands for it.
pub(crate) fn refuse(request: &AdmissionRequest<'_>, object: Option<&Value>, why: &str) -> Status {
    let said = |field: &str| object.and_then(|o| o["metadata"][field].as_str()).filter(|text| !text.is_empty());
    let own = Some(request.name).filter(|name| !name.is_empty());
    let name = own.or_else(|| said("name")).or_else(|| said("generateName")).unwrap_or("Unknown");
    Status::forbidden(&request.resource.group_resource(), name, why)
}

/// An object of the cache; when it seems not to be there, as of now.
pub(crate) async fn find(
    view: &dyn View,
    resource: &GroupResource,
    namespace: &str,
    name: &str,
) -> Result<Option<Arc<Object>>, Status> {
    if let Some(found) = view.get(resource, namespace, name) {
        return Ok(Some(found));
    }
    view.refresh(resource).await?;
    Ok(view.get(resource, namespace, name))
}

/// A list of the object, made where it is missing.
fn list_mut<'a>(parent: &'a mut Value, field: &str) -> Option<&'a mut Vec<Value>> {
    let list = parent.as_object_mut()?.entry(field).or_insert(Value::Null);
    if list.is_null() {
        *list = Value::Array(Vec::new());
    }
    list.as_array_mut()
}

/// The items of a list that may be missing.
fn items(list: &Value) -> &[Value] {
    list.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// The items of a list that may be missing, and stays so.
fn items_mut<'a>(parent: &'a mut Value, field: &str) -> impl Iterator<Item = &'a mut Value> + use<'a> {
    parent.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten()
}

fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object[field].as_str().unwrap_or_default()
}
