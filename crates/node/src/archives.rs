//! Image archives in the node's image directory: imported at the beginning and when they appear.
//!
//! Importing reads a whole archive, so what was imported is kept on record, and an archive that has not changed since,
//! and whose images are still there, is left alone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use crate::node::Node;
use crate::os::Watched;
use crate::pod::manager::Manager;

/// The record's name in the agent's directory.
const RECORD: &str = "imported-images.json";

/// What changes when an archive is replaced.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Stamp {
    bytes: u64,
    modified: u128,
}

/// What is known of the archives, by path.
#[derive(Default, Serialize, Deserialize)]
struct Record {
    archives: BTreeMap<PathBuf, (Stamp, Vec<String>)>,
}

/// Runs for ever, if there is an image directory.
pub(crate) async fn follow(node: Arc<Node>, manager: Arc<Manager>) {
    let Some(directory) = node.config.image_directory.clone() else { return };
    let mut watched = match Watched::arrivals(&directory) {
        Ok(watched) => watched,
        Err(error) => return tracing::error!(directory = %directory.display(), "cannot be watched: {error}"),
    };
    let path = node.config.directory.join(RECORD);
    let mut record = load(&path);
    loop {
        let any = import_new(&node, &directory, &mut record).await;
        node.images.keep(record.archives.values().flat_map(|(_, names)| names));
        if any {
            save(&node, &path, &record);
            node.images.arrived();
            manager.retry_all();
        }
        if let Err(error) = watched.changed().await {
            return tracing::error!(directory = %directory.display(), "is not watched any longer: {error}");
        }
    }
}

/// A record that cannot be read only costs an import.
fn load(path: &Path) -> Record {
    std::fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

fn save(node: &Node, path: &Path, record: &Record) {
    let bytes = serde_json::to_vec(record).unwrap_or_default();
    if let Err(error) = node.config.os.files.write(path, &bytes, 0o600) {
        tracing::warn!("what images were imported is not on record: {error}");
    }
}

/// Imports what is new. Whether anything was.
async fn import_new(node: &Node, directory: &Path, record: &mut Record) -> bool {
    let mut any = false;
    for (path, stamp) in archives(directory) {
        let known = record.archives.get(&path).filter(|(known, _)| *known == stamp);
        if let Some((_, names)) = known
            && all_here(node, names).await
        {
            continue;
        }
        let names = match node.runtime.import_images(&path).await {
            Ok(names) => {
                tracing::info!(file = %path.display(), ?names, "imported");
                any = true;
                names
            }
            Err(error) => {
                tracing::warn!("{error}");
                Vec::new()
            }
        };
        record.archives.insert(path, (stamp, names));
    }
    any
}

async fn all_here(node: &Node, names: &[String]) -> bool {
    for name in names {
        if !matches!(node.runtime.image_status(name).await, Ok(Some(_))) {
            return false;
        }
    }
    true
}

/// The archives there are.
fn archives(directory: &Path) -> Vec<(PathBuf, Stamp)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_archive = path.extension().is_some_and(|extension| extension == "tar");
        let Some(metadata) = entry.metadata().ok().filter(|_| is_archive) else { continue };
        let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        found.push((path, Stamp { bytes: metadata.len(), modified: modified.map_or(0, |age| age.as_nanos()) }));
    }
    found.sort();
    found
}
