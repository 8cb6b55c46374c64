//! The drivers that have made themselves known, and which pods use which of their volumes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use skiff_api::volumes;
use skiff_meta::Quantity;
use skiff_plugins::csi::node_client::NodeClient;
use skiff_plugins::csi::node_service_capability::Type;
use skiff_plugins::csi::node_service_capability::rpc;
use skiff_plugins::csi::{NodeGetCapabilitiesRequest, NodeGetInfoRequest, NodeGetInfoResponse, NodeServiceCapability};
use skiff_plugins::{Channel, connect, limited};

use super::record::{self, Record};
use super::{CsiError, refused};
use crate::os::Files;

/// What a driver can do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Abilities {
    pub(super) stage: bool,
    pub(super) group: bool,
    /// It knows the access modes of one node.
    pub(super) single_node: bool,
    /// It lets volumes grow.
    pub(super) expand: bool,
    /// It tells how full they are.
    pub(super) stats: bool,
}

impl Abilities {
    fn of(told: &[NodeServiceCapability]) -> Self {
        let has = |wanted: rpc::Type| {
            let mut calls = told.iter().filter_map(|one| one.r#type.as_ref()).map(|Type::Rpc(call)| call.r#type());
            calls.any(|call| call == wanted)
        };
        Self {
            stage: has(rpc::Type::StageUnstageVolume),
            group: has(rpc::Type::VolumeMountGroup),
            single_node: has(rpc::Type::SingleNodeMultiWriter),
            expand: has(rpc::Type::ExpandVolume),
            stats: has(rpc::Type::GetVolumeStats),
        }
    }
}

/// A driver that serves.
pub(crate) struct Driver {
    pub(crate) name: String,
    pub(crate) info: NodeGetInfoResponse,
    pub(super) abilities: Abilities,
    client: NodeClient<Channel>,
    /// The socket that it registered with, which it takes along when it goes.
    registered_by: PathBuf,
}

impl Driver {
    /// Asks the driver that serves on `endpoint` who it is here.
    pub(crate) async fn meet(name: &str, endpoint: &Path, registered_by: &Path) -> Result<Self, CsiError> {
        let mut client = NodeClient::new(connect(endpoint));
        let info = client.node_get_info(limited(NodeGetInfoRequest {})).await.map_err(refused("NodeGetInfo"))?;
        let told = client.node_get_capabilities(limited(NodeGetCapabilitiesRequest {})).await;
        let told = told.map_err(refused("NodeGetCapabilities"))?.into_inner();
        Ok(Self {
            name: name.to_owned(),
            info: info.into_inner(),
            abilities: Abilities::of(&told.capabilities),
            client,
            registered_by: registered_by.to_owned(),
        })
    }

    pub(super) fn client(&self) -> NodeClient<Channel> {
        self.client.clone()
    }
}

/// A volume by driver and handle.
type Key = (String, String);
/// A pod's volume by the pod's UID and the volume's name there.
type Use = (String, String);

#[derive(Default)]
struct Volume {
    /// Who has it, or may have.
    users: BTreeSet<Use>,
    /// Those whom the driver has shown it since the agent began.
    published: BTreeSet<Use>,
    /// The driver has staged it since then.
    staged: bool,
    /// It was attached by the control plane, which wants to know for how long it is used.
    attached: bool,
    /// How large it was when this agent last had to do with that.
    size: Option<Quantity>,
    /// One step with it at a time.
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// All drivers and their volumes.
#[derive(Default)]
pub(crate) struct Drivers {
    known: Mutex<BTreeMap<String, Arc<Driver>>>,
    /// Held by whoever tells the cluster of them.
    pub(super) telling: tokio::sync::Mutex<()>,
    volumes: Mutex<BTreeMap<Key, Volume>>,
}

impl Drivers {
    /// The volumes that pods had when the last agent ended.
    pub(crate) fn found(files: &dyn Files, pods: &Path) -> Self {
        let drivers = Self::default();
        for uid in files.list(pods).unwrap_or_default() {
            let directory = record::of_pod(&pods.join(&uid));
            for name in files.list(&directory).unwrap_or_default() {
                if let Some(record) = Record::load(files, &directory.join(&name)) {
                    drivers.uses(&record, &uid, &name);
                }
            }
        }
        drivers
    }

    pub(crate) fn add(&self, driver: Driver) {
        self.known.lock().insert(driver.name.clone(), Arc::new(driver));
    }

    /// The driver that registered with this socket is gone; its name.
    pub(crate) fn lost(&self, socket: &Path) -> Option<String> {
        let mut known = self.known.lock();
        let name = known.values().find(|driver| driver.registered_by == socket)?.name.clone();
        known.remove(&name);
        Some(name)
    }

    pub(super) fn get(&self, name: &str) -> Result<Arc<Driver>, CsiError> {
        self.known.lock().get(name).cloned().ok_or_else(|| CsiError::NoDriver(name.to_owned()))
    }

    /// All of them.
    pub(super) fn all(&self) -> Vec<Arc<Driver>> {
        self.known.lock().values().cloned().collect()
    }

