//! Services and their endpoints -> nftables, as values.
//!
//! One verdict map finds by address, protocol and port how many endpoints there are, whatever the number of Services; a
//! chain that all Services with that many share picks one at random from a map of all endpoints. So a Service is nothing
//! but elements of maps, and neither the cost of a packet nor that of a change grows with the cluster. Affinity, and
//! external policy Local, have chains of their own. Only the first packet of a connection comes here, connection tracking does the rest, which is also why a connection outlives
//! a change of the endpoints.
//!
//! Each hook dispatches twice, which matters to a packet that meets a change: the kernel picks the rules' generation when
//! a packet enters a base chain but a set's at each lookup, so that a packet under way during a commit can follow an old
//! rule into a map that has just lost its elements, and would go untranslated. The second base chain picks anew.
//!
//! Behaviour follows kube-proxy's nftables mode; three things differ: source addresses are rewritten only where the
//! answer would otherwise not come back through this node (remote endpoints, and a pod that reaches itself), so that
//! local pods see their true clients; no packet marks are used, so that nobody else's can clash; and node ports also
//! answer on 127.0.0.1 where the pod network is ours.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::endpoints::{Scope, Target, Targets};
use crate::Family;
use crate::nft::{Chain, Fragment, Set, Table};

/// Services that another proxy takes care of.
const OTHER_PROXY_LABEL: &str = "service.kubernetes.io/service-proxy-name";

/// What the plan needs to know of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFacts {
    /// The address family the plan is for; the other one has a table of its own.
    pub family: Family,
    /// The node's name.
    pub name: String,
    /// The node's zone, where it is in one.
    pub zone: Option<String>,
    /// The node's pods, whose traffic comes back here by itself; `None` before it is known.
    pub pod_cidr: Option<IpNet>,
    /// Addresses of Services, where they have any of this family.
    pub service_cidr: Option<IpNet>,
    /// Whether node ports answer on 127.0.0.1; needs `route_localnet` on pod devices.
    pub localhost_node_ports: bool,
}

/// The parts of the table that no Service changes.
pub fn skeleton(table: &str, node: &NodeFacts) -> Table {
    const PORT: &str = "type inet_proto . inet_service";
    let family = node.family;
    let (ip, address) = (family.word(), family.address_type());
    let address_port = format!("type {address} . inet_proto . inet_service");
    let local_pods = node.pod_cidr.map(|cidr| format!("{ip} saddr != {cidr} ")).unwrap_or_default();
    let not_localhost = match node.localhost_node_ports {
        true => String::new(),
        false => format!("{ip} daddr != {} ", family.loopback()),
    };
    let node_ports = format!("{not_localhost}fib daddr type local meta l4proto . th dport vmap");

    let mut table = Table { family, name: table.to_owned(), ..Table::default() };
    let mut set = |name: &str, set: Set| table.sets.insert(name.to_owned(), set);
    for pool in Pool::ALL {
        set(pool.name(), Set::map(pool.spec(family)));
    }
    set("services", Set::map(format!("{address_port} : verdict;")));
    set("node-ports", Set::map(format!("{PORT} : verdict;")));
    set("refused-services", Set::map(format!("{address_port} : verdict;")));
    set("refused-node-ports", Set::map(format!("{PORT} : verdict;")));
    set("cluster-ips", Set::plain(format!("type {address};")));
    set("hairpin", Set::plain(format!("type {address} . {address};")));
    set("remote", Set::plain(format!("{address_port};")));

    let mut chain = |name: &str, hook: &str, rules: &[&str]| {
        let rules = rules.iter().map(|rule| (*rule).to_owned()).collect();
        table.chains.insert(name.to_owned(), Chain { hook: hook.to_owned(), rules })
    };
    for pool in Pool::ALL {
        for count in 1..=SHARED {
            chain(&pool.chain(count), "", &[&pool.rule(family, "{ tcp, udp, sctp }", count)]);
        }
    }
    let dispatch = format!("{ip} daddr . meta l4proto . th dport vmap @services");
    chain("dispatch", "", &[&dispatch, &format!("{node_ports} @node-ports")]);
    for (suffix, priority) in [("", -100), ("-again", -99)] {
        for hook in ["prerouting", "output"] {
            chain(&format!("{hook}{suffix}"), &format!("type nat hook {hook} priority {priority}"), &["jump dispatch"]);
        }
    }
    chain(
        "postrouting",
        "type nat hook postrouting priority 100",
        &[
            &format!("ct status dnat {ip} saddr . {ip} daddr @hairpin masquerade"),
            &format!("ct status dnat {local_pods}{ip} daddr . meta l4proto . th dport @remote masquerade fully-random"),
        ],
    );
    chain("refuse", "", &["reject"]);
    // What is still addressed to a Service here was not translated: it has no endpoint, or no such port. An address
    // without a Service is dropped, not refused: it may be getting one just now, and the client tries again.
    let mut check = vec![
        "ct status dnat accept".to_owned(),
        format!("{ip} daddr . meta l4proto . th dport vmap @refused-services"),
        format!("{ip} daddr @cluster-ips reject"),
    ];
    check.extend(node.service_cidr.map(|range| format!("{ip} daddr {range} drop")));
    chain("check", "", &check.iter().map(String::as_str).collect::<Vec<_>>());
    chain("check-own", "", &["jump check", &format!("{node_ports} @refused-node-ports")]);
    chain("filter-input", "type filter hook input priority -10", &["ct state new jump check-own"]);
    chain("filter-forward", "type filter hook forward priority -10", &["ct state new jump check"]);
    chain("filter-output", "type filter hook output priority -10", &["ct state new jump check-own"]);
    if let Some(cidr) = node.pod_cidr {
        // A pod's packet that connection tracking cannot place would leave with the pod's own address, and the client
        // would answer it with a reset.
        let rule = format!("{ip} saddr {cidr} ct state invalid drop");
        if let Some(forward) = table.chains.get_mut("filter-forward") {
            forward.rules.insert(0, rule);
        }
    }
    table
}

