//! The [`Runtime`] behind a unix socket.
//!
//! The channel connects at its first use and again after a break, so a runtime may come and go under its client. Every
//! call has a limit after which the runtime is taken to hang: the same ones as upstream's node agent
//! (`pkg/kubelet/cri/remote`), two minutes for most, none for pulling an image.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::{StreamExt, TryFutureExt};
use hyper_util::rt::TokioIo;
use prost::Message;
use prost_types::Any;
use tokio::net::UnixStream;
use tokio::sync::{OwnedRwLockWriteGuard, RwLock};
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::containerd::{Importer, Known};
use crate::proto::containerd::events_client::EventsClient;
use crate::proto::containerd::{PublishRequest, SubscribeRequest, TaskDelete};
use crate::proto::v1::image_service_client::ImageServiceClient;
use crate::proto::v1::runtime_service_client::RuntimeServiceClient;
use crate::proto::v1::*;
use crate::runtime::{ContainerEvent, EventStream, Runtime, RuntimeError};

/// Most calls are answered within this, or the runtime hangs.
const LIMIT: Duration = Duration::from_secs(120);
/// A sandbox may wait for its network.
const SANDBOX_LIMIT: Duration = Duration::from_secs(240);
/// Lists of a full node are large.
const MAX_MESSAGE: usize = 16 << 20;
/// What containerd says when its CRI part has noticed that a process ended (the exit itself is told some 40 ms earlier,
/// when asking for the container's status would still find it running).
const ENDS: &str = "namespace==k8s.io,topic==\"/tasks/delete\"";
/// What we say ourselves, to see whether we hear it.
const MARKER: &str = "/skiff/subscribed";

/// A client of a runtime's socket.
#[derive(Clone)]
pub struct GrpcRuntime {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
    events: EventsClient<Channel>,
    importer: Option<Arc<Importer>>,
    /// Read while a sandbox is made.
    making: Arc<RwLock<()>>,
}

type Result<T, E = RuntimeError> = std::result::Result<T, E>;

impl GrpcRuntime {
    /// A client of the runtime that listens, or will listen, on `socket`. Must be called inside a Tokio runtime.
    pub fn new(socket: &Path) -> Self {
        let path = socket.to_owned();
        // The address only fills the authority header; the connector decides where to go.
        let channel = Endpoint::from_static("http://localhost")
            .connect_with_connector_lazy(tower::service_fn(move |_| connect(path.clone())));
        let size = MAX_MESSAGE;
        Self {
            runtime: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(size),
            images: ImageServiceClient::new(channel.clone()).max_decoding_message_size(size),
            events: EventsClient::new(channel).max_decoding_message_size(size),
            importer: None,
            making: Arc::default(),
        }
    }

    /// The same client, able to import archives as well.
    pub(crate) fn with_importer(mut self, importer: Importer) -> Self {
        self.importer = Some(Arc::new(importer));
        self
    }

    /// Waits until no sandbox is being made, and lets none be made while the answer is held.
    pub(crate) async fn pause_making(&self) -> OwnedRwLockWriteGuard<()> {
        self.making.clone().write_owned().await
    }

    /// All sandboxes and containers, and where the sandboxes have their networks.
    pub(crate) async fn known(&self) -> Result<Known> {
        let mut known = Known::default();
        for sandbox in self.list_pod_sandboxes(PodSandboxFilter::default()).await? {
            known.namespaces.extend(self.network_namespace(&sandbox.id).await?);
            known.ids.insert(sandbox.id.clone());
            known.sandboxes.insert(sandbox.id);
        }
        known.ids.extend(self.list_containers(ContainerFilter::default()).await?.into_iter().map(|c| c.id));
        Ok(known)
    }

