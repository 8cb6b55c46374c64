//! A runtime that keeps everything in memory: for tests, which make it fail on demand, and for hollow nodes.
//!
//! It knows sandboxes, containers and images and nothing of processes. By default every image is present and every
//! container runs until it is stopped; [`Script`]s by image, and [`FakeRuntime::exit`], say otherwise.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use parking_lot::Mutex;
use skiff_meta::WorldRef;
use tokio::sync::broadcast;

use crate::proto::v1::*;
use crate::runtime::{ContainerEvent, EventStream, Runtime, RuntimeError};

/// The calls that can be counted and made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "named as the methods of Runtime")]
pub enum Call {
    Status,
    RunPodSandbox,
    StopPodSandbox,
    RemovePodSandbox,
    PodSandboxStatus,
    ListPodSandboxes,
    CreateContainer,
    StartContainer,
    StopContainer,
    RemoveContainer,
    ContainerStatus,
    ListContainers,
    UpdateContainerResources,
    ExecSync,
    ImageStatus,
    PullImage,
}

/// What the containers of one image do.
#[derive(Clone, Debug, Default)]
pub struct Script {
    /// They end by themselves after this long; `None`: never.
    pub exits_after: Option<Duration>,
    /// Their exit code when they end by themselves.
    pub exit_code: i32,
    /// They do not end when asked to, only when killed.
    pub ignores_term: bool,
}

/// Answers commands: given the container and the command, what it prints and its exit code.
pub type ExecScript = Arc<dyn Fn(&ContainerStatus, &[String]) -> ExecSyncResponse + Send + Sync>;

#[derive(Default)]
struct State {
    sandboxes: BTreeMap<String, PodSandboxStatus>,
    containers: BTreeMap<String, (String, ContainerStatus)>,
    images: BTreeMap<String, Image>,
    missing: Vec<String>,
    /// Which image appears where.
    mounted: BTreeMap<PathBuf, String>,
    scripts: HashMap<String, Script>,
    faults: HashMap<Call, Vec<RuntimeError>>,
    counts: BTreeMap<Call, usize>,
    exec: Option<ExecScript>,
    latency: Duration,
    abilities: (Vec<RuntimeHandler>, RuntimeFeatures),
    next: u64,
}

/// A runtime in memory.
pub struct FakeRuntime {
    world: WorldRef,
    state: Arc<Mutex<State>>,
    events: broadcast::Sender<ContainerEvent>,
}

type Result<T, E = RuntimeError> = std::result::Result<T, E>;

impl FakeRuntime {
    /// An empty one.
    pub fn new(world: WorldRef) -> Arc<Self> {
        let (events, _) = broadcast::channel(4096);
        Arc::new(Self { world, state: Arc::default(), events })
    }
    /// The next `times` calls of this kind fail with `error`.
    pub fn fail(&self, call: Call, times: usize, error: RuntimeError) {
        self.state.lock().faults.entry(call).or_default().extend(std::iter::repeat_n(error, times));
    }
    /// How often this was called.
    pub fn count(&self, call: Call) -> usize {
        self.state.lock().counts.get(&call).copied().unwrap_or(0)
    }
    /// What containers of `image` do from now on.
    pub fn script(&self, image: &str, script: Script) {
        self.state.lock().scripts.insert(image.to_owned(), script);
    }
    /// `image` is not here, and cannot be pulled.
    pub fn without_image(&self, image: &str) {
        self.state.lock().missing.push(image.to_owned());
    }
    /// `image` is here after all.
    pub fn with_image(&self, image: &str) {
        self.state.lock().missing.retain(|missing| missing != image);
    }
    /// Which image appears where.
    pub fn mounted(&self) -> BTreeMap<PathBuf, String> {
        self.state.lock().mounted.clone()
    }
    /// What commands answer; by default they succeed in silence.
    pub fn on_exec(&self, script: ExecScript) {
        self.state.lock().exec = Some(script);
    }
    /// How long making a sandbox and starting a container take.
    pub fn latency(&self, latency: Duration) {
        self.state.lock().latency = latency;
    }
    /// What it says it can do; by default nothing special.
    pub fn offers(&self, handlers: Vec<RuntimeHandler>, features: RuntimeFeatures) {
        self.state.lock().abilities = (handlers, features);
    }
    /// All containers, those that ended included, in the order they were made.
    pub fn containers(&self) -> Vec<ContainerStatus> {
        let mut all: Vec<_> = self.state.lock().containers.values().map(|(_, status)| status.clone()).collect();
        all.sort_by_key(|status| (status.created_at, status.id.clone()));
        all
    }
    /// All sandboxes.
    pub fn sandboxes(&self) -> Vec<PodSandboxStatus> {
        self.state.lock().sandboxes.values().cloned().collect()
    }
    /// Ends a container's process, as if by itself.
    pub fn exit(&self, container: &str, exit_code: i32) {
        finish(&self.state, &self.events, &self.world, container, exit_code, "");
    }
    /// Ends the sandbox's own process, as if somebody had killed it.
    pub fn kill_sandbox(&self, sandbox: &str) {
        if let Some(status) = self.state.lock().sandboxes.get_mut(sandbox) {
            status.set_state(PodSandboxState::SandboxNotready);
        }
        self.tell(sandbox);
    }