/// What one Service adds to the table; nothing for Services that need no proxy.
pub fn plan(service: &Service, slices: &[&EndpointSlice], node: &NodeFacts) -> Fragment {
    let mut fragment = Fragment::default();
    let Some(spec) = service.spec.as_ref().filter(|spec| is_proxied(service, spec, node.family)) else {
        return fragment;
    };
    for port in spec.ports.iter().flatten() {
        if let Some(planner) = PortPlanner::new(service, spec, port, node) {
            let targets = Targets::of(port, slices, node);
            planner.plan(&targets, &mut fragment);
        }
    }
    for address in cluster_ips(spec, node.family) {
        fragment.elements.insert(("cluster-ips", address.to_string()), String::new());
    }
    fragment
}

/// Whether the Service is ours, and of this family too.
fn is_proxied(service: &Service, spec: &ServiceSpec, family: Family) -> bool {
    let labels = service.metadata.labels.iter().flatten();
    let other = labels.into_iter().any(|(key, _)| key == OTHER_PROXY_LABEL);
    !other && spec.type_.as_deref() != Some("ExternalName") && cluster_ips(spec, family).next().is_some()
}

fn cluster_ips(spec: &ServiceSpec, family: Family) -> impl Iterator<Item = IpAddr> {
    let all = spec.cluster_ips.iter().flatten().chain(spec.cluster_ip.as_ref().filter(|_| spec.cluster_ips.is_none()));
    all.filter_map(move |address| parsed(address, family))
}

/// An address of this family.
fn parsed(address: &str, family: Family) -> Option<IpAddr> {
    address.parse().ok().filter(|address| Family::of(*address) == family)
}

pub(super) fn load_balancer_ips(service: &Service, family: Family) -> Vec<IpAddr> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|status| status.ingress.as_ref()).into_iter().flatten();
    // A balancer in mode Proxy wants its traffic to come through it even from inside.
    let direct = ingress.filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"));
    direct.filter_map(|ingress| parsed(ingress.ip.as_ref()?, family)).collect()
}

