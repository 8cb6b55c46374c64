use super::*;
use serde_json::{Value, json};
use skiff_meta::patch::merge_patch;

fn cron(change: Value) -> CronJob {
    let value = json!({"metadata": {"name": "c", "namespace": "ns", "uid": "c", "creationTimestamp": "2026-01-01T00:00:30Z"},
        "spec": {"schedule": "*/10 * * * *", "successfulJobsHistoryLimit": 1, "failedJobsHistoryLimit": 1,
            "jobTemplate": {"metadata": {"labels": {"a": "b"}}, "spec": {"template": {}}}},
        "status": {}});
    serde_json::from_value(merge_patch(&value, &change)).expect("a cron job")
}

fn job(name: &str, outcome: &str, start: &str) -> Arc<Job> {
    let conditions: Vec<Value> =
        (!outcome.is_empty()).then(|| json!({"type": outcome, "status": "True"})).into_iter().collect();
    let value = json!({"metadata": {"name": name, "uid": name, "namespace": "ns"},
        "status": {"conditions": conditions, "startTime": start, "completionTime": start}});
    Arc::new(serde_json::from_value(value).expect("a job"))
}

fn planned(cron: &CronJob, jobs: &[Arc<Job>], now: &str) -> Plan {
    plan(&Snapshot { cron, spec: &cron.spec, jobs, now: now.parse().unwrap() })
}

fn reasons(plan: &Plan) -> Vec<&str> {
    plan.events.iter().map(|(reason, ..)| *reason).collect()
}

#[test]
fn jobs_start_on_time_and_once() {
    let at = |plan: &Plan| plan.create.as_ref().map(|(_, due)| due.to_string());
    let started = json!({"status": {"lastScheduleTime": "2026-01-01T00:10:00Z"}});
    let table = [
        ("not yet", json!({}), "2026-01-01T00:09:59Z", None),
        ("now", json!({}), "2026-01-01T00:10:00Z", Some("2026-01-01T00:10:00Z")),
        ("late is better than never", json!({}), "2026-01-01T00:19:00Z", Some("2026-01-01T00:10:00Z")),
        ("the last one only", json!({}), "2026-01-01T05:03:00Z", Some("2026-01-01T05:00:00Z")),
        ("started already", started, "2026-01-01T00:10:05Z", None),
        ("too late", json!({"spec": {"startingDeadlineSeconds": 60}}), "2026-01-01T00:12:00Z", None),
        ("suspended", json!({"spec": {"suspend": true}}), "2026-01-01T00:10:00Z", None),
        ("going", json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}), "2026-01-01T00:10:00Z", None),
    ];
    for (name, change, now, expected) in table {
        assert_eq!(at(&planned(&cron(change), &[], now)).as_deref(), expected, "{name}");
    }
    let plan = planned(&cron(json!({})), &[], "2026-01-01T00:09:00Z");
    assert_eq!(plan.look_again, Some(Duration::from_millis(60_100)));
}

#[test]
fn local_time_follows_its_zone() {
    let daily = |zone: &str| {
        cron(json!({"metadata": {"creationTimestamp": "2026-03-27T12:00:00Z"},
            "spec": {"schedule": "30 8 * * *", "timeZone": zone}}))
    };
    let at = |zone: &str, now: &str| planned(&daily(zone), &[], now).create.map(|(_, due)| due.to_string());
    // Central Europe goes over to summer time on the 29th.
    assert_eq!(at("Europe/Berlin", "2026-03-28T08:00:00Z").as_deref(), Some("2026-03-28T07:30:00Z"));
    assert_eq!(at("Europe/Berlin", "2026-03-29T07:00:00Z").as_deref(), Some("2026-03-29T06:30:00Z"));
    assert_eq!(at("Asia/Kolkata", "2026-03-28T04:00:00Z").as_deref(), Some("2026-03-28T03:00:00Z"));
    assert_eq!(at("Etc/UTC", "2026-03-28T08:29:00Z"), None);
}

