//! One row per kind; families of kinds share a file.

mod access;
mod autoscaling;
mod batch;
mod cluster;
mod config;
mod custom_resource_definition;
mod events;
mod network;
mod pod;
mod pod_cells;
mod pod_defaults;
mod pod_spec;
mod policy;
mod storage;
mod workloads;

use skiff_meta::GroupKind;

use crate::Rules;
use crate::kind::KindRules;

/// Every kind with rules of its own.
const ROWS: &[&KindRules] = &[
    &pod::POD,
    &pod::POD_TEMPLATE,
    &workloads::DEPLOYMENT,
    &workloads::REPLICA_SET,
    &workloads::REPLICATION_CONTROLLER,
    &workloads::STATEFUL_SET,
    &workloads::DAEMON_SET,
    &workloads::CONTROLLER_REVISION,
    &batch::JOB,
    &batch::CRON_JOB,
    &network::SERVICE,
    &network::ENDPOINTS,
    &network::ENDPOINT_SLICE,
    &network::INGRESS,
    &network::INGRESS_CLASS,
    &network::NETWORK_POLICY,
    &cluster::NODE,
    &cluster::NAMESPACE,
    &cluster::LEASE,
    &cluster::PRIORITY_CLASS,
    &cluster::RUNTIME_CLASS,
    &cluster::API_SERVICE,
    &cluster::CERTIFICATE_SIGNING_REQUEST,
    &custom_resource_definition::CUSTOM_RESOURCE_DEFINITION,
    &config::CONFIG_MAP,
    &config::SECRET,
    &config::SERVICE_ACCOUNT,
    &access::ROLE,
    &access::CLUSTER_ROLE,
    &access::ROLE_BINDING,
    &access::CLUSTER_ROLE_BINDING,
    &events::CORE,
    &events::EVENTS,
    &storage::PERSISTENT_VOLUME,
    &storage::PERSISTENT_VOLUME_CLAIM,
    &storage::STORAGE_CLASS,
    &policy::POD_DISRUPTION_BUDGET,
    &policy::LIMIT_RANGE,
    &policy::RESOURCE_QUOTA,
    &autoscaling::HORIZONTAL_POD_AUTOSCALER,
];

/// Kinds whose desired state is counted and whose status is split off, without further rules.
static COUNTED: KindRules =
    KindRules { counts_generation: true, first_status: Some(crate::kind::empty_status), ..KindRules::new("", "") };
/// Kinds that are plain data.
static PLAIN: KindRules =
    KindRules { columns: crate::kind::PLAIN_COLUMNS, cells: plain_cells, ..KindRules::new("", "") };

fn plain_cells(object: &serde_json::Value, _: jiff::Timestamp) -> Vec<serde_json::Value> {
    vec![crate::show::name(object), object["metadata"]["creationTimestamp"].clone()]
}

/// The rules of a built-in kind.
pub fn rules_for(kind: &GroupKind) -> &'static dyn Rules {
    let row = ROWS.iter().find(|row| row.names == (kind.group.as_str(), kind.kind.as_str()));
    match (row, kind.group.as_str()) {
        (Some(row), _) => *row,
        (
            None,
            "flowcontrol.apiserver.k8s.io" | "resource.k8s.io" | "networking.k8s.io" | "admissionregistration.k8s.io",
        ) => &COUNTED,
        (None, _) => &PLAIN,
    }
}