/// One port of one Service.
struct PortPlanner<'a> {
    service: &'a Service,
    spec: &'a ServiceSpec,
    port: u16,
    node_port: Option<u16>,
    protocol: &'static str,
    /// `NAMESPACE/NAME/PROTOCOL/PORT`, the end of chain names.
    name: String,
    node: &'a NodeFacts,
}

/// Where a connection arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Front {
    /// At an address, and the Service's port.
    Address(IpAddr),
    /// At any address of the node, and this port.
    Port(u16),
}

impl Front {
    fn suffix(self) -> &'static str {
        match self {
            Self::Address(_) => "",
            Self::Port(_) => "-port",
        }
    }
}

/// What happens to a connection: one of a scope's endpoints takes it, or a chain does, or a verdict ends it.
#[derive(Clone, Debug)]
enum Fate {
    Pick(Scope),
    Chain(String),
    Refuse,
    Drop,
}

/// The Services with up to so many endpoints share chains that pick one; others have their own.
const SHARED: usize = 32;

/// A map of endpoints: of a scope, for connections that arrive at addresses or at ports of the node.
#[derive(Clone, Copy)]
struct Pool {
    scope: Scope,
    port: bool,
}

impl Pool {
    const ALL: [Self; 4] = [
        Self { scope: Scope::Cluster, port: false },
        Self { scope: Scope::Local, port: false },
        Self { scope: Scope::Cluster, port: true },
        Self { scope: Scope::Local, port: true },
    ];

    fn name(self) -> &'static str {
        match (self.scope, self.port) {
            (Scope::Cluster, false) => "endpoints",
            (Scope::Local, false) => "local-endpoints",
            (Scope::Cluster, true) => "port-endpoints",
            (Scope::Local, true) => "local-port-endpoints",
        }
    }

    /// What a connection is known by.
    fn key(self, family: Family) -> String {
        if self.port { String::new() } else { format!("{} daddr . ", family.word()) }
    }

    fn spec(self, family: Family) -> String {
        let (key, protocol, ip) = (self.key(family), family.protocol(), family.word());
        // The largest number says how wide the key's last part is.
        format!("typeof {key}{protocol} . th dport . numgen random mod 65536 : {ip} daddr . th dport;")
    }

    /// The chain that all share with so many endpoints.
    fn chain(self, count: usize) -> String {
        format!("pick-{}-{count}", self.name())
    }

    fn rule(self, family: Family, protocols: &str, count: usize) -> String {
        let (ip, key, map) = (family.word(), self.key(family), self.name());
        format!(
            "meta l4proto {protocols} dnat {ip} to {key}meta l4proto . th dport . numgen random mod {count} map @{map}"
        )
    }
}