    fn tell(&self, id: &str) {
        // Nobody listening is fine.
        let _ = self.events.send(ContainerEvent { id: id.to_owned() });
    }

    /// Counts the call and fails it if that is on the list.
    fn enter(&self, call: Call) -> Result<parking_lot::MutexGuard<'_, State>> {
        let mut state = self.state.lock();
        *state.counts.entry(call).or_default() += 1;
        match state.faults.get_mut(&call) {
            Some(faults) if !faults.is_empty() => Err(faults.remove(0)),
            _ => Ok(state),
        }
    }

    fn nanoseconds(&self) -> i64 {
        nanoseconds(&self.world)
    }
    async fn work(&self) {
        let latency = self.state.lock().latency;
        if !latency.is_zero() {
            self.world.sleep(latency).await;
        }
    }
}

fn nanoseconds(world: &WorldRef) -> i64 {
    i64::try_from(world.now().as_nanosecond()).unwrap_or(i64::MAX)
}

fn finish(
    state: &Mutex<State>,
    events: &broadcast::Sender<ContainerEvent>,
    world: &WorldRef,
    id: &str,
    code: i32,
    why: &str,
) {
    let mut state = state.lock();
    let Some((_, status)) = state.containers.get_mut(id) else { return };
    if status.state() != ContainerState::ContainerRunning {
        return;
    }
    status.set_state(ContainerState::ContainerExited);
    status.finished_at = nanoseconds(world);
    status.exit_code = code;
    let natural = if code == 0 { "Completed" } else { "Error" };
    status.reason = if why.is_empty() { natural } else { why }.to_owned();
    drop(state);
    // Nobody listening is fine.
    let _ = events.send(ContainerEvent { id: id.to_owned() });
}

impl State {
    fn id(&mut self, kind: &str) -> String {
        self.next += 1;
        format!("{kind}-{:08}", self.next)
    }
    /// 10.244.0.0/16, round and round.
    fn address(&mut self) -> String {
        self.next += 1;
        format!("10.244.{}.{}", self.next / 254 % 256, self.next % 254 + 1)
    }
    fn is_stubborn(&self, container: &str) -> bool {
        let image = self.containers.get(container).and_then(|(_, status)| status.image.as_ref());
        image.and_then(|image| self.scripts.get(name(&image.image))).is_some_and(|script| script.ignores_term)
    }
    /// By name, or by the id that is made from the name.
    fn image(&self, reference: &str) -> Option<Image> {
        let reference = name(reference);
        if self.missing.iter().any(|missing| missing == reference) {
            return None;
        }
        self.images.get(reference).cloned().or_else(|| {
            let tag = vec![reference.to_owned()];
            Some(Image { id: format!("sha256:{reference}"), repo_tags: tag, size: 1, ..Image::default() })
        })
    }
}

/// The name in an image's id.
fn name(reference: &str) -> &str {
    reference.strip_prefix("sha256:").unwrap_or(reference)
}

fn absent(kind: &str, id: &str) -> RuntimeError {
    RuntimeError::NotFound(format!("{kind} {id} not found"))
}

