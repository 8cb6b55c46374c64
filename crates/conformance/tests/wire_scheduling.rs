//! Which node a pod gets, and who has to leave for it, against the API of `CONFORMANCE_KUBECONFIG`, or against a server that
//! is started for it. A scheduler has to run there, and the controller of ReplicaSets. Nodes are made up: each has what its
//! case says and never says a word, which the pods of these cases bear.
#![allow(clippy::disallowed_methods, reason = "a real server answers in real time")]

#[path = "wire_scheduling/limit_ranges.rs"]
mod limit_ranges;
#[path = "wire_scheduling/predicates.rs"]
mod predicates;
#[path = "wire_scheduling/preemption.rs"]
mod preemption;
mod support;

use serde_json::{Value, json};
use skiff_meta::GroupVersionResource;
use skiff_testkit::cases::{self, Case};
use support::{Api as Run, accepted};

const CASES: &[Case<Run>] = &[
    ("a_node_takes_no_more_than_it_has", predicates::resources),
    ("a_pod_goes_where_its_selector_matches_and_nowhere_else", predicates::selectors),
    ("a_port_of_all_addresses_is_taken_on_each_of_them", predicates::ports),
    ("taints_are_borne_or_keep_pods_away", predicates::taints),
    ("the_least_important_pod_makes_room", preemption::basic),
    ("critical_pods_are_the_most_important", preemption::critical),
    ("whoever_makes_room_is_told_why", preemption::condition),
    ("no_more_than_needed_have_to_go", preemption::path),
    ("priorities_stay_as_they_are", preemption::classes),
    ("ranges_fill_in_what_pods_leave_open", limit_ranges::defaults),
    ("ranges_are_changed_and_deleted_together", limit_ranges::together),
];

fn main() {
    std::process::exit(cases::run_with(Run::start_without(89, "agent,proxy,dns", &[]), CASES));
}

fn pods() -> GroupVersionResource {
    GroupVersionResource::new("", "v1", "pods")
}

/// A name that nobody else has, of what is in no namespace.
fn unique(name: &str) -> String {
    format!("scheduling-{}-{name}", std::process::id())
}

/// An object of the core group.
fn object(kind: &str, name: &str, mut fields: Value) -> Value {
    (fields["apiVersion"], fields["kind"], fields["metadata"]["name"]) = (json!("v1"), json!(kind), json!(name));
    fields
}

/// Makes a node of a group that has this much, beside room for ten pods; its name.
fn make_node(run: &mut Run, group: &str, mut has: Value) -> Result<String, String> {
    let name = unique(&format!("{group}-{}", run.number()));
    let path =
        run.make("/api/v1/nodes", &object("Node", &name, json!({"metadata": {"labels": {"group": unique(group)}}})))?;
    has["pods"] = json!("10");
    accepted(&run.merge(&format!("{path}/status"), &json!({"status": {"capacity": has, "allocatable": has}}))?)?;
    Ok(name)
}

/// What a pod says that goes to nodes of a group only, and does not mind their silence.
fn spec(group: &str, other: Value) -> Value {
    let silent = |state: &str| json!({"key": format!("node.kubernetes.io/{state}"), "operator": "Exists"});
    let mut spec = json!({"nodeSelector": {"group": unique(group)}, "terminationGracePeriodSeconds": 0,
        "tolerations": [silent("not-ready"), silent("unreachable")], "containers": asks("cpu", "0")});
    for (name, value) in other.as_object().into_iter().flatten() {
        match value {
            Value::Object(more) => more.iter().for_each(|(key, value)| spec[name][key] = value.clone()),
            Value::Array(more) if name == "tolerations" => {
                spec[name].as_array_mut().into_iter().for_each(|list| list.extend_from_slice(more));
            }
            value => spec[name] = value.clone(),
        }
    }
    spec
}

/// Containers that ask for so much of a resource.
fn asks(resource: &str, amount: &str) -> Value {
    let amount = json!({resource: amount});
    json!([{"name": "c", "image": "i", "resources": {"requests": amount, "limits": amount}}])
}

/// The affinity of a pod that is for one node only.
fn only(node: &str) -> Value {
    let term = json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]});
    json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}})
}

fn create(run: &Run, home: &str, name: &str, spec: Value) -> Result<(), String> {
    accepted(&run.post(&format!("{home}/pods"), &object("Pod", name, json!({"spec": spec})))?)
}

fn delete(run: &Run, path: &str) -> Result<(), String> {
    accepted(&run.json(http::Method::DELETE, path, &Value::Null)?)
}

/// Waits until the pod of this name, null while there is none, suits.
fn comes(run: &Run, what: &str, home: &str, name: &str, suits: impl Fn(&Value) -> bool) -> Result<Value, String> {
    let seen =
        run.see(&format!("{name}: {what}"), pods(), home, |seen| suits(seen.get(name).unwrap_or(&Value::Null)))?;
    Ok(seen.get(name).cloned().unwrap_or_default())
}

/// The name of a pod's node, empty while it has none.
fn node_of(pod: &Value) -> &str {
    pod["spec"]["nodeName"].as_str().unwrap_or_default()
}

/// Waits until a pod has got a node: this one, or any where it is empty.
fn placed(run: &Run, home: &str, name: &str, node: &str) -> Result<(), String> {
    let pod = comes(run, "it gets a node", home, name, |pod| !node_of(pod).is_empty())?;
    expect_that(node.is_empty() || node_of(&pod) == node, || format!("{name} is on {}, not on {node}", node_of(&pod)))
}

/// A pod has been told that no node suits it, and this word of why.
fn is_refused(pod: &Value, why: &str) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    node_of(pod).is_empty()
        && conditions.into_iter().flatten().any(|c| {
            c["type"] == "PodScheduled"
                && c["reason"] == "Unschedulable"
                && c["message"].as_str().is_some_and(|text| text.contains(why))
        })
}

fn refused(run: &Run, home: &str, name: &str, why: &str) -> Result<(), String> {
    comes(run, "no node suits it", home, name, |pod| is_refused(pod, why)).map(drop)
}

fn expect_that(holds: bool, what: impl Fn() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}
