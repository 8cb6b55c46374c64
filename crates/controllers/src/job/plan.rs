//! What a Job needs, from a snapshot of its pods. Pure.
//!
//! Finished pods carry a finalizer until they are counted, so that none is counted twice and none is lost, whoever deletes
//! pods meanwhile: first their UIDs are noted in the status (*uncounted*), then the finalizer goes, and once that is seen
//! the counter rises. A Job that is decided is first marked so (`SuccessCriteriaMet`, `FailureTarget`), and gets its final
//! condition when the last pod is gone and counted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use skiff_api::pods::{is_active, is_finished, is_ready, phase};
use skiff_client::Kind;

use super::indexes::Indexes;
use super::pods::{self, is_failed, is_indexed, is_tracked};
use super::policy::{self, Failure};
use crate::shared::{counter, deletion_order};

/// At most so many pods are created or deleted, and so many UIDs noted, in one go.
const BURST: usize = 500;

/// What is known of one Job.
pub(crate) struct Snapshot<'a> {
    pub(crate) job: &'a Job,
    pub(crate) spec: &'a JobSpec,
    /// Its pods, claimed already.
    pub(crate) pods: &'a [Arc<Pod>],
    pub(crate) now: Timestamp,
}

/// What to write, in this order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Plan {
    /// Pods to delete; they are counted when they are gone.
    pub(crate) stop: Vec<Arc<Pod>>,
    /// Pods to delete that are not to be counted.
    pub(crate) discard: Vec<Arc<Pod>>,
    /// Pods to create.
    pub(crate) create: Vec<Pod>,
    /// The new status, where it differs.
    pub(crate) status: Option<JobStatus>,
    /// Whether it may be written without waiting for more.
    pub(crate) at_rest: bool,
    /// Pods whose finalizer may go once the status is written.
    pub(crate) release: Vec<Arc<Pod>>,
    /// Reason and message to tell.
    pub(crate) events: Vec<(&'static str, String)>,
    /// When to look again though nothing changes.
    pub(crate) look_again: Option<Duration>,
}

/// How a Job is decided.
#[derive(Clone, Debug, PartialEq)]
struct Verdict {
    success: bool,
    reason: String,
    message: String,
}

/// Whether the Job has its final condition.
pub(crate) fn is_finished_job(job: &Job) -> bool {
    ["Complete", "Failed"].iter().any(|type_| holds(job.status.as_ref(), type_))
}

fn find<'a>(status: Option<&'a JobStatus>, type_: &str) -> Option<&'a JobCondition> {
    status?.conditions.iter().flatten().find(|condition| condition.type_ == type_)
}

fn holds(status: Option<&JobStatus>, type_: &str) -> bool {
    find(status, type_).is_some_and(|condition| condition.status == "True")
}

fn is_suspended(spec: &JobSpec) -> bool {
    spec.suspend.unwrap_or(false)
}

/// The status as it is being worked out.
struct Draft<'a> {
    snapshot: &'a Snapshot<'a>,
    status: JobStatus,
    uncounted: UncountedTerminatedPods,
    done: Indexes,
    /// Indexes that are not tried again, where failures of an index are limited.
    given_up: Option<Indexes>,
    /// The last failed pod of an index that is to be tried again: it stays until its replacement is there, which takes
    /// over the number of failures.
    delayed: BTreeMap<i32, Arc<Pod>>,
    succeeded: i32,
    failed: i32,
}

/// The plan for a Job that is not finished.
pub(crate) fn plan(snapshot: &Snapshot<'_>) -> Plan {
    let mut draft = Draft::new(snapshot);
    let mut plan = Plan::default();
    draft.note_start();
    let active: Vec<Arc<Pod>> = snapshot.pods.iter().filter(|pod| is_active(pod)).cloned().collect();
    let mut verdict = draft.verdict();
    if verdict.is_none() && !snapshot.job.deleting() {
        verdict = draft.complete(active.len());
        if verdict.is_none() {
            draft.manage(&active, &mut plan);
            draft.note_suspension(&mut plan);
        }
    }
    if verdict.is_some() && !snapshot.job.deleting() {
        plan.stop.clone_from(&active);
    }
    draft.count(verdict.as_ref(), &mut plan);
    let left = active.len() - plan.stop.len() - plan.discard.len() + plan.create.len();
    draft.finish(verdict.as_ref(), &mut plan, left);
    let deadline = draft.deadline().filter(|left| !left.is_zero());
    plan.look_again = [plan.look_again, deadline].into_iter().flatten().min();
    // Pods that are going come back one by one.
    let moving = left > 0 || draft.status.terminating.is_some_and(|going| going > 0);
    plan.at_rest = !plan.events.is_empty() || !moving;
    plan.status = (snapshot.job.status.as_ref() != Some(&draft.status)).then_some(draft.status);
    plan
}

