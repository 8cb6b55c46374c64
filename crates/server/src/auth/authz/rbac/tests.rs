//! Roles and bindings over a changing cache.

use std::sync::Arc;

use serde_json::{Value, json};
use skiff_meta::{GroupVersionKind, GroupVersionResource, Status};

use super::*;
use crate::auth::testing::{TestView, block_on};
use crate::chain::{Admission, AdmissionRequest, Extra, Notes, Operation};

const GROUP: &str = "rbac.authorization.k8s.io";

fn put(view: &TestView, object: Value) {
    let kind = object["kind"].as_str().unwrap().to_lowercase();
    view.put(&format!("{kind}s.{GROUP}"), object);
}

fn role(namespace: &str, name: &str, rules: Value) -> Value {
    let kind = if namespace.is_empty() { "ClusterRole" } else { "Role" };
    let apiversion = format!("{GROUP}/v1");
    json!({"apiVersion": apiversion, "kind": kind, "metadata": {"name": name, "namespace": namespace}, "rules": rules})
}

fn binding(namespace: &str, name: &str, (kind, role): (&str, &str), subjects: Value) -> Value {
    let own = if namespace.is_empty() { "ClusterRoleBinding" } else { "RoleBinding" };
    json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": own, "metadata": {"name": name, "namespace": namespace},
        "roleRef": {"apiGroup": GROUP, "kind": kind, "name": role}, "subjects": subjects,
    })
}

fn decide(rbac: &Rbac, user: &User, verb: &str, resource: &str, namespace: &str) -> Decision {
    block_on(rbac.authorize(&attributes(user, verb, resource, namespace)))
}

fn attributes<'a>(user: &'a User, verb: &'a str, resource: &'a str, namespace: &'a str) -> Attributes<'a> {
    let (group, version, subresource, name, fields, path) = ("", "v1", "", "", "", "");
    Attributes { user, verb, group, version, resource, subresource, namespace, name, fields, labels: "", path }
}

fn may(rbac: &Rbac, user: &User, verb: &str, resource: &str, namespace: &str) -> bool {
    matches!(decide(rbac, user, verb, resource, namespace), Decision::Allow(_))
}

#[test]
fn bindings_grant_where_they_are_and_to_whom_they_name() {
    let view = TestView::shared();
    let rbac = Rbac::new(view.clone());
    let read = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}]);
    put(&view, role("", "reader", read.clone()));
    put(&view, role("a", "reader", read));
    put(&view, binding("", "cluster", ("ClusterRole", "reader"), json!([{"kind": "Group", "name": "ops"}])));
    put(
        &view,
        binding("a", "cluster-role-here", ("ClusterRole", "reader"), json!([{"kind": "User", "name": "alice"}])),
    );
    put(&view, binding("a", "own-role", ("Role", "reader"), json!([{"kind": "ServiceAccount", "name": "robot"}])));
    put(
        &view,
        binding(
            "b",
            "elsewhere",
            ("Role", "reader"),
            json!([{"kind": "ServiceAccount", "name": "robot", "namespace": "a"}]),
        ),
    );

    let (ops, alice) = (User::new("x", &["ops"]), User::new("alice", &[]));
    let robot = User::new("system:serviceaccount:a:robot", &[]);
    let cases = [
        (&ops, "list", "", true),
        (&ops, "list", "anywhere", true),
        (&ops, "delete", "a", false),
        (&alice, "list", "a", true),
        (&alice, "list", "b", false),
        (&alice, "list", "", false),
        (&robot, "get", "a", true),
        (&robot, "get", "b", false),
    ];
    for (user, verb, namespace, expected) in cases {
        assert_eq!(may(&rbac, user, verb, "pods", namespace), expected, "{} {verb} {namespace}", user.name);
    }
    let reason = |user: &User, namespace: &str| match decide(&rbac, user, "get", "pods", namespace) {
        Decision::Allow(reason) | Decision::Deny(reason) | Decision::NoOpinion(reason) => reason,
    };
    assert_eq!(
        reason(&ops, "a"),
        r#"RBAC: allowed by ClusterRoleBinding "cluster" of ClusterRole "reader" to Group "ops""#
    );
    assert_eq!(
        reason(&robot, "a"),
        r#"RBAC: allowed by RoleBinding "own-role/a" of Role "reader" to ServiceAccount "robot/a""#
    );
    assert_eq!(reason(&robot, "b"), r#"RBAC: role.rbac.authorization.k8s.io "reader" not found"#);
}

