//! Jobs: what is counted, who decides that they are over, and whose pods they are.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::support::{Api as Run, Seen};
use crate::{JOBS, PODS, condition, ended, expect_that, owner, ready, template};

/// A Job with an index for each of three pods, with some things otherwise.
fn job(changes: Value) -> Value {
    let mut spec = json!({"completions": 3, "parallelism": 3, "completionMode": "Indexed",
        "template": template(json!({}), "i")});
    spec["template"]["spec"]["restartPolicy"] = json!("Never");
    for (name, value) in changes.as_object().into_iter().flatten() {
        spec[name] = value.clone();
    }
    spec
}

/// Its pods that have not ended, by their index.
fn by_index(run: &Run, path: &str, count: usize) -> Result<BTreeMap<String, String>, String> {
    let open = |pod: &Value| !matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    let names = run.pods(path, count, open)?;
    let index = |name: &String| name.split('-').nth(1).unwrap_or_default().to_owned();
    Ok(names.into_iter().map(|name| (index(&name), name)).collect())
}

pub(crate) fn indexes(run: &mut Run) -> Result<(), String> {
    let path = run.home()?;
    let rules = json!([{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]);
    run.create(&path, JOBS, "j", job(json!({"backoffLimit": 0, "podFailurePolicy": {"rules": rules}})))?;
    let first = by_index(run, &path, 3)?;
    // Each is told its index, and is called by it.
    run.comes("a pod of index 2", PODS, &path, &first["2"], |pod| {
        let named = pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"] == "2";
        let env = &pod["spec"]["containers"][0]["env"][0];
        named && pod["spec"]["hostname"] == "j-2" && env["name"] == "JOB_COMPLETION_INDEX"
    })?;
    let mut disrupted = ended(137);
    disrupted["conditions"] = json!([{"type": "DisruptionTarget", "status": "True"}]);
    run.fares(&path, &first["1"], disrupted)?;
    run.see("another pod for the index", PODS.gvr(), &path, |seen| {
        let again = |name: &String| name.starts_with("j-1-") && *name != first["1"];
        seen.keys().any(again)
    })?;
    for name in by_index(run, &path, 3)?.values() {
        run.fares(&path, name, ended(0))?;
    }
    run.comes("a complete Job", JOBS, &path, "j", |job| {
        let status = &job["status"];
        condition(job, "Complete")["status"] == "True"
            && (&status["completedIndexes"], &status["succeeded"]) == (&json!("0-2"), &json!(3))
            && status["failed"].is_null()
    })
    .map(drop)
}

/// What a Job is told, how its pods end by index, and how it ends: its condition, the reason, the indexes that succeeded
/// and those that failed.
type Row = (&'static str, Value, &'static [(&'static str, i32)], [&'static str; 4]);

pub(crate) fn policies(run: &mut Run) -> Result<(), String> {
    let on_42 = |action: &str| {
        let rule = json!({"action": action, "onExitCodes": {"operator": "In", "values": [42]}});
        json!({"rules": [rule]})
    };
    let success = |rule: Value| json!({"successPolicy": {"rules": [rule]}});
    let given_up = json!({"backoffLimitPerIndex": 1, "maxFailedIndexes": 0, "podFailurePolicy": on_42("FailIndex")});
    let table: [Row; 9] = [
        ("too many indexes", given_up, &[("1", 42)], ["Failed", "MaxFailedIndexesExceeded", "", "1"]),
        (
            "an index that fails for good",
            json!({"backoffLimitPerIndex": 6, "podFailurePolicy": on_42("FailIndex")}),
            &[("0", 0), ("1", 42), ("2", 0)],
            ["Failed", "FailedIndexes", "0,2", "1"],
        ),
        (
            "all indexes though some fail",
            json!({"backoffLimitPerIndex": 0}),
            &[("0", 1), ("1", 0), ("2", 0)],
            ["Failed", "FailedIndexes", "1,2", "0"],
        ),
        (
            "an exit code",
            json!({"podFailurePolicy": on_42("FailJob")}),
            &[("2", 42)],
            ["Failed", "PodFailurePolicy", "", ""],
        ),
        ("a limit", json!({"backoffLimit": 0}), &[("0", 1)], ["Failed", "BackoffLimitExceeded", "", ""]),
        (
            "a leader",
            success(json!({"succeededIndexes": "0", "succeededCount": 1})),
            &[("0", 0)],
            ["Complete", "SuccessPolicy", "0", ""],
        ),
        ("an index", success(json!({"succeededIndexes": "1"})), &[("1", 0)], ["Complete", "SuccessPolicy", "1", ""]),
        (
            "any two",
            success(json!({"succeededCount": 2})),
            &[("0", 0), ("2", 0)],
            ["Complete", "SuccessPolicy", "0,2", ""],
        ),
        (
            "all of them",
            success(json!({"succeededIndexes": "0-2"})),
            &[("0", 0), ("1", 0), ("2", 0)],
            ["Complete", "SuccessPolicy", "0-2", ""],
        ),
    ];
    for (what, changes, fates, [ty, reason, completed, failed]) in table {
        let path = run.home()?;
        run.create(&path, JOBS, "j", job(changes))?;
        let names = by_index(run, &path, 3)?;
        for (index, code) in fates {
            run.fares(&path, &names[*index], ended(*code))?;
        }
        run.comes(what, JOBS, &path, "j", |job| {
            let (condition, status) = (condition(job, ty), &job["status"]);
            let indexes = |field: &str| status[field].as_str().unwrap_or_default();
            condition["status"] == "True"
                && condition["reason"] == reason
                && status["active"].is_null()
                && (indexes("completedIndexes"), indexes("failedIndexes")) == (completed, failed)
        })?;
    }
    Ok(())
}

pub(crate) fn adoption(run: &mut Run) -> Result<(), String> {
    let path = run.home()?;
    run.create(&path, JOBS, "j", job(json!({"parallelism": 2, "completionMode": "NonIndexed"})))?;
    let names = run.pods(&path, 2, |pod| owner(pod) == "j")?;
    let is_held = |pod: &Value| !pod["metadata"]["finalizers"].is_null();
    // An orphan is taken in again, one that is no longer meant let go and replaced.
    let orphan = json!({"metadata": {"ownerReferences": null}});
    run.change(&format!("{path}/pods/{}", names[0]), orphan)?;
    run.comes("an adopted pod", PODS, &path, &names[0], |pod| owner(pod) == "j" && is_held(pod))?;
    let labels = json!({"batch.kubernetes.io/controller-uid": null, "controller-uid": null, "job-name": null,
        "batch.kubernetes.io/job-name": null});
    run.change(&format!("{path}/pods/{}", names[1]), json!({"metadata": {"labels": labels}}))?;
    run.comes("a free pod", PODS, &path, &names[1], |pod| !pod.is_null() && owner(pod).is_empty() && !is_held(pod))?;
    run.pods(&path, 2, |pod| owner(pod) == "j").map(drop)
}

pub(crate) fn lifecycle(run: &mut Run) -> Result<(), String> {
    let path = run.home()?;
    let made = run.create(&path, JOBS, "j", job(json!({"suspend": true, "parallelism": 1})))?;
    let reason = |ty: &'static str, status: &'static str| {
        move |job: &Value| condition(job, ty)["status"] == status && job["status"]["active"].is_null()
    };
    run.comes("a suspended Job", JOBS, &path, "j", reason("Suspended", "True"))?;
    run.pods(&path, 0, |_| true)?;
    run.change(&made, json!({"spec": {"parallelism": 2, "suspend": false}}))?;
    let names = run.pods(&path, 2, |_| true)?;
    names.iter().try_for_each(|name| run.fares(&path, name, ready()))?;
    run.comes("two at work", JOBS, &path, "j", |job| {
        condition(job, "Suspended")["status"] == "False" && job["status"]["ready"] == 2 && job["status"]["active"] == 2
    })?;
    run.change(&made, json!({"spec": {"suspend": true}}))?;
    run.pods(&path, 0, |_| true)?;
    run.comes("a suspended Job", JOBS, &path, "j", reason("Suspended", "True"))?;
    run.change(&made, json!({"spec": {"suspend": false}}))?;
    run.pods(&path, 2, |_| true)?;
    run.delete(&format!("{made}?propagationPolicy=Foreground"))?;
    run.see("no pods", PODS.gvr(), &path, Seen::is_empty)?;
    run.see("no Job", JOBS.gvr(), &path, Seen::is_empty).map(drop)
}

/// Restarts within a pod count as failures, up to the limit.
pub(crate) fn restarts(run: &mut Run) -> Result<(), String> {
    for (restarts, ty, reason) in [(5, "Complete", "CompletionsReached"), (6, "Failed", "BackoffLimitExceeded")] {
        let path = run.home()?;
        let mut spec = job(json!({"completionMode": "NonIndexed", "completions": 1, "parallelism": 1}));
        spec["template"]["spec"]["restartPolicy"] = json!("OnFailure");
        run.create(&path, JOBS, "j", spec)?;
        let name = run.pods(&path, 1, |_| true)?.remove(0);
        let state = json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}});
        let container =
            json!({"name": "c", "image": "i", "imageID": "", "ready": true, "restartCount": restarts, "state": state});
        let mut status = ready();
        status["containerStatuses"] = json!([container]);
        run.fares(&path, &name, status)?;
        if ty == "Complete" {
            run.comes("one at work", JOBS, &path, "j", |job| job["status"]["ready"] == 1)?;
            run.fares(&path, &name, ended(0))?;
        }
        let end = run.comes("the end", JOBS, &path, "j", |job| condition(job, ty)["status"] == "True")?;
        let said = condition(&end, ty)["reason"].clone();
        expect_that(said == reason, || format!("{said}, not {reason}"))?;
    }
    Ok(())
}

pub(crate) fn finished(run: &mut Run) -> Result<(), String> {
    let path = run.home()?;
    run.create(&path, JOBS, "j", job(json!({"completions": 1, "parallelism": 1, "ttlSecondsAfterFinished": 1})))?;
    let names = run.pods(&path, 1, |_| true)?;
    run.fares(&path, &names[0], ended(0))?;
    run.see("no pods", PODS.gvr(), &path, Seen::is_empty)?;
    run.see("no Job", JOBS.gvr(), &path, Seen::is_empty).map(drop)
}
