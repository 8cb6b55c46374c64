//! The steps that bring a pod up: its sandbox, its containers.

use std::sync::Arc;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Container, Pod, VolumeDevice};
use k8s_openapi::api::node::v1::RuntimeClass;
use skiff_client::ClientError;
use skiff_cri::RuntimeError;
use skiff_cri::v1::{Device, Mount, MountPropagation, PodSandboxConfig};

use super::facts::{self, Role};
use super::plan::{Actions, Start};
use super::state::RuntimeState;
use super::status::Trouble;
use super::worker::{POD, Worker};
use crate::devices::Needs;
use crate::images;
use crate::make::environment::{self, Environment};
use crate::make::{ConfigError, Referenced, container, expand, hosts, resources, sandbox, security};
use crate::node::Node;
use crate::probe::action::{self, Answer};
use crate::probe::{self, Target};
use crate::user_namespaces::Range;

/// A hook has no limit of its own; a pod that is deleted ends it.
const HOOK_LIMIT: std::time::Duration = std::time::Duration::from_secs(24 * 3600);

/// A network that can be neither made nor taken down leaves a sandbox per attempt; with more of them than this, no other is
/// made.
const MOST_STUCK: usize = 2;
/// What pauses while they cannot be removed; no container has such a name.
const LEFT: &str = " sandboxes";

/// How a step went.
pub(super) enum Step {
    /// Not well enough to look for the next one now.
    Failed,
    /// Well.
    Done,
    /// Well, and this is what the runtime has of the pod now.
    Known(RuntimeState),
}

impl From<bool> for Step {
    fn from(well: bool) -> Self {
        if well { Self::Done } else { Self::Failed }
    }
}

