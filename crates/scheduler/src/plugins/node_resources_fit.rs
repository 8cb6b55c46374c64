//! NodeResourcesFit: what the pod asks for must be left. Which of the nodes with room is best depends on the strategy:
//! the emptier, the fuller, or a curve of the profile's own.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use skiff_api::resources;

use super::scoring::Scorer;
use crate::amounts::Amounts;
use crate::cluster::{Cluster, NodeInfo, NodeIx, PodInfo};
use crate::devices::Stock;
use crate::events::{Change, Event, Kind};
use crate::framework::{Begin, Cycle, Plugin, Reason, Verdict};

/// The plugin.
#[derive(Clone, Debug, Default)]
pub struct NodeResourcesFit {
    /// Which nodes are better.
    pub scorer: Arc<Scorer>,
    /// Extended resources that are not looked at.
    pub ignored: Arc<Ignored>,
}

/// Extended resources that somebody else looks after.
#[derive(Clone, Debug, Default)]
pub struct Ignored {
    /// By name.
    pub names: Vec<String>,
    /// By the part of the name before the slash.
    pub groups: Vec<String>,
}

impl Ignored {
    fn has(&self, name: &str) -> bool {
        is_extended(name)
            && (self.names.iter().any(|ignored| ignored == name)
                || name.split_once('/').is_some_and(|(group, _)| self.groups.iter().any(|ignored| ignored == group)))
    }
}

/// Named by somebody else than Kubernetes.
pub(crate) fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/") && !name.starts_with("requests.")
}

struct Wanted {
    pod: Arc<PodInfo>,
    plugin: NodeResourcesFit,
}

/// A resource of which too little is left.
struct Lack<'a> {
    name: &'a str,
    wanted: i64,
    used: i64,
    has: i64,
}

impl NodeResourcesFit {
    /// Extended resources that the node does not have are looked at elsewhere if devices can stand for them.
    fn lacking<'a>(
        &self,
        pod: &'a PodInfo,
        stock: &Stock,
        (has, used): (&Amounts, &Amounts),
        mut told: impl FnMut(Lack<'a>),
    ) {
        let wanted = &pod.requests;
        let mut check = |name: &'a str, wanted: i64, has: i64, used: i64| {
            if wanted > 0 && wanted > has - used {
                told(Lack { name, wanted, used, has });
            }
        };
        check("cpu", wanted.cpu, has.cpu, used.cpu);
        check("memory", wanted.memory, has.memory, used.memory);
        check("ephemeral-storage", wanted.ephemeral, has.ephemeral, used.ephemeral);
        for (name, amount) in wanted.scalars.iter().filter(|(name, _)| !self.ignored.has(name)) {
            let own = has.scalar(name);
            if own > 0 || stock.class_for(name).is_none() {
                check(name, *amount, own, used.scalar(name));
            }
        }
    }

    /// Whether the pod would fit onto the node if it were empty.
    fn fits_alone(&self, pod: &PodInfo, stock: &Stock, node: &Node) -> bool {
        let (has, pods) = allocatable(node);
        let mut fits = pods > 0;
        self.lacking(pod, stock, (&has, &Amounts::default()), |_| fits = false);
        fits
    }
}

fn allocatable(node: &Node) -> (Amounts, i64) {
    let list = resources::parse(&node.status.as_ref().and_then(|s| s.allocatable.clone()));
    (Amounts::of(&list), list.get("pods").map_or(0, |amount| amount.value()))
}

fn names(amounts: &Amounts) -> impl Iterator<Item = &str> {
    ["cpu", "memory", "ephemeral-storage"].into_iter().chain(amounts.scalars.iter().map(|(name, _)| &**name))
}

