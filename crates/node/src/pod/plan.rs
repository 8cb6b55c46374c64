//! What to do next about one pod: specification and state in, actions out.
//!
//! Pure, and always about the next step only: it is asked again after every step and every event, until it has nothing
//! more to say. The decisions are those of upstream's `computePodActions` and `computeInitContainerActions`; they come
//! out shorter because a container here knows which sandbox it was made in, so that what belongs to an earlier sandbox
//! needs no guessing.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};

use super::backoff::BackOff;
use super::facts::{self, Role};
use super::granted::{Change, change};
use super::state::{ContainerRecord, Life, RuntimeState, time};
use crate::make::resources;
use crate::os::Limits;

/// What probes say of a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// The startup probe's last word; `None`: no probe, or no word yet.
    pub(crate) startup: Option<bool>,
    /// The liveness probe's.
    pub(crate) liveness: Option<bool>,
    /// The readiness probe's.
    pub(crate) readiness: Option<bool>,
}

/// Answers what probes say of the container with this runtime id.
pub(crate) trait Verdicts {
    /// All three probes of one container.
    fn verdict(&self, container_id: &str) -> Verdict;
}

impl Verdicts for std::collections::HashMap<String, Verdict> {
    fn verdict(&self, container_id: &str) -> Verdict {
        self.get(container_id).copied().unwrap_or_default()
    }
}

/// A container to be stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kill {
    /// The runtime's id.
    pub(crate) id: String,
    /// Its name in the pod.
    pub(crate) name: String,
    /// Why, as the event tells it.
    pub(crate) message: String,
    /// Which grace period counts.
    pub(crate) cause: KillCause,
}

/// Why a container is stopped while its pod goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KillCause {
    /// Its specification changed, or its state is unknown.
    Replaced,
    /// Its resources changed, and its policy is to begin anew with others.
    Resized,
    /// Its liveness probe failed; the probe may name a grace period.
    Liveness,
    /// Its startup probe failed; the probe may name a grace period.
    Startup,
}

/// A container to be made and started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Start {
    /// Its name in the pod.
    pub(crate) name: String,
    /// Its part in the pod.
    pub(crate) role: Role,
    /// How many of this name there were before.
    pub(crate) restarts: u32,
    /// When the last one ended, if there was one: the pause before the next failure counts from there.
    pub(crate) after: Option<Timestamp>,
}

/// A container that has to wait before it is started again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Delayed {
    /// Its name in the pod.
    pub(crate) name: String,
    /// How long the pause is.
    pub(crate) pause: Duration,
    /// When it ends.
    pub(crate) until: Timestamp,
}

/// The next step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Actions {
    /// Stop all containers and sandboxes: the sandbox is of no use any more, or everything is done.
    pub(crate) stop_all: bool,
    /// Make a sandbox, the n-th of this pod.
    pub(crate) sandbox: Option<u32>,
    /// Stop these containers.
    pub(crate) kill: Vec<Kill>,
    /// Start these, in this order.
    pub(crate) start: Vec<Start>,
    /// Give these running containers, by their ids, the resources the pod has been granted.
    pub(crate) resize: Vec<String>,
    /// Give the pod's group its limits.
    pub(crate) limits: bool,
    /// These wait for their pause to end.
    pub(crate) delayed: Vec<Delayed>,
    /// Remove these ended containers, which nobody needs any more.
    pub(crate) remove: Vec<String>,
    /// Remove these stopped sandboxes.
    pub(crate) remove_sandboxes: Vec<String>,
}

impl Actions {
    /// Whether there is nothing to do now.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self { delayed: self.delayed.clone(), ..Self::default() }
    }
}

/// All that decides.
pub(crate) struct View<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) state: &'a RuntimeState,
    pub(crate) verdicts: &'a dyn Verdicts,
    pub(crate) backoff: &'a BackOff,
    /// The limits that the pod's group was given last; `None`: nobody knows.
    pub(crate) limits: Option<Limits>,
    pub(crate) now: Timestamp,
}

/// The next step for a pod that is meant to run.
pub(crate) fn plan(view: &View<'_>) -> Actions {
    let mut actions = Actions::default();
    match usable_sandbox(view.pod, view.state) {
        Err(attempt) => begin_anew(view, attempt, &mut actions),
        Ok(()) => go_on(view, &mut actions),
    }
    tidy(view.state, &mut actions);
    actions
}

/// Whether the pod's sandbox can be used; if not, the number of the next one.
fn usable_sandbox(pod: &Pod, state: &RuntimeState) -> Result<(), u32> {
    let Some(sandbox) = state.sandbox() else { return Err(0) };
    let others_ready = state.sandboxes.iter().filter(|s| s.ready).count() > 1;
    let on_host = facts::on_host_network(pod);
    let without_address = !on_host && sandbox.addresses.is_empty();
    let fits = sandbox.ready && !others_ready && sandbox.on_host_network == on_host && !without_address;
    if fits { Ok(()) } else { Err(sandbox.attempt + 1) }
}

