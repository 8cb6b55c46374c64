//! What a node sees of the others' things.

use serde_json::json;

use super::*;
use crate::auth::testing::{TestView, block_on};
use crate::chain::User;

fn ask(authorizer: &NodeAuthorizer, attributes: &Attributes<'_>) -> Option<String> {
    match block_on(authorizer.authorize(attributes)) {
        Decision::Allow(_) => None,
        Decision::Deny(why) | Decision::NoOpinion(why) => Some(why),
    }
}

fn base<'a>(user: &'a User) -> Attributes<'a> {
    Attributes {
        user,
        verb: "get",
        group: "",
        version: "v1",
        resource: "secrets",
        subresource: "",
        namespace: "a",
        name: "",
        fields: "",
        labels: "",
        path: "",
    }
}

fn pod(view: &TestView, name: &str, node: &str, secret: &str) {
    view.put(
        "pods",
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "a"},
            "spec": {
                "nodeName": node, "serviceAccountName": "robot",
                "containers": [{"name": "c", "envFrom": [{"configMapRef": {"name": "settings"}}]}],
                "volumes": [
                    {"name": "s", "secret": {"secretName": secret}},
                    {"name": "d", "persistentVolumeClaim": {"claimName": "disk"}},
                    {"name": "p", "projected": {"sources": [{"configMap": {"name": "kube-root-ca.crt"}}]}},
                ],
            },
        }),
    );
}

#[test]
fn a_node_reads_only_what_its_pods_need() {
    let view = TestView::shared();
    view.put(
        "persistentvolumes",
        json!({
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "pv"},
            "spec": {"claimRef": {"namespace": "a", "name": "disk"},
                "csi": {"driver": "d", "volumeHandle": "h", "nodeStageSecretRef": {"namespace": "a", "name": "key"},
                    "controllerPublishSecretRef": {"namespace": "a", "name": "not-for-nodes"}}},
        }),
    );
    let authorizer = NodeAuthorizer::new(view.clone());
    pod(&view, "one", "n1", "mine");
    pod(&view, "two", "n2", "yours");
    let (n1, n3) = (User::new("system:node:n1", &["system:nodes"]), User::new("system:node:n3", &["system:nodes"]));
    let unrelated = Some("no relationship found between node 'n1' and this object".to_owned());

    let get = |resource, name| Attributes { resource, name, ..base(&n1) };
    assert_eq!(ask(&authorizer, &get("secrets", "mine")), None);
    assert_eq!(ask(&authorizer, &get("secrets", "yours")), unrelated);
    for (resource, name) in
        [("configmaps", "settings"), ("configmaps", "kube-root-ca.crt"), ("persistentvolumeclaims", "disk")]
    {
        assert_eq!(ask(&authorizer, &get(resource, name)), None, "{resource} {name}");
        let stranger = Attributes { user: &n3, ..get(resource, name) };
        assert!(ask(&authorizer, &stranger).is_some(), "{resource} {name}");
    }
    let volume = Attributes { namespace: "", ..get("persistentvolumes", "pv") };
    assert_eq!(ask(&authorizer, &volume), None);
    assert_eq!(ask(&authorizer, &get("secrets", "key")), None, "the volume is mounted with it");
    assert!(ask(&authorizer, &Attributes { user: &n3, ..get("secrets", "key") }).is_some());
    assert_eq!(ask(&authorizer, &get("secrets", "not-for-nodes")), unrelated);
    let listing = Attributes { verb: "list", ..get("secrets", "") };
    assert_eq!(ask(&authorizer, &listing).as_deref(), Some("No Object name found"));
    let token = Attributes { verb: "create", subresource: "token", ..get("serviceaccounts", "robot") };
    assert_eq!(ask(&authorizer, &token), None);
    assert_eq!(ask(&authorizer, &Attributes { name: "other", ..token }), unrelated);

    // The secret of a pod that is gone, or was made anew elsewhere, is out of reach again.
    view.remove("pods", "a", "one");
    assert_eq!(ask(&authorizer, &get("secrets", "mine")), unrelated);
    assert!(ask(&authorizer, &token).is_some());
    pod(&view, "one", "n1", "mine");
    assert_eq!(ask(&authorizer, &get("secrets", "mine")), None);
}

#[test]
fn pods_nodes_and_leases_are_its_own() {
    let view = TestView::shared();
    let authorizer = NodeAuthorizer::new(view.clone());
    pod(&view, "one", "n1", "s");
    pod(&view, "two", "n2", "s");
    let n1 = User::new("system:node:n1", &["system:nodes"]);
    let pods = |verb, name, fields| Attributes { resource: "pods", verb, name, fields, ..base(&n1) };
    let node = |verb, name| Attributes { resource: "nodes", namespace: "", verb, name, ..base(&n1) };
    let lease = |verb, namespace, name| Attributes {
        group: "coordination.k8s.io",
        resource: "leases",
        verb,
        namespace,
        name,
        ..base(&n1)
    };
    let slices = |verb, fields| Attributes {
        group: "resource.k8s.io",
        resource: "resourceslices",
        namespace: "",
        verb,
        fields,
        ..base(&n1)
    };
    let cases = [
        (pods("get", "one", ""), None),
        (pods("get", "two", ""), Some("no relationship found between node 'n1' and this object")),
        (pods("list", "", "spec.nodeName=n1"), None),
        (pods("watch", "", "status.phase=Running,spec.nodeName=n1"), None),
        (pods("list", "", "spec.nodeName=n2"), Some("can only list/watch pods with spec.nodeName field selector")),
        (pods("list", "", "spec.nodeName!=n1"), Some("can only list/watch pods with spec.nodeName field selector")),
        (pods("update", "one", ""), Some("")),
        (Attributes { subresource: "status", ..pods("patch", "one", "") }, None),
        (node("get", "n1"), None),
        (node("get", "n2"), Some("node 'n1' cannot read 'n2', only its own Node object")),
        (node("list", ""), Some("node 'n1' cannot read all nodes, only its own Node object")),
        (node("delete", "n1"), Some("")),
        (lease("update", "kube-node-lease", "n1"), None),
        (
            lease("update", "kube-node-lease", "n2"),
            Some("can only access node lease with the same name as the requesting node"),
        ),
        (lease("get", "default", "n1"), Some("can only access leases in the \"kube-node-lease\" system namespace")),
        (slices("deletecollection", "spec.driver=d,spec.nodeName=n1"), None),
        (
            slices("deletecollection", "spec.nodeName=n2"),
            Some("can only list/watch/deletecollection resourceslices with nodeName field selector"),
        ),
        (
            slices("deletecollection", ""),
            Some("can only list/watch/deletecollection resourceslices with nodeName field selector"),
        ),
        (slices("update", ""), Some("")),
        (Attributes { resource: "services", verb: "list", namespace: "", ..base(&n1) }, None),
        (Attributes { resource: "services", verb: "create", ..base(&n1) }, Some("")),
    ];
    for (attributes, expected) in cases {
        assert_eq!(ask(&authorizer, &attributes).as_deref(), expected, "{attributes:?}");
    }
    let impostor = User::new("system:node:n1", &[]);
    assert!(ask(&authorizer, &Attributes { user: &impostor, ..pods("get", "one", "") }).is_some());
}
