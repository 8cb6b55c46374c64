//! The plan as an nftables table.
//!
//! Policies are enforced where packets are forwarded, between translation of destinations and of sources: the true
//! client and the true endpoint are seen. What goes between a pod and its own node is not forwarded, and always passes.

use std::net::IpAddr;

use super::plan::{Direction, Match, PeerMatch, Plan, PortMatch};
use crate::Family;
use crate::nft::{Chain, Set, Table};

impl Direction {
    fn word(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }

    /// How the other end's address is called.
    fn peer(self, family: Family) -> String {
        let word = match self {
            Self::Ingress => "saddr",
            Self::Egress => "daddr",
        };
        format!("{} {word}", family.word())
    }
}

/// The table that enforces `plan`.
pub(super) fn table(name: &str, plan: &Plan) -> Table {
    let (family, ip, of) = (plan.family, plan.family.word(), plan.family.address_type());
    let mut table = Table { family, name: name.to_owned(), ..Table::default() };
    let forward = Chain {
        hook: "type filter hook forward priority 0".to_owned(),
        rules: vec![
            "ct state established,related accept".to_owned(),
            format!("{ip} saddr . {ip} daddr @own accept"),
            format!("{ip} saddr vmap @egress"),
            format!("{ip} daddr vmap @ingress"),
        ],
    };
    table.chains.insert("forward".to_owned(), forward);
    let mut own = Set::plain(format!("type {of} . {of};"));
    for direction in [Direction::Ingress, Direction::Egress] {
        let mut pods = Set::map(format!("type {of} : verdict;"));
        for ((_, address), profile) in plan.pods.iter().filter(|((found, _), _)| *found == direction) {
            pods.elements.insert(address.to_string(), format!("jump {}", chain(direction, profile)));
            own.elements.insert(pair(*address), String::new());
        }
        table.sets.insert(direction.word().to_owned(), pods);
    }
    table.sets.insert("own".to_owned(), own);
    for (name, addresses) in &plan.peers {
        let mut set = Set::plain(format!("type {of};"));
        set.elements = addresses.iter().map(|address| (address.to_string(), String::new())).collect();
        table.sets.insert(name.clone(), set);
    }
    for (name, ports) in &plan.ports {
        let mut set = Set::plain(format!("type {of} . inet_proto . inet_service;"));
        let key = |(address, protocol, port): &(IpAddr, &str, u16)| format!("{address} . {protocol} . {port}");
        set.elements = ports.iter().map(|port| (key(port), String::new())).collect();
        table.sets.insert(name.clone(), set);
    }
    for ((direction, profile), matches) in &plan.profiles {
        let mut rules: Vec<String> = matches.iter().map(|one| rule(family, *direction, one)).collect();
        rules.push("drop".to_owned());
        table.chains.insert(chain(*direction, profile), Chain { hook: String::new(), rules });
    }
    table
}

fn chain(direction: Direction, profile: &str) -> String {
    format!("{}-{profile}", direction.word())
}

fn pair(address: IpAddr) -> String {
    format!("{address} . {address}")
}

/// One way to pass; `return` goes on with the other direction.
fn rule(family: Family, direction: Direction, one: &Match) -> String {
    let peer = direction.peer(family);
    let mut words = Vec::new();
    match &one.peer {
        PeerMatch::Anybody => {}
        PeerMatch::Set(set) => words.push(format!("{peer} @{set}")),
        PeerMatch::Block { range, except } => {
            // Every address is in a range of all, and nftables does not take it in all places.
            if range.prefix_len() > 0 {
                words.push(format!("{peer} {range}"));
            }
            if !except.is_empty() {
                let except: Vec<String> = except.iter().map(ToString::to_string).collect();
                words.push(format!("{peer} != {{ {} }}", except.join(", ")));
            }
        }
    }
    match &one.port {
        PortMatch::Anything => {}
        PortMatch::Protocol(protocol) => words.push(format!("meta l4proto {protocol}")),
        PortMatch::Numbers(protocol, ranges) => {
            let range = |(first, last): &(u16, u16)| match first == last {
                true => first.to_string(),
                false => format!("{first}-{last}"),
            };
            let ranges: Vec<String> = ranges.iter().map(range).collect();
            words.push(format!("meta l4proto {protocol} th dport {{ {} }}", ranges.join(", ")));
        }
        PortMatch::Set(set) => words.push(format!("{} daddr . meta l4proto . th dport @{set}", family.word())),
    }
    words.push("return".to_owned());
    words.join(" ")
}
