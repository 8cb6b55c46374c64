//! Policies, pods and namespaces -> what each local pod lets in and out, as a value.
//!
//! Pods that the same policies select share a *profile*: a list of matches, any of which lets a packet pass. Whoever is
//! in no profile of a direction is not isolated in it. Matches refer to sets of addresses by what selects them, so that
//! policies that speak of the same peers share a set, and a pod that comes or goes changes elements and no rules.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::facts::{Labels, Peer, Pod, Policy, Port, Rule};
use crate::Family;

/// In or out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Direction {
    Ingress,
    Egress,
}

/// What the node enforces in one address family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) family: Family,
    /// Which profile an isolated pod has.
    pub(super) pods: BTreeMap<(Direction, IpAddr), String>,
    /// What passes, by profile.
    pub(super) profiles: BTreeMap<(Direction, String), Vec<Match>>,
    /// Addresses of peers.
    pub(super) peers: BTreeMap<String, BTreeSet<IpAddr>>,
    /// Ports by name: who has which at which number.
    pub(super) ports: BTreeMap<String, BTreeSet<(IpAddr, &'static str, u16)>>,
}

/// One way to pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Match {
    pub(super) peer: PeerMatch,
    pub(super) port: PortMatch,
}

/// Who is at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PeerMatch {
    Anybody,
    /// A set of [`Plan::peers`].
    Set(String),
    Block {
        range: IpNet,
        except: Vec<IpNet>,
    },
}

/// What the receiver is addressed by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PortMatch {
    Anything,
    Protocol(&'static str),
    /// Ranges that neither overlap nor touch.
    Numbers(&'static str, Vec<(u16, u16)>),
    /// A set of [`Plan::ports`].
    Set(String),
}

/// Plans a family for the local ones among `pods`.
pub(super) fn plan<'a>(
    family: Family,
    policies: &BTreeMap<String, Policy>,
    pods: impl Iterator<Item = &'a Pod> + Clone,
    namespaces: &BTreeMap<String, Labels>,
) -> Plan {
    let mut planner = Planner { plan: Plan { family, ..Plan::default() }, namespaces };
    for direction in [Direction::Ingress, Direction::Egress] {
        let mut profiles: BTreeMap<Vec<&str>, Vec<&Pod>> = BTreeMap::new();
        for pod in pods.clone().filter(|pod| pod.local) {
            let selecting: Vec<&str> = policies
                .iter()
                .filter(|(_, policy)| policy.rules(direction).is_some() && policy.selects(pod))
                .map(|(name, _)| name.as_str())
                .collect();
            if !selecting.is_empty() {
                profiles.entry(selecting).or_default().push(pod);
            }
        }
        for (names, subjects) in profiles {
            let profile = name("", &names.join(","));
            let mut matches = Vec::new();
            for rule in names.iter().filter_map(|name| policies[*name].rules(direction)).flatten() {
                let scope = Scope { direction, profile: &profile, subjects: &subjects };
                planner.rule(&scope, rule, pods.clone(), &mut matches);
            }
            let addresses = subjects.iter().filter_map(|pod| pod.address(family));
            let addresses = addresses.map(|address| ((direction, address), profile.clone()));
            planner.plan.pods.extend(addresses);
            planner.plan.profiles.insert((direction, profile), matches);
        }
    }
    planner.plan
}

impl Policy {
    fn rules(&self, direction: Direction) -> Option<&[Rule]> {
        match direction {
            Direction::Ingress => self.ingress.as_deref(),
            Direction::Egress => self.egress.as_deref(),
        }
    }
}

/// Whose rules are planned.
struct Scope<'a> {
    direction: Direction,
    profile: &'a str,
    subjects: &'a [&'a Pod],
}

struct Planner<'a> {
    plan: Plan,
    namespaces: &'a BTreeMap<String, Labels>,
}

