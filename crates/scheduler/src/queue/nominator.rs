//! Pods that wait for room on a node: less important pods must not take it from them.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::cluster::PodInfo;

/// Who waits for room where.
#[derive(Clone, Debug, Default)]
pub struct Nominator {
    nodes: BTreeMap<String, BTreeMap<String, Arc<PodInfo>>>,
    places: BTreeMap<String, String>,
    changes: u64,
}

impl Nominator {
    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Raised by every change.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// The nodes that somebody waits for.
    pub fn nodes(&self) -> impl Iterator<Item = &str> {
        self.nodes.keys().map(String::as_str)
    }

    /// Who waits for room on a node.
    pub fn on(&self, node: &str) -> impl Iterator<Item = &Arc<PodInfo>> {
        self.nodes.get(node).into_iter().flat_map(BTreeMap::values)
    }

    /// The node that a pod waits for.
    pub fn node_of(&self, uid: &str) -> Option<&str> {
        self.places.get(uid).map(String::as_str)
    }

    /// A pod waits for room on a node.
    pub fn set(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.remove(&pod.uid);
        self.changes += 1;
        self.places.insert(pod.uid.clone(), node.to_owned());
        self.nodes.entry(node.to_owned()).or_default().insert(pod.uid.clone(), pod);
    }

    /// A pod waits no more. Whether it did.
    pub fn remove(&mut self, uid: &str) -> bool {
        let Some(node) = self.places.remove(uid) else { return false };
        self.changes += 1;
        if let Some(pods) = self.nodes.get_mut(&node) {
            pods.remove(uid);
            if pods.is_empty() {
                self.nodes.remove(&node);
            }
        }
        true
    }
}
