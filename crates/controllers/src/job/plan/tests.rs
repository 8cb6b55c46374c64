use super::*;
use serde_json::{Value, json};
use skiff_meta::patch::merge_patch;

const NOW: &str = "2026-01-01T01:00:00Z";

fn job(change: Value) -> Job {
    let value = json!({"metadata": {"name": "j", "namespace": "ns", "uid": "j"},
        "spec": {"parallelism": 2, "completions": 3, "backoffLimit": 1, "template": {"spec": {"containers": []}}},
        "status": {"startTime": "2026-01-01T00:00:00Z"}});
    serde_json::from_value(merge_patch(&value, &change)).expect("a job")
}

fn pod(name: &str, phase: &str, change: Value) -> Arc<Pod> {
    let value = json!({"metadata": {"name": name, "uid": name, "finalizers": [pods::FINALIZER],
            "creationTimestamp": "2026-01-01T00:00:00Z"},
        "status": {"phase": phase}});
    Arc::new(serde_json::from_value(merge_patch(&value, &change)).expect("a pod"))
}

fn counted(name: &str, phase: &str) -> Arc<Pod> {
    pod(name, phase, json!({"metadata": {"finalizers": null}}))
}

fn indexed(name: &str, index: i32, phase: &str) -> Arc<Pod> {
    pod(
        name,
        phase,
        json!({"metadata": {"annotations": {"batch.kubernetes.io/job-completion-index": index.to_string()}}}),
    )
}

fn planned(job: &Job, pods: &[Arc<Pod>]) -> Plan {
    let spec = job.spec.as_ref().expect("a spec");
    plan(&Snapshot { job, spec, pods, now: NOW.parse().unwrap() })
}

/// Created, stopped, discarded, released pods.
type Steps<'a> = (usize, Vec<&'a str>, Vec<&'a str>, Vec<&'a str>);

fn steps(plan: &Plan) -> Steps<'_> {
    fn names(pods: &[Arc<Pod>]) -> Vec<&str> {
        pods.iter().map(|pod| pod.name()).collect()
    }
    (plan.create.len(), names(&plan.stop), names(&plan.discard), names(&plan.release))
}

fn conditions(status: &JobStatus) -> Vec<(&str, &str)> {
    let all = status.conditions.iter().flatten();
    all.map(|c| (&*c.type_, c.reason.as_deref().unwrap_or_default())).collect()
}

