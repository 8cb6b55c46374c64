//! What pods were given, and the file that keeps it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use skiff_plugins::devices::ContainerAllocateResponse;

use crate::os::Files;

/// The file, in the directory of device plugins.
const FILE: &str = "devices.json";
/// Its longest size, in bytes: far more than it takes.
const LONGEST: usize = 64 << 20;

/// What a container needs to use its devices.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Needs {
    pub(crate) variables: BTreeMap<String, String>,
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) mounts: Vec<NeedsMount>,
    pub(crate) devices: Vec<NeedsDevice>,
    /// Names in the Container Device Interface.
    pub(crate) names: Vec<String>,
}

/// A mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NeedsMount {
    pub(crate) inside: String,
    pub(crate) host: String,
    pub(crate) read_only: bool,
}

/// A device file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NeedsDevice {
    pub(crate) inside: String,
    pub(crate) host: String,
    pub(crate) permissions: String,
}

impl Needs {
    fn add(&mut self, other: &Self) {
        self.variables.extend(other.variables.clone());
        self.annotations.extend(other.annotations.clone());
        self.mounts.extend(other.mounts.clone());
        self.devices.extend(other.devices.clone());
        self.names.extend(other.names.clone());
    }
}

impl From<ContainerAllocateResponse> for Needs {
    fn from(told: ContainerAllocateResponse) -> Self {
        let mount = |m: skiff_plugins::devices::Mount| NeedsMount {
            inside: m.container_path,
            host: m.host_path,
            read_only: m.read_only,
        };
        let device = |d: skiff_plugins::devices::DeviceSpec| NeedsDevice {
            inside: d.container_path,
            host: d.host_path,
            permissions: d.permissions,
        };
        Self {
            variables: told.envs,
            annotations: told.annotations,
            mounts: told.mounts.into_iter().map(mount).collect(),
            devices: told.devices.into_iter().map(device).collect(),
            names: told.cdi_devices.into_iter().map(|device| device.name).collect(),
        }
    }
}

/// Devices of one resource that a container has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Given {
    pub(super) ids: BTreeSet<String>,
    pub(super) needs: Needs,
}

type ByResource = BTreeMap<String, Given>;
type ByContainer = BTreeMap<String, ByResource>;

/// What all pods have, by UID.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pods: BTreeMap<String, ByContainer>,
    /// The resources that there were.
    pub(super) resources: BTreeSet<String>,
}

impl Record {
    /// The record in this directory; an empty one, if there is none.
    pub(super) fn load(files: &dyn Files, directory: &Path) -> Self {
        let bytes = files.tail(&directory.join(FILE), LONGEST).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    /// Keeps it there. Whoever reads it sees this record or the one before.
    ///
    /// # Errors
    /// When the system refuses.
    pub(super) fn save(&self, files: &dyn Files, directory: &Path) -> io::Result<()> {
        files.make_directory(directory, 0o750)?;
        files.replace(&directory.join(FILE), &serde_json::to_vec(self)?, 0o600)
    }

    pub(super) fn get(&self, uid: &str, container: &str, resource: &str) -> Option<&Given> {
        self.pods.get(uid)?.get(container)?.get(resource)
    }

    pub(super) fn insert(&mut self, uid: &str, container: &str, resource: &str, given: Given) {
        let containers = self.pods.entry(uid.to_owned()).or_default();
        containers.entry(container.to_owned()).or_default().insert(resource.to_owned(), given);
    }

    /// All devices of a resource that pods have.
    pub(super) fn taken<'a>(&'a self, resource: &str) -> impl Iterator<Item = &'a str> {
        let given = self.pods.values().flat_map(BTreeMap::values).filter_map(move |all| all.get(resource));
        given.flat_map(|given| &given.ids).map(String::as_str)
    }

    pub(super) fn of_container(&self, uid: &str, container: &str) -> Needs {
        let mut needs = Needs::default();
        let given = self.pods.get(uid).and_then(|containers| containers.get(container));
        given.into_iter().flat_map(BTreeMap::values).for_each(|given| needs.add(&given.needs));
        needs
    }

    /// What the containers of a pod have, by container and resource.
    pub(super) fn of_pod(&self, uid: &str) -> Option<&ByContainer> {
        self.pods.get(uid)
    }

    /// Whether it had anything.
    pub(super) fn forget(&mut self, uid: &str) -> bool {
        self.pods.remove(uid).is_some()
    }

    pub(super) fn pods(&self) -> impl Iterator<Item = &String> {
        self.pods.keys()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::RealFiles;

    #[test]
    fn what_pods_have_outlives_the_agent() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut record = Record::load(&RealFiles, dir.path());
        assert_eq!(record, Record::default());
        let needs = Needs { variables: [("A".to_owned(), "1".to_owned())].into(), ..Needs::default() };
        record.insert("u", "c", "example.com/x", Given { ids: ["d1".to_owned()].into(), needs: needs.clone() });
        record.resources.insert("example.com/x".to_owned());
        record.save(&RealFiles, dir.path()).expect("saved");
        let mut found = Record::load(&RealFiles, dir.path());
        assert_eq!(found, record);
        assert_eq!(found.taken("example.com/x").collect::<Vec<_>>(), ["d1"]);
        assert_eq!((found.of_container("u", "c"), found.of_container("u", "d")), (needs, Needs::default()));
        assert!(found.forget("u") && !found.forget("u"));
    }
}
