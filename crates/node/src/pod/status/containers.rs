//! Statuses of single containers.

use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Sources, whole_seconds};
use crate::pod::facts::{self, Role};
use crate::pod::plan::is_started;
use crate::pod::state::{ContainerRecord, Life, time};

/// Statuses by role, each list in the order of the specification (main and ephemeral ones by name, as upstream).
pub(super) struct Statuses {
    pub(super) init: Vec<ContainerStatus>,
    pub(super) main: Vec<ContainerStatus>,
    pub(super) ephemeral: Vec<ContainerStatus>,
}

pub(super) fn statuses(sources: &Sources<'_>) -> Statuses {
    let previous = sources.previous;
    let of = |list: &Option<Vec<ContainerStatus>>, name: &str| {
        list.iter().flatten().find(|status| status.name == name).cloned()
    };
    let mut statuses = Statuses { init: Vec::new(), main: Vec::new(), ephemeral: Vec::new() };
    for (role, container) in facts::containers(sources.pod) {
        let (list, old) = match role {
            Role::Init | Role::Sidecar => (&mut statuses.init, of(&previous.init_container_statuses, &container.name)),
            Role::Main => (&mut statuses.main, of(&previous.container_statuses, &container.name)),
            Role::Ephemeral => (&mut statuses.ephemeral, of(&previous.ephemeral_container_statuses, &container.name)),
        };
        list.push(status(sources, role, &container, old));
    }
    statuses.main.sort_by(|a, b| a.name.cmp(&b.name));
    statuses.ephemeral.sort_by(|a, b| a.name.cmp(&b.name));
    statuses
}

fn status(sources: &Sources<'_>, role: Role, container: &Container, old: Option<ContainerStatus>) -> ContainerStatus {
    let mut records = sources.state.containers.iter().filter(|record| record.name == container.name);
    let (newest, before) = (records.next(), records.next());
    let mut status = match newest {
        Some(record) => {
            let mut status = from_record(sources, container, record, old.as_ref());
            status.last_state = match before {
                Some(before) => Some(state(sources, before)),
                None => old.and_then(|old| old.last_state),
            };
            status
        }
        None => without_record(sources, role, container, old),
    };
    explain_waiting(sources, role, container, newest, &mut status);
    judge(sources, role, container, newest, &mut status);
    status.last_state = Some(status.last_state.unwrap_or_default());
    status
}

fn blank(container: &Container) -> ContainerStatus {
    let mounts = container.volume_mounts.iter().flatten().map(|mount| VolumeMountStatus {
        name: mount.name.clone(),
        mount_path: mount.mount_path.clone(),
        read_only: mount.read_only.filter(|read_only| *read_only),
        recursive_read_only: (mount.read_only == Some(true)).then(|| "Disabled".to_owned()),
        ..VolumeMountStatus::default()
    });
    let mounts: Vec<VolumeMountStatus> = mounts.collect();
    ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        volume_mounts: Some(mounts).filter(|mounts| !mounts.is_empty()),
        ..ContainerStatus::default()
    }
}

fn from_record(
    sources: &Sources<'_>,
    container: &Container,
    record: &ContainerRecord,
    old: Option<&ContainerStatus>,
) -> ContainerStatus {
    let granted = container.resources.clone().unwrap_or_default();
    let mut blank = blank(container);
    for mount in blank.volume_mounts.iter_mut().flatten().filter(|mount| record.sealed.contains(&mount.mount_path)) {
        mount.recursive_read_only = Some("Enabled".to_owned());
    }
    let actual = record.resources.clone().filter(|_| record.life == Life::Running);
    let restarts = i32::try_from(record.restarts).unwrap_or(i32::MAX);
    ContainerStatus {
        container_id: Some(id(sources, record)),
        image: record.image.clone(),
        image_id: record.image_ref.clone(),
        // Logs and containers may have been cleared away; a count once told does not shrink.
        restart_count: old
            .map_or(restarts, |old| if old.restart_count > restarts { old.restart_count } else { restarts }),
        state: Some(state(sources, record)),
        allocated_resources: granted.requests.clone(),
        resources: Some(actual.unwrap_or(granted)),
        ..blank
    }
}

