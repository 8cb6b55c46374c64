//! What is odd about a pod or a template of pods (`pkg/api/pod/warnings.go`).

use std::collections::HashMap;

use serde_json::{Value, json};

use super::{Warnings, claim_spec, fraction, node_expressions, old_node_label, paths};
use crate::addresses::warn_ip;
use crate::at::At;
use crate::view::View;

const OLD_ANNOTATIONS: &[(&str, &str)] = &[
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        "non-functional in v1.16+; use the \"priorityClassName\" field instead",
    ),
    ("security.alpha.kubernetes.io/sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
    ("security.alpha.kubernetes.io/unsafe-sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
];
const POD_SECCOMP: &str = "seccomp.security.alpha.kubernetes.io/pod";
const CONTAINER_SECCOMP: &str = "container.seccomp.security.alpha.kubernetes.io/";
/// Before a container's name: the annotation that the field `appArmorProfile` came after.
const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

/// Kinds of volumes that are no longer there, and since when.
const OLD_VOLUMES: &[(&str, &str)] = &[
    ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageOS", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

/// Warns of volumes of kinds that are no longer there.
pub(super) fn old_volume(volume: &At<'_>, kinds: &[&str], out: &mut Warnings) {
    for (kind, why) in OLD_VOLUMES.iter().filter(|(kind, _)| kinds.contains(kind) && volume.has(kind)) {
        out.push(format!("{}: {why}", volume.path(kind)));
    }
}

/// Warns of what is odd about the pod or template here.
pub(super) fn pod(at: &At<'_>, is_template: bool, out: &mut Warnings) {
    let spec = at.get("spec");
    let annotations = at.get("metadata").get("annotations");
    nodes(&spec, out);
    for (key, why) in OLD_ANNOTATIONS.iter().filter(|(key, _)| annotations.has(key)) {
        out.push(format!("{}: {why}", annotations.path.key(key)));
    }
    let kinds: Vec<&str> = OLD_VOLUMES.iter().map(|(kind, _)| *kind).collect();
    for volume in spec.items("volumes") {
        old_volume(&volume, &kinds, out);
        claim_spec(&volume.get("ephemeral").get("volumeClaimTemplate").get("spec"), out);
        paths::overlaps(&volume, out);
    }
    repeated(&spec, "hostAliases", "ip", out);
    repeated(&spec, "imagePullSecrets", "name", out);
    for secret in spec.items("imagePullSecrets").filter(|secret| secret.text("name").is_empty()) {
        out.push(format!("{}: invalid empty name \"\"", secret.path("name")));
    }
    fractions(&spec.get("overhead"), out);
    if !spec.get("securityContext").has("seccompProfile") && annotations.has(POD_SECCOMP) {
        out.push(old_seccomp(&annotations, POD_SECCOMP));
    }
    let all = containers(&spec);
    for container in &all {
        security(container, at, is_template, out);
        fractions(&container.get("resources").get("limits"), out);
        fractions(&container.get("resources").get("requests"), out);
        hidden(container, out);
    }
    ports(&all, out);
    if spec.int("terminationGracePeriodSeconds").is_some_and(|seconds| seconds < 0) {
        let path = spec.path("terminationGracePeriodSeconds");
        out.push(format!("{path}: must be >= 0; negative values are invalid and will be treated as 1"));
    }
    affinity(&spec.get("affinity"), out);
    for server in spec.get("dnsConfig").items("nameservers") {
        warn_ip(&server.path, server.value.as_str().unwrap_or_default(), out);
    }
    for alias in spec.items("hostAliases") {
        warn_ip(&alias.path("ip"), alias.text("ip"), out);
    }
}

/// Containers in the order in which a pod starts them.
fn containers<'v>(spec: &At<'v>) -> Vec<At<'v>> {
    ["initContainers", "containers", "ephemeralContainers"].iter().flat_map(|list| spec.items(list)).collect()
}

/// Old labels of nodes, and selectors that are none.
fn nodes(spec: &At<'_>, out: &mut Warnings) {
    for (label, at) in spec.entries("nodeSelector") {
        out.extend(old_node_label(label).map(|why| format!("{}: {why}", at.path)));
    }
    let affinity = spec.get("affinity").get("nodeAffinity");
    for term in affinity.get("requiredDuringSchedulingIgnoredDuringExecution").items("nodeSelectorTerms") {
        node_expressions(&term, false, out);
    }
    for term in affinity.items("preferredDuringSchedulingIgnoredDuringExecution") {
        node_expressions(&term.get("preference"), true, out);
    }
    for constraint in spec.items("topologySpreadConstraints") {
        let key = constraint.text("topologyKey");
        out.extend(old_node_label(key).map(|why| format!("{}: {key} is {why}", constraint.path("topologyKey"))));
        selects_nothing(&constraint, out);
    }
}

fn selects_nothing(holder: &At<'_>, out: &mut Warnings) {
    if !holder.has("labelSelector") {
        let path = holder.path("labelSelector");
        out.push(format!("{path}: a null labelSelector results in matching no pod"));
    }
}

