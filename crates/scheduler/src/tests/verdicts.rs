//! One node, one pod, one verdict: a table per plugin.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::{CSINode, StorageClass};
use serde_json::{Value, json};

use super::{Stage, from, info, node, pod, with, zoned};
use crate::events::{Change, Event, matters};
use crate::framework::Plugin;
use crate::plugins::NodeDeclaredFeatures;

const SUFFIX: &str = "no new claims to deallocate, preemption: ";

/// What nodes say, without what preemption adds.
fn said(result: Result<String, String>) -> String {
    match result {
        Ok(node) => node,
        Err(message) => message.split(SUFFIX).next().unwrap_or_default().trim().to_owned(),
    }
}

fn spec(changes: Value) -> Pod {
    with("p", "100m", json!({"spec": changes}))
}

#[test]
fn nodes_and_pods() {
    let taint = |effect: &str| json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": effect}]}});
    let port = |ip: &str, protocol: &str| json!([{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80, "hostIP": ip, "protocol": protocol}]}]);
    let named = |name: &str| {
        let field = json!({"key": "metadata.name", "operator": "In", "values": [name]});
        let required = json!({"nodeSelectorTerms": [{"matchFields": [field]}]});
        spec(json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}}))
    };
    let asks = |resource: &str, amount: &str| {
        spec(json!({"containers": [{"name": "c", "resources": {"requests": {resource: amount}}}]}))
    };
    let cordoned = json!({"spec": {"unschedulable": true}});
    let tolerates = |key: &str| json!({"tolerations": [{"key": key, "operator": "Exists"}]});
    let restarts_all = |list: &str| {
        let rule = json!({"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [42]}});
        spec(json!({list: [{"name": "c", "restartPolicyRules": [rule]}]}))
    };
    let declares = |features: &[&str]| json!({"status": {"declaredFeatures": features}});
    let featureless = "node(s) didn't match Pod's required features";
    let affinity = "node(s) didn't match Pod's node affinity/selector";
    let tainted = "node(s) had untolerated taint(s)";
    for (what, pod, node_change, refused) in [
        ("plain", pod("p", "100m"), json!({}), ""),
        ("cordoned", pod("p", "100m"), cordoned.clone(), "node(s) were unschedulable"),
        ("cordon tolerated", spec(tolerates("node.kubernetes.io/unschedulable")), cordoned, ""),
        ("named", spec(json!({"nodeName": "b"})), json!({}), "node(s) didn't match the requested node name"),
        ("taint", pod("p", "100m"), taint("NoSchedule"), tainted),
        ("taint that evicts", pod("p", "100m"), taint("NoExecute"), tainted),
        ("soft taint", pod("p", "100m"), taint("PreferNoSchedule"), ""),
        ("taint tolerated", spec(tolerates("k")), taint("NoSchedule"), ""),
        ("selector", spec(json!({"nodeSelector": {"zone": "b"}})), json!({}), affinity),
        ("selected", spec(json!({"nodeSelector": {"kubernetes.io/hostname": "a"}})), json!({}), ""),
        ("by field", named("a"), json!({}), ""),
        ("by another's", named("b"), json!({}), "node(s) didn't satisfy plugin(s) [NodeAffinity]"),
        ("cpu", pod("p", "3"), json!({}), "Insufficient cpu"),
        ("memory", asks("memory", "2Gi"), json!({}), "Insufficient memory"),
        ("storage", asks("ephemeral-storage", "1"), json!({}), "Insufficient ephemeral-storage"),
        ("extended", asks("x.y/z", "1"), json!({}), "Insufficient x.y/z"),
        ("has it", asks("x.y/z", "1"), json!({"status": {"allocatable": {"x.y/z": "1"}}}), ""),
        ("overhead", spec(json!({"overhead": {"cpu": "2"}})), json!({}), "Insufficient cpu"),
        ("pods", pod("p", "100m"), json!({"status": {"allocatable": {"pods": "0"}}}), "Too many pods"),
        ("port", spec(json!({"containers": port("", "TCP")})), json!({}), ""),
        ("feature", restarts_all("containers"), json!({}), featureless),
        ("feature of an init container", restarts_all("initContainers"), declares(&["Other"]), featureless),
        ("feature declared", restarts_all("containers"), declares(&["RestartAllContainersOnContainerExits"]), ""),
        ("users", spec(json!({"hostNetwork": true, "hostUsers": false})), json!({}), featureless),
    ] {
        let found = said(Stage::new(vec![node("a", node_change)]).place(pod));
        let expected =
            if refused.is_empty() { "a".to_owned() } else { format!("0/1 nodes are available: 1 {refused}.") };
        assert_eq!(found, expected, "{what}");
    }
    for (ip, protocol, free) in [("", "TCP", false), ("10.0.0.1", "TCP", false), ("", "UDP", true)] {
        let mut stage = Stage::new(vec![node("a", json!({}))]);
        stage.put(with("other", "0", json!({"spec": {"containers": port("", "TCP")}})), "a");
        let found = said(stage.place(spec(json!({"containers": port(ip, protocol)}))));
        assert_eq!(found == "a", free, "{ip} {protocol}: {found}");
    }
}

#[test]
fn declared_features_wake_who_needs_them() {
    let rule = json!({"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [42]}});
    let needs = info(spec(json!({"containers": [{"name": "c", "restartPolicyRules": [rule]}]})));
    let plain = info(spec(json!({})));
    let declares = |feature: &str| node("a", json!({"status": {"declaredFeatures": [feature]}}));
    let (one, other) = (declares("A"), declares("B"));
    let stage = Stage::new(vec![]);
    for (what, event, helps) in [
        ("new", Event::Node(Change { old: None, new: Some(&one) }), true),
        ("changed", Event::Node(Change { old: Some(&one), new: Some(&other) }), true),
        ("the same", Event::Node(Change { old: Some(&one), new: Some(&one) }), false),
        ("gone", Event::Node(Change { old: Some(&one), new: None }), false),
        ("needs nothing more", Event::Own(Change { old: Some(&*needs), new: Some(&*plain) }), true),
        ("needs the same", Event::Own(Change { old: Some(&*needs), new: Some(&*needs) }), false),
    ] {
        assert_eq!(NodeDeclaredFeatures.hint(&needs, &event, &stage.cluster), helps, "{what}");
    }
    assert!(matters(&one, &other) && !matters(&one, &one.clone()));
}

#[test]
fn every_reason_is_counted() {
    let mut stage = Stage::new(vec![
        node("a", json!({})),
        node("b", json!({"status": {"allocatable": {"memory": "1Mi"}}})),
        node("c", json!({"spec": {"unschedulable": true}})),
    ]);
    let expected = "0/3 nodes are available: 1 Insufficient memory, 1 node(s) were unschedulable, 2 Insufficient cpu. \
                    no new claims to deallocate, preemption: 0/3 nodes are available: \
                    3 Preemption is not helpful for scheduling.";
    assert_eq!(stage.place(pod("p", "4")), Err(expected.to_owned()));
    stage.put(pod("q", "1500m"), "a");
    let expected = "0/3 nodes are available: 1 Insufficient cpu, 1 Insufficient memory, 1 node(s) were unschedulable. \
                    no new claims to deallocate, preemption: 0/3 nodes are available: \
                    1 No preemption victims found for incoming pod, 2 Preemption is not helpful for scheduling.";
    assert_eq!(stage.place(pod("p", "1")), Err(expected.to_owned()));
    assert_eq!(Stage::new(vec![]).place(pod("p", "1")), Err("no nodes available to schedule pods".to_owned()));
}

fn labelled(name: &str, app: &str, spec: Value) -> Pod {
    with(name, "100m", json!({"metadata": {"labels": {"app": app}}, "spec": spec}))
}

fn spread(key: &str, changes: Value) -> Value {
    let constraint = json!({
        "maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "web"}},
    });
    json!({"topologySpreadConstraints": [super::merged(constraint, &changes)]})
}

const ZONE: &str = "topology.kubernetes.io/zone";

#[test]
fn spreading() {
    let skewed = "node(s) didn't match pod topology spread constraints";
    let tainted = json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}});
    let in_zones = json!({"nodeSelector": {ZONE: "one"}});
    // Zone one: a with two pods; zone two: b with one; c has no zone.
    for (what, constraint, also, expected) in [
        ("the emptier zone", json!({}), json!({}), "b"),
        ("three zones are wanted", json!({"minDomains": 3}), json!({}), "3"),
        ("a larger skew", json!({"maxSkew": 3}), json!({}), "a b"),
        ("other pods", json!({"labelSelector": {"matchLabels": {"app": "db"}}}), json!({}), "a b"),
        ("only zones it may go to", json!({}), in_zones.clone(), "a"),
        ("all zones all the same", json!({"nodeAffinityPolicy": "Ignore"}), in_zones, "3"),
    ] {
        let mut stage = Stage::new(vec![zoned("a", "one"), zoned("b", "two"), node("c", json!({}))]);
        for (name, place) in [("1", "a"), ("2", "a"), ("3", "b")] {
            stage.put(labelled(name, "web", json!({})), place);
        }
        let pod = labelled("p", "web", super::merged(spread(ZONE, constraint), &also));
        let found = stage.choices(&pod).join(" ");
        match expected {
            "3" => assert!(stage.place(pod).is_err_and(|message| message.contains(skewed)), "{what}: {found}"),
            nodes => assert_eq!(found, if nodes == "a b" { "b" } else { nodes }, "{what}"),
        }
    }
    // A tainted zone is a domain unless taints are honored.
    for (policy, expected) in [("Ignore", false), ("Honor", true)] {
        let far = super::merged(json!(zoned("b", "two")), &tainted);
        let mut stage = Stage::new(vec![zoned("a", "one"), from(far)]);
        stage.put(labelled("1", "web", json!({})), "a");
        let found = stage.place(labelled("p", "web", spread(ZONE, json!({"nodeTaintsPolicy": policy}))));
        assert_eq!(found.is_ok(), expected, "{policy}: {found:?}");
    }
    let mut stage = Stage::new(vec![node("c", json!({}))]);
    let found = said(stage.place(labelled("p", "web", spread(ZONE, json!({})))));
    assert_eq!(found, format!("0/1 nodes are available: 1 {skewed} (missing required label)."));
}

