//! What the runtime has of one pod, in the terms in which plan and status are computed.

use std::collections::HashMap;

use futures::future::{BoxFuture, try_join, try_join_all};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ResourceRequirements;
use skiff_cri::v1::{self, NamespaceMode, PodSandboxState};
use skiff_cri::{Runtime, RuntimeError};

use super::facts::key;

/// The life of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum Life {
    /// Made but never started: its start failed, or we died in between.
    #[default]
    Created,
    /// Its process runs.
    Running,
    /// Its process has ended.
    Exited,
    /// The runtime does not know.
    Unknown,
}

/// One container as the runtime has it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ContainerRecord {
    /// The runtime's id.
    pub(crate) id: String,
    /// The name in the pod.
    pub(crate) name: String,
    /// The sandbox it was made in.
    pub(crate) sandbox: String,
    /// How many containers of this name there were before.
    pub(crate) restarts: u32,
    /// What it was made from, see [`super::facts::container_hash`].
    pub(crate) hash: String,
    /// Its life.
    pub(crate) life: Life,
    /// When it was made, in nanoseconds since 1970.
    pub(crate) created_at: i64,
    /// When it was started, in nanoseconds; 0: not yet.
    pub(crate) started_at: i64,
    /// When it ended, in nanoseconds; 0: not yet.
    pub(crate) finished_at: i64,
    /// How it ended.
    pub(crate) exit_code: i32,
    /// Why, in the runtime's one word.
    pub(crate) reason: String,
    /// Why, in the runtime's words, or the container's own last ones.
    pub(crate) message: String,
    /// Its image as the user wrote it, where known.
    pub(crate) image: String,
    /// Its image by digest.
    pub(crate) image_ref: String,
    /// Its log file.
    pub(crate) log_path: String,
    /// Where it sees what it cannot write to, including what is mounted below.
    pub(crate) sealed: Vec<String>,
    /// Where it leaves its last words on the host.
    pub(crate) message_file: Option<String>,
    /// What it has of the node; `None`: nobody knows.
    pub(crate) resources: Option<ResourceRequirements>,
    /// Whether the log's end counts for its last words if it failed without leaving any.
    pub(crate) message_from_log: bool,
}

/// One sandbox as the runtime has it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct SandboxRecord {
    /// The runtime's id.
    pub(crate) id: String,
    /// How many sandboxes the pod had before.
    pub(crate) attempt: u32,
    /// Whether containers can run in it.
    pub(crate) ready: bool,
    /// When it was made, in nanoseconds since 1970.
    pub(crate) created_at: i64,
    /// Its addresses; none on the host's network.
    pub(crate) addresses: Vec<String>,
    /// Whether it is on the host's network.
    pub(crate) on_host_network: bool,
    /// The handler it was made by.
    pub(crate) handler: String,
}

/// All the runtime has of one pod, the newest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct RuntimeState {
    pub(crate) sandboxes: Vec<SandboxRecord>,
    pub(crate) containers: Vec<ContainerRecord>,
}

impl RuntimeState {
    /// The newest sandbox.
    pub(crate) fn sandbox(&self) -> Option<&SandboxRecord> {
        self.sandboxes.first()
    }
    /// The newest container of this name.
    pub(crate) fn latest(&self, name: &str) -> Option<&ContainerRecord> {
        self.containers.iter().find(|container| container.name == name)
    }
    /// The newest container of this name in the newest sandbox.
    pub(crate) fn current(&self, name: &str) -> Option<&ContainerRecord> {
        let sandbox = self.sandbox()?;
        self.containers.iter().find(|container| container.name == name && container.sandbox == sandbox.id)
    }
    /// Containers whose process runs, or may run.
    pub(crate) fn running(&self) -> impl Iterator<Item = &ContainerRecord> {
        self.containers.iter().filter(|container| matches!(container.life, Life::Running | Life::Unknown))
    }
    /// Whether nothing is left that runs or holds the pod's network.
    pub(crate) fn is_quiet(&self) -> bool {
        self.running().next().is_none() && self.sandboxes.iter().all(|sandbox| !sandbox.ready)
    }
    /// Whether the runtime has nothing of the pod any more.
    pub(crate) fn is_empty(&self) -> bool {
        self.sandboxes.is_empty() && self.containers.is_empty()
    }
}

