//! Where requests for logs, exec and proxies go: pure, from the objects and the query to an address.
//!
//! As upstream's `pkg/registry/core/pod/strategy.go` and its neighbours for nodes and services.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Node, Pod, PodSpec};
use skiff_meta::Status;

use super::options::{self, Query};

/// Port of a kubelet that does not tell its own.
const KUBELET_PORT: u16 = 10_250;

/// How to speak to the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    /// HTTPS with our client certificate, trusting our authority.
    Kubelet,
    /// Plain HTTP.
    Plain,
    /// HTTPS without checking who answers: a pod's certificate is its own business.
    Unchecked,
}

/// A place to send a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Location {
    pub(super) transport: Transport,
    pub(super) host: String,
    pub(super) port: u16,
    /// Path and query.
    pub(super) path: String,
}

impl Location {
    /// `HOST:PORT`.
    pub(super) fn authority(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

/// What a stream of a pod is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    Exec,
    Attach,
    PortForward,
}

/// Path and query of a container's log at the kubelet.
pub(super) fn log_path(pod: &Pod, query: &Query) -> Result<String, Status> {
    let container = container(pod, query.get("container").unwrap_or_default())?;
    let (namespace, name) = names(pod);
    Ok(with_query(format!("/containerLogs/{namespace}/{name}/{container}"), &options::log(query, name)?))
}

/// Path and query of a stream at the kubelet.
pub(super) fn stream_path(pod: &Pod, stream: Stream, query: &Query) -> Result<String, Status> {
    let (namespace, name) = names(pod);
    let wanted = query.get("container").unwrap_or_default();
    let (path, query) = match stream {
        Stream::PortForward => (format!("/portForward/{namespace}/{name}"), options::port_forward(query)?),
        Stream::Exec => (format!("/exec/{namespace}/{name}/{}", container(pod, wanted)?), options::exec(query)),
        Stream::Attach => (format!("/attach/{namespace}/{name}/{}", container(pod, wanted)?), options::attach(query)),
    };
    Ok(with_query(path, &query))
}

fn names(pod: &Pod) -> (&str, &str) {
    let metadata = &pod.metadata;
    (metadata.namespace.as_deref().unwrap_or_default(), metadata.name.as_deref().unwrap_or_default())
}

fn with_query(path: String, query: &str) -> String {
    if query.is_empty() { path } else { format!("{path}?{query}") }
}

/// The container called `wanted`, or the only one there is.
fn container(pod: &Pod, wanted: &str) -> Result<String, Status> {
    let (_, name) = names(pod);
    let spec = pod.spec.as_ref();
    let all: Vec<&str> = spec.map(container_names).unwrap_or_default();
    if !wanted.is_empty() {
        return match all.contains(&wanted) {
            true => Ok(wanted.to_owned()),
            false => Err(Status::bad_request(format!("container {wanted} is not valid for pod {name}"))),
        };
    }
    match spec.map(|s| s.containers.as_slice()).unwrap_or_default() {
        [only] => Ok(only.name.clone()),
        [] => Err(Status::bad_request(format!("a container name must be specified for pod {name}"))),
        _ => Err(Status::bad_request(format!(
            "a container name must be specified for pod {name}, choose one of: [{}]",
            all.join(" ")
        ))),
    }
}

fn container_names(spec: &PodSpec) -> Vec<&str> {
    let init = spec.init_containers.iter().flatten().map(|c| c.name.as_str());
    let ordinary = spec.containers.iter().map(|c| c.name.as_str());
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|c| c.name.as_str());
    init.chain(ordinary).chain(ephemeral).collect()
}

/// The name of the node a pod is bound to.
pub(super) fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|node| !node.is_empty())
}

/// The kubelet of a node, at `path`.
pub(super) fn kubelet(node: &Node, path: String) -> Result<Location, Status> {
    let status = node.status.as_ref();
    let addresses = status.and_then(|s| s.addresses.as_deref()).unwrap_or_default();
    let of_type = |ty: &str| addresses.iter().find(|a| a.type_ == ty).map(|a| a.address.clone());
    let host = ["InternalIP", "ExternalIP", "Hostname"].iter().find_map(|ty| of_type(ty)).ok_or_else(|| {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let shown: Vec<String> = addresses.iter().map(|a| format!("{}={}", a.type_, a.address)).collect();
        Status::internal(format!(
            "no preferred addresses found for node {name:?}; known addresses: [{}]",
            shown.join(" ")
        ))
    })?;
    let port = status.and_then(|s| s.daemon_endpoints.as_ref()?.kubelet_endpoint.as_ref()).map(|e| e.port);
    let port = port.and_then(|p| u16::try_from(p).ok()).filter(|p| *p != 0).unwrap_or(KUBELET_PORT);
    Ok(Location { transport: Transport::Kubelet, host, port, path })
}