fn near(kind: &str, app: &str, changes: Value) -> Value {
    let term = json!({"topologyKey": ZONE, "labelSelector": {"matchLabels": {"app": app}}});
    json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [super::merged(term, &changes)]}}})
}

#[test]
fn near_and_far() {
    let (to, away) = ("podAffinity", "podAntiAffinity");
    let nodes = || vec![zoned("a", "one"), zoned("b", "two")];
    for (what, placed, incoming, expected) in [
        ("near", json!({}), near(to, "db", json!({})), "a"),
        ("far", json!({}), near(away, "db", json!({})), "b"),
        ("near nobody", json!({}), near(to, "none", json!({})), "node(s) didn't match pod affinity rules"),
        ("the first of its kind", json!({}), near(to, "web", json!({})), "a b"),
        ("others want it far", near(away, "web", json!({})), json!({}), "b"),
        ("others do not mean it", near(away, "db", json!({})), json!({}), "a b"),
        (
            "another namespace",
            json!({}),
            near(to, "db", json!({"namespaces": ["y"]})),
            "node(s) didn't match pod affinity rules",
        ),
        ("all namespaces", json!({}), near(away, "db", json!({"namespaceSelector": {}})), "b"),
        (
            "namespaces by label",
            json!({}),
            near(away, "db", json!({"namespaceSelector": {"matchLabels": {"team": "a"}}})),
            "b",
        ),
        (
            "other labels",
            json!({}),
            near(away, "db", json!({"namespaceSelector": {"matchLabels": {"team": "b"}}})),
            "a b",
        ),
    ] {
        let mut stage = Stage::new(nodes());
        stage.cluster.set_namespace("x", Some([("team".to_owned(), "a".to_owned())].into()));
        stage.put(labelled("1", "db", placed), "a");
        let pod = labelled("p", "web", incoming);
        let found = stage.choices(&pod).join(" ");
        if expected.starts_with("node(s)") {
            assert_eq!(said(stage.place(pod)), format!("0/2 nodes are available: 2 {expected}."), "{what}");
        } else {
            // The other node is emptier: where both will do, it is chosen.
            assert_eq!(found, if expected == "a b" { "b" } else { expected }, "{what}");
        }
    }
    let mut stage = Stage::new(vec![zoned("a", "one")]);
    stage.put(labelled("1", "db", near(away, "web", json!({}))), "a");
    let rules = "node(s) didn't satisfy existing pods anti-affinity rules";
    assert_eq!(said(stage.place(labelled("p", "web", json!({})))), format!("0/1 nodes are available: 1 {rules}."));
    assert_eq!(
        said(stage.place(labelled("p", "db", near(away, "db", json!({}))))),
        "0/1 nodes are available: 1 node(s) didn't match pod anti-affinity rules."
    );
}