fn affinity(at: &At<'_>, out: &mut Warnings) {
    for part in ["podAffinity", "podAntiAffinity"] {
        let part = at.get(part);
        part.items("requiredDuringSchedulingIgnoredDuringExecution").for_each(|term| selects_nothing(&term, out));
        let preferred = part.items("preferredDuringSchedulingIgnoredDuringExecution");
        preferred.for_each(|term| selects_nothing(&term.get("podAffinityTerm"), out));
    }
}

/// Items of a list that are there before.
fn repeated(spec: &At<'_>, list: &str, key: &str, out: &mut Warnings) {
    let mut seen = Vec::new();
    for item in spec.items(list) {
        let text = item.text(key);
        if seen.contains(&text) {
            out.push(format!("{}: duplicate {key} {text:?}", item.path(key)));
        }
        seen.push(text);
    }
}

fn fractions(list: &At<'_>, out: &mut Warnings) {
    fraction(list, "memory", out);
    fraction(list, "ephemeral-storage", out);
}

fn old_seccomp(annotations: &At<'_>, key: &str) -> String {
    let path = annotations.path.key(key);
    format!("{path}: non-functional in v1.27+; use the \"seccompProfile\" field instead")
}

/// Annotations that stand for fields of a container.
fn security(container: &At<'_>, pod: &At<'_>, is_template: bool, out: &mut Warnings) {
    let annotations = pod.get("metadata").get("annotations");
    let (name, context) = (container.text("name"), container.get("securityContext"));
    let seccomp = format!("{CONTAINER_SECCOMP}{name}");
    if !context.has("seccompProfile") && annotations.has(&seccomp) {
        out.push(old_seccomp(&annotations, &seccomp));
    }
    let key = format!("{APP_ARMOR}{name}");
    if context.has("appArmorProfile") || !annotations.has(&key) {
        return;
    }
    let of_pod = pod.value.at("spec.securityContext").get_or_null("appArmorProfile");
    let meant = app_armor_profile(pod.value, name);
    let said = meant.as_ref() == Some(of_pod);
    let windows = !is_template && pod.value.at("spec.os").text("name") == "windows";
    if !said && !windows {
        let path = annotations.path.key(&key);
        out.push(format!("{path}: deprecated since v1.30; use the \"appArmorProfile\" field instead"));
    }
}

/// The profile that an annotation means for the container called `container`.
pub(crate) fn app_armor_profile(pod: &Value, container: &str) -> Option<Value> {
    let annotation = pod.at("metadata.annotations").get_or_null(&format!("{APP_ARMOR}{container}")).as_str()?;
    match annotation {
        "unconfined" => Some(json!({"type": "Unconfined"})),
        "runtime/default" => Some(json!({"type": "RuntimeDefault"})),
        other => {
            let file = other.strip_prefix("localhost/").filter(|file| !file.is_empty())?;
            Some(json!({"type": "Localhost", "localhostProfile": file}))
        }
    }
}

/// Variables that hide one of the same name.
fn hidden(container: &At<'_>, out: &mut Warnings) {
    let mut seen = Vec::new();
    for variable in container.items("env") {
        let name = variable.text("name");
        if seen.contains(&name) {
            // One that adds to the one before it is no mistake.
            let (reference, value) = (format!("$({name})"), variable.text("value"));
            if variable.has("valueFrom") || value == reference || !value.contains(&reference) {
                let path = &variable.path;
                out.push(format!(
                    "{path}: hides previous definition of {name:?}, which may be dropped when using apply"
                ));
            }
        }
        seen.push(name);
    }
}

/// Ports of one pod that are the same, or might be.
fn ports(containers: &[At<'_>], out: &mut Warnings) {
    let all: Vec<At<'_>> =
        containers.iter().flat_map(|container| container.items("ports").collect::<Vec<_>>()).collect();
    let host_port = |port: &At<'_>| port.int("hostPort").unwrap_or_default();
    for (number, port) in all.iter().enumerate() {
        let (ip, host) = (port.text("hostIP"), host_port(port));
        let (own, protocol, path) = (port.int("containerPort").unwrap_or_default(), port.text("protocol"), &port.path);
        if !ip.is_empty() && host == 0 {
            let name = port.text("name");
            out.push(format!(
                "{path}: hostIP set without hostPort: {{Name:{name} HostPort:0 ContainerPort:{own} \
                 Protocol:{protocol} HostIP:{ip}}}"
            ));
        }
        let is_same = |other: &&At<'_>| {
            other.int("containerPort").unwrap_or_default() == own && other.text("protocol") == protocol
        };
        for other in all[..number].iter().filter(is_same) {
            let how = match (host_port(other), other.text("hostIP")) {
                (other_host, other_ip) if other_host == host && other_ip == ip => "duplicate",
                (other_host, _) if host == 0 || other_host == 0 => "overlapping",
                (other_host, other_ip) if other_host == host && ip.is_empty() != other_ip.is_empty() => {
                    "dangerously ambiguous"
                }
                _ => continue,
            };
            out.push(format!("{path}: {how} port definition with {}", other.path));
        }
    }
    let mut named = HashMap::new();
    for port in all.iter().filter(|port| !port.text("name").is_empty()) {
        let (name, path) = (port.text("name"), &port.path);
        match named.get(name) {
            None => drop(named.insert(name, path)),
            Some(first) => out.push(format!(
                "{path}: duplicate port name {name:?} with {first}, services and probes that select ports by name will \
                 use {first}"
            )),
        }
    }
}
