//! A question to the zone and its answer: the Kubernetes DNS specification 1.1.0, as a function.
//!
//! <https://github.com/kubernetes/dns/blob/master/docs/specification.md>. Where it is silent (names of namespaces, pods,
//! endpoints of a ClusterIP Service), CoreDNS is followed.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::zone::{Entry, Key, Port, Zone, dashed};

/// Seconds that clients may keep an answer: short, since the zone is next door and always fresh.
pub(super) const TTL: u32 = 5;
const VERSION: &str = "1.1.0";

/// What the zone says about a name.
#[derive(Clone, Debug, PartialEq)]
pub enum Lookup {
    /// The name is not the zone's business.
    Outside,
    /// The zone's answer.
    Found(Answer),
}

/// An authoritative answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// `NoError` or `NXDomain`.
    pub code: ResponseCode,
    /// Records that answer.
    pub records: Vec<Record>,
    /// Addresses of names in the answer.
    pub additionals: Vec<Record>,
    /// The SOA record, where there is no answer.
    pub authority: Option<Record>,
    /// The name the answer leads on to, where more must be looked up.
    pub alias: Option<Name>,
}

/// What a name stands for, whatever the type asked for.
enum Meaning {
    /// Nothing.
    Unknown,
    /// It is there but has no records of its own.
    Empty,
    Addresses(Vec<IpAddr>),
    /// Addresses, and the ports behind names: SRV.
    Service(Vec<Target>),
    Alias(Name),
    Text(&'static str),
    Apex,
}

/// One address of a Service, the name that SRV records give it, and its ports.
struct Target {
    name: Name,
    address: IpAddr,
    ports: Vec<Port>,
}

impl Zone {
    /// Answers one question.
    pub fn lookup(&self, name: &Name, record_type: RecordType) -> Lookup {
        let labels: Vec<Vec<u8>> = name.iter().map(<[u8]>::to_ascii_lowercase).collect();
        let Some(rest) = labels.strip_suffix(self.origin.as_slice()) else {
            return self.reverse(name, &labels, record_type);
        };
        // Labels in the cluster are ASCII; others name nothing.
        let rest: Option<Vec<&str>> = rest.iter().map(|label| std::str::from_utf8(label).ok()).collect();
        let meaning = rest.map_or(Meaning::Unknown, |rest| self.meaning(&rest));
        Lookup::Found(self.answer(name, meaning, record_type))
    }

    fn meaning(&self, labels: &[&str]) -> Meaning {
        match labels {
            [] => Meaning::Apex,
            ["svc" | "pod" | "dns"] => Meaning::Empty,
            ["dns-version"] => Meaning::Text(VERSION),
            ["ns", "dns"] => Meaning::Addresses(vec![self.server]),
            [namespace, "svc" | "pod"] => self.of_namespace(namespace, || Meaning::Empty),
            [pod, namespace, "pod"] => match undashed(pod) {
                Some(address) => self.of_namespace(namespace, || Meaning::Addresses(vec![address])),
                None => Meaning::Unknown,
            },
            [service, namespace, "svc"] => self.of_service(&key(namespace, service), None, |_| true),
            [port, protocol, service, namespace, "svc"] => match (port.strip_prefix('_'), protocol.strip_prefix('_')) {
                (Some(name), Some(protocol)) => self
                    .of_service(&key(namespace, service), None, |port| port.name == name && port.protocol == protocol),
                _ => Meaning::Unknown,
            },
            [host, service, namespace, "svc"] => match host.strip_prefix('_') {
                // `_tcp.web.default.svc` has names below it but nothing of its own.
                Some(protocol) => match self.of_service(&key(namespace, service), None, |p| p.protocol == protocol) {
                    Meaning::Unknown => Meaning::Unknown,
                    _ => Meaning::Empty,
                },
                None => self.of_service(&key(namespace, service), Some(host), |_| true),
            },
            _ => Meaning::Unknown,
        }
    }

    fn of_namespace(&self, namespace: &str, meaning: impl FnOnce() -> Meaning) -> Meaning {
        if self.has_namespace(namespace) { meaning() } else { Meaning::Unknown }
    }

