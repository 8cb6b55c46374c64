//! What lies on disk of a driver's volume, and where.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use skiff_api::volumes;

use crate::os::Files;

/// The file's name, in a pod's directory of a volume and in that of a staged volume.
const FILE: &str = "vol_data.json";
/// Its longest size, in bytes: far more than it takes.
const LONGEST: usize = 1 << 16;

/// What is written down of a volume, in upstream's form.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    #[serde(rename = "driverName")]
    pub(super) driver: String,
    #[serde(rename = "volumeHandle")]
    pub(super) handle: String,
    /// The PersistentVolume's name, or the volume's name in its pod.
    #[serde(default, rename = "specVolID")]
    pub(super) name: String,
    /// `Persistent` or `Ephemeral`.
    #[serde(default, rename = "volumeLifecycleMode")]
    pub(super) lifecycle: String,
    /// The VolumeAttachment; empty: it was not attached for us.
    #[serde(default, rename = "attachmentID")]
    pub(super) attachment: String,
}

impl Record {
    /// The record in this directory, if there is one.
    pub(super) fn load(files: &dyn Files, directory: &Path) -> Option<Self> {
        let bytes = files.tail(&directory.join(FILE), LONGEST).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Keeps it there.
    ///
    /// # Errors
    /// When the system refuses.
    pub(super) fn save(&self, files: &dyn Files, directory: &Path) -> io::Result<()> {
        files.make_directory(directory, 0o750)?;
        files.replace(&directory.join(FILE), &serde_json::to_vec(self)?, 0o600)
    }

    /// Driver and handle, which name a volume on this node.
    pub(super) fn key(&self) -> (String, String) {
        (self.driver.clone(), self.handle.clone())
    }
}

/// Where the pod's volumes of drivers lie.
pub(super) fn of_pod(pod: &Path) -> PathBuf {
    pod.join("volumes/kubernetes.io~csi")
}

/// Where a driver shows a volume, below the directory of the volume.
pub(super) fn target(directory: &Path) -> PathBuf {
    directory.join("mount")
}

/// Where the staged volume lies.
pub(super) fn staged(root: &Path, driver: &str, handle: &str) -> PathBuf {
    root.join("plugins/kubernetes.io/csi").join(driver).join(volumes::digest(&[handle]))
}

/// Where a driver stages a volume, below the directory of the staged volume.
pub(super) fn staging(directory: &Path) -> PathBuf {
    directory.join("globalmount")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::RealFiles;

    #[test]
    fn what_is_written_down_is_found_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let place = of_pod(dir.path()).join("v");
        assert_eq!(Record::load(&RealFiles, &place), None);
        let record = Record { driver: "d".to_owned(), handle: "h".to_owned(), ..Record::default() };
        record.save(&RealFiles, &place).expect("saved");
        assert_eq!(Record::load(&RealFiles, &place), Some(record));
    }
}
