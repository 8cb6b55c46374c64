//! Keeps containers' logs from filling the disk.
//!
//! The runtime writes for ever into one file per container; when that has grown large it is set aside under a name with
//! the time, and the runtime is told to begin a new one.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use skiff_cri::v1::{Container, ContainerFilter, ContainerState, ContainerStateValue};

use crate::make::container::log_path;
use crate::node::Node;
use crate::pod::facts::key;
use crate::pod::manager::Manager;

/// How often sizes are looked at. Watching every write would cost more than it saves.
const LOOK: Duration = Duration::from_secs(10);

/// Runs for ever.
pub(crate) async fn run(node: Arc<Node>, manager: Arc<Manager>) {
    loop {
        node.world.sleep(LOOK).await;
        if manager.count() == 0 {
            continue;
        }
        let running = ContainerStateValue { state: ContainerState::ContainerRunning.into() };
        let filter = ContainerFilter { state: Some(running), ..ContainerFilter::default() };
        for container in node.runtime.list_containers(filter).await.unwrap_or_default() {
            let Some(path) = path(&node.config.log_directory, &container) else { continue };
            if std::fs::metadata(&path).is_ok_and(|file| file.len() > node.config.settings.log_size) {
                rotate(&node, &path, &container.id).await;
            }
        }
    }
}

/// The log of a container of ours.
fn path(logs: &Path, container: &Container) -> Option<PathBuf> {
    let label = |key: &str| container.labels.get(key);
    let (namespace, name, uid) = (label(key::POD_NAMESPACE)?, label(key::POD_NAME)?, label(key::POD_UID)?);
    let restarts = container.annotations.get(key::RESTART_COUNT)?.parse().ok()?;
    let file = log_path(label(key::CONTAINER_NAME)?, restarts);
    Some(logs.join(format!("{namespace}_{name}_{uid}")).join(file))
}

async fn rotate(node: &Node, path: &Path, container: &str) {
    let stamp = node.world.now().strftime("%Y%m%d-%H%M%S").to_string();
    let aside = PathBuf::from(format!("{}.{stamp}", path.display()));
    if let Err(error) = set_aside(path, &aside, node.config.settings.log_files) {
        return tracing::warn!(log = %path.display(), "was not set aside: {error}");
    }
    if let Err(error) = node.runtime.reopen_container_log(container).await {
        tracing::warn!(log = %path.display(), "no new log was begun: {error}");
        // The runtime still writes to the old file, which goes back to its place until the next attempt.
        if let Err(error) = std::fs::rename(&aside, path) {
            tracing::warn!(log = %path.display(), "is left under its new name: {error}");
        }
    }
}

/// Makes room for one more file beside the present one, `files` in all, then renames that.
fn set_aside(path: &Path, aside: &Path, files: usize) -> io::Result<()> {
    let mut old = older(path)?;
    old.sort();
    let surplus = old.len().saturating_sub(files.saturating_sub(2));
    old.iter().take(surplus).try_for_each(std::fs::remove_file)?;
    std::fs::rename(path, aside)
}

/// The files that were set aside before.
fn older(path: &Path) -> io::Result<Vec<PathBuf>> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let prefix = format!("{}.", path.file_name().unwrap_or_default().to_string_lossy());
    let entries = std::fs::read_dir(directory)?.flatten();
    let ours = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix));
    Ok(ours.map(|entry| entry.path()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_files_are_kept_and_no_more() {
        let dir = tempfile::tempdir().expect("a directory");
        let log = dir.path().join("0.log");
        for number in 0..9 {
            std::fs::write(&log, number.to_string()).expect("written");
            set_aside(&log, &dir.path().join(format!("0.log.2026010{number}")), 5).expect("set aside");
        }
        let mut kept = older(&log).expect("listed");
        kept.sort();
        let newest = std::fs::read_to_string(kept.last().expect("a file")).expect("read");
        assert_eq!((kept.len(), newest.as_str()), (4, "8"));
    }
}
