//! Volumes: directories on the host that containers see.
//!
//! A pod's volumes lie in `DIRECTORY/pods/UID/volumes/NAME`; those that carry secrets lie in memory, in one file system
//! for all pods. Setting up is idempotent and is also how contents are brought up to date.

mod claims;
mod content;
mod tokens;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Pod, Volume};
use parking_lot::Mutex;
use skiff_api::resources::ResourceList;
use skiff_meta::world::WorldExt;

use crate::csi::{self, CsiError};
use crate::make::fields::Addresses;
use crate::make::{ConfigError, Referenced};
use crate::node::Node;
use crate::os::{Content, Files, Mounts, Share};
use crate::pod::facts;
use claims::{Disk, Disks, Found};
pub(crate) use tokens::Tokens;

/// How long a file server may take to be mounted.
const SHARE_LIMIT: Duration = Duration::from_secs(150);

/// Why a volume cannot be set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumeError {
    #[error("MountVolume.SetUp failed for volume {volume:?} : {source}")]
    Content { volume: String, source: ConfigError },
    #[error("MountVolume.SetUp failed for volume {volume:?} : {source}")]
    Io { volume: String, source: io::Error },
    #[error("MountVolume.SetUp failed for volume {volume:?} : references non-existent config key: {key}")]
    NoKey { volume: String, key: String },
    #[error("MountVolume.SetUp failed for volume {volume:?} : failed to fetch token: {source}")]
    Token { volume: String, source: skiff_client::ClientError },
    #[error("MountVolume.SetUp failed for volume {volume:?} : {why}")]
    Claim { volume: String, why: String },
    #[error("MountVolume.SetUp failed for volume {volume:?} : {source}")]
    Driver { volume: String, source: CsiError },
    #[error("MountVolume.SetUp failed for volume {volume:?} : this node cannot provide volumes of this kind")]
    Unsupported { volume: String },
}

impl VolumeError {
    /// Whether the pod waits for others, who will tell of it.
    pub(crate) fn is_waiting(&self) -> bool {
        matches!(self, Self::Driver { source: CsiError::NotAttached(_), .. })
    }
}

/// A volume that is ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Prepared {
    /// On the host.
    pub(crate) path: PathBuf,
    /// Containers may only read it, whatever they ask for.
    pub(crate) read_only: bool,
}

/// Where claimed volumes lie that are disks of this node, by pod and name: they fill a file system of their own.
#[derive(Default)]
pub(crate) struct LocalDisks {
    known: Mutex<HashMap<(String, String), PathBuf>>,
}

impl LocalDisks {
    /// Where this one lies.
    pub(crate) fn get(&self, uid: &str, name: &str) -> Option<PathBuf> {
        self.known.lock().get(&(uid.to_owned(), name.to_owned())).cloned()
    }
    fn add(&self, uid: &str, name: &str, path: &Path) {
        self.known.lock().insert((uid.to_owned(), name.to_owned()), path.to_owned());
    }
    fn forget(&self, uid: &str) {
        self.known.lock().retain(|(of, _), _| of != uid);
    }
}

/// A pod's volumes by name.
pub(crate) type Volumes = BTreeMap<String, Prepared>;

/// What the contents of volumes are made from.
pub(crate) struct Sources<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) referenced: &'a Referenced,
    pub(crate) addresses: &'a Addresses,
    pub(crate) allocatable: &'a ResourceList,
}

/// Where a pod's volumes go.
struct Places<'a> {
    disk: PathBuf,
    memory: PathBuf,
    files: &'a dyn Files,
    mounts: &'a dyn Mounts,
}

/// Sets up all volumes of a pod, or brings them up to date.
pub(crate) fn prepare<'a>(
    node: &'a Node,
    sources: &'a Sources<'a>,
    tokens: &'a mut Tokens,
) -> BoxFuture<'a, Result<Volumes, VolumeError>> {
    Box::pin(prepare_all(node, sources, tokens))
}

