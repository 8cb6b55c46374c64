//! The pod's conditions. Those of others (readiness gates, disruption) are kept as they are.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::containers::Statuses;
use super::phase::is_terminal;
use super::{Note, Sources, whole_seconds};
use crate::pod::facts::{self, Role};
use crate::pod::plan::needs_sandbox;

/// The conditions that are ours to say.
const OWN: &[&str] = &["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];

/// Those of changes of resources, which are there only while there is something to tell.
pub(crate) const RESIZES: [&str; 2] = ["PodResizePending", "PodResizeInProgress"];

/// Says that a pod ends because of the node, and not by its own fault.
const DISRUPTED: &str = "DisruptionTarget";

/// A condition's truth with reason and message.
#[derive(Clone)]
struct Finding {
    holds: bool,
    reason: &'static str,
    message: String,
}

impl Finding {
    fn yes() -> Self {
        Self { holds: true, reason: "", message: String::new() }
    }
    fn no(reason: &'static str, message: impl Into<String>) -> Self {
        Self { holds: false, reason, message: message.into() }
    }
}

pub(super) fn conditions(sources: &Sources<'_>, statuses: &Statuses, phase: &str) -> Vec<PodCondition> {
    let foreign: Vec<PodCondition> = sources
        .pod
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
        .filter(|condition| !OWN.contains(&&*condition.type_) && !RESIZES.contains(&&*condition.type_))
        .cloned()
        .collect();
    let containers_ready = containers_ready(sources, statuses, phase);
    let ready = if containers_ready.holds { gates(sources, &foreign) } else { containers_ready.clone() };
    let can_start = if needs_sandbox(sources.pod, sources.state) { Finding::no("", "") } else { Finding::yes() };
    let findings = [can_start, initialized(sources, statuses, phase), ready, containers_ready, Finding::yes()];
    let own = OWN.iter().zip(findings).map(|(type_, finding)| condition(sources, type_, finding));
    let disrupted = sources.verdict.filter(|ending| ending.is_disruption()).map(|ending| {
        let finding = Finding { holds: true, reason: "TerminationByKubelet", message: ending.message.clone() };
        condition(sources, DISRUPTED, finding)
    });
    let kept = foreign.into_iter().filter(|condition| disrupted.is_none() || condition.type_ != DISRUPTED);
    let resizes = resizes(sources).into_iter().filter(|_| !is_terminal(phase));
    own.chain(resizes).chain(kept).chain(disrupted.clone()).collect()
}

fn resizes(sources: &Sources<'_>) -> Vec<PodCondition> {
    let resizes = sources.resizes;
    let error = |note: &Note| if note.message.is_empty() { "" } else { "Error" };
    let deferred = resizes.deferred.as_ref().map(|note| (RESIZES[0], "Deferred", note));
    let under_way = resizes.under_way.as_ref().map(|note| (RESIZES[1], error(note), note));
    let told = deferred.into_iter().chain(under_way).map(|(type_, reason, note)| {
        let finding = Finding { holds: true, reason, message: note.message.clone() };
        PodCondition { observed_generation: Some(note.generation), ..condition(sources, type_, finding) }
    });
    told.collect()
}

fn condition(sources: &Sources<'_>, type_: &str, finding: Finding) -> PodCondition {
    let status = if finding.holds { "True" } else { "False" };
    let known = [Some(sources.previous), sources.pod.status.as_ref()].into_iter().flatten();
    let old = known.flat_map(|s| s.conditions.iter().flatten()).find(|old| old.type_ == type_ && old.status == status);
    let since = old.and_then(|old| old.last_transition_time.clone());
    let some = |text: String| Some(text).filter(|text| !text.is_empty());
    PodCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: some(finding.reason.to_owned()),
        message: some(finding.message),
        observed_generation: sources.pod.metadata.generation,
        last_transition_time: since.or(Some(Time(transition(sources.now)))),
        last_probe_time: None,
    }
}

fn transition(now: Timestamp) -> Timestamp {
    whole_seconds(now)
}

/// `[a b]`, as Go prints a list of names.
fn listed(names: &[&str]) -> String {
    format!("[{}]", names.join(" "))
}

fn containers_ready(sources: &Sources<'_>, statuses: &Statuses, phase: &str) -> Finding {
    match phase {
        "Succeeded" => return Finding::no("PodCompleted", ""),
        "Failed" => return Finding::no("PodFailed", ""),
        _ => {}
    }
    let status = |list: &'_ [ContainerStatus], name: &str| {
        list.iter().find(|status| status.name == name).is_some_and(|status| status.ready)
    };
    let sidecars = facts::init_containers(sources.pod).iter().filter(|c| facts::init_role(c) == Role::Sidecar);
    let unready_sidecars = sidecars.filter(|c| !status(&statuses.init, &c.name));
    let unready_mains = facts::main_containers(sources.pod).iter().filter(|c| !status(&statuses.main, &c.name));
    let unready: Vec<&str> = unready_sidecars.chain(unready_mains).map(|c| c.name.as_str()).collect();
    if unready.is_empty() {
        return Finding::yes();
    }
    Finding::no("ContainersNotReady", format!("containers with unready status: {}", listed(&unready)))
}

fn gates(sources: &Sources<'_>, foreign: &[PodCondition]) -> Finding {
    let mut missing = Vec::new();
    for gate in facts::spec(sources.pod).readiness_gates.iter().flatten() {
        let type_ = &gate.condition_type;
        match foreign.iter().find(|condition| condition.type_ == *type_) {
            None => missing.push(format!("corresponding condition of pod readiness gate {type_:?} does not exist.")),
            Some(found) if found.status != "True" => missing
                .push(format!("the status of pod readiness gate {type_:?} is not \"True\", but {}", found.status)),
            Some(_) => {}
        }
    }
    if missing.is_empty() { Finding::yes() } else { Finding::no("ReadinessGatesNotReady", missing.join(", ")) }
}

fn initialized(sources: &Sources<'_>, statuses: &Statuses, phase: &str) -> Finding {
    if phase == "Succeeded" {
        return Finding { holds: true, reason: "PodCompleted", message: String::new() };
    }
    let has_started = |status: &ContainerStatus| {
        let now = status.state.as_ref().is_some_and(|s| s.running.is_some() || s.terminated.is_some());
        now || status.last_state.as_ref().is_some_and(|s| s.terminated.is_some())
    };
    if statuses.main.iter().any(has_started) {
        return Finding::yes();
    }
    let complete = |container: &k8s_openapi::api::core::v1::Container, status: &ContainerStatus| {
        if facts::init_role(container) == Role::Sidecar { status.started == Some(true) } else { status.ready }
    };
    let pairs = facts::init_containers(sources.pod).iter().zip(&statuses.init);
    let incomplete: Vec<&str> =
        pairs.filter(|(container, status)| !complete(container, status)).map(|(c, _)| c.name.as_str()).collect();
    if incomplete.is_empty() {
        return Finding::yes();
    }
    Finding::no("ContainersNotInitialized", format!("containers with incomplete status: {}", listed(&incomplete)))
}
