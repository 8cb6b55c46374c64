//! The pods of a Job: how they are made, what they are, when they ended. Pure.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod};
use skiff_api::pods::{condition, phase};
use skiff_client::Kind;

use super::policy::{self, Failure};
use crate::shared::pod_from_template;

/// Keeps a finished pod until it is counted.
pub(crate) const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
const INDEX: &str = "batch.kubernetes.io/job-completion-index";
const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
const IGNORED_FAILURES: &str = "batch.kubernetes.io/job-index-ignored-failure-count";
/// Longest prefix of a generated name.
const LONGEST_PREFIX: usize = 58;
/// How long to wait after a failure, doubled at each.
const FIRST_BACKOFF: i64 = 10;
const LONGEST_BACKOFF: i64 = 600;

/// Whether each pod works on an index of its own.
pub(crate) fn is_indexed(spec: &JobSpec) -> bool {
    spec.completion_mode.as_deref() == Some("Indexed")
}

/// Whether a pod that goes is replaced only once it has ended.
pub(crate) fn replaces_failed_only(spec: &JobSpec) -> bool {
    spec.pod_replacement_policy.as_deref() == Some("Failed") || spec.pod_failure_policy.is_some()
}

/// Whether it waits to be counted.
pub(crate) fn is_tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER)
}

/// Whether it counts as failed: also a pod that goes before it ended, since it may never say how it ended.
pub(crate) fn is_failed(spec: &JobSpec, pod: &Pod) -> bool {
    phase(pod) == "Failed" || (!replaces_failed_only(spec) && pod.deleting() && phase(pod) != "Succeeded")
}

/// The index it works on, where it is one of the Job's.
pub(crate) fn index(spec: &JobSpec, pod: &Pod) -> Option<i32> {
    let index = pod.metadata.annotations.as_ref()?.get(INDEX)?.parse().ok()?;
    (0..spec.completions.unwrap_or(0)).contains(&index).then_some(index)
}

/// How often its index failed before it: failures that count, and those that do not.
fn failures_before(pod: &Pod) -> (i32, i32) {
    let read = |key| pod.metadata.annotations.as_ref()?.get(key)?.parse().ok().filter(|count| *count >= 0);
    (read(FAILURES).unwrap_or(0), read(IGNORED_FAILURES).unwrap_or(0))
}

/// How often its index has failed, itself included, whether it counts or not.
pub(crate) fn attempts(pod: &Pod) -> i32 {
    let (counted, ignored) = failures_before(pod);
    counted.saturating_add(ignored).saturating_add(1)
}

/// Whether this failed pod was its index's last chance.
pub(crate) fn fails_index(spec: &JobSpec, pod: &Pod) -> bool {
    let Some(limit) = spec.backoff_limit_per_index.filter(|_| is_failed(spec, pod)) else { return false };
    match policy::judge(spec, pod) {
        Failure::FailsIndex => true,
        Failure::Ignored => false,
        Failure::Counts | Failure::FailsJob(_) => failures_before(pod).0 >= limit,
    }
}

/// Notes on a new pod how often its index failed before, where that is limited.
fn note_failures(spec: &JobSpec, pod: &mut Pod, replaced: Option<&Pod>) {
    if spec.backoff_limit_per_index.is_none() {
        return;
    }
    let (mut counted, mut ignored) = replaced.map_or((0, 0), failures_before);
    if let Some(replaced) = replaced {
        let which = if policy::judge(spec, replaced) == Failure::Ignored { &mut ignored } else { &mut counted };
        *which = which.saturating_add(1);
    }
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(FAILURES.to_owned(), counted.to_string());
    if ignored > 0 {
        annotations.insert(IGNORED_FAILURES.to_owned(), ignored.to_string());
    }
}

/// A new pod of the Job; with an index, perhaps in place of one that failed (`replaced`).
pub(crate) fn pod(job: &Job, spec: &JobSpec, index: Option<i32>, replaced: Option<&Pod>) -> Pod {
    let mut pod = pod_from_template(&spec.template, job);
    let finalizers = pod.metadata.finalizers.get_or_insert_default();
    if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
        finalizers.push(FINALIZER.to_owned());
    }
    let Some(index) = index else { return pod };
    let text = index.to_string();
    pod.metadata.annotations.get_or_insert_default().insert(INDEX.to_owned(), text.clone());
    pod.metadata.labels.get_or_insert_default().insert(INDEX.to_owned(), text);
    let ending = format!("-{index}-");
    let stem = job.name().get(..LONGEST_PREFIX - ending.len()).unwrap_or(job.name());
    pod.metadata.generate_name = Some(format!("{stem}{ending}"));
    note_failures(spec, &mut pod, replaced);
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(format!("{}-{index}", job.name()));
    for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        add_index_variable(container.env.get_or_insert_default());
    }
    pod
}

fn add_index_variable(variables: &mut Vec<EnvVar>) {
    const NAME: &str = "JOB_COMPLETION_INDEX";
    if variables.iter().any(|variable| variable.name == NAME) {
        return;
    }
    let field = ObjectFieldSelector { api_version: None, field_path: format!("metadata.labels['{INDEX}']") };
    let source = EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() };
    variables.push(EnvVar { name: NAME.to_owned(), value: None, value_from: Some(source) });
}

