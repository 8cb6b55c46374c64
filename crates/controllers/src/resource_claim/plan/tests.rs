use super::*;
use serde_json::{Value, json};

fn from<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("a well-formed object")
}

fn pod(spec: Value, status: Value) -> Pod {
    from(json!({"metadata": {"name": "p", "namespace": "x", "uid": "u"}, "spec": spec, "status": status}))
}

fn owner(uid: &str) -> Value {
    json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid, "controller": true}])
}

fn claim(name: &str, metadata: Value, status: Value) -> Arc<ResourceClaim> {
    let mut all = json!({"name": name, "namespace": "x", "uid": name});
    all.as_object_mut().unwrap().extend(metadata.as_object().unwrap().clone());
    Arc::new(from(json!({"metadata": all, "spec": {}, "status": status})))
}

#[test]
fn what_a_pod_needs() {
    let of_template = json!({"containers": [], "resourceClaims": [{"name": "c", "resourceClaimTemplateName": "t"}]});
    let named =
        json!({"containers": [], "nodeName": "n", "resourceClaims": [{"name": "c", "resourceClaimName": "mine"}]});
    let placed = |spec: &Value| {
        let mut spec = spec.clone();
        spec["nodeName"] = json!("n");
        spec
    };
    let noted = |name: Value| json!({"resourceClaimStatuses": [{"name": "c", "resourceClaimName": name}]});
    let made = claim(
        "p-c-1",
        json!({"ownerReferences": owner("u"), "annotations": {"resource.kubernetes.io/pod-claim-name": "c"}}),
        json!({}),
    );
    let allocated = |users: Value| claim("mine", json!({}), json!({"allocation": {}, "reservedFor": users}));
    let used = json!([{"resource": "pods", "name": "p", "uid": "u"}]);
    let others = claim("p-c-1", json!({"ownerReferences": owner("other")}), json!({}));
    for (what, pod, known, template, expected) in [
        ("a claim is made", pod(of_template.clone(), json!({})), vec![], true, "make c"),
        ("there is no template", pod(of_template.clone(), json!({})), vec![], false, "missing c"),
        ("it was made, and not noted", pod(of_template.clone(), json!({})), vec![made.clone()], true, "note c=p-c-1"),
        ("it was noted", pod(of_template.clone(), noted(json!("p-c-1"))), vec![made], true, ""),
        ("it was noted, and is gone", pod(of_template.clone(), noted(json!("p-c-1"))), vec![], true, "make c"),
        ("that of an earlier pod", pod(of_template.clone(), noted(json!("p-c-1"))), vec![others], true, "make c"),
        ("nothing is needed", pod(of_template.clone(), noted(Value::Null)), vec![], true, ""),
        ("others make it", pod(named.clone(), json!({})), vec![], true, ""),
        ("to be reserved", pod(named.clone(), json!({})), vec![allocated(json!([]))], true, "reserve mine"),
        ("reserved", pod(named, json!({})), vec![allocated(used)], true, ""),
        ("on a node, and not allocated", pod(placed(&of_template), json!({})), vec![], true, "make c"),
    ] {
        let template = template.then(|| Arc::new(from::<ResourceClaimTemplate>(json!({"spec": {"spec": {}}}))));
        let find = |name: &str| known.iter().find(|claim| claim.name() == name).cloned();
        let owned: Vec<_> = known.iter().filter(|claim| is_controlled_by(&***claim, &pod)).cloned().collect();
        let needs = needs(&pod, find, &owned, |_| template.clone());
        let make = needs.make.iter().map(|(name, _)| format!("make {name}"));
        let note = needs.note.iter().map(|(name, claim)| format!("note {name}={claim}"));
        let missing = needs.missing.iter().map(|(name, _)| format!("missing {name}"));
        let reserve = needs.reserve.iter().map(|claim| format!("reserve {}", claim.name()));
        let found: Vec<String> = make.chain(note).chain(missing).chain(reserve).collect();
        assert_eq!(found.join(", "), expected, "{what}");
    }
}