/// Whether the pod needs a new sandbox before containers can start, which one of its conditions tells.
pub(crate) fn needs_sandbox(pod: &Pod, state: &RuntimeState) -> bool {
    usable_sandbox(pod, state).is_err()
}

/// Everything starts from the beginning in a new sandbox, unless all is done already.
fn begin_anew(view: &View<'_>, attempt: u32, actions: &mut Actions) {
    actions.stop_all = !view.state.is_quiet();
    let (pod, state) = (view.pod, view.state);
    let wanted = |container: &&Container| match state.latest(&container.name) {
        Some(last) if last.life == Life::Exited => facts::restarts_after(pod, container, last.exit_code),
        _ => true,
    };
    let begun = facts::main_containers(pod).iter().any(|container| state.latest(&container.name).is_some());
    let failed_init = facts::init_containers(pod).iter().any(|container| {
        let last = state.latest(&container.name);
        last.is_some_and(|last| failed(last) && !facts::restarts_after(pod, container, last.exit_code))
    });
    let mains: Vec<&Container> = facts::main_containers(pod).iter().filter(wanted).collect();
    let never = facts::spec(pod).restart_policy.as_deref() == Some("Never");
    let not_again = never && attempt > 0 && !state.containers.is_empty();
    if failed_init || not_again || (begun && mains.is_empty()) {
        return;
    }
    actions.sandbox = Some(attempt);
    if let Some(first) = facts::init_containers(pod).first() {
        start(view, first, facts::init_role(first), actions);
        return;
    }
    for container in mains {
        start(view, container, Role::Main, actions);
    }
}

/// The sandbox is good: see to the containers in it.
fn go_on(view: &View<'_>, actions: &mut Actions) {
    for container in facts::ephemeral_containers(view.pod) {
        if view.state.latest(&container.name).is_none() {
            start(view, &container, Role::Ephemeral, actions);
        }
    }
    actions.limits = view.limits != Some(resources::pod(view.pod));
    match initialize(view, actions) {
        Initialization::Done => run_mains(view, actions),
        Initialization::UnderWay => {}
        Initialization::Failed => stop_everything(view, actions),
    }
}

enum Initialization {
    Done,
    UnderWay,
    Failed,
}

/// Init containers run one after the other; sidecars among them stay up. Once a main container exists in this sandbox,
/// only sidecars still count.
fn initialize(view: &View<'_>, actions: &mut Actions) -> Initialization {
    let current = |container: &Container| view.state.current(&container.name);
    let passed = facts::main_containers(view.pod).iter().any(|container| current(container).is_some());
    for container in facts::init_containers(view.pod) {
        let role = facts::init_role(container);
        if role == Role::Init {
            if passed {
                continue;
            }
            match run_once(view, container, actions) {
                Initialization::Done => {}
                other => return other,
            }
        } else if !keep_up(view, container, role, actions) && !passed {
            return Initialization::UnderWay;
        }
    }
    Initialization::Done
}

/// An init container runs until it succeeds.
fn run_once(view: &View<'_>, container: &Container, actions: &mut Actions) -> Initialization {
    match view.state.current(&container.name) {
        Some(record) if record.life == Life::Running => {
            actions.resize.extend(differs(container, record).then(|| record.id.clone()));
            return Initialization::UnderWay;
        }
        Some(record) if record.life == Life::Exited && record.exit_code == 0 => return Initialization::Done,
        Some(record)
            if record.life == Life::Exited && !facts::restarts_after(view.pod, container, record.exit_code) =>
        {
            return Initialization::Failed;
        }
        Some(record) if record.life == Life::Unknown => {
            if !facts::restarts_when_killed(view.pod, container) {
                return Initialization::Failed;
            }
            actions.kill.push(lost(record, "Init container"));
        }
        _ => {}
    }
    start(view, container, Role::Init, actions);
    Initialization::UnderWay
}

/// A container that is meant to run all the time. Whether it is up, startup probe passed.
fn keep_up(view: &View<'_>, container: &Container, role: Role, actions: &mut Actions) -> bool {
    let Some(record) = view.state.current(&container.name) else {
        start_unless_final(view, container, role, actions);
        return false;
    };
    match record.life {
        Life::Running => match reason_to_kill(view, container, role, record) {
            None => {
                actions.resize.extend(differs(container, record).then(|| record.id.clone()));
                is_started(container, view.verdicts.verdict(&record.id))
            }
            Some((message, cause)) => {
                let own_wish = matches!(cause, KillCause::Replaced | KillCause::Resized);
                let restart = own_wish || facts::restarts_when_killed(view.pod, container);
                let message = if restart && cause != KillCause::Resized {
                    format!("{message}, will be restarted")
                } else {
                    message
                };
                actions.kill.push(Kill { id: record.id.clone(), name: record.name.clone(), message, cause });
                if restart {
                    // Now and not after its end: how it ends when it is killed must not decide.
                    start(view, container, role, actions);
                }
                false
            }
        },
        Life::Unknown => {
            actions.kill.push(lost(record, "Container"));
            start(view, container, role, actions);
            false
        }
        Life::Created | Life::Exited => {
            start_unless_final(view, container, role, actions);
            false
        }
    }
}