impl<'a> Draft<'a> {
    fn new(snapshot: &'a Snapshot<'a>) -> Self {
        let mut status = snapshot.job.status.clone().unwrap_or_default();
        let tracked: BTreeSet<&str> = snapshot.pods.iter().filter(|pod| is_tracked(pod)).map(|pod| pod.uid()).collect();
        let mut uncounted = status.uncounted_terminated_pods.take().unwrap_or_default();
        // A noted pod whose finalizer is gone is counted now.
        let settle = |uids: &mut Option<Vec<String>>, total: &mut Option<i32>| {
            let all = uids.take().unwrap_or_default();
            let (waiting, counted): (Vec<_>, Vec<_>) = all.into_iter().partition(|uid| tracked.contains(&**uid));
            *total = Some(total.unwrap_or(0) + i32::try_from(counted.len()).unwrap_or(0)).filter(|n| *n != 0);
            *uids = (!waiting.is_empty()).then_some(waiting);
        };
        settle(&mut uncounted.succeeded, &mut status.succeeded);
        settle(&mut uncounted.failed, &mut status.failed);
        let completions = snapshot.spec.completions.unwrap_or(0);
        let done = Indexes::parse(status.completed_indexes.as_deref().unwrap_or_default(), completions);
        let (given_up, delayed) = (None, BTreeMap::new());
        let mut draft = Self { snapshot, status, uncounted, done, given_up, delayed, succeeded: 0, failed: 0 };
        draft.tally();
        draft.give_up();
        draft
    }

    /// Indexes that succeeded, counted or not.
    fn all_done(&self) -> Indexes {
        let spec = self.snapshot.spec;
        let ended = self.fresh().filter(|pod| phase(pod) == "Succeeded");
        self.done.clone().with(ended.filter_map(|pod| pods::index(spec, pod)))
    }

    /// Which indexes are given up, and which failed pods wait to be replaced.
    fn give_up(&mut self) {
        let spec = self.snapshot.spec;
        if spec.backoff_limit_per_index.is_none() || !is_indexed(spec) {
            return;
        }
        let known = self.status.failed_indexes.as_deref().unwrap_or_default();
        let tracked = || self.snapshot.pods.iter().filter(|pod| is_tracked(pod));
        let lost = tracked().filter(|pod| pods::fails_index(spec, pod)).filter_map(|pod| pods::index(spec, pod));
        let given_up = Indexes::parse(known, spec.completions.unwrap_or(0)).with(lost);
        let active = self.pods().filter(|pod| is_active(pod)).filter_map(|pod| pods::index(spec, pod));
        let settled = self.all_done().with(given_up.iter()).with(active);
        let mut delayed: BTreeMap<i32, Arc<Pod>> = BTreeMap::new();
        for pod in tracked().filter(|pod| is_failed(spec, pod)) {
            let Some(index) = pods::index(spec, pod).filter(|index| !settled.contains(*index)) else { continue };
            let age = |pod: &Pod| (pods::attempts(pod), pods::finished_at(pod));
            if delayed.get(&index).is_none_or(|known| age(known) <= age(pod)) {
                delayed.insert(index, pod.clone());
            }
        }
        (self.given_up, self.delayed) = (Some(given_up), delayed);
    }

    fn pods(&self) -> impl Iterator<Item = &'a Pod> + Clone + use<'a> {
        self.snapshot.pods.iter().map(|pod| &**pod)
    }

    /// Tracked pods that are in neither list of noted ones.
    fn fresh(&self) -> impl Iterator<Item = &'a Arc<Pod>> + use<'a> {
        let noted = self.noted();
        self.snapshot.pods.iter().filter(move |pod| is_tracked(pod) && !noted.contains(pod.uid()))
    }

    /// The UIDs of noted pods.
    fn noted(&self) -> BTreeSet<String> {
        self.uncounted.succeeded.iter().chain(&self.uncounted.failed).flatten().cloned().collect()
    }

