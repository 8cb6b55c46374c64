use super::*;
use crate::Rules;
use serde_json::json;

fn job() -> Value {
    let mut job = json!({"metadata": {"name": "j", "uid": "u"}, "spec": {
        "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "x:1"}]}}}});
    JOB.default(&mut job);
    JOB.prepare_create(&mut job);
    job
}

fn texts(faults: &FieldErrors) -> Vec<String> {
    faults.iter().map(ToString::to_string).collect()
}

#[test]
fn a_job_runs_once_by_default() {
    let job = job();
    let spec = &job["spec"];
    assert_eq!(
        (&spec["completions"], &spec["parallelism"], &spec["backoffLimit"], &spec["podReplacementPolicy"]),
        (&json!(1), &json!(1), &json!(6), &json!("TerminatingOrFailed"))
    );
    assert_eq!(spec["selector"], json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "u"}}));
    assert_eq!(spec["template"]["metadata"]["labels"].as_object().map(serde_json::Map::len), Some(4));
    assert_eq!(JOB.validate_create(&job), []);
    assert_eq!(JOB.validate_update(&job, &job, Part::Main), []);
}

#[test]
fn faults() {
    for (name, value, expected) in [
        ("parallelism", json!(-1), "spec.parallelism: Invalid value: -1: must be greater than or equal to 0"),
        ("completionMode", json!("X"), "spec.completionMode: Unsupported value: \"X\": supported values: \"Indexed\""),
        ("backoffLimitPerIndex", json!(1), "spec.backoffLimitPerIndex: Invalid value: 1: requires indexed completion"),
        ("managedBy", json!("me"), "spec.managedBy: Invalid value: \"me\": must be a domain-prefixed path"),
        ("selector", json!({"matchLabels": {"a": "b"}}), "spec.template.metadata.labels: Invalid value"),
        (
            "podFailurePolicy",
            json!({"rules": [{"action": "FailJob"}]}),
            "spec.podFailurePolicy.rules[0]: Invalid value: specifying one of OnExitCodes and OnPodConditions is required",
        ),
        (
            "podFailurePolicy",
            json!({"rules": [{"action": "Ignore", "onExitCodes": {"operator": "In", "values": [3, 0]}}]}),
            "spec.podFailurePolicy.rules[0].onExitCodes.values: Invalid value: [3,0]: must be ordered",
        ),
        ("successPolicy", json!({"rules": []}), "spec.successPolicy: Invalid value: {\"rules\":[]}: requires indexed"),
    ] {
        let mut job = job();
        job["spec"][name] = value;
        let found = texts(&JOB.validate_create(&job));
        assert!(found.iter().any(|f| f.starts_with(expected)), "{name}: {found:?}");
    }
    let mut foreign = job();
    foreign["spec"]["template"]["metadata"]["labels"]["job-name"] = json!("other");
    let found = texts(&JOB.validate_create(&foreign));
    assert!(found[0].starts_with("spec.template.metadata.labels[job-name]: Invalid value:"), "{found:?}");
}

#[test]
fn the_template_stays_while_pods_run() {
    let old = job();
    let mut new = old.clone();
    new["spec"]["template"]["spec"]["nodeSelector"] = json!({"a": "b"});
    let found = texts(&JOB.validate_update(&new, &old, Part::Main));
    assert!(found.len() == 1 && found[0].starts_with("spec.template: Invalid value"), "{found:?}");
    let mut resting = old.clone();
    resting["spec"]["suspend"] = json!(true);
    assert_eq!(JOB.validate_update(&new, &resting, Part::Main), []);
    new["spec"]["template"]["spec"]["hostNetwork"] = json!(true);
    assert_eq!(JOB.validate_update(&new, &resting, Part::Main).len(), 1);
}

#[test]
fn ends_are_final() {
    let conditions = |kinds: &[&str]| {
        let all: Vec<_> = kinds.iter().map(|kind| json!({"type": kind, "status": "True"})).collect();
        json!(all)
    };
    let (mut old, mut new) = (job(), job());
    old["status"] = json!({"startTime": "2026-01-01T00:00:00Z", "succeeded": 0, "active": 1});
    new["status"] = json!({"startTime": "2026-01-01T00:00:00Z", "completionTime": "2026-01-01T00:00:09Z", "succeeded": 1,
        "conditions": conditions(&["SuccessCriteriaMet", "Complete"])});
    assert_eq!(JOB.validate_update(&new, &old, Part::Status), []);
    let found = texts(&JOB.validate_update(&old, &new, Part::Status));
    assert!(
        found.contains(
            &"status.conditions: Invalid value: cannot disable the terminal Complete=True condition".to_owned()
        ),
        "{found:?}"
    );
    let mut early = new.clone();
    early["status"]["conditions"] = conditions(&["Complete"]);
    early["status"]["active"] = json!(1);
    assert_eq!(JOB.validate_update(&early, &old, Part::Status).len(), 2);
}

#[test]
fn intervals_of_indexes() {
    for (text, expected) in [("", Ok(0)), ("1,3-5", Ok(4)), ("9", Err(())), ("3,2", Err(())), ("a", Err(()))] {
        assert_eq!(policies::index_count(text, 6).map_err(drop), expected, "{text}");
    }
}

#[test]
fn row() {
    let mut job = job();
    job["status"] = json!({"startTime": "2026-01-01T00:00:00Z", "completionTime": "2026-01-01T00:00:09Z",
        "conditions": [{"type": "Complete", "status": "True"}], "succeeded": 1});
    let cells = JOB.cells(&job, Timestamp::UNIX_EPOCH);
    assert_eq!(cells[1..4], ["Complete", "1/1", "9s"].map(Value::from));
}