#[test]
fn follows_every_change() {
    let view = TestView::shared();
    let rbac = Rbac::new(view.clone());
    let alice = User::new("alice", &[]);
    let list = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}]);
    let subjects = json!([{"kind": "User", "name": "alice"}]);
    let check = |expected: bool| assert_eq!(may(&rbac, &alice, "list", "pods", "a"), expected);

    check(false);
    put(&view, role("", "lister", list.clone()));
    put(&view, binding("a", "b", ("ClusterRole", "lister"), subjects.clone()));
    check(true);
    put(&view, role("", "lister", json!([])));
    check(false);
    put(&view, role("", "lister", list));
    check(true);
    put(&view, binding("a", "b", ("ClusterRole", "lister"), json!([{"kind": "User", "name": "bob"}])));
    check(false);
    view.forget_history();
    put(&view, binding("a", "b", ("ClusterRole", "lister"), subjects));
    check(true);
    view.remove("clusterroles.rbac.authorization.k8s.io", "", "lister");
    check(false);
}

#[test]
fn a_removed_binding_leaves_nothing_behind() {
    let view = TestView::shared();
    let index: Followed<RbacIndex> = Followed::new(view.clone());
    let empty = format!("{:?}", *index.read());
    let subjects = json!([
        {"kind": "User", "name": "u"}, {"kind": "Group", "name": "g"}, {"kind": "ServiceAccount", "name": "s", "namespace": "n"},
    ]);
    put(&view, role("n", "r", json!([])));
    put(&view, binding("n", "one", ("Role", "r"), subjects.clone()));
    put(&view, binding("", "two", ("ClusterRole", "r"), subjects));
    assert_ne!(format!("{:?}", *index.read()), empty);
    view.remove("rolebindings.rbac.authorization.k8s.io", "n", "one");
    view.remove("clusterrolebindings.rbac.authorization.k8s.io", "", "two");
    view.remove("roles.rbac.authorization.k8s.io", "n", "r");
    assert_eq!(format!("{:?}", *index.read()), empty);
}

/// What an escalation check is asked with.
struct Attempt<'a> {
    user: &'a User,
    resource: &'a str,
    object: Value,
    old: Option<Value>,
}

fn attempt(view: &Arc<TestView>, attempt: &Attempt<'_>) -> Result<(), Status> {
    let rbac = Arc::new(Rbac::new(view.clone()));
    let plugin = Escalation::new(rbac.clone(), rbac);
    let resource = GroupVersionResource::new(GROUP, "v1", attempt.resource);
    let kind = GroupVersionKind::new(GROUP, "v1", attempt.object["kind"].as_str().unwrap());
    let text = |field: &str| attempt.object["metadata"][field].as_str().unwrap_or_default().to_owned();
    let (name, namespace) = (text("name"), text("namespace"));
    let request = AdmissionRequest {
        operation: if attempt.old.is_some() { Operation::Update } else { Operation::Create },
        user: attempt.user,
        resource: &resource,
        kind: &kind,
        subresource: "",
        namespace: &namespace,
        name: &name,
        old: attempt.old.as_ref(),
        dry_run: false,
        options: &Value::Null,
        view: &**view,
        notes: &Notes::default(),
        forms: &crate::admission::testing::OneForm,
        round: 0,
    };
    assert!(plugin.handles(request.operation, &resource, ""));
    block_on(plugin.validate(&request, Some(&attempt.object), &mut Extra::default()))
}

