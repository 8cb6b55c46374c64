//! Who has to go so that a more important pod has room.

use std::collections::BTreeSet;

use http::Method;
use serde_json::{Value, json};

use crate::support::{Api as Run, Outcome, Seen, accepted, expect};
use crate::{
    asks, comes, create, expect_that, is_refused, make_node, node_of, object, only, placed, pods, spec, unique,
};

const CLASSES: &str = "/apis/scheduling.k8s.io/v1/priorityclasses";
/// What pods compete for; no real node has it.
const UNIT: &str = "example.com/unit";

/// Makes a class for this case; its name.
fn class(run: &mut Run, case: &str, value: u32) -> Result<String, String> {
    let name = unique(&format!("{case}-{value}"));
    let class = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}, "value": value});
    run.make(CLASSES, &class)?;
    Ok(name)
}

fn is_going(pod: &Value) -> bool {
    !pod["metadata"]["deletionTimestamp"].is_null()
}

/// Fills two nodes with two pods each, one of them less important than the others, and has a pod of this class, in this
/// namespace or beside them, take its place.
fn takes_the_place_of_the_least(run: &mut Run, case: &str, elsewhere: Option<&str>, rival: &str) -> Outcome {
    let (home, low, middle) = (run.home()?, class(run, case, 1)?, class(run, case, 100)?);
    let nodes = [make_node(run, case, json!({UNIT: "5"}))?, make_node(run, case, json!({UNIT: "5"}))?];
    let pod = |class: &str, affinity: Value| {
        spec(case, json!({"priorityClassName": class, "containers": asks(UNIT, "2"), "affinity": affinity}))
    };
    for number in 0..4 {
        let (name, node) = (format!("pod-{number}"), &nodes[number % 2]);
        create(run, &home, &name, pod(if number == 1 { &low } else { &middle }, only(node)))?;
        placed(run, &home, &name, node)?;
    }
    let there = elsewhere.unwrap_or(&home);
    run.make(&format!("{there}/pods"), &object("Pod", &unique(case), json!({"spec": pod(rival, json!({}))})))?;
    placed(run, there, &unique(case), &nodes[1])?;
    let stay = |seen: &Seen| (0..4).filter(|n| seen.get(&format!("pod-{n}")).is_some_and(|pod| !is_going(pod))).count();
    let seen = run.see("three stay", pods(), &home, |seen| stay(seen) <= 3)?;
    let all = ["pod-0", "pod-2", "pod-3"].iter().all(|name| seen.get(*name).is_some_and(|pod| !is_going(pod)));
    expect_that(all, || format!("others had to go: {:?} are left", seen.keys()))
}

pub(crate) fn basic(run: &mut Run) -> Outcome {
    let high = class(run, "basic", 1000)?;
    takes_the_place_of_the_least(run, "basic", None, &high)
}

pub(crate) fn critical(run: &mut Run) -> Outcome {
    let system = "/api/v1/namespaces/kube-system";
    let account = run.post(&format!("{system}/serviceaccounts"), &object("ServiceAccount", "default", json!({})))?;
    expect(account.code == 201 || account.code == 409, &account)?;
    takes_the_place_of_the_least(run, "critical", Some(system), "system-cluster-critical")
}

pub(crate) fn condition(run: &mut Run) -> Outcome {
    let (home, low, high) = (run.home()?, class(run, "told", 1)?, class(run, "told", 1000)?);
    let node = make_node(run, "told", json!({UNIT: "1"}))?;
    let pod = |class: &str| spec("told", json!({"priorityClassName": class, "containers": asks(UNIT, "1")}));
    let finalizers = json!({"finalizers": ["example.com/test"]});
    let victim = object("Pod", "victim", json!({"metadata": finalizers, "spec": pod(&low)}));
    accepted(&run.post(&format!("{home}/pods"), &victim)?)?;
    let outcome = told(run, &home, &node, pod(&high));
    // Whatever comes of it, the namespace has to end.
    accepted(&run.merge(&format!("{home}/pods/victim"), &json!({"metadata": {"finalizers": null}}))?)?;
    outcome?;
    placed(run, &home, "rival", &node)
}

