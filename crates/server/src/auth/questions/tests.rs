//! What reviews answer.

use super::*;
use crate::auth::authn::{Accounts, Certificates};
use crate::auth::authz::rbac::default_objects;
use crate::auth::names::MASTERS;
use crate::auth::testing::{Frozen, TestView, block_on};
use crate::chain::TokenIssuer;
use crate::pki::Pki;
use skiff_meta::World;

struct Setup {
    view: Arc<TestView>,
    accounts: Arc<Accounts>,
    reviews: Reviews,
}

fn setup() -> Setup {
    let (view, world) = (TestView::shared(), Frozen::at(1_800_000_000));
    for object in default_objects() {
        let kind = object["kind"].as_str().unwrap().to_lowercase();
        view.put(&format!("{kind}s.rbac.authorization.k8s.io"), object);
    }
    let pki = Pki::in_memory(world.now()).unwrap();
    let accounts = Arc::new(Accounts::new(pki.account_key(), "me".to_owned(), view.clone(), world.clone()));
    let certificates = Certificates::new(pki.client_verifier().unwrap());
    let authenticators = Arc::new(Authenticators::new(certificates, accounts.clone(), None));
    let authorizers =
        Arc::new(Authorizers::new(crate::Live::shared(Default::default()), view.clone(), &(world.clone() as WorldRef)));
    Setup { view, accounts, reviews: Reviews { authenticators, authorizers, world } }
}

fn ask(setup: &Setup, user: &User, resource: &str, namespace: &str, spec: Value) -> Result<Value, Status> {
    let group = if matches!(resource, "tokenreviews" | "selfsubjectreviews") { AUTHENTICATION } else { AUTHORIZATION };
    let resource = GroupVersionResource::new(group, "v1", resource);
    let metadata = if namespace.is_empty() { json!({}) } else { json!({"namespace": namespace}) };
    let question = json!({"kind": "X", "metadata": metadata, "spec": spec});
    let answer = block_on(setup.reviews.answer(&Arc::new(user.clone()), &resource, question));
    answer.unwrap().map(|answer| answer["status"].clone())
}

#[test]
fn may_i_and_may_they() {
    let setup = setup();
    let root = User::new("root", &[MASTERS]);
    let scheduler = User::new("system:kube-scheduler", &[]);
    let pods = json!({"resourceAttributes": {"verb": "list", "resource": "pods", "namespace": "a"}});
    let allowed = |user: &User, resource: &str, namespace: &str, spec| {
        ask(&setup, user, resource, namespace, spec).unwrap()["allowed"].clone()
    };
    assert_eq!(allowed(&root, "selfsubjectaccessreviews", "", pods.clone()), true);
    assert_eq!(allowed(&scheduler, "selfsubjectaccessreviews", "", pods.clone()), true);
    assert_eq!(allowed(&User::new("x", &[]), "selfsubjectaccessreviews", "", pods.clone()), false);

    let with = |user: &str, groups: Value| {
        let mut spec = pods.clone();
        (spec["user"], spec["groups"]) = (json!(user), groups);
        spec
    };
    assert_eq!(allowed(&root, "subjectaccessreviews", "", with("x", json!([]))), false);
    assert_eq!(allowed(&root, "subjectaccessreviews", "", with("x", json!(["system:masters"]))), true);
    assert_eq!(allowed(&root, "localsubjectaccessreviews", "a", with("system:kube-scheduler", json!([]))), true);
    let path = json!({"user": "x", "groups": ["system:authenticated"], "nonResourceAttributes": {"verb": "get", "path": "/api"}});
    assert_eq!(allowed(&root, "subjectaccessreviews", "", path), true);
    let selected = json!({
        "user": "system:node:n1", "groups": ["system:nodes"],
        "resourceAttributes": {
            "verb": "list", "resource": "pods",
            "fieldSelector": {"requirements": [{"key": "spec.nodeName", "operator": "In", "values": ["n1"]}]},
        },
    });
    assert_eq!(allowed(&root, "subjectaccessreviews", "", selected), true);
}