#[test]
fn a_job_is_named_by_its_time() {
    let plan = planned(&cron(json!({})), &[], "2026-01-01T00:10:00Z");
    let (made, due) = plan.create.expect("a job");
    assert_eq!(made.name(), format!("c-{}", due.as_second() / 60));
    let meta = serde_json::to_value(&made.metadata).unwrap();
    assert_eq!(meta["annotations"][SCHEDULED_AT], "2026-01-01T00:10:00Z");
    assert_eq!((&meta["labels"]["a"], &meta["ownerReferences"][0]["uid"]), (&json!("b"), &json!("c")));
    let known = job(made.name(), "", "2026-01-01T00:10:00Z");
    let again = planned(&cron(json!({})), std::slice::from_ref(&known), "2026-01-01T00:10:01Z");
    assert_eq!(again.create, None);
    let active = again.status.and_then(|cron| cron.status?.active).unwrap_or_default();
    assert_eq!(active.len(), 1, "it is noted though we did not get so far before");
    let status = started(cron(json!({})), &known, due).status.expect("a status");
    assert_eq!((status.active.map(|all| all.len()), status.last_schedule_time), (Some(1), Some(Time(due))));
}

#[test]
fn running_jobs_are_left_or_replaced() {
    let active = json!({"status": {"active": [{"name": "old", "uid": "old"}]}});
    let policy = |policy: &str| merge_patch(&active, &json!({"spec": {"concurrencyPolicy": policy}}));
    let jobs = [job("old", "", "2026-01-01T00:00:00Z")];
    let at = "2026-01-01T00:10:00Z";
    let allow = planned(&cron(policy("Allow")), &jobs, at);
    assert!(allow.create.is_some() && allow.delete.is_empty());
    let forbid = planned(&cron(policy("Forbid")), &jobs, at);
    assert_eq!((forbid.create.is_none(), reasons(&forbid)), (true, vec!["JobAlreadyActive"]));
    let replace = planned(&cron(policy("Replace")), &jobs, at);
    assert!(replace.create.is_some());
    assert_eq!(replace.delete, jobs);
}

#[test]
fn ends_are_noted_and_the_history_is_cut() {
    let cron = cron(json!({"status": {"active": [{"name": "c", "uid": "c"}, {"name": "lost", "uid": "lost"}]}}));
    let jobs = [
        job("a", "Complete", "2026-01-01T00:00:00Z"),
        job("b", "Complete", "2026-01-01T00:01:00Z"),
        job("c", "Failed", "2026-01-01T00:02:00Z"),
    ];
    let plan = planned(&cron, &jobs, "2026-01-01T00:05:00Z");
    assert_eq!(reasons(&plan), ["SawCompletedJob", "MissingJob"]);
    assert_eq!(plan.delete, jobs[..1]);
    let status = plan.status.and_then(|cron| cron.status).expect("a status");
    assert_eq!(status.active, None);
    assert_eq!(status.last_successful_time, Some(Time("2026-01-01T00:01:00Z".parse().unwrap())));
}

#[test]
fn faults_are_told() {
    let at = "2026-01-01T00:10:00Z";
    assert_eq!(reasons(&planned(&cron(json!({"spec": {"schedule": "never"}})), &[], at)), ["UnparseableSchedule"]);
    assert_eq!(reasons(&planned(&cron(json!({"spec": {"timeZone": "Nowhere/Land"}})), &[], at)), ["UnknownTimeZone"]);
    let old = cron(json!({"metadata": {"creationTimestamp": "2020-01-01T00:00:00Z"}}));
    let plan = planned(&old, &[], at);
    assert_eq!(reasons(&plan), ["TooManyMissedTimes"]);
    assert_eq!(plan.create.map(|(_, due)| due.to_string()).as_deref(), Some(at));
}