/// When it ended: when its last container did, sidecars included, else when it ceased to be ready or was deleted.
pub(crate) fn finished_at(pod: &Pod) -> Option<Timestamp> {
    let status = pod.status.as_ref();
    let init = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
    let sidecars: Vec<&str> =
        init.filter(|c| c.restart_policy.as_deref() == Some("Always")).map(|c| &*c.name).collect();
    let side = status.into_iter().flat_map(|status| status.init_container_statuses.iter().flatten());
    let side = side.filter(|container| sidecars.contains(&&*container.name));
    let ends = status.into_iter().flat_map(|status| status.container_statuses.iter().flatten()).chain(side);
    let ends = ends.map(|c| Some(c.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref()?.0));
    let ends: Option<Vec<Timestamp>> = ends.collect();
    let by_container = ends.and_then(|ends| ends.into_iter().max());
    let not_ready = || condition(pod, "Ready").filter(|c| c.status == "False")?.last_transition_time.as_ref();
    let meta = &pod.metadata;
    let grace = SignedDuration::from_secs(meta.deletion_grace_period_seconds.unwrap_or(0));
    by_container
        .or_else(|| not_ready().map(|time| time.0))
        .or_else(|| meta.deletion_timestamp.as_ref().and_then(|time| time.0.checked_sub(grace).ok()))
        .or_else(|| meta.creation_timestamp.as_ref().map(|time| time.0))
}

/// Until when nothing is tried again after so many failures, the last of them at `last`.
pub(crate) fn backoff_after(failures: usize, last: Timestamp) -> Option<Timestamp> {
    let doublings = u32::try_from(failures).unwrap_or(u32::MAX).checked_sub(1)?;
    let seconds = FIRST_BACKOFF.saturating_mul(1 << doublings.min(10)).min(LONGEST_BACKOFF);
    last.checked_add(SignedDuration::from_secs(seconds)).ok()
}

/// Until when no new pod is to be made: the more failures there were since the last success, the longer.
pub(crate) fn backoff_until<'a>(spec: &JobSpec, pods: impl Iterator<Item = &'a Pod> + Clone) -> Option<Timestamp> {
    let success = pods.clone().filter(|pod| phase(pod) == "Succeeded").filter_map(finished_at).max();
    let failures = pods.filter(|pod| is_failed(spec, pod)).filter_map(finished_at);
    let failures: Vec<Timestamp> = failures.filter(|at| success.is_none_or(|success| *at > success)).collect();
    backoff_after(failures.len(), failures.into_iter().max()?)
}

/// How often containers of running pods were restarted.
pub(crate) fn restarts<'a>(pods: impl Iterator<Item = &'a Pod>) -> i32 {
    let running = pods.filter(|pod| matches!(phase(pod), "Running" | "Pending"));
    let statuses = running.filter_map(|pod| pod.status.as_ref()).flat_map(|status| {
        status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten())
    });
    statuses.map(|container| container.restart_count).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn indexed_pods_know_their_index() {
        let job: Job = serde_json::from_value(json!({"metadata": {"name": "j", "uid": "u"},
            "spec": {"completionMode": "Indexed", "completions": 3, "template": {"spec": {"containers": [{"name": "c"}]}}}}))
        .unwrap();
        let spec = job.spec.as_ref().unwrap();
        let pod = pod(&job, spec, Some(2), None);
        assert_eq!((index(spec, &pod), pod.metadata.generate_name.as_deref()), (Some(2), Some("j-2-")));
        assert!(is_tracked(&pod));
        let container = &pod.spec.as_ref().unwrap().containers[0];
        assert_eq!(container.env.as_ref().unwrap()[0].name, "JOB_COMPLETION_INDEX");
    }

    #[test]
    fn an_index_remembers_its_failures() {
        let job: Job = serde_json::from_value(json!({"metadata": {"name": "j", "uid": "u"},
            "spec": {"completionMode": "Indexed", "completions": 3, "backoffLimitPerIndex": 1, "template": {},
                "podFailurePolicy": {"rules": [
                    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]}}}))
        .unwrap();
        let spec = job.spec.as_ref().unwrap();
        let fail = |mut pod: Pod, conditions: serde_json::Value| {
            pod.status =
                serde_json::from_value(json!({"phase": "Failed", "conditions": conditions})).expect("a status");
            pod
        };
        let disrupted = json!([{"type": "DisruptionTarget", "status": "True"}]);
        let first = fail(pod(&job, spec, Some(0), None), disrupted);
        assert_eq!((failures_before(&first), attempts(&first), fails_index(spec, &first)), ((0, 0), 1, false));
        let second = fail(pod(&job, spec, Some(0), Some(&first)), json!([]));
        assert_eq!((failures_before(&second), attempts(&second), fails_index(spec, &second)), ((0, 1), 2, false));
        let third = fail(pod(&job, spec, Some(0), Some(&second)), json!([]));
        assert_eq!((failures_before(&third), fails_index(spec, &third)), ((1, 1), true));
    }

    #[test]
    fn failures_since_the_last_success_slow_down() {
        let spec = JobSpec::default();
        let pod = |phase: &str, second: i64| -> Pod {
            let at = Timestamp::from_second(second).unwrap().to_string();
            serde_json::from_value(json!({"metadata": {"creationTimestamp": at}, "status": {"phase": phase}})).unwrap()
        };
        let until = |pods: &[Pod]| backoff_until(&spec, pods.iter()).map(Timestamp::as_second);
        assert_eq!(until(&[pod("Running", 1)]), None);
        assert_eq!(until(&[pod("Failed", 100)]), Some(110));
        assert_eq!(until(&[pod("Failed", 100), pod("Failed", 200), pod("Failed", 300)]), Some(340));
        assert_eq!(until(&[pod("Failed", 100), pod("Succeeded", 150), pod("Failed", 200)]), Some(210));
    }
}
