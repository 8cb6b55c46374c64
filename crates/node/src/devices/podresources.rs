//! Which pod has which devices, for those who watch the node: served on `DIRECTORY/pod-resources/kubelet.sock`.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use skiff_plugins::podresources::pod_resources_lister_server::{PodResourcesLister, PodResourcesListerServer};
use skiff_plugins::podresources::*;
use skiff_plugins::{Request, Response, Status, async_trait, serve};
use tokio::net::UnixListener;

use super::plugins::Plugin;
use super::{Shared, State};
use crate::pinning::members;
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

/// One device, once for each memory node that it is near.
fn told(state: &State, resource: &str, id: &str) -> Vec<ContainerDevices> {
    let near = state.plugins.get(resource).and_then(|plugin| plugin.devices.get(id)).map_or(0, |has| has.nodes);
    let one =
        |topology| ContainerDevices { resource_name: resource.to_owned(), device_ids: vec![id.to_owned()], topology };
    let nodes = members(near).map(|node| TopologyInfo { nodes: vec![NumaNode { id: i64::from(node) }] });
    if near == 0 { vec![one(None)] } else { nodes.map(Some).map(one).collect() }
}

struct Lister(Shared);

impl Lister {
    fn of(&self, pod: &Arc<Pod>) -> PodResources {
        let state = self.0.devices.state.lock();
        let given = state.record.of_pod(facts::uid(pod));
        let devices = |container: &str| {
            let all = given.and_then(|given| given.get(container)).into_iter().flatten();
            all.flat_map(|(resource, given)| given.ids.iter().flat_map(|id| told(&state, resource, id))).collect()
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
        let all = |(resource, plugin): (&String, &Plugin)| {
            plugin.healthy().flat_map(|id| told(&state, resource, id)).collect::<Vec<_>>()
        };
        let devices = state.plugins.iter().flat_map(all);
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
