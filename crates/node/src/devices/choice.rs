//! Which devices a container gets, and which memory they may lie near. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::plugins::Has;
use crate::pinning::{Hint, Nodes, hinted};

/// What there is to choose from.
#[derive(Clone, Debug, Default)]
pub(super) struct Choice {
    pub(super) healthy: BTreeSet<String>,
    /// The memory nodes that they are near, where they say so.
    pub(super) places: BTreeMap<String, Nodes>,
    /// Near which they had best be; `None`: any.
    pub(super) near: Option<Nodes>,
    /// What pods have.
    pub(super) taken: BTreeSet<String>,
    /// What this pod has and its next containers may have as well.
    pub(super) reusable: BTreeSet<String>,
    /// What the plugin would choose.
    pub(super) preferred: BTreeSet<String>,
}

/// Why there is no choice.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Lack {
    Unhealthy,
    TooFew { there: usize },
}

impl Choice {
    /// Those that the pod has already.
    fn own(&self) -> BTreeSet<String> {
        self.reusable.intersection(&self.healthy).cloned().collect()
    }

    /// Those that nobody has, as far as they are where `suits` says.
    fn free(&self, suits: impl Fn(Nodes) -> bool) -> BTreeSet<String> {
        let place = |id: &String| self.places.get(id).copied().unwrap_or_default();
        self.healthy.difference(&self.taken).filter(|id| suits(place(id))).cloned().collect()
    }

    /// Those of them that lie where they had best.
    fn aligned(&self) -> BTreeSet<String> {
        self.free(|nodes| self.near.is_some_and(|near| near & nodes != 0))
    }

    /// Devices of which the plugin may prefer some, and those that are taken whatever it prefers; `None`: nothing is left to
    /// be preferred.
    pub(super) fn offer(&self, wanted: usize) -> Option<(BTreeSet<String>, BTreeSet<String>)> {
        let (own, aligned, free) = (self.own(), self.aligned(), self.free(|_| true));
        let open = wanted.checked_sub(own.len()).filter(|open| *open > 0 && *open <= free.len())?;
        if open < aligned.len() {
            return Some((&own | &aligned, own));
        }
        (open > aligned.len()).then(|| (&own | &free, &own | &aligned))
    }

    /// So many of them: the pod's own first, then those that lie where they had best, then any that do not, and last those
    /// that do not say where they are; among each, those that are preferred.
    pub(super) fn made(&self, wanted: usize) -> Result<BTreeSet<String>, Lack> {
        if self.healthy.is_empty() {
            return Err(Lack::Unhealthy);
        }
        let (own, aligned, free) = (self.own(), self.aligned(), self.free(|_| true));
        if own.len() + free.len() < wanted {
            return Err(Lack::TooFew { there: own.len() + free.len() });
        }
        let enough = wanted.saturating_sub(own.len()) < aligned.len();
        let preferred = &self.preferred & if enough { &aligned } else { &free };
        let elsewhere = self.free(|nodes| nodes != 0);
        let (first, second) = if enough { (&preferred, &aligned) } else { (&aligned, &preferred) };
        let mut chosen = BTreeSet::new();
        for id in own.iter().chain(first).chain(second).chain(&elsewhere).chain(&free) {
            if chosen.len() < wanted {
                chosen.insert(id.clone());
            }
        }
        Ok(chosen)
    }
}

