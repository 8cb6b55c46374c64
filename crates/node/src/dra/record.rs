//! What drivers have made ready, and the file that keeps it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::os::Files;

/// The file, in the agent's directory.
const FILE: &str = "dra.json";
/// Its longest size, in bytes: far more than it takes.
const LONGEST: usize = 64 << 20;

/// A device that is ready.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Device {
    /// The requests of the claim that it is for; none: all.
    pub(super) requests: Vec<String>,
    /// Its names in the Container Device Interface.
    pub(super) names: Vec<String>,
}

/// A claim that drivers were asked to make ready.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Prepared {
    pub(super) namespace: String,
    pub(super) name: String,
    /// By driver; `None`: it has not said so yet.
    pub(super) drivers: BTreeMap<String, Option<Vec<Device>>>,
    /// The UIDs of the pods that use it.
    users: BTreeSet<String>,
}

impl Prepared {
    /// The names of all devices for a request, or of all there are.
    pub(super) fn names(&self, request: Option<&str>) -> Vec<String> {
        // A choice among several is told as `REQUEST/CHOICE`, and asked for as REQUEST.
        let is_for = |device: &&Device| {
            let named = |told: &String| request.is_none_or(|name| told == name || told.split('/').next() == Some(name));
            device.requests.is_empty() || device.requests.iter().any(named)
        };
        let devices = self.drivers.values().flatten().flatten();
        devices.filter(is_for).flat_map(|device| device.names.clone()).collect()
    }
}

/// All claims by UID.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    claims: BTreeMap<String, Prepared>,
}

impl Record {
    /// The record in this directory; an empty one, if there is none.
    pub(super) fn load(files: &dyn Files, directory: &Path) -> Self {
        let bytes = files.tail(&directory.join(FILE), LONGEST).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    /// Keeps it there.
    ///
    /// # Errors
    /// When the system refuses.
    pub(super) fn save(&self, files: &dyn Files, directory: &Path) -> io::Result<()> {
        files.replace(&directory.join(FILE), &serde_json::to_vec(self)?, 0o600)
    }

    /// A pod may use a claim from now on; the drivers that have not made it ready yet.
    pub(super) fn uses(
        &mut self,
        namespace: &str,
        name: &str,
        uid: &str,
        drivers: &BTreeSet<String>,
        pod: &str,
    ) -> Vec<String> {
        let claim = self.claims.entry(uid.to_owned()).or_default();
        (claim.namespace, claim.name) = (namespace.to_owned(), name.to_owned());
        claim.users.insert(pod.to_owned());
        for driver in drivers {
            claim.drivers.entry(driver.clone()).or_default();
        }
        claim.drivers.iter().filter(|(_, devices)| devices.is_none()).map(|(name, _)| name.clone()).collect()
    }

    pub(super) fn prepared(&mut self, uid: &str, driver: &str, devices: Vec<Device>) {
        if let Some(claim) = self.claims.get_mut(uid) {
            claim.drivers.insert(driver.to_owned(), Some(devices));
        }
    }

    /// The claim of this name that the pod uses.
    pub(super) fn find(&self, namespace: &str, name: &str, pod: &str) -> Option<&Prepared> {
        let is = |claim: &&Prepared| claim.namespace == namespace && claim.name == name && claim.users.contains(pod);
        self.claims.values().find(is)
    }

    /// Whether the pod uses any claim.
    pub(super) fn uses_any(&self, pod: &str) -> bool {
        self.claims.values().any(|claim| claim.users.contains(pod))
    }

    /// The claims that nobody but this pod uses; they are not ready any more.
    pub(super) fn leave(&mut self, pod: &str) -> Vec<(String, Prepared)> {
        let left = self.claims.iter_mut().filter(|(_, claim)| claim.users.iter().eq([pod]));
        let unready = left.map(|(uid, claim)| {
            claim.drivers.values_mut().for_each(|devices| *devices = None);
            (uid.clone(), claim.clone())
        });
        unready.collect()
    }

    /// The UIDs of all pods that use claims.
    pub(super) fn users(&self) -> Vec<String> {
        self.claims.values().flat_map(|claim| claim.users.iter().cloned()).collect()
    }

    pub(super) fn remove(&mut self, uid: &str) {
        self.claims.remove(uid);
    }

    /// The pod uses nothing any more.
    pub(super) fn forget(&mut self, pod: &str) {
        for claim in self.claims.values_mut() {
            claim.users.remove(pod);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::RealFiles;

    #[test]
    fn a_claim_is_ready_until_its_last_pod_has_gone() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut record = Record::load(&RealFiles, dir.path());
        let drivers: BTreeSet<String> = ["d".to_owned()].into();
        assert_eq!(record.uses("n", "c", "cu", &drivers, "p1"), ["d"]);
        assert_eq!(record.uses("n", "c", "cu", &drivers, "p2"), ["d"], "still not ready");
        let device =
            |request: &str, name: &str| Device { requests: vec![request.to_owned()], names: vec![name.to_owned()] };
        record.prepared("cu", "d", vec![device("r", "v/c=1"), device("s/big", "v/c=2")]);
        assert!(record.uses("n", "c", "cu", &drivers, "p1").is_empty());
        record.save(&RealFiles, dir.path()).expect("saved");
        let mut record = Record::load(&RealFiles, dir.path());
        let names = |request| record.find("n", "c", "p1").expect("a claim").names(request);
        assert_eq!(
            (names(None).len(), names(Some("r")), names(Some("s"))),
            (2, vec!["v/c=1".into()], vec!["v/c=2".into()])
        );
        assert!(record.leave("p1").is_empty() && record.uses_any("p1"));
        record.forget("p1");
        assert!(!record.uses_any("p1"));
        assert_eq!(record.leave("p2").len(), 1);
        assert_eq!(
            record.uses("n", "c", "cu", &drivers, "p3"),
            ["d"],
            "who comes while it goes has it made ready again"
        );
        record.remove("cu");
        assert!(!record.uses_any("p2"));
    }
}
