//! Which pod has which devices, for those who watch the node: served on `DIRECTORY/pod-resources/kubelet.sock`.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use skiff_plugins::podresources::pod_resources_lister_server::{PodResourcesLister, PodResourcesListerServer};
use skiff_plugins::podresources::*;
use skiff_plugins::{Request, Response, Status, async_trait, serve};
use tokio::net::UnixListener;

use super::Shared;
use crate::pod::facts;

/// Serves, for ever.
pub(super) async fn serve_pods(node: Shared) {
    let directory = node.config.directory.join("pod-resources");
    let socket = directory.join("kubelet.sock");
    let listener = std::fs::create_dir_all(&directory).and_then(|()| {
        // The last agent's.
        drop(std::fs::remove_file(&socket));
        UnixListener::bind(&socket)
    });
    match listener {
        Ok(listener) => serve(listener, PodResourcesListerServer::new(Lister(node.clone())), node.world.clone()).await,
        Err(error) => tracing::error!(socket = %socket.display(), "devices of pods are not told: {error}"),
    }
}

struct Lister(Shared);

impl Lister {
    fn of(&self, pod: &Arc<Pod>) -> PodResources {
        let state = self.0.devices.state.lock();
        let given = state.record.of_pod(facts::uid(pod));
        let devices = |container: &str| {
            let all = given.and_then(|given| given.get(container)).into_iter().flatten();
            let told = all.map(|(resource, given)| ContainerDevices {
                resource_name: resource.clone(),
                device_ids: given.ids.iter().cloned().collect(),
            });
            told.collect()
        };
        let containers = facts::containers(pod);
        let cpus = |container: &str| self.0.pinning.of_container(facts::uid(pod), container).into_iter().map(i64::from);
        let containers = containers.iter().map(|(_, c)| ContainerResources {
            name: c.name.clone(),
            devices: devices(&c.name),
            cpu_ids: cpus(&c.name).collect(),
        });
        PodResources {
            name: facts::name(pod).to_owned(),
            namespace: facts::namespace(pod).to_owned(),
            containers: containers.collect(),
        }
    }
}

#[async_trait]
impl PodResourcesLister for Lister {
    async fn list(&self, _: Request<ListPodResourcesRequest>) -> Result<Response<ListPodResourcesResponse>, Status> {
        let pod_resources = self.0.admitted.pods().iter().map(|pod| self.of(pod)).collect();
        Ok(Response::new(ListPodResourcesResponse { pod_resources }))
    }
    async fn get_allocatable_resources(
        &self,
        _: Request<AllocatableResourcesRequest>,
    ) -> Result<Response<AllocatableResourcesResponse>, Status> {
        let state = self.0.devices.state.lock();
        let devices = state.plugins.iter().map(|(resource, plugin)| ContainerDevices {
            resource_name: resource.clone(),
            device_ids: plugin.healthy().map(str::to_owned).collect(),
        });
        Ok(Response::new(AllocatableResourcesResponse {
            devices: devices.collect(),
            cpu_ids: self.0.pinning.allocatable().into_iter().map(i64::from).collect(),
        }))
    }
    async fn get(&self, request: Request<GetPodResourcesRequest>) -> Result<Response<GetPodResourcesResponse>, Status> {
        let wanted = request.into_inner();
        let pods = self.0.admitted.pods();
        let mut found = pods.iter();
        let found =
            found.find(|pod| facts::name(pod) == wanted.pod_name && facts::namespace(pod) == wanted.pod_namespace);
        let pod = found.ok_or_else(|| {
            Status::not_found(format!("pod {} in namespace {} not found", wanted.pod_name, wanted.pod_namespace))
        })?;
        Ok(Response::new(GetPodResourcesResponse { pod_resources: Some(self.of(pod)) }))
    }
}
