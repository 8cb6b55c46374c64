//! Nodes -> routes, neighbours and forwarding entries, as values.
//!
//! In an overlay each node has a virtual port whose hardware address follows from the node's pod range, so that nobody
//! has to tell it to anybody: the first address of the range stands for the port, and a packet to a pod there is routed
//! to that address, which is a permanent neighbour with that hardware address, which is forwarded to the node.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;

use crate::Family;
use crate::names::fnv1a;

/// Another node, as far as packets care.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its pods, a range of each family.
    pub pod_cidrs: Vec<IpNet>,
    /// Where it is, an address of each family.
    pub addresses: Vec<IpAddr>,
}

impl Peer {
    /// `None` while its range or its address is not known.
    pub fn of(node: &Node) -> Option<Self> {
        let spec = node.spec.as_ref()?;
        let ranges = spec.pod_cidrs.as_deref().unwrap_or(spec.pod_cidr.as_slice());
        let pod_cidrs: Vec<IpNet> =
            ranges.iter().filter_map(|range| range.parse().ok()).map(|r: IpNet| r.trunc()).collect();
        let addresses = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
        let own = addresses.filter(|address| address.type_ == "InternalIP");
        let addresses: Vec<IpAddr> = own.filter_map(|address| address.address.parse().ok()).collect();
        (!pod_cidrs.is_empty() && !addresses.is_empty()).then_some(Self { pod_cidrs, addresses })
    }

    /// Whether some of its pods can only be reached through an overlay.
    pub fn is_far(&self, wire: &[IpNet]) -> bool {
        let near = |address: IpAddr| wire.iter().any(|range| range.contains(&address));
        self.pod_cidrs.iter().any(|range| !self.address(Family::of_range(*range)).is_some_and(near))
    }

    /// Its address of a family.
    pub fn address(&self, family: Family) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|address| Family::of(*address) == family)
    }
}

/// A hardware address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The address of the port of the node with this range: locally administered, and unique as ranges are.
    pub fn of(pod_cidr: IpNet) -> Self {
        let [a, b, c, d] = match pod_cidr.network() {
            IpAddr::V4(v4) => v4.octets(),
            IpAddr::V6(v6) => (fnv1a(&v6.octets()) as u32).to_be_bytes(),
        };
        Self([0x0a, 0x5c, a, b, c, d])
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// How packets reach other nodes: as they are where both are on one wire, in UDP elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// The index of the overlay's port, and the family it travels in.
    pub tunnel: Option<(u32, Family)>,
    /// Ranges of addresses on this machine's wires; none where all goes through the overlay.
    pub wire: Vec<IpNet>,
}

impl Way {
    fn is_near(&self, address: &IpAddr) -> bool {
        self.wire.iter().any(|range| range.contains(address))
    }
}

/// Where a route leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// The next machine.
    pub gateway: IpAddr,
    /// The device, where the gateway's address does not say which; such a gateway is taken to be on its link.
    pub device: Option<u32>,
}

/// All that leads to other nodes' pods: as it should be, or as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Paths {
    /// By destination.
    pub routes: BTreeMap<IpNet, Hop>,
    /// Permanent neighbours on the tunnel's port.
    pub neighbours: BTreeMap<IpAddr, Mac>,
    /// Which machine has which port.
    pub forwards: BTreeMap<Mac, IpAddr>,
}

impl Paths {
    /// What should lead to `peers`.
    pub fn to<'a>(way: &Way, peers: impl IntoIterator<Item = &'a Peer>) -> Self {
        let mut paths = Self::default();
        for peer in peers {
            let mut far = Vec::new();
            for range in &peer.pod_cidrs {
                match peer.address(Family::of_range(*range)).filter(|gateway| way.is_near(gateway)) {
                    Some(gateway) => drop(paths.routes.insert(*range, Hop { gateway, device: None })),
                    None => far.push(*range),
                }
            }
            let Some((index, family)) = way.tunnel.filter(|_| !far.is_empty()) else { continue };
            let (Some(first), Some(address)) = (peer.pod_cidrs.first(), peer.address(family)) else { continue };
            let mac = Mac::of(*first);
            paths.forwards.insert(mac, address);
            for range in far {
                let port = range.network();
                paths.neighbours.insert(port, mac);
                paths.routes.insert(range, Hop { gateway: port, device: Some(index) });
            }
        }
        paths
    }
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Remove a route.
    RemoveRoute(IpNet, Hop),
    /// Remove a neighbour.
    RemoveNeighbour(IpAddr),
    /// Remove a forwarding entry.
    RemoveForward(Mac, IpAddr),
    /// Set a forwarding entry, in place of the port's other one.
    SetForward(Mac, IpAddr),
    /// Set a neighbour.
    SetNeighbour(IpAddr, Mac),
    /// Set a route, in place of the one to the same destination.
    SetRoute(IpNet, Hop),
}

