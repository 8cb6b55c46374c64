//! Pods with claims of devices: where they go, and what is said where they cannot.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaim, ResourceSlice};
use serde_json::{Value, json};

use super::{Stage, from, info, merged, node, with};
use crate::events::{Change, Event};
use crate::framework::{GiveUp, Plugin};
use crate::plugins::{DynamicResources, dynamic_resources};

/// Nodes a and b, and on some of them devices with sizes, of driver `d`.
fn stage(devices: &[(&str, &[i64])], class: Value) -> Stage {
    let mut stage = Stage::new(vec![node("a", json!({})), node("b", json!({}))]);
    for (node, sizes) in devices {
        let devices = sizes
            .iter()
            .enumerate()
            .map(|(number, size)| json!({"name": format!("d{number}"), "attributes": {"size": {"int": size}}}));
        let pool = json!({"name": node, "generation": 1, "resourceSliceCount": 1});
        let slice: ResourceSlice = from(json!({"metadata": {"name": node}, "spec": {
            "driver": "d", "pool": pool, "nodeName": node, "devices": devices.collect::<Vec<_>>()}}));
        stage.cluster.objects.devices.set_slice(node, Some(Arc::new(slice)));
    }
    let class: DeviceClass = from(merged(json!({"metadata": {"name": "gpu"}, "spec": {}}), &class));
    stage.cluster.objects.devices.set_class("gpu", Some(Arc::new(class)));
    stage
}

fn claim(name: &str, requests: Value, changes: Value) -> ResourceClaim {
    let plain = json!({
        "metadata": {"name": name, "namespace": "x", "uid": name, "resourceVersion": "1"},
        "spec": {"devices": {"requests": requests}},
    });
    from(merged(plain, &changes))
}

