//! A pod's status, computed from its specification, the runtime's state, probes and what was said before.
//!
//! Pure. The rules are upstream's (`pkg/kubelet/kubelet_pods.go`, `pkg/kubelet/status/generate.go`), since controllers
//! and people act on every word of it.

mod conditions;
mod containers;
mod phase;

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{HostIP, Pod, PodIP, PodStatus, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use skiff_api::qos::qos_class;
use skiff_api::resources::{self, ResourceList};

use super::facts;
use super::plan::Verdicts;
use super::state::RuntimeState;

pub(crate) use conditions::RESIZES;
pub(crate) use phase::is_terminal;

/// Why a container does not run although it should: the waiting state's reason and message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trouble {
    /// Such as `CrashLoopBackOff` or `ErrImagePull`.
    pub(crate) reason: &'static str,
    /// The whole story.
    pub(crate) message: String,
}

/// Troubles by container name.
pub(crate) type Troubles = BTreeMap<String, Trouble>;

/// All that goes into a status.
pub(crate) struct Sources<'a> {
    pub(crate) pod: &'a Pod,
    /// What was last said, by us or by the API.
    pub(crate) previous: &'a PodStatus,
    pub(crate) state: &'a RuntimeState,
    pub(crate) verdicts: &'a dyn Verdicts,
    pub(crate) troubles: &'a Troubles,
    /// Nothing of the pod will run again: the pod is ending, or has ended.
    pub(crate) final_: bool,
    /// The node's addresses, the first of which is the pod's host's.
    pub(crate) node_addresses: &'a [String],
    /// Such as `containerd`, the scheme of container ids.
    pub(crate) runtime_name: &'a str,
    /// What is to be told of changes of resources.
    pub(crate) resizes: &'a Resizes,
    /// Phase, reason and message decided elsewhere: eviction, a deadline.
    pub(crate) verdict: Option<&'a Ending>,
    pub(crate) now: Timestamp,
}

/// A change of resources that the pod's specification asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Note {
    /// As of which generation.
    pub(crate) generation: i64,
    /// Why it does not go on; empty: it does.
    pub(crate) message: String,
}

/// Changes of resources that have not come to their end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Resizes {
    /// There is no room for it yet.
    pub(crate) deferred: Option<Note>,
    /// Granted, but not done.
    pub(crate) under_way: Option<Note>,
}

/// Why a pod is ended although its containers would go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ending {
    /// Such as `DeadlineExceeded`.
    pub(crate) reason: String,
    /// The whole story.
    pub(crate) message: String,
    pub(crate) why: Why,
    /// Seconds it has for that at most; `None`: as many as it wants.
    pub(crate) grace: Option<i64>,
}

/// What kind of end it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// It never began: there are no containers to speak of.
    Refused,
    /// It has run for as long as it may.
    Deadline,
    /// It has taken more of the disk than it may.
    Outgrown,
    /// The node is short of something.
    Shortage,
    /// The machine is to stop.
    Shutdown,
}

impl Ending {
    /// The node does not let the pod in.
    pub(crate) fn refusal(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { reason: reason.into(), message: message.into(), why: Why::Refused, grace: None }
    }

    /// It is the node's doing, and not the pod's.
    fn is_disruption(&self) -> bool {
        matches!(self.why, Why::Shortage | Why::Shutdown)
    }
}

/// The pod's status now.
pub(crate) fn compute(sources: &Sources<'_>) -> PodStatus {
    let (pod, previous) = (sources.pod, sources.previous);
    let containers = containers::statuses(sources);
    let mut phase = phase::phase(sources, &containers);
    let something_runs = sources.state.running().next().is_some();
    if is_terminal(previous.phase.as_deref().unwrap_or_default()) {
        // There is no way back from an end.
        phase = if previous.phase.as_deref() == Some("Failed") { "Failed" } else { "Succeeded" };
    }
    let (mut reason, mut message) = (None, None);
    if previous.phase.as_deref() == Some(phase) {
        (reason, message) = (previous.reason.clone(), previous.message.clone());
    }
    if let Some(ending) = sources.verdict {
        // What has done its work before the machine stops has done it.
        if ending.why != Why::Shutdown || phase != "Succeeded" {
            phase = "Failed";
        }
        (reason, message) = (Some(ending.reason.clone()), Some(ending.message.clone()));
    }
    let conditions = conditions::conditions(sources, &containers, phase);
    let mut shown_phase = phase;
    if is_terminal(phase) && something_runs {
        // An end is told once nothing runs any more: whoever replaces the pod relies on that.
        shown_phase = previous.phase.as_deref().map_or("Pending", |p| if p == "Running" { p } else { "Pending" });
        (reason, message) = (previous.reason.clone(), previous.message.clone());
    }
    let mut addresses = pod_addresses(sources);
    if addresses.is_empty() && is_terminal(phase) {
        // The address of a finished pod stays on record.
        addresses = previous.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect();
    }
    let begun = sources.verdict.is_none_or(|ending| ending.why != Why::Refused);
    let host_ips: Vec<HostIP> = sources.node_addresses.iter().map(|ip| HostIP { ip: ip.clone() }).collect();
    let actual = actual_resources(sources);
    PodStatus {
        allocated_resources: Some(texts(&resources::requests(facts::spec(pod), None))).filter(|list| !list.is_empty()),
        resources: Some(actual).filter(|_| begun),
        phase: Some(shown_phase.to_owned()),
        reason,
        message,
        conditions: Some(conditions),
        host_ip: host_ips.first().map(|ip| ip.ip.clone()),
        host_ips: Some(host_ips).filter(|ips| !ips.is_empty()),
        pod_ip: addresses.first().cloned(),
        pod_ips: Some(addresses.into_iter().map(|ip| PodIP { ip }).collect())
            .filter(|ips: &Vec<PodIP>| !ips.is_empty()),
        start_time: previous.start_time.clone().or(Some(Time(whole_seconds(sources.now)))),
        qos_class: Some(previous.qos_class.clone().unwrap_or_else(|| qos_class(facts::spec(pod)).as_str().to_owned())),
        observed_generation: pod.metadata.generation,
        container_statuses: Some(containers.main).filter(|_| begun),
        init_container_statuses: Some(containers.init).filter(|list| begun && !list.is_empty()),
        ephemeral_container_statuses: Some(containers.ephemeral).filter(|list| !list.is_empty()),
        ..PodStatus::default()
    }
}

/// What the whole pod has: as granted, but for containers that have not got that yet.
fn actual_resources(sources: &Sources<'_>) -> ResourceRequirements {
    let mut spec = facts::spec(sources.pod).clone();
    for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        let running = sources.state.running().find(|record| record.name == container.name);
        if let Some(actual) = running.and_then(|record| record.resources.clone()) {
            container.resources = Some(actual);
        }
    }
    let some = |list: ResourceList| Some(texts(&list)).filter(|list| !list.is_empty());
    ResourceRequirements {
        requests: some(resources::requests(&spec, None)),
        limits: some(resources::limits(&spec, None)),
        ..ResourceRequirements::default()
    }
}

fn texts(list: &ResourceList) -> BTreeMap<String, Quantity> {
    list.iter().map(|(name, amount)| (name.clone(), Quantity(amount.to_string()))).collect()
}

fn pod_addresses(sources: &Sources<'_>) -> Vec<String> {
    if facts::on_host_network(sources.pod) {
        return sources.node_addresses.to_vec();
    }
    let ready = sources.state.sandbox().filter(|sandbox| sandbox.ready);
    ready.map(|sandbox| sandbox.addresses.clone()).unwrap_or_default()
}

/// The API keeps whole seconds.
pub(crate) fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