    /// containerd tells it in the verbose part of a sandbox's status, which is JSON of its own making.
    async fn network_namespace(&self, sandbox: &str) -> Result<Option<PathBuf>> {
        let request = PodSandboxStatusRequest { pod_sandbox_id: sandbox.to_owned(), verbose: true };
        let answer = match self.runtime.clone().pod_sandbox_status(limited(request)).await.map_err(error) {
            Err(error) if error.is_not_found() => return Ok(None),
            other => other?.into_inner(),
        };
        let info = answer.info.get("info").map(String::as_str).unwrap_or("null");
        let info: serde_json::Value = serde_json::from_str(info).map_err(|e| RuntimeError::Failed(e.to_string()))?;
        let mut namespaces = info["runtimeSpec"]["linux"]["namespaces"].as_array().into_iter().flatten();
        let network = namespaces.find(|namespace| namespace["type"] == "network");
        Ok(network.and_then(|network| network["path"].as_str()).map(PathBuf::from))
    }

    /// The events of containerd itself: which task ended. Its CRI learned to tell only in version 1.7.
    ///
    /// The server answers a subscription with its first event, so until then nobody knows whether it has begun. To know
    /// it, we tell an event of our own, again and again until the answer comes.
    async fn containerd_events(&self) -> Result<EventStream> {
        let filters = vec![ENDS.to_owned(), format!("topic==\"{MARKER}\"")];
        let mut subscriber = self.events.clone();
        let subscription = subscriber.subscribe(SubscribeRequest { filters });
        tokio::pin!(subscription);
        let answer = loop {
            let mut marker = limited(PublishRequest { topic: MARKER.to_owned(), event: Some(Any::default()) });
            marker.metadata_mut().insert("containerd-namespace", MetadataValue::from_static("k8s.io"));
            let mut publisher = self.events.clone();
            tokio::select! {
                biased;
                answer = &mut subscription => break answer.map_err(unsupported)?,
                told = publisher.publish(marker) => told.map(drop).map_err(unsupported)?,
            }
        };
        Ok(answer.into_inner().filter_map(|item| std::future::ready(exited(item))).boxed())
    }

    /// The events of the runtime interface, from runtimes that are not containerd.
    fn interface_events(&self) -> EventStream {
        let mut client = self.runtime.clone();
        let subscription = async move {
            let stream = client.get_container_events(GetEventsRequest {}).await.map_err(unsupported)?.into_inner();
            Ok(stream.map(|event| event.map(|e| ContainerEvent { id: e.container_id }).map_err(error)))
        };
        subscription.try_flatten_stream().boxed()
    }
}

fn unsupported(status: Status) -> RuntimeError {
    match status.code() {
        Code::Unimplemented => RuntimeError::Unsupported("container events"),
        _ => error(status),
    }
}

async fn connect(path: PathBuf) -> std::io::Result<TokioIo<UnixStream>> {
    Ok(TokioIo::new(UnixStream::connect(path).await?))
}

/// The end of a container's first process; commands run in it end as well, which is nobody's business here.
fn exited(item: Result<crate::proto::containerd::Envelope, Status>) -> Option<Result<ContainerEvent>> {
    let event = match item {
        Ok(envelope) => envelope.event?,
        Err(status) => return Some(Err(error(status))),
    };
    if event.type_url.is_empty() {
        return None; // our own marker
    }
    let ended = TaskDelete::decode(&event.value[..]).ok()?;
    (ended.id.is_empty() || ended.id == ended.container_id).then_some(Ok(ContainerEvent { id: ended.container_id }))
}

/// A request that gives up after `limit`.
fn within<T>(limit: Duration, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(limit);
    request
}

fn limited<T>(message: T) -> Request<T> {
    within(LIMIT, message)
}

fn seconds(count: i64) -> Duration {
    Duration::from_secs(u64::try_from(count).unwrap_or(0))
}

fn error(status: Status) -> RuntimeError {
    let message = status.message().to_owned();
    match status.code() {
        Code::NotFound => RuntimeError::NotFound(message),
        Code::Unavailable => RuntimeError::Unavailable(message),
        Code::DeadlineExceeded | Code::Cancelled => RuntimeError::Timeout(message),
        // The transport's own failures carry their cause one level down.
        Code::Unknown if message == "transport error" => RuntimeError::Unavailable(cause(&status)),
        _ => RuntimeError::Failed(message),
    }
}

fn cause(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut next = std::error::Error::source(status);
    while let Some(inner) = next {
        text = inner.to_string();
        next = inner.source();
    }
    text
}

