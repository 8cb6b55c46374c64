//! A storage driver whose volumes are directories of this machine, and pods that use it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};
use skiff_plugins::csi::node_server::{Node, NodeServer};
use skiff_plugins::csi::node_service_capability::{Rpc, Type, rpc};
use skiff_plugins::csi::volume_capability::AccessType;
use skiff_plugins::csi::*;
use skiff_plugins::{Request, Response, Status, async_trait};

use super::sockets::Home;
use crate::support::{Cluster, LONG, holds, soon};

const NAME: &str = "disks.example.com";
const RACK: &str = "disks.example.com/rack";

/// What the driver was asked for, in its order.
type Log = Arc<Mutex<Vec<String>>>;

struct Driver {
    /// Where its volumes lie.
    volumes: PathBuf,
    log: Log,
}

fn run(words: &[&str]) -> Result<(), Status> {
    let done =
        Command::new(words[0]).args(&words[1..]).output().map_err(|error| Status::internal(error.to_string()))?;
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    if done.status.success() { Ok(()) } else { Err(Status::internal(said)) }
}

fn is_mounted(path: &str) -> bool {
    std::fs::read_to_string("/proc/self/mountinfo").is_ok_and(|table| table.contains(&format!(" {path} ")))
}

fn bind(from: &Path, to: &str, device: bool) -> Result<(), Status> {
    let made = if device { std::fs::write(to, b"") } else { std::fs::create_dir_all(to) };
    made.map_err(|error| Status::internal(error.to_string()))?;
    if is_mounted(to) { Ok(()) } else { run(&["mount", "--bind", &from.display().to_string(), to]) }
}

