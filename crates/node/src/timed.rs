//! A runtime whose calls are measured, each under upstream's word for it (`pkg/kubelet/kuberuntime/instrumented_services.go`).

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use skiff_cri::v1::*;
use skiff_cri::{EventStream, Runtime, RuntimeError};
use skiff_meta::WorldRef;

use crate::metrics::Metrics;

/// The runtime and who measures.
pub(crate) struct Timed {
    pub(crate) inner: Arc<dyn Runtime>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) world: WorldRef,
}

/// A call that is measured.
macro_rules! timed {
    ($($name:ident as $operation:literal ($($argument:ident: $type:ty),*) -> $answer:ty;)*) => {
        #[async_trait]
        impl Runtime for Timed {
            $(
                async fn $name(&self, $($argument: $type),*) -> Result<$answer, RuntimeError> {
                    self.metrics.time(&self.world, $operation, self.inner.$name($($argument),*)).await
                }
            )*
        }
    };
}

timed! {
    version as "version" () -> VersionResponse;
    status as "status" () -> StatusResponse;
    run_pod_sandbox as "run_podsandbox" (config: PodSandboxConfig, handler: &str) -> String;
    stop_pod_sandbox as "stop_podsandbox" (id: &str) -> ();
    remove_pod_sandbox as "remove_podsandbox" (id: &str) -> ();
    pod_sandbox_status as "podsandbox_status" (id: &str) -> PodSandboxStatus;
    list_pod_sandboxes as "list_podsandbox" (filter: PodSandboxFilter) -> Vec<PodSandbox>;
    create_container as "create_container" (sandbox: &str, config: ContainerConfig, of: PodSandboxConfig) -> String;
    start_container as "start_container" (id: &str) -> ();
    stop_container as "stop_container" (id: &str, seconds: i64) -> ();
    remove_container as "remove_container" (id: &str) -> ();
    container_status as "container_status" (id: &str) -> ContainerStatus;
    list_containers as "list_containers" (filter: ContainerFilter) -> Vec<Container>;
    update_container_resources as "update_container" (id: &str, resources: LinuxContainerResources) -> ();
    reopen_container_log as "reopen_container_log" (id: &str) -> ();
    list_container_stats as "list_container_stats" (filter: ContainerStatsFilter) -> Vec<ContainerStats>;
    exec_sync as "exec_sync" (id: &str, command: Vec<String>, seconds: i64) -> ExecSyncResponse;
    exec as "exec" (request: ExecRequest) -> String;
    attach as "attach" (request: AttachRequest) -> String;
    port_forward as "port_forward" (sandbox: &str, ports: Vec<i32>) -> String;
    events as "get_container_events" () -> EventStream;
    list_images as "list_images" () -> Vec<Image>;
    image_status as "image_status" (reference: &str) -> Option<Image>;
    pull_image as "pull_image" (reference: &str, auth: Option<AuthConfig>, sandbox: Option<PodSandboxConfig>) -> String;
    remove_image as "remove_image" (reference: &str) -> ();
    image_fs_info as "image_fs_info" () -> Vec<FilesystemUsage>;
    mount_image as "mount_image" (reference: &str, directory: &Path) -> ();
    unmount_image as "unmount_image" (directory: &Path) -> ();
    import_images as "import_images" (archive: &Path) -> Vec<String>;
}
