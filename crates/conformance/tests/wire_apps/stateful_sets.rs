//! StatefulSets: names, order, and updates from behind.

use serde_json::{Value, json};

use crate::support::{Api as Run, Seen};
use crate::{PODS, REVISIONS, STATEFUL_SETS, at, expect_that, image, ready, says, to_image, workload};

fn spec(replicas: usize, other: Value) -> Value {
    let mut spec = workload("s", replicas, other);
    spec["serviceName"] = json!("s");
    spec
}

impl Run {
    /// Lets pods come up one after the other.
    fn bring_up(&self, path: &str, pods: usize) -> Result<(), String> {
        for number in 0..pods {
            self.pods(path, number + 1, |_| true)?;
            self.fares(path, &format!("s-{number}"), ready())?;
        }
        self.comes("ready pods", STATEFUL_SETS, path, "s", |s| says(s, &json!({"readyReplicas": pods}))).map(drop)
    }
}

pub(crate) fn partition(run: &mut Run) -> Result<(), String> {
    let path = run.home()?;
    let set = run.create(&path, STATEFUL_SETS, "s", spec(2, json!({})))?;
    run.bring_up(&path, 2)?;
    // Only what is beyond the partition changes.
    let mut change = to_image("two");
    change["spec"]["updateStrategy"] = json!({"rollingUpdate": {"partition": 1}});
    run.change(&set, change)?;
    let updated = run.pods(&path, 1, |pod| image(pod) == "two")?;
    expect_that(updated == ["s-1"], || format!("{updated:?} is updated"))?;
    run.fares(&path, "s-1", ready())?;
    // Then in phases.
    run.change(&set, json!({"spec": {"updateStrategy": {"rollingUpdate": {"partition": 0}}}}))?;
    run.pods(&path, 2, |pod| image(pod) == "two")?;
    run.fares(&path, "s-0", ready())?;
    run.comes("one revision", STATEFUL_SETS, &path, "s", |s| {
        let status = &s["status"];
        status["currentRevision"] == status["updateRevision"] && says(s, &json!({"currentReplicas": 2}))
    })?;
    run.change(&set, json!({"spec": {"replicas": 0}}))?;
    let mut order: Vec<String> = Vec::new();
    run.see("no pods", PODS.gvr(), &path, |seen| {
        let names = seen.keys().map(String::as_str).collect::<Vec<_>>().join(" ");
        if order.last() != Some(&names) {
            order.push(names);
        }
        seen.is_empty()
    })?;
    // The watch may begin late, but what it sees goes from behind.
    expect_that(["s-0 s-1", "s-0", ""].ends_with(&order.iter().map(String::as_str).collect::<Vec<_>>()), || {
        format!("{order:?}")
    })
}

/// One pod that is not ready holds up all that follow, in both directions; in parallel none does.
pub(crate) fn halts(run: &mut Run) -> Result<(), String> {
    let path = run.home()?;
    let set = run.create(&path, STATEFUL_SETS, "s", spec(3, json!({})))?;
    run.bring_up(&path, 3)?;
    let unready = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}]});
    run.fares(&path, "s-0", unready.clone())?;
    run.comes("one that is not ready", STATEFUL_SETS, &path, "s", |s| says(s, &json!({"readyReplicas": 2})))?;
    run.change(&set, json!({"spec": {"replicas": 2}}))?;
    // That the change was seen is told by the status, that the last pod stays by its being there then.
    run.comes("a set that waits", STATEFUL_SETS, &path, "s", |s| says(s, &json!({"replicas": 3})))?;
    let names = run.pods(&path, 3, |_| true)?;
    expect_that(names.contains(&"s-2".to_owned()), || format!("{names:?}"))?;
    run.fares(&path, "s-0", ready())?;
    run.pods(&path, 2, |_| true)?;

    let path = run.home()?;
    let parallel = run.create(&path, STATEFUL_SETS, "s", spec(1, json!({"podManagementPolicy": "Parallel"})))?;
    run.pods(&path, 1, |_| true)?;
    run.fares(&path, "s-0", unready)?;
    for replicas in [4, 0] {
        run.change(&parallel, json!({"spec": {"replicas": replicas}}))?;
        run.pods(&path, replicas, |_| true)?;
    }
    Ok(())
}

pub(crate) fn rolls_back(run: &mut Run) -> Result<(), String> {
    let path = run.home()?;
    let set = run.create(&path, STATEFUL_SETS, "s", spec(3, json!({})))?;
    run.bring_up(&path, 3)?;
    let revision = |s: &Value| s["status"]["updateRevision"].as_str().unwrap_or_default().to_owned();
    let first = revision(&run.comes("it", STATEFUL_SETS, &path, "s", |s| !revision(s).is_empty())?);
    for of in ["two", "one"] {
        run.change(&set, to_image(of))?;
        for number in (0..3).rev() {
            let names = run.pods(&path, 3 - number, |pod| image(pod) == of)?;
            let expected: Vec<String> = (number..3).map(|n| format!("s-{n}")).collect();
            expect_that(names == expected, || format!("{names:?}, not {expected:?}"))?;
            run.fares(&path, &format!("s-{number}"), ready())?;
        }
        run.comes("one revision", STATEFUL_SETS, &path, "s", |s| {
            s["status"]["currentRevision"] == s["status"]["updateRevision"] && says(s, &json!({"readyReplicas": 3}))
        })?;
    }
    // Going back is no third revision, but the first one renewed.
    run.comes("the first revision", STATEFUL_SETS, &path, "s", |s| revision(s) == first)?;
    let newest = |seen: &Seen| {
        let number = |revision: &Value| revision["revision"].as_i64();
        seen.len() == 2 && number(at(seen, &first)) == seen.values().map(number).max().flatten()
    };
    run.see("two revisions", REVISIONS.gvr(), &path, newest).map(drop)
}

pub(crate) fn evicted(run: &mut Run) -> Result<(), String> {
    let path = run.home()?;
    run.create(&path, STATEFUL_SETS, "s", spec(1, json!({})))?;
    let first = run.comes("a pod", PODS, &path, "s-0", |pod| !pod.is_null())?;
    run.fares(&path, "s-0", json!({"phase": "Failed", "reason": "OutOfhostPort"}))?;
    run.comes("another one of the same name", PODS, &path, "s-0", |pod| {
        !pod.is_null() && pod["metadata"]["uid"] != first["metadata"]["uid"] && pod["status"]["phase"] == "Pending"
    })
    .map(drop)
}