/// Reads a pod's state from the runtime. Keeps what can no longer change (ended containers, addresses), so that a look
/// costs two lists, and one more question per container that has changed.
#[derive(Default)]
pub(crate) struct Observer {
    /// The runtime has nothing of the pod, which need not be asked.
    fresh: bool,
    containers: HashMap<String, ContainerRecord>,
    sandboxes: HashMap<String, SandboxRecord>,
}

impl Observer {
    /// `fresh`: the runtime has nothing of the pod yet.
    pub(crate) fn new(fresh: bool) -> Self {
        Self { fresh, ..Self::default() }
    }

    /// The state of the pod with this UID now.
    pub(crate) fn look<'a>(
        &'a mut self,
        runtime: &'a dyn Runtime,
        uid: &'a str,
    ) -> BoxFuture<'a, Result<RuntimeState, RuntimeError>> {
        Box::pin(self.read(runtime, uid))
    }

    /// A state with one sandbox more, which was just made.
    pub(crate) async fn with_sandbox(
        &mut self,
        runtime: &dyn Runtime,
        before: &RuntimeState,
        id: &str,
    ) -> Result<RuntimeState, RuntimeError> {
        let made = sandbox_record(runtime.pod_sandbox_status(id).await?);
        self.sandboxes.insert(id.to_owned(), made.clone());
        let sandboxes = [made].into_iter().chain(before.sandboxes.iter().cloned()).collect();
        Ok(RuntimeState { sandboxes, containers: before.containers.clone() })
    }

    /// A state of a pod that had no containers, with those that were just started.
    pub(crate) async fn with_containers(
        &mut self,
        runtime: &dyn Runtime,
        before: RuntimeState,
        ids: &[String],
    ) -> Result<RuntimeState, RuntimeError> {
        let sandbox = before.sandbox().map(|sandbox| sandbox.id.clone()).unwrap_or_default();
        let statuses = try_join_all(ids.iter().map(|id| runtime.container_status(id))).await?;
        let containers = statuses.into_iter().map(|status| container_record(sandbox.clone(), status));
        let state = sorted(RuntimeState { containers: containers.collect(), ..before });
        self.containers = state.containers.iter().map(|c| (c.id.clone(), c.clone())).collect();
        Ok(state)
    }

    async fn read(&mut self, runtime: &dyn Runtime, uid: &str) -> Result<RuntimeState, RuntimeError> {
        if std::mem::take(&mut self.fresh) {
            return Ok(RuntimeState::default());
        }
        let selector = || [(key::POD_UID.to_owned(), uid.to_owned())].into();
        let sandboxes = v1::PodSandboxFilter { label_selector: selector(), ..Default::default() };
        let containers = v1::ContainerFilter { label_selector: selector(), ..Default::default() };
        let lists = try_join(runtime.list_pod_sandboxes(sandboxes), runtime.list_containers(containers));
        let (sandboxes, containers) = lists.await?;
        let details = try_join(
            try_join_all(sandboxes.into_iter().map(|listed| self.sandbox(runtime, listed))),
            try_join_all(containers.into_iter().map(|listed| self.container(runtime, listed))),
        );
        let (sandboxes, containers) = details.await?;
        let state = sorted(RuntimeState {
            sandboxes: sandboxes.into_iter().flatten().collect(),
            containers: containers.into_iter().flatten().collect(),
        });
        self.sandboxes = state.sandboxes.iter().map(|s| (s.id.clone(), s.clone())).collect();
        self.containers = state.containers.iter().map(|c| (c.id.clone(), c.clone())).collect();
        Ok(state)
    }

    /// `None` when it went away since it was listed.
    async fn sandbox(
        &self,
        runtime: &dyn Runtime,
        listed: v1::PodSandbox,
    ) -> Result<Option<SandboxRecord>, RuntimeError> {
        let ready = listed.state() == PodSandboxState::SandboxReady;
        if let Some(known) = self.sandboxes.get(&listed.id)
            && known.ready
        {
            return Ok(Some(SandboxRecord { ready, ..known.clone() }));
        }
        match runtime.pod_sandbox_status(&listed.id).await {
            Ok(status) => Ok(Some(sandbox_record(status))),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn container(
        &self,
        runtime: &dyn Runtime,
        listed: v1::Container,
    ) -> Result<Option<ContainerRecord>, RuntimeError> {
        if let Some(known) = self.containers.get(&listed.id)
            && known.life == life(listed.state())
        {
            return Ok(Some(known.clone()));
        }
        match runtime.container_status(&listed.id).await {
            Ok(status) => Ok(Some(container_record(listed.pod_sandbox_id, status))),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The newest first.
fn sorted(mut state: RuntimeState) -> RuntimeState {
    state.sandboxes.sort_by_key(|s| std::cmp::Reverse((s.attempt, s.created_at)));
    state.containers.sort_by_key(|c| std::cmp::Reverse((c.restarts, c.created_at)));
    state
}

fn life(state: v1::ContainerState) -> Life {
    match state {
        v1::ContainerState::ContainerCreated => Life::Created,
        v1::ContainerState::ContainerRunning => Life::Running,
        v1::ContainerState::ContainerExited => Life::Exited,
        v1::ContainerState::ContainerUnknown => Life::Unknown,
    }
}

fn sandbox_record(status: v1::PodSandboxStatus) -> SandboxRecord {
    let options = status.linux.as_ref().and_then(|l| l.namespaces.as_ref()).and_then(|n| n.options.as_ref());
    let network = status.network.clone().unwrap_or_default();
    let first = (!network.ip.is_empty()).then_some(network.ip);
    SandboxRecord {
        attempt: status.metadata.as_ref().map_or(0, |metadata| metadata.attempt),
        ready: status.state() == PodSandboxState::SandboxReady,
        created_at: status.created_at,
        addresses: first.into_iter().chain(network.additional_ips.into_iter().map(|ip| ip.ip)).collect(),
        on_host_network: options.is_some_and(|options| options.network() == NamespaceMode::Node),
        handler: status.runtime_handler,
        id: status.id,
    }
}

fn container_record(sandbox: String, status: v1::ContainerStatus) -> ContainerRecord {
    let life = life(status.state());
    let metadata = status.metadata.unwrap_or_default();
    let annotation = |key: &str| status.annotations.get(key).map(String::as_str).unwrap_or_default();
    let image = status.image.unwrap_or_default();
    let message_path = annotation(key::MESSAGE_PATH);
    let message_mount = status.mounts.iter().find(|mount| mount.container_path == message_path);
    ContainerRecord {
        name: status.labels.get(key::CONTAINER_NAME).cloned().unwrap_or(metadata.name),
        sandbox,
        restarts: annotation(key::RESTART_COUNT).parse().unwrap_or(metadata.attempt),
        hash: annotation(key::HASH).to_owned(),
        life,
        created_at: status.created_at,
        started_at: status.started_at,
        finished_at: status.finished_at,
        exit_code: status.exit_code,
        reason: status.reason,
        message: status.message,
        image: if image.user_specified_image.is_empty() { image.image } else { image.user_specified_image },
        image_ref: status.image_ref,
        log_path: status.log_path,
        sealed: status.mounts.iter().filter(|m| m.recursive_read_only).map(|m| m.container_path.clone()).collect(),
        message_file: message_mount.map(|mount| mount.host_path.clone()),
        // Without any it says so too: `null`.
        resources: serde_json::from_str::<Option<_>>(annotation(key::RESOURCES)).ok().map(Option::unwrap_or_default),
        message_from_log: annotation(key::MESSAGE_POLICY) == "FallbackToLogsOnError",
        id: status.id,
    }
}

/// The runtime's nanoseconds as a point in time.
pub(crate) fn time(nanoseconds: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(nanoseconds)).unwrap_or_default()
}