    /// The parts of a Service with a port that is `wanted`; with `host`, only endpoints of that name.
    fn of_service(&self, key: &Key, host: Option<&str>, wanted: impl Fn(&Port) -> bool) -> Meaning {
        let pick = |ports: &[Port]| -> Vec<Port> { ports.iter().filter(|port| wanted(port)).cloned().collect() };
        let targets: Vec<Target> = match (self.service(key), host) {
            (None, _) => return Meaning::Unknown,
            (Some(Entry::External(name)), None) => return Meaning::Alias(name.clone()),
            (Some(Entry::External(_)), Some(_)) => return Meaning::Unknown,
            (Some(Entry::ClusterIps(addresses, ports)), None) => {
                let target = |address: &IpAddr| {
                    let name = self.name_of(&[&key.1, &key.0, "svc"])?;
                    Some(Target { name, address: *address, ports: pick(ports) })
                };
                addresses.iter().filter_map(target).collect()
            }
            (Some(_), host) => {
                let (endpoints, slices) = self.endpoints(key);
                let mine = endpoints.iter().filter(|endpoint| host.is_none_or(|host| endpoint.label == host));
                let target = |endpoint: &super::zone::EndpointEntry| {
                    let name = self.name_of(&[&endpoint.label, &key.1, &key.0, "svc"])?;
                    let ports = slices.get(endpoint.slice).map(|ports| pick(ports)).unwrap_or_default();
                    Some(Target { name, address: endpoint.address, ports })
                };
                mine.filter_map(target).collect()
            }
        };
        // Without ports of its own a Service still has a name, but not below `_port._protocol`.
        let any_port = Port { name: String::new(), protocol: String::new(), number: 0 };
        let targets: Vec<Target> = match wanted(&any_port) {
            true => targets,
            false => targets.into_iter().filter(|target| !target.ports.is_empty()).collect(),
        };
        if targets.is_empty() { Meaning::Unknown } else { Meaning::Service(targets) }
    }

    fn name_of(&self, labels: &[&str]) -> Option<Name> {
        let below = labels.iter().map(|label| label.as_bytes());
        Name::from_labels(below.chain(self.origin.iter().map(Vec::as_slice))).ok()
    }

    /// `in-addr.arpa` and `ip6.arpa`: ours where one of our Services or endpoints has the address.
    fn reverse(&self, name: &Name, labels: &[Vec<u8>], record_type: RecordType) -> Lookup {
        let Some(address) = reverse_address(labels) else { return Lookup::Outside };
        let mut names = Vec::new();
        for key in self.services_at(&address) {
            match self.service(key) {
                Some(Entry::ClusterIps(addresses, _)) if addresses.contains(&address) => {
                    names.extend(self.name_of(&[&key.1, &key.0, "svc"]));
                }
                _ => {
                    let (endpoints, _) = self.endpoints(key);
                    let mine = endpoints.iter().filter(|endpoint| endpoint.address == address);
                    names.extend(mine.filter_map(|e| self.name_of(&[&e.label, &key.1, &key.0, "svc"])));
                }
            }
        }
        if names.is_empty() {
            return Lookup::Outside;
        }
        let mut answer = self.empty(ResponseCode::NoError);
        if matches!(record_type, RecordType::PTR | RecordType::ANY) {
            answer.records = names.into_iter().map(|target| record(name, RData::PTR(PTR(target)))).collect();
            answer.authority = None;
        }
        Lookup::Found(answer)
    }

    fn answer(&self, name: &Name, meaning: Meaning, record_type: RecordType) -> Answer {
        let any = record_type == RecordType::ANY;
        let mut answer = self.empty(ResponseCode::NoError);
        match meaning {
            Meaning::Unknown => answer.code = ResponseCode::NXDomain,
            Meaning::Empty => {}
            Meaning::Addresses(addresses) => {
                answer.records = addresses.into_iter().filter_map(|ip| address_record(name, ip, record_type)).collect();
            }
            Meaning::Service(targets) => {
                // Headless Services may list one address under several hostnames.
                let addresses: BTreeSet<IpAddr> = targets.iter().map(|target| target.address).collect();
                let addresses = addresses.into_iter().filter_map(|ip| address_record(name, ip, record_type));
                answer.records = addresses.collect();
                if any || record_type == RecordType::SRV {
                    add_srv(&mut answer, name, &targets);
                }
            }
            Meaning::Alias(target) => {
                answer.records = vec![record(name, RData::CNAME(CNAME(target.clone())))];
                answer.alias = (!any && record_type != RecordType::CNAME).then_some(target);
            }
            Meaning::Text(text) if any || record_type == RecordType::TXT => {
                answer.records = vec![record(name, RData::TXT(TXT::new(vec![text.to_owned()])))];
            }
            Meaning::Apex => answer.records = self.apex(name, record_type),
            Meaning::Text(_) => {}
        }
        if !answer.records.is_empty() {
            answer.authority = None;
        }
        answer
    }

