//! The sandbox of a pod, as the runtime is asked for it.

use std::path::Path;

use k8s_openapi::api::core::v1::Pod;
use skiff_cri::v1::{
    LinuxContainerResources, LinuxPodSandboxConfig, PodSandboxConfig, PodSandboxMetadata, PortMapping, Protocol,
};

use super::dns::{self, Resolvers};
use super::resources::{self, Limits};
use super::{hosts, security};
use crate::pod::facts::{self, key};

/// What the node adds to a sandbox.
pub(crate) struct Surroundings<'a> {
    pub(crate) resolvers: &'a Resolvers,
    /// The directory of all pods' logs.
    pub(crate) logs: &'a Path,
    /// The cgroup of all pods, such as `/kubepods`; empty: cgroups are not ours to make.
    pub(crate) cgroup_root: &'a str,
}

/// The directory of a pod's logs.
pub(crate) fn log_directory(logs: &Path, pod: &Pod) -> std::path::PathBuf {
    logs.join(format!("{}_{}_{}", facts::namespace(pod), facts::name(pod), facts::uid(pod)))
}

/// The pod's `attempt`-th sandbox.
pub(crate) fn config(pod: &Pod, attempt: u32, around: &Surroundings<'_>) -> PodSandboxConfig {
    let on_host = facts::on_host_network(pod);
    let hostname = if on_host { String::new() } else { hosts::hostname(pod, &around.resolvers.domain) };
    let mut labels = pod.metadata.labels.clone().unwrap_or_default();
    labels.insert(key::POD_NAME.to_owned(), facts::name(pod).to_owned());
    labels.insert(key::POD_NAMESPACE.to_owned(), facts::namespace(pod).to_owned());
    labels.insert(key::POD_UID.to_owned(), facts::uid(pod).to_owned());
    let mut annotations = pod.metadata.annotations.clone().unwrap_or_default();
    if let Some(grace) = facts::spec(pod).termination_grace_period_seconds {
        annotations.insert(key::GRACE.to_owned(), grace.to_string());
    }
    let sysctls = facts::spec(pod).security_context.as_ref().and_then(|context| context.sysctls.clone());
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: facts::name(pod).to_owned(),
            uid: facts::uid(pod).to_owned(),
            namespace: facts::namespace(pod).to_owned(),
            attempt,
        }),
        hostname,
        log_directory: log_directory(around.logs, pod).display().to_string(),
        dns_config: Some(dns::config(pod, around.resolvers)),
        port_mappings: if on_host { Vec::new() } else { ports(pod) },
        labels,
        annotations,
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: cgroup_parent(pod, around.cgroup_root),
            security_context: Some(security::sandbox(pod)),
            sysctls: sysctls.into_iter().flatten().map(|sysctl| (sysctl.name, sysctl.value)).collect(),
            overhead: None,
            resources: Some(linux(resources::pod(pod))),
        }),
    }
}

fn cgroup_parent(pod: &Pod, root: &str) -> String {
    if root.is_empty() { String::new() } else { format!("{root}/{}", resources::pod_cgroup(pod)) }
}

fn linux(limits: Limits) -> LinuxContainerResources {
    LinuxContainerResources {
        cpu_period: resources::PERIOD,
        cpu_quota: limits.cpu_quota,
        cpu_shares: limits.cpu_shares,
        memory_limit_in_bytes: limits.memory,
        ..LinuxContainerResources::default()
    }
}

fn ports(pod: &Pod) -> Vec<PortMapping> {
    let containers = facts::containers(pod);
    let ports = containers.iter().flat_map(|(_, container)| container.ports.iter().flatten());
    let mapped = ports.filter(|port| port.host_port.is_some_and(|port| port > 0));
    let mapping = mapped.map(|port| PortMapping {
        protocol: match port.protocol.as_deref() {
            Some("UDP") => Protocol::Udp,
            Some("SCTP") => Protocol::Sctp,
            _ => Protocol::Tcp,
        }
        .into(),
        container_port: port.container_port,
        host_port: port.host_port.unwrap_or_default(),
        host_ip: port.host_ip.clone().unwrap_or_default(),
    });
    mapping.collect()
}
