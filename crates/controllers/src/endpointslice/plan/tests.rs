use super::*;
use serde_json::{Value, json};
use skiff_meta::patch::merge_patch;

fn service(change: Value) -> Service {
    let value = json!({
        "metadata": {"name": "web", "namespace": "ns", "uid": "s", "labels": {"app": "web"}},
        "spec": {"selector": {"app": "web"}, "clusterIP": "10.0.0.1", "ipFamilies": ["IPv4"],
            "ports": [{"name": "http", "port": 80, "targetPort": "web", "protocol": "TCP"}]},
    });
    serde_json::from_value(merge_patch(&value, &change)).expect("a service")
}

fn pod(number: usize, change: Value) -> Arc<Pod> {
    let value = json!({
        "metadata": {"name": format!("p{number:03}"), "namespace": "ns", "uid": format!("u{number}")},
        "spec": {"nodeName": "n", "containers": [
            {"name": "c", "ports": [{"name": "web", "containerPort": 8080, "protocol": "TCP"}]}]},
        "status": {"phase": "Running", "podIPs": [{"ip": format!("10.1.0.{number}")}],
            "conditions": [{"type": "Ready", "status": "True"}]},
    });
    Arc::new(serde_json::from_value(merge_patch(&value, &change)).expect("a pod"))
}

fn planned(service: &Service, pods: &[Arc<Pod>], slices: &[Arc<EndpointSlice>]) -> Plan {
    let node = json!({"metadata": {"name": "n", "labels": {ZONE: "z"}}});
    let nodes = [("n".to_owned(), Arc::new(serde_json::from_value(node).expect("a node")))].into();
    let spec = service.spec.as_ref().expect("a spec");
    plan(&Snapshot { service, spec, pods, nodes: &nodes, slices })
}

/// What the server makes of created slices.
fn stored(plan: &Plan) -> Vec<Arc<EndpointSlice>> {
    let named = |(index, slice): (usize, &EndpointSlice)| {
        let mut slice = slice.clone();
        slice.metadata.name = Some(format!("s{index}"));
        Arc::new(slice)
    };
    plan.create.iter().enumerate().map(named).collect()
}

fn addresses_of(slice: &EndpointSlice) -> Vec<String> {
    slice.endpoints.iter().flatten().map(|endpoint| endpoint.addresses.join(",")).collect()
}

#[test]
fn a_service_gets_a_slice_that_says_all() {
    let plan = planned(&service(json!({})), &[pod(1, json!({}))], &[]);
    let slice = serde_json::to_value(&plan.create[0]).unwrap();
    assert_eq!(slice["metadata"]["generateName"], "web-");
    assert_eq!(
        slice["metadata"]["labels"],
        json!({"app": "web", "kubernetes.io/service-name": "web",
            "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"})
    );
    assert_eq!(slice["metadata"]["ownerReferences"][0]["uid"], "s");
    assert_eq!(slice["ports"], json!([{"name": "http", "port": 8080, "protocol": "TCP"}]));
    assert_eq!(
        slice["endpoints"],
        json!([{"addresses": ["10.1.0.1"], "conditions": {"ready": true, "serving": true, "terminating": false},
            "nodeName": "n", "zone": "z",
            "targetRef": {"kind": "Pod", "name": "p001", "namespace": "ns", "uid": "u1"}}])
    );
    let again = planned(&service(json!({})), &[pod(1, json!({}))], &stored(&plan));
    assert_eq!(again, Plan::default(), "nothing left to write");
}

#[test]
fn conditions_follow_the_pod() {
    let deleted = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
    let unready = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
    let publish = json!({"spec": {"publishNotReadyAddresses": true}});
    let table = [
        ("ready", json!({}), json!({}), Some((true, true, false))),
        ("not ready", json!({}), unready.clone(), Some((false, false, false))),
        ("not ready, published", publish.clone(), unready, Some((true, false, false))),
        ("going, still serving", json!({}), deleted, Some((false, true, true))),
        ("ended", json!({}), json!({"status": {"phase": "Succeeded"}}), None),
        ("without address", json!({}), json!({"status": {"podIPs": null}}), None),
        ("on a lost node", json!({}), json!({"spec": {"nodeName": "lost"}}), None),
        ("on a lost node, published", publish, json!({"spec": {"nodeName": "lost"}}), Some((true, true, false))),
    ];
    for (name, service_change, pod_change, expected) in table {
        let plan = planned(&service(service_change), &[pod(1, pod_change)], &[]);
        let endpoint = plan.create[0].endpoints.iter().flatten().next();
        let conditions = endpoint.and_then(|endpoint| endpoint.conditions.clone());
        let got = conditions.and_then(|c| Some((c.ready?, c.serving?, c.terminating?)));
        assert_eq!(got, expected, "{name}");
    }
}

