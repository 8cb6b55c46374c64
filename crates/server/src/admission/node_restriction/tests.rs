//! What nodes are refused, and that they can do their work.

use serde_json::json;

use super::*;
use crate::admission::testing::{Attempt, Trial};
use crate::chain::User;

/// Allows nothing.
struct Nothing;

#[async_trait]
impl Authorizer for Nothing {
    async fn authorize(&self, _attributes: &Attributes<'_>) -> Decision {
        Decision::NoOpinion(String::new())
    }
}

fn trial() -> Trial<NodeRestriction> {
    let trial = Trial::new(NodeRestriction::new(Arc::new(Nothing)));
    trial.view.put("nodes", json!({"metadata": {"name": "n1", "uid": "u1"}}));
    let token =
        json!({"projected": {"sources": [{"serviceAccountToken": {"path": "t", "audience": "vault"}}]}, "name": "v"});
    for (name, node) in [("one", "n1"), ("two", "n2")] {
        let spec = json!({"nodeName": node, "containers": [], "volumes": [token]});
        trial.view.put("pods", json!({"metadata": {"name": name, "namespace": "a", "uid": name}, "spec": spec}));
    }
    trial
}

fn told(attempt: Attempt<'_>, object: &Value) -> String {
    let attempt = attempt.by(User::new("system:node:n1", &["system:nodes"]));
    attempt.validate(object).err().map(|status| status.message).unwrap_or_default()
}

fn ends(told: &str, expected: &str) {
    assert!(
        if expected.is_empty() { told.is_empty() } else { told.ends_with(expected) },
        "{told:?} but not {expected:?}"
    );
}

fn mirror() -> Value {
    json!({
        "metadata": {
            "name": "static-n1", "annotations": {MIRROR: "x"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "u1", "controller": true}],
        },
        "spec": {"nodeName": "n1", "containers": [{"name": "c"}]},
    })
}

#[test]
fn nodes_create_nothing_but_harmless_mirror_pods() {
    let trial = trial();
    type Change = fn(&mut Value);
    let cases: [(Change, &str); 8] = [
        (|_| {}, ""),
        (|pod| pod["metadata"]["annotations"] = json!({}), "node \"n1\" can only create mirror pods"),
        (|pod| pod["spec"]["nodeName"] = json!("n2"), "can only create pods with spec.nodeName set to itself"),
        (
            |pod| pod["metadata"]["ownerReferences"] = json!([]),
            "can only create pods with an owner reference set to itself",
        ),
        (|pod| pod["metadata"]["ownerReferences"][0]["uid"] = json!("x"), "node n1 UID mismatch: expected x got u1"),
        (
            |pod| pod["metadata"]["ownerReferences"][0]["controller"] = json!(false),
            "can only create pods with a controller owner reference set to itself",
        ),
        (
            |pod| pod["spec"]["serviceAccountName"] = json!("robot"),
            "can not create pods that reference serviceaccounts",
        ),
        (
            |pod| pod["spec"]["volumes"] = json!([{"name": "v", "secret": {"secretName": "s"}}]),
            "can not create pods that reference secrets",
        ),
    ];
    for (change, expected) in cases {
        let mut pod = mirror();
        change(&mut pod);
        ends(&told(trial.create("pods").namespace("a"), &pod), expected);
    }
}

#[test]
fn pods_of_others_are_out_of_reach() {
    let trial = trial();
    let pod =
        |node: &str| json!({"metadata": {"name": "p", "labels": {"a": "1"}}, "spec": {"nodeName": node}, "status": {}});
    let delete = |node: &str| {
        let attempt = trial.delete("pods", "p").of(pod(node)).by(User::new("system:node:n1", &["system:nodes"]));
        attempt.validate_delete().err().map(|status| status.message).unwrap_or_default()
    };
    ends(&delete("n1"), "");
    ends(&delete("n2"), "can only delete pods with spec.nodeName set to itself");
    let status = |node: &str, new: Value| told(trial.update("pods", pod(node)).subresource("status"), &new);
    let mut running = pod("n1");
    running["status"]["phase"] = json!("Running");
    ends(&status("n1", running.clone()), "");
    ends(&status("n2", running.clone()), "can only update pod status for pods with spec.nodeName set to itself");
    running["metadata"]["labels"] = json!({});
    ends(&status("n1", running), "cannot update labels through pod status");
    let evict = |name| told(trial.create("pods").namespace("a").name(name).subresource("eviction"), &json!({}));
    ends(&evict("one"), "");
    ends(&evict("two"), "node n1 can only evict pods with spec.nodeName set to itself");
    ends(&told(trial.create("pods").subresource("binding"), &json!({})), "only 'status' and 'eviction' are allowed");
    ends(&told(trial.update("pods", pod("n1")), &pod("n1")), "can only create and delete mirror pods");
}