    /// The attached volumes that pods use, or are about to, by the names that the control plane has for them.
    pub(crate) fn in_use(&self) -> Vec<String> {
        let volumes = self.volumes.lock();
        let used = volumes.iter().filter(|(_, volume)| volume.attached && !volume.users.is_empty());
        used.map(|((driver, handle), _)| volumes::unique_name(driver, handle)).collect()
    }

    /// A pod may have a volume from now on. Whether that is news to the control plane.
    pub(super) fn uses(&self, record: &Record, uid: &str, name: &str) -> bool {
        let mut volumes = self.volumes.lock();
        let volume = volumes.entry(record.key()).or_default();
        let before = volume.attached && !volume.users.is_empty();
        volume.attached |= !record.attachment.is_empty();
        volume.users.insert((uid.to_owned(), name.to_owned()));
        volume.attached && !before
    }

    /// Waits for the right to take a step with a volume.
    pub(super) async fn turn(&self, key: &Key) -> tokio::sync::OwnedMutexGuard<()> {
        loop {
            let turn = self.volumes.lock().entry(key.clone()).or_default().turn.clone();
            let held = turn.clone().lock_owned().await;
            // Whoever held it may have forgotten the volume, and somebody else begun with it anew.
            if self.volumes.lock().get(key).is_some_and(|volume| Arc::ptr_eq(&volume.turn, &turn)) {
                return held;
            }
        }
    }

    pub(super) fn is_staged(&self, key: &Key) -> bool {
        self.volumes.lock().get(key).is_some_and(|volume| volume.staged)
    }

    pub(super) fn staged(&self, key: &Key) {
        self.volumes.lock().entry(key.clone()).or_default().staged = true;
    }

    pub(super) fn is_published(&self, key: &Key, uid: &str, name: &str) -> bool {
        let user = (uid.to_owned(), name.to_owned());
        self.volumes.lock().get(key).is_some_and(|volume| volume.published.contains(&user))
    }

    pub(super) fn published(&self, key: &Key, uid: &str, name: &str) {
        let user = (uid.to_owned(), name.to_owned());
        self.volumes.lock().entry(key.clone()).or_default().published.insert(user);
    }

    /// How large a volume was when this agent last had to do with that; `told`, where that is now.
    pub(super) fn size(&self, key: &Key, told: Option<Quantity>) -> Option<Quantity> {
        let mut volumes = self.volumes.lock();
        let volume = volumes.entry(key.clone()).or_default();
        volume.size = volume.size.or(told);
        volume.size
    }

    /// A volume is this large by now.
    pub(super) fn grew(&self, key: &Key, size: Quantity) {
        self.volumes.lock().entry(key.clone()).or_default().size = Some(size);
    }

    /// The pod does not have the volume any more. Whether nobody has.
    pub(super) fn parts(&self, key: &Key, uid: &str, name: &str) -> bool {
        let mut volumes = self.volumes.lock();
        let Some(volume) = volumes.get_mut(key) else { return true };
        let user = (uid.to_owned(), name.to_owned());
        volume.published.remove(&user);
        let last = volume.users.iter().all(|other| *other == user);
        // Whatever comes of it now, the driver has to stage it for the next pod.
        volume.staged &= !last;
        last
    }

    /// Nothing of the pod's use of the volume is left. Whether that is news to the control plane.
    pub(super) fn forget(&self, key: &Key, uid: &str, name: &str) -> bool {
        let mut volumes = self.volumes.lock();
        let Some(volume) = volumes.get_mut(key) else { return false };
        volume.users.remove(&(uid.to_owned(), name.to_owned()));
        let told = volume.attached;
        let last = volume.users.is_empty();
        if last {
            volumes.remove(key);
        }
        last && told
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::os::RealFiles;

    #[test]
    fn a_volume_is_used_until_the_last_pod_has_parted_with_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let record = Record { driver: "d".into(), handle: "h".into(), attachment: "a".into(), ..Record::default() };
        record.save(&RealFiles, &record::of_pod(&dir.path().join("u1")).join("v")).expect("saved");
        let drivers = Drivers::found(&RealFiles, dir.path());
        assert_eq!(drivers.in_use(), ["kubernetes.io/csi/d^h"], "as the last agent left it");
        assert!(!drivers.uses(&record, "u2", "w"), "the control plane knows already");
        assert!(!drivers.parts(&record.key(), "u1", "v") && !drivers.forget(&record.key(), "u1", "v"));
        assert!(drivers.parts(&record.key(), "u2", "w") && drivers.forget(&record.key(), "u2", "w"));
        assert!(drivers.in_use().is_empty());
        assert!(drivers.uses(&record, "u3", "x"), "news again");
    }

    #[test]
    fn a_volume_that_was_forgotten_is_still_one_step_at_a_time() {
        let (drivers, key) = (Drivers::default(), ("d".to_owned(), "h".to_owned()));
        let first = drivers.turn(&key).now_or_never().expect("a free turn");
        let mut second = std::pin::pin!(drivers.turn(&key));
        assert!(second.as_mut().now_or_never().is_none());
        drivers.forget(&key, "u", "v");
        let third = drivers.turn(&key).now_or_never().expect("a free turn");
        drop(first);
        assert!(second.as_mut().now_or_never().is_none(), "two steps at once");
        drop(third);
        assert!(second.now_or_never().is_some());
    }
}