impl Driver {
    fn note(&self, line: String) {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    fn unbind(path: &str) -> Result<(), Status> {
        if is_mounted(path) { run(&["umount", path]) } else { Ok(()) }
    }
}

fn told(map: &BTreeMap<String, String>, key: &str) -> String {
    map.get(key).cloned().unwrap_or_default()
}

fn capability(kind: rpc::Type) -> NodeServiceCapability {
    NodeServiceCapability { r#type: Some(Type::Rpc(Rpc { r#type: kind.into() })) }
}

#[async_trait]
impl Node for Driver {
    async fn node_stage_volume(
        &self,
        request: Request<NodeStageVolumeRequest>,
    ) -> Result<Response<NodeStageVolumeResponse>, Status> {
        let r = request.into_inner();
        let (key, disk) = (told(&r.secrets, "key"), told(&r.publish_context, "disk"));
        self.note(format!("stage {} key={key} disk={disk}", r.volume_id));
        let volume = self.volumes.join(&r.volume_id);
        std::fs::create_dir_all(&volume).map_err(|error| Status::internal(error.to_string()))?;
        bind(&volume, &r.staging_target_path, false)?;
        Ok(Response::new(NodeStageVolumeResponse {}))
    }
    async fn node_unstage_volume(
        &self,
        request: Request<NodeUnstageVolumeRequest>,
    ) -> Result<Response<NodeUnstageVolumeResponse>, Status> {
        let r = request.into_inner();
        self.note(format!("unstage {}", r.volume_id));
        Self::unbind(&r.staging_target_path)?;
        Ok(Response::new(NodeUnstageVolumeResponse {}))
    }
    async fn node_publish_volume(
        &self,
        request: Request<NodePublishVolumeRequest>,
    ) -> Result<Response<NodePublishVolumeResponse>, Status> {
        let r = request.into_inner();
        let about = |key: &str| told(&r.volume_context, &format!("csi.storage.k8s.io/{key}"));
        let token: Value = serde_json::from_str(&about("serviceAccount.tokens")).unwrap_or_default();
        let has_token = token["store"]["token"].as_str().is_some_and(|token| token.split('.').count() == 3);
        let (pod, ephemeral) = (about("pod.name"), about("ephemeral"));
        self.note(format!("publish {} pod={pod} ephemeral={ephemeral} token={has_token}", r.volume_id));
        let device = matches!(r.volume_capability.and_then(|c| c.access_type), Some(AccessType::Block(_)));
        let own = self.volumes.join("inline");
        let from = match r.staging_target_path.as_str() {
            _ if device => Path::new("/dev/loop0"),
            "" => own.as_path(),
            staging => Path::new(staging),
        };
        bind(from, &r.target_path, device)?;
        Ok(Response::new(NodePublishVolumeResponse {}))
    }
    async fn node_unpublish_volume(
        &self,
        request: Request<NodeUnpublishVolumeRequest>,
    ) -> Result<Response<NodeUnpublishVolumeResponse>, Status> {
        let r = request.into_inner();
        self.note(format!("unpublish {}", r.volume_id));
        Self::unbind(&r.target_path)?;
        Ok(Response::new(NodeUnpublishVolumeResponse {}))
    }
    async fn node_get_volume_stats(
        &self,
        _: Request<NodeGetVolumeStatsRequest>,
    ) -> Result<Response<NodeGetVolumeStatsResponse>, Status> {
        let usage = VolumeUsage { available: 7, total: 10, used: 3, unit: volume_usage::Unit::Bytes.into() };
        Ok(Response::new(NodeGetVolumeStatsResponse { usage: vec![usage] }))
    }
    async fn node_expand_volume(
        &self,
        request: Request<NodeExpandVolumeRequest>,
    ) -> Result<Response<NodeExpandVolumeResponse>, Status> {
        let r = request.into_inner();
        let capacity_bytes = r.capacity_range.map_or(0, |range| range.required_bytes);
        self.note(format!("expand {} to {capacity_bytes} staged={}", r.volume_id, is_mounted(&r.staging_target_path)));
        if capacity_bytes > 4 << 20 {
            return Err(Status::out_of_range("there is no more"));
        }
        Ok(Response::new(NodeExpandVolumeResponse { capacity_bytes }))
    }
    async fn node_get_capabilities(
        &self,
        _: Request<NodeGetCapabilitiesRequest>,
    ) -> Result<Response<NodeGetCapabilitiesResponse>, Status> {
        let capabilities = [rpc::Type::StageUnstageVolume, rpc::Type::GetVolumeStats, rpc::Type::ExpandVolume];
        let capabilities = capabilities.map(capability).to_vec();
        Ok(Response::new(NodeGetCapabilitiesResponse { capabilities }))
    }
    async fn node_get_info(&self, _: Request<NodeGetInfoRequest>) -> Result<Response<NodeGetInfoResponse>, Status> {
        let segments = [(RACK.to_owned(), "r1".to_owned())].into();
        Ok(Response::new(NodeGetInfoResponse {
            node_id: "host-1".to_owned(),
            max_volumes_per_node: 5,
            accessible_topology: Some(Topology { segments }),
        }))
    }
}

/// A volume of the driver and the claim that is bound to it.
fn volume(cluster: &Cluster, name: &str, mode: &str) -> Result<(), String> {
    let secret = json!({"name": "disk-key", "namespace": "default"});
    cluster.apply(&json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": {
        "capacity": {"storage": "1Mi"}, "accessModes": ["ReadWriteOnce"], "volumeMode": mode, "storageClassName": "",
        "claimRef": {"namespace": "default", "name": name},
        "csi": {"driver": NAME, "volumeHandle": name, "nodeStageSecretRef": secret}}}))?;
    cluster.apply(&json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": {
        "accessModes": ["ReadWriteOnce"], "volumeMode": mode, "storageClassName": "", "volumeName": name,
        "resources": {"requests": {"storage": "1Mi"}}}}))
}

fn attachments(cluster: &Cluster) -> Vec<Value> {
    let list = cluster.get(&["volumeattachments"]).unwrap_or_default();
    list["items"].as_array().cloned().unwrap_or_default()
}