async fn prepare_all(node: &Node, sources: &Sources<'_>, tokens: &mut Tokens) -> Result<Volumes, VolumeError> {
    let uid = facts::uid(sources.pod);
    let places = Places {
        disk: volumes_directory(node, uid),
        memory: node.memory_directory(uid),
        files: &*node.config.os.files,
        mounts: &*node.config.os.mounts,
    };
    let (mut volumes, mut disks) = (Volumes::new(), Disks::new());
    for volume in facts::spec(sources.pod).volumes.iter().flatten() {
        tokens.fetch(node, sources.pod, volume).await?;
        match claims::find(node, sources.pod, volume).await? {
            Some(Found::Disk(disk)) => {
                if disk.host_type.is_none() {
                    node.local_disks.add(uid, &volume.name, &disk.path);
                }
                disks.insert(volume.name.clone(), disk);
            }
            Some(Found::Driven(source)) => {
                volumes.insert(volume.name.clone(), driven(node, sources.pod, volume, &source, tokens).await?);
                continue;
            }
            Some(Found::Share(share)) => {
                volumes.insert(volume.name.clone(), shared(node, uid, &volume.name, &share).await?);
                continue;
            }
            None => {}
        }
        volumes.insert(volume.name.clone(), prepare_one(&places, sources, volume, tokens, &disks)?);
    }
    Ok(volumes)
}

/// Has a driver make a volume ready.
async fn driven(
    node: &Node,
    pod: &Pod,
    volume: &Volume,
    source: &csi::Source,
    tokens: &mut Tokens,
) -> Result<Prepared, VolumeError> {
    let (group, root_only) = ownership(pod);
    let wish = csi::Wish { pod, name: &volume.name, source, group, root_only };
    let mounted = csi::mount(node, &wish, tokens).await;
    let path = mounted.map_err(|source| VolumeError::Driver { volume: volume.name.clone(), source })?;
    Ok(Prepared { path, read_only: source.read_only })
}

/// Mounts a directory of a file server, unless it is mounted already.
async fn shared(node: &Node, uid: &str, name: &str, share: &Share) -> Result<Prepared, VolumeError> {
    let io = |source| VolumeError::Io { volume: name.to_owned(), source };
    let (files, mounts) = (&node.config.os.files, &node.config.os.mounts);
    let path = shares_directory(node, uid).join(name);
    if !mounts.below(&path).map_err(io)?.contains(&path) {
        files.make_directory(&path, 0o750).map_err(io)?;
        let mounted = node.world.timeout(SHARE_LIMIT, mounts.mount_share(share, &path)).await;
        mounted.unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into())).map_err(io)?;
    }
    Ok(Prepared { path, read_only: false })
}

/// Where directories of file servers are mounted; nothing below is ever removed with what is in it.
fn shares_directory(node: &Node, uid: &str) -> PathBuf {
    node.pod_directory(uid).join("shares")
}

/// The group that is to have a pod's volumes, and whether only those whose root is not the group's already.
fn ownership(pod: &Pod) -> (Option<u32>, bool) {
    let context = facts::spec(pod).security_context.as_ref();
    let group = context.and_then(|context| context.fs_group).and_then(|group| u32::try_from(group).ok());
    let policy = context.and_then(|context| context.fs_group_change_policy.as_deref());
    (group, policy == Some("OnRootMismatch"))
}

fn prepare_one(
    places: &Places<'_>,
    sources: &Sources<'_>,
    volume: &Volume,
    tokens: &Tokens,
    disks: &Disks,
) -> Result<Prepared, VolumeError> {
    let io = |source| VolumeError::Io { volume: volume.name.clone(), source };
    let (group, root_only) = ownership(sources.pod);
    if let Some(disk) = disks.get(&volume.name) {
        return open_disk(places.files, disk, group, root_only).map_err(io);
    }
    if let Some(host) = &volume.host_path {
        let path = PathBuf::from(&host.path);
        places.files.check_host_path(&path, host.type_.as_deref().unwrap_or_default()).map_err(io)?;
        return Ok(Prepared { path, read_only: false });
    }
    if let Some(empty) = &volume.empty_dir {
        let path = places.disk.join(&volume.name);
        let fresh = !path.exists();
        places.files.make_directory(&path, 0o777).map_err(io)?;
        if empty.medium.as_deref() == Some("Memory") {
            let limit = empty.size_limit.as_ref().and_then(|q| q.0.parse::<skiff_meta::Quantity>().ok());
            let size = limit.and_then(|limit| u64::try_from(limit.value()).ok()).filter(|size| *size > 0);
            if !places.mounts.below(&path).map_err(io)?.contains(&path) {
                places.mounts.mount_memory(&path, size).map_err(io)?;
            }
        }
        if let Some(group) = group.filter(|_| fresh) {
            places.files.give_to_group(&path, group, false).map_err(io)?;
        }
        return Ok(Prepared { path, read_only: false });
    }
    if volume.image.is_some() {
        // Its image is mounted there before the first container that wants it starts.
        let path = places.disk.join(&volume.name);
        places.files.make_directory(&path, 0o755).map_err(io)?;
        return Ok(Prepared { path, read_only: true });
    }
    let Some(files) = content::files(sources, volume, tokens)? else {
        return Err(VolumeError::Unsupported { volume: volume.name.clone() });
    };
    let secret = volume.secret.is_some() || volume.projected.is_some();
    let path = if secret { places.memory.join(&volume.name) } else { places.disk.join(&volume.name) };
    places.files.make_directory(&path, 0o755).map_err(io)?;
    places.files.publish(&path, &files, group).map_err(io)?;
    Ok(Prepared { path, read_only: true })
}

