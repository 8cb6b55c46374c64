//! The rows, one per kind.

mod admission_policy;
mod api_service;
mod certificate_signing_request;
mod config;
mod coordination;
mod cron_job;
mod custom_resource_definition;
mod daemon_set;
mod deployment;
mod devices;
mod endpoints;
mod flow_control;
mod horizontal_pod_autoscaler;
mod ingress;
mod job;
mod load_balancer;
mod namespace;
mod network_policy;
mod node;
mod persistent_volume;
mod persistent_volume_claim;
mod pod;
mod pod_disruption_budget;
mod quota;
mod rbac;
mod replica_set;
mod service;
pub mod service_addresses;
mod service_range;
mod stateful_set;
mod storage;
mod webhook;

use std::collections::HashMap;
use std::sync::OnceLock;

use skiff_meta::GroupKind;

use crate::Rules;
use crate::row::Row;

/// All kinds that have something particular.
static ALL: &[Row] = &[
    admission_policy::MUTATING_ADMISSION_POLICY,
    admission_policy::MUTATING_ADMISSION_POLICY_BINDING,
    admission_policy::VALIDATING_ADMISSION_POLICY,
    admission_policy::VALIDATING_ADMISSION_POLICY_BINDING,
    api_service::API_SERVICE,
    api_service::COMPONENT_STATUS,
    certificate_signing_request::CERTIFICATE_SIGNING_REQUEST,
    config::CONFIG_MAP,
    config::SECRET,
    config::SERVICE_ACCOUNT,
    coordination::EVENT,
    coordination::EVENT_V1,
    coordination::LEASE,
    coordination::PRIORITY_CLASS,
    cron_job::CRON_JOB,
    daemon_set::DAEMON_SET,
    deployment::DEPLOYMENT,
    devices::DEVICE_CLASS,
    devices::RESOURCE_CLAIM,
    devices::RESOURCE_CLAIM_TEMPLATE,
    devices::RESOURCE_SLICE,
    endpoints::ENDPOINTS,
    endpoints::ENDPOINT_SLICE,
    flow_control::FLOW_SCHEMA,
    flow_control::PRIORITY_LEVEL_CONFIGURATION,
    horizontal_pod_autoscaler::HORIZONTAL_POD_AUTOSCALER,
    ingress::INGRESS,
    ingress::INGRESS_CLASS,
    job::JOB,
    namespace::NAMESPACE,
    network_policy::NETWORK_POLICY,
    node::NODE,
    node::RUNTIME_CLASS,
    persistent_volume::PERSISTENT_VOLUME,
    persistent_volume_claim::PERSISTENT_VOLUME_CLAIM,
    pod::POD,
    pod::POD_TEMPLATE,
    pod_disruption_budget::POD_DISRUPTION_BUDGET,
    quota::LIMIT_RANGE,
    quota::RESOURCE_QUOTA,
    rbac::CLUSTER_ROLE,
    rbac::CLUSTER_ROLE_BINDING,
    rbac::ROLE,
    rbac::ROLE_BINDING,
    replica_set::REPLICATION_CONTROLLER,
    replica_set::REPLICA_SET,
    service::SERVICE,
    service_range::IP_ADDRESS,
    service_range::SERVICE_CIDR,
    stateful_set::CONTROLLER_REVISION,
    stateful_set::STATEFUL_SET,
    storage::CSI_DRIVER,
    storage::CSI_NODE,
    storage::CSI_STORAGE_CAPACITY,
    storage::STORAGE_CLASS,
    storage::VOLUME_ATTACHMENT,
    storage::VOLUME_ATTRIBUTES_CLASS,
    webhook::MUTATING_WEBHOOK_CONFIGURATION,
    webhook::VALIDATING_WEBHOOK_CONFIGURATION,
];

/// What fits any object.
static ORDINARY: Row = Row::new("", "");

/// The rules of a built-in kind; for kinds nobody wrote rules for, those that fit any object.
pub fn rules_for(kind: &GroupKind) -> &'static dyn Rules {
    let definitions = &custom_resource_definition::CUSTOM_RESOURCE_DEFINITION;
    if (kind.group.as_str(), kind.kind.as_str()) == definitions.names {
        return definitions;
    }
    find(&kind.group, &kind.kind)
}

/// The row of a kind.
fn find(group: &str, kind: &str) -> &'static Row {
    static BY_NAME: OnceLock<HashMap<(&'static str, &'static str), &'static Row>> = OnceLock::new();
    let by_name = BY_NAME.get_or_init(|| ALL.iter().map(|rules| ((rules.kind, rules.group), rules)).collect());
    by_name.get(&(kind, group)).copied().unwrap_or(&ORDINARY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Part;
    use serde_json::json;

    /// Definitions of kinds have rules beside the table.
    const ELSEWHERE: &[&str] = &["CustomResourceDefinition"];

    #[test]
    fn every_stored_kind_has_its_row() {
        let stored = skiff_api::KINDS.iter().filter(|kind| kind.is_stored() && !ELSEWHERE.contains(&kind.kind));
        let missing: Vec<_> = stored
            .filter(|kind| std::ptr::eq(find(kind.group, kind.kind), &raw const ORDINARY))
            .map(|k| k.kind)
            .collect();
        assert_eq!(missing, [""; 0]);
    }

    #[test]
    fn odd_objects_harm_nobody() {
        for rules in ALL {
            for object in [
                json!({}),
                json!({"metadata": {}, "spec": {}, "status": {}}),
                json!({"metadata": null, "spec": null, "status": null, "webhooks": null}),
                json!({"metadata": {"name": "a"}, "spec": {"template": {"spec": {}}, "jobTemplate": {"spec": {}}}}),
            ] {
                let mut new = object.clone();
                rules.default(&mut new);
                let once = new.clone();
                rules.default(&mut new);
                assert_eq!(new, once, "{} is not idempotent", rules.kind);
                rules.prepare_create(&mut new);
                rules.validate_create(&new);
                for part in [Part::Main, Part::Status, Part::Other("resize")] {
                    rules.prepare_update(&mut new, &object, part);
                    rules.validate_update(&new, &object, part);
                }
                let cells = rules.cells(&object, jiff::Timestamp::UNIX_EPOCH);
                assert_eq!(cells.len(), Rules::columns(rules).len(), "{}", rules.kind);
                for part in [Part::Main, Part::Status] {
                    rules.warnings(&object, None, part);
                    rules.warnings(&new, Some(&object), part);
                }
                rules.selectable_fields(&object);
            }
        }
    }

    #[test]
    fn what_can_be_selected_can_be_told() {
        for kind in skiff_api::KINDS.iter().filter(|kind| kind.is_stored() && !ELSEWHERE.contains(&kind.kind)) {
            let fields = find(kind.group, kind.kind).selectable_fields(&json!({}));
            let missing =
                |name: &&&str| !name.starts_with("metadata.") && !fields.iter().any(|(known, _)| known == *name);
            assert_eq!(kind.selectable.iter().find(missing), None, "{}", kind.kind);
        }
    }
}
