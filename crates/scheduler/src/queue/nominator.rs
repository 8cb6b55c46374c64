//! Pods that wait for room on a node: less important pods must not take it from them.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::cluster::PodInfo;

/// Who waits for room on a node.
#[derive(Clone, Debug, Default)]
struct Line {
    pods: BTreeMap<String, Arc<PodInfo>>,
    /// The number of the last change.
    changed: u64,
}

/// Who waits for room where.
#[derive(Clone, Debug, Default)]
pub struct Nominator {
    nodes: BTreeMap<String, Line>,
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

    /// The nodes that somebody waits for, each with the number of its last change.
    pub fn nodes(&self) -> impl Iterator<Item = (&str, u64)> {
        self.nodes.iter().map(|(name, line)| (name.as_str(), line.changed))
    }

    /// Who waits for room on a node.
    pub fn on(&self, node: &str) -> impl Iterator<Item = &Arc<PodInfo>> {
        self.nodes.get(node).into_iter().flat_map(|line| line.pods.values())
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
        let line = self.nodes.entry(node.to_owned()).or_default();
        line.changed = self.changes;
        line.pods.insert(pod.uid.clone(), pod);
    }

    /// A pod waits no more. Whether it did.
    pub fn remove(&mut self, uid: &str) -> bool {
        let Some(node) = self.places.remove(uid) else { return false };
        self.changes += 1;
        if let Some(line) = self.nodes.get_mut(&node) {
            line.changed = self.changes;
            line.pods.remove(uid);
            if line.pods.is_empty() {
                self.nodes.remove(&node);
            }
        }
        true
    }
}
