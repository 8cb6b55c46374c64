//! What goes in and out of the plugin, as the CNI specification 1.0.0 and 1.1.0 writes it.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::netlink::Shape;

/// The specification versions the plugin speaks, oldest first.
pub const VERSIONS: [&str; 2] = ["1.0.0", "1.1.0"];

/// The configuration on standard input: what [`super::install`] wrote, plus what the runtime adds for this call.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PluginConfig {
    /// Specification version of this call.
    #[serde(default)]
    pub cni_version: String,
    /// The network's name.
    #[serde(default)]
    pub name: String,
    /// The plugin's file name.
    #[serde(rename = "type", default)]
    pub plugin: String,
    /// Id of the server that owns the network ([`crate::Instance`]).
    pub instance: String,
    /// Where addresses are booked.
    pub state_dir: PathBuf,
    /// The node's ranges of pod addresses, one of each family.
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Vec<IpNet>,
    /// All nodes' pods, for clean-up.
    #[serde(rename = "clusterCIDRs")]
    pub cluster_cidrs: Vec<IpNet>,
    /// The device towards other nodes that packets from 127.0.0.0/8 may leave by, where it is not ours; for clean-up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uplink: Option<String>,
    /// The node's own addresses in those ranges, the pods' gateways.
    pub gateways: Vec<IpAddr>,
    /// The largest packet of pod devices, in bytes.
    pub mtu: u32,
    /// Capabilities, in the file; the runtime replaces them by `runtimeConfig`.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub capabilities: Value,
    /// What the runtime gives for the capabilities.
    #[serde(default, skip_serializing)]
    pub runtime_config: RuntimeConfig,
    /// The result of ADD, given back for CHECK and DEL.
    #[serde(default, skip_serializing)]
    pub prev_result: Option<Value>,
    /// For GC: what is still in use.
    #[serde(rename = "cni.dev/valid-attachments", default, skip_serializing)]
    pub valid_attachments: Option<Vec<Attachment>>,
}

/// Values for declared capabilities.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RuntimeConfig {
    /// Ports of the host that lead to the pod.
    pub port_mappings: Vec<PortMapping>,
    /// How fast the pod may talk.
    pub bandwidth: Bandwidth,
}

/// How fast a pod may talk; 0: as fast as it can. Bursts are what may exceed the rate for a moment. Names begin with a
/// capital where containerd is old.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Bandwidth {
    /// To the pod, bits per second.
    #[serde(alias = "IngressRate")]
    pub ingress_rate: u64,
    /// To the pod, bits.
    #[serde(alias = "IngressBurst")]
    pub ingress_burst: u64,
    /// From the pod, bits per second.
    #[serde(alias = "EgressRate")]
    pub egress_rate: u64,
    /// From the pod, bits.
    #[serde(alias = "EgressBurst")]
    pub egress_burst: u64,
}

impl Bandwidth {
    /// What the devices of the host and of the pod may send.
    pub(super) fn shapes(self) -> [Option<Shape>; 2] {
        [(self.ingress_rate, self.ingress_burst), (self.egress_rate, self.egress_burst)].map(|(rate, burst)| {
            let rate = rate / 8;
            // Runtimes ask for all that fits into a number; what a second takes is plenty.
            let burst = (burst / 8).clamp(SMALLEST_BURST, rate.max(SMALLEST_BURST));
            (rate > 0).then(|| Shape { rate, burst: u32::try_from(burst).unwrap_or(u32::MAX) })
        })
    }
}

/// A packet that the kernel has not cut up yet must fit, in bytes.
const SMALLEST_BURST: u64 = 64 << 10;

/// One port of the host that leads to a port of the pod. Older containerds begin the names with a capital, which plugins
/// written in Go do not notice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMapping {
    /// The host's port.
    #[serde(alias = "HostPort")]
    pub host_port: u16,
    /// The pod's port.
    #[serde(alias = "ContainerPort")]
    pub container_port: u16,
    /// `tcp`, `udp` or `sctp`, in any case; default `tcp`.
    #[serde(default = "tcp", alias = "Protocol")]
    pub protocol: String,
    /// Only at this address of the host; empty, 0.0.0.0 or `::`: at all.
    #[serde(rename = "hostIP", alias = "HostIP", default)]
    pub host_ip: String,
}

