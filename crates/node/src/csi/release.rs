//! The end of a pod's volumes of drivers.

use std::path::Path;

use skiff_plugins::csi::{NodeUnpublishVolumeRequest, NodeUnstageVolumeRequest};
use skiff_plugins::limited;

use super::record::{self, Record};
use super::{CsiError, refused};
use crate::node::Node;

/// Has drivers take down what a pod has of them, and what nobody has any more. Fine to be repeated.
///
/// # Errors
/// When a driver is not there or refuses; nothing of that volume is forgotten then.
pub(crate) async fn release(node: &Node, uid: &str) -> Result<(), CsiError> {
    let directory = record::of_pod(&node.pod_directory(uid));
    let files = &*node.config.os.files;
    let mut first = None;
    for name in files.list(&directory)? {
        let place = directory.join(&name);
        // Without a record the driver was never asked for anything.
        let Some(record) = Record::load(files, &place) else { continue };
        if let Err(error) = release_one(node, uid, &name, &record, &place).await {
            first.get_or_insert(error);
        }
    }
    first.map_or(Ok(()), Err)
}

async fn release_one(node: &Node, uid: &str, name: &str, record: &Record, place: &Path) -> Result<(), CsiError> {
    let (key, os) = (record.key(), &node.config.os);
    let driver = node.drivers.get(&record.driver)?;
    let _turn = node.drivers.turn(&key).await;
    let target = record::target(place);
    let request =
        NodeUnpublishVolumeRequest { volume_id: record.handle.clone(), target_path: target.display().to_string() };
    let done = driver.client().node_unpublish_volume(limited(request)).await;
    done.map_err(refused("NodeUnpublishVolume"))?;
    // What is still mounted holds what belongs to the volume and not to us.
    if !os.mounts.below(&target)?.is_empty() {
        return Err(CsiError::Mounted(record.name.clone()));
    }
    let directory = record::staged(&node.config.directory, &record.driver, &record.handle);
    if node.drivers.parts(&key, uid, name) && Record::load(&*os.files, &directory).is_some() {
        let staging = record::staging(&directory);
        let request = NodeUnstageVolumeRequest {
            volume_id: record.handle.clone(),
            staging_target_path: staging.display().to_string(),
        };
        driver.client().node_unstage_volume(limited(request)).await.map_err(refused("NodeUnstageVolume"))?;
        if !os.mounts.below(&staging)?.is_empty() {
            return Err(CsiError::Mounted(record.name.clone()));
        }
        os.files.remove(&directory)?;
    }
    os.files.remove(place)?;
    if node.drivers.forget(&key, uid, name) {
        node.heartbeat.notify_one();
    }
    Ok(())
}