#[test]
fn slices_are_filled_and_endpoints_stay() {
    let service = service(json!({}));
    let many: Vec<_> = (1..=230)
        .map(|n| pod(n, json!({"status": {"podIPs": [{"ip": format!("10.2.{}.{}", n / 200, n % 200)}]}})))
        .collect();
    let first = planned(&service, &many, &[]);
    assert_eq!(first.create.iter().map(count).collect::<Vec<_>>(), [100, 100, 30]);
    let slices = stored(&first);

    let fewer: Vec<_> = many.iter().filter(|pod| pod.name() != "p005").cloned().collect();
    let plan = planned(&service, &fewer, &slices);
    assert_eq!(plan.update.iter().map(count).collect::<Vec<_>>(), [99], "one slice is touched");
    assert!(plan.create.is_empty() && plan.delete.is_empty());

    let mut more = many.clone();
    more.push(pod(231, json!({})));
    let plan = planned(&service, &more, &slices);
    let touched: Vec<_> = plan.update.iter().map(|slice| (slice.name(), count(slice))).collect();
    assert_eq!(touched, [("s2", 31)], "into the slice with room");

    let plan = planned(&service, &[], &slices);
    assert_eq!((plan.update.len(), plan.delete.len(), plan.create.len()), (1, 2, 0), "one becomes the placeholder");
    assert!(addresses_of(&plan.update[0]).is_empty());
}

#[test]
fn the_placeholder_comes_and_goes_in_place() {
    let service = service(json!({}));
    let empty = planned(&service, &[], &[]);
    assert_eq!((count(&empty.create[0]), empty.create[0].ports.as_deref()), (0, Some(&[][..])));
    let slices = stored(&empty);
    assert_eq!(planned(&service, &[], &slices), Plan::default());
    let plan = planned(&service, &[pod(1, json!({}))], &slices);
    assert_eq!((plan.create.len(), plan.delete.len()), (0, 0));
    assert_eq!((plan.update[0].name(), addresses_of(&plan.update[0])), ("s0", vec!["10.1.0.1".to_owned()]));
}

#[test]
fn labels_families_and_strangers() {
    let plain = service(json!({}));
    let slices = stored(&planned(&plain, &[pod(1, json!({}))], &[]));
    let labelled = service(json!({"metadata": {"labels": {"app": "other"}}}));
    let plan = planned(&labelled, &[pod(1, json!({}))], &slices);
    assert_eq!(plan.update[0].metadata.labels.as_ref().map(|labels| &*labels["app"]), Some("other"));

    let dual = service(json!({"spec": {"ipFamilies": ["IPv4", "IPv6"]}}));
    let both = pod(1, json!({"status": {"podIPs": [{"ip": "10.1.0.1"}, {"ip": "fd00::1"}]}}));
    let plan = planned(&dual, &[both], &slices);
    assert_eq!(plan.create.iter().map(addresses_of).collect::<Vec<_>>(), [["fd00::1"]]);

    let successor = service(json!({"metadata": {"uid": "s2"}}));
    let plan = planned(&successor, &[pod(1, json!({}))], &slices);
    assert_eq!((plan.create.len(), plan.delete.len()), (1, 1), "slices of a namesake go");

    let headless = service(json!({"spec": {"clusterIP": "None", "ports": null}}));
    let plan = planned(&headless, &[pod(1, json!({}))], &[]);
    let labels = plan.create[0].metadata.labels.clone().unwrap_or_default();
    assert!(labels.contains_key("service.kubernetes.io/headless"));
    assert_eq!(addresses_of(&plan.create[0]), ["10.1.0.1"]);
}

#[test]
fn named_ports_split_and_hints_are_given() {
    let other = json!({"spec": {"containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 9090}]}]}});
    let plan = planned(&service(json!({})), &[pod(1, json!({})), pod(2, other)], &[]);
    let ports: Vec<_> = plan.create.iter().filter_map(|slice| slice.ports.as_ref()?.first()?.port).collect();
    assert_eq!(ports, [8080, 9090]);

    let near = service(json!({"spec": {"trafficDistribution": "PreferSameNode"}}));
    let plan = planned(&near, &[pod(1, json!({}))], &[]);
    let hints = plan.create[0].endpoints.as_ref().and_then(|all| all[0].hints.clone());
    assert_eq!(serde_json::to_value(hints).unwrap(), json!({"forNodes": [{"name": "n"}], "forZones": [{"name": "z"}]}));
}
