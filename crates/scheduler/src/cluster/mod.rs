//! The scheduler's view of the cluster: per node the running sums that filters and scores need, per term and domain the
//! counts of pods. All of it is kept as pods and nodes come and go, and never computed anew: a decision reads it as it
//! is, since one task both takes in what happens and decides.

mod counter;
pub mod index;
mod node;
pub mod objects;
mod pod;
pub mod terms;
pub mod topology;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use foldhash::fast::FixedState;
use k8s_openapi::api::core::v1::Node;

use crate::recent::Recent;

pub use counter::{Counter, Holder, Wish};
pub use index::Index;
pub use node::NodeInfo;
pub use objects::Objects;
pub use pod::{HostPort, PodInfo};

/// Something of pods, by their UIDs. What the API server makes up needs no hash that nobody can guess, and one that is the
/// same in every process keeps simulations repeatable.
pub type ByUid<V> = HashMap<String, V, FixedState>;

/// A node's place among the nodes.
pub type NodeIx = usize;

/// The labels that say where a node stands, for the order in which nodes are tried.
const REGION: &str = "topology.kubernetes.io/region";
const ZONE: &str = "topology.kubernetes.io/zone";

/// All nodes with their pods, and everything else that decisions look at.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    /// Inter-pod affinity and topology spread.
    pub index: Index,
    /// Services, volumes, budgets.
    pub objects: Objects,
    nodes: Vec<NodeInfo>,
    free: Vec<NodeIx>,
    by_name: BTreeMap<String, NodeIx>,
    places: ByUid<NodeIx>,
    order: Vec<NodeIx>,
    order_is_old: bool,
    /// On how many nodes each image is.
    images: BTreeMap<String, usize>,
    /// Raised by every change of a node that is not a pod coming or going.
    epoch: u64,
    /// Nodes that have changed, be it by a pod that came or went.
    changes: Recent<NodeIx>,
}

impl Cluster {
    /// The nodes that exist, zone by turns as upstream tries them; see [`Cluster::sort`].
    pub fn order(&self) -> &[NodeIx] {
        &self.order
    }

    /// Brings the order up to date after nodes came or went.
    pub fn sort(&mut self) {
        if !std::mem::take(&mut self.order_is_old) {
            return;
        }
        let mut zones: BTreeMap<(&str, &str), Vec<NodeIx>> = BTreeMap::new();
        for &ix in self.by_name.values().filter(|ix| self.nodes[**ix].node.is_some()) {
            let labels = self.nodes[ix].labels();
            let label = |key: &str| labels.get(key).map(String::as_str).unwrap_or_default();
            zones.entry((label(REGION), label(ZONE))).or_default().push(ix);
        }
        let longest = zones.values().map(Vec::len).max().unwrap_or(0);
        self.order =
            (0..longest).flat_map(|turn| zones.values().filter_map(move |zone| zone.get(turn).copied())).collect();
    }