/// Makes the disk behind a claim ready. A host path is the host's business, its owners included.
fn open_disk(files: &dyn Files, disk: &Disk, group: Option<u32>, root_only: bool) -> io::Result<Prepared> {
    let ready = Prepared { path: disk.path.clone(), read_only: disk.read_only };
    if let Some(host_type) = &disk.host_type {
        files.check_host_path(&disk.path, host_type)?;
        return Ok(ready);
    }
    if disk.provisioned && files.check_host_path(&disk.path, "Directory").is_err() {
        // Whoever runs in the pod may write.
        files.make_directory(&disk.path, 0o777)?;
    }
    files.check_host_path(&disk.path, "Directory")?;
    if let Some(group) = group.filter(|_| !disk.read_only) {
        files.give_to_group(&disk.path, group, root_only)?;
    }
    Ok(ready)
}

fn volumes_directory(node: &Node, uid: &str) -> PathBuf {
    node.pod_directory(uid).join("volumes")
}

/// Where a pod's volume lies if it is neither secret nor somebody else's.
pub(crate) fn on_disk(node: &Node, uid: &str, name: &str) -> PathBuf {
    volumes_directory(node, uid).join(name)
}

/// Where the contents of a volume lie that is the pod's alone and goes with it.
pub(crate) fn own_directory(node: &Node, uid: &str, volume: &Volume) -> Option<PathBuf> {
    if volume.secret.is_some() || volume.projected.is_some() {
        return Some(node.memory_directory(uid).join(&volume.name));
    }
    let own = volume.empty_dir.is_some() || volume.config_map.is_some() || volume.downward_api.is_some();
    own.then(|| on_disk(node, uid, &volume.name))
}

/// Takes down everything a pod has on the host.
///
/// # Errors
/// When the system refuses; trying again is fine.
pub(crate) fn remove(node: &Node, uid: &str) -> io::Result<()> {
    let os = &node.config.os;
    let directory = node.pod_directory(uid);
    let shares = shares_directory(node, uid);
    for name in os.files.list(&shares)? {
        os.mounts.remove_share(&shares.join(name))?;
    }
    for mount in os.mounts.below(&directory)? {
        os.mounts.unmount(&mount)?;
    }
    os.files.remove(&node.memory_directory(uid))?;
    os.files.remove(&directory)?;
    node.ranges.forget(uid);
    node.local_disks.forget(uid);
    Ok(())
}

/// Mounts the memory that carries all pods' secrets, unless it is still mounted.
///
/// # Errors
/// When the system refuses.
pub(crate) fn mount_memory(files: &dyn Files, mounts: &dyn Mounts, root: &Path) -> io::Result<()> {
    if mounts.below(root)?.iter().any(|mount| mount == root) {
        return Ok(());
    }
    files.make_directory(root, 0o700)?;
    mounts.mount_memory(root, None)?;
    files.make_directory(root, 0o755)
}

