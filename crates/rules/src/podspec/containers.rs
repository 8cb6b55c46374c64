//! Containers of a pod: ordinary ones, those that run first, and those that come later.

use std::collections::BTreeSet;

use skiff_meta::field::{FieldError, FieldErrors};
use skiff_meta::names;

use super::volumes::{self, Volumes};
use super::{env, handlers, resources, security};
use crate::at::At;
use crate::view::View;

/// The lists of containers in a pod's spec.
pub(crate) const LISTS: [&str; 3] = ["containers", "initContainers", "ephemeralContainers"];

/// All containers of a spec.
pub(crate) fn containers<'v>(spec: &At<'v>) -> impl Iterator<Item = At<'v>> + use<'v> {
    let all = LISTS.map(|list| spec.items(list));
    all.into_iter().flatten()
}

/// Faults of all containers.
pub(super) fn validate(spec: &At<'_>, volumes: &Volumes<'_>, out: &mut FieldErrors) {
    let grace = spec.int("terminationGracePeriodSeconds");
    let has_os = spec.has("os");
    ordinary(spec, volumes, grace, has_os, out);
    let mut names: BTreeSet<&str> = spec.value.items("containers").iter().map(|c| c.text("name")).collect();
    init(spec, volumes, grace, has_os, &mut names, out);
    ephemeral(spec, volumes, names, out);
}

fn ordinary(spec: &At<'_>, volumes: &Volumes<'_>, grace: Option<i64>, has_os: bool, out: &mut FieldErrors) {
    if spec.value.count("containers") == 0 {
        return spec.missing("containers", "", out);
    }
    let mut names = BTreeSet::new();
    for container in spec.items("containers") {
        common(spec, &container, volumes, out);
        if !names.insert(container.text("name")) {
            out.push(FieldError::duplicate(&container.path("name"), container.text("name")));
        }
        handlers::lifecycle(&container, grace, has_os, out);
        handlers::probes(&container, grace, out);
        restart_policy(&container, out);
    }
    let mut ports = BTreeSet::new();
    spec.items("containers").for_each(|container| host_ports(&container, &mut ports, out));
}

fn init(
    spec: &At<'_>,
    volumes: &Volumes<'_>,
    grace: Option<i64>,
    has_os: bool,
    names: &mut BTreeSet<&str>,
    out: &mut FieldErrors,
) {
    let found: Vec<_> = spec.items("initContainers").collect();
    let mut own = names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    for container in &found {
        common(spec, container, volumes, out);
        // Without a policy, nobody looks at its rules.
        let rules = container.value.count("restartPolicyRules");
        if container.has("restartPolicy") || rules == 0 {
            restart_policy(container, out);
        } else {
            container.missing("restartPolicy", RULES_NEED_POLICY, out);
        }
        let name = container.text("name");
        if !name.is_empty() && !own.insert(name.to_owned()) {
            out.push(FieldError::duplicate(&container.path("name"), name));
        }
        host_ports(container, &mut BTreeSet::new(), out);
        if container.text("restartPolicy") == "Always" {
            handlers::lifecycle(container, grace, has_os, out);
            handlers::probes(container, grace, out);
        } else {
            for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
                if container.has(field) {
                    let why = "may not be set for init containers without restartPolicy=Always";
                    container.forbidden(field, why, out);
                }
            }
        }
    }
}

fn ephemeral(spec: &At<'_>, volumes: &Volumes<'_>, names: BTreeSet<&str>, out: &mut FieldErrors) {
    const NOT_FOR_EPHEMERAL: [&str; 9] = [
        "lifecycle",
        "livenessProbe",
        "ports",
        "readinessProbe",
        "resizePolicy",
        "resources",
        "restartPolicy",
        "restartPolicyRules",
        "startupProbe",
    ];
    let others: BTreeSet<&str> =
        names.into_iter().chain(spec.value.items("initContainers").iter().map(|c| c.text("name"))).collect();
    let mut all = others.clone();
    for container in spec.items("ephemeralContainers") {
        common(spec, &container, volumes, out);
        untrimmed_image(&container, out);
        if !all.insert(container.text("name")) {
            out.push(FieldError::duplicate(&container.path("name"), container.text("name")));
        }
        let target = container.text("targetContainerName");
        if !target.is_empty() && !others.contains(target) {
            out.push(FieldError::not_found(&container.path("targetContainerName"), target));
        }
        for field in NOT_FOR_EPHEMERAL {
            let value = container.value.get_or_null(field);
            let unset = value.is_null() || value.as_object().is_some_and(serde_json::Map::is_empty);
            if !unset && value.as_array().is_none_or(|items| !items.is_empty()) {
                container.forbidden(field, "cannot be set for an Ephemeral Container", out);
            }
        }
        for mount in container.items("volumeMounts") {
            for field in ["subPath", "subPathExpr"] {
                if !mount.text(field).is_empty() {
                    mount.forbidden(field, "cannot be set for an Ephemeral Container", out);
                }
            }
        }
    }
}

/// What pods, but not templates, refuse.
pub(crate) fn untrimmed_image(container: &At<'_>, out: &mut FieldErrors) {
    let image = container.text("image");
    if image.trim() != image {
        container.invalid("image", "must not have leading or trailing whitespace", out);
    }
}

