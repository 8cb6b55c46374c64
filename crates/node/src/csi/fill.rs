//! How full drivers' volumes are, by their own words.

use skiff_plugins::csi::volume_usage::Unit;
use skiff_plugins::csi::{NodeGetVolumeStatsRequest, VolumeUsage};
use skiff_plugins::limited;

use super::record::{self, Record};
use crate::node::Node;
use crate::stats::Fill;

/// What the driver of a pod's volume says; `None`: no driver has to do with it.
pub(crate) async fn fill(node: &Node, uid: &str, name: &str) -> Option<Option<Fill>> {
    let directory = record::of_pod(&node.pod_directory(uid)).join(name);
    let record = Record::load(&*node.config.os.files, &directory)?;
    let Some(driver) = node.drivers.get(&record.driver).ok().filter(|driver| driver.abilities.stats) else {
        return Some(None);
    };
    let request = NodeGetVolumeStatsRequest {
        volume_id: record.handle.clone(),
        volume_path: record::target(&directory).display().to_string(),
        staging_target_path: String::new(),
    };
    match driver.client().node_get_volume_stats(limited(request)).await {
        Ok(told) => Some(Some(summed(&told.into_inner().usage))),
        Err(status) => {
            tracing::debug!(volume = record.name, "its driver does not say how full it is: {status}");
            Some(None)
        }
    }
}

fn summed(told: &[VolumeUsage]) -> Fill {
    let count = |number: i64| u64::try_from(number).unwrap_or(0);
    let mut fill = Fill::default();
    for usage in told {
        let (total, available, used) = (count(usage.total), count(usage.available), count(usage.used));
        match usage.unit() {
            Unit::Bytes => (fill.capacity, fill.available, fill.used) = (total, available, used),
            Unit::Inodes => (fill.inodes, fill.inodes_free, fill.inodes_used) = (total, available, used),
            Unit::Unknown => {}
        }
    }
    fill
}