    fn apex(&self, name: &Name, record_type: RecordType) -> Vec<Record> {
        let mut records = Vec::new();
        if matches!(record_type, RecordType::SOA | RecordType::ANY) {
            records.extend(self.soa());
        }
        if matches!(record_type, RecordType::NS | RecordType::ANY) {
            records.extend(self.name_of(&["ns", "dns"]).map(|server| record(name, RData::NS(NS(server)))));
        }
        records
    }

    fn empty(&self, code: ResponseCode) -> Answer {
        Answer { code, records: Vec::new(), additionals: Vec::new(), authority: self.soa(), alias: None }
    }

    fn soa(&self) -> Option<Record> {
        let (server, contact) = (self.name_of(&["ns", "dns"])?, self.name_of(&["hostmaster"])?);
        let soa = SOA::new(server, contact, self.serial, 7_200, 1_800, 86_400, TTL);
        Some(record(&self.name, RData::SOA(soa)))
    }
}

fn key(namespace: &str, name: &str) -> Key {
    (namespace.to_owned(), name.to_owned())
}

fn record(name: &Name, data: RData) -> Record {
    Record::from_rdata(name.clone(), TTL, data)
}

fn address_record(name: &Name, address: IpAddr, record_type: RecordType) -> Option<Record> {
    let wanted = |t: RecordType| record_type == t || record_type == RecordType::ANY;
    match address {
        IpAddr::V4(v4) if wanted(RecordType::A) => Some(record(name, RData::A(A(v4)))),
        IpAddr::V6(v6) if wanted(RecordType::AAAA) => Some(record(name, RData::AAAA(AAAA(v6)))),
        _ => None,
    }
}

/// One SRV record per name and port, weights shared evenly, and the addresses behind the names.
fn add_srv(answer: &mut Answer, name: &Name, targets: &[Target]) {
    let weight = u16::try_from(100 / targets.len().max(1)).unwrap_or(1).max(1);
    let mut seen = HashSet::new();
    for Target { name: target, address, ports } in targets {
        // Two addresses of one name have one SRV record per port.
        for port in ports.iter().filter(|port| seen.insert((target, port.number))) {
            answer.records.push(record(name, RData::SRV(SRV::new(0, weight, port.number, target.clone()))));
        }
        let family = if address.is_ipv4() { RecordType::A } else { RecordType::AAAA };
        if !ports.is_empty() {
            answer.additionals.extend(address_record(target, *address, family));
        }
    }
}

/// `10-42-0-5` -> `10.42.0.5`.
fn undashed(label: &str) -> Option<IpAddr> {
    let address = label.replace('-', ".").parse().or_else(|_| label.replace('-', ":").parse()).ok();
    address.filter(|address| dashed(*address) == label)
}

/// The address that a complete reverse name stands for.
fn reverse_address(labels: &[Vec<u8>]) -> Option<IpAddr> {
    let text: Vec<&str> = labels.iter().map(|label| std::str::from_utf8(label).ok()).collect::<Option<_>>()?;
    match text.as_slice() {
        [d, c, b, a, "in-addr", "arpa"] => [a, b, c, d].map(|label| (*label).to_owned()).join(".").parse().ok(),
        [nibbles @ .., "ip6", "arpa"] if nibbles.len() == 32 => {
            let digits: String = nibbles.iter().rev().copied().collect();
            let number = u128::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 32)?;
            Some(IpAddr::V6(number.into()))
        }
        _ => None,
    }
}
