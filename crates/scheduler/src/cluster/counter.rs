//! Counts of pods per domain, kept as pods come and go.

use std::sync::Arc;

use super::NodeIx;
use super::terms::{Matcher, PodTerm};
use super::topology::{KeyIx, NONE, Topology};

/// How many of the placed pods that a [`Matcher`] matches are in each domain.
#[derive(Clone, Debug)]
pub struct Counter {
    /// Which pods count.
    pub matcher: Matcher,
    /// The label whose values are the domains.
    pub key: KeyIx,
    /// Only pods on these nodes count, and only these nodes make domains.
    pub set: Option<usize>,
    /// Pods in all domains together.
    pub total: i64,
    /// How many domains there are.
    pub domains: usize,
    counts: Vec<i64>,
    /// How many nodes make each domain.
    nodes: Vec<u32>,
    /// How many domains hold how many pods; the lowest is asked for with every pod that spreads.
    histogram: Vec<u32>,
    lowest: usize,
}

impl Counter {
    pub(super) fn new(matcher: Matcher, key: KeyIx, set: Option<usize>) -> Self {
        let (counts, nodes, histogram) = (Vec::new(), Vec::new(), Vec::new());
        Self { matcher, key, set, total: 0, domains: 0, counts, nodes, histogram, lowest: 0 }
    }

    /// Pods in a domain.
    pub fn count(&self, value: u32) -> i64 {
        self.counts.get(value as usize).copied().unwrap_or(0)
    }

    /// Pods in the domain of a node; 0 where it is in none.
    pub fn at(&self, topology: &Topology, node: NodeIx) -> i64 {
        self.count(topology.value(self.key, node))
    }

    /// Pods in the emptiest domain, when the one called `value` held `more` than it does; `None` without domains.
    pub fn lowest(&self, value: u32, more: i64) -> Option<i64> {
        if self.domains == 0 {
            return None;
        }
        if more == 0 || self.nodes.get(value as usize).is_none_or(|n| *n == 0) {
            return Some(self.lowest as i64);
        }
        let own = self.count(value);
        let alone = |held: usize| held as i64 == own && self.histogram[held] == 1;
        let others = (self.lowest..self.histogram.len()).find(|&held| self.histogram[held] > 0 && !alone(held));
        Some(others.map_or(own + more, |held| (own + more).min(held as i64)))
    }

    fn room(&mut self, value: u32) {
        if self.counts.len() <= value as usize {
            self.counts.resize(value as usize + 1, 0);
            self.nodes.resize(value as usize + 1, 0);
        }
    }

    /// A pod that matches is there (1), or no longer (-1).
    pub(super) fn add(&mut self, value: u32, sign: i64) {
        if value == NONE {
            return;
        }
        self.room(value);
        self.total += sign;
        let held = self.counts[value as usize];
        self.counts[value as usize] += sign;
        if self.nodes[value as usize] > 0 {
            self.unlist(held);
            self.list(held + sign);
        }
    }

    /// A node makes the domain (1), or no longer (-1); its pods are counted afterwards, or were uncounted before.
    pub(super) fn node(&mut self, value: u32, sign: i64) {
        if value == NONE {
            return;
        }
        self.room(value);
        let (held, nodes) = (self.counts[value as usize], &mut self.nodes[value as usize]);
        if sign > 0 {
            *nodes += 1;
            if *nodes == 1 {
                self.domains += 1;
                self.list(held);
            }
        } else {
            *nodes -= 1;
            if *nodes == 0 {
                self.domains -= 1;
                self.unlist(held);
            }
        }
    }

    fn list(&mut self, held: i64) {
        let held = held.max(0) as usize;
        if self.histogram.len() <= held {
            self.histogram.resize(held + 1, 0);
        }
        self.histogram[held] += 1;
        if held < self.lowest || self.histogram[self.lowest] == 0 {
            self.lowest = held;
        }
    }

    fn unlist(&mut self, held: i64) {
        let held = held.max(0) as usize;
        self.histogram[held] -= 1;
        if held == self.lowest && self.histogram[held] == 0 {
            self.lowest = (held..self.histogram.len()).find(|&more| self.histogram[more] > 0).unwrap_or(held);
        }
    }
}

/// What a placed pod's term asks of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wish {
    /// They must not be in its domain.
    Never,
    /// It had to be in theirs, and likes more of them.
    Required,
    /// It likes them with this weight, or with a negative one does not.
    Preferred(i64),
}

/// How many placed pods in each domain carry the same term: what they wish counts for pods that come later.
#[derive(Clone, Debug)]
pub struct Holder {
    /// Which pods they speak of.
    pub term: Arc<PodTerm>,
    /// The label whose values are the domains.
    pub key: KeyIx,
    /// What they wish.
    pub wish: Wish,
    /// Pods with the term, wherever.
    pub(super) pods: usize,
    counts: Vec<i64>,
    /// Pods in all domains together.
    pub total: i64,
}

impl Holder {
    pub(super) fn new(term: Arc<PodTerm>, key: KeyIx, wish: Wish) -> Self {
        Self { term, key, wish, pods: 0, counts: Vec::new(), total: 0 }
    }

    /// Pods in a domain.
    pub fn count(&self, value: u32) -> i64 {
        self.counts.get(value as usize).copied().unwrap_or(0)
    }

    pub(super) fn add(&mut self, value: u32, sign: i64) {
        if value == NONE {
            return;
        }
        if self.counts.len() <= value as usize {
            self.counts.resize(value as usize + 1, 0);
        }
        self.counts[value as usize] += sign;
        self.total += sign;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_meta::selector::LabelSelector;

    #[test]
    fn the_lowest_follows_every_change() {
        let matcher = Matcher::Spread { namespace: String::new(), selector: LabelSelector::everything() };
        let mut counter = Counter::new(matcher, 1, None);
        assert_eq!(counter.lowest(0, 0), None);
        let mut held = [0_i64; 3];
        for value in 0..3 {
            counter.node(value, 1);
        }
        for (value, sign) in [(0, 1), (1, 1), (0, 1), (2, 1), (2, 1), (1, -1), (1, 1), (1, 1), (0, -1), (0, -1)] {
            counter.add(value, sign);
            held[value as usize] += sign;
            assert_eq!(counter.lowest(0, 0), held.iter().copied().min());
            for (domain, more) in [(0, 1), (1, -1), (2, 5), (1, 2)] {
                let mut changed = held;
                changed[domain] += more;
                assert_eq!(
                    counter.lowest(domain as u32, more),
                    changed.iter().copied().min(),
                    "{held:?} {domain} {more}"
                );
            }
        }
        counter.add(0, 1);
        counter.add(0, -1);
        counter.node(0, -1);
        assert_eq!((counter.domains, counter.lowest(9, 1)), (2, held[1..].iter().copied().min()));
    }
}