/// `NAME`, `NAME:PORT` or `SCHEME:NAME:PORT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted<'a> {
    pub(super) scheme: &'a str,
    pub(super) name: &'a str,
    pub(super) port: &'a str,
}

impl<'a> Wanted<'a> {
    pub(super) fn parse(kind: &str, id: &'a str) -> Result<Self, Status> {
        let parts: Vec<&str> = id.split(':').collect();
        let wanted = match *parts.as_slice() {
            [name] => Self { scheme: "", name, port: "" },
            [name, port] => Self { scheme: "", name, port },
            [scheme, name, port] => Self { scheme, name, port },
            _ => Self { scheme: "?", name: "", port: "" },
        };
        let good = !wanted.name.is_empty() && matches!(wanted.scheme, "" | "http" | "https");
        if good { Ok(wanted) } else { Err(Status::bad_request(format!("invalid {kind} request {id:?}"))) }
    }

    fn transport(&self) -> Transport {
        if self.scheme == "https" { Transport::Unchecked } else { Transport::Plain }
    }

    /// A place at `host`, where no port means that of the scheme.
    pub(super) fn at(&self, host: &str, port: &str, path: String) -> Result<Location, Status> {
        if !is_reachable(host) {
            return Err(Status::bad_request("address not allowed"));
        }
        let transport = self.transport();
        let port = match (port, transport) {
            ("", Transport::Unchecked) => 443,
            ("", _) => 80,
            (port, _) => port.parse().map_err(|_| Status::bad_request(format!("invalid port {port:?}")))?,
        };
        Ok(Location { transport, host: host.to_owned(), port, path })
    }
}

/// A pod's own address and the port asked for, or its first declared one.
pub(super) fn pod(pod: &Pod, wanted: &Wanted<'_>, path: String) -> Result<Location, Status> {
    let status = pod.status.as_ref();
    let first = status.and_then(|s| s.pod_ips.as_ref()?.first()).map(|ip| ip.ip.as_str());
    let host = first.or_else(|| status.and_then(|s| s.pod_ip.as_deref())).unwrap_or_default();
    let containers = pod.spec.as_ref().map(|s| s.containers.as_slice()).unwrap_or_default();
    let declared = containers.iter().find_map(|c| c.ports.as_ref()?.first()).map(|p| p.container_port.to_string());
    let port = if wanted.port.is_empty() { declared.unwrap_or_default() } else { wanted.port.to_owned() };
    wanted.at(host, &port, path)
}

/// Addresses a proxy may be sent to: not the API server's own machine, and nobody in particular.
fn is_reachable(host: &str) -> bool {
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(a)) => {
            !(a.is_unspecified() || a.is_loopback() || a.is_link_local() || a.is_multicast() || a.is_broadcast())
        }
        Ok(IpAddr::V6(a)) => !(a.is_unspecified() || a.is_loopback() || a.is_unicast_link_local() || a.is_multicast()),
        Err(_) => false,
    }
}

/// What the cluster itself asks of a kubelet, also of one on this machine's loopback: no other server that might listen
/// there knows these paths.
fn is_kubelets_own(path: &str) -> bool {
    let plain = path.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-'));
    plain && (path == "/stats/summary" || path.starts_with("/localVolumes/"))
}

/// A node at `path`: its kubelet, or another port of it.
pub(super) fn node(node: &Node, wanted: &Wanted<'_>, path: String) -> Result<Location, Status> {
    let kubelet = kubelet(node, path)?;
    let reachable = is_reachable(&kubelet.host) || (wanted.port.is_empty() && is_kubelets_own(&kubelet.path));
    if !reachable && kubelet.host.parse::<IpAddr>().is_ok() {
        return Err(Status::bad_request("address not allowed"));
    }
    if wanted.port.is_empty() || wanted.port == kubelet.port.to_string() {
        return Ok(kubelet);
    }
    wanted.at(&kubelet.host, wanted.port, kubelet.path)
}
