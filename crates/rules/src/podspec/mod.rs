//! Pods and templates of pods: what is filled in, and what is refused (`pkg/apis/core/v1/defaults.go`,
//! `pkg/apis/core/validation/validation.go`).

mod containers;
mod defaults;
mod env;
mod handlers;
pub(crate) mod qos;
mod remote;
mod resources;
mod scheduling;
mod security;
mod volumes;
mod windows;

use serde_json::Value;
use skiff_meta::field::{FieldError, FieldErrors};
use skiff_meta::names::{self, NameForm};

use crate::addresses::ip;
use crate::at::At;
use crate::metadata;
use crate::view::View;

pub(crate) use containers::untrimmed_image;
pub(crate) use defaults::{default_pod, default_resources, default_source, default_spec, round};
pub(crate) use remote::Holder;
pub(crate) use resources::{is_extended, may_overcommit, quantity, resource_name};
pub(crate) use scheduling::{node_selector, tolerations};
pub(crate) use security::app_armor_of_annotations;
pub(crate) use volumes::{no_backsteps, volume_source};

/// What surrounds a pod's spec.
#[derive(Clone, Copy)]
pub(crate) struct Context<'v> {
    /// The metadata of the pod; `None` for templates.
    pub(crate) pod: Option<&'v Value>,
}

fn subdomain(name: &str) -> Vec<String> {
    names::dns1123_subdomain(name)
}

/// Faults of a pod's spec.
pub(crate) fn validate(spec: &At<'_>, context: Context<'_>, out: &mut FieldErrors) {
    if !spec.has("terminationGracePeriodSeconds") {
        spec.missing("terminationGracePeriodSeconds", "", out);
    }
    let volumes = volumes::validate(spec, context, out);
    containers::resource_claims(spec, out);
    containers::validate(spec, &volumes, out);
    resources::pod_level(spec, out);
    host_network_ports(spec, context, out);
    spec.one_of("restartPolicy", &["Always", "OnFailure", "Never"], out);
    spec.one_of("dnsPolicy", &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"], out);
    spec.labels("nodeSelector", out);
    security::pod(spec, out);
    scheduling::affinity(&spec.get("affinity"), out);
    dns_config(spec, out);
    for gate in spec.items("readinessGates") {
        gate.faults("conditionType", &names::qualified_name(gate.text("conditionType")), out);
    }
    scheduling::gates(spec, out);
    scheduling::spread_constraints(spec, out);
    windows::host_processes(spec, out);
    security::host_users(spec, out);
    hostname_override(spec, out);
    spec.form("serviceAccountName", subdomain, out);
    spec.form("nodeName", subdomain, out);
    spec.in_range("activeDeadlineSeconds", 1, i32::MAX.into(), out);
    spec.form("hostname", names::dns1123_label, out);
    spec.form("subdomain", names::dns1123_label, out);
    tolerations(spec, out);
    host_aliases(spec, out);
    spec.form("priorityClassName", subdomain, out);
    spec.form("runtimeClassName", subdomain, out);
    if spec.has("preemptionPolicy") {
        spec.one_of("preemptionPolicy", &["PreemptLowerPriority", "Never"], out);
    }
    for (name, mut amount) in spec.entries("overhead") {
        // Looked at as the limits of a container.
        amount.path = spec.path("overhead").child("limits").key(name);
        resource_name(name, &amount, true, out);
        quantity(name, &amount, out);
    }
    windows::system(spec, out);
    env::file_volumes(spec, out);
}

/// Faults of a template of pods at `template`.
pub(crate) fn validate_template(template: &At<'_>, out: &mut FieldErrors) {
    // Upstream's paths leave out `metadata` here.
    let meta = template.value.get_or_null("metadata");
    metadata::labels(meta, "labels", &template.path, out);
    metadata::annotations(meta, &template.path("annotations"), out);
    let spec = template.get("spec");
    validate(&spec, Context { pod: None }, out);
    if spec.value.count("ephemeralContainers") > 0 {
        spec.forbidden("ephemeralContainers", "ephemeral containers not allowed in pod template", out);
    }
}

fn host_network_ports(spec: &At<'_>, context: Context<'_>, out: &mut FieldErrors) {
    if !spec.flag("hostNetwork") {
        return;
    }
    for port in spec.items("containers").flat_map(|c| c.items("ports").collect::<Vec<_>>()) {
        let host = port.int("hostPort").unwrap_or_default();
        if (context.pod.is_some() || host != 0) && host != port.int("containerPort").unwrap_or_default() {
            port.invalid("hostPort", "must match `containerPort` when `hostNetwork` is true", out);
        }
    }
}

fn hostname_override(spec: &At<'_>, out: &mut FieldErrors) {
    let Some(name) = spec.value.get_or_null("hostnameOverride").as_str() else { return };
    if spec.flag("setHostnameAsFQDN") {
        spec.forbidden("hostnameOverride", "may not be specified when setHostnameAsFQDN is true", out);
    }
    if spec.flag("hostNetwork") {
        spec.forbidden("hostnameOverride", "may not be specified when hostNetwork is true", out);
    }
    if name.len() > 64 {
        out.push(FieldError::too_long(&spec.path("hostnameOverride"), 64));
    }
    spec.faults("hostnameOverride", &subdomain(name), out);
}

/// Whether `text` is an address of either family.
pub(crate) fn is_ip(text: &str) -> bool {
    text.parse::<std::net::IpAddr>().is_ok()
}

/// The address here must be one that other machines can reach.
pub(crate) fn endpoint_ip(at: &At<'_>, out: &mut FieldErrors) {
    let before = out.len();
    ip(at, out);
    let text = at.value.as_str().unwrap_or_default();
    let Some(address) = text.parse::<std::net::IpAddr>().ok().filter(|_| out.len() == before) else { return };
    let (link_local, link_multicast) = match address {
        std::net::IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        std::net::IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.segments()[0] & 0xffc0 == 0xff00),
    };
    if address.is_unspecified() {
        at.wrong(&format!("may not be unspecified ({text})"), out);
    }
    if address.is_loopback() {
        at.wrong("may not be in the loopback range (127.0.0.0/8, ::1/128)", out);
    }
    if link_local {
        at.wrong("may not be in the link-local range (169.254.0.0/16, fe80::/10)", out);
    }
    if link_multicast {
        at.wrong("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)", out);
    }
}

