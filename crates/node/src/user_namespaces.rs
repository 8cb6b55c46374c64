//! Ranges of user ids for pods in user namespaces of their own: each gets 65,536 ids of the host that no other pod has.
//!
//! A pod's range lies in the file `userns` of its directory, in upstream's form, and is free when that directory goes.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use skiff_cri::v1::{ContainerConfig, IdMapping, NamespaceMode, NamespaceOption, PodSandboxConfig, UserNamespace};

use crate::os::Files;

/// How many ids a pod gets; the first range is the host's own.
const LENGTH: u32 = 65_536;
const FILE: &str = "userns";

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mapping {
    host_id: u32,
    container_id: u32,
    length: u32,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mappings {
    uid_mappings: Vec<Mapping>,
    gid_mappings: Vec<Mapping>,
}

/// A pod's ids: the host's from `first` on are the pod's from 0 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    first: u32,
}

impl Range {
    fn options(self) -> UserNamespace {
        let ids = || vec![IdMapping { host_id: self.first, container_id: 0, length: LENGTH }];
        UserNamespace { mode: NamespaceMode::Pod.into(), uids: ids(), gids: ids() }
    }

    fn put(self, options: Option<&mut NamespaceOption>) {
        if let Some(options) = options {
            options.userns_options = Some(self.options());
        }
    }

    /// The sandbox is to have these ids.
    pub(crate) fn of_sandbox(self, config: &mut PodSandboxConfig) {
        let context = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut());
        self.put(context.and_then(|context| context.namespace_options.as_mut()));
    }

    /// The container is to have these ids, and to see files under the owners that they have on the host.
    pub(crate) fn of_container(self, config: &mut ContainerConfig) {
        let context = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut());
        self.put(context.and_then(|context| context.namespace_options.as_mut()));
        for mount in &mut config.mounts {
            let UserNamespace { uids, gids, .. } = self.options();
            (mount.uid_mappings, mount.gid_mappings) = (uids, gids);
        }
    }
}

/// The ranges of all pods, by UID.
#[derive(Default)]
pub(crate) struct Ranges {
    given: Mutex<BTreeMap<String, Range>>,
}

impl Ranges {
    /// Those that lie in the directories of pods.
    pub(crate) fn found(files: &dyn Files, pods: &Path) -> Self {
        let read = |uid: String| {
            let bytes = files.tail(&pods.join(&uid).join(FILE), 4096).ok()?;
            let mappings: Mappings = serde_json::from_slice(&bytes).ok()?;
            Some((uid, Range { first: mappings.uid_mappings.first()?.host_id }))
        };
        let given = files.list(pods).unwrap_or_default().into_iter().filter_map(read).collect();
        Self { given: Mutex::new(given) }
    }

    /// The pod's range; a free one, if it has none yet.
    ///
    /// # Errors
    /// When it cannot be kept, or none is left.
    pub(crate) fn of(&self, files: &dyn Files, uid: &str, directory: &Path) -> io::Result<Range> {
        let mut given = self.given.lock();
        if let Some(range) = given.get(uid) {
            return Ok(*range);
        }
        let free = |first: &u32| !given.values().any(|range| range.first == *first);
        let first = (1..u32::MAX / LENGTH).map(|number| number * LENGTH).find(free);
        let range = Range { first: first.ok_or_else(|| io::Error::other("no range of user ids is left"))? };
        let ids = || vec![Mapping { host_id: range.first, container_id: 0, length: LENGTH }];
        let mappings = Mappings { uid_mappings: ids(), gid_mappings: ids() };
        files.make_directory(directory, 0o750)?;
        files.replace(&directory.join(FILE), &serde_json::to_vec(&mappings)?, 0o600)?;
        given.insert(uid.to_owned(), range);
        Ok(range)
    }

    /// The pod's directory is gone.
    pub(crate) fn forget(&self, uid: &str) {
        self.given.lock().remove(uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::RealFiles;

    #[test]
    fn no_two_pods_share_ids_whoever_asks() {
        let dir = tempfile::tempdir().expect("a directory");
        let of = |ranges: &Ranges, uid: &str| ranges.of(&RealFiles, uid, &dir.path().join(uid)).expect("a range").first;
        let ranges = Ranges::default();
        assert_eq!((of(&ranges, "a"), of(&ranges, "b"), of(&ranges, "a")), (65_536, 131_072, 65_536));
        let again = Ranges::found(&RealFiles, dir.path());
        assert_eq!((of(&again, "b"), of(&again, "c")), (131_072, 196_608), "as the last agent gave them");
        again.forget("a");
        assert_eq!(of(&again, "d"), 65_536);
    }
}