impl<'a> PortPlanner<'a> {
    fn new(service: &'a Service, spec: &'a ServiceSpec, port: &'a ServicePort, node: &'a NodeFacts) -> Option<Self> {
        let protocol = match port.protocol.as_deref().unwrap_or("TCP") {
            "TCP" => "tcp",
            "UDP" => "udp",
            "SCTP" => "sctp",
            _ => return None,
        };
        let number = u16::try_from(port.port).ok().filter(|port| *port != 0)?;
        let metadata = &service.metadata;
        let (namespace, name) = (metadata.namespace.as_deref()?, metadata.name.as_deref()?);
        let node_port = port.node_port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0);
        // At most 63 + 63 bytes of names, so that with all we add below it stays under nftables' limit of 255.
        let name = format!("{namespace}/{name}/{protocol}/{number}");
        Some(Self { service, spec, port: number, node_port, protocol, name, node })
    }

    fn plan(&self, targets: &Targets, fragment: &mut Fragment) {
        let internal_local = self.spec.internal_traffic_policy.as_deref() == Some("Local");
        let external_local = self.spec.external_traffic_policy.as_deref() == Some("Local");
        let external = self.is_external();
        let cluster = match !internal_local || external {
            true => self.balance(Scope::Cluster, targets, fragment),
            false => Fate::Refuse,
        };
        let local = match internal_local || (external && external_local) {
            true => self.balance(Scope::Local, targets, fragment),
            false => Fate::Refuse,
        };
        // Endpoints elsewhere do not help here, but they may come: such packets are dropped, not refused.
        let local = match local {
            Fate::Refuse if !targets.cluster.is_empty() => Fate::Drop,
            fate => fate,
        };
        let internal = if internal_local { local.clone() } else { cluster.clone() };
        for address in cluster_ips(self.spec, self.node.family) {
            self.lead(Front::Address(address), &internal, targets, fragment);
        }
        for front in self.external_fronts() {
            // A connection that the split lets pass untranslated meets a second verdict in the filter.
            let (fate, rest) = match external_local {
                true => self.split(front, &cluster, &local, targets, fragment),
                false => (cluster.clone(), None),
            };
            let fate = match self.is_balanced(front) {
                true => self.firewall(front, fate, targets, fragment),
                false => Some(fate),
            };
            if let Some(fate) = fate {
                self.lead(front, &fate, targets, fragment);
                rest.iter().for_each(|rest| self.lead(front, rest, targets, fragment));
            }
        }
        self.note_sources(targets, fragment);
    }

    fn is_external(&self) -> bool {
        self.node_port.is_some() || !self.external_ips().is_empty() || !self.load_balancer_ips().is_empty()
    }

    fn external_ips(&self) -> Vec<IpAddr> {
        let all = self.spec.external_ips.iter().flatten();
        all.filter_map(|address| parsed(address, self.node.family)).collect()
    }

    fn load_balancer_ips(&self) -> Vec<IpAddr> {
        load_balancer_ips(self.service, self.node.family)
    }

    /// Where connections from outside arrive. What a load balancer has is behind the firewall, and comes last.
    fn external_fronts(&self) -> Vec<Front> {
        let balanced = self.load_balancer_ips();
        let plain = self.external_ips().into_iter().filter(|address| !balanced.contains(address));
        let ports = self.node_port.into_iter().map(Front::Port);
        plain.map(Front::Address).chain(ports).chain(balanced.iter().copied().map(Front::Address)).collect()
    }

    fn is_balanced(&self, front: Front) -> bool {
        matches!(front, Front::Address(address) if self.load_balancer_ips().contains(&address))
    }

    /// Sends connections that arrive at `front` where `fate` says.
    fn lead(&self, front: Front, fate: &Fate, targets: &Targets, fragment: &mut Fragment) {
        let port = matches!(front, Front::Port(_));
        let refused = if port { "refused-node-ports" } else { "refused-services" };
        let (set, verdict) = match fate {
            Fate::Refuse => (refused, "goto refuse".to_owned()),
            Fate::Drop => (refused, "drop".to_owned()),
            fate => {
                let set = if port { "node-ports" } else { "services" };
                (set, format!("goto {}", self.chain(front, fate, targets, fragment)))
            }
        };
        fragment.elements.insert((set, self.key(front)), verdict);
    }

    /// What an element for `front` begins with.
    fn key(&self, front: Front) -> String {
        match front {
            Front::Address(address) => format!("{address} . {} . {}", self.protocol, self.port),
            Front::Port(port) => format!("{} . {port}", self.protocol),
        }
    }

    /// The chain that takes connections from `front`; endpoints are made known under the front's key.
    fn chain(&self, front: Front, fate: &Fate, targets: &Targets, fragment: &mut Fragment) -> String {
        let scope = match fate {
            Fate::Pick(scope) => *scope,
            Fate::Chain(chain) => return chain.clone(),
            Fate::Refuse | Fate::Drop => return "refuse".to_owned(),
        };
        let pool = Pool { scope, port: matches!(front, Front::Port(_)) };
        let targets = targets.of_scope(scope);
        for (index, Target { address, port }) in targets.iter().enumerate() {
            let key = format!("{} . {index}", self.key(front));
            fragment.elements.insert((pool.name(), key), format!("{address} . {port}"));
        }
        if targets.len() <= SHARED {
            return pool.chain(targets.len());
        }
        let chain = format!("{}-{}", pool.name(), self.name);
        fragment.chains.insert(chain.clone(), vec![pool.rule(self.node.family, self.protocol, targets.len())]);
        chain
    }

    /// What takes connections to the targets of a scope.
    fn balance(&self, scope: Scope, targets: &Targets, fragment: &mut Fragment) -> Fate {
        let targets = targets.of_scope(scope);
        let Some(seconds) = self.affinity_seconds() else {
            return if targets.is_empty() { Fate::Refuse } else { Fate::Pick(scope) };
        };
        if targets.is_empty() {
            return Fate::Refuse;
        }
        let rules = self.sticky_rules(targets, seconds, fragment);
        let chain = format!("{}-{}", scope.word(), self.name);
        fragment.chains.insert(chain.clone(), rules);
        Fate::Chain(chain)
    }

    fn affinity_seconds(&self) -> Option<i32> {
        const DEFAULT_SECONDS: i32 = 10_800;
        let config = self.spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
        let seconds = config.and_then(|client_ip| client_ip.timeout_seconds).unwrap_or(DEFAULT_SECONDS);
        (self.spec.session_affinity.as_deref() == Some("ClientIP")).then_some(seconds)
    }

    /// Each endpoint has a chain and a set of the clients it had of late; a client that is in one of them stays, others
    /// are sent anywhere.
    fn sticky_rules(&self, targets: &[Target], seconds: i32, fragment: &mut Fragment) -> Vec<String> {
        let (ip, of) = (self.node.family.word(), self.node.family.address_type());
        let mut rules = Vec::new();
        let mut verdicts = Vec::new();
        for (index, Target { address, port }) in targets.iter().enumerate() {
            // Names of nftables have no colons.
            let at = address.to_string().replace(':', "_");
            let chain = format!("target-{}-{at}-{port}", self.name);
            let clients = format!("clients-{}-{at}-{port}-{seconds}", self.name);
            rules.push(format!("{ip} saddr @{clients} goto {chain}"));
            verdicts.push(format!("{index} : goto {chain}"));
            let remember = format!("update @{clients} {{ {ip} saddr }}");
            let send = format!("meta l4proto {} dnat {ip} to {}", self.protocol, SocketAddr::new(*address, *port));
            let spec = format!("type {of}; flags dynamic,timeout; timeout {seconds}s;");
            fragment.sets.insert(clients, Set::plain(spec));
            fragment.chains.insert(chain, vec![remember, send]);
        }
        rules.push(format!("numgen random mod {} vmap {{ {} }}", verdicts.len(), verdicts.join(", ")));
        rules
    }

    /// External policy Local: what comes from this node and its pods goes anywhere, what comes from outside only to
    /// endpoints here. The second fate is for what falls through.
    fn split(
        &self,
        front: Front,
        cluster: &Fate,
        local: &Fate,
        targets: &Targets,
        fragment: &mut Fragment,
    ) -> (Fate, Option<Fate>) {
        if matches!(cluster, Fate::Refuse | Fate::Drop) {
            return (local.clone(), None);
        }
        let anywhere = self.chain(front, cluster, targets, fragment);
        let mut rules: Vec<String> = self
            .node
            .pod_cidr
            .iter()
            .map(|cidr| format!("{} saddr {cidr} goto {anywhere}", self.node.family.word()))
            .collect();
        rules.push(format!("fib saddr type local goto {anywhere}"));
        let rest = match local {
            Fate::Refuse | Fate::Drop => Some(local.clone()),
            local => {
                rules.push(format!("goto {}", self.chain(front, local, targets, fragment)));
                None
            }
        };
        let chain = format!("external{}-{}", front.suffix(), self.name);
        fragment.chains.insert(chain.clone(), rules);
        (Fate::Chain(chain), rest)
    }

    /// `loadBalancerSourceRanges` in front of `fate`. `None`: nobody may pass (no range of this
    /// family among them).
    fn firewall(&self, front: Front, fate: Fate, targets: &Targets, fragment: &mut Fragment) -> Option<Fate> {
        let ranges = self.spec.load_balancer_source_ranges.as_ref().filter(|ranges| !ranges.is_empty());
        let Some(ranges) = ranges.filter(|_| !matches!(fate, Fate::Refuse | Fate::Drop)) else { return Some(fate) };
        let ranges = ranges.iter().filter_map(|range| range.trim().parse().ok());
        let ranges: Vec<IpNet> = ranges.filter(|range| Family::of_range(*range) == self.node.family).collect();
        // Nested ranges are no error in a Service but one in nftables.
        let ranges: Vec<String> = IpNet::aggregate(&ranges).iter().map(IpNet::to_string).collect();
        if ranges.is_empty() {
            return None;
        }
        let next = self.chain(front, &fate, targets, fragment);
        let rules = vec![
            format!("{} saddr != {{ {} }} drop", self.node.family.word(), ranges.join(", ")),
            format!("goto {next}"),
        ];
        let chain = format!("firewall-{}", self.name);
        fragment.chains.insert(chain.clone(), rules);
        Some(Fate::Chain(chain))
    }

    /// Whose source address must be rewritten for answers to come back through here.
    fn note_sources(&self, targets: &Targets, fragment: &mut Fragment) {
        for target in targets.all() {
            let Target { address, port } = target;
            let is_pod = self.node.pod_cidr.is_none_or(|cidr| cidr.contains(&address));
            let element = match (targets.is_on_node(&target), is_pod) {
                (true, true) => ("hairpin", format!("{address} . {address}")),
                (true, false) => continue,
                (false, _) => ("remote", format!("{address} . {} . {port}", self.protocol)),
            };
            fragment.elements.insert(element, String::new());
        }
    }
}

