use super::*;
use serde_json::{Value, json};
use skiff_meta::patch::merge_patch;

/// What the signer is told.
const LONGEST: Duration = Duration::from_secs(86_400);
const NOW: &str = "2026-01-01T12:00:00Z";
const NODE: [&str; 2] = ["digital signature", "client auth"];

fn object(signer: &str, usages: &[&str], change: Value) -> CertificateSigningRequest {
    let value = json!({"metadata": {"name": "r", "creationTimestamp": "2026-01-01T11:00:00Z"},
        "spec": {"request": "", "signerName": signer, "usages": usages, "username": "system:node:a"}});
    serde_json::from_value(merge_patch(&value, &change)).expect("a request")
}

fn node() -> Request {
    let organizations = vec!["system:nodes".to_owned()];
    Request { common_name: "system:node:a".to_owned(), organizations, ..Request::default() }
}

fn decided(type_: &str, at: &str) -> Value {
    json!({"status": {"conditions": [{"type": type_, "status": "True", "lastUpdateTime": at}]}})
}

fn planned(object: &CertificateSigningRequest, request: &Request) -> Step {
    plan(object, Some(request), LONGEST, NOW.parse().unwrap()).step
}

#[test]
fn only_kubelets_are_approved_by_themselves() {
    let table: [(&str, CertificateSigningRequest, Request, &[&str]); 6] = [
        ("its own", object(KUBELET_CLIENT, &NODE, json!({})), node(), &["selfnodeclient", "nodeclient"]),
        ("a new node's", object(KUBELET_CLIENT, &NODE, json!({"spec": {"username": "x"}})), node(), &["nodeclient"]),
        ("a serving one", object(KUBELET_SERVING, &NODE, json!({})), node(), &[]),
        ("a user's", object(CLIENT, &NODE, json!({})), node(), &[]),
        ("with names", object(KUBELET_CLIENT, &NODE, json!({})), Request { dns: 1, ..node() }, &[]),
        ("other usages", object(KUBELET_CLIENT, &["server auth"], json!({})), node(), &[]),
    ];
    for (name, object, request, expected) in table {
        let found = match planned(&object, &request) {
            Step::Approve(permissions) => permissions.into_iter().map(|(subresource, _)| subresource).collect(),
            Step::Wait => Vec::new(),
            other => panic!("{name}: {other:?}"),
        };
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn approved_requests_are_signed_or_fail() {
    let approved = decided("Approved", "2026-01-01T11:59:00Z");
    let serving = Request { ip: 1, ..node() };
    let table = [
        ("kubelet client", KUBELET_CLIENT, NODE.to_vec(), node(), "signs"),
        ("not a node", KUBELET_CLIENT, NODE.to_vec(), Request::default(), "subject organization is not system:nodes"),
        (
            "kubelet serving",
            KUBELET_SERVING,
            vec!["digital signature", "key encipherment", "server auth"],
            serving,
            "signs",
        ),
        (
            "serving without a name",
            KUBELET_SERVING,
            vec!["digital signature", "server auth"],
            node(),
            "DNS or IP subjectAltName is required",
        ),
        ("client", CLIENT, vec!["client auth"], Request::default(), "signs"),
        (
            "client that serves",
            CLIENT,
            vec!["server auth"],
            Request::default(),
            "invalid usage for client certificate: server auth",
        ),
        (
            "client without a use",
            CLIENT,
            vec!["digital signature"],
            Request::default(),
            "missing required usage for client certificate: client auth",
        ),
        ("legacy", LEGACY, vec!["code signing"], Request::default(), "signs"),
        ("somebody else's", "example.com/mine", vec!["client auth"], Request::default(), "waits"),
    ];
    for (name, signer, usages, request, expected) in table {
        let found = match planned(&object(signer, &usages, approved.clone()), &request) {
            Step::Sign(_) => "signs".to_owned(),
            Step::Fail(why) => why,
            Step::Wait => "waits".to_owned(),
            other => panic!("{name}: {other:?}"),
        };
        assert_eq!(found, expected, "{name}");
    }
    let denied = merge_patch(&approved, &decided("Denied", NOW));
    assert_eq!(planned(&object(LEGACY, &[], denied), &node()), Step::Wait);
}

#[test]
fn lifetimes_have_bounds() {
    let now: Timestamp = NOW.parse().unwrap();
    let table = [
        (None, SignedDuration::from_hours(24) - BACKDATE),
        (Some(60), SHORTEST),
        (Some(3600), SignedDuration::from_hours(1)),
        (Some(86_399), SignedDuration::from_secs(86_399) - BACKDATE),
        (Some(i32::MAX), SignedDuration::from_hours(24) - BACKDATE),
    ];
    for (seconds, expected) in table {
        let validity = validity(seconds, LONGEST, now);
        let lasts = validity.end.duration_since(now);
        assert_eq!((now.duration_since(validity.begin), lasts), (BACKDATE, expected), "{seconds:?}");
    }
}

#[test]
fn old_requests_go() {
    let issued = |at: &str| merge_patch(&decided("Approved", at), &json!({"status": {"certificate": "eA=="}}));
    let table = [
        ("nobody decided", json!({"metadata": {"creationTimestamp": "2025-12-31T11:00:00Z"}}), true),
        ("may be decided", json!({}), false),
        ("denied", decided("Denied", "2026-01-01T10:59:00Z"), true),
        ("just denied", decided("Denied", "2026-01-01T11:30:00Z"), false),
        ("issued", issued("2026-01-01T10:59:00Z"), true),
        ("approved, not issued", decided("Approved", "2026-01-01T10:59:00Z"), false),
        ("never issued", decided("Approved", "2025-12-31T11:59:00Z"), true),
    ];
    for (name, change, gone) in table {
        let plan = plan(&object("example.com/mine", &[], change), Some(&node()), LONGEST, NOW.parse().unwrap());
        assert_eq!((plan.step == Step::Delete, plan.look_again.is_none()), (gone, gone), "{name}");
    }
}
