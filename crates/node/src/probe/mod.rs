//! Probes: tasks that ask containers how they are, and what they found.
//!
//! There is one task per container and probe, from the container's start to its end. A change of verdict wakes the pod's
//! worker, which draws the consequences; the probe itself only asks and counts, as upstream's `prober` does.

pub(crate) mod action;
mod http;
mod task;

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodStatus, Probe};
use parking_lot::Mutex;
use skiff_meta::world::AbortOnDrop;
use tokio::sync::watch;

use crate::node::Node;
use crate::pod::facts::{self, Role};
use crate::pod::mailbox::Mailbox;
use crate::pod::plan::{Verdict, Verdicts};
use crate::pod::state::{ContainerRecord, RuntimeState};

/// Which probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ProbeKind {
    Startup,
    Liveness,
    Readiness,
}

impl ProbeKind {
    const ALL: [Self; 3] = [Self::Startup, Self::Liveness, Self::Readiness];

    fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            Self::Startup => container.startup_probe.as_ref(),
            Self::Liveness => container.liveness_probe.as_ref(),
            Self::Readiness => container.readiness_probe.as_ref(),
        }
    }
    fn title(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}

/// The verdicts on one container, followed by its probes.
type Findings = watch::Sender<Verdict>;

/// The probes of one pod.
#[derive(Default)]
pub(crate) struct Probes {
    containers: HashMap<String, Probed>,
}

struct Probed {
    findings: Arc<Findings>,
    /// Behind a lock only because a task's handle cannot be shared between threads, and a worker is.
    _tasks: Mutex<Vec<AbortOnDrop>>,
}

impl Verdicts for Probes {
    fn verdict(&self, container_id: &str) -> Verdict {
        self.containers.get(container_id).map(|probed| *probed.findings.borrow()).unwrap_or_default()
    }
}

/// What a probe needs to know to ask.
pub(crate) struct Target {
    pub(crate) node: Arc<Node>,
    pub(crate) pod: Arc<Pod>,
    pub(crate) container: Container,
    pub(crate) container_id: String,
    /// Where the pod is reached from the node.
    pub(crate) address: String,
}

impl Probes {
    /// Probes exactly the containers that run. What `previous` said of a container that still runs is believed until
    /// its probes say otherwise, so that a restart of the agent makes no pod unready.
    pub(crate) fn follow(
        &mut self,
        node: &Arc<Node>,
        mailbox: &Arc<Mailbox>,
        pod: &Arc<Pod>,
        state: &RuntimeState,
        previous: &PodStatus,
    ) {
        let running: HashMap<&str, &ContainerRecord> =
            state.running().map(|record| (record.id.as_str(), record)).collect();
        self.containers.retain(|id, _| running.contains_key(id.as_str()));
        for (id, record) in running {
            let Some((role, container)) = facts::container(pod, &record.name) else { continue };
            if self.containers.contains_key(id) || !matches!(role, Role::Main | Role::Sidecar) {
                continue;
            }
            let target = Arc::new(Target {
                node: node.clone(),
                pod: pod.clone(),
                container: container.into_owned(),
                container_id: id.to_owned(),
                address: address(node, pod, state),
            });
            let findings = Arc::new(Findings::new(believed(previous, record)));
            let tasks = ProbeKind::ALL.into_iter().filter_map(|kind| {
                let probe = kind.of(&target.container)?.clone();
                let task = task::run(kind, probe, target.clone(), findings.clone(), mailbox.clone());
                Some(AbortOnDrop(node.world.spawn("probe", Box::pin(task))))
            });
            let probed = Probed { _tasks: Mutex::new(tasks.collect()), findings };
            self.containers.insert(id.to_owned(), probed);
        }
    }

    /// Stops them all.
    pub(crate) fn stop(&mut self) {
        self.containers.clear();
    }
}

/// Where the pod is reached from the node.
pub(crate) fn address(node: &Node, pod: &Pod, state: &RuntimeState) -> String {
    let own = state.sandbox().and_then(|sandbox| sandbox.addresses.first().cloned());
    let host = || node.config.addresses.first().map(ToString::to_string).unwrap_or_default();
    if facts::on_host_network(pod) { host() } else { own.unwrap_or_default() }
}

fn believed(previous: &PodStatus, record: &ContainerRecord) -> Verdict {
    let mut statuses = previous.container_statuses.iter().chain(&previous.init_container_statuses).flatten();
    let same = |status: &&ContainerStatus| {
        status.container_id.as_deref().and_then(|id| id.split_once("://")).is_some_and(|(_, id)| id == record.id)
    };
    let Some(status) = statuses.find(same) else { return Verdict::default() };
    Verdict {
        startup: status.started.filter(|started| *started),
        liveness: None,
        readiness: Some(status.ready).filter(|ready| *ready),
    }
}