/// The memory nodes near which `wanted` devices can be had, as far as devices say where they are; `None`: none of them does.
/// `reusable` are those that the pod has and may have again.
pub(super) fn hints(
    devices: &BTreeMap<String, Has>,
    available: &BTreeSet<String>,
    reusable: &BTreeSet<String>,
    wanted: usize,
    known: Nodes,
) -> Option<Vec<Hint>> {
    let place = |id: &String| devices.get(id).map_or(0, |has| has.nodes);
    let all = devices.values().fold(0, |all, has| all | has.nodes) & known;
    if all == 0 {
        return None;
    }
    if available.union(reusable).count() < wanted {
        return Some(Vec::new());
    }
    let own: Vec<Nodes> = reusable.iter().map(place).filter(|nodes| *nodes != 0).collect();
    let others: Vec<Nodes> = available.difference(reusable).map(place).collect();
    let near = |list: &[Nodes], nodes: Nodes| list.iter().filter(|has| **has & nodes != 0).count();
    let ever = |nodes: Nodes| devices.values().filter(|has| has.nodes & nodes != 0).count() >= wanted;
    let now = |nodes: Nodes| near(&own, nodes) == own.len() && own.len() + near(&others, nodes) >= wanted;
    Some(hinted(all, ever, now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_chosen() {
        for (what, healthy, taken, reusable, preferred, wanted, expected) in [
            ("any", "a b c", "", "", "", 2, Ok("a b")),
            ("what is free", "a b c", "a", "", "", 2, Ok("b c")),
            ("what is preferred", "a b c", "a", "", "c", 1, Ok("c")),
            ("what is preferred but taken", "a b c", "c", "", "c", 1, Ok("a")),
            ("the pod's own first", "a b c", "b", "b", "c", 1, Ok("b")),
            ("the pod's own and one more", "a b c", "b", "b", "c", 2, Ok("b c")),
            ("the pod's own is unwell", "a c", "b", "b", "", 1, Ok("a")),
            ("too few", "a b", "a", "", "", 2, Err(Lack::TooFew { there: 1 })),
            ("none is well", "", "a", "", "", 1, Err(Lack::Unhealthy)),
        ] {
            let (healthy, taken, reusable, preferred) = (set(healthy), set(taken), set(reusable), set(preferred));
            let choice = Choice { healthy, taken, reusable, preferred, ..Choice::default() };
            assert_eq!(choice.made(wanted), expected.map(set), "{what}");
        }
    }

    /// `a` and `b` lie near node 0, `c` near node 1, `d` near both; `e` does not say.
    fn places() -> BTreeMap<String, Has> {
        let has = |nodes| Has { healthy: true, nodes };
        [("a", 0b01), ("b", 0b01), ("c", 0b10), ("d", 0b11), ("e", 0)]
            .map(|(id, nodes)| (id.to_owned(), has(nodes)))
            .into()
    }

    fn set(text: &str) -> BTreeSet<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn devices_that_lie_near_come_first() {
        let join = |set: BTreeSet<String>| set.into_iter().collect::<Vec<_>>().join(" ");
        // Near which nodes, what is taken, what the pod has, what is preferred, how many; what the plugin may choose from and
        // what it has to, and what comes of it.
        for (near, taken, own, preferred, wanted, offer, made) in [
            (None, "", "", "", 1, "a b c d e|", "a"),
            (Some(0b10), "", "", "", 1, "c d|", "c"),
            (Some(0b10), "", "", "a d", 1, "c d|", "d"),
            (Some(0b10), "", "", "", 2, "-", "c d"),
            (Some(0b10), "", "", "e", 3, "a b c d e|c d", "c d e"),
            (Some(0b10), "", "", "", 3, "a b c d e|c d", "a c d"),
            (Some(0b10), "c d", "", "", 3, "a b e|", "a b e"),
            (Some(0b01), "a", "a", "", 2, "a b d|a", "a b"),
            (Some(0b01), "a", "a", "", 1, "-", "a"),
        ] {
            let choice = Choice {
                healthy: set("a b c d e"),
                places: places().into_iter().map(|(id, has)| (id, has.nodes)).collect(),
                near,
                taken: set(taken),
                reusable: set(own),
                preferred: set(preferred),
            };
            let offered =
                choice.offer(wanted).map_or("-".to_owned(), |(all, must)| format!("{}|{}", join(all), join(must)));
            let what = format!("{wanted} near {near:?} beside {taken:?}");
            assert_eq!((offered.as_str(), choice.made(wanted).map(join)), (offer, Ok(made.to_owned())), "{what}");
        }
    }

    #[test]
    fn nodes_near_which_devices_can_be_had() {
        // Sets of nodes as bits, those that are preferred with a star.
        for (free, own, wanted, known, expected) in [
            ("a b c d e", "", 1, 0b11, "01* 10* 11"),
            ("a b c d e", "", 2, 0b11, "01* 10* 11"),
            ("a b c d e", "", 3, 0b11, "01* 11"),
            ("a b c d e", "", 4, 0b11, "11*"),
            ("a b c d e", "", 5, 0b11, ""),
            ("b c", "", 2, 0b11, "11"),
            ("b c", "", 3, 0b11, ""),
            ("b c", "a", 1, 0b11, "01* 11"),
            ("b c", "a", 2, 0b11, "01* 11"),
            ("a b c d e", "", 1, 0b01, "01*"),
            ("a b c d e", "", 1, 0b100, "-"),
        ] {
            let told = hints(&places(), &set(free), &set(own), wanted, known).map_or("-".to_owned(), |hints| {
                let one = |h: &Hint| format!("{:02b}{}", h.nodes.unwrap_or(0), if h.preferred { "*" } else { "" });
                let mut all: Vec<String> = hints.iter().map(one).collect();
                all.sort();
                all.join(" ")
            });
            assert_eq!(told, expected, "{wanted} of {free:?} beside {own:?}");
        }
    }
}