fn one() -> Value {
    json!([{"name": "r", "exactly": {"deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 1}}])
}

fn put(stage: &mut Stage, claim: ResourceClaim) {
    let key = ("x".to_owned(), claim.metadata.name.clone().unwrap());
    stage.cluster.objects.devices.set_claim(None, Some(&claim));
    stage.cluster.objects.resource_claims.insert(key, Arc::new(claim));
}

fn user() -> Pod {
    with("p", "1", json!({"spec": {"resourceClaims": [{"name": "c", "resourceClaimName": "c"}]}}))
}

/// What the allocation on a node looks like in a claim's status.
fn allocated_on(node: &str, users: Value) -> Value {
    let here = json!({"nodeSelectorTerms": [{"matchFields": [
        {"key": "metadata.name", "operator": "In", "values": [node]}]}]});
    let results = json!([{"driver": "d", "pool": node, "device": "d0", "request": "r"}]);
    json!({"status": {"allocation": {"nodeSelector": here, "devices": {"results": results}}, "reservedFor": users}})
}

#[test]
fn where_the_devices_are() {
    let refused = |what: &str, given_up: &str| {
        format!(
            "0/2 nodes are available: {what}. {given_up}, preemption: 0/2 nodes are available: 2 Preemption is not helpful \
             for scheduling."
        )
    };
    let before = |what: &str| refused(what, "no new claims to deallocate");
    let of = |requests: Value, changes: Value| move |stage: &mut Stage| put(stage, claim("c", requests, changes));
    type Setup = Box<dyn FnOnce(&mut Stage)>;
    type Case<'a> = (&'a str, &'a [(&'a str, &'a [i64])], Setup, String);
    let alternatives = json!([{"name": "r", "firstAvailable": [
        {"name": "large", "deviceClassName": "gpu", "selectors": [{"cel": {"expression": "device.attributes['d'].size > 5"}}]},
        {"name": "any", "deviceClassName": "gpu"}]}]);
    let selects = |expression: &str| json!([{"name": "r", "exactly": {"deviceClassName": "gpu", "selectors": [{"cel": {"expression": expression}}]}}]);
    let none_left = refused("2 cannot allocate all claims", "still not schedulable");
    let cases: Vec<Case<'_>> = vec![
        ("where the device is", &[("b", &[1])], Box::new(of(one(), json!({}))), "b".to_owned()),
        ("no devices", &[], Box::new(of(one(), json!({}))), none_left.clone()),
        ("no claim", &[], Box::new(|_| {}), before("resourceclaim.resource.k8s.io \"c\" not found")),
        (
            "a claim that goes",
            &[],
            Box::new(of(one(), json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}))),
            before("resourceclaim \"c\" is being deleted"),
        ),
        (
            "no class",
            &[],
            Box::new(of(json!([{"name": "r", "exactly": {"deviceClassName": "tpu"}}]), json!({}))),
            before("request r: device class tpu does not exist"),
        ),
        (
            "on its way already",
            &[("a", &[1])],
            Box::new(|stage| {
                put(stage, claim("c", one(), json!({})));
                stage.cluster.objects.devices.promise("c", Arc::default());
            }),
            before("resource claim x/c is in the process of being allocated"),
        ),
        ("the better alternative", &[("a", &[1]), ("b", &[9])], Box::new(of(alternatives, json!({}))), "b".to_owned()),
        (
            "a selector that fails",
            &[("a", &[1])],
            Box::new(of(selects("device.attributes['e'].none"), json!({}))),
            "running \"DynamicResources\" filter plugin: claim x/c: selector #0: CEL runtime error: no such key: none"
                .to_owned(),
        ),
        ("allocated there", &[], Box::new(of(one(), allocated_on("b", json!([])))), "b".to_owned()),
        (
            "another claim holds it",
            &[("a", &[1])],
            Box::new(|stage| {
                put(stage, claim("c", one(), json!({})));
                put(stage, claim("other", one(), allocated_on("a", json!([]))));
            }),
            none_left,
        ),
        (
            "allocated elsewhere, and nobody uses it",
            &[],
            Box::new(of(one(), allocated_on("gone", json!([])))),
            refused("2 resourceclaim not available on the node", "deallocation of ResourceClaim completed"),
        ),
        (
            "allocated elsewhere, and used by others",
            &[],
            Box::new(of(one(), allocated_on("gone", json!([{"resource": "pods", "name": "q", "uid": "q"}])))),
            refused("2 resourceclaim not available on the node", "still not schedulable"),
        ),
    ];
    for (what, devices, setup, expected) in cases {
        let mut stage = stage(devices, json!({}));
        setup(&mut stage);
        assert_eq!(stage.place(user()).unwrap_or_else(|why| why), expected, "{what}");
    }
}

#[test]
fn claims_of_templates_are_waited_for_in_silence() {
    let mut stage = stage(&[("b", &[1])], json!({}));
    let pod = |status: Value| {
        let claims = json!([{"name": "c", "resourceClaimTemplateName": "t"}]);
        with("p", "1", json!({"spec": {"resourceClaims": claims}, "status": {"resourceClaimStatuses": status}}))
    };
    assert_eq!(stage.place(pod(json!([]))), Err("waits".to_owned()));
    assert_eq!(stage.place(pod(json!([{"name": "c"}]))).as_deref(), Ok("a"), "the template asks for nothing");
    let made = json!([{"name": "c", "resourceClaimName": "made"}]);
    put(&mut stage, claim("made", one(), json!({})));
    let why = stage.place(pod(made.clone())).unwrap_err();
    assert!(why.contains("ResourceClaim x/made was not created for Pod x/p (Pod is not owner)"), "{why}");
    let owner = json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "p", "controller": true}]);
    put(&mut stage, claim("made", one(), json!({"metadata": {"ownerReferences": owner}})));
    assert_eq!(stage.place(pod(made)).as_deref(), Ok("b"));
}