fn common(spec: &At<'_>, container: &At<'_>, volumes: &Volumes<'_>, out: &mut FieldErrors) {
    container.require_form("name", names::dns1123_label, out);
    container.require("image", out);
    container.one_of("terminationMessagePolicy", &["File", "FallbackToLogsOnError"], out);
    ports(container, out);
    env::variables(container, out);
    volumes::mounts(container, volumes, out);
    container.one_of("imagePullPolicy", &["Always", "IfNotPresent", "Never"], out);
    resources::requirements(&container.get("resources"), out);
    claims(spec, &container.get("resources"), out);
    resize_policy(spec, container, out);
    security::container(&container.get("securityContext"), security::has_host_users(spec), out);
}

/// Faults of the claims that containers may name.
pub(super) fn resource_claims(spec: &At<'_>, out: &mut FieldErrors) {
    let mut seen = BTreeSet::new();
    for claim in spec.items("resourceClaims") {
        let name = claim.text("name");
        if !name.is_empty() && !seen.insert(name) {
            out.push(FieldError::duplicate(&claim.path("name"), name));
        } else {
            claim.require_form("name", names::dns1123_label, out);
        }
        match (claim.has("resourceClaimName"), claim.has("resourceClaimTemplateName")) {
            (true, true) => {
                claim.wrong("at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified", out);
            }
            (false, false) => {
                claim.wrong("must specify one of: `resourceClaimName`, `resourceClaimTemplateName`", out);
            }
            _ => {}
        }
        for field in ["resourceClaimName", "resourceClaimTemplateName"].iter().filter(|field| claim.has(field)) {
            claim.faults(field, &names::dns1123_subdomain(claim.text(field)), out);
        }
    }
}

/// Claims of devices in `resources` must be those of the pod.
pub(super) fn claims(spec: &At<'_>, resources: &At<'_>, out: &mut FieldErrors) {
    for claim in resources.items("claims") {
        claim.form("request", names::dns1123_label, out);
        let name = claim.text("name");
        if name.is_empty() {
            out.push(FieldError::required(&claim.path, ""));
        } else if spec.value.find("resourceClaims", "name", name).is_none() {
            let mut fault = FieldError::not_found(&claim.path, name);
            if spec.value.count("resourceClaims") == 0 {
                fault.message.push_str(": must be one of the names in pod.spec.resourceClaims which is empty");
            }
            out.push(fault);
        }
    }
}

fn ports(container: &At<'_>, out: &mut FieldErrors) {
    let mut seen = BTreeSet::new();
    for port in container.items("ports") {
        let name = port.text("name");
        if !name.is_empty() {
            let faults = names::port_name(name);
            if faults.is_empty() && !seen.insert(name) {
                out.push(FieldError::duplicate(&port.path("name"), name));
            }
            port.faults("name", &faults, out);
        }
        if port.int("containerPort").unwrap_or_default() == 0 {
            port.missing("containerPort", "", out);
        } else {
            port.port("containerPort", out);
        }
        if port.int("hostPort").unwrap_or_default() != 0 {
            port.port("hostPort", out);
        }
        port.one_of("protocol", &["SCTP", "TCP", "UDP"], out);
    }
}

fn host_ports(container: &At<'_>, seen: &mut BTreeSet<String>, out: &mut FieldErrors) {
    for port in container.items("ports") {
        let Some(number) = port.int("hostPort").filter(|n| *n != 0) else { continue };
        let shown = format!("{}/{}/{number}", port.text("protocol"), port.text("hostIP"));
        if !seen.insert(shown.clone()) {
            out.push(FieldError::duplicate(&port.path("hostPort"), shown));
        }
    }
}

fn resize_policy(spec: &At<'_>, container: &At<'_>, out: &mut FieldErrors) {
    let (mut seen, list) = (BTreeSet::new(), container.path("resizePolicy"));
    for policy in container.items("resizePolicy") {
        let (name, restart) = (policy.text("resourceName"), policy.text("restartPolicy"));
        if !seen.insert(name) {
            out.push(FieldError::duplicate(&policy.path, name));
        }
        for (text, supported) in [(name, ["cpu", "memory"]), (restart, ["NotRequired", "RestartContainer"])] {
            if text.is_empty() {
                out.push(FieldError::required(&list, ""));
            } else if !supported.contains(&text) {
                out.push(FieldError::not_supported(&list, text, &supported));
            }
        }
        if spec.text("restartPolicy") == "Never" && restart != "NotRequired" {
            let why = "must be 'NotRequired' when pod `restartPolicy` is 'Never'";
            out.push(FieldError::invalid(&list, restart, why));
        }
    }
}

const RULES_NEED_POLICY: &str = "must specify restartPolicy when restart rules are used";

fn restart_policy(container: &At<'_>, out: &mut FieldErrors) {
    let rules = container.value.count("restartPolicyRules");
    if !container.has("restartPolicy") {
        if rules > 0 {
            container.missing("restartPolicy", RULES_NEED_POLICY, out);
        }
    } else {
        container.optional_one_of("restartPolicy", &["Always", "Never", "OnFailure"], out);
    }
    if rules > 20 {
        out.push(FieldError::too_many(&container.path("restartPolicyRules"), rules, 20));
    }
    for rule in container.items("restartPolicyRules") {
        const ACTIONS: &[&str] = &["Restart", "RestartAllContainers"];
        if !ACTIONS.contains(&rule.text("action")) {
            out.push(FieldError::not_supported(&rule.path("action"), rule.text("action"), ACTIONS));
        }
        let codes = rule.get("exitCodes");
        if codes.value.is_null() {
            rule.missing("exitCodes", "must be specified", out);
        } else if !["In", "NotIn"].contains(&codes.text("operator")) {
            out.push(FieldError::not_supported(&codes.path("operator"), codes.text("operator"), &["In", "NotIn"]));
        }
    }
}
