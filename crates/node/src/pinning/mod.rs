//! Processors and memory that containers have for themselves. Guaranteed pods that ask for whole processors get them when they
//! are let in; all others share the rest, which is told to their containers whenever it changes. What was given away is kept in
//! a file, so that a restarted agent takes nothing back.

mod plan;
mod topology;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use skiff_cri::v1::{ContainerFilter, ContainerState, ContainerStateValue, LinuxContainerResources};
use tokio::sync::Notify;

use crate::node::Node;
use crate::os::Files;
use crate::pod::facts::key;
pub(crate) use plan::{Alignment, Hint, Lack, Policy, Serving, hinted};
use plan::{Machine, Pin, Pins};
pub use topology::Topology;
pub(crate) use topology::{Cpus, Nodes, members, parse};

/// The file, below the agent's directory.
const FILE: &str = "pins.json";
/// Its longest size, in bytes.
const LONGEST: usize = 1 << 22;
/// Pauses after the runtime refused to change what containers share.
const RETRY: Duration = Duration::from_secs(10);

/// Who has what for himself.
pub(crate) struct Pinning {
    topology: Topology,
    policy: Policy,
    path: PathBuf,
    pins: Mutex<Pins>,
    /// What is shared has changed, and how often.
    changed: Notify,
    version: AtomicU64,
}

impl Pinning {
    /// What pods were given by the last agent.
    pub(crate) fn found(files: &dyn Files, directory: &Path, topology: Topology, policy: Policy) -> Self {
        let path = directory.join(FILE);
        let known = files.tail(&path, LONGEST).ok().filter(|bytes| !bytes.is_empty());
        let mut pins: Pins = known.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        let all = topology.cpus();
        if pins.values().flat_map(|pod| pod.values()).any(|pin| !pin.cpus.is_subset(&all)) {
            tracing::warn!("processors that pods were given are not there any more; nobody has any for himself now");
            pins.clear();
        }
        let changed = Notify::new();
        // Containers that run may share what another policy had said.
        changed.notify_one();
        Self { topology, policy, path, pins: Mutex::new(pins), changed, version: AtomicU64::default() }
    }

    /// Whether containers can have anything for themselves.
    pub(crate) fn gives(&self) -> bool {
        self.policy.cpus || self.policy.memory
    }

    /// All memory nodes.
    pub(crate) fn nodes(&self) -> Nodes {
        self.topology.nodes()
    }

    /// The machine and what is to be given away of it.
    pub(crate) fn machine(&self) -> Machine<'_> {
        Machine { topology: &self.topology, policy: &self.policy }
    }

    /// Who has what now.
    pub(crate) fn pins(&self) -> Pins {
        self.pins.lock().clone()
    }

    /// A pod was given this.
    pub(crate) fn give(&self, files: &dyn Files, uid: &str, given: BTreeMap<String, Pin>) {
        if !given.is_empty() {
            let mut pins = self.pins.lock();
            pins.insert(uid.to_owned(), given);
            self.keep(files, &pins);
        }
    }

    /// Nothing of the pod runs any more.
    pub(crate) fn forget(&self, files: &dyn Files, uid: &str) {
        let mut pins = self.pins.lock();
        if pins.remove(uid).is_some() {
            self.keep(files, &pins);
        }
    }

    /// Forgets what pods had that do not stay.
    pub(crate) fn keep_only(&self, files: &dyn Files, stays: impl Fn(&str) -> bool) {
        let mut pins = self.pins.lock();
        let before = pins.len();
        pins.retain(|uid, _| stays(uid));
        if pins.len() != before {
            self.keep(files, &pins);
        }
    }

    fn keep(&self, files: &dyn Files, pins: &Pins) {
        self.version.fetch_add(1, Ordering::Relaxed);
        self.changed.notify_one();
        let kept = serde_json::to_vec(pins).map_err(std::io::Error::other);
        if let Err(error) = kept.and_then(|bytes| files.replace(&self.path, &bytes, 0o600)) {
            tracing::warn!("what pods have for themselves cannot be kept: {error}");
        }
    }

    /// How often what is shared has changed.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Relaxed)
    }

    /// A container was started with what was shared then.
    pub(crate) fn started_under(&self, version: u64) {
        if self.version() != version {
            self.changed.notify_one();
        }
    }

    /// Where a container may run and where its memory lies.
    pub(crate) fn place(&self, uid: &str, container: &str, resources: &mut LinuxContainerResources) {
        let pins = self.pins.lock();
        let pin = pins.get(uid).and_then(|pod| pod.get(container));
        let own = pin.map(|pin| pin.cpus.clone()).filter(|cpus| !cpus.is_empty());
        if self.policy.cpus {
            resources.cpuset_cpus = topology::text(own.unwrap_or_else(|| self.machine().shared(&pins)));
        }
        resources.cpuset_mems = topology::text(topology::members(pin.map_or(0, |pin| pin.nodes)));
    }

    /// The processors that a container has for itself.
    pub(crate) fn of_container(&self, uid: &str, container: &str) -> Cpus {
        let pins = self.pins.lock();
        pins.get(uid).and_then(|pod| pod.get(container)).map(|pin: &Pin| pin.cpus.clone()).unwrap_or_default()
    }

    /// The processors that can be given away.
    pub(crate) fn allocatable(&self) -> Cpus {
        if self.policy.cpus { self.machine().allocatable() } else { self.topology.cpus() }
    }
}

/// Tells containers what they share whenever that changes, for ever.
pub(crate) async fn run(node: Arc<Node>) {
    if !node.pinning.policy.cpus {
        return;
    }
    loop {
        node.pinning.changed.notified().await;
        if let Err(error) = tell(&node).await {
            tracing::warn!("containers were not told which processors they share: {error}");
            node.world.sleep(RETRY).await;
            node.pinning.changed.notify_one();
        }
    }
}

async fn tell(node: &Node) -> Result<(), skiff_cri::RuntimeError> {
    let running = ContainerStateValue { state: ContainerState::ContainerRunning.into() };
    let filter = ContainerFilter { state: Some(running), ..ContainerFilter::default() };
    for container in node.runtime.list_containers(filter).await? {
        let label = |key: &str| container.labels.get(key).map(String::as_str).unwrap_or_default();
        let mut resources = LinuxContainerResources::default();
        node.pinning.place(label(key::POD_UID), label(key::CONTAINER_NAME), &mut resources);
        match node.runtime.update_container_resources(&container.id, resources).await {
            // It has ended meanwhile.
            Err(error) if error.is_not_found() => {}
            told => told?,
        }
    }
    Ok(())
}
