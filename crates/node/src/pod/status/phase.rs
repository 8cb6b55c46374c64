//! The one word that sums up a pod.

use k8s_openapi::api::core::v1::{Container, ContainerStatus};

use super::Sources;
use super::containers::Statuses;
use crate::pod::facts::{self, Role};

/// Whether a phase is an end.
pub(crate) fn is_terminal(phase: &str) -> bool {
    matches!(phase, "Succeeded" | "Failed")
}

/// What a container's status says about its life.
enum Stage {
    /// Never ran.
    Waiting,
    Running,
    /// Has ended, and perhaps waits to be started again.
    Stopped(i32),
}

fn stage(status: &ContainerStatus) -> Stage {
    let state = status.state.as_ref();
    let ended = |state: &k8s_openapi::api::core::v1::ContainerState| state.terminated.as_ref().map(|t| t.exit_code);
    if state.is_some_and(|state| state.running.is_some()) {
        Stage::Running
    } else if let Some(code) = state.and_then(ended) {
        Stage::Stopped(code)
    } else if let Some(code) = status.last_state.as_ref().and_then(ended) {
        Stage::Stopped(code)
    } else {
        Stage::Waiting
    }
}

#[derive(Default)]
struct Count {
    waiting: usize,
    running: usize,
    stopped: usize,
    succeeded: usize,
    restarting: usize,
}

pub(super) fn phase(sources: &Sources<'_>, statuses: &Statuses) -> &'static str {
    let pod = sources.pod;
    let restarts = |container: &Container, code| facts::restarts_after(pod, container, code);
    let passed = facts::main_containers(pod)
        .iter()
        .any(|container| sources.state.current(&container.name).is_some_and(|record| record.started_at > 0));
    let mut count = Count::default();
    let (mut init_pending, mut sidecar_pending) = (false, false);
    for (container, status) in facts::init_containers(pod).iter().zip(&statuses.init) {
        match (facts::init_role(container), stage(status)) {
            (Role::Sidecar, Stage::Running) => {
                sidecar_pending |= status.started != Some(true);
                count.running += 1;
            }
            (Role::Sidecar, Stage::Waiting) => {
                sidecar_pending = true;
                count.waiting += 1;
            }
            // A sidecar that ended says nothing about its pod.
            (Role::Sidecar, Stage::Stopped(_)) => {}
            (_, Stage::Stopped(0)) => {}
            (_, Stage::Stopped(code)) if !restarts(container, code) => return "Failed",
            // Between two attempts the pod is what its last attempt left: pending.
            (_, Stage::Stopped(_) | Stage::Running | Stage::Waiting) => init_pending = true,
        }
    }
    for container in facts::main_containers(pod) {
        let Some(status) = statuses.main.iter().find(|status| status.name == container.name) else { continue };
        match stage(status) {
            Stage::Waiting => count.waiting += 1,
            Stage::Running => count.running += 1,
            Stage::Stopped(code) => {
                count.stopped += 1;
                count.succeeded += usize::from(code == 0);
                count.restarting += usize::from(restarts(container, code));
            }
        }
    }
    match count {
        _ if init_pending || (sidecar_pending && !passed) => "Pending",
        Count { waiting: 1.., .. } => "Pending",
        Count { running: 1.., .. } => "Running",
        Count { stopped: 0, .. } => "Pending",
        Count { restarting: 1.., .. } if !sources.final_ => "Running",
        Count { stopped, succeeded, .. } if stopped == succeeded => "Succeeded",
        _ => "Failed",
    }
}