    /// Totals with everything that has ended, counted or not.
    fn tally(&mut self) {
        let spec = self.snapshot.spec;
        let noted = |uids: &Option<Vec<String>>| i32::try_from(uids.as_ref().map_or(0, Vec::len)).unwrap_or(0);
        let fresh: Vec<&Arc<Pod>> = self.fresh().collect();
        let counts = |pod: &&&Arc<Pod>| policy::judge(spec, pod) != Failure::Ignored;
        let failures = fresh.iter().filter(|pod| is_failed(spec, pod)).filter(counts).count();
        self.failed = self.status.failed.unwrap_or(0) + noted(&self.uncounted.failed);
        self.failed += i32::try_from(failures).unwrap_or(0);
        let successes: Vec<_> = fresh.iter().filter(|pod| phase(pod) == "Succeeded").collect();
        if is_indexed(spec) {
            self.succeeded = i32::try_from(self.all_done().len()).unwrap_or(i32::MAX);
        } else {
            self.succeeded = self.status.succeeded.unwrap_or(0) + noted(&self.uncounted.succeeded);
            self.succeeded += i32::try_from(successes.len()).unwrap_or(0);
        }
    }

    fn note_start(&mut self) {
        if self.status.start_time.is_none() && !is_suspended(self.snapshot.spec) {
            self.status.start_time = Some(Time(self.snapshot.now));
        }
    }

    /// Whether the Job is decided other than by having done all its work.
    fn verdict(&self) -> Option<Verdict> {
        let spec = self.snapshot.spec;
        let known = |type_: &str, success: bool| {
            let found = find(Some(&self.status), type_).filter(|condition| condition.status == "True")?;
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            Some(Verdict { success, reason: text(&found.reason), message: text(&found.message) })
        };
        let failure = |reason: &str, message: &str| {
            Some(Verdict { success: false, reason: reason.to_owned(), message: message.to_owned() })
        };
        known("SuccessCriteriaMet", true)
            .or_else(|| known("FailureTarget", false))
            .or_else(|| {
                let failed = self.pods().filter(|pod| is_failed(spec, pod));
                let fatal = failed.map(|pod| policy::judge(spec, pod)).find_map(|failure| match failure {
                    Failure::FailsJob(message) => Some(message),
                    _ => None,
                });
                failure("PodFailurePolicy", &fatal?)
            })
            .or_else(|| {
                let over = self.failed > spec.backoff_limit.unwrap_or(6) || self.restarts_exceed();
                over.then(|| failure("BackoffLimitExceeded", "Job has reached the specified backoff limit")).flatten()
            })
            .or_else(|| {
                let late = self.deadline().is_some_and(|left| left.is_zero());
                late.then(|| failure("DeadlineExceeded", "Job was active longer than specified deadline")).flatten()
            })
            .or_else(|| {
                let given_up = self.given_up.as_ref().map(Indexes::len).filter(|count| *count > 0)?;
                let count = |number: Option<i32>| number.map(|number| usize::try_from(number).unwrap_or(0));
                if count(spec.max_failed_indexes).is_some_and(|limit| given_up > limit) {
                    let message = "Job has exceeded the specified maximal number of failed indexes";
                    return failure("MaxFailedIndexesExceeded", message);
                }
                let settled = given_up + self.all_done().len() >= count(spec.completions).unwrap_or(0);
                settled.then(|| failure("FailedIndexes", "Job has failed indexes")).flatten()
            })
            .or_else(|| {
                let message = policy::enough(spec, &self.all_done()).filter(|_| is_indexed(spec))?;
                Some(Verdict { success: true, reason: "SuccessPolicy".to_owned(), message })
            })
    }