#[test]
fn a_claim_of_a_template() {
    let template: ResourceClaimTemplate = from(json!({"spec": {
        "metadata": {"labels": {"a": "b"}, "annotations": {"c": "d"}},
        "spec": {"devices": {"requests": [{"name": "r"}]}}}}));
    let made = serde_json::to_value(from_template(&pod(json!({}), json!({})), "gpu", &template)).unwrap();
    let metadata = &made["metadata"];
    assert_eq!((&metadata["generateName"], &metadata["labels"]), (&json!("p-gpu-"), &json!({"a": "b"})));
    assert_eq!(metadata["annotations"], json!({"c": "d", "resource.kubernetes.io/pod-claim-name": "gpu"}));
    assert_eq!(
        (&metadata["ownerReferences"][0]["uid"], &made["spec"]["devices"]["requests"][0]["name"]),
        (&json!("u"), &json!("r"))
    );
    let long = base(&"p".repeat(60), &"c".repeat(30));
    assert_eq!((long.len() <= LONGEST_BASE, long.contains("p-c")), (true, true), "{long}");
}

#[test]
fn who_uses_a_claim_no_more() {
    let user = |name: &str| json!({"resource": "pods", "name": name, "uid": name});
    let kept = json!({"finalizers": [FINALIZER]});
    let going = json!({"finalizers": [FINALIZER], "deletionTimestamp": "2026-01-01T00:00:00Z"});
    let made = json!({"finalizers": [FINALIZER], "ownerReferences": owner("u")});
    let unused = json!({"ownerReferences": owner("u")});
    let held = |users: &[&str]| json!({"allocation": {}, "reservedFor": users.iter().map(|name| user(name)).collect::<Vec<_>>()});
    let (running, done) = (pod(json!({"nodeName": "n"}), json!({})), pod(json!({}), json!({"phase": "Succeeded"})));
    for (what, claim, left, owner, expected) in [
        ("both use it", claim("c", kept.clone(), held(&["a", "b"])), vec!["a", "b"], None, ""),
        ("one of two goes", claim("c", kept.clone(), held(&["a", "b"])), vec!["b"], None, "keeps b"),
        ("the last goes", claim("c", kept.clone(), held(&["a"])), vec![], None, "frees release"),
        ("never used", claim("c", kept.clone(), held(&[])), vec![], None, ""),
        ("never used, and deleted", claim("c", going.clone(), held(&[])), vec![], None, "frees release"),
        ("deleted before it had anything", claim("c", going.clone(), json!({})), vec![], None, "release"),
        ("deleted, and in use", claim("c", going, held(&["a"])), vec!["a"], None, ""),
        ("others allocate it", claim("c", json!({}), held(&["a"])), vec![], None, "keeps"),
        ("its pod is done", claim("c", made.clone(), held(&["p"])), vec![], Some(&done), "frees release delete"),
        ("its pod runs", claim("c", made, held(&["p"])), vec!["p"], Some(&running), ""),
        ("its pod has yet to begin", claim("c", unused.clone(), json!({})), vec![], Some(&running), ""),
        ("its pod never began", claim("c", unused.clone(), json!({})), vec![], Some(&done), "delete"),
        ("nobody knows its pod", claim("c", unused, json!({})), vec![], None, ""),
    ] {
        let left = left.into_iter().map(|name| from(user(name))).collect();
        let Settlement { status, release, delete } = settle(&claim, left, owner);
        let status = status.map(|claim| match is_allocated(&claim) {
            true => format!("keeps {}", users(&claim).iter().map(|user| &*user.name).collect::<Vec<_>>().join(" ")),
            false => "frees".to_owned(),
        });
        let words = [status, release.then(|| "release".to_owned()), delete.then(|| "delete".to_owned())];
        let found: Vec<String> = words.into_iter().flatten().map(|word| word.trim().to_owned()).collect();
        assert_eq!(found.join(" "), expected, "{what}");
    }
}