    /// Number of nodes that exist.
    pub fn len(&self) -> usize {
        self.order.len()
    }
    /// Whether there is no node.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
    /// A node by its place.
    pub fn at(&self, ix: NodeIx) -> &NodeInfo {
        &self.nodes[ix]
    }
    /// A node that exists, by its name.
    pub fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.by_name.get(name).map(|ix| &self.nodes[*ix]).filter(|info| info.node.is_some())
    }
    /// The names of all nodes that exist.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.iter().filter(|(_, ix)| self.nodes[**ix].node.is_some()).map(|(name, _)| name.as_str())
    }
    /// On how many nodes an image is.
    pub fn image_nodes(&self, image: &str) -> usize {
        self.images.get(image).copied().unwrap_or(0)
    }
    /// Raised by every change of a node that is not a pod coming or going.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }
    /// Nodes that have changed, be it by a pod that came or went.
    pub fn changes(&self) -> &Recent<NodeIx> {
        &self.changes
    }

    fn slot(&mut self, name: &str) -> NodeIx {
        if let Some(&known) = self.by_name.get(name) {
            return known;
        }
        let ix = self.free.pop().unwrap_or_else(|| {
            self.nodes.push(NodeInfo::default());
            self.nodes.len() - 1
        });
        let version = self.nodes[ix].version + 1;
        self.nodes[ix] = NodeInfo { ix, version, name: name.to_owned(), ..NodeInfo::default() };
        self.by_name.insert(name.to_owned(), ix);
        ix
    }

    /// A node is there or has changed.
    pub fn set_node(&mut self, node: Arc<Node>) {
        let ix = self.slot(node.metadata.name.as_deref().unwrap_or_default());
        let old = self.nodes[ix].node.clone();
        let labels = |node: &Node| node.metadata.labels.clone();
        let taints = |node: &Node| node.spec.as_ref().and_then(|spec| spec.taints.clone());
        if old.as_ref().is_none_or(|old| labels(old) != labels(&node) || taints(old) != taints(&node)) {
            self.index.set_node(&self.nodes[ix], Some(&node));
            self.order_is_old = true;
        }
        self.count_images(ix, false);
        self.nodes[ix].set(node);
        self.changes.add(ix);
        self.count_images(ix, true);
        self.epoch += 1;
    }

    /// A node has changed in nothing that counts, but perhaps in its images.
    pub fn refresh_node(&mut self, node: Arc<Node>) {
        let Some(&ix) = self.by_name.get(node.metadata.name.as_deref().unwrap_or_default()) else { return };
        let images = |node: &Node| node.status.as_ref().and_then(|status| status.images.clone());
        match self.nodes[ix].node.as_ref().is_some_and(|old| images(old) == images(&node)) {
            true => self.nodes[ix].node = Some(node),
            false => self.set_node(node),
        }
    }

    /// A node is gone; pods on it stay counted, should it come back, until they go too.
    pub fn remove_node(&mut self, name: &str) {
        let Some(&ix) = self.by_name.get(name).filter(|ix| self.nodes[**ix].node.is_some()) else { return };
        self.count_images(ix, false);
        self.index.set_node(&self.nodes[ix], None);
        let info = &mut self.nodes[ix];
        (info.node, info.images) = (None, Arc::default());
        info.version += 1;
        (self.order_is_old, self.epoch) = (true, self.epoch + 1);
        self.changes.add(ix);
        self.free_if_unused(ix);
    }

    fn count_images(&mut self, ix: NodeIx, here: bool) {
        for name in self.nodes[ix].images.clone().keys() {
            if here {
                *self.images.entry(name.clone()).or_default() += 1;
            } else if let Some(count) = self.images.get_mut(name) {
                *count -= 1;
                if *count == 0 {
                    self.images.remove(name);
                }
            }
        }
    }

    fn free_if_unused(&mut self, ix: NodeIx) {
        let info = &self.nodes[ix];
        if info.node.is_none() && info.pods.is_empty() {
            self.by_name.remove(&info.name);
            self.free.push(ix);
        }
    }

    /// A pod is (assumed to be) on a node; replaces what was known of it.
    pub fn set_pod(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.remove_pod(&pod.uid);
        let ix = self.slot(node);
        let known = self.nodes[ix].node.is_some();
        self.index.place(&pod, ix, known, &self.nodes);
        self.objects.count_claims(&pod, 1);
        self.places.insert(pod.uid.clone(), ix);
        self.nodes[ix].add(pod);
        self.changes.add(ix);
    }

    /// A pod is gone, or finished: it takes no room any more. The pod, if it had taken any.
    pub fn remove_pod(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let ix = self.places.remove(uid)?;
        self.index.remove(uid, self.nodes[ix].node.is_some());
        let pod = self.nodes[ix].remove(uid);
        self.changes.add(ix);
        if let Some(pod) = &pod {
            self.objects.count_claims(pod, -1);
        }
        self.free_if_unused(ix);
        pod
    }

    /// Where a pod is counted.
    pub fn place(&self, uid: &str) -> Option<&str> {
        self.places.get(uid).map(|ix| self.nodes[*ix].name.as_str())
    }

    /// A pod that is counted somewhere.
    pub fn pod(&self, uid: &str) -> Option<&Arc<PodInfo>> {
        self.nodes[*self.places.get(uid)?].pods.iter().find(|pod| pod.uid == uid)
    }

    /// All pods that are counted somewhere.
    pub fn pods(&self) -> impl Iterator<Item = &Arc<PodInfo>> {
        self.by_name.values().flat_map(|ix| &self.nodes[*ix].pods)
    }

    /// A pod has changed in nothing that counts.
    pub fn refresh_pod(&mut self, pod: Arc<PodInfo>) {
        let Some(ix) = self.places.get(&pod.uid) else { return };
        let node = &mut self.nodes[*ix];
        if let Some(known) = node.pods.iter_mut().find(|known| known.uid == pod.uid) {
            let started = |pod: &PodInfo| pod.pod.status.as_ref().and_then(|status| status.start_time.clone());
            // Which pods have to go for others depends on how long they have run.
            if started(known) != started(&pod) {
                node.version += 1;
                self.changes.add(*ix);
            }
            *known = pod;
        }
    }

    /// A namespace's labels, or that it is gone.
    pub fn set_namespace(&mut self, name: &str, labels: Option<terms::Labels>) {
        self.index.set_namespace(name, labels, &self.nodes);
    }

    /// All places of nodes, for the index.
    pub(crate) fn split(&mut self) -> (&mut Index, &Objects, &[NodeInfo]) {
        (&mut self.index, &self.objects, &self.nodes)
    }
}
