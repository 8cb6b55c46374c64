//! One node, some claims, what they get: a table of what upstream's allocator does, and a comparison with trying everything.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::resource::v1::{AllocationResult, ResourceClaim};
use proptest::prelude::*;
use serde_json::{Value, json};
use skiff_api::affinity::NodeView;

use super::*;
use crate::tests::{from, merged};

/// Slices, classes, claims that have something, and claims that want something.
#[derive(Default)]
struct Case {
    slices: Vec<Value>,
    classes: Vec<Value>,
    taken: Vec<Value>,
    claims: Vec<Value>,
}

impl Case {
    fn stock(&self) -> Stock {
        let mut stock = Stock::default();
        for slice in &self.slices {
            let slice: k8s_openapi::api::resource::v1::ResourceSlice = from(slice.clone());
            stock.set_slice(&slice.metadata.name.clone().unwrap_or_default(), Some(Arc::new(slice)));
        }
        for class in self.classes.iter().chain([&json!({"metadata": {"name": "any"}, "spec": {}})]) {
            let class: k8s_openapi::api::resource::v1::DeviceClass = from(class.clone());
            stock.set_class(&class.metadata.name.clone().unwrap_or_default(), Some(Arc::new(class)));
        }
        for taken in &self.taken {
            let results = json!({"devices": {"results": taken}});
            let claim: ResourceClaim = from(json!({"spec": {}, "status": {"allocation": results}}));
            stock.set_claim(None, Some(&claim));
        }
        stock
    }

    /// What the claims get on node `n` in region `r`.
    fn results(&self) -> Result<Option<Vec<AllocationResult>>, String> {
        let stock = self.stock();
        let labels = BTreeMap::from([("region".to_owned(), "r".to_owned())]);
        let wants: Result<Vec<Want>, Fault> = self
            .claims
            .iter()
            .enumerate()
            .map(|(number, devices)| {
                let name = format!("c{number}");
                let claim = json!({"metadata": {"name": name, "namespace": "x"}, "spec": {"devices": devices}});
                Want::new(Arc::new(from(claim)), &stock)
            })
            .collect();
        let wants = wants.map_err(|fault| fault.to_string())?;
        let wants: Vec<&Want> = wants.iter().collect();
        let site = Site::new(&stock, NodeView { name: "n", labels: &labels });
        let found = allocate(&site, &wants).map_err(|fault| fault.to_string())?;
        let mut shares = 0;
        Ok(found.map(|found| {
            results(&found, &wants, &site, || {
                shares += 1;
                format!("share-{shares}")
            })
        }))
    }

    /// `request=device`, claims apart by `|`; devices of other pools than `p` with their pool.
    fn outcome(&self) -> String {
        match self.results() {
            Err(fault) => fault,
            Ok(None) => "none".to_owned(),
            Ok(Some(results)) => {
                let device = |result: &DeviceRequestAllocationResult| {
                    let pool = if result.pool == "p" { String::new() } else { format!("{}/", result.pool) };
                    let consumed = result.consumed_capacity.iter().flatten();
                    let consumed: String = consumed.map(|(name, n)| format!("[{name} {}]", n.0)).collect();
                    format!("{}={pool}{}{consumed}", result.request, result.device)
                };
                let devices = |result: &AllocationResult| {
                    let all = result.devices.iter().flat_map(|devices| devices.results.iter().flatten());
                    all.map(device).collect::<Vec<_>>().join(" ")
                };
                results.iter().map(devices).collect::<Vec<_>>().join(" | ")
            }
        }
    }
}

fn slice(name: &str, changes: Value) -> Value {
    let pool = json!({"name": "p", "generation": 1, "resourceSliceCount": 1});
    merged(
        json!({"metadata": {"name": name}, "spec": {"driver": "d", "nodeName": "n", "pool": pool}}),
        &json!({"spec": changes}),
    )
}

/// A slice of node `n` and pool `p` with these devices.
fn devices(devices: Value) -> Value {
    slice("s", json!({"devices": devices}))
}

fn named(names: &[&str]) -> Value {
    devices(names.iter().map(|name| json!({"name": name})).collect())
}

/// A request for so many of any device, changed.
fn request(name: &str, count: i64, changes: Value) -> Value {
    let exactly = json!({"deviceClassName": "any", "allocationMode": "ExactCount", "count": count});
    json!({"name": name, "exactly": merged(exactly, &changes)})
}

fn all(name: &str, changes: Value) -> Value {
    let exactly = json!({"deviceClassName": "any", "allocationMode": "All"});
    json!({"name": name, "exactly": merged(exactly, &changes)})
}