impl Worker {
    /// Takes one step. What a step takes of memory is there only while one is taken: most pods just run.
    pub(super) fn act<'a>(
        &'a mut self,
        pod: &'a Arc<Pod>,
        state: &'a RuntimeState,
        actions: &'a Actions,
    ) -> BoxFuture<'a, Step> {
        Box::pin(self.step(pod, state, actions))
    }

    async fn step(&mut self, pod: &Arc<Pod>, state: &RuntimeState, actions: &Actions) -> Step {
        let stuck = self.tidy(state, actions).await;
        if stuck > MOST_STUCK && actions.sandbox.is_some() {
            let why = format!("{stuck} sandboxes of earlier attempts cannot be removed");
            self.node.warn(pod, "FailedCreatePodSandBox", format!("Failed to create pod sandbox: {why}"));
            self.failed(POD);
            return Step::Failed;
        }
        if actions.stop_all && !self.stop_all(pod, state).await {
            return Step::Failed;
        }
        for kill in &actions.kill {
            self.kill(pod, state, kill).await;
        }
        let fits = !actions.limits && actions.resize.is_empty();
        let resized = fits || self.resize(pod, state, &actions.resize).await;
        let starts: Vec<&Start> = actions.start.iter().filter(|start| !self.is_paused(&start.name)).collect();
        if actions.sandbox.is_none() && starts.is_empty() {
            return (stuck == 0 && actions.start.is_empty() && resized).into();
        }
        if !resized || self.is_paused(POD) {
            return Step::Failed;
        }
        self.bring_up(pod, state, actions.sandbox, &starts).await
    }

    /// The pod's range of user ids, where it is to have its own.
    fn ids(&self, pod: &Pod, handler: &str) -> Result<Option<Range>, ConfigError> {
        if facts::spec(pod).host_users != Some(false) {
            return Ok(None);
        }
        if !self.node.abilities.of(handler).user_namespaces {
            return Err(ConfigError::NoUserNamespaces(handler.to_owned()));
        }
        let files = &*self.node.config.os.files;
        let range = self.node.ranges.of(files, &self.uid, &self.node.pod_directory(&self.uid));
        range
            .map(Some)
            .map_err(|error| ConfigError::Files { what: "user namespace".to_owned(), reason: error.to_string() })
    }

    /// Removes what nobody needs any more. Sandboxes that cannot be removed now are tried again after a while; how many those
    /// are.
    async fn tidy(&mut self, state: &RuntimeState, actions: &Actions) -> usize {
        let mut stuck = 0;
        for id in &actions.remove {
            let log = state.containers.iter().find(|container| container.id == *id).map(|c| c.log_path.clone());
            let removed = self.node.runtime.remove_container(id).await;
            self.gone(id, removed, log.filter(|log| !log.is_empty()));
        }
        if self.is_paused(LEFT) {
            return actions.remove_sandboxes.len();
        }
        for id in &actions.remove_sandboxes {
            let removed = self.node.runtime.remove_pod_sandbox(id).await;
            stuck += usize::from(removed.is_err());
            self.gone(id, removed, None);
        }
        if stuck > 0 {
            self.failed(LEFT);
        } else {
            self.worked(LEFT);
        }
        stuck
    }

    fn gone(&self, id: &str, removed: Result<(), RuntimeError>, log: Option<String>) {
        match removed {
            Ok(()) => {
                self.node.registry.forget(id);
                let file = log.map(|log| self.node.config.os.files.remove(log.as_ref()));
                if let Some(Err(error)) = file {
                    tracing::debug!(id, "log was not removed: {error}");
                }
            }
            Err(error) => tracing::warn!(id, "was not removed: {error}"),
        }
    }

    async fn bring_up(
        &mut self,
        pod: &Arc<Pod>,
        state: &RuntimeState,
        new_sandbox: Option<u32>,
        starts: &[&Start],
    ) -> Step {
        let cgroups = self.node.config.os.cgroups.clone();
        if let Err(error) = cgroups.set(&resources::pod_cgroup(pod), resources::pod(pod)) {
            self.node.warn(pod, "FailedCreatePodContainer", format!("unable to ensure pod container exists: {error}"));
            self.failed(POD);
            return Step::Failed;
        }
        self.limits = Some(resources::pod(pod));
        let node = self.node.clone();
        let handler = match handler(&node, pod).await {
            Ok(handler) => handler,
            Err(error) => {
                node.warn(pod, "FailedCreatePodSandBox", format!("Failed to create pod sandbox: {error}"));
                self.failed(POD);
                return Step::Failed;
            }
        };
        let (resolvers, root) = (node.resolvers(), cgroups.root());
        let attempt = new_sandbox.or(state.sandbox().map(|sandbox| sandbox.attempt)).unwrap_or(0);
        let mut config = sandbox::config(pod, attempt, &node.surroundings(&resolvers, &root));
        match self.ids(pod, &handler) {
            Ok(Some(range)) => range.of_sandbox(&mut config),
            Ok(None) => {}
            Err(error) => {
                node.warn(pod, "FailedCreatePodSandBox", format!("Failed to create pod sandbox: {error}"));
                self.failed(POD);
                return Step::Failed;
            }
        }
        // A sandbox takes long, mostly in the kernel: volumes are set up meanwhile.
        let runtime = node.runtime.clone();
        let make_sandbox = async {
            match new_sandbox {
                Some(_) => runtime.run_pod_sandbox(config.clone(), &handler).await.map(Some),
                None => Ok(None),
            }
        };
        let ready = self.volumes.is_some();
        let make_volumes = async { ready || self.bring_volumes(pod, state).await };
        let (made, have_volumes) = tokio::join!(make_sandbox, make_volumes);
        let made = match made {
            Ok(made) => made,
            Err(error) => {
                node.warn(pod, "FailedCreatePodSandBox", format!("Failed to create pod sandbox: {error}"));
                self.failed(POD);
                return Step::Failed;
            }
        };
        if !have_volumes || self.is_to_end() {
            return Step::Failed;
        }
        if let Err(error) = node.claims.prepare(&node, pod).await {
            let message = format!("Failed to prepare dynamic resources: {error}");
            node.warn(pod, "FailedPrepareDynamicResources", message);
            self.failed(POD);
            return Step::Failed;
        }
        let looked = match &made {
            Some(id) => self.observer.with_sandbox(&*node.runtime, state, id).await,
            None => self.look(&[]).await,
        };
        let now = match looked {
            Ok(state) => state,
            Err(error) => {
                tracing::warn!(pod = facts::described(pod), "{error}");
                self.failed(POD);
                return Step::Failed;
            }
        };
        made.iter().for_each(|id| node.registry.owns(&self.mailbox, id));
        self.worked(POD);
        let mut started = Vec::new();
        for start in starts {
            if self.is_to_end() {
                return Step::Failed;
            }
            started.extend(self.start_one(pod, &now, start, &config).await);
        }
        if started.len() < starts.len() {
            return Step::Failed;
        }
        // What was new to the runtime is nothing but what was just made.
        let known = match state.is_empty() {
            true => self.observer.with_containers(&*node.runtime, now, &started).await.ok(),
            false => None,
        };
        known.map_or(Step::Done, Step::Known)
    }

    /// Starts a container, or notes why it does not start. Its id, if it started.
    async fn start_one(
        &mut self,
        pod: &Arc<Pod>,
        state: &RuntimeState,
        start: &Start,
        sandbox: &PodSandboxConfig,
    ) -> Option<String> {
        if let Some(failed) = start.after {
            self.backoff.attempt(&start.name, failed, self.node.world.now());
        }
        match self.try_start(pod, state, start, sandbox).await {
            Ok(id) => {
                self.troubles.remove(&start.name);
                self.worked(&start.name);
                Some(id)
            }
            Err(trouble) => {
                self.troubles.insert(start.name.clone(), trouble);
                None
            }
        }
    }

    async fn try_start(
        &mut self,
        pod: &Arc<Pod>,
        state: &RuntimeState,
        start: &Start,
        sandbox_config: &PodSandboxConfig,
    ) -> Result<String, Trouble> {
        let node = self.node.clone();
        let about = node.about(pod, &start.name);
        let gone = |what: &str| Trouble { reason: "CreateContainerError", message: format!("{what} is gone") };
        let (role, container) = facts::container(pod, &start.name).ok_or_else(|| gone("the container"))?;
        let sandbox = state.sandbox().filter(|sandbox| sandbox.ready).ok_or_else(|| gone("the sandbox"))?;
        let shared = node.pinning.version();
        let config = match self.container_config(pod, state, start, role, &container).await {
            Ok(config) => config,
            Err(Refusal::Image(missing)) => {
                match missing.retry_at {
                    Some(time) => self.pause(&start.name, time),
                    None => self.failed(&start.name),
                }
                return Err(missing.trouble);
            }
            Err(Refusal::Config(error)) => {
                node.recorder.warning(&about, "Failed", format!("Error: {error}"));
                self.failed(&start.name);
                return Err(Trouble { reason: "CreateContainerConfigError", message: error.to_string() });
            }
        };
        if let Err(error) = node.devices.before_start(pod, &container).await {
            node.recorder.warning(&about, "Failed", format!("Error: {error}"));
            self.failed(&start.name);
            return Err(Trouble { reason: "CreateContainerConfigError", message: error.to_string() });
        }
        let made = node.runtime.create_container(&sandbox.id, config, sandbox_config.clone()).await;
        let id = made.map_err(|error| {
            node.recorder.warning(&about, "Failed", format!("Error: {error}"));
            self.failed(&start.name);
            Trouble { reason: "CreateContainerError", message: error.to_string() }
        })?;
        node.registry.owns(&self.mailbox, &id);
        node.recorder.normal(&about, "Created", "Container created");
        node.runtime.start_container(&id).await.map_err(|error| {
            node.recorder.warning(&about, "Failed", format!("Error: {error}"));
            self.failed(&start.name);
            Trouble { reason: "RunContainerError", message: error.to_string() }
        })?;
        node.pinning.started_under(shared);
        node.recorder.normal(&about, "Started", "Container started");
        self.post_start(pod, state, &container, &id).await?;
        Ok(id)
    }

    async fn container_config(
        &mut self,
        pod: &Arc<Pod>,
        state: &RuntimeState,
        start: &Start,
        role: Role,
        container: &Container,
    ) -> Result<skiff_cri::v1::ContainerConfig, Refusal> {
        let node = self.node.clone();
        let unknown = || ConfigError::Files {
            what: "waiting for the config maps and secrets that the pod refers to".to_owned(),
            reason: "timed out".to_owned(),
        };
        let referenced = self.referenced(pod).await.ok_or_else(|| Refusal::Config(unknown()))?;
        if !node.statics.contains(&self.uid) {
            node.services.synced().wait().await;
        }
        let about = node.about(pod, &container.name);
        let (name, policy) = (container.image.as_deref().unwrap_or_default(), container.image_pull_policy.as_deref());
        let image = images::ensure(&node, &about, name, policy, &referenced).await.map_err(Refusal::Image)?;
        self.mount_images(pod, container, &referenced).await?;
        let addresses = self.addresses(pod, state);
        let environment = environment::environment(
            &environment::Sources {
                pod,
                referenced: &referenced,
                addresses: &addresses,
                allocatable: &node.allocatable,
                services: &node.service_variables(pod),
            },
            container,
        )
        .map_err(Refusal::Config)?;
        let mounts = self.mounts(pod, state, start, container, &environment).map_err(Refusal::Config)?;
        let devices = self.block_devices(container).map_err(Refusal::Config)?;
        let target = if role == Role::Ephemeral { debug_target(pod, state, container) } else { None };
        let security = security::container(pod, container, &image.user, target.as_deref()).map_err(Refusal::Config)?;
        let mut placed = resources::container(pod, container, node.facts.memory);
        node.pinning.place(&self.uid, &container.name, &mut placed);
        let parts = container::Parts {
            restarts: start.restarts,
            image_ref: image.reference,
            environment,
            mounts,
            devices,
            needs: self.needs(pod, container)?,
            resources: placed,
            security,
        };
        let mut config = container::config(pod, container, parts);
        let handler = state.sandbox().map(|sandbox| sandbox.handler.clone()).unwrap_or_default();
        if let Some(range) = self.ids(pod, &handler).map_err(Refusal::Config)? {
            range.of_container(&mut config);
        }
        Ok(config)
    }

    /// Images that a container wants to see as volumes are fetched as its own is, once for all containers of the pod.
    async fn mount_images(&self, pod: &Pod, container: &Container, referenced: &Referenced) -> Result<(), Refusal> {
        let (node, mounts) = (&self.node, self.node.config.os.mounts.clone());
        for (name, image) in facts::image_volumes(pod) {
            let mut wanted = container.volume_mounts.iter().flatten();
            let volume = self.volumes.as_ref().and_then(|volumes| volumes.get(name));
            let Some(volume) = volume.filter(|_| wanted.any(|mount| mount.name == name)) else { continue };
            let failed =
                |reason: String| Refusal::Config(ConfigError::Files { what: format!("volume {name:?}"), reason });
            if mounts.below(&volume.path).map_err(|error| failed(error.to_string()))?.contains(&volume.path) {
                continue;
            }
            let (about, reference) = (node.about(pod, &container.name), image.reference.as_deref().unwrap_or_default());
            let policy = image.pull_policy.as_deref();
            let found = images::ensure(node, &about, reference, policy, referenced).await.map_err(Refusal::Image)?;
            let mounted = node.runtime.mount_image(&found.reference, &volume.path).await;
            mounted.map_err(|error| failed(error.to_string()))?;
            mounts.seal(&volume.path).map_err(|error| failed(error.to_string()))?;
        }
        Ok(())
    }

    /// Volumes, /etc/hosts, and the file for last words; makes the files and the log directory.
    fn mounts(
        &self,
        pod: &Pod,
        state: &RuntimeState,
        start: &Start,
        container: &Container,
        environment: &Environment,
    ) -> Result<Vec<Mount>, ConfigError> {
        let files = &*self.node.config.os.files;
        let failed = |what: &str| {
            let what = what.to_owned();
            move |error: std::io::Error| ConfigError::Files { what, reason: error.to_string() }
        };
        let mut mounts = Vec::new();
        for wanted in container.volume_mounts.iter().flatten() {
            let volume = self.volumes.as_ref().and_then(|volumes| volumes.get(&wanted.name));
            let volume = volume.ok_or_else(|| ConfigError::NoVolume(wanted.name.clone()))?;
            let handler = state.sandbox().map(|sandbox| sandbox.handler.as_str()).unwrap_or_default();
            let can = self.node.abilities.of(handler).recursive_read_only_mounts;
            let recursive = wanted.recursive_read_only.as_deref();
            if recursive == Some("Enabled") && !can {
                return Err(ConfigError::NoRecursiveReadOnly(wanted.name.clone()));
            }
            let expression = wanted.sub_path_expr.as_deref().filter(|text| !text.is_empty());
            let sub_path = match expression {
                Some(text) => expand::expand(text, |name| environment.get(name)),
                None => wanted.sub_path.clone().unwrap_or_default(),
            };
            let mut host = volume.path.clone();
            if !sub_path.is_empty() {
                let inside = files.resolve_below(&host, &sub_path).map_err(failed("subPath"))?;
                let escapes = || ConfigError::SubPathEscapes { volume: wanted.name.clone(), sub_path };
                host = inside.ok_or_else(escapes)?;
            }
            mounts.push(Mount {
                container_path: wanted.mount_path.clone(),
                host_path: host.display().to_string(),
                readonly: volume.read_only || wanted.read_only == Some(true),
                propagation: propagation(wanted.mount_propagation.as_deref()).into(),
                recursive_read_only: can && matches!(recursive, Some("Enabled" | "IfPossible")),
                ..Mount::default()
            });
        }
        let directory = self.node.pod_directory(&self.uid);
        let own = |host: &std::path::Path, container_path: &str| Mount {
            container_path: container_path.to_owned(),
            host_path: host.display().to_string(),
            ..Mount::default()
        };
        if !mounts.iter().any(|mount| mount.container_path == "/etc/hosts") {
            let path = directory.join("etc-hosts");
            let addresses = self.addresses(pod, state).pod;
            let machine = &self.node.config.os.machine;
            let text = hosts::file(pod, &addresses, &self.node.config.cluster_domain, &machine.hosts());
            files.make_directory(&directory, 0o750).map_err(failed("pod directory"))?;
            files.write(&path, text.as_bytes(), 0o644).map_err(failed("/etc/hosts"))?;
            mounts.push(own(&path, "/etc/hosts"));
        }
        if let Some(message_path) = container.termination_message_path.as_deref().filter(|path| !path.is_empty()) {
            let place = directory.join("containers").join(&container.name);
            let path = place.join(start.restarts.to_string());
            files.make_directory(&place, 0o755).map_err(failed("container directory"))?;
            files.write(&path, b"", 0o666).map_err(failed("termination message"))?;
            mounts.push(own(&path, message_path));
        }
        let logs = sandbox::log_directory(&self.node.config.log_directory, pod).join(&container.name);
        files.make_directory(&logs, 0o755).map_err(failed("log directory"))?;
        Ok(mounts)
    }

    /// What the container needs to use the devices it was given, if the runtime can be told.
    fn needs(&self, pod: &Pod, container: &Container) -> Result<Needs, Refusal> {
        let mut needs = self.node.devices.of_container(&self.uid, &container.name);
        needs.names.extend(self.node.claims.of_container(pod, container));
        if !needs.names.is_empty() && !knows_device_names(&self.node.runtime_name, &self.node.runtime_version) {
            return Err(Refusal::Config(ConfigError::NoDeviceNames));
        }
        Ok(needs)
    }

    /// Volumes that the container sees as devices.
    fn block_devices(&self, container: &Container) -> Result<Vec<Device>, ConfigError> {
        let device = |wanted: &VolumeDevice| {
            let volume = self.volumes.as_ref().and_then(|volumes| volumes.get(&wanted.name));
            let volume = volume.ok_or_else(|| ConfigError::NoVolume(wanted.name.clone()))?;
            Ok(Device {
                container_path: wanted.device_path.clone(),
                host_path: volume.path.display().to_string(),
                permissions: if volume.read_only { "r" } else { "mrw" }.to_owned(),
            })
        };
        container.volume_devices.iter().flatten().map(device).collect()
    }

    /// The hook that runs beside a container's start; if it fails, the container is stopped.
    async fn post_start(
        &mut self,
        pod: &Arc<Pod>,
        state: &RuntimeState,
        container: &Container,
        id: &str,
    ) -> Result<(), Trouble> {
        let Some(hook) = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.clone()) else {
            return Ok(());
        };
        let target = self.target(pod, state, container, id);
        let answer = tokio::select! {
            answer = action::run(&hook, None, &target, HOOK_LIMIT) => answer,
            () = self.to_end() => return Ok(()),
        };
        let text = match answer {
            Answer::Success => return Ok(()),
            Answer::Failure(text) | Answer::Error(text) => text,
        };
        let about = self.node.about(pod, &container.name);
        self.node.recorder.warning(&about, "FailedPostStartHook", "PostStartHook failed");
        self.node.recorder.normal(&about, "Killing", "FailedPostStartHook");
        let grace = facts::spec(pod).termination_grace_period_seconds.unwrap_or(30);
        if let Err(error) = self.node.runtime.stop_container(id, grace).await {
            tracing::warn!(id, "was not stopped: {error}");
        }
        Err(Trouble { reason: "PostStartHookError", message: text })
    }

    pub(super) fn target(&self, pod: &Arc<Pod>, state: &RuntimeState, container: &Container, id: &str) -> Target {
        Target {
            node: self.node.clone(),
            pod: pod.clone(),
            container: container.clone(),
            container_id: id.to_owned(),
            address: probe::address(&self.node, pod, state),
        }
    }

    /// Completes when the pod is to end. News are left for the next turn.
    async fn to_end(&self) {
        while !self.is_to_end() {
            self.mailbox.wait().await;
        }
        self.mailbox.wake();
    }
}

