//! The pod network's own nftables table: masquerade of what leaves it, and ports of the host that lead to pods.
//!
//! The agent puts the table up; the CNI plugin adds and removes a pod's host ports in it, so that they work when ADD
//! returns. What a pod has is kept in its booking record before it goes into the table, and the agent reads the records
//! again after putting the table up, so that neither a restart nor a race loses a port.

use std::fmt::Write;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::Instance;
use crate::cni::{PluginError, PortMapping, Record};

/// What the table depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodNetwork {
    /// Pods of this node.
    pub pod_cidr: Ipv4Net,
    /// Pods of all nodes.
    pub cluster_cidr: Ipv4Net,
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
    let mut script = format!(
        r#"add table ip {table}
delete table ip {table}
table ip {table} {{
  map host-ports {{ type inet_proto . inet_service : ipv4_addr . inet_service; }}
  map host-address-ports {{ type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }}
  set own {{ type ipv4_addr . ipv4_addr; }}
  chain guard {{
    type filter hook prerouting priority -300;
    iifname != "lo" ip daddr 127.0.0.0/8 drop
  }}
  chain host-ports {{
    meta l4proto {{ tcp, udp, sctp }} dnat ip to ip daddr . meta l4proto . th dport map @host-address-ports
    meta l4proto {{ tcp, udp, sctp }} fib daddr type local dnat ip to meta l4proto . th dport map @host-ports
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
    ct status dnat ip saddr . ip daddr @own masquerade
    ip saddr 127.0.0.0/8 oifname "{prefix}*" masquerade
    ip saddr {pod_cidr} ip daddr != {{ {cluster_cidr}, 224.0.0.0/4 }} oifname != "{prefix}*" masquerade fully-random
  }}
}}
"#
    );
    for record in records.iter().filter(|record| !record.ports.is_empty()) {
        script.push_str(&add_script(instance, record)?);
    }
    Ok(script)
}

/// A script that adds the ports of one pod; adding them again is fine.
///
/// # Errors
/// When a mapping makes no sense.
pub(crate) fn add_script(instance: &Instance, record: &Record) -> Result<String, PluginError> {
    let table = instance.pod_table();
    let mut script = String::new();
    for mapping in &record.ports {
        let element = element(mapping, record.address)?;
        let _ = writeln!(script, "add element ip {table} {element}");
    }
    let _ = writeln!(script, "add element ip {table} own {{ {0} . {0} }}", record.address);
    Ok(script)
}

/// Scripts that remove the ports of one pod, each to be tried for itself. Adding first makes removing a port that is
/// gone already no error, while a port that now leads elsewhere makes the script fail, as it should.
pub(crate) fn remove_scripts(instance: &Instance, record: &Record) -> Vec<String> {
    if record.ports.is_empty() {
        return Vec::new();
    }
    let table = instance.pod_table();
    let mut elements: Vec<String> =
        record.ports.iter().filter_map(|mapping| element(mapping, record.address).ok()).collect();
    elements.push(format!("own {{ {0} . {0} }}", record.address));
    let script = |element: String| format!("add element ip {table} {element}\ndelete element ip {table} {element}\n");
    elements.into_iter().map(script).collect()
}

/// `MAP { KEY : VALUE }` of one mapping.
fn element(mapping: &PortMapping, pod: Ipv4Addr) -> Result<String, PluginError> {
    let protocol = mapping.protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(PluginError::Config(format!("port mapping has unknown protocol {:?}", mapping.protocol)));
    }
    let (host, port) = (mapping.host_port, mapping.container_port);
    if matches!(mapping.host_ip.as_str(), "" | "0.0.0.0" | "::") {
        return Ok(format!("host-ports {{ {protocol} . {host} : {pod} . {port} }}"));
    }
    let address: Ipv4Addr = mapping
        .host_ip
        .parse()
        .map_err(|_| PluginError::Config(format!("port mapping has no IPv4 address: {:?}", mapping.host_ip)))?;
    Ok(format!("host-address-ports {{ {address} . {protocol} . {host} : {pod} . {port} }}"))
}
