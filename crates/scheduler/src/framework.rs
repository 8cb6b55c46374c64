//! What a plugin is: upstream's extension points, in a form that costs nothing per node.
//!
//! For every pod a plugin makes one [`Cycle`], which holds what it has found out about that pod; then the cycle is
//! asked about nodes. Nothing is allocated per node: reasons go into a buffer that lives on, and texts are static or
//! shared.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::resource::v1::ResourceClaim;

use crate::cluster::{Cluster, NodeInfo, NodeIx, PodInfo};
use crate::events::{Event, Kind};

/// The highest score a plugin gives a node.
pub const MAX_SCORE: i64 = 100;

/// Whether a node can take the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It can.
    Fits,
    /// It cannot; with fewer pods on it perhaps it could.
    Unschedulable,
    /// It cannot, whichever of its pods go.
    Unresolvable,
    /// Nobody can tell, about this node or any other: something is wrong with what the pod asks for.
    Failed,
}

/// Why a node cannot take a pod, in upstream's words.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// A fixed sentence.
    Text(&'static str),
    /// `Insufficient NAME`.
    Insufficient(Arc<str>),
    /// A sentence of its own.
    Said(Arc<str>),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Insufficient(name) => write!(f, "Insufficient {name}"),
            Self::Said(text) => f.write_str(text),
        }
    }
}

/// How a plugin begins with a pod.
pub enum Begin {
    /// It has nothing to say about this pod.
    Skip,
    /// It wants to see nodes.
    Go(Box<dyn Cycle>),
    /// Only these nodes come into question, and it wants to see them.
    Only(BTreeSet<String>, Box<dyn Cycle>),
    /// No node can take the pod now, whichever pods go.
    Refuse(String),
    /// Something has to happen first that is about to: upstream's PreEnqueue.
    Wait(String),
}

/// What a pod can give up so that it may find a node at its next attempt: upstream's PostFilter of claims.
#[derive(Clone, Debug)]
pub enum GiveUp {
    /// The devices of a claim that nobody else uses.
    Deallocate(Arc<ResourceClaim>),
    /// A claim that was made for it at an earlier attempt.
    Delete(Arc<ResourceClaim>),
    /// Nothing that would help.
    Nothing,
}

impl GiveUp {
    /// What is said of it.
    pub fn message(&self) -> &'static str {
        match self {
            Self::Deallocate(_) => "deallocation of ResourceClaim completed",
            Self::Delete(_) => "deletion of ResourceClaim completed",
            Self::Nothing => "still not schedulable",
        }
    }
}

/// A plugin. One exists per profile; the configuration made it.
pub trait Plugin: Send + Sync {
    /// Upstream's name.
    fn name(&self) -> &'static str;
    /// Looks at a pod before any node: upstream's PreFilter. What the index is to count is asked for here.
    fn begin(&self, pod: &Arc<PodInfo>, cluster: &mut Cluster) -> Begin;
    /// The kinds of events that can make room for a pod that this plugin refused.
    fn events(&self) -> &'static [Kind];
    /// Whether an event may make room for a pod that this plugin refused: upstream's queueing hints. `cluster` is as it
    /// is after the event.
    fn hint(&self, pod: &PodInfo, event: &Event<'_>, cluster: &Cluster) -> bool;
}

/// A plugin's work on one pod.
pub trait Cycle {
    /// Whether [`Cycle::filter`] can refuse any node.
    fn filters(&self) -> bool {
        true
    }
    /// Whether [`Cycle::filter`] asks the index alone: such a filter costs next to nothing, and goes first where only
    /// the verdict counts, as [`Cycle::index_refuses`].
    fn by_index(&self) -> bool {
        false
    }
    /// Whether the filter refuses a node, by the index alone: the node itself is not looked at, and in a large cluster need
    /// not come into the processor's cache.
    fn index_refuses(&self, _cluster: &Cluster, _node: NodeIx) -> bool {
        false
    }
    /// Whether [`Cycle::filter`] looks at the node and its pods alone, and says to pods with equal requests, ports,
    /// tolerations and node affinity the same.
    fn is_local(&self) -> bool {
        false
    }
    /// Whether the node can take the pod; reasons are added where not.
    fn filter(&self, _cluster: &Cluster, _node: &NodeInfo, _reasons: &mut Vec<Reason>) -> Verdict {
        Verdict::Fits
    }
    /// Counts `pod` as on `node` (1), or as gone from it (-1), until told otherwise: only `node` is then asked about.
    fn update(&mut self, _cluster: &Cluster, _pod: &PodInfo, _node: &NodeInfo, _sign: i64) {}
    /// Looks at the nodes that can take the pod: upstream's PreScore. `false`: it has no preference.
    fn pre_score(&mut self, _cluster: &Cluster, _nodes: &[NodeIx]) -> bool {
        false
    }
    /// How well the node suits the pod, in the plugin's own measure.
    fn score(&self, _cluster: &Cluster, _node: &NodeInfo) -> i64 {
        0
    }
    /// Whether [`Cycle::score`] looks at the node and its pods alone, and gives pods with equal requests and tolerations the
    /// same.
    fn scores_locally(&self) -> bool {
        false
    }
    /// Brings scores to 0 to [`MAX_SCORE`].
    fn normalize(&self, _scores: &mut [i64]) {}
    /// What to give up, asked when no node takes the pod; `None`: there is nothing that one could.
    fn give_up(&self) -> Option<GiveUp> {
        None
    }
    /// The numbers behind a refusal, for people who ask why.
    fn explain(&self, _cluster: &Cluster, _node: &NodeInfo) -> Option<String> {
        None
    }
}

/// In proportion to the highest; `reverse`: the highest is worst.
pub fn normalize_by_highest(scores: &mut [i64], reverse: bool) {
    let highest = scores.iter().copied().max().unwrap_or(0);
    for score in scores {
        let share = if highest == 0 { 0 } else { MAX_SCORE * *score / highest };
        *score = match reverse {
            true => MAX_SCORE - share,
            false => share,
        };
    }
}
