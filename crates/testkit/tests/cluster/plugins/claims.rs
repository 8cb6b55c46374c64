//! A driver of dynamic resources, and pods whose claims it makes ready.

use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};
use skiff_plugins::dra::dra_plugin_server::{DraPlugin, DraPluginServer};
use skiff_plugins::dra::*;
use skiff_plugins::{Request, Response, Status, async_trait};

use super::sockets::Home;
use crate::support::{Cluster, LONG, holds, soon};

const NAME: &str = "boards.example.com";

struct Driver {
    log: Arc<Mutex<Vec<String>>>,
}

impl Driver {
    fn note(&self, line: String) {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }
}

#[async_trait]
impl DraPlugin for Driver {
    async fn node_prepare_resources(
        &self,
        request: Request<NodePrepareResourcesRequest>,
    ) -> Result<Response<NodePrepareResourcesResponse>, Status> {
        let answer = |claim: Claim| {
            self.note(format!("prepare {}", claim.name));
            let cdi_device_ids =
                if claim.name == "named" { vec!["boards.example.com/b=1".to_owned()] } else { Vec::new() };
            let device = Device { cdi_device_ids, device_name: "b1".to_owned(), ..Device::default() };
            (claim.uid, NodePrepareResourceResponse { devices: vec![device], error: String::new() })
        };
        let claims = request.into_inner().claims.into_iter().map(answer).collect();
        Ok(Response::new(NodePrepareResourcesResponse { claims }))
    }
    async fn node_unprepare_resources(
        &self,
        request: Request<NodeUnprepareResourcesRequest>,
    ) -> Result<Response<NodeUnprepareResourcesResponse>, Status> {
        let answer = |claim: Claim| {
            self.note(format!("unprepare {}", claim.name));
            (claim.uid, NodeUnprepareResourceResponse::default())
        };
        let claims = request.into_inner().claims.into_iter().map(answer).collect();
        Ok(Response::new(NodeUnprepareResourcesResponse { claims }))
    }
}

fn pod(claim: &str) -> Value {
    let container = json!({"name": "c", "image": "busybox:1.35", "command": ["sleep", "1000"],
        "resources": {"claims": [{"name": "board"}]}});
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": claim}, "spec": {"terminationGracePeriodSeconds": 0,
        "containers": [container], "resourceClaims": [{"name": "board", "resourceClaimName": claim}]}})
}

/// What claims were given is made ready before containers start, and given back by whichever agent is there by then.
pub(crate) fn claims_of_devices(cluster: &mut Cluster) -> Result<(), String> {
    let agent = cluster.server.data_dir().join("agent");
    let log: Arc<Mutex<Vec<String>>> = Arc::default();
    let said = |line: &str| log.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|known| known == line);
    let mut home = Home::new()?;
    let socket = agent.join("plugins").join(NAME).join("dra.sock");
    home.serve(&socket, DraPluginServer::new(Driver { log: Arc::clone(&log) }))?;
    home.register(&agent, "DRAPlugin", NAME, &socket)?;
    let group = "resource.k8s.io/v1";
    cluster.apply(&json!({"apiVersion": group, "kind": "DeviceClass", "metadata": {"name": NAME}, "spec": {
        "selectors": [{"cel": {"expression": format!("device.driver == '{NAME}'")}}]}}))?;
    let devices = json!([{"name": "b1"}, {"name": "b2"}]);
    cluster.apply(&json!({"apiVersion": group, "kind": "ResourceSlice", "metadata": {"name": "boards"}, "spec": {
        "driver": NAME, "nodeName": "test", "devices": devices,
        "pool": {"name": "test", "generation": 1, "resourceSliceCount": 1}}}))?;
    for name in ["plain", "named"] {
        let request = json!({"name": "r", "exactly": {"deviceClassName": NAME}});
        cluster.apply(&json!({"apiVersion": group, "kind": "ResourceClaim", "metadata": {"name": name},
            "spec": {"devices": {"requests": [request]}}}))?;
        cluster.apply(&pod(name))?;
    }
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/plain", LONG])?;
    holds("it was made ready", said("prepare plain"))?;
    // containerd learned of devices by name in 1.7; before, they would be passed over in silence.
    let version = cluster.get(&["node", "test"])?["status"]["nodeInfo"]["containerRuntimeVersion"].to_string();
    if version.contains("://1.6") {
        let reason = ".status.containerStatuses[0].state.waiting.reason";
        cluster.reads("pod/named", reason, "CreateContainerConfigError")?;
    } else {
        // Nobody has told the runtime of the device by this name.
        let reason = ".status.containerStatuses[0].state.waiting.reason";
        cluster.reads("pod/named", reason, "CreateContainerError")?;
    }
    cluster.kubectl(&["delete", "pod", "plain", "named", "--wait=false"])?;
    cluster.server.kill();
    cluster.server.launch()?;
    // The scheduler is offered nothing until the drivers of this agent say so.
    soon("what was offered is gone", || {
        cluster.get(&["resourceslices"]).is_ok_and(|list| list["items"].as_array().is_some_and(Vec::is_empty))
    })?;
    soon("both are given back", || said("unprepare plain") && said("unprepare named"))?;
    soon("no pods", || cluster.get(&["pod", "plain"]).is_err() && cluster.get(&["pod", "named"]).is_err())?;
    cluster.kubectl(&["delete", "resourceclaim", "plain", "named"])?;
    cluster.kubectl(&["delete", "deviceclass", NAME]).map(drop)
}
