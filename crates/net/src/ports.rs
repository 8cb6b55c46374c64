//! The pod network's own nftables tables, one of each family: masquerade of what leaves it, and ports of the host that lead to pods.
//!
//! The agent puts the table up; the CNI plugin adds and removes a pod's host ports in it, so that they work when ADD
//! returns. What a pod has is kept in its booking record before it goes into the table, and the agent reads the records
//! again after putting the table up, so that neither a restart nor a race loses a port.

use std::fmt::Write;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::cni::{PluginError, PortMapping, Record};
use crate::{Family, Instance};

/// What the table depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodNetwork {
    /// Pods of this node.
    pub pod_cidr: IpNet,
    /// Pods of all nodes.
    pub cluster_cidr: IpNet,
}

/// A script that puts the table up anew, in one step, with the ports of `records`.
///
/// # Errors
/// When a record has a mapping that makes no sense.
pub(crate) fn table_script(
    instance: &Instance,
    network: PodNetwork,
    records: &[Record],
) -> Result<String, PluginError> {
    let (table, prefix) = (instance.pod_table(), instance.device_prefix());
    let PodNetwork { pod_cidr, cluster_cidr } = network;
    let family = Family::of_range(pod_cidr);
    let (ip, address, loopback, unrouted) =
        (family.word(), family.address_type(), family.loopback(), family.unrouted());
    // IPv6 has no switch that refuses senders whom the pod's device does not lead back to.
    let spoof = match family {
        Family::V4 => String::new(),
        Family::V6 => format!("iifname \"{prefix}*\" ip6 saddr != :: fib saddr . iif oif missing drop"),
    };
    let mut script = format!(
        r#"add table {ip} {table}
delete table {ip} {table}
table {ip} {table} {{
  map host-ports {{ type inet_proto . inet_service : {address} . inet_service; }}
  map host-address-ports {{ type {address} . inet_proto . inet_service : {address} . inet_service; }}
  set own {{ type {address} . {address}; }}
  chain guard {{
    type filter hook prerouting priority -300;
    iifname != "lo" {ip} daddr {loopback} drop
    {spoof}
  }}
  chain host-ports {{
    meta l4proto {{ tcp, udp, sctp }} dnat {ip} to {ip} daddr . meta l4proto . th dport map @host-address-ports
    meta l4proto {{ tcp, udp, sctp }} fib daddr type local dnat {ip} to meta l4proto . th dport map @host-ports
  }}
  chain prerouting {{
    type nat hook prerouting priority -90;
    jump host-ports
  }}
  chain output {{
    type nat hook output priority -90;
    jump host-ports
  }}
  chain postrouting {{
    type nat hook postrouting priority 100;
    ct status dnat {ip} saddr . {ip} daddr @own masquerade
    {ip} saddr {loopback} oifname "{prefix}*" masquerade
    {ip} saddr {pod_cidr} {ip} daddr != {{ {cluster_cidr}, {unrouted} }} oifname != "{prefix}*" masquerade fully-random
  }}
}}
"#
    );
    for record in records.iter().filter(|record| !record.ports.is_empty()) {
        for line in elements(record)?.into_iter().filter(|element| element.family == family) {
            let _ = writeln!(script, "add element {}", line.of(&table));
        }
    }
    Ok(script)
}

/// A script that adds the ports of one pod; adding them again is fine.
///
/// # Errors
/// When a mapping makes no sense.
pub(crate) fn add_script(instance: &Instance, record: &Record) -> Result<String, PluginError> {
    let table = instance.pod_table();
    Ok(elements(record)?.iter().map(|element| format!("add element {}\n", element.of(&table))).collect())
}

/// Scripts that remove the ports of one pod, each to be tried for itself. Adding first makes removing a port that is
/// gone already no error, while a port that now leads elsewhere makes the script fail, as it should.
pub(crate) fn remove_scripts(instance: &Instance, record: &Record) -> Vec<String> {
    if record.ports.is_empty() {
        return Vec::new();
    }
    let table = instance.pod_table();
    let script = |element: Element| {
        let element = element.of(&table);
        format!("add element {element}\ndelete element {element}\n")
    };
    // What makes no sense was never added.
    elements(record).unwrap_or_default().into_iter().map(script).collect()
}

/// An element of a set or map of the family's table: `SET { KEY : VALUE }`.
struct Element {
    family: Family,
    text: String,
}

impl Element {
    fn of(&self, table: &str) -> String {
        format!("{} {table} {}", self.family.word(), self.text)
    }
}

/// All that the ports of one pod add.
fn elements(record: &Record) -> Result<Vec<Element>, PluginError> {
    let mut elements = Vec::new();
    for pod in &record.addresses {
        let family = Family::of(*pod);
        for mapping in &record.ports {
            elements.extend(element(mapping, *pod)?.map(|text| Element { family, text }));
        }
        elements.push(Element { family, text: format!("own {{ {pod} . {pod} }}") });
    }
    Ok(elements)
}

/// The element of one mapping to one of the pod's addresses; `None` where it is for the other family.
fn element(mapping: &PortMapping, pod: IpAddr) -> Result<Option<String>, PluginError> {
    let protocol = mapping.protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(PluginError::Config(format!("port mapping has unknown protocol {:?}", mapping.protocol)));
    }
    let (host, port) = (mapping.host_port, mapping.container_port);
    if matches!(mapping.host_ip.as_str(), "" | "0.0.0.0" | "::") {
        return Ok(Some(format!("host-ports {{ {protocol} . {host} : {pod} . {port} }}")));
    }
    let address: IpAddr = mapping
        .host_ip
        .parse()
        .map_err(|_| PluginError::Config(format!("port mapping has no address: {:?}", mapping.host_ip)))?;
    let text = format!("host-address-ports {{ {address} . {protocol} . {host} : {pod} . {port} }}");
    Ok((address.is_ipv4() == pod.is_ipv4()).then_some(text))
}