/// The victim is told, and its room is kept for who waits for it.
fn told(run: &Run, home: &str, node: &str, rival: Value) -> Outcome {
    placed(run, home, "victim", node)?;
    create(run, home, "rival", rival)?;
    let disrupted = |pod: &Value| {
        let conditions = pod["status"]["conditions"].as_array();
        conditions
            .into_iter()
            .flatten()
            .any(|c| c["type"] == "DisruptionTarget" && c["status"] == "True" && c["reason"] == "PreemptionByScheduler")
    };
    comes(run, "it goes and knows why", home, "victim", |pod| is_going(pod) && disrupted(pod))?;
    comes(run, "it waits for the node", home, "rival", |pod| pod["status"]["nominatedNodeName"] == node).map(drop)
}

/// Of three sets, the pods of the two less important ones go for a fourth pod, each once.
pub(crate) fn path(run: &mut Run) -> Outcome {
    let home = run.home()?;
    let node = make_node(run, "path", json!({UNIT: "1000"}))?;
    let pod =
        |class: &str, units: &str| spec("path", json!({"priorityClassName": class, "containers": asks(UNIT, units)}));
    for (set, value, units) in [("one", 1, "200"), ("two", 2, "300"), ("three", 3, "450")] {
        let class = class(run, "path", value)?;
        let labels = json!({"set": set});
        let set = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": set}, "spec": {"replicas": 1,
            "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod(&class, units)}}});
        accepted(&run.post(&format!("{}/replicasets", home.replace("/api/v1", "/apis/apps/v1")), &set)?)?;
    }
    let of = |pod: &Value, set: &str| pod["metadata"]["labels"]["set"] == set;
    let mut met: BTreeSet<(String, String)> = BTreeSet::new();
    let mut note = |seen: &Seen| {
        met.extend(
            seen.iter()
                .filter_map(|(name, pod)| Some((pod["metadata"]["labels"]["set"].as_str()?.to_owned(), name.clone()))),
        );
        met.len()
    };
    let sets = ["one", "two", "three"];
    let before = run.see("three pods have the node", pods(), &home, |seen| {
        note(seen);
        sets.iter().all(|set| seen.values().any(|pod| of(pod, set) && node_of(pod) == node))
    })?;
    let class = class(run, "path", 4)?;
    create(run, &home, "rival", pod(&class, "500"))?;
    // Those that came in the place of others have been tried, and nothing is left to happen.
    run.see("two others wait", pods(), &home, |seen| {
        note(seen);
        let waits =
            |set: &&&str| seen.values().any(|pod| of(pod, set) && is_refused(pod, "Insufficient example.com/unit"));
        seen.get("rival").is_some_and(|pod| node_of(pod) == node) && sets[..2].iter().filter(waits).count() == 2
    })?;
    let after = run.see("the third stays", pods(), &home, |_| true)?;
    let third =
        |seen: &Seen| seen.iter().find(|(_, pod)| of(pod, "three")).map(|(name, pod)| (name.clone(), is_going(pod)));
    expect_that(third(&before) == third(&after), || format!("{:?} instead of {:?}", third(&after), third(&before)))?;
    expect_that(met.len() == 5, || format!("there were {met:?}"))
}

pub(crate) fn classes(run: &mut Run) -> Outcome {
    let names = [class(run, "verbs", 10)?, class(run, "verbs", 20)?];
    let paths = names.clone().map(|name| format!("{CLASSES}/{name}"));
    let get = |path: &str| run.json(Method::GET, path, &Value::Null);
    let put = |path: &str, field: &str, value: Value| {
        let mut class = get(path)?.tree();
        class[field] = value;
        run.json(Method::PUT, path, &class)
    };
    let first = [get(&paths[0])?.tree(), get(&paths[1])?.tree()];
    let answer = run.merge(&paths[0], &json!({"value": 11}))?;
    expect(answer.code == 422, &answer)?;
    let answer = put(&paths[1], "value", json!(21))?;
    expect(answer.code == 422, &answer)?;
    accepted(&run.merge(&paths[0], &json!({"description": "changed"}))?)?;
    accepted(&put(&paths[1], "description", json!("changed"))?)?;
    let list = get(CLASSES)?.tree();
    let listed =
        |name: &String| list["items"].as_array().into_iter().flatten().any(|c| c["metadata"]["name"] == **name);
    expect_that(names.iter().all(listed), || format!("{list}"))?;
    for (path, first) in paths.iter().zip(&first) {
        let answer = get(path)?;
        let class = answer.tree();
        let newer = class["metadata"]["resourceVersion"] != first["metadata"]["resourceVersion"];
        expect(newer && class["value"] == first["value"] && class["description"] == "changed", &answer)?;
    }
    Ok(())
}
