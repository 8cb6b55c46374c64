//! One pod's turn: what each plugin has found out about it, asked about nodes.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::cluster::{Cluster, NodeInfo, NodeIx, PodInfo};
use crate::framework::{Begin, Cycle, Reason, Verdict};
use crate::profile::{Plugins, Profile};
use crate::queue::Nominator;

/// A plugin's work on the pod.
pub struct Part {
    /// Its place in the profile.
    pub place: usize,
    /// Whether it is asked to filter.
    pub filters: bool,
    /// Whether its filter asks the index alone.
    pub by_index: bool,
    /// The work.
    pub cycle: Box<dyn Cycle>,
}

/// One pod's turn.
pub struct Attempt<'p> {
    /// Who decides.
    pub profile: &'p Profile,
    /// The pod.
    pub pod: Arc<PodInfo>,
    /// The plugins that have something to say.
    pub parts: Vec<Part>,
    /// The only nodes that come into question.
    pub only: Option<BTreeSet<String>>,
    /// The plugins that said so.
    pub narrowed_by: Plugins,
}

/// A plugin refuses the pod before any node was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its place in the profile.
    pub place: usize,
    /// Why.
    pub why: String,
    /// What is missing is about to come.
    pub waits: bool,
}

impl<'p> Attempt<'p> {
    /// Lets every plugin look at the pod.
    ///
    /// # Errors
    /// When one refuses it.
    pub fn begin(profile: &'p Profile, pod: &Arc<PodInfo>, cluster: &mut Cluster) -> Result<Self, Refused> {
        let (mut only, mut narrowed_by): (Option<BTreeSet<String>>, _) = (None, Plugins::default());
        let mut parts = Vec::with_capacity(profile.slots.len());
        for (place, slot) in profile.slots.iter().enumerate() {
            let cycle = match slot.plugin.begin(pod, cluster) {
                Begin::Skip => continue,
                Begin::Refuse(why) if slot.filter => return Err(Refused { place, why, waits: false }),
                Begin::Wait(why) if slot.filter => return Err(Refused { place, why, waits: true }),
                Begin::Refuse(_) | Begin::Wait(_) => continue,
                Begin::Go(cycle) => cycle,
                Begin::Only(names, cycle) => {
                    narrowed_by.insert(place);
                    only = Some(only.map_or(names.clone(), |known| known.intersection(&names).cloned().collect()));
                    cycle
                }
            };
            let filters = slot.filter && cycle.filters();
            parts.push(Part { place, filters, by_index: filters && cycle.by_index(), cycle });
        }
        Ok(Self { profile, pod: pod.clone(), parts, only, narrowed_by })
    }

    /// The first plugin that refuses a node, with its verdict; its reasons are added.
    pub fn check(&self, cluster: &Cluster, node: &NodeInfo, reasons: &mut Vec<Reason>) -> Option<(usize, Verdict)> {
        self.parts.iter().filter(|part| part.filters).find_map(|part| match part.cycle.filter(cluster, node, reasons) {
            Verdict::Fits => None,
            verdict => Some((part.place, verdict)),
        })
    }

    /// Whether filters that ask the index alone refuse a node. The node itself is not looked at.
    pub fn refused_by_index(&self, cluster: &Cluster, node: NodeIx) -> bool {
        let mut parts = self.parts.iter().filter(|part| part.by_index);
        parts.any(|part| part.cycle.index_refuses(cluster, node))
    }

    /// Like [`Attempt::check`], but the pod must fit also when pods that wait for room there, and are not less
    /// important, get it first.
    pub fn check_after(
        &mut self,
        cluster: &Cluster,
        node: &NodeInfo,
        nominated: &Nominator,
        reasons: &mut Vec<Reason>,
    ) -> Option<(usize, Verdict)> {
        let priority = self.pod.priority;
        let before: Vec<Arc<PodInfo>> = match nominated.is_empty() {
            true => Vec::new(),
            false => {
                nominated.on(&node.name).filter(|p| p.priority >= priority && p.uid != self.pod.uid).cloned().collect()
            }
        };
        if !before.is_empty() {
            let mut full = node.clone();
            before.iter().for_each(|pod| full.add(pod.clone()));
            before.iter().for_each(|pod| self.update(cluster, pod, node, 1));
            let refused = self.check(cluster, &full, reasons);
            before.iter().for_each(|pod| self.update(cluster, pod, node, -1));
            if refused.is_some() {
                return refused;
            }
        }
        self.check(cluster, node, reasons)
    }

    /// Counts a pod as on a node (1) or gone from it (-1); to be taken back before another node is asked about.
    pub fn update(&mut self, cluster: &Cluster, pod: &PodInfo, node: &NodeInfo, sign: i64) {
        self.parts.iter_mut().for_each(|part| part.cycle.update(cluster, pod, node, sign));
    }
}
