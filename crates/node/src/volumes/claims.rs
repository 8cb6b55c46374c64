//! Volumes that somebody claimed: from a pod's claim to the disk behind it.
//!
//! The claim must be bound, and the volume one that this node has. What is provisioned on the node itself (see the
//! local-path controller) lies in a directory of the agent's and is made at its first use.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::{
    NFSVolumeSource, PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec, Pod, Volume,
};
use skiff_api::affinity::{self, NodeView};
use skiff_api::volumes;

use super::VolumeError;
use crate::csi::Source;
use crate::node::Node;
use crate::os::Share;
use crate::pod::facts;

/// The annotation that says who made a volume, and what it says where that was our own provisioner.
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// The name of our own provisioner.
const PROVISIONER: &str = "skiff.io/local-path";

/// What a volume is, where it is neither the pod's own directory nor made of the API's objects.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Found {
    Disk(Disk),
    Driven(Box<Source>),
    Share(Share),
}

/// What is behind a claim on this node itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Disk {
    pub(super) path: PathBuf,
    /// The type of a host path, checked as such; `None`: a local volume, whose directory must be there.
    pub(super) host_type: Option<String>,
    /// It is ours, to be made where it is missing.
    pub(super) provisioned: bool,
    pub(super) read_only: bool,
}

/// The disks behind a pod's claims, by volume name.
pub(super) type Disks = BTreeMap<String, Disk>;

/// Looks up what a volume of the pod claims; `None` when it claims nothing.
pub(super) async fn find(node: &Node, pod: &Pod, volume: &Volume) -> Result<Option<Found>, VolumeError> {
    if let Some(csi) = &volume.csi {
        return Ok(Some(Found::Driven(Box::new(Source::inline(pod, &volume.name, csi)))));
    }
    if let Some(nfs) = &volume.nfs {
        return Ok(Some(Found::Share(share(nfs, &[], nfs.read_only == Some(true)))));
    }
    let Some(wanted) = Wanted::of(pod, volume) else { return Ok(None) };
    let refused = |why: String| VolumeError::Claim { volume: volume.name.clone(), why };
    let claims = node.client.namespaced::<PersistentVolumeClaim>(facts::namespace(pod));
    let claim = match claims.get(&wanted.claim).await {
        Ok(claim) => claim,
        Err(error) if error.is_not_found() => {
            return Err(refused(format!("persistentvolumeclaim {:?} not found", wanted.claim)));
        }
        Err(error) => return Err(refused(error.to_string())),
    };
    let name = bound_to(&wanted, pod, &claim).map_err(refused)?;
    let found = node.client.all::<PersistentVolume>().get(name).await;
    let found = found.map_err(|error| refused(format!("persistentvolume {name:?}: {error}")))?;
    let labels = node.labels();
    let view = NodeView { name: &node.config.name, labels: &labels };
    let found = behind(&claim, &found, view, &node.config.storage_directory, wanted.read_only);
    found.map(Some).map_err(refused)
}

/// A directory of an NFS server; each option once.
fn share(nfs: &NFSVolumeSource, options: &[String], read_only: bool) -> Share {
    let host = if nfs.server.contains(':') { format!("[{}]", nfs.server) } else { nfs.server.clone() };
    let own = read_only.then(|| "ro".to_owned());
    let options: BTreeSet<String> = options.iter().cloned().chain(own).collect();
    Share { source: format!("{host}:{}", nfs.path), options: options.into_iter().collect() }
}

/// The claim that a volume names, or that is made for it.
struct Wanted {
    claim: String,
    read_only: bool,
    /// The claim must be the pod's own.
    own: bool,
}

impl Wanted {
    fn of(pod: &Pod, volume: &Volume) -> Option<Self> {
        if let Some(source) = &volume.persistent_volume_claim {
            let read_only = source.read_only == Some(true);
            return Some(Self { claim: source.claim_name.clone(), read_only, own: false });
        }
        volume.ephemeral.as_ref()?;
        Some(Self { claim: volumes::claim(pod, volume)?, read_only: false, own: true })
    }
}

/// The name of the volume that a claim is bound to.
fn bound_to<'a>(wanted: &Wanted, pod: &Pod, claim: &'a PersistentVolumeClaim) -> Result<&'a str, String> {
    let named = &wanted.claim;
    let mut owners = claim.metadata.owner_references.iter().flatten();
    if wanted.own && !owners.any(|owner| owner.uid == facts::uid(pod) && owner.controller == Some(true)) {
        let (namespace, name) = (facts::namespace(pod), facts::name(pod));
        return Err(format!("PVC {namespace}/{named} was not created for pod {namespace}/{name} (pod is not owner)"));
    }
    if claim.metadata.deletion_timestamp.is_some() {
        return Err(format!("can't start pod because PVC {named} is being deleted"));
    }
    let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
    let volume = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).filter(|name| !name.is_empty());
    volume.filter(|_| phase == Some("Bound")).ok_or_else(|| format!("PVC {named} is not bound"))
}