/// One file.
fn file(bytes: Vec<u8>, mode: i32) -> Content {
    Content { bytes, mode: u32::try_from(mode).unwrap_or(0o644), owner: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::{NoMounts, RealFiles};
    use serde_json::{Value, json};

    fn prepared(dir: &Path, volume: Value, referenced: &Referenced) -> Result<Prepared, VolumeError> {
        let spec = json!({"containers": [{"name": "c"}], "volumes": [volume]});
        let metadata = json!({"name": "p", "namespace": "n", "uid": "u", "labels": {"a": "b"}});
        let pod: Pod = serde_json::from_value(json!({"metadata": metadata, "spec": spec})).expect("a pod");
        let (addresses, allocatable) = (Addresses::default(), ResourceList::new());
        let sources = Sources { pod: &pod, referenced, addresses: &addresses, allocatable: &allocatable };
        let places =
            Places { disk: dir.join("disk"), memory: dir.join("memory"), files: &RealFiles, mounts: &NoMounts };
        prepare_one(
            &places,
            &sources,
            &facts::spec(&pod).volumes.as_ref().expect("volumes")[0],
            &Tokens::default(),
            &Disks::new(),
        )
    }

    #[test]
    fn disks_of_claims() {
        let dir = tempfile::tempdir().expect("a directory");
        let disk = |name: &str, provisioned| Disk {
            path: dir.path().join(name),
            host_type: None,
            provisioned,
            read_only: true,
        };
        let opened = |disk: &Disk| open_disk(&RealFiles, disk, None, false);
        let ready = opened(&disk("a", true)).expect("made");
        assert!(ready.path.is_dir() && ready.read_only);
        assert!(opened(&disk("b", false)).is_err(), "somebody else's volume is not made");
        let file = Disk { host_type: Some("FileOrCreate".into()), ..disk("f", false) };
        assert!(opened(&file).expect("a file").path.is_file());
    }

    fn referenced() -> Referenced {
        let map = json!({"data": {"a": "1", "b": "2"}, "binaryData": {"c": "AAE="}});
        let secret = json!({"data": {"s": "aGk="}});
        Referenced {
            config_maps: [("m".to_owned(), serde_json::from_value(map).map(std::sync::Arc::new).expect("a map"))]
                .into(),
            secrets: [("s".to_owned(), serde_json::from_value(secret).map(std::sync::Arc::new).expect("a secret"))]
                .into(),
        }
    }

    #[test]
    fn volumes_of_all_kinds() {
        let dir = tempfile::tempdir().expect("a directory");
        let make = |volume: Value| prepared(dir.path(), volume, &referenced());
        let read = |volume: &Prepared, path: &str| std::fs::read(volume.path.join(path)).expect("a file");

        let map = make(json!({"name": "map", "configMap": {"name": "m"}})).expect("a volume");
        assert_eq!((read(&map, "a"), read(&map, "c"), map.read_only), (b"1".to_vec(), vec![0, 1], true));
        let items = json!({"name": "items", "configMap": {"name": "m", "items": [{"key": "b", "path": "x/y"}]}});
        assert_eq!(read(&make(items).expect("a volume"), "x/y"), b"2");
        let secret = make(json!({"name": "secret", "secret": {"secretName": "s"}})).expect("a volume");
        assert_eq!(read(&secret, "s"), b"hi");
        assert!(secret.path.starts_with(dir.path().join("memory")), "secrets stay off the disk");
        let fields = json!({"name": "down", "downwardAPI": {"items": [
            {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}});
        assert_eq!(read(&make(fields).expect("a volume"), "labels"), b"a=\"b\"");
        let projected = json!({"name": "all", "projected": {"sources": [
            {"configMap": {"name": "m", "items": [{"key": "a", "path": "a"}]}}, {"secret": {"name": "s"}}]}});
        let projected = make(projected).expect("a volume");
        assert_eq!((read(&projected, "a"), read(&projected, "s")), (b"1".to_vec(), b"hi".to_vec()));
        let image = make(json!({"name": "image", "image": {"reference": "i"}})).expect("a volume");
        assert!(image.path.is_dir() && image.read_only);
        let empty = make(json!({"name": "empty", "emptyDir": {}})).expect("a volume");
        assert!(empty.path.is_dir() && !empty.read_only);
    }

    #[test]
    fn what_is_missing_is_told() {
        let dir = tempfile::tempdir().expect("a directory");
        let fault = |volume: Value| prepared(dir.path(), volume, &referenced()).expect_err("an error").to_string();
        let start = "MountVolume.SetUp failed for volume \"v\" : ";
        assert_eq!(
            fault(json!({"name": "v", "configMap": {"name": "none"}})),
            format!("{start}configmap \"none\" not found")
        );
        assert_eq!(
            fault(json!({"name": "v", "secret": {"secretName": "s", "items": [{"key": "x", "path": "x"}]}})),
            format!("{start}references non-existent config key: x")
        );
        assert!(
            fault(json!({"name": "v", "iscsi": {"targetPortal": "s", "iqn": "i", "lun": 0}}))
                .contains("cannot provide")
        );
        prepared(dir.path(), json!({"name": "v", "configMap": {"name": "none", "optional": true}}), &referenced())
            .expect("an empty volume");
    }
}