enum Refusal {
    Image(images::Missing),
    Config(ConfigError),
}

/// The handler of the pod's runtime class; empty: the runtime's default.
async fn handler(node: &Node, pod: &Pod) -> Result<String, ClientError> {
    match facts::spec(pod).runtime_class_name.as_deref().filter(|name| !name.is_empty()) {
        Some(name) => node.client.all::<RuntimeClass>().get(name).await.map(|class| class.handler),
        None => Ok(String::new()),
    }
}

/// Whether a runtime looks up devices in the Container Device Interface. containerd does since 1.7, and before would pass
/// over them in silence.
fn knows_device_names(runtime: &str, version: &str) -> bool {
    let mut parts = version.trim_start_matches('v').split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    runtime != "containerd" || version >= (1, 7)
}

fn propagation(given: Option<&str>) -> MountPropagation {
    match given {
        Some("HostToContainer") => MountPropagation::PropagationHostToContainer,
        Some("Bidirectional") => MountPropagation::PropagationBidirectional,
        _ => MountPropagation::PropagationPrivate,
    }
}

/// The container whose processes an ephemeral one wants to see.
fn debug_target(pod: &Pod, state: &RuntimeState, container: &Container) -> Option<String> {
    let mut ephemeral = facts::spec(pod).ephemeral_containers.iter().flatten();
    let target = ephemeral.find(|e| e.name == container.name)?.target_container_name.as_deref()?;
    state.current(target).map(|record| record.id.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_knows_devices_by_name() {
        for (runtime, version, knows) in [
            ("containerd", "1.6.20~ds1", false),
            ("containerd", "v1.7.2", true),
            ("containerd", "2.0.0", true),
            ("cri-o", "1.20", true),
        ] {
            assert_eq!(knows_device_names(runtime, version), knows, "{runtime} {version}");
        }
    }
}
