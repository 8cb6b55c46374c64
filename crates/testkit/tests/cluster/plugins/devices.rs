//! A device plugin, and pods that use its devices.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};
use skiff_plugins::devices::device_plugin_server::{DevicePlugin, DevicePluginServer};
use skiff_plugins::devices::registration_client::RegistrationClient;
use skiff_plugins::devices::*;
use skiff_plugins::{Request, Response, Status, async_trait, connect};
use tokio::sync::watch;

use super::sockets::Home;
use crate::support::{Cluster, LONG, holds, soon};

const TOYS: &str = "example.com/toy";

struct Plugin {
    /// The devices and whether they are well.
    devices: watch::Sender<Vec<(&'static str, bool)>>,
    log: Arc<Mutex<Vec<String>>>,
}

impl Plugin {
    fn note(&self, line: String) {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }
}

type Devices = std::pin::Pin<Box<dyn futures::Stream<Item = Result<ListAndWatchResponse, Status>> + Send>>;

#[async_trait]
impl DevicePlugin for Plugin {
    async fn get_device_plugin_options(&self, _: Request<Empty>) -> Result<Response<DevicePluginOptions>, Status> {
        Ok(Response::new(DevicePluginOptions::default()))
    }

    type ListAndWatchStream = Devices;
    async fn list_and_watch(&self, _: Request<Empty>) -> Result<Response<Devices>, Status> {
        let mut devices = self.devices.subscribe();
        devices.mark_changed();
        let stream = futures::stream::unfold(devices, |mut devices| async move {
            devices.changed().await.ok()?;
            let all = devices.borrow_and_update().clone().into_iter().map(|(id, well)| Device {
                id: id.to_owned(),
                health: if well { "Healthy" } else { "Unhealthy" }.to_owned(),
                topology: None,
            });
            Some((Ok(ListAndWatchResponse { devices: all.collect() }), devices))
        });
        Ok(Response::new(Box::pin(stream)))
    }

    async fn get_preferred_allocation(
        &self,
        request: Request<PreferredAllocationRequest>,
    ) -> Result<Response<PreferredAllocationResponse>, Status> {
        // The last one first.
        let choose = |r: ContainerPreferredAllocationRequest| {
            let count = usize::try_from(r.allocation_size).unwrap_or(0);
            let device_i_ds = r.available_device_i_ds.into_iter().rev().take(count).collect();
            ContainerPreferredAllocationResponse { device_i_ds }
        };
        let container_responses = request.into_inner().container_requests.into_iter().map(choose).collect();
        Ok(Response::new(PreferredAllocationResponse { container_responses }))
    }

    async fn allocate(&self, request: Request<AllocateRequest>) -> Result<Response<AllocateResponse>, Status> {
        let answer = |r: ContainerAllocateRequest| {
            let ids = r.devices_ids.join(",");
            self.note(format!("allocate {ids}"));
            let device = |path: &str| DeviceSpec {
                container_path: path.to_owned(),
                host_path: "/dev/zero".to_owned(),
                permissions: "r".to_owned(),
            };
            ContainerAllocateResponse {
                envs: [("TOYS".to_owned(), ids)].into(),
                devices: vec![device("/dev/toy")],
                annotations: [("toys".to_owned(), "yes".to_owned())].into(),
                ..ContainerAllocateResponse::default()
            }
        };
        let container_responses = request.into_inner().container_requests.into_iter().map(answer).collect();
        Ok(Response::new(AllocateResponse { container_responses }))
    }

    async fn pre_start_container(
        &self,
        request: Request<PreStartContainerRequest>,
    ) -> Result<Response<PreStartContainerResponse>, Status> {
        self.note(format!("start {}", request.into_inner().devices_ids.join(",")));
        Ok(Response::new(PreStartContainerResponse {}))
    }
}

fn register(home: &Home, directory: &Path) -> Result<(), String> {
    let options = DevicePluginOptions { pre_start_required: true, get_preferred_allocation_available: true };
    let request = RegisterRequest {
        version: "v1beta1".to_owned(),
        endpoint: "toys.sock".to_owned(),
        resource_name: TOYS.to_owned(),
        options: Some(options),
    };
    let socket = directory.join("kubelet.sock");
    let told = home.run(async move { RegistrationClient::new(connect(&socket)).register(request).await });
    told.map(drop).map_err(|status| status.to_string())
}

fn pod(name: &str, node: Option<&str>) -> Value {
    let container = json!({"name": "c", "image": "busybox:1.35", "command": ["sleep", "1000"],
        "resources": {"limits": {TOYS: "1"}}});
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"nodeName": node, "terminationGracePeriodSeconds": 1, "containers": [container]}})
}

