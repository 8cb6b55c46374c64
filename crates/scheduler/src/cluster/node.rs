//! A node with its running sums.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Taint};
use skiff_api::affinity::NodeView;
use skiff_api::resources;

use super::NodeIx;
use super::pod::{HostPort, PodInfo};
use super::terms::Labels;
use crate::amounts::Amounts;

static NO_LABELS: Labels = Labels::new();

/// A node with its sums.
#[derive(Clone, Debug, Default)]
pub struct NodeInfo {
    /// Its place among the nodes.
    pub ix: NodeIx,
    /// Raised by every change.
    pub version: u64,
    /// What it has for pods.
    pub allocatable: Amounts,
    /// How many pods it takes.
    pub max_pods: i64,
    /// What its pods ask for.
    pub used: Amounts,
    /// CPU and memory its pods are scored as.
    pub scored: (i64, i64),
    /// Ports its pods hold.
    pub ports: Vec<HostPort>,
    /// The lowest priority of its pods.
    pub lowest_priority: i32,
    /// Its pods.
    pub pods: Vec<Arc<PodInfo>>,
    /// It takes no new pods.
    pub cordoned: bool,
    /// Its taints.
    pub taints: Vec<Taint>,
    /// Its name.
    pub name: String,
    /// The node; `None` while only pods on it are known.
    pub node: Option<Arc<Node>>,
    /// Images it has, with their sizes.
    pub images: Arc<BTreeMap<String, i64>>,
}

impl NodeInfo {
    pub(super) fn set(&mut self, node: Arc<Node>) {
        let status = node.status.as_ref();
        let allocatable = resources::parse(&status.and_then(|s| s.allocatable.clone()));
        self.max_pods = allocatable.get("pods").map_or(0, |amount| amount.value());
        self.allocatable = Amounts::of(&allocatable);
        let images = status.iter().flat_map(|s| s.images.iter().flatten());
        let names = images
            .flat_map(|image| image.names.iter().flatten().map(|name| (name.clone(), image.size_bytes.unwrap_or(0))));
        self.images = Arc::new(names.collect());
        self.taints = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
        self.cordoned = node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false);
        self.node = Some(node);
        self.version += 1;
    }

    /// A pod is counted here.
    pub fn add(&mut self, pod: Arc<PodInfo>) {
        self.count(&pod, 1);
        self.ports.extend(pod.ports.iter().cloned());
        self.lowest_priority = if self.pods.is_empty() { pod.priority } else { self.lowest_priority.min(pod.priority) };
        self.pods.push(pod);
    }

    /// A pod is no longer counted here.
    pub fn remove(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let place = self.pods.iter().position(|pod| pod.uid == uid)?;
        let pod = self.pods.swap_remove(place);
        self.count(&pod, -1);
        for port in &pod.ports {
            if let Some(place) = self.ports.iter().position(|taken| taken == port) {
                self.ports.swap_remove(place);
            }
        }
        if pod.priority == self.lowest_priority {
            self.lowest_priority = self.pods.iter().map(|pod| pod.priority).min().unwrap_or(0);
        }
        Some(pod)
    }

    fn count(&mut self, pod: &PodInfo, sign: i64) {
        self.version += 1;
        self.used.add(&pod.requests, sign);
        self.scored.0 += sign * pod.scored.0;
        self.scored.1 += sign * pod.scored.1;
    }

    /// Whether a pod here holds a port that `pod` wants.
    pub fn ports_taken(&self, pod: &PodInfo) -> bool {
        pod.ports.iter().any(|wanted| self.ports.iter().any(|taken| wanted.collides(taken)))
    }

    /// Its labels.
    pub fn labels(&self) -> &Labels {
        self.node.as_ref().and_then(|n| n.metadata.labels.as_ref()).unwrap_or(&NO_LABELS)
    }

    /// What of it node selectors look at.
    pub fn view(&self) -> NodeView<'_> {
        NodeView { name: &self.name, labels: self.labels() }
    }
}