fn matches(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

#[async_trait]
impl Runtime for FakeRuntime {
    async fn version(&self) -> Result<VersionResponse> {
        Ok(VersionResponse {
            version: "0.1.0".to_owned(),
            runtime_name: "fake".to_owned(),
            runtime_version: "1".to_owned(),
            runtime_api_version: "v1".to_owned(),
        })
    }
    async fn status(&self) -> Result<StatusResponse> {
        let (runtime_handlers, features) = self.enter(Call::Status)?.abilities.clone();
        let ready =
            |r#type: &str| RuntimeCondition { r#type: r#type.to_owned(), status: true, ..RuntimeCondition::default() };
        let conditions = vec![ready("RuntimeReady"), ready("NetworkReady")];
        let status = Some(RuntimeStatus { conditions });
        Ok(StatusResponse { status, runtime_handlers, features: Some(features), ..StatusResponse::default() })
    }

    async fn run_pod_sandbox(&self, config: PodSandboxConfig, handler: &str) -> Result<String> {
        drop(self.enter(Call::RunPodSandbox)?);
        self.work().await;
        let mut state = self.state.lock();
        let id = state.id("sandbox");
        let options = config.linux.unwrap_or_default().security_context.unwrap_or_default().namespace_options;
        let on_host = options.as_ref().is_some_and(|o| o.network() == NamespaceMode::Node);
        let ip = if on_host { String::new() } else { state.address() };
        let status = PodSandboxStatus {
            id: id.clone(),
            metadata: config.metadata,
            state: PodSandboxState::SandboxReady.into(),
            created_at: self.nanoseconds(),
            network: Some(PodSandboxNetworkStatus { ip, ..PodSandboxNetworkStatus::default() }),
            linux: Some(LinuxPodSandboxStatus { namespaces: Some(Namespace { options }) }),
            labels: config.labels,
            annotations: config.annotations,
            runtime_handler: handler.to_owned(),
        };
        state.sandboxes.insert(id.clone(), status);
        Ok(id)
    }
    async fn stop_pod_sandbox(&self, id: &str) -> Result<()> {
        let mut state = self.enter(Call::StopPodSandbox)?;
        let Some(sandbox) = state.sandboxes.get_mut(id) else { return Ok(()) };
        sandbox.set_state(PodSandboxState::SandboxNotready);
        let inside: Vec<String> =
            state.containers.iter().filter(|(_, (of, _))| of == id).map(|(id, _)| id.clone()).collect();
        drop(state);
        for container in inside {
            finish(&self.state, &self.events, &self.world, &container, 137, "Error");
        }
        self.tell(id);
        Ok(())
    }
    async fn remove_pod_sandbox(&self, id: &str) -> Result<()> {
        let mut state = self.enter(Call::RemovePodSandbox)?;
        state.sandboxes.remove(id);
        state.containers.retain(|_, (sandbox, _)| sandbox != id);
        Ok(())
    }
    async fn pod_sandbox_status(&self, id: &str) -> Result<PodSandboxStatus> {
        self.enter(Call::PodSandboxStatus)?.sandboxes.get(id).cloned().ok_or_else(|| absent("sandbox", id))
    }
    async fn list_pod_sandboxes(&self, filter: PodSandboxFilter) -> Result<Vec<PodSandbox>> {
        let state = self.enter(Call::ListPodSandboxes)?;
        let wanted = |sandbox: &&PodSandboxStatus| {
            (filter.id.is_empty() || filter.id == sandbox.id)
                && filter.state.as_ref().is_none_or(|value| value.state == sandbox.state)
                && matches(&filter.label_selector, &sandbox.labels)
        };
        let item = |sandbox: &PodSandboxStatus| PodSandbox {
            id: sandbox.id.clone(),
            metadata: sandbox.metadata.clone(),
            state: sandbox.state,
            created_at: sandbox.created_at,
            labels: sandbox.labels.clone(),
            annotations: sandbox.annotations.clone(),
            runtime_handler: sandbox.runtime_handler.clone(),
        };
        Ok(state.sandboxes.values().filter(wanted).map(item).collect())
    }

    async fn create_container(&self, sandbox: &str, config: ContainerConfig, _: PodSandboxConfig) -> Result<String> {
        let mut state = self.enter(Call::CreateContainer)?;
        let ready = state.sandboxes.get(sandbox).ok_or_else(|| absent("sandbox", sandbox))?;
        if ready.state() != PodSandboxState::SandboxReady {
            return Err(RuntimeError::Failed(format!("sandbox {sandbox} is not ready")));
        }
        let spec = config.image.unwrap_or_default();
        let image = state.image(&spec.image).ok_or_else(|| absent("image", &spec.image))?;
        let id = state.id("container");
        let status = ContainerStatus {
            id: id.clone(),
            metadata: config.metadata,
            state: ContainerState::ContainerCreated.into(),
            created_at: self.nanoseconds(),
            image: Some(spec),
            image_ref: image.id.clone(),
            image_id: image.id,
            labels: config.labels,
            annotations: config.annotations,
            mounts: config.mounts,
            log_path: config.log_path,
            resources: Some(ContainerResources { linux: config.linux.and_then(|linux| linux.resources) }),
            ..ContainerStatus::default()
        };
        state.containers.insert(id.clone(), (sandbox.to_owned(), status));
        Ok(id)
    }
    async fn start_container(&self, id: &str) -> Result<()> {
        drop(self.enter(Call::StartContainer)?);
        self.work().await;
        let mut state = self.state.lock();
        let (_, status) = state.containers.get_mut(id).ok_or_else(|| absent("container", id))?;
        status.set_state(ContainerState::ContainerRunning);
        status.started_at = self.nanoseconds();
        let image = status.image.clone().unwrap_or_default().image;
        let script = state.scripts.get(name(&image)).cloned().unwrap_or_default();
        drop(state);
        if let Some(life) = script.exits_after {
            let (state, events, world) = (self.state.clone(), self.events.clone(), self.world.clone());
            let (sleep, id) = (self.world.sleep(life), id.to_owned());
            let task = async move {
                sleep.await;
                finish(&state, &events, &world, &id, script.exit_code, "");
            };
            drop(self.world.spawn("fake container", Box::pin(task)));
        }
        Ok(())
    }
    async fn stop_container(&self, id: &str, seconds: i64) -> Result<()> {
        drop(self.enter(Call::StopContainer)?);
        let stubborn = self.state.lock().is_stubborn(id);
        if stubborn && seconds > 0 {
            self.world.sleep(Duration::from_secs(seconds.unsigned_abs())).await;
        }
        let code = if stubborn || seconds == 0 { 137 } else { 143 };
        finish(&self.state, &self.events, &self.world, id, code, "Error");
        Ok(())
    }
    async fn remove_container(&self, id: &str) -> Result<()> {
        self.enter(Call::RemoveContainer)?.containers.remove(id);
        Ok(())
    }
    async fn container_status(&self, id: &str) -> Result<ContainerStatus> {
        let state = self.enter(Call::ContainerStatus)?;
        state.containers.get(id).map(|(_, status)| status.clone()).ok_or_else(|| absent("container", id))
    }
    async fn list_containers(&self, filter: ContainerFilter) -> Result<Vec<Container>> {
        let state = self.enter(Call::ListContainers)?;
        let wanted = |(sandbox, status): &&(String, ContainerStatus)| {
            (filter.id.is_empty() || filter.id == status.id)
                && (filter.pod_sandbox_id.is_empty() || filter.pod_sandbox_id == *sandbox)
                && filter.state.as_ref().is_none_or(|value| value.state == status.state)
                && matches(&filter.label_selector, &status.labels)
        };
        let item = |(sandbox, status): &(String, ContainerStatus)| Container {
            id: status.id.clone(),
            pod_sandbox_id: sandbox.clone(),
            metadata: status.metadata.clone(),
            image: status.image.clone(),
            image_ref: status.image_ref.clone(),
            state: status.state,
            created_at: status.created_at,
            labels: status.labels.clone(),
            annotations: status.annotations.clone(),
            image_id: status.image_id.clone(),
        };
        Ok(state.containers.values().filter(wanted).map(item).collect())
    }
    async fn update_container_resources(&self, id: &str, resources: LinuxContainerResources) -> Result<()> {
        let mut state = self.enter(Call::UpdateContainerResources)?;
        let (_, status) = state.containers.get_mut(id).ok_or_else(|| absent("container", id))?;
        status.resources = Some(ContainerResources { linux: Some(resources) });
        Ok(())
    }
    async fn reopen_container_log(&self, id: &str) -> Result<()> {
        self.state.lock().containers.get(id).map(drop).ok_or_else(|| absent("container", id))
    }
    async fn list_container_stats(&self, _: ContainerStatsFilter) -> Result<Vec<ContainerStats>> {
        Ok(Vec::new())
    }

    async fn exec_sync(&self, id: &str, command: Vec<String>, _: i64) -> Result<ExecSyncResponse> {
        let state = self.enter(Call::ExecSync)?;
        let status = state.containers.get(id).map(|(_, status)| status.clone());
        let status = status.ok_or_else(|| absent("container", id))?;
        let script = state.exec.clone();
        drop(state);
        Ok(script.map(|script| script(&status, &command)).unwrap_or_default())
    }
    async fn exec(&self, _: ExecRequest) -> Result<String> {
        Err(RuntimeError::Unsupported("exec"))
    }
    async fn attach(&self, _: AttachRequest) -> Result<String> {
        Err(RuntimeError::Unsupported("attach"))
    }
    async fn port_forward(&self, _: &str, _: Vec<i32>) -> Result<String> {
        Err(RuntimeError::Unsupported("port-forward"))
    }

    async fn events(&self) -> Result<EventStream> {
        let receiver = self.events.subscribe();
        let lagged = |_| RuntimeError::Unavailable("too many events at once".to_owned());
        let stream = futures::stream::unfold(receiver, move |mut receiver| async move {
            match receiver.recv().await {
                Ok(event) => Some((Ok(event), receiver)),
                Err(broadcast::error::RecvError::Lagged(count)) => Some((Err(lagged(count)), receiver)),
                Err(broadcast::error::RecvError::Closed) => None,
            }
        });
        Ok(stream.boxed())
    }

    async fn list_images(&self) -> Result<Vec<Image>> {
        Ok(self.state.lock().images.values().cloned().collect())
    }
    async fn image_status(&self, reference: &str) -> Result<Option<Image>> {
        Ok(self.enter(Call::ImageStatus)?.image(reference))
    }
    async fn pull_image(&self, reference: &str, _: Option<AuthConfig>, _: Option<PodSandboxConfig>) -> Result<String> {
        let state = self.enter(Call::PullImage)?;
        let image = state.image(reference);
        image.map(|image| image.id).ok_or_else(|| RuntimeError::Failed(format!("failed to resolve {reference}")))
    }
    async fn remove_image(&self, reference: &str) -> Result<()> {
        self.state.lock().images.remove(reference);
        Ok(())
    }
    async fn image_fs_info(&self) -> Result<Vec<FilesystemUsage>> {
        Ok(Vec::new())
    }
    async fn mount_image(&self, reference: &str, directory: &Path) -> Result<()> {
        let mut state = self.state.lock();
        state.image(reference).ok_or_else(|| absent("image", reference))?;
        state.mounted.insert(directory.to_owned(), name(reference).to_owned());
        Ok(())
    }
    async fn unmount_image(&self, directory: &Path) -> Result<()> {
        self.state.lock().mounted.remove(directory);
        Ok(())
    }
    async fn import_images(&self, archive: &Path) -> Result<Vec<String>> {
        let name = archive.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let image = Image { id: format!("sha256:{name}"), repo_tags: vec![name.clone()], ..Image::default() };
        self.state.lock().images.insert(name.clone(), image);
        Ok(vec![name])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use skiff_meta::world::RealWorld;

    /// Without a scripted delay nothing here ever waits.
    fn now<T>(future: impl Future<Output = T>) -> T {
        future.now_or_never().expect("an immediate answer")
    }

    #[test]
    fn a_container_lives_ends_and_is_told_of() {
        let fake = FakeRuntime::new(RealWorld::shared());
        let mut events = now(fake.events()).expect("events");
        let sandbox = now(fake.run_pod_sandbox(PodSandboxConfig::default(), "")).expect("a sandbox");
        let image = Some(ImageSpec { image: "a".into(), ..ImageSpec::default() });
        let config = ContainerConfig { image, ..ContainerConfig::default() };
        let id = now(fake.create_container(&sandbox, config, PodSandboxConfig::default())).expect("a container");
        now(fake.start_container(&id)).expect("started");
        fake.exit(&id, 7);
        assert_eq!(now(events.next()), Some(Ok(ContainerEvent { id: id.clone() })));
        let status = now(fake.container_status(&id)).expect("a status");
        assert_eq!((status.state(), status.exit_code), (ContainerState::ContainerExited, 7));
        now(fake.remove_pod_sandbox(&sandbox)).expect("removed");
        assert!(now(fake.container_status(&id)).expect_err("gone").is_not_found());
    }

    #[test]
    fn faults_come_as_often_as_asked_for() {
        let fake = FakeRuntime::new(RealWorld::shared());
        fake.fail(Call::RunPodSandbox, 2, RuntimeError::Failed("no".into()));
        let results: Vec<bool> =
            (0..3).map(|_| now(fake.run_pod_sandbox(PodSandboxConfig::default(), "")).is_ok()).collect();
        assert_eq!((results, fake.count(Call::RunPodSandbox)), (vec![false, false, true], 3));
    }
}
