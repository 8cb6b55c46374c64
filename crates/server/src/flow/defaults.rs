//! The levels and schemas of every cluster (upstream: `k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap`): those it cannot
//! do without, and those it begins with and that its users may change.

use serde_json::{Value, json};

/// Says whether the server may change an object of these back.
pub(super) const AUTO_UPDATE: &str = "apf.kubernetes.io/autoupdate-spec";
const API: &str = "flowcontrol.apiserver.k8s.io/v1";

/// Names of the objects that are always as they are here.
pub(super) fn is_mandatory(name: &str) -> bool {
    matches!(name, "exempt" | "catch-all")
}

/// All priority levels.
pub(super) fn levels() -> Vec<Value> {
    let limited = |name: &str, shares: u32, lendable: u32, response: Value| {
        let limited = json!({
            "nominalConcurrencyShares": shares, "lendablePercent": lendable, "limitResponse": response,
        });
        object("PriorityLevelConfiguration", name, json!({"type": "Limited", "limited": limited}))
    };
    let queued = |name: &str, shares: u32, lendable: u32, queues: u32, hand: u32| {
        let queuing = json!({"queues": queues, "handSize": hand, "queueLengthLimit": 50});
        limited(name, shares, lendable, json!({"type": "Queue", "queuing": queuing}))
    };
    let exempt = json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}});
    vec![
        object("PriorityLevelConfiguration", "exempt", exempt),
        limited("catch-all", 5, 0, json!({"type": "Reject"})),
        queued("system", 30, 33, 64, 6),
        queued("node-high", 40, 25, 64, 6),
        queued("leader-election", 10, 0, 16, 4),
        queued("workload-high", 40, 50, 128, 6),
        queued("workload-low", 100, 90, 128, 6),
        queued("global-default", 20, 50, 128, 6),
    ]
}

/// All flow schemas.
pub(super) fn schemas() -> Vec<Value> {
    let everybody = || groups(&["system:unauthenticated", "system:authenticated"]);
    let nodes = || groups(&["system:nodes"]);
    let kube_system = || json!({"kind": "ServiceAccount", "serviceAccount": {"name": "*", "namespace": "kube-system"}});
    let mut electors = users(&["system:kube-controller-manager", "system:kube-scheduler"]);
    electors.push(kube_system());
    let leases = |verbs: &[&str]| resources(verbs, &["coordination.k8s.io"], &["leases"], false);
    let probes = json!([{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"]}]);
    let own_nodes = resources(&["*"], &[""], &["nodes", "nodes/status"], true);
    vec![
        schema("exempt", "exempt", 1, "", everything(groups(&["system:masters"]))),
        schema("probes", "exempt", 2, "", json!([{"subjects": everybody(), "nonResourceRules": probes}])),
        schema(
            "system-leader-election",
            "leader-election",
            100,
            "ByUser",
            json!([{"subjects": electors, "resourceRules": [leases(&["get", "create", "update"])]}]),
        ),
        schema(
            "system-node-high",
            "node-high",
            400,
            "ByUser",
            json!([{"subjects": nodes(), "resourceRules": [own_nodes, leases(&["*"])]}]),
        ),
        schema("system-nodes", "system", 500, "ByUser", everything(nodes())),
        schema(
            "kube-controller-manager",
            "workload-high",
            800,
            "ByNamespace",
            everything(users(&["system:kube-controller-manager"])),
        ),
        schema("kube-scheduler", "workload-high", 800, "ByNamespace", everything(users(&["system:kube-scheduler"]))),
        schema("kube-system-service-accounts", "workload-high", 900, "ByNamespace", everything(vec![kube_system()])),
        schema("service-accounts", "workload-low", 9000, "ByUser", everything(groups(&["system:serviceaccounts"]))),
        schema("global-default", "global-default", 9900, "ByUser", everything(everybody())),
        schema("catch-all", "catch-all", 10000, "ByUser", everything(everybody())),
    ]
}

fn object(kind: &str, name: &str, spec: Value) -> Value {
    let metadata = json!({"name": name, "annotations": {AUTO_UPDATE: "true"}});
    json!({"apiVersion": API, "kind": kind, "metadata": metadata, "spec": spec})
}

fn schema(name: &str, level: &str, precedence: u32, by: &str, rules: Value) -> Value {
    let mut spec = json!({
        "priorityLevelConfiguration": {"name": level}, "matchingPrecedence": precedence, "rules": rules,
    });
    if !by.is_empty() {
        spec["distinguisherMethod"] = json!({"type": by});
    }
    object("FlowSchema", name, spec)
}

fn groups(names: &[&str]) -> Vec<Value> {
    names.iter().map(|name| json!({"kind": "Group", "group": {"name": name}})).collect()
}

fn users(names: &[&str]) -> Vec<Value> {
    names.iter().map(|name| json!({"kind": "User", "user": {"name": name}})).collect()
}

fn resources(verbs: &[&str], groups: &[&str], resources: &[&str], cluster: bool) -> Value {
    let mut rule = json!({"verbs": verbs, "apiGroups": groups, "resources": resources, "namespaces": ["*"]});
    if cluster {
        rule["clusterScope"] = json!(true);
    }
    rule
}

fn everything(subjects: Vec<Value>) -> Value {
    json!([{
        "subjects": subjects,
        "resourceRules": [resources(&["*"], &["*"], &["*"], true)],
        "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
    }])
}
