//! Nodes -> routes, neighbours and forwarding entries, as values.
//!
//! In an overlay each node has a virtual port whose hardware address follows from the node's pod range, so that nobody
//! has to tell it to anybody: the first address of the range stands for the port, and a packet to a pod there is routed
//! to that address, which is a permanent neighbour with that hardware address, which is forwarded to the node.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::Node;

/// Another node, as far as packets care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its pods.
    pub pod_cidr: Ipv4Net,
    /// Where it is.
    pub address: Ipv4Addr,
}

impl Peer {
    /// `None` while its range or its address is not known.
    pub fn of(node: &Node) -> Option<Self> {
        let spec = node.spec.as_ref()?;
        let ranges = spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr);
        let pod_cidr: Ipv4Net = ranges.filter_map(|range| range.parse().ok()).next()?;
        let mut addresses = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
        let address = addresses.find_map(|address| match address.type_.as_str() {
            "InternalIP" => address.address.parse().ok(),
            _ => None,
        })?;
        Some(Self { pod_cidr: pod_cidr.trunc(), address })
    }
}

/// A hardware address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The address of the port of the node with this range: locally administered, and unique as ranges are.
    pub fn of(pod_cidr: Ipv4Net) -> Self {
        let [a, b, c, d] = pod_cidr.network().octets();
        Self([0x0a, 0x5c, a, b, c, d])
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// How packets reach other nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// In UDP, through the port with this index.
    Tunnel(u32),
    /// As they are.
    Plain,
}

/// Where a route leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// The next machine.
    pub gateway: Ipv4Addr,
    /// The device, where the gateway's address does not say which; such a gateway is taken to be on its link.
    pub device: Option<u32>,
}

/// All that leads to other nodes' pods: as it should be, or as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Paths {
    /// By destination.
    pub routes: BTreeMap<Ipv4Net, Hop>,
    /// Permanent neighbours on the tunnel's port.
    pub neighbours: BTreeMap<Ipv4Addr, Mac>,
    /// Which machine has which port.
    pub forwards: BTreeMap<Mac, Ipv4Addr>,
}

impl Paths {
    /// What should lead to `peers`.
    pub fn to<'a>(way: Way, peers: impl IntoIterator<Item = &'a Peer>) -> Self {
        let mut paths = Self::default();
        for peer in peers {
            match way {
                Way::Plain => {
                    paths.routes.insert(peer.pod_cidr, Hop { gateway: peer.address, device: None });
                }
                Way::Tunnel(index) => {
                    let (port, mac) = (peer.pod_cidr.network(), Mac::of(peer.pod_cidr));
                    paths.forwards.insert(mac, peer.address);
                    paths.neighbours.insert(port, mac);
                    paths.routes.insert(peer.pod_cidr, Hop { gateway: port, device: Some(index) });
                }
            }
        }
        paths
    }
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Remove a route.
    RemoveRoute(Ipv4Net, Hop),
    /// Remove a neighbour.
    RemoveNeighbour(Ipv4Addr),
    /// Remove a forwarding entry.
    RemoveForward(Mac, Ipv4Addr),
    /// Set a forwarding entry, in place of the port's other one.
    SetForward(Mac, Ipv4Addr),
    /// Set a neighbour.
    SetNeighbour(Ipv4Addr, Mac),
    /// Set a route, in place of the one to the same destination.
    SetRoute(Ipv4Net, Hop),
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
        let pod_cidr = Ipv4Net::new(Ipv4Addr::new(10, 42, number, 0), 24).unwrap();
        Peer { pod_cidr, address: Ipv4Addr::new(192, 0, 2, number) }
    }

    #[test]
    fn a_node_is_a_peer_once_both_are_known() {
        let status = json!({"addresses": [{"type": "Hostname", "address": "x"}, {"type": "InternalIP", "address": "fd00::1"},
            {"type": "InternalIP", "address": "192.0.2.1"}]});
        let peer_of =
            |spec, status| Peer::of(&serde_json::from_value(json!({"spec": spec, "status": status})).unwrap());
        let spec = json!({"podCIDR": "fd00::/64", "podCIDRs": ["fd00::/64", "10.42.1.0/24"]});
        assert_eq!(peer_of(spec.clone(), status.clone()), Some(peer(1)));
        assert_eq!(peer_of(spec, json!({})), None);
        assert_eq!(peer_of(json!({}), status), None);
    }

    #[test]
    fn both_ways() {
        let plain = Paths::to(Way::Plain, &[peer(1), peer(2)]);
        assert_eq!(plain.routes[&peer(2).pod_cidr], Hop { gateway: peer(2).address, device: None });
        assert!(plain.neighbours.is_empty() && plain.forwards.is_empty());

        let tunnel = Paths::to(Way::Tunnel(7), &[peer(1)]);
        let (port, mac) = (Ipv4Addr::new(10, 42, 1, 0), Mac([0x0a, 0x5c, 10, 42, 1, 0]));
        assert_eq!(tunnel.routes, [(peer(1).pod_cidr, Hop { gateway: port, device: Some(7) })].into());
        assert_eq!(tunnel.neighbours, [(port, mac)].into());
        assert_eq!(tunnel.forwards, [(mac, peer(1).address)].into());
    }

    #[test]
    fn steps_lead_from_any_state_to_any_other() {
        let moved = Peer { address: Ipv4Addr::new(192, 0, 2, 99), ..peer(1) };
        let sets: [&[Peer]; 5] = [&[], &[peer(1)], &[moved], &[peer(1), peer(2)], &[peer(2), peer(3)]];
        let ways = [Way::Plain, Way::Tunnel(7), Way::Tunnel(8)];
        let states: Vec<Paths> = ways.iter().flat_map(|way| sets.iter().map(|set| Paths::to(*way, *set))).collect();
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
