//! Imports and mounts images through `ctr`, which comes with containerd: the runtime interface can do neither.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use skiff_meta::WorldRef;
use tokio::process::Command;

use crate::grpc::GrpcRuntime;
use crate::runtime::{Runtime, RuntimeError};

/// How long the runtime interface may take to hear of an image that containerd has.
const NOTICE: Duration = Duration::from_secs(10);

/// Imports archives into the containerd behind one socket, and mounts what it has.
pub(crate) struct Importer {
    pub(crate) ctr: PathBuf,
    pub(crate) socket: PathBuf,
    pub(crate) snapshotter: &'static str,
    pub(crate) world: WorldRef,
}

impl Importer {
    /// Imports `archive`; returns the names of its images once `runtime` knows them.
    pub(crate) async fn import(&self, runtime: &GrpcRuntime, archive: &Path) -> Result<Vec<String>, RuntimeError> {
        let failed = |reason: String| RuntimeError::Import { file: archive.display().to_string(), reason };
        let names = imported_names(&self.images("import", &[archive.as_os_str()]).await.map_err(failed)?);
        if names.is_empty() {
            return Err(failed("it names no image".to_owned()));
        }
        for name in &names {
            self.until_known(runtime, name).await?;
        }
        Ok(names)
    }

    /// Mounts an image's layers. containerd keeps them as long as the image stays.
    pub(crate) async fn mount(&self, reference: &str, directory: &Path) -> Result<(), RuntimeError> {
        self.images("mount", &[reference.as_ref(), directory.as_os_str()]).await.map(drop).map_err(RuntimeError::Failed)
    }

    pub(crate) async fn unmount(&self, directory: &Path) -> Result<(), RuntimeError> {
        self.images("unmount", &["--rm".as_ref(), directory.as_os_str()]).await.map(drop).map_err(RuntimeError::Failed)
    }

    /// `ctr images VERB`: what it prints, or why it failed.
    async fn images(&self, verb: &str, words: &[&OsStr]) -> Result<String, String> {
        let output = Command::new(&self.ctr)
            .args(["--address".as_ref(), self.socket.as_os_str()])
            .args(["--namespace", "k8s.io", "images", verb, "--snapshotter", self.snapshotter])
            .args(words)
            .kill_on_drop(true)
            .output()
            .await
            .map_err(|error| format!("{}: {error}", self.ctr.display()))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }

    /// containerd tells its CRI part of new images by an event and offers no way to wait for that, so we ask.
    async fn until_known(&self, runtime: &GrpcRuntime, name: &str) -> Result<(), RuntimeError> {
        let deadline = self.world.elapsed() + NOTICE;
        let mut pause = Duration::from_millis(1);
        while runtime.image_status(name).await?.is_none() {
            if self.world.elapsed() > deadline {
                return Err(RuntimeError::Timeout(format!("{name} was imported but does not appear")));
            }
            self.world.sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(100));
        }
        Ok(())
    }
}

/// The names in `ctr`'s lines `unpacking NAME (DIGEST)...done`.
fn imported_names(output: &str) -> Vec<String> {
    let name = |line: &str| Some(line.strip_prefix("unpacking ")?.split_once(" (")?.0.to_owned());
    output.lines().filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_from_the_progress_lines() {
        let output = "unpacking docker.io/library/a:1 (sha256:00)...done\nelse\nunpacking b.io/c:2 (sha256:11)...";
        assert_eq!(imported_names(output), ["docker.io/library/a:1", "b.io/c:2"]);
    }
}