/// What is not there is removed already.
fn gone<T: Default>(result: Result<T, Status>) -> Result<T> {
    match result.map_err(error) {
        Err(RuntimeError::NotFound(_)) => Ok(T::default()),
        other => other,
    }
}

fn image(reference: &str) -> Option<ImageSpec> {
    Some(ImageSpec { image: reference.to_owned(), ..ImageSpec::default() })
}

/// An answer without the part that makes it one.
fn missing(what: &'static str) -> RuntimeError {
    RuntimeError::Failed(format!("the runtime's answer has no {what}"))
}

#[async_trait]
impl Runtime for GrpcRuntime {
    async fn version(&self) -> Result<VersionResponse> {
        let request = limited(VersionRequest { version: "v1".to_owned() });
        Ok(self.runtime.clone().version(request).await.map_err(error)?.into_inner())
    }
    async fn status(&self) -> Result<StatusResponse> {
        Ok(self.runtime.clone().status(limited(StatusRequest { verbose: false })).await.map_err(error)?.into_inner())
    }

    async fn run_pod_sandbox(&self, config: PodSandboxConfig, handler: &str) -> Result<String> {
        let _making = self.making.read().await;
        let request = RunPodSandboxRequest { config: Some(config), runtime_handler: handler.to_owned() };
        let answer = self.runtime.clone().run_pod_sandbox(within(SANDBOX_LIMIT, request)).await;
        Ok(answer.map_err(error)?.into_inner().pod_sandbox_id)
    }
    async fn stop_pod_sandbox(&self, id: &str) -> Result<()> {
        let request = StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        gone(self.runtime.clone().stop_pod_sandbox(within(SANDBOX_LIMIT, request)).await.map(drop))
    }
    async fn remove_pod_sandbox(&self, id: &str) -> Result<()> {
        let request = RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        gone(self.runtime.clone().remove_pod_sandbox(limited(request)).await.map(drop))
    }
    async fn pod_sandbox_status(&self, id: &str) -> Result<PodSandboxStatus> {
        let request = PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        let answer = self.runtime.clone().pod_sandbox_status(limited(request)).await.map_err(error)?;
        answer.into_inner().status.ok_or_else(|| missing("sandbox status"))
    }
    async fn list_pod_sandboxes(&self, filter: PodSandboxFilter) -> Result<Vec<PodSandbox>> {
        let request = limited(ListPodSandboxRequest { filter: Some(filter) });
        Ok(self.runtime.clone().list_pod_sandbox(request).await.map_err(error)?.into_inner().items)
    }

