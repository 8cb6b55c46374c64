//! The interface between the node agent and whatever runs containers.

use std::path::Path;

use async_trait::async_trait;
use futures::stream::BoxStream;

use crate::proto::v1::{
    AttachRequest, AuthConfig, Container, ContainerConfig, ContainerFilter, ContainerStats, ContainerStatsFilter,
    ContainerStatus, ExecRequest, ExecSyncResponse, FilesystemUsage, Image, LinuxContainerResources, PodSandbox,
    PodSandboxConfig, PodSandboxFilter, PodSandboxStatus, StatusResponse, VersionResponse,
};

/// Why a runtime did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuntimeError {
    /// The sandbox, container or image is not there.
    #[error("{0}")]
    NotFound(String),
    /// The runtime cannot be reached; asking again later may help.
    #[error("the container runtime does not answer: {0}")]
    Unavailable(String),
    /// The runtime took too long.
    #[error("the container runtime took too long: {0}")]
    Timeout(String),
    /// This runtime cannot do that.
    #[error("the container runtime does not support {0}")]
    Unsupported(&'static str),
    /// The runtime tried and failed, or refused; its own words.
    #[error("{0}")]
    Failed(String),
    /// An image archive could not be imported.
    #[error("image archive {file} cannot be imported: {reason}")]
    Import {
        /// Which file.
        file: String,
        /// Why not.
        reason: String,
    },
}

impl RuntimeError {
    /// Whether what was asked for is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound(_))
    }
}

/// Something has changed about this container or sandbox: look at it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerEvent {
    /// The container's or sandbox's id.
    pub id: String,
}

/// Changes from now on. Ends with an error when the connection breaks: then list everything and subscribe anew.
pub type EventStream = BoxStream<'static, Result<ContainerEvent, RuntimeError>>;

type Result<T, E = RuntimeError> = std::result::Result<T, E>;

/// What runs containers and keeps images. Messages are those of the Container Runtime Interface v1.
///
/// Stopping and removing are idempotent: what is not there is stopped and removed already.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// Who the runtime is.
    async fn version(&self) -> Result<VersionResponse>;
    /// Whether runtime and network are ready, and what the runtime can do.
    async fn status(&self) -> Result<StatusResponse>;

    /// Makes and starts a sandbox (which sets up its network); returns its id.
    async fn run_pod_sandbox(&self, config: PodSandboxConfig, handler: &str) -> Result<String>;
    /// Kills what runs in the sandbox and takes its network down.
    async fn stop_pod_sandbox(&self, id: &str) -> Result<()>;
    /// Removes the sandbox with its containers.
    async fn remove_pod_sandbox(&self, id: &str) -> Result<()>;
    /// One sandbox, with its addresses.
    async fn pod_sandbox_status(&self, id: &str) -> Result<PodSandboxStatus>;
    /// The sandboxes that pass `filter`.
    async fn list_pod_sandboxes(&self, filter: PodSandboxFilter) -> Result<Vec<PodSandbox>>;

    /// Makes a container in a sandbox; returns its id.
    async fn create_container(
        &self,
        sandbox: &str,
        config: ContainerConfig,
        sandbox_config: PodSandboxConfig,
    ) -> Result<String>;
    /// Starts a container that was made.
    async fn start_container(&self, id: &str) -> Result<()>;
    /// Asks the container to stop, and kills it after `seconds` (0: at once). Returns when it has stopped.
    async fn stop_container(&self, id: &str, seconds: i64) -> Result<()>;
    /// Removes a container that does not run.
    async fn remove_container(&self, id: &str) -> Result<()>;
    /// One container.
    async fn container_status(&self, id: &str) -> Result<ContainerStatus>;
    /// The containers that pass `filter`.
    async fn list_containers(&self, filter: ContainerFilter) -> Result<Vec<Container>>;
    /// Changes a running container's limits.
    async fn update_container_resources(&self, id: &str, resources: LinuxContainerResources) -> Result<()>;
    /// Opens the log file anew after it was renamed.
    async fn reopen_container_log(&self, id: &str) -> Result<()>;
    /// Use of resources by the containers that pass `filter`.
    async fn list_container_stats(&self, filter: ContainerStatsFilter) -> Result<Vec<ContainerStats>>;

    /// Runs a command in a container and waits for it, at most `seconds` (0: for ever).
    async fn exec_sync(&self, id: &str, command: Vec<String>, seconds: i64) -> Result<ExecSyncResponse>;
    /// Where a command's streams are to be had: an HTTP address that upgrades to SPDY/3.1.
    async fn exec(&self, request: ExecRequest) -> Result<String>;
    /// Where the main process's streams are to be had.
    async fn attach(&self, request: AttachRequest) -> Result<String>;
    /// Where connections into the sandbox's network are to be had.
    async fn port_forward(&self, sandbox: &str, ports: Vec<i32>) -> Result<String>;

    /// Changes of containers and sandboxes from now on, exits above all. `Unsupported` where the runtime has no such
    /// thing; then only listing tells.
    async fn events(&self) -> Result<EventStream>;

    /// All images.
    async fn list_images(&self) -> Result<Vec<Image>>;
    /// One image by reference or id, if it is here.
    async fn image_status(&self, reference: &str) -> Result<Option<Image>>;
    /// Fetches an image from its registry; returns its reference by digest or its id.
    async fn pull_image(
        &self,
        reference: &str,
        auth: Option<AuthConfig>,
        sandbox: Option<PodSandboxConfig>,
    ) -> Result<String>;
    /// Removes an image.
    async fn remove_image(&self, reference: &str) -> Result<()>;
    /// Disk used by images.
    async fn image_fs_info(&self) -> Result<Vec<FilesystemUsage>>;
    /// Makes the files of an image appear in a directory, where nobody can write to them.
    async fn mount_image(&self, reference: &str, directory: &Path) -> Result<()>;
    /// Takes them away again; fine when they are not there.
    async fn unmount_image(&self, directory: &Path) -> Result<()>;
    /// Imports an OCI or docker archive; returns the names of its images. They are usable when this returns.
    async fn import_images(&self, archive: &Path) -> Result<Vec<String>>;
}