#[test]
fn devices_stand_for_extended_resources() {
    let asks = |more: Value| {
        let gpu = json!({"resources": {"requests": {"x.y/gpu": "1"}}, "name": "c"});
        with("p", "1", merged(json!({"spec": {"containers": [gpu]}}), &more))
    };
    let class = json!({"spec": {"extendedResourceName": "x.y/gpu"}});
    let mut stage = stage(&[("b", &[1])], class);
    assert_eq!(stage.place(asks(json!({}))).as_deref(), Ok("b"));
    // A node with such a resource of its own uses that.
    let room = json!({"status": {"allocatable": {"x.y/gpu": "1"}}});
    stage.cluster.set_node(Arc::new(node("a", room)));
    assert_eq!(stage.choices(&asks(json!({}))), ["a", "b"]);
    let share = || "s".to_owned();
    let plan = |stage: &Stage, name: &str, pod: Pod| {
        let node = stage.cluster.node(name).expect("it is there");
        dynamic_resources::plan(&info(pod), &stage.cluster.objects, node, share)
    };
    assert!(plan(&stage, "a", asks(json!({}))).unwrap().is_empty());
    // An init container uses what others get later, and asks for what it needs beyond.
    let needs =
        |name: &str, count: i64| json!({"name": name, "resources": {"requests": {"cpu": "1", "x.y/gpu": count}}});
    let init = json!({"spec": {"initContainers": [needs("i", 1), needs("j", 3)], "containers": [needs("c", 1)]}});
    let pod = || with("p", "1", init.clone());
    let why = plan(&stage, "b", pod()).unwrap_err();
    assert_eq!(why, "cannot allocate all claims", "there is one only");
    let devices: Vec<Value> = ["d0", "d1", "d2"].iter().map(|name| json!({"name": name})).collect();
    let pool = json!({"name": "b", "generation": 2, "resourceSliceCount": 1});
    let slice: ResourceSlice = from(json!({"metadata": {"name": "b"}, "spec": {
        "driver": "d", "pool": pool, "nodeName": "b", "devices": devices}}));
    stage.cluster.objects.devices.set_slice("b", Some(Arc::new(slice)));
    let made = plan(&stage, "b", pod()).unwrap();
    let [special] = &made.reservations[..] else { panic!("{made:?}") };
    let mapped: Vec<String> = special
        .mappings
        .iter()
        .map(|m| format!("{} {} {}", m.container_name, m.resource_name, m.request_name))
        .collect();
    let expected = [
        "c x.y/gpu container-2-request-1",
        "i x.y/gpu container-2-request-1",
        "j x.y/gpu container-2-request-1",
        "j x.y/gpu container-1-request-1",
    ];
    assert_eq!(mapped, expected);
    let requests = special.claim.spec.devices.as_ref().and_then(|devices| devices.requests.as_ref()).unwrap();
    let counts: Vec<_> = requests.iter().map(|r| (r.name.as_str(), r.exactly.as_ref().unwrap().count)).collect();
    assert_eq!(counts, [("container-1-request-1", Some(2)), ("container-2-request-1", Some(1))]);
    assert_eq!(special.claim.metadata.generate_name.as_deref(), Some("p-extended-resources-"));
    // What is left of an earlier attempt goes first.
    let owner = json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "p", "controller": true}]);
    let annotations = json!({"resource.kubernetes.io/extended-resource-claim": "true"});
    put(&mut stage, claim("old", one(), json!({"metadata": {"ownerReferences": owner, "annotations": annotations}})));
    let diagnosis = stage.diagnose(asks(json!({})));
    assert!(diagnosis.to_string().contains("2 cannot schedule extended resource claim"), "{diagnosis}");
    assert!(matches!(diagnosis.give_up, Some(GiveUp::Delete(claim)) if claim.metadata.name.as_deref() == Some("old")));
}

#[test]
fn what_helps_a_pod_that_waits_for_devices() {
    let mut stage = stage(&[], json!({}));
    put(&mut stage, claim("c", one(), json!({})));
    let (own, mut other) = (claim("c", one(), json!({})), claim("o", one(), allocated_on("a", json!([]))));
    let allocated = claim("c", one(), allocated_on("a", json!([])));
    let labelled = claim("c", one(), json!({"metadata": {"labels": {"a": "b"}}}));
    let held = other.clone();
    other.status = None;
    let owner = json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "p", "controller": true}]);
    let annotations = json!({"resource.kubernetes.io/extended-resource-claim": "true"});
    let left = claim("l", one(), json!({"metadata": {"ownerReferences": owner, "annotations": annotations}}));
    let (class, slice) = (DeviceClass::default(), ResourceSlice::default());
    let pod = info(user());
    for (what, event, helps) in [
        ("its own claim is made", Event::ResourceClaim(Change { old: None, new: Some(&own) }), true),
        ("its own claim is allocated", Event::ResourceClaim(Change { old: Some(&own), new: Some(&allocated) }), true),
        ("its own claim is labelled", Event::ResourceClaim(Change { old: Some(&own), new: Some(&labelled) }), false),
        ("another is made", Event::ResourceClaim(Change { old: None, new: Some(&other) }), false),
        ("another is allocated", Event::ResourceClaim(Change { old: Some(&other), new: Some(&held) }), false),
        ("another is given back", Event::ResourceClaim(Change { old: Some(&held), new: Some(&other) }), true),
        ("another goes", Event::ResourceClaim(Change { old: Some(&other), new: None }), false),
        ("what was left of an attempt goes", Event::ResourceClaim(Change { old: Some(&left), new: None }), true),
        ("a class", Event::DeviceClass(Change { old: None, new: Some(&class) }), true),
        ("a class is gone", Event::DeviceClass(Change { old: Some(&class), new: None }), false),
        ("a slice", Event::ResourceSlice(Change { old: None, new: Some(&slice) }), true),
        ("a slice is gone", Event::ResourceSlice(Change { old: Some(&slice), new: None }), false),
        ("itself", Event::Own(Change { old: Some(&*pod), new: Some(&*pod) }), true),
    ] {
        assert_eq!(DynamicResources.hint(&pod, &event, &stage.cluster), helps, "{what}");
    }
}