#[test]
fn nobody_hands_out_what_they_do_not_have() {
    let view = TestView::shared();
    let rule = |resource: &str, verb: &str| json!({"apiGroups": [""], "resources": [resource], "verbs": [verb]});
    let rbac_rule =
        |verb: &str, resource: &str| json!({"apiGroups": [GROUP], "resources": [resource], "verbs": [verb]});
    let to = |user: &str| json!([{"kind": "User", "name": user}]);
    put(&view, role("a", "pods", json!([rule("pods", "get")])));
    put(&view, role("", "secrets", json!([rule("secrets", "get")])));
    put(&view, role("", "trusted", json!([rbac_rule("escalate", "roles"), rbac_rule("bind", "clusterroles")])));
    put(&view, binding("a", "alice", ("Role", "pods"), to("alice")));
    put(&view, binding("", "trusted", ("ClusterRole", "trusted"), to("carol")));
    let (alice, carol) = (User::new("alice", &["system:authenticated"]), User::new("carol", &[]));
    let root = User::new("root", &["system:masters"]);

    let harmless = role("a", "new", json!([rule("pods", "get")]));
    let greedy = role("a", "new", json!([rule("secrets", "get")]));
    let mut aggregating = role("", "all", json!([]));
    aggregating["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]});
    let gift = binding("a", "gift", ("ClusterRole", "secrets"), to("bob"));
    let mut owned = greedy.clone();
    owned["metadata"]["ownerReferences"] = json!([]);

    let grabs = "user \"alice\" (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not currently \
                 held:\n{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\"]}";
    let refusal = |what: &str, why: &str| format!("{what}.{GROUP} {why}");
    let cases = [
        (&alice, "roles", harmless, None, String::new()),
        (&alice, "roles", greedy.clone(), None, refusal("roles", &format!("\"new\" is forbidden: {grabs}"))),
        (&alice, "roles", owned, Some(greedy.clone()), String::new()),
        (&carol, "roles", greedy.clone(), None, String::new()),
        (&root, "roles", greedy, None, String::new()),
        (
            &alice,
            "clusterroles",
            aggregating,
            None,
            refusal(
                "clusterroles",
                "\"all\" is forbidden: must have cluster-admin privileges to use the aggregationRule",
            ),
        ),
        (
            &alice,
            "rolebindings",
            gift.clone(),
            None,
            refusal("rolebindings", &format!("\"gift\" is forbidden: {grabs}")),
        ),
        (&carol, "rolebindings", gift, None, String::new()),
        (
            &alice,
            "rolebindings",
            binding("a", "gift", ("Role", "nowhere"), to("bob")),
            None,
            format!("role.{GROUP} \"nowhere\" not found"),
        ),
    ];
    for (user, resource, object, old, expected) in cases {
        let words =
            attempt(&view, &Attempt { user, resource, object, old }).err().map(|s| s.message).unwrap_or_default();
        assert_eq!(words, expected);
    }
}

#[test]
fn the_defaults_give_components_their_rights_and_no_more() {
    let view = TestView::shared();
    default_objects().into_iter().for_each(|object| put(&view, object));
    let rbac = Rbac::new(view);
    let scheduler = User::new("system:kube-scheduler", &["system:authenticated"]);
    let controller = User::new("system:serviceaccount:kube-system:deployment-controller", &[]);
    let anonymous = User::anonymous();
    assert!(may(&rbac, &scheduler, "list", "pods", ""));
    assert!(!may(&rbac, &scheduler, "list", "secrets", ""));
    assert!(may(&rbac, &controller, "update", "pods", "default"));
    assert!(!may(&rbac, &controller, "create", "pods", "default"));
    assert!(!may(&rbac, &anonymous, "list", "pods", ""));
    let path = |user, path| {
        let attributes = Attributes { path, ..attributes(user, "get", "", "") };
        matches!(block_on(rbac.authorize(&attributes)), Decision::Allow(_))
    };
    assert!(path(&anonymous, "/readyz") && path(&anonymous, "/version"));
    assert!(!path(&anonymous, "/api") && !path(&anonymous, "/metrics") && !path(&anonymous, "/readyz/ping"));
    assert!(path(&scheduler, "/api"));
}