#[test]
fn pods_are_kept_running_until_enough_have_succeeded() {
    let run = |name: &str| pod(name, "Running", json!({}));
    let table: [(&str, Value, Vec<Arc<Pod>>, Steps<'_>); 8] = [
        ("the first", json!({}), vec![], (2, vec![], vec![], vec![])),
        ("enough run", json!({}), vec![run("a"), run("b")], (0, vec![], vec![], vec![])),
        ("one ended", json!({}), vec![run("a"), pod("b", "Succeeded", json!({}))], (1, vec![], vec![], vec!["b"])),
        ("not more than are left", json!({"status": {"succeeded": 2}}), vec![run("a")], (0, vec![], vec![], vec![])),
        ("too many", json!({"spec": {"parallelism": 1}}), vec![run("a"), run("b")], (0, vec![], vec!["a"], vec![])),
        ("suspended", json!({"spec": {"suspend": true}}), vec![run("a")], (0, vec![], vec!["a"], vec![])),
        (
            "a failure waits",
            json!({}),
            vec![run("a"), pod("b", "Failed", json!({"metadata": {"creationTimestamp": NOW}}))],
            (0, vec![], vec![], vec!["b"]),
        ),
        (
            "going itself",
            json!({"metadata": {"deletionTimestamp": NOW}}),
            vec![run("a")],
            (0, vec![], vec![], vec!["a"]),
        ),
    ];
    for (name, change, pods, expected) in table {
        assert_eq!(steps(&planned(&job(change), &pods)), expected, "{name}");
    }
}

#[test]
fn a_pod_is_noted_released_and_counted_once() {
    let ended = pod("a", "Succeeded", json!({}));
    let first = planned(&job(json!({"spec": {"completions": 1}})), &[ended]);
    let status = first.status.expect("a status");
    let noted = status.uncounted_terminated_pods.clone().and_then(|uncounted| uncounted.succeeded);
    assert_eq!((noted, status.succeeded), (Some(vec!["a".to_owned()]), None));
    assert_eq!(conditions(&status), [("SuccessCriteriaMet", "CompletionsReached")]);

    let noted = Job { status: Some(status), ..job(json!({"spec": {"completions": 1}})) };
    let again = planned(&noted, &[pod("a", "Succeeded", json!({}))]);
    assert_eq!((again.status, again.release.len()), (None, 1), "the finalizer is still to go");

    let last = planned(&noted, &[counted("a", "Succeeded")]);
    let status = last.status.expect("a status");
    assert_eq!(
        (status.succeeded, status.uncounted_terminated_pods),
        (Some(1), Some(UncountedTerminatedPods::default()))
    );
    let types: Vec<_> = status.conditions.iter().flatten().map(|c| &*c.type_).collect();
    assert_eq!(types, ["SuccessCriteriaMet", "Complete"]);
    assert!(status.completion_time.is_some() && last.at_rest);
    assert_eq!(last.events, [("Completed", "Job completed".to_owned())]);
}

#[test]
fn failures_end_a_job() {
    let late = json!({"spec": {"activeDeadlineSeconds": 60}});
    let often = json!({"status": {"failed": 2}});
    let restarting = json!({"spec": {"template": {"spec": {"restartPolicy": "OnFailure"}}}});
    let container = json!({"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 1});
    let restarted = pod("a", "Running", json!({"status": {"containerStatuses": [container]}}));
    let run = pod("a", "Running", json!({}));
    let table = [
        (late, run.clone(), "DeadlineExceeded"),
        (often, run, "BackoffLimitExceeded"),
        (restarting, restarted, "BackoffLimitExceeded"),
    ];
    for (change, running, reason) in table {
        let plan = planned(&job(change), &[running]);
        let status = plan.status.as_ref().expect("a status");
        assert_eq!(conditions(status), [("FailureTarget", reason)]);
        assert_eq!((plan.stop.len(), status.active, status.terminating), (1, None, Some(1)));
    }
}

#[test]
fn the_end_waits_for_the_last_pod() {
    let target =
        json!({"status": {"conditions": [{"type": "FailureTarget", "status": "True", "reason": "R", "message": "M"}]}});
    let going = pod("a", "Running", json!({"metadata": {"deletionTimestamp": NOW}}));
    let plan = planned(&job(target.clone()), &[going]);
    let status = plan.status.expect("a status");
    let noted = status.uncounted_terminated_pods.clone().and_then(|uncounted| uncounted.failed);
    assert_eq!((noted.as_ref().map(Vec::len), plan.release.len()), (Some(1), 1), "it is counted as failed");
    assert_eq!(status.conditions.as_ref().map(Vec::len), Some(1));
    let gone = planned(&Job { status: Some(status), ..job(target) }, &[]);
    let status = gone.status.expect("a status");
    assert_eq!((status.failed, conditions(&status)), (Some(1), vec![("FailureTarget", "R"), ("Failed", "R")]));
}

#[test]
fn indexes_are_done_one_by_one() {
    let job = job(json!({"spec": {"completionMode": "Indexed", "completions": 4, "parallelism": 3},
        "status": {"completedIndexes": "0", "succeeded": 1}}));
    let pods = [indexed("a", 1, "Succeeded"), indexed("b", 2, "Running"), indexed("c", 2, "Running")];
    let plan = planned(&job, &pods);
    assert_eq!(plan.discard.iter().map(|pod| pod.name()).collect::<Vec<_>>(), ["b"], "an index is done once");
    let plan = planned(&job, &pods[..2]);
    let status = plan.status.expect("a status");
    assert_eq!((status.completed_indexes.as_deref(), status.succeeded), (Some("0,1"), Some(2)));
    let made: Vec<_> = plan.create.iter().filter_map(|pod| pod.metadata.generate_name.as_deref()).collect();
    assert_eq!(made, ["j-3-"]);
}

#[test]
fn suspension_is_told() {
    let suspended = planned(&job(json!({"spec": {"suspend": true}})), &[]);
    let status = suspended.status.expect("a status");
    assert_eq!((conditions(&status), &status.start_time), (vec![("Suspended", "JobSuspended")], &None));
    let resumed = planned(
        &Job { status: Some(JobStatus { conditions: status.conditions, ..JobStatus::default() }), ..job(json!({})) },
        &[],
    );
    let status = resumed.status.expect("a status");
    assert_eq!(conditions(&status), [("Suspended", "JobResumed")]);
    assert!(status.start_time.is_some());
}

#[test]
fn failures_of_an_index_are_its_own() {
    let per_index = |change: Value| {
        let value = json!({"spec": {"completionMode": "Indexed", "completions": 3, "parallelism": 3,
            "backoffLimit": 100, "backoffLimitPerIndex": 1}});
        job(merge_patch(&value, &change))
    };
    let failed = |name: &str, index: i32, before: i32| {
        let annotations = json!({"batch.kubernetes.io/job-completion-index": index.to_string(),
            "batch.kubernetes.io/job-index-failure-count": before.to_string()});
        pod(name, "Failed", json!({"metadata": {"annotations": annotations}}))
    };
    let late = |name: &str, index: i32| {
        let now = json!({"metadata": {"creationTimestamp": NOW}});
        Arc::new(
            serde_json::from_value(merge_patch(&serde_json::to_value(&*failed(name, index, 0)).unwrap(), &now))
                .unwrap(),
        )
    };
    let run = |index| indexed("run", index, "Running");
    let names =
        |plan: &Plan| plan.create.iter().filter_map(|pod| pod.metadata.generate_name.clone()).collect::<Vec<_>>();

    // Tried again after a while, in place of the failed one, which stays until then.
    let plan = planned(&per_index(json!({})), &[failed("a", 0, 0), run(1), indexed("b", 2, "Running")]);
    assert_eq!((names(&plan), plan.release.len()), (vec!["j-0-".to_owned()], 0));
    let count = &plan.create[0].metadata.annotations.as_ref().unwrap()["batch.kubernetes.io/job-index-failure-count"];
    assert_eq!(count, "1");
    let plan = planned(&per_index(json!({})), &[late("a", 0), run(1), indexed("b", 2, "Running")]);
    assert_eq!((names(&plan), plan.look_again), (vec![], Some(Duration::from_secs(10))));
    let plan = planned(&per_index(json!({})), &[late("a", 0), indexed("again", 0, "Running"), run(1)]);
    assert_eq!(plan.release.iter().map(|pod| pod.name()).collect::<Vec<_>>(), ["a"], "its replacement is there");

    // Given up after the limit, and with it in the end the Job; others run on.
    let given_up = [failed("a", 0, 1), run(1), indexed("b", 2, "Running")];
    let plan = planned(&per_index(json!({})), &given_up);
    let status = plan.status.expect("a status");
    assert_eq!((status.failed_indexes.as_deref(), conditions(&status)), (Some("0"), vec![]));
    assert_eq!((plan.create.len(), plan.release.len()), (0, 1));
    let rest = json!({"status": {"failedIndexes": "0", "failed": 2, "completedIndexes": "1", "succeeded": 1}});
    let status = planned(&per_index(rest), &[indexed("b", 2, "Succeeded")]).status.expect("a status");
    assert_eq!(conditions(&status), [("FailureTarget", "FailedIndexes")]);
    let strict = per_index(json!({"spec": {"maxFailedIndexes": 0}}));
    let status = planned(&strict, &given_up).status.expect("a status");
    assert_eq!(conditions(&status), [("FailureTarget", "MaxFailedIndexesExceeded")]);
}