    fn restarts_exceed(&self) -> bool {
        let spec = self.snapshot.spec;
        let policy = spec.template.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref());
        let limit = spec.backoff_limit.unwrap_or(6);
        policy == Some("OnFailure") && pods::restarts(self.pods()) >= limit.max(1)
    }

    /// How long until the Job has been active for too long.
    fn deadline(&self) -> Option<Duration> {
        let spec = self.snapshot.spec;
        let seconds = spec.active_deadline_seconds.filter(|_| !is_suspended(spec))?;
        let end = self.status.start_time.as_ref()?.0.checked_add(SignedDuration::from_secs(seconds)).ok()?;
        Some(Duration::try_from(end.duration_since(self.snapshot.now)).unwrap_or_default())
    }

    /// Whether all work is done.
    fn complete(&self, active: usize) -> Option<Verdict> {
        let enough = match self.snapshot.spec.completions {
            // Any success is enough then, once the others have ended as well.
            None => self.succeeded > 0,
            Some(completions) => self.succeeded >= completions,
        };
        let message = "Reached expected number of succeeded pods".to_owned();
        let verdict = Verdict { success: true, reason: "CompletionsReached".to_owned(), message };
        (enough && active == 0).then_some(verdict)
    }

    /// Brings the number of active pods to what is wanted.
    fn manage(&self, active: &[Arc<Pod>], plan: &mut Plan) {
        let spec = self.snapshot.spec;
        if is_suspended(spec) {
            plan.discard = active.to_vec();
            return;
        }
        let count = |number: i32| usize::try_from(number).unwrap_or(0);
        let parallelism = count(spec.parallelism.unwrap_or(1));
        let wanted = match spec.completions {
            None if self.succeeded > 0 => active.len(),
            None => parallelism,
            Some(completions) => count(completions - self.succeeded).min(parallelism),
        };
        let surplus = self.surplus(active, active.len().saturating_sub(wanted));
        if !surplus.is_empty() {
            plan.discard = surplus;
            return;
        }
        let going = |pod: &&Pod| pod.deleting() && !is_finished(pod);
        let going = if pods::replaces_failed_only(spec) { self.pods().filter(going).count() } else { 0 };
        let missing = wanted.saturating_sub(going + active.len()).min(BURST);
        if missing == 0 {
            return;
        }
        let one_for_all = self.given_up.is_none();
        if let Some(wait) = pods::backoff_until(spec, self.pods()).filter(|_| one_for_all).and_then(|at| self.left(at))
        {
            plan.look_again = Some(wait);
            return;
        }
        let job = self.snapshot.job;
        if !is_indexed(spec) {
            plan.create = vec![pods::pod(job, spec, None, None); missing];
            return;
        }
        for index in self.pending_indexes(active, missing) {
            let replaced = self.delayed.get(&index);
            let failures = replaced.map_or(0, |pod| usize::try_from(pods::attempts(pod)).unwrap_or(0));
            let until = replaced.and_then(|pod| pods::backoff_after(failures, pods::finished_at(pod)?));
            match until.and_then(|until| self.left(until)) {
                Some(wait) => plan.look_again = Some(plan.look_again.map_or(wait, |other| other.min(wait))),
                None => plan.create.push(pods::pod(job, spec, Some(index), replaced.map(|pod| &**pod))),
            }
        }
    }

    /// How long until then; `None`: it is past.
    fn left(&self, until: Timestamp) -> Option<Duration> {
        Duration::try_from(until.duration_since(self.snapshot.now)).ok().filter(|left| !left.is_zero())
    }

    /// The lowest indexes that nobody works on, and that have neither succeeded nor been given up.
    fn pending_indexes(&self, active: &[Arc<Pod>], count: usize) -> Vec<i32> {
        let spec = self.snapshot.spec;
        let busy = active.iter().filter_map(|pod| pods::index(spec, pod));
        let going = |pod: &&Pod| pods::replaces_failed_only(spec) && pod.deleting() && !is_finished(pod);
        let going = self.pods().filter(going).filter_map(|pod| pods::index(spec, pod));
        let given_up = self.given_up.iter().flat_map(Indexes::iter);
        let settled = self.all_done().with(busy).with(going).with(given_up);
        settled.missing(spec.completions.unwrap_or(0)).take(count).collect()
    }

    /// Active pods to give up: those that work on an index twice or for nothing, and `count` in all at least.
    fn surplus(&self, active: &[Arc<Pod>], count: usize) -> Vec<Arc<Pod>> {
        let spec = self.snapshot.spec;
        let mut pods = active.to_vec();
        deletion_order(&mut pods, &[], self.snapshot.now);
        let mut surplus = Vec::new();
        if is_indexed(spec) {
            let mut busy = Indexes::default();
            // The last in the order of deletion are worth most, and keep their index.
            pods.reverse();
            pods.retain(|pod| match pods::index(spec, pod).filter(|index| !self.done.contains(*index)) {
                Some(index) if !busy.contains(index) => {
                    busy.insert(index);
                    true
                }
                _ => {
                    surplus.push(pod.clone());
                    false
                }
            });
            pods.sort_by_key(|pod| std::cmp::Reverse(pods::index(spec, pod)));
        }
        let more = count.saturating_sub(surplus.len());
        surplus.extend(pods.into_iter().take(more));
        surplus.truncate(BURST);
        surplus
    }

    fn note_suspension(&mut self, plan: &mut Plan) {
        let now = self.snapshot.now;
        match (is_suspended(self.snapshot.spec), holds(Some(&self.status), "Suspended")) {
            (true, false) => {
                self.set(condition("Suspended", "True", "JobSuspended", "Job suspended", now));
                self.status.start_time = None;
                plan.events.push(("Suspended", "Job suspended".to_owned()));
            }
            (false, true) => {
                self.set(condition("Suspended", "False", "JobResumed", "Job resumed", now));
                self.status.start_time = Some(Time(now));
                plan.events.push(("Resumed", "Job resumed".to_owned()));
            }
            _ => {}
        }
    }

    /// Notes pods that have ended, and lets go of those that are noted.
    fn count(&mut self, verdict: Option<&Verdict>, plan: &mut Plan) {
        let spec = self.snapshot.spec;
        let lost = verdict.is_some_and(|verdict| !verdict.success);
        let delayed: BTreeSet<&str> = self.delayed.values().map(|pod| pod.uid()).collect();
        let known = self.noted();
        let noted = |uncounted: &UncountedTerminatedPods| {
            [&uncounted.succeeded, &uncounted.failed].into_iter().flatten().map(Vec::len).sum::<usize>()
        };
        for pod in self.snapshot.pods.iter().filter(|pod| is_tracked(pod)) {
            let failed = is_failed(spec, pod);
            let over = self.snapshot.job.deleting() || (verdict.is_some() && pod.deleting());
            let delayed = verdict.is_none() && delayed.contains(pod.uid());
            if phase(pod) != "Succeeded" && !over && (!failed || delayed) {
                continue;
            }
            if noted(&self.uncounted) >= BURST {
                break;
            }
            plan.release.push(pod.clone());
            if known.contains(pod.uid()) {
                continue;
            }
            if phase(pod) == "Succeeded" {
                match pods::index(spec, pod) {
                    Some(index) if is_indexed(spec) => self.done.insert(index),
                    _ if is_indexed(spec) => {}
                    _ => self.uncounted.succeeded.get_or_insert_default().push(pod.uid().to_owned()),
                }
            } else if (failed || lost)
                && (!is_indexed(spec) || pods::index(spec, pod).is_some())
                && policy::judge(spec, pod) != Failure::Ignored
            {
                self.uncounted.failed.get_or_insert_default().push(pod.uid().to_owned());
            }
        }
        if is_indexed(spec) {
            self.status.succeeded = counter(self.done.len());
            self.status.completed_indexes = Some(self.done.to_string()).filter(|text| !text.is_empty());
            self.status.failed_indexes = self.given_up.as_ref().map(Indexes::to_string);
        }
    }

    fn finish(&mut self, verdict: Option<&Verdict>, plan: &mut Plan, active: usize) {
        let now = self.snapshot.now;
        let stopped: BTreeSet<&str> = plan.stop.iter().chain(&plan.discard).map(|pod| pod.uid()).collect();
        let stopped = |pod: &Pod| stopped.contains(pod.uid());
        let ready = self.pods().filter(|pod| is_active(pod) && is_ready(pod) && !stopped(pod)).count();
        let going = self.pods().filter(|pod| !is_finished(pod) && (pod.deleting() || stopped(pod))).count();
        self.status.active = counter(active);
        self.status.ready = Some(counter(ready).unwrap_or(0));
        self.status.terminating = Some(counter(going).unwrap_or(0));
        if let Some(verdict) = verdict {
            let interim = if verdict.success { "SuccessCriteriaMet" } else { "FailureTarget" };
            self.set(condition(interim, "True", &verdict.reason, &verdict.message, now));
            let counted = self.uncounted == UncountedTerminatedPods::default() && plan.release.is_empty();
            if counted && active == 0 && going == 0 {
                let last = if verdict.success { "Complete" } else { "Failed" };
                self.set(condition(last, "True", &verdict.reason, &verdict.message, now));
                if verdict.success {
                    self.status.completion_time = Some(Time(now));
                    plan.events.push(("Completed", "Job completed".to_owned()));
                } else {
                    plan.events.push(("Failed", format!("{}: {}", verdict.reason, verdict.message)));
                }
            }
        }
        self.status.uncounted_terminated_pods = Some(std::mem::take(&mut self.uncounted));
    }

    /// Sets a condition; one that says the same already stays as it is.
    fn set(&mut self, new: JobCondition) {
        let conditions = self.status.conditions.get_or_insert_default();
        match conditions.iter_mut().find(|known| known.type_ == new.type_) {
            Some(known) if known.status == new.status => {}
            Some(known) => *known = new,
            None => conditions.push(new),
        }
    }
}

fn condition(type_: &str, status: &str, reason: &str, message: &str, now: Timestamp) -> JobCondition {
    JobCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    }
}

#[cfg(test)]
mod tests;