#[test]
fn a_node_describes_itself_within_bounds() {
    let trial = trial();
    let node = |name: &str, labels: Value, taints: Value| json!({"metadata": {"name": name, "labels": labels}, "spec": {"taints": taints}});
    let create = |new: Value| told(trial.create("nodes"), &new);
    ends(
        &create(node(
            "n1",
            json!({"kubernetes.io/hostname": "n1", "example.com/rack": "7", "node.kubernetes.io/x": "y"}),
            json!([{"key": "k"}]),
        )),
        "",
    );
    ends(&create(node("n2", json!({}), json!([]))), "node \"n1\" is not allowed to modify node \"n2\"");
    let greedy = json!({"node-role.kubernetes.io/control-plane": "", "node-restriction.kubernetes.io/pci": "yes"});
    ends(
        &create(node("n1", greedy, json!([]))),
        "is not allowed to set the following labels: node-restriction.kubernetes.io/pci, node-role.kubernetes.io/control-plane",
    );
    let old = || node("n1", json!({"a": "1", "node-role.kubernetes.io/worker": ""}), json!([{"key": "k"}]));
    let update = |new: Value| told(trial.update("nodes", old()).name("n1"), &new);
    ends(&update(old()), "");
    ends(&update(node("n1", json!({"a": "2", "node-role.kubernetes.io/worker": ""}), json!([{"key": "k"}]))), "");
    ends(
        &update(node("n1", json!({"a": "1"}), json!([{"key": "k"}]))),
        "is not allowed to modify labels: node-role.kubernetes.io/worker",
    );
    ends(
        &update(node("n1", json!({"a": "1", "node-role.kubernetes.io/worker": ""}), json!([]))),
        "is not allowed to modify taints",
    );
}

#[test]
fn tokens_are_for_pods_here_and_audiences_they_ask_for() {
    let trial = trial();
    let ask = |bound: Value, audiences: Value| {
        let request = json!({"spec": {"boundObjectRef": bound, "audiences": audiences}});
        told(trial.create("serviceaccounts").namespace("a").name("robot").subresource("token"), &request)
    };
    let pod = |name: &str, uid: &str| json!({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid});
    ends(&ask(pod("one", "one"), json!(["vault"])), "");
    ends(&ask(Value::Null, json!(["vault"])), "node requested token not bound to a pod");
    ends(&ask(pod("one", ""), json!([])), "node requested token with a pod binding without a uid");
    ends(
        &ask(pod("two", "two"), json!(["vault"])),
        "node requested token bound to a pod scheduled on a different node",
    );
    ends(&ask(pod("three", "x"), json!([])), "pods \"three\" not found");
    ends(
        &ask(pod("one", "one"), json!(["db"])),
        "audience \"db\" not found in pod spec volume, system:node:n1 is not authorized to request tokens for this audience",
    );
}

#[test]
fn leases_claims_and_requests_for_certificates() {
    let trial = trial();
    let lease = |namespace, name: &str| {
        told(trial.create("leases.coordination.k8s.io").namespace(namespace), &json!({"metadata": {"name": name}}))
    };
    ends(&lease("kube-node-lease", "n1"), "");
    ends(&lease("kube-node-lease", "n2"), "can only access node lease with the same name as the requesting node");
    ends(&lease("default", "n1"), "can only access leases in the \"kube-node-lease\" system namespace");

    let claim = |labels: Value, capacity: &str| json!({"metadata": {"name": "d", "labels": labels}, "status": {"capacity": {"storage": capacity}}});
    let update =
        |new: Value| told(trial.update("persistentvolumeclaims", claim(json!({}), "1Gi")).subresource("status"), &new);
    ends(&update(claim(json!({}), "2Gi")), "");
    ends(&update(claim(json!({"a": "b"}), "2Gi")), "other than status.quantity and status.conditions");

    let csr = |name: &str| {
        let request = certificates::tests::csr("kubernetes.io/kubelet-serving", name, "system:nodes");
        told(trial.create("certificatesigningrequests.certificates.k8s.io"), &request)
    };
    ends(&csr("system:node:n1"), "");
    ends(&csr("system:node:n2"), "can only create a node CSR with CN=system:node:n1");
}

#[test]
fn others_are_not_meant() {
    let outcome = trial().create("pods").by(User::new("alice", &[])).validate(&json!({"spec": {}}));
    assert!(outcome.is_ok());
}