fn host_aliases(spec: &At<'_>, out: &mut FieldErrors) {
    for alias in spec.items("hostAliases") {
        ip(&alias.get("ip"), out);
        for hostname in alias.items("hostnames") {
            for why in subdomain(hostname.value.as_str().unwrap_or_default()) {
                hostname.wrong(&why, out);
            }
        }
    }
}

fn dns_config(spec: &At<'_>, out: &mut FieldErrors) {
    let config = spec.get("dnsConfig");
    if spec.text("dnsPolicy") == "None" {
        if !config.is_set() {
            return spec.missing("dnsConfig", "must provide `dnsConfig` when `dnsPolicy` is None", out);
        }
        if config.value.count("nameservers") == 0 {
            let why = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            return config.missing("nameservers", why, out);
        }
    }
    if config.value.count("nameservers") > 3 {
        config.invalid("nameservers", "must not have more than 3 nameservers", out);
    }
    for server in config.items("nameservers") {
        ip(&server, out);
    }
    if config.value.count("searches") > 32 {
        config.invalid("searches", "must not have more than 32 search paths", out);
    }
    let characters = config.value.texts("searches").map(|s| s.len() + 1).sum::<usize>();
    if characters > 2049 {
        let why = "must not have more than 2048 characters (including spaces) in the search list";
        config.invalid("searches", why, out);
    }
    for search in config.items("searches") {
        let text = search.value.as_str().unwrap_or_default();
        if text != "." {
            for why in names::dns1123_subdomain_with_underscore(text.strip_suffix('.').unwrap_or(text)) {
                search.wrong(&why, out);
            }
        }
    }
    for option in config.items("options").filter(|o| o.text("name").is_empty()) {
        out.push(FieldError::required(&option.path, "must not be empty"));
    }
}

/// Whether names of secrets, config maps and the like are fine.
pub(crate) fn object_name(name: &str) -> Vec<String> {
    NameForm::Subdomain.faults(name, false)
}
