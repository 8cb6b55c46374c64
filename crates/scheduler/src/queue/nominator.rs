//! Pods that wait for room on a node: less important pods must not take it from them.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::cluster::PodInfo;
use crate::recent::Recent;

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
    /// Of which nodes.
    changes: Recent<String>,
}

impl Nominator {
    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The nodes for which others have come to wait, or wait no more.
    pub fn changes(&self) -> &Recent<String> {
        &self.changes
    }

    /// The number of the last change of those who wait for a node; 0: nobody does.
    pub fn changed(&self, node: &str) -> u64 {
        self.nodes.get(node).map_or(0, |line| line.changed)
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
        self.changes.add(node.to_owned());
        self.places.insert(pod.uid.clone(), node.to_owned());
        let line = self.nodes.entry(node.to_owned()).or_default();
        line.changed = self.changes.end();
        line.pods.insert(pod.uid.clone(), pod);
    }

    /// A pod waits no more. Whether it did.
    pub fn remove(&mut self, uid: &str) -> bool {
        let Some(node) = self.places.remove(uid) else { return false };
        let number = self.changes.end() + 1;
        if let Some(line) = self.nodes.get_mut(&node) {
            line.changed = number;
            line.pods.remove(uid);
            if line.pods.is_empty() {
                self.nodes.remove(&node);
            }
        }
        self.changes.add(node);
        true
    }
}