/// The steps from what is to what should be. Routes go first and come last, so that none leads nowhere.
pub fn steps(is: &Paths, should: &Paths) -> Vec<Step> {
    let mut steps = Vec::new();
    steps.extend(gone(&is.routes, &should.routes).map(|(to, hop)| Step::RemoveRoute(*to, *hop)));
    steps.extend(gone(&is.neighbours, &should.neighbours).map(|(address, _)| Step::RemoveNeighbour(*address)));
    steps.extend(gone(&is.forwards, &should.forwards).map(|(mac, to)| Step::RemoveForward(*mac, *to)));
    steps.extend(new(&is.forwards, &should.forwards).map(|(mac, to)| Step::SetForward(*mac, *to)));
    steps.extend(new(&is.neighbours, &should.neighbours).map(|(address, mac)| Step::SetNeighbour(*address, *mac)));
    steps.extend(new(&is.routes, &should.routes).map(|(to, hop)| Step::SetRoute(*to, *hop)));
    steps
}

fn gone<'a, K: Ord, V>(is: &'a BTreeMap<K, V>, should: &'a BTreeMap<K, V>) -> impl Iterator<Item = (&'a K, &'a V)> {
    is.iter().filter(|(key, _)| !should.contains_key(*key))
}

fn new<'a, K: Ord, V: PartialEq>(
    is: &'a BTreeMap<K, V>,
    should: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, &'a V)> {
    should.iter().filter(|(key, value)| is.get(*key) != Some(*value))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn peer(number: u8) -> Peer {
        Peer { pod_cidrs: vec![range(number)], addresses: vec![address(number)] }
    }

    fn range(number: u8) -> IpNet {
        format!("10.42.{number}.0/24").parse().unwrap()
    }

    fn address(number: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, number])
    }

    fn of_both(number: u8) -> Peer {
        let (range6, address6) = (format!("fd42:{number}::/64"), format!("2001:db8::{number}"));
        Peer {
            pod_cidrs: vec![range(number), range6.parse().unwrap()],
            addresses: vec![address(number), address6.parse().unwrap()],
        }
    }

    #[test]
    fn a_node_is_a_peer_once_both_are_known() {
        let status = json!({"addresses": [{"type": "Hostname", "address": "x"},
            {"type": "InternalIP", "address": "192.0.2.1"}, {"type": "InternalIP", "address": "2001:db8::1"}]});
        let peer_of =
            |spec, status| Peer::of(&serde_json::from_value(json!({"spec": spec, "status": status})).unwrap());
        let spec = json!({"podCIDR": "10.42.1.0/24", "podCIDRs": ["10.42.1.0/24", "fd42:1::/64"]});
        assert_eq!(peer_of(spec.clone(), status.clone()), Some(of_both(1)));
        let only_the_first = peer_of(json!({"podCIDR": "10.42.1.0/24"}), status.clone()).unwrap();
        assert_eq!(only_the_first.pod_cidrs, [range(1)]);
        assert_eq!(peer_of(spec, json!({})), None);
        assert_eq!(peer_of(json!({}), status), None);
    }

    /// On one wire with everybody.
    fn wire() -> Way {
        let wire = vec!["192.0.2.0/24".parse().unwrap(), "2001:db8::/64".parse().unwrap()];
        Way { tunnel: None, wire }
    }

    fn overlay(family: Family) -> Way {
        Way { tunnel: Some((7, family)), wire: Vec::new() }
    }

    /// On one wire with the first three, and in an overlay with all.
    fn mixed() -> Way {
        Way { wire: vec!["192.0.2.0/30".parse().unwrap()], ..overlay(Family::V4) }
    }

    #[test]
    fn who_is_on_another_wire_is_reached_through_the_overlay() {
        assert!(!peer(1).is_far(&mixed().wire) && peer(4).is_far(&mixed().wire) && of_both(1).is_far(&mixed().wire));
        let paths = Paths::to(&mixed(), &[peer(1), peer(4)]);
        assert_eq!(paths.routes[&range(1)], Hop { gateway: address(1), device: None });
        assert_eq!(paths.routes[&range(4)], Hop { gateway: range(4).network(), device: Some(7) });
        assert_eq!(paths.forwards, [(Mac::of(range(4)), address(4))].into());
        let partly = Paths::to(&mixed(), &[of_both(1)]);
        assert_eq!(partly.routes[&range(1)].device, None);
        assert_eq!((partly.routes.len(), partly.neighbours.len()), (2, 1), "IPv6 goes another way");
    }

    #[test]
    fn both_ways() {
        let plain = Paths::to(&wire(), &[peer(1), peer(2)]);
        assert_eq!(plain.routes[&range(2)], Hop { gateway: address(2), device: None });
        assert!(plain.neighbours.is_empty() && plain.forwards.is_empty());

        let tunnel = Paths::to(&overlay(Family::V4), &[peer(1)]);
        let (port, mac) = (IpAddr::from([10, 42, 1, 0]), Mac([0x0a, 0x5c, 10, 42, 1, 0]));
        assert_eq!(tunnel.routes, [(range(1), Hop { gateway: port, device: Some(7) })].into());
        assert_eq!(tunnel.neighbours, [(port, mac)].into());
        assert_eq!(tunnel.forwards, [(mac, address(1))].into());
    }

    #[test]
    fn both_families() {
        let Peer { pod_cidrs: ranges, addresses } = of_both(1);
        let plain = Paths::to(&wire(), &[of_both(1)]);
        assert_eq!(plain.routes[&ranges[1]], Hop { gateway: addresses[1], device: None });
        let one_wire = Peer { addresses: vec![addresses[0]], ..of_both(1) };
        assert_eq!(Paths::to(&wire(), std::slice::from_ref(&one_wire)).routes.len(), 1, "IPv6 needs a wire of its own");

        let mac = Mac([0x0a, 0x5c, 10, 42, 1, 0]);
        for (family, node) in [(Family::V4, of_both(1)), (Family::V6, of_both(1)), (Family::V4, one_wire)] {
            let tunnel = Paths::to(&overlay(family), &[node]);
            assert_eq!(tunnel.routes.len(), 2);
            assert_eq!(tunnel.neighbours, [(ranges[0].network(), mac), (ranges[1].network(), mac)].into());
            assert_eq!(tunnel.forwards, [(mac, addresses[usize::from(family == Family::V6)])].into());
        }
        let six: Vec<Peer> =
            (1..=9).map(|n| Peer { pod_cidrs: of_both(n).pod_cidrs[1..].to_vec(), ..of_both(n) }).collect();
        assert_eq!(Paths::to(&overlay(Family::V6), &six).forwards.len(), 9, "ports of IPv6 clusters differ");
    }

    #[test]
    fn steps_lead_from_any_state_to_any_other() {
        let moved = Peer { addresses: vec![address(99)], ..peer(1) };
        let sets: [&[Peer]; 6] =
            [&[], &[peer(1)], &[moved], &[peer(1), peer(2)], &[peer(2), peer(3)], &[of_both(1), of_both(4)]];
        let ways = [wire(), overlay(Family::V4), overlay(Family::V6), mixed()];
        let states: Vec<Paths> = ways.iter().flat_map(|way| sets.iter().map(|set| Paths::to(way, *set))).collect();
        for is in &states {
            for should in &states {
                let mut state = is.clone();
                for step in steps(is, should) {
                    match step {
                        Step::RemoveRoute(to, _) => drop(state.routes.remove(&to).expect("a route")),
                        Step::RemoveNeighbour(address) => drop(state.neighbours.remove(&address).expect("a neighbour")),
                        Step::RemoveForward(mac, _) => drop(state.forwards.remove(&mac).expect("an entry")),
                        Step::SetForward(mac, to) => drop(state.forwards.insert(mac, to)),
                        Step::SetNeighbour(address, mac) => drop(state.neighbours.insert(address, mac)),
                        Step::SetRoute(to, hop) => drop(state.routes.insert(to, hop)),
                    }
                }
                assert_eq!(state, *should);
            }
            assert_eq!(steps(is, is), []);
        }
    }
}