/// Starts a container unless the last of its name ended in a way after which it is not started again.
fn start_unless_final(view: &View<'_>, container: &Container, role: Role, actions: &mut Actions) {
    let last = view.state.latest(&container.name).filter(|last| last.life == Life::Exited);
    if last.is_none_or(|last| facts::restarts_after(view.pod, container, last.exit_code)) {
        start(view, container, role, actions);
    }
}

fn reason_to_kill(
    view: &View<'_>,
    container: &Container,
    role: Role,
    record: &ContainerRecord,
) -> Option<(String, KillCause)> {
    let kind = if role == Role::Sidecar { "Init container" } else { "Container" };
    let verdict = view.verdicts.verdict(&record.id);
    let told = |what: &str| format!("{kind} {} {what}", container.name);
    if record.hash != facts::container_hash(container) {
        Some((told("definition changed"), KillCause::Replaced))
    } else if verdict.liveness == Some(false) {
        Some((told("failed liveness probe"), KillCause::Liveness))
    } else if verdict.startup == Some(false) {
        Some((told("failed startup probe"), KillCause::Startup))
    } else if change(container, record.resources.as_ref()) == Change::Restart {
        Some((told("resize requires restart"), KillCause::Resized))
    } else {
        None
    }
}

fn differs(container: &Container, record: &ContainerRecord) -> bool {
    change(container, record.resources.as_ref()) != Change::Nothing
}

/// Whether a running container has not got yet what its pod has been granted.
pub(crate) fn resize_is_under_way(pod: &Pod, state: &RuntimeState) -> bool {
    let mut running = state.containers.iter().filter(|record| record.life == Life::Running);
    running.any(|record| facts::container(pod, &record.name).is_some_and(|(_, wanted)| differs(&wanted, record)))
}

/// Whether a running container has passed its startup probe, if it has one.
pub(crate) fn is_started(container: &Container, verdict: Verdict) -> bool {
    container.startup_probe.is_none() || verdict.startup == Some(true)
}

fn run_mains(view: &View<'_>, actions: &mut Actions) {
    let begun = |actions: &Actions| actions.start.len() + actions.delayed.len();
    let mut alive = false;
    for container in facts::main_containers(view.pod) {
        let (starts, kills) = (begun(actions), actions.kill.len());
        keep_up(view, container, Role::Main, actions);
        let runs = view.state.current(&container.name).is_some_and(|record| record.life == Life::Running);
        alive |= begun(actions) > starts || (runs && actions.kill.len() == kills);
    }
    if !alive {
        stop_everything(view, actions);
    }
}

/// Nothing more will run: no restart, no sidecar, no network.
fn stop_everything(view: &View<'_>, actions: &mut Actions) {
    *actions = Actions { stop_all: !view.state.is_quiet(), ..Actions::default() };
}

fn lost(record: &ContainerRecord, kind: &str) -> Kill {
    let message = format!("{kind} is in \"unknown\" state, try killing it before restart");
    Kill { id: record.id.clone(), name: record.name.clone(), message, cause: KillCause::Replaced }
}

fn failed(record: &ContainerRecord) -> bool {
    record.life == Life::Exited && record.exit_code != 0
}

/// Starts a container, unless it failed lately and has to wait.
fn start(view: &View<'_>, container: &Container, role: Role, actions: &mut Actions) {
    let last = view.state.latest(&container.name);
    let mut ended = view.state.containers.iter().filter(|c| c.name == container.name && c.life == Life::Exited);
    let after = ended.next().map(|record| time(record.finished_at));
    if let Some(failed) = after
        && let Some((pause, until)) = view.backoff.waiting(&container.name, failed, view.now)
    {
        actions.delayed.push(Delayed { name: container.name.clone(), pause, until });
        return;
    }
    // A container that was made but never ran has had no life to count; its name must be free for the next.
    let unborn = last.filter(|last| last.life == Life::Created);
    actions.remove.extend(unborn.map(|last| last.id.clone()));
    let restarts = last.map_or(0, |last| last.restarts + u32::from(unborn.is_none()));
    actions.start.push(Start { name: container.name.clone(), role, restarts, after });
}

/// Of each name, the newest container and one more that ended are kept for `logs --previous`; the newest sandbox is
/// kept for its containers.
fn tidy(state: &RuntimeState, actions: &mut Actions) {
    let mut count: std::collections::HashMap<&str, usize> = std::collections::HashMap::new();
    for container in &state.containers {
        let seen = count.entry(&container.name).or_default();
        *seen += 1;
        let superfluous = *seen > 2 || (*seen > 1 && container.life == Life::Created);
        let ended = matches!(container.life, Life::Exited | Life::Created);
        if superfluous && ended && !actions.remove.contains(&container.id) {
            actions.remove.push(container.id.clone());
        }
    }
    for sandbox in state.sandboxes.iter().skip(1).filter(|sandbox| !sandbox.ready) {
        let used = state.containers.iter().any(|c| c.sandbox == sandbox.id && !actions.remove.contains(&c.id));
        if !used {
            actions.remove_sandboxes.push(sandbox.id.clone());
        }
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
