//! Deployments: from one template to the next, in the ways there are.

use serde_json::{Value, json};

use crate::support::{Api as Run, Seen};
use crate::{DEPLOYMENTS, PODS, REPLICA_SETS, condition, expect_that, image, says, to_image, workload};

const REVISION: &str = "deployment.kubernetes.io/revision";

pub(crate) fn rolling(run: &mut Run) -> Result<(), String> {
    let path = run.home()?;
    let strategy = json!({"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}});
    let spec = workload("d", 2, json!({"revisionHistoryLimit": 0, "strategy": strategy}));
    let deployment = run.create(&path, DEPLOYMENTS, "d", spec)?;
    run.get_ready(&path, 2, "one")?;
    run.comes("two available pods", DEPLOYMENTS, &path, "d", |d| {
        d["status"]["availableReplicas"] == 2 && condition(d, "Available")["status"] == "True"
    })?;
    run.change(&deployment, to_image("two"))?;
    // Each new pod must be ready before an old one goes.
    for (count, old) in [(1, 2), (2, 1)] {
        run.pods(&path, count, |pod| image(pod) == "two")?;
        run.pods(&path, old, |pod| image(pod) == "one")?;
        run.get_ready(&path, count, "two")?;
    }
    run.pods(&path, 0, |pod| image(pod) == "one")?;
    run.see("no old ReplicaSet", REPLICA_SETS.gvr(), &path, |seen| {
        seen.len() == 1 && seen.values().all(|set| set["metadata"]["annotations"][REVISION] == "2")
    })?;
    run.comes("a finished rollout", DEPLOYMENTS, &path, "d", |d| {
        d["status"]["updatedReplicas"] == 2 && condition(d, "Progressing")["reason"] == "NewReplicaSetAvailable"
    })?;
    run.delete(&format!("{deployment}?propagationPolicy=Foreground"))?;
    run.see("no pods", PODS.gvr(), &path, Seen::is_empty).map(drop)
}

pub(crate) fn recreate(run: &mut Run) -> Result<(), String> {
    let path = run.home()?;
    let spec = workload("d", 3, json!({"strategy": {"type": "Recreate"}}));
    let deployment = run.create(&path, DEPLOYMENTS, "d", spec)?;
    run.get_ready(&path, 3, "one")?;
    run.comes("three available pods", DEPLOYMENTS, &path, "d", |d| says(d, &json!({"availableReplicas": 3})))?;
    run.change(&deployment, to_image("two"))?;
    let mut mixed = false;
    run.see("new pods", PODS.gvr(), &path, |seen| {
        let of = |wanted: &str| seen.values().filter(|pod| image(pod) == wanted).count();
        mixed |= of("one") > 0 && of("two") > 0;
        of("two") == 3
    })?;
    expect_that(!mixed, || "old and new pods at a time".to_owned())?;
    run.get_ready(&path, 3, "two")?;
    let done = json!({"availableReplicas": 3, "updatedReplicas": 3, "replicas": 3});
    run.comes("a finished rollout", DEPLOYMENTS, &path, "d", |d| says(d, &done)).map(drop)
}

pub(crate) fn rollover(run: &mut Run) -> Result<(), String> {
    let path = run.home()?;
    let deployment = run.create(&path, DEPLOYMENTS, "d", workload("d", 2, json!({})))?;
    run.get_ready(&path, 2, "one")?;
    run.change(&deployment, to_image("two"))?;
    run.pods(&path, 1, |pod| image(pod) == "two")?;
    run.change(&deployment, to_image("three"))?;
    // What never came up goes first.
    run.pods(&path, 0, |pod| image(pod) == "two")?;
    for count in [1, 2] {
        run.pods(&path, count, |pod| image(pod) == "three")?;
        run.get_ready(&path, count, "three")?;
    }
    run.pods(&path, 0, |pod| image(pod) == "one")?;
    let is = |set: &Value, revision: &str, replicas: i32| {
        set["metadata"]["annotations"][REVISION] == revision && set["spec"]["replicas"] == replicas
    };
    run.see("three ReplicaSets, of which one has pods", REPLICA_SETS.gvr(), &path, |seen| {
        let there = |revision, replicas| seen.values().any(|set| is(set, revision, replicas));
        seen.len() == 3 && there("1", 0) && there("2", 0) && there("3", 2)
    })?;
    // And back to where it came from: the first set is the newest again.
    run.change(&deployment, to_image("one"))?;
    run.see("the first ReplicaSet again", REPLICA_SETS.gvr(), &path, |seen| {
        let first = |set: &Value| set["metadata"]["annotations"][REVISION] == "4";
        seen.len() == 3 && seen.values().any(|set| first(set) && image(&set["spec"]["template"]) == "one")
    })
    .map(drop)
}

pub(crate) fn proportional(run: &mut Run) -> Result<(), String> {
    let path = run.home()?;
    let strategy = json!({"rollingUpdate": {"maxSurge": 3, "maxUnavailable": 2}});
    let deployment = run.create(&path, DEPLOYMENTS, "d", workload("d", 10, json!({"strategy": strategy})))?;
    run.get_ready(&path, 10, "one")?;
    run.comes("ten available pods", DEPLOYMENTS, &path, "d", |d| says(d, &json!({"availableReplicas": 10})))?;
    // A template whose pods do not come up; then more pods are asked for.
    run.change(&deployment, to_image("two"))?;
    for (replicas, old, new) in [(10, 8, 5), (30, 20, 13)] {
        run.change(&deployment, json!({"spec": {"replicas": replicas}}))?;
        run.see("shares of both", REPLICA_SETS.gvr(), &path, |seen| {
            let has = |of: &str, replicas: i32| {
                seen.values().any(|s| image(&s["spec"]["template"]) == of && s["spec"]["replicas"] == replicas)
            };
            has("one", old) && has("two", new)
        })?;
        run.pods(&path, old as usize, |pod| image(pod) == "one")?;
        run.pods(&path, new as usize, |pod| image(pod) == "two")?;
    }
    Ok(())
}