fn tcp() -> String {
    "tcp".to_owned()
}

/// One interface of one sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
pub struct Attachment {
    /// The sandbox.
    #[serde(rename = "containerID")]
    pub container: String,
    /// The interface in it.
    #[serde(rename = "ifname")]
    pub interface: String,
}

/// The answer to ADD.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AddResult {
    /// Specification version of this answer.
    pub cni_version: String,
    /// Both ends of the link, the host's first.
    pub interfaces: Vec<ResultInterface>,
    /// The pod's addresses.
    pub ips: Vec<ResultAddress>,
    /// The pod's routes.
    pub routes: Vec<ResultRoute>,
    /// Always empty: the kubelet writes `resolv.conf`.
    pub dns: serde_json::Map<String, Value>,
}

/// A device of an ADD answer.
#[derive(Clone, Debug, Serialize)]
pub(super) struct ResultInterface {
    /// Name.
    pub name: String,
    /// Hardware address.
    pub mac: String,
    /// The pod's namespace, for devices in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<String>,
}

/// An address of an ADD answer.
#[derive(Clone, Debug, Serialize)]
pub(super) struct ResultAddress {
    /// In CIDR notation.
    pub address: String,
    /// The gateway.
    pub gateway: IpAddr,
    /// Index of the device that has it.
    pub interface: usize,
}

/// A route of an ADD answer.
#[derive(Clone, Debug, Serialize)]
pub(super) struct ResultRoute {
    /// Destination.
    pub dst: IpNet,
    /// Gateway.
    pub gw: IpAddr,
}

/// Why a call failed; the codes are the specification's.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// The configuration is in a version this plugin does not speak.
    #[error("CNI version {0:?} is not supported (1.0.0 and 1.1.0 are)")]
    Version(String),
    /// `CNI_COMMAND` and the like are missing or wrong.
    #[error("environment variable {name} {what}")]
    Environment {
        /// Which variable.
        name: &'static str,
        /// What is wrong with it.
        what: String,
    },
    /// Standard input is not JSON.
    #[error("configuration cannot be decoded: {0}")]
    Decode(#[from] serde_json::Error),
    /// The configuration makes no sense.
    #[error("configuration: {0}")]
    Config(String),
    /// A file or a namespace could not be used.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// All addresses are taken.
    #[error("no free address is left in {0}")]
    NoAddress(IpNet),
    /// The kernel refused a device, address or route.
    #[error(transparent)]
    Netlink(#[from] crate::netlink::NetlinkError),
    /// A kernel switch could not be set.
    #[error(transparent)]
    Sysctl(#[from] crate::sysctl::SysctlError),
    /// nftables refused a host port.
    #[error("host ports: {0}")]
    Nft(#[from] crate::nft::NftError),
    /// What CHECK found wrong.
    #[error("{0}")]
    Check(String),
    /// The network is not up (yet).
    #[error("the pod network is not up: {0}")]
    NotReady(String),
}

impl PluginError {
    /// Wraps an I/O error with what was being done.
    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    fn code(&self) -> u32 {
        match self {
            Self::Version(_) => 1,
            Self::Environment { .. } => 4,
            Self::Io { .. } => 5,
            Self::Decode(_) => 6,
            Self::Config(_) => 7,
            Self::NoAddress(_) => 11,
            Self::NotReady(_) => 50,
            Self::Netlink(_) | Self::Sysctl(_) | Self::Nft(_) => 100,
            Self::Check(_) => 101,
        }
    }

    /// The error as the specification wants it on standard output.
    pub fn to_json(&self, version: &str) -> Value {
        serde_json::json!({"cniVersion": version, "code": self.code(), "msg": self.to_string()})
    }
}