fn claim(name: &str, class: &str, changes: Value) -> PersistentVolumeClaim {
    let plain = json!({
        "metadata": {"name": name, "namespace": "x", "uid": name, "annotations": {}},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": class, "resources": {"requests": {"storage": "1Gi"}}},
    });
    from(super::merged(plain, &changes))
}

fn volume(name: &str, changes: Value) -> PersistentVolume {
    let plain = json!({
        "metadata": {"name": name},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "local", "capacity": {"storage": "2Gi"}},
        "status": {"phase": "Available"},
    });
    from(super::merged(plain, &changes))
}

fn on_host(name: &str) -> Value {
    let term = json!({"key": "kubernetes.io/hostname", "operator": "In", "values": [name]});
    json!({"spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [term]}]}}}})
}

fn bound_to(volume: &str) -> Value {
    json!({"metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}}, "spec": {"volumeName": volume}})
}

#[test]
fn volumes() {
    let class = |name: &str, provisioner: &str, changes: Value| -> StorageClass {
        let plain = json!({"metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": "WaitForFirstConsumer"});
        from(super::merged(plain, &changes))
    };
    let in_zone = json!({"metadata": {"labels": {ZONE: "two"}}});
    let small = json!({"spec": {"capacity": {"storage": "1Mi"}}});
    let both = |a: Value, b: Value| super::merged(a, &b);
    for (what, claim, volume, expected) in [
        ("bound, on a", claim("c", "local", bound_to("v")), volume("v", on_host("a")), "a"),
        ("bound, in zone two", claim("c", "local", bound_to("v")), volume("v", in_zone), "b"),
        (
            "bound to nothing",
            claim("c", "local", bound_to("w")),
            volume("v", json!({})),
            "persistentvolume \"w\" not found",
        ),
        ("free, on b", claim("c", "local", json!({})), volume("v", on_host("b")), "b"),
        (
            "too small",
            claim("c", "local", json!({})),
            volume("v", both(on_host("b"), small)),
            "2 node(s) didn't find available persistent volumes to bind",
        ),
        ("to be provisioned", claim("c", "fast", json!({})), volume("v", json!({})), "b"),
        (
            "on the chosen node",
            claim("c", "fast", json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": "b"}}})),
            volume("v", json!({})),
            "b",
        ),
        (
            "not to be waited for",
            claim("c", "now", json!({})),
            volume("v", json!({})),
            "pod has unbound immediate PersistentVolumeClaims",
        ),
        (
            "lost",
            claim("c", "local", json!({"status": {"phase": "Lost"}, "spec": {"volumeName": "v"}})),
            volume("v", json!({})),
            "persistentvolumeclaim \"c\" bound to non-existent persistentvolume \"v\"",
        ),
        (
            "missing",
            claim("other", "local", json!({})),
            volume("v", json!({})),
            "persistentvolumeclaim \"c\" not found",
        ),
    ] {
        let mut stage = Stage::new(vec![zoned("a", "one"), zoned("b", "two")]);
        stage.put(pod("load", "100m"), "a");
        let objects = &mut stage.cluster.objects;
        let only_two = json!({"allowedTopologies": [{"matchLabelExpressions": [{"key": ZONE, "values": ["two"]}]}]});
        for class in [
            class("local", "kubernetes.io/no-provisioner", json!({})),
            class("fast", "csi", only_two),
            class("now", "csi", json!({"volumeBindingMode": "Immediate"})),
        ] {
            objects.classes.insert((String::new(), class.metadata.name.clone().unwrap_or_default()), Arc::new(class));
        }
        objects.claims.insert(("x".to_owned(), claim.metadata.name.clone().unwrap_or_default()), Arc::new(claim));
        objects.volumes.insert((String::new(), "v".to_owned()), Arc::new(volume));
        let found =
            said(stage.place(spec(json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]}))));
        let expected =
            if expected.len() == 1 { expected.to_owned() } else { format!("0/2 nodes are available: {expected}.") };
        assert_eq!(found, expected, "{what}");
    }
}

#[test]
fn volumes_that_are_taken() {
    let mount = json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]});
    let stage = |modes: Value, limit: Value| {
        let mut stage = Stage::new(vec![node("a", json!({}))]);
        let objects = &mut stage.cluster.objects;
        let claim = |name: &str, volume: &str| {
            let claim = claim(name, "csi", super::merged(bound_to(volume), &json!({"spec": {"accessModes": modes}})));
            (("x".to_owned(), name.to_owned()), Arc::new(claim))
        };
        objects.claims.extend([claim("c", "v"), claim("d", "w")]);
        for name in ["v", "w"] {
            let source = json!({"spec": {"csi": {"driver": "csi.x", "volumeHandle": name}}});
            objects.volumes.insert((String::new(), name.to_owned()), Arc::new(volume(name, source)));
        }
        let drivers = json!([{"name": "csi.x", "nodeID": "a", "allocatable": {"count": limit}}]);
        let csi: CSINode = from(json!({"metadata": {"name": "a"}, "spec": {"drivers": drivers}}));
        objects.csi_nodes.insert((String::new(), "a".to_owned()), Arc::new(csi));
        stage
    };
    let exclusive = "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod";
    let other = json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "d"}}]});
    for (what, modes, limit, placed, expected) in [
        ("one pod only", json!(["ReadWriteOncePod"]), json!(9), &mount, exclusive),
        ("one node only", json!(["ReadWriteOnce"]), json!(9), &mount, ""),
        ("too many", json!(["ReadWriteOnce"]), json!(1), &other, "node(s) exceed max volume count"),
        ("the same once more", json!(["ReadWriteOnce"]), json!(1), &mount, ""),
    ] {
        let mut stage = stage(modes, limit);
        stage.put(with("1", "10m", json!({"spec": placed})), "a");
        let found = said(stage.place(spec(mount.clone())));
        let expected =
            if expected.is_empty() { "a".to_owned() } else { format!("0/1 nodes are available: 1 {expected}.") };
        assert_eq!(found, expected, "{what}");
    }
    let disk = |read_only: bool| json!({"volumes": [{"name": "d", "gcePersistentDisk": {"pdName": "d", "readOnly": read_only}}]});
    for (taken, wanted, free) in [(true, true, true), (true, false, false), (false, true, false)] {
        let mut stage = Stage::new(vec![node("a", json!({}))]);
        stage.put(with("1", "10m", json!({"spec": disk(taken)})), "a");
        let found = said(stage.place(spec(disk(wanted))));
        assert_eq!(found == "a", free, "{taken} {wanted}: {found}");
    }
}