    async fn create_container(
        &self,
        sandbox: &str,
        config: ContainerConfig,
        sandbox_config: PodSandboxConfig,
    ) -> Result<String> {
        let request = CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        };
        let answer = self.runtime.clone().create_container(limited(request)).await;
        Ok(answer.map_err(error)?.into_inner().container_id)
    }
    async fn start_container(&self, id: &str) -> Result<()> {
        let request = limited(StartContainerRequest { container_id: id.to_owned() });
        self.runtime.clone().start_container(request).await.map(drop).map_err(error)
    }
    async fn stop_container(&self, id: &str, timeout: i64) -> Result<()> {
        let request = StopContainerRequest { container_id: id.to_owned(), timeout };
        gone(self.runtime.clone().stop_container(within(LIMIT + seconds(timeout), request)).await.map(drop))
    }
    async fn remove_container(&self, id: &str) -> Result<()> {
        let request = limited(RemoveContainerRequest { container_id: id.to_owned() });
        gone(self.runtime.clone().remove_container(request).await.map(drop))
    }
    async fn container_status(&self, id: &str) -> Result<ContainerStatus> {
        let request = ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        let answer = self.runtime.clone().container_status(limited(request)).await.map_err(error)?;
        answer.into_inner().status.ok_or_else(|| missing("container status"))
    }
    async fn list_containers(&self, filter: ContainerFilter) -> Result<Vec<Container>> {
        let request = limited(ListContainersRequest { filter: Some(filter) });
        Ok(self.runtime.clone().list_containers(request).await.map_err(error)?.into_inner().containers)
    }
    async fn update_container_resources(&self, id: &str, resources: LinuxContainerResources) -> Result<()> {
        let request = UpdateContainerResourcesRequest {
            container_id: id.to_owned(),
            linux: Some(resources),
            ..UpdateContainerResourcesRequest::default()
        };
        self.runtime.clone().update_container_resources(limited(request)).await.map(drop).map_err(error)
    }
    async fn reopen_container_log(&self, id: &str) -> Result<()> {
        let request = limited(ReopenContainerLogRequest { container_id: id.to_owned() });
        self.runtime.clone().reopen_container_log(request).await.map(drop).map_err(error)
    }
    async fn list_container_stats(&self, filter: ContainerStatsFilter) -> Result<Vec<ContainerStats>> {
        let request = limited(ListContainerStatsRequest { filter: Some(filter) });
        Ok(self.runtime.clone().list_container_stats(request).await.map_err(error)?.into_inner().stats)
    }

    async fn exec_sync(&self, id: &str, cmd: Vec<String>, timeout: i64) -> Result<ExecSyncResponse> {
        let message = ExecSyncRequest { container_id: id.to_owned(), cmd, timeout };
        // Without a limit of its own the command may run for ever.
        let request = if timeout > 0 { within(LIMIT + seconds(timeout), message) } else { Request::new(message) };
        Ok(self.runtime.clone().exec_sync(request).await.map_err(error)?.into_inner())
    }
    async fn exec(&self, request: ExecRequest) -> Result<String> {
        Ok(self.runtime.clone().exec(limited(request)).await.map_err(error)?.into_inner().url)
    }
    async fn attach(&self, request: AttachRequest) -> Result<String> {
        Ok(self.runtime.clone().attach(limited(request)).await.map_err(error)?.into_inner().url)
    }
    async fn port_forward(&self, sandbox: &str, port: Vec<i32>) -> Result<String> {
        let request = limited(PortForwardRequest { pod_sandbox_id: sandbox.to_owned(), port });
        Ok(self.runtime.clone().port_forward(request).await.map_err(error)?.into_inner().url)
    }

    async fn events(&self) -> Result<EventStream> {
        match self.containerd_events().await {
            Err(RuntimeError::Unsupported(_)) => Ok(self.interface_events()),
            other => other,
        }
    }

    async fn list_images(&self) -> Result<Vec<Image>> {
        let answer = self.images.clone().list_images(limited(ListImagesRequest::default())).await;
        Ok(answer.map_err(error)?.into_inner().images)
    }
    async fn image_status(&self, reference: &str) -> Result<Option<Image>> {
        let request = limited(ImageStatusRequest { image: image(reference), verbose: false });
        Ok(self.images.clone().image_status(request).await.map_err(error)?.into_inner().image)
    }
    async fn pull_image(
        &self,
        reference: &str,
        auth: Option<AuthConfig>,
        sandbox_config: Option<PodSandboxConfig>,
    ) -> Result<String> {
        let request = PullImageRequest { image: image(reference), auth, sandbox_config };
        Ok(self.images.clone().pull_image(request).await.map_err(error)?.into_inner().image_ref)
    }
    async fn remove_image(&self, reference: &str) -> Result<()> {
        let request = limited(RemoveImageRequest { image: image(reference) });
        gone(self.images.clone().remove_image(request).await.map(drop))
    }
    async fn image_fs_info(&self) -> Result<Vec<FilesystemUsage>> {
        let answer = self.images.clone().image_fs_info(limited(ImageFsInfoRequest {})).await.map_err(error)?;
        Ok(answer.into_inner().image_filesystems)
    }
    async fn mount_image(&self, reference: &str, directory: &Path) -> Result<()> {
        let importer = self.importer.as_ref().ok_or(RuntimeError::Unsupported("image volumes"))?;
        importer.mount(reference, directory).await
    }
    async fn unmount_image(&self, directory: &Path) -> Result<()> {
        match &self.importer {
            Some(importer) => importer.unmount(directory).await,
            None => Ok(()),
        }
    }
    async fn import_images(&self, archive: &Path) -> Result<Vec<String>> {
        let importer = self.importer.as_ref().ok_or(RuntimeError::Unsupported("importing image archives"))?;
        importer.import(self, archive).await
    }
}