/// A UDP flow as connection tracking knows it. UDP has no end of its own: as long as a client goes on sending, its
/// packets take the way that the first one took, so ways that are wrong must be forgotten.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UdpFlow {
    /// Its address family.
    pub family: Family,
    /// The Service's address; `None`: a node port.
    pub address: Option<IpAddr>,
    /// The port clients send to.
    pub port: u16,
    /// The endpoint; `None`: not translated at all, since there was no endpoint when the flow began.
    pub endpoint: Option<IpAddr>,
}

/// All UDP flows to endpoints of a Service.
pub fn udp_flows(service: &Service, slices: &[&EndpointSlice], node: &NodeFacts) -> BTreeSet<UdpFlow> {
    let mut flows = BTreeSet::new();
    let family = node.family;
    let Some(spec) = service.spec.as_ref().filter(|spec| is_proxied(service, spec, family)) else { return flows };
    for port in spec.ports.iter().flatten().filter(|port| port.protocol.as_deref() == Some("UDP")) {
        let Some(planner) = PortPlanner::new(service, spec, port, node) else { continue };
        let addresses = cluster_ips(spec, family).chain(planner.external_ips()).chain(planner.load_balancer_ips());
        let mut fronts: Vec<_> = addresses.map(|address| (Some(address), planner.port)).collect();
        fronts.extend(planner.node_port.map(|port| (None, port)));
        for target in Targets::of(port, slices, node).all() {
            let endpoint = Some(target.address);
            let flow =
                |(address, port): &(Option<IpAddr>, u16)| UdpFlow { family, address: *address, port: *port, endpoint };
            flows.extend(fronts.iter().map(flow));
        }
    }
    flows
}

/// What connection tracking must forget when a Service's flows were `before` and are `now`: flows to endpoints that are
/// gone, and untranslated ones to where there was no endpoint and now is.
pub(super) fn stale_flows(before: &BTreeSet<UdpFlow>, now: &BTreeSet<UdpFlow>) -> BTreeSet<UdpFlow> {
    let had_front = |flow: &UdpFlow| before.iter().any(|b| (b.address, b.port) == (flow.address, flow.port));
    let opened = now.iter().filter(|flow| !had_front(flow)).map(|flow| UdpFlow { endpoint: None, ..flow.clone() });
    before.difference(now).cloned().chain(opened).collect()
}