/// What is behind a volume, if this node has it.
fn behind(
    claim: &PersistentVolumeClaim,
    volume: &PersistentVolume,
    node: NodeView<'_>,
    storage: &Path,
    read_only: bool,
) -> Result<Found, String> {
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    let none = PersistentVolumeSpec::default();
    let spec = volume.spec.as_ref().unwrap_or(&none);
    if spec.claim_ref.as_ref().and_then(|owner| owner.uid.as_ref()) != claim.metadata.uid.as_ref() {
        return Err(format!("volume {name} is bound to another claim"));
    }
    let required = spec.node_affinity.as_ref().and_then(|affinity| affinity.required.as_ref());
    if required.is_some_and(|selector| !affinity::selects(selector, node)) {
        return Err(format!("volume {name}: no matching NodeSelectorTerms"));
    }
    if let Some(source) = Source::claimed(volume, claim, read_only) {
        return Ok(Found::Driven(Box::new(source)));
    }
    if let Some(nfs) = &spec.nfs {
        return Ok(Found::Share(share(nfs, spec.mount_options.as_deref().unwrap_or_default(), read_only)));
    }
    if let Some(host) = &spec.host_path {
        let host_type = Some(host.type_.clone().unwrap_or_default());
        return Ok(Found::Disk(Disk { path: host.path.clone().into(), host_type, provisioned: false, read_only }));
    }
    let Some(local) = &spec.local else {
        return Err(format!("volume {name} is of a kind that this node cannot provide"));
    };
    let path = PathBuf::from(&local.path);
    if spec.volume_mode.as_deref() == Some("Block") {
        let host_type = Some("BlockDevice".to_owned());
        return Ok(Found::Disk(Disk { path, host_type, provisioned: false, read_only }));
    }
    let by = volume.metadata.annotations.as_ref().and_then(|all| all.get(PROVISIONED_BY));
    let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    let provisioned = by.is_some_and(|by| by == PROVISIONER) && plain && path.parent() == Some(storage);
    Ok(Found::Disk(Disk { path, host_type: None, provisioned, read_only }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn claim(phase: &str) -> PersistentVolumeClaim {
        serde_json::from_value(json!({"metadata": {"name": "c", "uid": "cu"}, "spec": {"volumeName": "v"},
            "status": {"phase": phase}}))
        .expect("a claim")
    }

    #[test]
    fn only_a_bound_claim_of_the_right_pod_will_do() {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "pu"}})).expect("a pod");
        let volume = |source: Value| {
            let mut volume = source;
            volume["name"] = json!("data");
            Wanted::of(&pod, &serde_json::from_value(volume).expect("a volume")).expect("a claim")
        };
        let named = volume(json!({"persistentVolumeClaim": {"claimName": "c", "readOnly": true}}));
        assert_eq!((named.claim.as_str(), named.read_only), ("c", true));
        assert_eq!(bound_to(&named, &pod, &claim("Bound")), Ok("v"));
        assert!(bound_to(&named, &pod, &claim("Pending")).is_err_and(|why| why.contains("not bound")));
        let own = volume(json!({"ephemeral": {}}));
        assert_eq!(own.claim, "p-data");
        assert!(bound_to(&own, &pod, &claim("Bound")).is_err_and(|why| why.contains("not owner")));
        let mut owned = claim("Bound");
        let owner = json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "pu", "controller": true}]);
        owned.metadata.owner_references = serde_json::from_value(owner).expect("owners");
        assert_eq!(bound_to(&own, &pod, &owned), Ok("v"));
    }

    #[test]
    fn what_the_node_has() {
        let labels: BTreeMap<String, String> = [("zone".to_owned(), "a".to_owned())].into();
        let node = NodeView { name: "node-1", labels: &labels };
        let made = |by: &str, spec: Value| {
            let mut spec = spec;
            if spec["claimRef"].is_null() {
                spec["claimRef"] = json!({"uid": "cu"});
            }
            let metadata = json!({"name": "v", "annotations": {PROVISIONED_BY: by}});
            let volume = serde_json::from_value(json!({"metadata": metadata, "spec": spec})).expect("a volume");
            match behind(&claim("Bound"), &volume, node, Path::new("/s"), false)? {
                Found::Disk(disk) => Ok(disk),
                Found::Driven(source) => Err(format!("driven by {}", source.driver)),
                Found::Share(share) => Err(format!("{} {}", share.source, share.options.join(","))),
            }
        };
        let zone = |zone: &str| {
            let terms = json!([{"matchExpressions": [{"key": "zone", "operator": "In", "values": [zone]}]}]);
            json!({"local": {"path": "/s/v"}, "nodeAffinity": {"required": {"nodeSelectorTerms": terms}}})
        };
        let ours = made(PROVISIONER, zone("a")).expect("a disk");
        assert!(ours.provisioned && ours.host_type.is_none() && ours.path == Path::new("/s/v"));
        assert!(!made("somebody", zone("a")).expect("a disk").provisioned);
        let outside = json!({"local": {"path": "/s/../etc"}});
        assert!(!made(PROVISIONER, outside).expect("a disk").provisioned, "only below the storage directory");
        assert!(made(PROVISIONER, zone("b")).is_err());
        let device = made("", json!({"local": {"path": "/x"}, "volumeMode": "Block"})).expect("a device");
        assert_eq!(device.host_type.as_deref(), Some("BlockDevice"));
        let driven = made("", json!({"csi": {"driver": "d", "volumeHandle": "h"}})).expect_err("a driver's");
        assert_eq!(driven, "driven by d");
        assert!(made("", json!({"local": {"path": "/x"}, "claimRef": {"uid": "other"}})).is_err());
        assert!(made("", json!({"iscsi": {"targetPortal": "s", "iqn": "i", "lun": 0}})).is_err());
        let shared = |server: &str, options: Value| {
            made("", json!({"nfs": {"server": server, "path": "/e", "readOnly": true}, "mountOptions": options}))
        };
        assert_eq!(shared("s", Value::Null), Err("s:/e ".to_owned()), "its claim says whether it is read only");
        assert_eq!(shared("fd00::1", json!(["soft", "hard", "soft"])), Err("[fd00::1]:/e hard,soft".to_owned()));
        let host = made("", json!({"hostPath": {"path": "/x", "type": "Directory"}})).expect("a disk");
        assert_eq!(host.host_type.as_deref(), Some("Directory"));
    }
}