/// Does the attacher's work: says that everything is attached that is to be.
fn attach(cluster: &Cluster, count: usize) -> Result<(), String> {
    soon("attachments", || attachments(cluster).len() == count)?;
    for attachment in attachments(cluster) {
        let name = attachment["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let patch = json!({"status": {"attached": true, "attachmentMetadata": {"disk": "d1"}}}).to_string();
        cluster.kubectl(&["patch", "volumeattachment", &name, "--subresource=status", "--type=merge", "-p", &patch])?;
    }
    Ok(())
}

/// Does the resizer's work: the volume is larger now, and the rest is the node's to do.
fn grow(cluster: &Cluster, name: &str, size: &str) -> Result<(), String> {
    let capacity = json!({"spec": {"capacity": {"storage": size}}}).to_string();
    cluster.kubectl(&["patch", "pv", name, "--type=merge", "-p", &capacity])?;
    let condition = json!({"type": "FileSystemResizePending", "status": "True", "lastTransitionTime": null});
    let status = json!({"allocatedResourceStatuses": {"storage": "NodeResizePending"},
        "allocatedResources": {"storage": size}, "conditions": [condition]});
    let patch = json!({"status": status}).to_string();
    cluster.kubectl(&["patch", "pvc", name, "--subresource=status", "--type=merge", "-p", &patch])?;
    // A changed pod has its volumes looked at, which a node otherwise does once in a minute.
    cluster.kubectl(&["label", "pod", "disks", "--overwrite", &format!("size={size}")]).map(drop)
}

/// A volume grows while a pod uses it, and what cannot grow any more is told of.
fn grows(cluster: &Cluster, said: &dyn Fn(&str) -> usize) -> Result<(), String> {
    let status = || cluster.get(&["pvc", "files"]).unwrap_or_default()["status"].clone();
    let none = |value: &Value| value.as_object().is_none_or(serde_json::Map::is_empty);
    grow(cluster, "files", "2Mi")?;
    soon("it has grown", || status()["capacity"]["storage"] == "2Mi")?;
    holds("by the driver's hand", said("expand files to 2097152 staged=true") == 1)?;
    let grown = status();
    let over = none(&grown["allocatedResourceStatuses"]) && grown["conditions"].as_array().is_none_or(Vec::is_empty);
    holds(&format!("nothing is left to do: {grown}"), over)?;
    grow(cluster, "files", "8Mi")?;
    let phase = || status()["allocatedResourceStatuses"]["storage"].clone();
    soon("it cannot", || phase() == "NodeResizeInfeasible")?;
    let told = status();
    let conditions = told["conditions"].as_array().cloned().unwrap_or_default();
    let error = conditions.iter().find(|condition| condition["type"] == "NodeResizeError");
    let message = error.map(|condition| condition["message"].clone()).unwrap_or_default();
    holds(&format!("why: {told}"), message == "failed to expand pvc with there is no more")?;
    let summary = cluster.kubectl(&["get", "--raw", "/api/v1/nodes/test/proxy/stats/summary"])?;
    let summary: Value = serde_json::from_str(&summary).map_err(|error| error.to_string())?;
    let pods = summary["pods"].as_array().cloned().unwrap_or_default();
    let pod = pods.into_iter().find(|pod| pod["podRef"]["name"] == "disks").unwrap_or_default();
    let volumes = pod["volume"].as_array().cloned().unwrap_or_default();
    let data = volumes.into_iter().find(|volume| volume["name"] == "data").unwrap_or_default();
    let told = (&data["usedBytes"], &data["capacityBytes"], &data["pvcRef"]["name"]);
    holds(&format!("how full it is: {pod}"), told == (&json!(3), &json!(10), &json!("files")))
}

/// Claim, attachment, staging, publishing, a file, and all the way back, with an agent that dies in between.
pub(crate) fn drivers_volumes(cluster: &mut Cluster) -> Result<(), String> {
    let agent = cluster.server.data_dir().join("agent");
    let volumes = tempfile::tempdir().map_err(|error| error.to_string())?;
    std::fs::create_dir(volumes.path().join("inline")).map_err(|error| error.to_string())?;
    let log = Log::default();
    let said = |line: &str| log.lock().unwrap_or_else(PoisonError::into_inner).iter().filter(|l| *l == line).count();
    let mut home = Home::new()?;
    let socket = agent.join("plugins").join(NAME).join("csi.sock");
    let driver = Driver { volumes: volumes.path().to_owned(), log: log.clone() };
    home.serve(&socket, NodeServer::new(driver))?;
    home.register(&agent, "CSIPlugin", NAME, &socket)?;
    let known = |cluster: &Cluster| cluster.get(&["csinode", "test"]).map(|node| node["spec"]["drivers"].clone());
    soon("the driver is known", || known(cluster).is_ok_and(|drivers| drivers[0]["name"] == NAME))?;
    let drivers = known(cluster)?;
    let expected = json!([{"name": NAME, "nodeID": "host-1", "topologyKeys": [RACK], "allocatable": {"count": 5}}]);
    holds(&format!("what is told of it: {drivers}"), drivers == expected)?;
    let node = cluster.get(&["node", "test"])?;
    holds("where the node is", node["metadata"]["labels"][RACK] == "r1")?;

    cluster.apply(
        &json!({"apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver", "metadata": {"name": NAME}, "spec": {
        "attachRequired": true, "podInfoOnMount": true, "fsGroupPolicy": "File",
        "volumeLifecycleModes": ["Persistent", "Ephemeral"], "tokenRequests": [{"audience": "store"}]}}),
    )?;
    let key = json!({"key": "s3cret"});
    cluster
        .apply(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "disk-key"}, "stringData": key}))?;
    volume(cluster, "files", "Filesystem")?;
    volume(cluster, "device", "Block")?;
    let script = "echo kept > /data/f && echo own > /own/f && test -b /dev/disk && exec sleep 1000";
    let container = json!({"name": "c", "image": "busybox:1.35", "command": ["sh", "-c", script],
        "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "own", "mountPath": "/own"}],
        "volumeDevices": [{"name": "disk", "devicePath": "/dev/disk"}]});
    let spec = json!({"terminationGracePeriodSeconds": 0, "securityContext": {"fsGroup": 2000},
        "containers": [container], "volumes": [
            {"name": "data", "persistentVolumeClaim": {"claimName": "files"}},
            {"name": "disk", "persistentVolumeClaim": {"claimName": "device"}},
            {"name": "own", "csi": {"driver": NAME}}]});
    cluster.apply(&json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "disks"}, "spec": spec}))?;
    soon("the attacher is asked", || attachments(cluster).len() == 2)?;
    holds("nothing is staged before it is attached", said("stage files key=s3cret disk=d1") == 0)?;
    attach(cluster, 2)?;
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/disks", LONG])?;
    let lines = log.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let has = |line: &str| lines.iter().any(|known| known.starts_with(line));
    holds(&format!("what the driver heard: {lines:#?}"), {
        has("stage files key=s3cret disk=d1")
            && has("publish files pod=disks ephemeral=false token=true")
            && has("publish device pod=disks ephemeral=false token=true")
            && has("publish csi-")
            && lines.iter().any(|line| line.contains("pod=disks ephemeral=true"))
    })?;
    let file = volumes.path().join("files/f");
    // A container is ready once it runs, and writes a moment later.
    soon("what the pod wrote", || std::fs::read_to_string(&file).is_ok_and(|text| text == "kept\n"))?;
    let group = std::fs::metadata(volumes.path().join("files")).map(|m| std::os::unix::fs::MetadataExt::gid(&m));
    holds(&format!("the group of the volume: {group:?}"), group.is_ok_and(|group| group == 2000))?;
    let in_use = cluster.get(&["node", "test"])?["status"]["volumesInUse"].clone();
    holds(&format!("what the node uses: {in_use}"), in_use.as_array().is_some_and(|list| list.len() == 2))?;

    grows(cluster, &said)?;

    cluster.kubectl(&["delete", "pod", "disks", "--wait=false"])?;
    cluster.server.kill();
    cluster.server.launch()?;
    soon("all is taken down", || {
        said("unpublish files") > 0 && said("unstage files") > 0 && said("unstage device") > 0
    })?;
    soon("the pod is gone", || cluster.get(&["pod", "disks"]).is_err())?;
    soon("what was attached is detached", || attachments(cluster).is_empty())?;
    let none = |list: &Value| list.as_array().is_none_or(Vec::is_empty);
    soon("the node uses nothing", || {
        let status = cluster.get(&["node", "test"]).unwrap_or_default()["status"].clone();
        status.is_object() && none(&status["volumesInUse"]) && none(&status["volumesAttached"])
    })?;
    let (left, own) =
        (std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default(), agent.display().to_string());
    let left: Vec<&str> =
        left.lines().filter(|line| line.contains("kubernetes.io~csi") && line.contains(&own)).collect();
    holds(&format!("mounts left: {left:#?}"), left.is_empty())?;
    holds("the volume outlives its pods", file.exists())?;
    cluster.kubectl(&["delete", "pvc", "files", "device"])?;
    cluster.kubectl(&["delete", "pv", "files", "device"])?;
    cluster.kubectl(&["delete", "csidriver", NAME])?;
    drop(home);
    soon("the driver is forgotten", || known(cluster).is_ok_and(|drivers| drivers == json!([]) || drivers.is_null()))
}
