//! The pods of a Job: how they are made, what they are, when they ended. Pure.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod};
use skiff_api::pods::{condition, phase};
use skiff_client::Kind;

use super::indexes::Indexes;
use crate::shared::pod_from_template;

/// Keeps a finished pod until it is counted.
pub(crate) const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
const INDEX: &str = "batch.kubernetes.io/job-completion-index";
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

/// A new pod of the Job.
pub(crate) fn pod(job: &Job, spec: &JobSpec, index: Option<i32>) -> Pod {
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

/// The lowest indexes that nobody works on and that have not succeeded.
pub(crate) fn pending_indexes<'a>(
    spec: &JobSpec,
    succeeded: &Indexes,
    active: impl Iterator<Item = &'a Pod>,
    count: usize,
) -> Vec<i32> {
    let mut busy = Indexes::default();
    active.filter_map(|pod| index(spec, pod)).for_each(|index| busy.insert(index));
    let free = |index: &i32| !succeeded.contains(*index) && !busy.contains(*index);
    (0..spec.completions.unwrap_or(0)).filter(free).take(count).collect()
}

/// When it ended.
fn finished_at(pod: &Pod) -> Option<Timestamp> {
    let containers = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    let ends = containers.into_iter().flatten();
    let ends = ends.map(|c| Some(c.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref()?.0));
    let ends: Option<Vec<Timestamp>> = ends.collect();
    let by_container = ends.and_then(|ends| ends.into_iter().max());
    let not_ready = || condition(pod, "Ready").filter(|c| c.status == "False")?.last_transition_time.as_ref();
    let meta = &pod.metadata;
    by_container
        .or_else(|| not_ready().map(|time| time.0))
        .or_else(|| meta.deletion_timestamp.as_ref().map(|time| time.0))
        .or_else(|| meta.creation_timestamp.as_ref().map(|time| time.0))
}

/// Until when no new pod is to be made: the more failures there were since the last success, the longer.
pub(crate) fn backoff_until<'a>(spec: &JobSpec, pods: impl Iterator<Item = &'a Pod> + Clone) -> Option<Timestamp> {
    let success = pods.clone().filter(|pod| phase(pod) == "Succeeded").filter_map(finished_at).max();
    let failures = pods.filter(|pod| is_failed(spec, pod)).filter_map(finished_at);
    let failures: Vec<Timestamp> = failures.filter(|at| success.is_none_or(|success| *at > success)).collect();
    let doublings = u32::try_from(failures.len()).unwrap_or(u32::MAX).checked_sub(1)?;
    let seconds = FIRST_BACKOFF.saturating_mul(1 << doublings.min(10)).min(LONGEST_BACKOFF);
    failures.into_iter().max()?.checked_add(SignedDuration::from_secs(seconds)).ok()
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
        let pod = pod(&job, spec, Some(2));
        assert_eq!((index(spec, &pod), pod.metadata.generate_name.as_deref()), (Some(2), Some("j-2-")));
        assert!(is_tracked(&pod));
        let container = &pod.spec.as_ref().unwrap().containers[0];
        assert_eq!(container.env.as_ref().unwrap()[0].name, "JOB_COMPLETION_INDEX");
        assert_eq!(pending_indexes(spec, &Indexes::parse("0", 3), [&pod].into_iter(), 5), [1]);
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