#[test]
fn what_is_not_understood_of_a_selector_is_left_out_and_told() {
    let setup = setup();
    let root = User::new("root", &[MASTERS]);
    let requirement = |operator: &str| json!({"key": "a", "operator": operator, "values": ["b"]});
    let told = |name: &str, how: &str| json!(format!("spec.resourceAttributes.{name} {how} due to parse error"));
    for (name, selector, expected) in [
        ("labelSelector", json!({"requirements": [requirement("In")]}), Value::Null),
        ("labelSelector", json!({"requirements": [requirement("Like")]}), told("labelSelector", "ignored")),
        (
            "labelSelector",
            json!({"requirements": [requirement("Like"), requirement("NotIn")]}),
            told("labelSelector", "partially ignored"),
        ),
        ("fieldSelector", json!({"rawSelector": "a=b"}), Value::Null),
        ("fieldSelector", json!({"rawSelector": "a"}), told("fieldSelector", "ignored")),
    ] {
        let mut spec = json!({"user": "x", "resourceAttributes": {"verb": "list", "resource": "pods"}});
        spec["resourceAttributes"][name] = selector.clone();
        let review = ask(&setup, &root, "subjectaccessreviews", "", spec).unwrap();
        assert_eq!(review["evaluationError"], expected, "{selector}");
    }
}

#[test]
fn malformed_questions_are_refused() {
    let setup = setup();
    let root = User::new("root", &[MASTERS]);
    let cases = [
        (
            "subjectaccessreviews",
            "",
            json!({"user": "x"}),
            "exactly one of nonResourceAttributes or resourceAttributes",
        ),
        (
            "subjectaccessreviews",
            "",
            json!({"resourceAttributes": {}}),
            "at least one of user or group must be specified",
        ),
        (
            "localsubjectaccessreviews",
            "a",
            json!({"user": "x", "resourceAttributes": {"namespace": "b"}}),
            "must match metadata.namespace",
        ),
        (
            "localsubjectaccessreviews",
            "a",
            json!({"user": "x", "nonResourceAttributes": {"path": "/", "verb": "get"}}),
            "Invalid value: {\"Path\":\"/\",\"Verb\":\"get\"}: disallowed on this kind of request",
        ),
        (
            "selfsubjectaccessreviews",
            "",
            json!({"resourceAttributes": {"fieldSelector": {}}}),
            "when spec.resourceAttributes.fieldSelector is specified, requirements or rawSelector is required",
        ),
        (
            "selfsubjectaccessreviews",
            "",
            json!({"resourceAttributes": {"labelSelector": {"requirements": [{"key": "a", "operator": "In"}]}}}),
            "spec.resourceAttributes.labelSelector.requirements[0].values: Required value: must be specified when",
        ),
        ("selfsubjectaccessreviews", "a", json!({"resourceAttributes": {}}), "metadata: Invalid value"),
        ("tokenreviews", "", json!({}), "token is required for TokenReview"),
        ("selfsubjectrulesreviews", "", json!({}), "no namespace on request"),
    ];
    for (resource, namespace, spec, words) in cases {
        let status = ask(&setup, &root, resource, namespace, spec).unwrap_err();
        assert!(status.message.contains(words), "{status}");
    }
}

#[test]
fn tokens_are_reviewed() {
    let setup = setup();
    let account = setup.view.put("serviceaccounts", json!({"metadata": {"name": "robot", "namespace": "a"}}));
    let issued = block_on(setup.accounts.issue(&account, json!({}), &*setup.view)).unwrap();
    let root = User::new("root", &[MASTERS]);
    let review = |token: &Value| ask(&setup, &root, "tokenreviews", "", json!({"token": token})).unwrap();
    let good = review(&issued["status"]["token"]);
    assert_eq!((&good["authenticated"], &good["audiences"]), (&json!(true), &json!(["me"])));
    assert_eq!(good["user"]["username"], "system:serviceaccount:a:robot");
    let bad = review(&json!("x.y.z"));
    assert_eq!((&bad["authenticated"], &bad["error"]), (&Value::Null, &json!("invalid bearer token")));
}

#[test]
fn who_am_i_and_what_may_i() {
    let setup = setup();
    let robot = User { uid: "7".to_owned(), ..User::new("robot", &["system:authenticated"]) };
    let info = ask(&setup, &robot, "selfsubjectreviews", "", json!({})).unwrap()["userInfo"].clone();
    assert_eq!(info, json!({"username": "robot", "uid": "7", "groups": ["system:authenticated"]}));

    let rules = ask(&setup, &robot, "selfsubjectrulesreviews", "", json!({"namespace": "a"})).unwrap();
    assert_eq!(rules["incomplete"], false);
    let reviews = json!(["selfsubjectaccessreviews", "selfsubjectrulesreviews"]);
    assert!(rules["resourceRules"].as_array().unwrap().iter().any(|rule| rule["resources"] == reviews));
    assert!(rules["nonResourceRules"].as_array().unwrap().iter().any(|r| r["nonResourceURLs"][0] == "/api"));
    let node = User::new("system:node:n", &["system:nodes"]);
    let rules = ask(&setup, &node, "selfsubjectrulesreviews", "", json!({"namespace": "a"})).unwrap();
    assert_eq!(rules["incomplete"], true);
}