/// Nothing in the runtime: not made yet, or removed behind our back.
fn without_record(
    sources: &Sources<'_>,
    role: Role,
    container: &Container,
    old: Option<ContainerStatus>,
) -> ContainerStatus {
    let mut status = blank(container);
    let has_init = !facts::init_containers(sources.pod).is_empty();
    status.state = Some(waiting(if has_init { "PodInitializing" } else { "ContainerCreating" }, String::new()));
    let Some(old) = old else {
        let passed = facts::main_containers(sources.pod).iter().any(|c| sources.state.current(&c.name).is_some());
        if role == Role::Init && passed {
            // Init containers of a pod that runs have succeeded, even if nothing is left to show for it.
            let terminated = ContainerStateTerminated {
                reason: Some("Completed".to_owned()),
                message: Some("The container is gone from the runtime; the pod has been initialized".to_owned()),
                ..ContainerStateTerminated::default()
            };
            status.state = Some(ContainerState { terminated: Some(terminated), ..ContainerState::default() });
        }
        return status;
    };
    let old_state = old.state.clone().unwrap_or_default();
    if old_state.terminated.is_some() {
        return old;
    }
    status.restart_count = old.restart_count;
    status.last_state = old.last_state;
    let unknown_end = status.last_state.as_ref().is_none_or(|state| state.terminated.is_none());
    if old_state.running.is_some() && unknown_end {
        let terminated = ContainerStateTerminated {
            exit_code: 137,
            reason: Some("ContainerStatusUnknown".to_owned()),
            message: Some("The container could not be located; it used to be running".to_owned()),
            ..ContainerStateTerminated::default()
        };
        status.last_state = Some(ContainerState { terminated: Some(terminated), ..ContainerState::default() });
        if sources.pod.metadata.deletion_timestamp.is_none() {
            status.restart_count += 1;
        }
    }
    status
}

/// A container that is to be started (again) but meets trouble is waiting, and says why.
fn explain_waiting(
    sources: &Sources<'_>,
    role: Role,
    container: &Container,
    newest: Option<&ContainerRecord>,
    status: &mut ContainerStatus,
) {
    let done = newest.is_some_and(|record| match record.life {
        Life::Running => true,
        Life::Exited if role == Role::Ephemeral => true,
        Life::Exited if role == Role::Init && record.exit_code == 0 => true,
        Life::Exited => !facts::restarts_after(sources.pod, container, record.exit_code),
        Life::Created | Life::Unknown => false,
    });
    let Some(trouble) = sources.troubles.get(&container.name).filter(|_| !done && !sources.final_) else { return };
    if status.state.as_ref().is_some_and(|state| state.terminated.is_some()) {
        status.last_state = status.state.take();
    }
    status.state = Some(waiting(trouble.reason, trouble.message.clone()));
}

/// Whether it is started and ready, as probes see it.
fn judge(
    sources: &Sources<'_>,
    role: Role,
    container: &Container,
    newest: Option<&ContainerRecord>,
    status: &mut ContainerStatus,
) {
    let running = newest.filter(|record| record.life == Life::Running);
    let verdict = running.map(|record| sources.verdicts.verdict(&record.id)).unwrap_or_default();
    let started = running.is_some() && is_started(container, verdict);
    status.ready = match role {
        Role::Init => {
            let state = status.state.as_ref().and_then(|state| state.terminated.as_ref());
            state.is_some_and(|terminated| terminated.exit_code == 0)
        }
        Role::Ephemeral => false,
        Role::Main | Role::Sidecar => {
            started && (container.readiness_probe.is_none() || verdict.readiness == Some(true))
        }
    };
    status.started = (role != Role::Ephemeral).then_some(started);
}

fn state(sources: &Sources<'_>, record: &ContainerRecord) -> ContainerState {
    let point = |nanoseconds: i64| Some(Time(whole_seconds(time(nanoseconds))));
    match record.life {
        Life::Running => ContainerState {
            running: Some(ContainerStateRunning { started_at: point(record.started_at) }),
            ..ContainerState::default()
        },
        Life::Exited => ContainerState {
            terminated: Some(ContainerStateTerminated {
                exit_code: record.exit_code,
                reason: Some(record.reason.clone()).filter(|reason| !reason.is_empty()),
                message: Some(record.message.clone()).filter(|message| !message.is_empty()),
                started_at: point(record.started_at),
                finished_at: point(record.finished_at),
                container_id: Some(id(sources, record)),
                signal: None,
            }),
            ..ContainerState::default()
        },
        Life::Created | Life::Unknown => waiting("", String::new()),
    }
}

fn waiting(reason: &str, message: String) -> ContainerState {
    let some = |text: String| Some(text).filter(|text| !text.is_empty());
    let waiting = ContainerStateWaiting { reason: some(reason.to_owned()), message: some(message) };
    ContainerState { waiting: Some(waiting), ..ContainerState::default() }
}

fn id(sources: &Sources<'_>, record: &ContainerRecord) -> String {
    format!("{}://{}", sources.runtime_name, record.id)
}
