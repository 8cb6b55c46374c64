//! CronJobs. Nobody waits for a full minute: a status whose last run is long ago makes one due, and another schedule the
//! next one.

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use serde_json::{Value, json};

use crate::support::{Api as Run, Seen};
use crate::{CRON_JOBS, JOBS, Kind, ended, expect_that, template};

const EVENTS: Kind = Kind("", "v1", "events", "Event");

fn ago(minutes: i64) -> Timestamp {
    Timestamp::now() - SignedDuration::from_mins(minutes)
}

/// Once an hour, last so many minutes ago.
fn hourly(minutes: i64) -> String {
    format!("{} * * * *", ago(minutes).to_zoned(TimeZone::UTC).minute())
}

fn spec(schedule: String, other: Value) -> Value {
    let mut pods = template(json!({}), "i");
    pods["spec"]["restartPolicy"] = json!("Never");
    let mut spec = json!({"schedule": schedule, "jobTemplate": {"spec": {"template": pods}}});
    for (name, value) in other.as_object().into_iter().flatten() {
        spec[name] = value.clone();
    }
    spec
}

impl Run {
    /// Makes a CronJob believe that it last ran so many minutes ago.
    fn last_ran(&self, cron: &str, minutes: i64) -> Result<(), String> {
        let last = ago(minutes).strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        self.change(&format!("{cron}/status"), json!({"status": {"lastScheduleTime": last}}))
    }

    /// Makes a run of another schedule due.
    fn due_again(&self, path: &str, job: &str, minutes: i64) -> Result<(), String> {
        self.change(&format!("{}/tick", CRON_JOBS.within(path)), json!({"spec": {"schedule": hourly(minutes)}}))?;
        // Upstream looks at a new schedule when that is due, and at once when one of its Jobs changes; that may be replaced
        // by now. A further change of the CronJob could meet the status of the run that starts: upstream stays behind then.
        let job = format!("{}/{job}", JOBS.within(path));
        self.merge(&job, &json!({"metadata": {"annotations": {"looked-at": "again"}}})).map(drop)
    }

    fn jobs(&self, path: &str, count: usize) -> Result<Vec<String>, String> {
        let stays = |job: &&Value| job["metadata"]["deletionTimestamp"].is_null();
        let seen =
            self.see(&format!("{count} Jobs"), JOBS.gvr(), path, |seen| seen.values().filter(stays).count() == count)?;
        Ok(seen.iter().filter(|(_, job)| stays(job)).map(|(name, _)| name.clone()).collect())
    }
}

fn active(cron: &Value) -> usize {
    cron["status"]["active"].as_array().map_or(0, Vec::len)
}

pub(crate) fn concurrency(run: &mut Run) -> Result<(), String> {
    for (policy, left) in [("Allow", 2), ("Forbid", 1), ("Replace", 1)] {
        let path = run.home()?;
        let cron = run.create(&path, CRON_JOBS, "tick", spec(hourly(7), json!({"concurrencyPolicy": policy})))?;
        run.last_ran(&cron, 30)?;
        let first = run.jobs(&path, 1)?.remove(0);
        run.comes("one active run", CRON_JOBS, &path, "tick", |cron| active(cron) == 1)?;
        run.due_again(&path, &first, 3)?;
        match policy {
            "Forbid" => {
                let told = |seen: &Seen| seen.values().any(|event| event["reason"] == "JobAlreadyActive");
                run.see("a run that was not started", EVENTS.gvr(), &path, told)?;
            }
            _ => {
                run.see("the second run", JOBS.gvr(), &path, |seen| seen.keys().any(|name| *name != first))?;
            }
        }
        let names = run.jobs(&path, left)?;
        expect_that(names.contains(&first) == (policy != "Replace"), || format!("{policy}: {names:?}"))?;
        run.comes("as many active runs", CRON_JOBS, &path, "tick", |cron| active(cron) == left)?;
    }
    Ok(())
}

pub(crate) fn suspended(run: &mut Run) -> Result<(), String> {
    let path = run.home()?;
    let still = run.create(&path, CRON_JOBS, "still", spec(hourly(7), json!({"suspend": true})))?;
    run.last_ran(&still, 30)?;
    // Another one in the same case runs, and this one does not.
    let other = run.create(&path, CRON_JOBS, "other", spec(hourly(7), json!({})))?;
    run.last_ran(&other, 30)?;
    let names = run.jobs(&path, 1)?;
    expect_that(names[0].starts_with("other-"), || format!("{names:?}"))?;
    run.change(&still, json!({"spec": {"suspend": false}}))?;
    run.jobs(&path, 2)?;
    // One that is too late is not started.
    let late = run.create(&path, CRON_JOBS, "late", spec(hourly(7), json!({"startingDeadlineSeconds": 60})))?;
    run.last_ran(&late, 30)?;
    let again = run.create(&path, CRON_JOBS, "again", spec(hourly(7), json!({"startingDeadlineSeconds": 3600})))?;
    run.last_ran(&again, 30)?;
    let names = run.jobs(&path, 3)?;
    expect_that(!names.iter().any(|name| name.starts_with("late-")), || format!("{names:?}"))
}

pub(crate) fn history(run: &mut Run) -> Result<(), String> {
    let path = run.home()?;
    let limits = json!({"successfulJobsHistoryLimit": 1, "failedJobsHistoryLimit": 0, "concurrencyPolicy": "Forbid"});
    let schedule = hourly(9);
    let cron = run.create(&path, CRON_JOBS, "tick", spec(schedule.clone(), limits))?;
    run.last_ran(&cron, 30)?;
    let first = run.jobs(&path, 1)?.remove(0);
    let finish = |code: i32| -> Result<(), String> {
        let open = |pod: &Value| pod["status"]["phase"] == "Pending";
        run.fares(&path, &run.pods(&path, 1, open)?[0], ended(code))
    };
    finish(0)?;
    let succeeded = run.comes("a run that succeeded", CRON_JOBS, &path, "tick", |cron| {
        active(cron) == 0 && !cron["status"]["lastSuccessfulTime"].is_null()
    })?;
    let last = &succeeded["status"]["lastScheduleTime"];
    let minute: u8 = schedule.split(' ').next().and_then(|text| text.parse().ok()).unwrap_or_default();
    let on_time = last.as_str().is_some_and(|last| last.ends_with(&format!(":{minute:02}:00Z")));
    expect_that(on_time, || format!("{last} for {schedule}"))?;
    run.due_again(&path, &first, 6)?;
    let second = run.jobs(&path, 2)?.into_iter().find(|name| *name != first).unwrap_or_default();
    finish(0)?;
    run.see("the last run alone", JOBS.gvr(), &path, |seen| seen.keys().eq([&second]))?;
    run.comes("no active run", CRON_JOBS, &path, "tick", |cron| active(cron) == 0)?;
    run.due_again(&path, &second, 3)?;
    let third = run.jobs(&path, 2)?.into_iter().find(|name| *name != second).unwrap_or_default();
    // Of failures none is kept.
    run.change(&format!("{}/{third}", JOBS.within(&path)), json!({"spec": {"activeDeadlineSeconds": 1}}))?;
    run.see("no failed run", JOBS.gvr(), &path, |seen| seen.keys().eq([&second])).map(drop)
}
