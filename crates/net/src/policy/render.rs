//! The plan as an nftables table.
//!
//! Policies are enforced where packets are forwarded, between translation of destinations and of sources: the true
//! client and the true endpoint are seen. What goes between a pod and its own node is not forwarded, and always passes.

use std::net::Ipv4Addr;

use super::plan::{Direction, Match, PeerMatch, Plan, PortMatch};
use crate::nft::{Chain, Set, Table};

impl Direction {
    fn word(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }

    /// How the other end's address is called.
    fn peer(self) -> &'static str {
        match self {
            Self::Ingress => "ip saddr",
            Self::Egress => "ip daddr",
        }
    }
}

/// The table that enforces `plan`.
pub(super) fn table(name: &str, plan: &Plan) -> Table {
    let mut table = Table { name: name.to_owned(), ..Table::default() };
    let forward = Chain {
        hook: "type filter hook forward priority 0".to_owned(),
        rules: [
            "ct state established,related accept",
            "ip saddr . ip daddr @own accept",
            "ip saddr vmap @egress",
            "ip daddr vmap @ingress",
        ]
        .map(str::to_owned)
        .to_vec(),
    };
    table.chains.insert("forward".to_owned(), forward);
    let mut own = Set::plain("type ipv4_addr . ipv4_addr;");
    for direction in [Direction::Ingress, Direction::Egress] {
        let mut pods = Set::map("type ipv4_addr : verdict;");
        for ((_, address), profile) in plan.pods.iter().filter(|((found, _), _)| *found == direction) {
            pods.elements.insert(address.to_string(), format!("jump {}", chain(direction, profile)));
            own.elements.insert(pair(*address), String::new());
        }
        table.sets.insert(direction.word().to_owned(), pods);
    }
    table.sets.insert("own".to_owned(), own);
    for (name, addresses) in &plan.peers {
        let mut set = Set::plain("type ipv4_addr;");
        set.elements = addresses.iter().map(|address| (address.to_string(), String::new())).collect();
        table.sets.insert(name.clone(), set);
    }
    for (name, ports) in &plan.ports {
        let mut set = Set::plain("type ipv4_addr . inet_proto . inet_service;");
        let key = |(address, protocol, port): &(Ipv4Addr, &str, u16)| format!("{address} . {protocol} . {port}");
        set.elements = ports.iter().map(|port| (key(port), String::new())).collect();
        table.sets.insert(name.clone(), set);
    }
    for ((direction, profile), matches) in &plan.profiles {
        let mut rules: Vec<String> = matches.iter().map(|one| rule(*direction, one)).collect();
        rules.push("drop".to_owned());
        table.chains.insert(chain(*direction, profile), Chain { hook: String::new(), rules });
    }
    table
}

fn chain(direction: Direction, profile: &str) -> String {
    format!("{}-{profile}", direction.word())
}

fn pair(address: Ipv4Addr) -> String {
    format!("{address} . {address}")
}

/// One way to pass; `return` goes on with the other direction.
fn rule(direction: Direction, one: &Match) -> String {
    let mut words = Vec::new();
    match &one.peer {
        PeerMatch::Anybody => {}
        PeerMatch::Set(set) => words.push(format!("{} @{set}", direction.peer())),
        PeerMatch::Block { range, except } => {
            // Every address is in 0.0.0.0/0, and nftables does not take it in all places.
            if range.prefix_len() > 0 {
                words.push(format!("{} {range}", direction.peer()));
            }
            if !except.is_empty() {
                let except: Vec<String> = except.iter().map(ToString::to_string).collect();
                words.push(format!("{} != {{ {} }}", direction.peer(), except.join(", ")));
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
        PortMatch::Set(set) => words.push(format!("ip daddr . meta l4proto . th dport @{set}")),
    }
    words.push("return".to_owned());
    words.join(" ")
}
