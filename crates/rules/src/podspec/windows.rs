//! What Windows calls for, and what it does not know (`pkg/apis/core/validation/validation.go`).

use skiff_meta::field::{FieldError, FieldErrors};
use skiff_meta::names;

use super::containers::containers;
use crate::at::At;
use crate::view::View;

/// What a security context may not have where Windows runs the pod, in upstream's order. What begins with a slash is said
/// of the pod's spec.
const UNKNOWN_TO_WINDOWS: &[&str] = &[
    "appArmorProfile",
    "seLinuxOptions",
    "/hostUsers",
    "/hostPID",
    "/hostIPC",
    "seccompProfile",
    "fsGroup",
    "fsGroupChangePolicy",
    "sysctls",
    "/shareProcessNamespace",
    "runAsUser",
    "runAsGroup",
    "supplementalGroups",
    "supplementalGroupsPolicy",
    "seLinuxChangePolicy",
];
const UNKNOWN_TO_CONTAINERS: &[&str] = &[
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "capabilities",
    "readOnlyRootFilesystem",
    "privileged",
    "allowPrivilegeEscalation",
    "procMount",
    "runAsUser",
    "runAsGroup",
];

/// How Windows runs it (`validateWindowsSecurityContextOptions`).
pub(super) fn options(at: &At<'_>, out: &mut FieldErrors) {
    const LONGEST_SPEC: usize = 64 << 10;
    let options = at.get("windowsOptions");
    let text = |name: &str| options.value.get_or_null(name).as_str();
    if let Some(name) = text("gmsaCredentialSpecName") {
        options.faults("gmsaCredentialSpecName", &names::dns1123_subdomain(name), out);
    }
    match text("gmsaCredentialSpec") {
        Some("") => options.invalid("gmsaCredentialSpec", "gmsaCredentialSpec cannot be an empty string", out),
        Some(spec) if spec.len() > LONGEST_SPEC => {
            options.invalid("gmsaCredentialSpec", "gmsaCredentialSpec size must be under 64 KiB", out);
        }
        _ => {}
    }
    if let Some(name) = text("runAsUserName") {
        user_faults(name).iter().for_each(|why| options.invalid("runAsUserName", &format!("runAsUserName{why}"), out));
    }
}

/// Faults of `DOMAIN\\user` or `user`.
fn user_faults(name: &str) -> Vec<&'static str> {
    const FORBIDDEN: &str = "\"/\\:;|=,+*?<>@[]";
    if name.is_empty() {
        return vec![" cannot be an empty string"];
    }
    if name.chars().any(char::is_control) {
        return vec![" cannot contain control characters"];
    }
    if name.matches('\\').count() > 1 {
        return vec![" cannot contain more than one backslash"];
    }
    let (domain, user) = name.split_once('\\').map_or((None, name), |(domain, user)| (Some(domain), user));
    let net_bios = |domain: &str| {
        (1..=15).contains(&domain.chars().count())
            && !domain.starts_with('.')
            && !domain.contains(|c| FORBIDDEN.contains(c))
    };
    let dns = |domain: &str| {
        let label = |label: &str| {
            let fine = label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
            fine && !label.is_empty() && !label.starts_with('-') && !label.ends_with('-')
        };
        domain.split('.').all(label)
    };
    let faults = [
        (domain.is_some_and(|domain| domain.len() >= 256), "'s Domain length must be under 256 characters"),
        (
            domain.is_some_and(|domain| !net_bios(domain) && !dns(domain)),
            "'s Domain doesn't match the NetBios nor the DNS format",
        ),
        (user.is_empty(), "'s User cannot be empty"),
        (user.len() > 104, "'s User length must not be longer than 104 characters"),
        (
            !user.is_empty() && user.bytes().all(|b| matches!(b, b'.' | b' ')),
            "'s User cannot contain only periods or spaces",
        ),
        (
            user.contains(|c| FORBIDDEN.contains(c)),
            "'s User cannot contain the following characters: \"/\\:;|=,+*?<>@[]",
        ),
    ];
    faults.into_iter().filter(|(there, _)| *there).map(|(_, why)| why).collect()
}

/// Faults of processes of the host: all containers are such, or none (`validateWindowsHostProcessPod`).
pub(super) fn host_processes(spec: &At<'_>, out: &mut FieldErrors) {
    let of = |at: &At<'_>| at.get("securityContext").get("windowsOptions").value.get_or_null("hostProcess").as_bool();
    let of_pod = of(spec);
    let (mut all, mut of_host) = (0, 0);
    for container in containers(spec) {
        let own = of(&container);
        if let (Some(pod), Some(own)) = (of_pod, own)
            && pod != own
        {
            let path = container.path("securityContext").child("windowsOptions").child("hostProcess");
            let why = format!("pod hostProcess value must be identical if both are specified, was {pod}");
            out.push(FieldError::invalid(&path, own, &why));
        }
        all += 1;
        of_host += usize::from(own.or(of_pod) == Some(true));
    }
    if of_host == 0 {
        return;
    }
    if of_host != all {
        let why = "If pod contains any hostProcess containers then all containers must be HostProcess containers";
        out.push(FieldError::invalid(&spec.path, "", why));
    }
    if !spec.flag("hostNetwork") {
        let why = "hostNetwork must be true if pod contains any hostProcess containers";
        out.push(FieldError::invalid(&spec.path("hostNetwork"), false, why));
    }
}

/// Faults of the system that a pod says it is for, and of what that does not know.
pub(super) fn system(spec: &At<'_>, out: &mut FieldErrors) {
    let system = spec.get("os");
    if !system.is_set() || !system.require("name", out) {
        return;
    }
    match system.text("name") {
        "linux" => {
            let contexts = std::iter::once(spec.get("securityContext"));
            for context in contexts.chain(containers(spec).map(|container| container.get("securityContext"))) {
                if context.has("windowsOptions") {
                    context.forbidden("windowsOptions", "windows options cannot be set for a linux pod", out);
                }
            }
        }
        "windows" => {
            const UNKNOWN: &str = "cannot be set for a windows pod";
            let there = |at: &At<'_>, name: &str| match at.value.get_or_null(name) {
                serde_json::Value::Bool(false) => matches!(name, "hostUsers" | "shareProcessNamespace"),
                value => !value.is_null() && (name != "sysctls" || at.value.count(name) > 0),
            };
            let context = spec.get("securityContext");
            for name in UNKNOWN_TO_WINDOWS {
                let (at, name) = name.strip_prefix('/').map_or((&context, *name), |name| (spec, name));
                if there(at, name) {
                    at.forbidden(name, UNKNOWN, out);
                }
            }
            for container in containers(spec) {
                let context = container.get("securityContext");
                for name in UNKNOWN_TO_CONTAINERS.iter().filter(|name| context.has(name)) {
                    context.forbidden(name, UNKNOWN, out);
                }
            }
        }
        name => {
            out.push(FieldError::not_supported(&spec.path("os"), name, &["linux", "windows"]));
        }
    }
}
