//! Why no node takes a pod, in the words that upstream uses and people search for.

use std::fmt;

use crate::cluster::NodeIx;
use crate::framework::{GiveUp, Reason};
use crate::profile::Plugins;

/// How many nodes gave which reason, sorted by reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram(Vec<(Reason, usize)>);

impl Histogram {
    /// One more node with a reason.
    pub fn add(&mut self, reason: Reason, nodes: usize) {
        match self.place(&reason) {
            Ok(place) => self.0[place].1 += nodes,
            Err(place) => self.0.insert(place, (reason, nodes)),
        }
    }

    /// One node less with a reason.
    pub fn remove(&mut self, reason: &Reason) {
        if let Ok(place) = self.place(reason) {
            self.0[place].1 -= 1;
            if self.0[place].1 == 0 {
                self.0.remove(place);
            }
        }
    }

    fn place(&self, reason: &Reason) -> Result<usize, usize> {
        self.0.binary_search_by(|(known, _)| known.cmp(reason))
    }

    /// `1 Insufficient cpu, 2 node(s) were unschedulable`.
    fn lines(&self, also: Option<(&str, usize)>) -> Vec<String> {
        let own = self.0.iter().map(|(reason, count)| format!("{count} {reason}"));
        let mut lines: Vec<String> = own.chain(also.map(|(why, count)| format!("{count} {why}"))).collect();
        lines.sort();
        lines
    }
}

/// Why no node takes a pod.
#[derive(Clone, Debug, Default)]
pub struct Diagnosis {
    /// How many nodes there are.
    pub nodes: usize,
    /// What the nodes that were looked at said.
    pub reasons: Histogram,
    /// What all others said, and how many they are.
    pub others: Option<(String, usize)>,
    /// What a plugin said before any node was looked at.
    pub refused: Option<String>,
    /// What became of the attempt to make room.
    pub post_filter: Vec<String>,
    /// The plugins that refused nodes.
    pub rejected_by: Plugins,
    /// Nodes that might take the pod if it had them for itself.
    pub resolvable: Vec<NodeIx>,
    /// What came of the attempt to make room.
    pub preempted: Option<super::Preempted>,
    /// What the pod gives up.
    pub give_up: Option<GiveUp>,
    /// Something is wrong with what the pod asks for, so that the search was ended.
    pub failed: Option<String>,
    /// The node that the pod waits for room on would not take it even so.
    pub nominated_is_hopeless: bool,
}

impl fmt::Display for Diagnosis {
    /// `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable. preemption: ...`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0/{} nodes are available:", self.nodes)?;
        match &self.refused {
            Some(why) => write!(f, " {why}.")?,
            None => {
                let others = self.others.as_ref().map(|(why, count)| (why.as_str(), *count)).filter(|(_, n)| *n > 0);
                let lines = self.reasons.lines(others);
                if !lines.is_empty() {
                    write!(f, " {}.", lines.join(", "))?;
                }
            }
        }
        if !self.post_filter.is_empty() {
            write!(f, " {}", self.post_filter.join(", "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        let mut reasons = Histogram::default();
        for (reason, nodes) in [("node(s) were unschedulable", 2), ("Insufficient cpu", 9), ("Insufficient cpu", 1)] {
            reasons.add(Reason::Text(reason), nodes);
        }
        let mut diagnosis = Diagnosis { nodes: 12, reasons, ..Diagnosis::default() };
        let lines = "0/12 nodes are available: 10 Insufficient cpu, 2 node(s) were unschedulable.";
        assert_eq!(diagnosis.to_string(), lines);
        diagnosis.post_filter = ["one", "preemption: two."].map(str::to_owned).into();
        assert_eq!(diagnosis.to_string(), format!("{lines} one, preemption: two."));
        diagnosis.refused = Some("no".to_owned());
        assert_eq!(diagnosis.to_string(), "0/12 nodes are available: no. one, preemption: two.");
    }
}