impl Planner<'_> {
    fn rule<'p>(
        &mut self,
        scope: &Scope<'_>,
        rule: &Rule,
        pods: impl Iterator<Item = &'p Pod> + Clone,
        matches: &mut Vec<Match>,
    ) {
        let ports = self.ports(scope, &rule.ports, pods.clone());
        let peers = match rule.peers.as_slice() {
            [] => vec![PeerMatch::Anybody],
            peers => peers.iter().filter_map(|peer| self.peer(peer, pods.clone())).collect(),
        };
        for peer in peers {
            for port in &ports {
                let found = Match { peer: peer.clone(), port: port.clone() };
                if !matches.contains(&found) {
                    matches.push(found);
                }
            }
        }
    }

    /// `None` for ranges of the other family.
    fn peer<'p>(&mut self, peer: &Peer, pods: impl Iterator<Item = &'p Pod>) -> Option<PeerMatch> {
        let family = self.plan.family;
        if let Peer::Block { range, except } = peer {
            let block = PeerMatch::Block { range: *range, except: IpNet::aggregate(except) };
            return (Family::of_range(*range) == family).then_some(block);
        }
        let set = name("peers-", &format!("{peer:?}"));
        let namespaces = self.namespaces;
        self.plan.peers.entry(set.clone()).or_insert_with(|| {
            pods.filter(|pod| peer.includes(pod, namespaces)).filter_map(|pod| pod.address(family)).collect()
        });
        Some(PeerMatch::Set(set))
    }

    fn ports<'p>(
        &mut self,
        scope: &Scope<'_>,
        ports: &[Port],
        pods: impl Iterator<Item = &'p Pod> + Clone,
    ) -> Vec<PortMatch> {
        if ports.is_empty() {
            return vec![PortMatch::Anything];
        }
        let family = self.plan.family;
        let mut numbers: BTreeMap<&'static str, Vec<(u16, u16)>> = BTreeMap::new();
        let mut matches = Vec::new();
        for port in ports {
            match port {
                Port::Any(protocol) => matches.push(PortMatch::Protocol(protocol)),
                Port::Numbers(protocol, first, last) => numbers.entry(protocol).or_default().push((*first, *last)),
                Port::Named(protocol, wanted) => {
                    let found = |pod: &Pod| -> Vec<(IpAddr, &'static str, u16)> {
                        let ports = pod.ports.iter().filter(|(name, p, _)| name == wanted && p == protocol);
                        let at =
                            |(_, p, number): &(String, &'static str, u16)| Some((pod.address(family)?, *p, *number));
                        ports.filter_map(at).collect()
                    };
                    // The receiver is the subject when something comes in, and anybody when something goes out.
                    let (set, receivers) = match scope.direction {
                        Direction::Ingress => {
                            let receivers = scope.subjects.iter().flat_map(|pod| found(pod)).collect();
                            (name("ports-", &format!("{} {protocol} {wanted}", scope.profile)), receivers)
                        }
                        Direction::Egress => {
                            (name("ports-", &format!("{protocol} {wanted}")), pods.clone().flat_map(found).collect())
                        }
                    };
                    self.plan.ports.insert(set.clone(), receivers);
                    matches.push(PortMatch::Set(set));
                }
            }
        }
        let numbers = numbers.into_iter().map(|(protocol, ranges)| (protocol, merged(ranges)));
        let numbers = numbers.filter(|(_, ranges)| !ranges.is_empty());
        matches.extend(numbers.map(|(protocol, ranges)| PortMatch::Numbers(protocol, ranges)));
        matches
    }
}

/// Ranges in order that neither overlap nor touch; nothing of ranges that end before they begin.
fn merged(mut ranges: Vec<(u16, u16)>) -> Vec<(u16, u16)> {
    ranges.sort_unstable();
    let mut merged: Vec<(u16, u16)> = Vec::new();
    for (first, last) in ranges.into_iter().filter(|(first, last)| first <= last) {
        match merged.last_mut() {
            Some((_, end)) if u32::from(first) <= u32::from(*end) + 1 => *end = last.max(*end),
            _ => merged.push((first, last)),
        }
    }
    merged
}

/// A name that stands for `text`.
fn name(prefix: &str, text: &str) -> String {
    format!("{prefix}{:016x}", crate::names::fnv1a(text.as_bytes()))
}