impl Plugin for NodeResourcesFit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }
    fn begin(&self, pod: &Arc<PodInfo>, _cluster: &mut Cluster) -> Begin {
        Begin::Go(Box::new(Wanted { pod: pod.clone(), plugin: self.clone() }))
    }
    fn events(&self) -> &'static [Kind] {
        &[Kind::PodGone, Kind::PodChanged, Kind::Own, Kind::NodeAdded, Kind::NodeChanged]
    }
    fn hint(&self, pod: &PodInfo, event: &Event<'_>, cluster: &Cluster) -> bool {
        let wanted = &pod.requests;
        match event {
            // Only the node that it was on has changed: there is room now, or there are pods to preempt, unless room is
            // being made elsewhere already, or here by others that have yet to go.
            Event::Pod(Change { old: Some(_), new: None }, node) => cluster.node(node).is_some_and(|node| {
                let mut fits = (node.pods.len() as i64) < node.max_pods;
                self.lacking(pod, &cluster.objects.devices, (&node.allocatable, &node.used), |_| fits = false);
                let awaits = pod.nominated_node();
                let leaves = |other: &Arc<PodInfo>| other.priority < pod.priority && other.is_terminating();
                let may_preempt = awaits.is_empty() || (awaits == node.name && !node.pods.iter().any(leaves));
                fits || (may_preempt && !node.pods.is_empty() && node.lowest_priority < pod.priority)
            }),
            // Scaled down, itself or another.
            Event::Pod(Change { old: Some(old), new: Some(new) }, _) => {
                names(wanted).any(|name| wanted.get(name) > 0 && old.requests.get(name) > new.requests.get(name))
            }
            Event::Own(Change { old: Some(old), new: Some(new) }) => old.requests != new.requests,
            Event::Node(Change { old, new: Some(new) }) => {
                let grown = |old: &Node| {
                    let ((had, pods_before), (has, pods)) = (allocatable(old), allocatable(new));
                    pods > pods_before
                        || names(wanted).any(|name| wanted.get(name) > 0 && has.get(name) > had.get(name))
                };
                self.fits_alone(pod, &cluster.objects.devices, new) && old.is_none_or(grown)
            }
            _ => false,
        }
    }
}

impl Cycle for Wanted {
    /// Unless classes of devices may have a say.
    fn is_local(&self) -> bool {
        self.pod.requests.scalars.is_empty()
    }
    fn filter(&self, cluster: &Cluster, node: &NodeInfo, reasons: &mut Vec<Reason>) -> Verdict {
        let mut verdict = Verdict::Fits;
        if node.pods.len() as i64 + 1 > node.max_pods {
            reasons.push(Reason::Text("Too many pods"));
            verdict = Verdict::Unschedulable;
        }
        self.plugin.lacking(&self.pod, &cluster.objects.devices, (&node.allocatable, &node.used), |lack| {
            reasons.push(match lack.name {
                "cpu" => Reason::Text("Insufficient cpu"),
                "memory" => Reason::Text("Insufficient memory"),
                name => Reason::Insufficient(name.into()),
            });
            if lack.wanted > lack.has {
                verdict = Verdict::Unresolvable;
            } else if verdict == Verdict::Fits {
                verdict = Verdict::Unschedulable;
            }
        });
        verdict
    }
    fn pre_score(&mut self, _cluster: &Cluster, _nodes: &[NodeIx]) -> bool {
        true
    }
    fn scores_locally(&self) -> bool {
        true
    }
    fn score(&self, _cluster: &Cluster, node: &NodeInfo) -> i64 {
        self.plugin.scorer.score(&self.pod, node)
    }
    fn explain(&self, cluster: &Cluster, node: &NodeInfo) -> Option<String> {
        let mut told = Vec::new();
        if node.pods.len() as i64 + 1 > node.max_pods {
            told.push(format!("pods: {} of {} taken", node.pods.len(), node.max_pods));
        }
        self.plugin.lacking(&self.pod, &cluster.objects.devices, (&node.allocatable, &node.used), |lack| {
            let shown = |amount: i64| super::scoring::shown(lack.name, amount);
            let (wanted, used, has) = (shown(lack.wanted), shown(lack.used), shown(lack.has));
            told.push(format!("{}: asks for {wanted}, {used} of {has} taken", lack.name));
        });
        Some(told.join("; "))
    }
}