/// Devices are counted, given, kept over a restart of everything, and taken back.
pub(crate) fn devices(cluster: &mut Cluster) -> Result<(), String> {
    let directory = cluster.server.data_dir().join("agent/device-plugins");
    let mut home = Home::new()?;
    let (devices, log) = (watch::Sender::new(vec![("t1", true), ("t2", true)]), Arc::default());
    let plugin = Plugin { devices: devices.clone(), log: Arc::clone(&log) };
    home.serve(&directory.join("toys.sock"), DevicePluginServer::new(plugin))?;
    register(&home, &directory)?;
    let count = |cluster: &Cluster, list: &str| {
        cluster.get(&["node", "test"]).unwrap_or_default()["status"][list][TOYS].as_str().unwrap_or("none").to_owned()
    };
    soon("two toys", || count(cluster, "allocatable") == "2")?;
    let foreign = json!([{"op": "add", "path": "/status/capacity/example.com~1foreign", "value": "5"}]).to_string();
    cluster.kubectl(&["patch", "node", "test", "--subresource=status", "--type=json", "-p", &foreign])?;

    cluster.apply(&pod("one", None))?;
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/one", LONG])?;
    let words = ["exec", "one", "--", "sh", "-c", "echo $TOYS; test -c /dev/toy && echo there"];
    let says = cluster.kubectl(&words)?;
    holds(&format!("the preferred toy is there: {says}"), says == "t2\nthere\n")?;
    let heard = || log.lock().unwrap_or_else(PoisonError::into_inner).clone();
    holds(&format!("{:?}", heard()), heard() == ["allocate t2", "start t2"])?;

    devices.send_replace(vec![("t1", true), ("t2", false)]);
    soon("one toy is broken", || count(cluster, "allocatable") == "1" && count(cluster, "capacity") == "2")?;
    let capacity = cluster.get(&["node", "test"])?["status"]["capacity"]["example.com/foreign"].clone();
    holds("what others count stays", capacity == "5")?;
    devices.send_replace(vec![("t1", true), ("t2", true)]);

    cluster.server.kill();
    cluster.server.launch()?;
    // The agent has removed the plugin's socket, which tells a plugin to register again.
    soon("the socket is gone", || !directory.join("toys.sock").exists())?;
    let plugin = Plugin { devices: devices.clone(), log: Arc::clone(&log) };
    home.serve(&directory.join("toys.sock"), DevicePluginServer::new(plugin))?;
    register(&home, &directory)?;
    soon("two toys again", || count(cluster, "allocatable") == "2")?;
    cluster.kubectl(&["exec", "one", "--", "kill", "-9", "1"]).ok();
    cluster.apply(&pod("two", None))?;
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/two", LONG])?;
    let says = cluster.kubectl(&["exec", "two", "--", "sh", "-c", "echo $TOYS"])?;
    holds(&format!("the other toy: {says}"), says == "t1\n")?;
    let says = cluster.kubectl(&words)?;
    holds(&format!("the same toy: {says}"), says == "t2\nthere\n")?;

    cluster.apply(&pod("three", Some("test")))?;
    cluster.reads("pod/three", ".status.phase", "Failed")?;
    let status = cluster.get(&["pod", "three"])?["status"].clone();
    holds(&format!("why not: {status}"), {
        let message = status["message"].as_str().unwrap_or_default();
        status["reason"] == "UnexpectedAdmissionError" && message.contains("Requested: 1, Available: 0")
    })?;
    cluster.kubectl(&["delete", "pod", "one", "two", "three"])?;
    cluster.apply(&pod("four", None))?;
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/four", LONG])?;
    cluster.kubectl(&["delete", "pod", "four"])?;
    drop(home);
    soon("no toy is well", || count(cluster, "allocatable") == "0")
}
