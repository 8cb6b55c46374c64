//! ImageLocality: a node that has the pod's images starts it sooner. Images that are everywhere count more than those on
//! few nodes, so that pods do not pile up there.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::cluster::{Cluster, NodeInfo, NodeIx, PodInfo};
use crate::events::{Event, Kind};
use crate::framework::{Begin, Cycle, MAX_SCORE, Plugin};

const MIB: i64 = 1 << 20;
/// Less than this is pulled in no time.
const LEAST: i64 = 23 * MIB;
/// More than this per container does not count.
const MOST_PER_CONTAINER: i64 = 1000 * MIB;

/// The plugin.
pub struct ImageLocality;

struct Images {
    /// The pod's images, and on what share of the nodes each is.
    spread: BTreeMap<String, f64>,
    /// The pod's images, one for each use.
    uses: Vec<String>,
    containers: i64,
}

/// With its tag, as nodes report images.
fn normalized(name: &str) -> String {
    let tagged = name.rfind(':') > name.rfind('/');
    if tagged { name.to_owned() } else { format!("{name}:latest") }
}

impl Plugin for ImageLocality {
    fn name(&self) -> &'static str {
        "ImageLocality"
    }
    fn begin(&self, pod: &Arc<PodInfo>, cluster: &mut Cluster) -> Begin {
        let images = pod.containers().filter_map(|c| c.image.as_deref());
        let volumes = pod.pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        let mounted = volumes.filter_map(|volume| volume.image.as_ref()?.reference.as_deref());
        let uses: Vec<String> = images.chain(mounted).map(normalized).collect();
        let nodes = cluster.len() as f64;
        let share = |image: &String| (image.clone(), cluster.image_nodes(image) as f64 / nodes);
        let spread: BTreeMap<String, f64> = uses.iter().map(share).filter(|(_, share)| *share > 0.0).collect();
        if spread.is_empty() {
            return Begin::Skip;
        }
        Begin::Go(Box::new(Images { spread, uses, containers: pod.containers().count() as i64 }))
    }
    fn events(&self) -> &'static [Kind] {
        &[]
    }
    fn hint(&self, _pod: &PodInfo, _event: &Event<'_>, _cluster: &Cluster) -> bool {
        false
    }
}

impl Cycle for Images {
    fn filters(&self) -> bool {
        false
    }
    fn pre_score(&mut self, _cluster: &Cluster, _nodes: &[NodeIx]) -> bool {
        true
    }
    fn score(&self, _cluster: &Cluster, node: &NodeInfo) -> i64 {
        let worth = |image: &String| Some((*node.images.get(image)? as f64 * self.spread.get(image)?) as i64);
        let sum: i64 = self.uses.iter().filter_map(worth).sum();
        let most = MOST_PER_CONTAINER * self.containers;
        MAX_SCORE * (sum.clamp(LEAST, most) - LEAST) / (most - LEAST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_get_a_tag() {
        for (name, expected) in [("a", "a:latest"), ("r:5000/a", "r:5000/a:latest"), ("r:5000/a:1", "r:5000/a:1")] {
            assert_eq!(normalized(name), expected);
        }
    }
}