/// A request for the first of several that can be had.
fn first(name: &str, alternatives: &[Value]) -> Value {
    let sub = |request: &Value| merged(request["exactly"].clone(), &json!({"name": request["name"]}));
    json!({"name": name, "firstAvailable": alternatives.iter().map(sub).collect::<Vec<_>>()})
}

fn cel(expression: &str) -> Value {
    json!({"selectors": [{"cel": {"expression": expression}}]})
}

fn claim(requests: &[Value]) -> Value {
    json!({"requests": requests})
}

fn taken(device: &str) -> Value {
    json!([{"driver": "d", "pool": "p", "device": device, "request": "r"}])
}

fn sized(name: &str, size: i64) -> Value {
    json!({"name": name, "attributes": {"size": {"int": size}}})
}

#[test]
fn what_claims_get() {
    let at_least = |n: i64| cel(&format!("device.attributes['d'].size >= {n}"));
    let two = || vec![named(&["a", "b"])];
    let pool = |name: &str, generation: i64, count: i64| json!({"name": name, "generation": generation, "resourceSliceCount": count});
    let many: Vec<String> = (0..40).map(|n| format!("d{n:02}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let taint = |effect: &str| json!([{"key": "k", "value": "v", "effect": effect}]);
    let tolerates = json!({"tolerations": [{"key": "k", "operator": "Exists"}]});
    let case = |slices: Vec<Value>, claims: Vec<Value>| Case { slices, claims, ..Case::default() };
    let one = |slices: Vec<Value>, requests: &[Value]| case(slices, vec![claim(requests)]);
    let r = |count: i64| request("r", count, json!({}));
    for (what, case, expected) in [
        ("nothing is asked for", case(two(), vec![]), ""),
        ("no request", one(two(), &[]), ""),
        ("one", one(two(), &[r(1)]), "r=a"),
        ("two", one(two(), &[r(2)]), "r=a r=b"),
        ("three of two", one(two(), &[r(3)]), "none"),
        ("no slices", one(vec![], &[r(1)]), "none"),
        // What cannot be had is seen before all ways to choose the others are tried.
        (
            "eight of many, and one that is not there",
            one(vec![named(&many)], &[r(8), request("s", 1, cel("false"))]),
            "none",
        ),
        (
            "eight of many, and as many as nobody can have",
            one(
                vec![named(&many)],
                &[r(8), first("s", &[request("t", i64::MAX, json!({})), request("u", 1, cel("false"))])],
            ),
            "none",
        ),
        (
            "another node's",
            one(vec![slice("s", json!({"nodeName": "m", "devices": [{"name": "a"}]}))], &[r(1)]),
            "none",
        ),
        (
            "of all nodes",
            one(vec![slice("s", json!({"nodeName": null, "allNodes": true, "devices": [{"name": "a"}]}))], &[r(1)]),
            "r=a",
        ),
        ("two claims", case(two(), vec![claim(&[r(1)]), claim(&[r(1)])]), "r=a | r=b"),
        ("held", Case { taken: vec![taken("a")], ..one(two(), &[r(1)]) }, "r=b"),
        ("all held", Case { taken: vec![taken("a"), taken("b")], ..one(two(), &[r(1)]) }, "none"),
        (
            "no such class",
            one(two(), &[request("r", 1, json!({"deviceClassName": "none"}))]),
            "claim x/c0, request r: could not retrieve device class none: deviceclass.resource.k8s.io \"none\" not found",
        ),
        (
            "the class selects",
            Case {
                classes: vec![json!({"metadata": {"name": "big"}, "spec": at_least(5)})],
                ..one(
                    vec![devices(json!([sized("a", 1), sized("b", 9)]))],
                    &[request("r", 1, json!({"deviceClassName": "big"}))],
                )
            },
            "r=b",
        ),
        (
            "back, within a claim",
            one(
                vec![devices(json!([sized("a", 9), sized("b", 1)]))],
                &[request("small", 1, json!({})), request("large", 1, at_least(5))],
            ),
            "small=b large=a",
        ),
        (
            "back, over claims",
            case(
                vec![devices(json!([sized("a", 9), sized("b", 1)]))],
                vec![claim(&[request("small", 1, json!({}))]), claim(&[request("large", 1, at_least(5))])],
            ),
            "small=b | large=a",
        ),
        (
            "back, from the middle of a request",
            one(
                vec![devices(json!([sized("a", 1), sized("b", 9), sized("c", 2)]))],
                &[request("two", 2, json!({})), request("large", 1, at_least(5))],
            ),
            "two=a two=c large=b",
        ),
        ("all of them", one(two(), &[all("r", json!({}))]), "r=a r=b"),
        (
            "all, and one of these is held",
            Case { taken: vec![taken("a")], ..one(two(), &[all("r", json!({}))]) },
            "none",
        ),
        ("all of none", one(vec![devices(json!([]))], &[all("r", json!({}))]), "none"),
        ("all, beside another", one(two(), &[all("r", json!({})), request("s", 1, json!({}))]), "none"),
        (
            "all of a pool that is incomplete",
            one(vec![slice("s", json!({"pool": pool("p", 1, 2), "devices": [{"name": "a"}]}))], &[all("r", json!({}))]),
            "claim x/c0, request r: asks for all devices, but resource pool d/p is currently being updated",
        ),
        (
            "some of a pool that is incomplete",
            one(vec![slice("s", json!({"pool": pool("p", 1, 2), "devices": [{"name": "a"}]}))], &[r(1)]),
            "none",
        ),
        (
            "of two slices",
            one(
                vec![
                    slice("s2", json!({"pool": pool("p", 1, 2), "devices": [{"name": "b"}]})),
                    slice("s1", json!({"pool": pool("p", 1, 2), "devices": [{"name": "a"}]})),
                ],
                &[r(2)],
            ),
            "r=a r=b",
        ),
        (
            "an old slice does not count",
            one(
                vec![
                    slice("s1", json!({"devices": [{"name": "old"}]})),
                    slice("s2", json!({"pool": pool("p", 2, 1), "devices": [{"name": "new"}]})),
                ],
                &[r(1)],
            ),
            "r=new",
        ),
        (
            "an old slice does not count, even where the new one is of another node",
            one(
                vec![
                    slice("s1", json!({"devices": [{"name": "old"}]})),
                    slice("s2", json!({"pool": pool("p", 2, 1), "nodeName": "m", "devices": [{"name": "new"}]})),
                ],
                &[r(1)],
            ),
            "none",
        ),
        (
            "pools by their names",
            one(
                vec![
                    slice("s1", json!({"pool": pool("q", 1, 1), "devices": [{"name": "a"}]})),
                    slice("s2", json!({"devices": [{"name": "z"}]})),
                ],
                &[r(2)],
            ),
            "r=z r=q/a",
        ),
        (
            "what has to be waited for comes last",
            one(
                vec![
                    slice("s1", json!({"pool": pool("q", 1, 1), "devices": [{"name": "a"}]})),
                    devices(
                        json!([{"name": "z", "bindingConditions": ["ready"], "bindingFailureConditions": ["broken"]}]),
                    ),
                ],
                &[r(1)],
            ),
            "r=q/a",
        ),
        ("two devices of a name", one(vec![named(&["a", "a"])], &[r(1)]), "invalid resource pools were encountered"),
        (
            "two devices of a name, beside a pool that is fine",
            one(
                vec![named(&["a", "a"]), slice("s1", json!({"pool": pool("q", 1, 1), "devices": [{"name": "a"}]}))],
                &[r(1)],
            ),
            "r=q/a",
        ),
        (
            "as many as may be",
            one(vec![named(&many)], &[request("r", 33, json!({}))]),
            "claim x/c0: number of requested devices 33 exceeds the claim limit of 32",
        ),
        (
            "too many in all",
            one(vec![named(&many)], &[request("r", 32, json!({})), request("s", 1, json!({}))]),
            "claim x/c0: number of requested devices 33 exceeds the claim limit of 32",
        ),
        (
            "the first would be too many",
            one(
                vec![named(&many)],
                &[request("r", 30, json!({})), first("f", &[request("a", 3, json!({})), request("b", 2, json!({}))])],
            ),
            "r=d00 r=d01 r=d02 r=d03 r=d04 r=d05 r=d06 r=d07 r=d08 r=d09 r=d10 r=d11 r=d12 r=d13 r=d14 r=d15 r=d16 r=d17 \
             r=d18 r=d19 r=d20 r=d21 r=d22 r=d23 r=d24 r=d25 r=d26 r=d27 r=d28 r=d29 f/b=d30 f/b=d31",
        ),
        ("the first", one(two(), &[first("f", &[request("x", 1, json!({})), request("y", 2, json!({}))])]), "f/x=a"),
        (
            "the second",
            one(two(), &[first("f", &[request("x", 3, json!({})), request("y", 2, json!({}))])]),
            "f/y=a f/y=b",
        ),
        ("neither", one(two(), &[first("f", &[request("x", 3, json!({})), request("y", 4, json!({}))])]), "none"),
        (
            "all or one",
            one(two(), &[r(1), first("f", &[all("x", json!({})), request("y", 1, json!({}))])]),
            "r=a f/y=b",
        ),
        (
            "a worse alternative, so that another request has any",
            one(two(), &[first("f", &[request("x", 2, json!({})), request("y", 1, json!({}))]), r(1)]),
            "f/y=a r=b",
        ),
        (
            "administrators share",
            Case { taken: vec![taken("a")], ..one(two(), &[request("r", 2, json!({"adminAccess": true}))]) },
            "r=a r=b",
        ),
        (
            "administrators do not get one twice in a claim",
            one(two(), &[request("r", 2, json!({"adminAccess": true})), request("s", 1, json!({"adminAccess": true}))]),
            "none",
        ),
        (
            "what an administrator has is free",
            Case {
                taken: vec![json!([{"driver": "d", "pool": "p", "device": "a", "request": "r", "adminAccess": true}])],
                ..one(vec![named(&["a"])], &[r(1)])
            },
            "r=a",
        ),
        ("tainted", one(vec![devices(json!([{"name": "a", "taints": taint("NoSchedule")}]))], &[r(1)]), "none"),
        (
            "tainted, to be left",
            one(vec![devices(json!([{"name": "a", "taints": taint("NoExecute")}]))], &[r(1)]),
            "none",
        ),
        ("tainted without effect", one(vec![devices(json!([{"name": "a", "taints": taint("None")}]))], &[r(1)]), "r=a"),
        (
            "tolerated",
            one(
                vec![devices(json!([{"name": "a", "taints": taint("NoSchedule")}]))],
                &[request("r", 1, tolerates.clone())],
            ),
            "r=a",
        ),
        (
            "another effect is tolerated",
            one(
                vec![devices(json!([{"name": "a", "taints": taint("NoSchedule")}]))],
                &[request("r", 1, json!({"tolerations": [{"operator": "Exists", "effect": "NoExecute"}]}))],
            ),
            "none",
        ),
        (
            "all, one tainted",
            one(
                vec![devices(json!([{"name": "a"}, {"name": "b", "taints": taint("NoSchedule")}]))],
                &[all("r", json!({}))],
            ),
            "none",
        ),
        (
            "a selector that does not compile",
            one(two(), &[request("r", 1, cel("device.nope"))]),
            "claim x/c0: selector #0: CEL compile error: compilation failed: ERROR: <input>:1:7: undefined field 'nope'\n \
             | device.nope\n | ......^",
        ),
        (
            "an attribute that is not there",
            one(two(), &[request("r", 1, at_least(1))]),
            "claim x/c0: selector #0: CEL runtime error: no such key: size",
        ),
        (
            "each device has its nodes",
            one(
                vec![slice(
                    "s",
                    json!({"nodeName": null, "perDeviceNodeSelection": true, "devices": [
                    {"name": "a", "nodeName": "m"}, {"name": "b", "nodeName": "n"}, {"name": "c", "allNodes": true},
                    {"name": "d", "nodeSelector": {"nodeSelectorTerms": [{"matchExpressions": [
                        {"key": "region", "operator": "In", "values": ["r"]}]}]}},
                    {"name": "e", "nodeSelector": {"nodeSelectorTerms": [{"matchExpressions": [
                        {"key": "region", "operator": "In", "values": ["q"]}]}]}}]}),
                )],
                &[r(3)],
            ),
            "r=b r=c r=d",
        ),
    ] {
        assert_eq!(case.outcome(), expected, "{what}");
    }
}

#[test]
fn attributes_that_go_together() {
    let device = |name: &str, attributes: Value| json!({"name": name, "attributes": attributes});
    let numa = |node: i64| json!({"numa": {"int": node}});
    let four = devices(json!([device("a", numa(0)), device("b", numa(1)), device("c", numa(1)), device("d", numa(0))]));
    let constrained =
        |requests: &[Value], constraint: Value| json!({"requests": requests, "constraints": [constraint]});
    let r = |count| request("r", count, json!({}));
    let s = request("s", 1, json!({}));
    let same = json!({"matchAttribute": "d/numa"});
    let distinct = json!({"distinctAttribute": "d/numa"});
    let versions = devices(json!([
        device("a", json!({"v": {"version": "1.0.0"}})),
        device("b", json!({"v": {"string": "1.0.0"}})),
        device("c", json!({"v": {"version": "1.0.0"}})),
        device("e", json!({"v": {"bool": true}})),
    ]));
    for (what, slice, claim, expected) in [
        ("the same", &four, constrained(&[r(2)], same.clone()), "r=a r=d"),
        ("the same, of three", &four, constrained(&[r(3)], same.clone()), "none"),
        ("the same over requests", &four, constrained(&[r(1), s.clone()], same.clone()), "r=a s=d"),
        (
            "of one request alone",
            &four,
            constrained(&[r(1), s.clone()], json!({"requests": ["r"], "matchAttribute": "d/numa"})),
            "r=a s=b",
        ),
        ("of no device", &four, constrained(&[r(1)], json!({"matchAttribute": "d/none"})), "none"),
        ("of another domain", &four, constrained(&[r(1)], json!({"matchAttribute": "e/numa"})), "none"),
        ("distinct", &four, constrained(&[r(2)], distinct.clone()), "r=a r=b"),
        ("distinct, of three", &four, constrained(&[r(3)], distinct), "none"),
        ("equal is of equal type", &versions, constrained(&[r(2)], json!({"matchAttribute": "d/v"})), "r=a r=c"),
        (
            "distinct types are distinct",
            &versions,
            constrained(&[r(3)], json!({"distinctAttribute": "d/v"})),
            "r=a r=b r=e",
        ),
        (
            "all of them, and they are not the same",
            &four,
            constrained(&[all("r", json!({}))], same),
            "claim x/c0, request r: cannot add device d/p/b because a claim constraint would not be satisfied",
        ),
        (
            "of an alternative",
            &four,
            constrained(
                &[first("f", &[request("x", 3, json!({})), request("y", 2, json!({}))])],
                json!({"requests": ["f/x"], "matchAttribute": "d/numa"}),
            ),
            "f/y=a f/y=b",
        ),
        (
            "of whatever alternative",
            &four,
            constrained(
                &[first("f", &[request("x", 3, json!({})), request("y", 2, json!({}))])],
                json!({"requests": ["f"], "matchAttribute": "d/numa"}),
            ),
            "f/y=a f/y=d",
        ),
    ] {
        let case = Case { slices: vec![slice.clone()], claims: vec![claim], ..Case::default() };
        assert_eq!(case.outcome(), expected, "{what}");
    }
}

#[test]
fn counters_are_shared() {
    let pool = json!({"name": "p", "generation": 1, "resourceSliceCount": 2});
    let counters = |amount: &str| {
        slice(
            "s0",
            json!({"nodeName": null, "allNodes": true, "pool": pool, "sharedCounters": [
            {"name": "set", "counters": {"memory": {"value": amount}}}]}),
        )
    };
    let draws = |name: &str, set: &str, amount: &str| json!({"name": name, "consumesCounters": [{"counterSet": set, "counters": {"memory": {"value": amount}}}]});
    let parts = |node: &str, devices: Value| slice("s1", json!({"nodeName": node, "pool": pool, "devices": devices}));
    let three = || json!([draws("whole", "set", "8Gi"), draws("a", "set", "4Gi"), draws("b", "set", "4Gi")]);
    let r = |count| request("r", count, json!({}));
    let case = |counters: Value, parts: Value, requests: &[Value]| Case {
        slices: vec![counters, parts],
        claims: vec![claim(requests)],
        ..Case::default()
    };
    for (what, case, expected) in [
        ("the whole", case(counters("8Gi"), parts("n", three()), &[r(1)]), "r=whole"),
        ("parts, since the whole leaves nothing", case(counters("8Gi"), parts("n", three()), &[r(2)]), "r=a r=b"),
        ("more than there is", case(counters("8Gi"), parts("n", three()), &[r(3)]), "none"),
        (
            "a part is held",
            Case { taken: vec![taken("a")], ..case(counters("8Gi"), parts("n", three()), &[r(1)]) },
            "r=b",
        ),
        (
            "the whole is held",
            Case { taken: vec![taken("whole")], ..case(counters("8Gi"), parts("n", three()), &[r(1)]) },
            "none",
        ),
        ("too little for any", case(counters("1Gi"), parts("n", three()), &[r(1)]), "none"),
        (
            "another node's device draws too",
            Case {
                slices: vec![
                    merged(counters("8Gi"), &json!({"spec": {"pool": {"resourceSliceCount": 3}}})),
                    merged(
                        parts("n", json!([draws("a", "set", "8Gi")])),
                        &json!({"spec": {"pool": {"resourceSliceCount": 3}}}),
                    ),
                    merged(
                        parts("m", json!([draws("far", "set", "8Gi")])),
                        &json!({"metadata": {"name": "s2"}, "spec": {"pool": {"resourceSliceCount": 3}}}),
                    ),
                ],
                taken: vec![taken("far")],
                claims: vec![claim(&[r(1)])],
                ..Case::default()
            },
            "none",
        ),
        (
            "a set that is not there",
            case(counters("8Gi"), parts("n", json!([draws("a", "other", "1Gi")])), &[r(1)]),
            "invalid resource pools were encountered",
        ),
    ] {
        assert_eq!(case.outcome(), expected, "{what}");
    }
}

#[test]
fn capacities_are_consumed() {
    let device = |name: &str, shareable: bool, policy: Value| {
        let memory = merged(json!({"value": "10Gi"}), &json!({"requestPolicy": policy}));
        json!({"name": name, "allowMultipleAllocations": shareable, "capacity": {"memory": memory}})
    };
    let asks = |amount: &str| request("r", 1, json!({"capacity": {"requests": {"memory": amount}}}));
    let range = json!({"default": "1Gi", "validRange": {"min": "1Gi", "max": "8Gi", "step": "1Gi"}});
    let values = json!({"default": "2Gi", "validValues": ["2Gi", "4Gi"]});
    let held = |amount: &str| json!([{"driver": "d", "pool": "p", "device": "a", "request": "r", "shareID": "u", "consumedCapacity": {"memory": amount}}]);
    let none = Value::Null;
    for (what, devices_, held, claims, expected) in [
        ("as asked", json!([device("a", true, none.clone())]), None, vec![asks("3Gi")], "r=a[memory 3Gi]"),
        (
            "everything, unless asked",
            json!([device("a", true, none.clone())]),
            None,
            vec![request("r", 1, json!({}))],
            "r=a[memory 10Gi]",
        ),
        (
            "the default",
            json!([device("a", true, range.clone())]),
            None,
            vec![request("r", 1, json!({}))],
            "r=a[memory 1Gi]",
        ),
        ("at least", json!([device("a", true, range.clone())]), None, vec![asks("1Mi")], "r=a[memory 1Gi]"),
        ("in steps", json!([device("a", true, range.clone())]), None, vec![asks("1500Mi")], "r=a[memory 2Gi]"),
        ("at most", json!([device("a", true, range.clone())]), None, vec![asks("9Gi")], "none"),
        (
            "more than a number holds",
            json!([device("a", true, range.clone())]),
            None,
            vec![asks(&i64::MAX.to_string())],
            "none",
        ),
        ("the next value", json!([device("a", true, values.clone())]), None, vec![asks("3Gi")], "r=a[memory 4Gi]"),
        ("no such value", json!([device("a", true, values)]), None, vec![asks("5Gi")], "none"),
        (
            "two share",
            json!([device("a", true, none.clone())]),
            None,
            vec![asks("3Gi"), asks("7Gi")],
            "r=a[memory 3Gi] | r=a[memory 7Gi]",
        ),
        (
            "the next device",
            json!([device("a", true, none.clone()), device("b", true, none.clone())]),
            None,
            vec![asks("6Gi"), asks("7Gi")],
            "r=a[memory 6Gi] | r=b[memory 7Gi]",
        ),
        (
            "what is left",
            json!([device("a", true, none.clone())]),
            Some(held("4Gi")),
            vec![asks("6Gi")],
            "r=a[memory 6Gi]",
        ),
        ("more than is left", json!([device("a", true, none.clone())]), Some(held("4Gi")), vec![asks("7Gi")], "none"),
        ("for oneself", json!([device("a", false, none.clone())]), None, vec![asks("7Gi")], "r=a"),
        ("for oneself, too small", json!([device("a", false, none.clone())]), None, vec![asks("11Gi")], "none"),
        (
            "shared no more, but held",
            json!([device("a", false, none.clone())]),
            Some(held("0")),
            vec![asks("1Gi")],
            "none",
        ),
        ("no such capacity", json!([{"name": "a"}]), None, vec![asks("1")], "none"),
        (
            "back, with what was taken",
            json!([device("a", true, none.clone()), device("b", true, none)]),
            Some(held("5Gi")),
            vec![asks("5Gi"), asks("10Gi")],
            "r=a[memory 5Gi] | r=b[memory 10Gi]",
        ),
    ] {
        let claims = claims.into_iter().map(|request| claim(&[request])).collect();
        let case =
            Case { slices: vec![devices(devices_)], taken: held.into_iter().collect(), claims, ..Case::default() };
        assert_eq!(case.outcome(), expected, "{what}");
    }
}

#[test]
fn what_is_written_into_claims() {
    let opaque = |n: i64| json!({"opaque": {"driver": "d", "parameters": {"n": n}}});
    let of = |n: i64, requests: &[&str]| merged(opaque(n), &json!({"requests": requests}));
    let region =
        json!({"nodeSelectorTerms": [{"matchExpressions": [{"key": "region", "operator": "In", "values": ["r"]}]}]});
    let tolerations = json!([{"key": "k", "operator": "Exists"}]);
    let case = Case {
        slices: vec![slice(
            "s",
            json!({"nodeName": null, "nodeSelector": region, "devices": [
            {"name": "a"}, {"name": "b"}, {"name": "c", "bindsToNode": true, "bindingConditions": ["ok"], "bindingFailureConditions": ["no"]}]}),
        )],
        classes: vec![json!({"metadata": {"name": "gpu"}, "spec": {"config": [opaque(1)]}})],
        claims: vec![
            json!({
                "requests": [
                    request("r", 1, json!({"deviceClassName": "gpu", "tolerations": tolerations})),
                    first("f", &[request("x", 9, json!({})), request("y", 1, json!({"deviceClassName": "gpu"}))]),
                ],
                "config": [of(2, &[]), of(3, &["r"]), of(4, &["f/x"]), of(5, &["f/y"]), of(6, &["f", "r"])],
            }),
            claim(&[request("last", 1, json!({}))]),
        ],
        ..Case::default()
    };
    let results = serde_json::to_value(case.results().unwrap().unwrap()).unwrap();
    let config = |n: i64, source: &str, requests: &[&str]| merged(of(n, requests), &json!({"source": source}));
    assert_eq!(
        results[0]["devices"]["config"],
        json!([
            config(1, "FromClass", &["r", "f/y"]),
            config(2, "FromClaim", &[]),
            config(3, "FromClaim", &["r"]),
            config(5, "FromClaim", &["f/y"]),
            config(6, "FromClaim", &["f", "r"]),
        ])
    );
    assert_eq!(results[0]["nodeSelector"], region);
    assert_eq!(results[0]["devices"]["results"][0]["tolerations"], tolerations);
    let here =
        json!({"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]}]});
    assert_eq!(
        (&results[1]["nodeSelector"], &results[1]["devices"]["results"][0]["bindingConditions"]),
        (&here, &json!(["ok"]))
    );
}

#[test]
fn promises_hold_until_they_are_seen() {
    let case = Case { slices: vec![named(&["a"])], ..Case::default() };
    let mut stock = case.stock();
    let free = |stock: &Stock| stock.taken == taken::Taken::default();
    let allocation: AllocationResult = from(json!({"devices": {"results": taken("a")}}));
    let claim = |revision: u64, allocated: bool| -> ResourceClaim {
        let status = if allocated { json!({"allocation": allocation}) } else { json!({}) };
        from(
            json!({"metadata": {"name": "c", "uid": "u", "resourceVersion": revision.to_string()}, "spec": {}, "status": status}),
        )
    };
    let (before, after) = (claim(1, false), claim(5, true));
    // Taken back before it was written.
    stock.promise("u", Arc::new(allocation.clone()));
    assert!(stock.is_pending("u") && !free(&stock));
    stock.withdraw("u");
    assert!(!stock.is_pending("u") && free(&stock));
    // Written, and only then given up: it is in the API.
    stock.promise("u", Arc::new(allocation.clone()));
    stock.written("u", "u", 5, 1);
    stock.withdraw("u");
    stock.set_claim(Some(&before), Some(&claim(3, false)));
    assert!(stock.is_pending("u"), "news from before it");
    stock.set_claim(Some(&before), Some(&after));
    assert!(!stock.is_pending("u") && !free(&stock));
    stock.set_claim(Some(&after), Some(&claim(9, false)));
    assert!(free(&stock), "nothing is counted twice");
    // Seen before the answer has come.
    stock.promise("u", Arc::new(allocation.clone()));
    stock.set_claim(Some(&before), Some(&after));
    stock.written("u", "u", 5, 5);
    stock.set_claim(Some(&after), None);
    assert!(free(&stock));
    // A claim that was made for a pod has its own UID only later.
    stock.promise("pod", Arc::new(allocation.clone()));
    stock.written("pod", "u", 5, 0);
    stock.set_claim(None, Some(&after));
    stock.set_claim(Some(&after), None);
    assert!(free(&stock));
}

#[test]
fn classes_stand_for_resources() {
    let class = |name: &str, created: &str| json!({"metadata": {"name": name, "creationTimestamp": created}, "spec": {"extendedResourceName": "x.y/gpu"}});
    let classes =
        [class("b", "2026-01-01T00:00:00Z"), class("c", "2026-01-02T00:00:00Z"), class("a", "2026-01-01T00:00:00Z")];
    let mut stock = Case { classes: classes.to_vec(), ..Case::default() }.stock();
    let name = |stock: &Stock, resource: &str| stock.class_for(resource).and_then(|class| class.metadata.name.clone());
    for expected in ["c", "a", "b"] {
        assert_eq!(name(&stock, "x.y/gpu").as_deref(), Some(expected), "the newest, then the first");
        assert_eq!(name(&stock, &format!("deviceclass.resource.kubernetes.io/{expected}")).as_deref(), Some(expected));
        stock.set_class(expected, None);
    }
    assert_eq!((name(&stock, "x.y/gpu"), name(&stock, "deviceclass.resource.kubernetes.io/c")), (None, None));
}

/// Tries every way of giving devices to requests, whether or not it makes sense.
fn any_way(devices: &[(i64, i64)], requests: &[(usize, i64)], same: bool, limit: i64) -> bool {
    fn go(
        devices: &[(i64, i64)],
        requests: &[(usize, i64)],
        used: &mut Vec<usize>,
        check: &dyn Fn(&[usize]) -> bool,
    ) -> bool {
        let Some(((count, least), rest)) = requests.split_first().map(|(r, rest)| (*r, rest)) else {
            return check(used);
        };
        let ways = (0..1_usize << devices.len()).filter(|set| set.count_ones() as usize == count);
        for set in ways {
            let chosen: Vec<usize> = (0..devices.len()).filter(|n| set & (1 << n) != 0).collect();
            if chosen.iter().any(|n| used.contains(n) || devices[*n].0 < least) {
                continue;
            }
            let before = used.len();
            used.extend(chosen);
            if go(devices, rest, used, check) {
                return true;
            }
            used.truncate(before);
        }
        false
    }
    let check = |used: &[usize]| {
        let groups: std::collections::BTreeSet<i64> = used.iter().map(|n| devices[*n].1).collect();
        used.iter().map(|n| devices[*n].0).sum::<i64>() <= limit && (!same || groups.len() <= 1)
    };
    go(devices, requests, &mut Vec::new(), &check)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn what_can_be_had_is_found(
        sizes in prop::collection::vec((1_i64..5, 0_i64..3), 0..6),
        requests in prop::collection::vec((1_usize..3, 0_i64..5), 1..4),
        same in any::<bool>(),
        limit in 0_i64..16,
    ) {
        let pool = json!({"name": "p", "generation": 1, "resourceSliceCount": 2});
        let counters = json!([{"name": "set", "counters": {"n": {"value": limit.to_string()}}}]);
        let device = |(name, (size, group)): (usize, &(i64, i64))| json!({
            "name": format!("d{name}"),
            "attributes": {"size": {"int": size}, "group": {"int": group}},
            "consumesCounters": [{"counterSet": "set", "counters": {"n": {"value": size.to_string()}}}],
        });
        let made: Vec<Value> = sizes.iter().enumerate().map(device).collect();
        let asked = requests.iter().enumerate().map(|(name, (count, least))| {
            request(&format!("r{name}"), *count as i64, cel(&format!("device.attributes['d'].size >= {least}")))
        });
        let constraints = if same { json!([{"matchAttribute": "d/group"}]) } else { json!([]) };
        let case = Case {
            slices: vec![
                slice("s0", json!({"pool": pool, "nodeName": null, "allNodes": true, "sharedCounters": counters})),
                slice("s1", json!({"pool": pool, "devices": made})),
            ],
            claims: vec![json!({"requests": asked.collect::<Vec<_>>(), "constraints": constraints})],
            ..Case::default()
        };
        let outcome = case.outcome();
        prop_assert_eq!(outcome != "none", any_way(&sizes, &requests, same, limit), "{}", outcome);
        if outcome != "none" {
            let mut got: Vec<(usize, usize)> = Vec::new();
            for pick in outcome.split(' ') {
                let (request, device) = pick.split_once('=').unwrap();
                got.push((request[1..].parse().unwrap(), device[1..].parse().unwrap()));
            }
            let devices: std::collections::BTreeSet<usize> = got.iter().map(|(_, device)| *device).collect();
            prop_assert_eq!(devices.len(), got.len(), "no device twice");
            for (number, (count, least)) in requests.iter().enumerate() {
                let own: Vec<usize> = got.iter().filter(|(request, _)| *request == number).map(|(_, d)| *d).collect();
                prop_assert!(own.len() == *count && own.iter().all(|device| sizes[*device].0 >= *least));
            }
            let groups: std::collections::BTreeSet<i64> = devices.iter().map(|device| sizes[*device].1).collect();
            prop_assert!(devices.iter().map(|d| sizes[*d].0).sum::<i64>() <= limit && (!same || groups.len() <= 1));
        }
    }
}
