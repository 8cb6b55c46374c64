//! Security contexts of pods and containers.

use serde_json::Value;
use skiff_meta::field::{FieldError, FieldErrors};

use super::containers::{LISTS, containers};
use super::volumes::descending_path;
use super::windows;
use crate::at::At;
use crate::view::{Change, View};
use crate::warnings::app_armor_profile;

const MAX_ID: i64 = i32::MAX as i64;

fn ids(at: &At<'_>, fields: &[&str], out: &mut FieldErrors) {
    for field in fields {
        at.in_range(field, 0, MAX_ID, out);
    }
}

/// Faults of the pod's security context.
pub(super) fn pod(spec: &At<'_>, out: &mut FieldErrors) {
    let at = spec.get("securityContext");
    ids(&at, &["fsGroup", "runAsUser", "runAsGroup"], out);
    for group in at.items("supplementalGroups") {
        if group.value.as_i64().is_some_and(|id| !(0..=MAX_ID).contains(&id)) {
            group.wrong(&skiff_meta::names::range_fault(0, MAX_ID), out);
        }
    }
    if spec.flag("shareProcessNamespace") && spec.flag("hostPID") {
        let path = at.path("shareProcessNamespace");
        out.push(FieldError::invalid(&path, true, "ShareProcessNamespace and HostPID cannot both be enabled"));
    }
    sysctls(spec, &at, out);
    at.optional_one_of("fsGroupChangePolicy", &["Always", "OnRootMismatch"], out);
    profiles(&at, out);
    windows::options(&at, out);
    at.optional_one_of("supplementalGroupsPolicy", &["Merge", "Strict"], out);
    // `MountOption` waits for a feature that is off.
    at.optional_one_of("seLinuxChangePolicy", &["Recursive"], out);
}

fn is_sysctl(name: &str) -> bool {
    let edge = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let segment = |s: &str| {
        let bytes = s.as_bytes();
        matches!((bytes.first(), bytes.last()), (Some(&a), Some(&z)) if edge(a) && edge(z))
            && bytes.iter().all(|&b| edge(b) || matches!(b, b'-' | b'_'))
    };
    name.len() <= 253 && name.split(['.', '/']).all(segment)
}

fn sysctls(spec: &At<'_>, at: &At<'_>, out: &mut FieldErrors) {
    let mut seen = Vec::new();
    for sysctl in at.items("sysctls") {
        let name = sysctl.text("name");
        if name.is_empty() {
            sysctl.missing("name", "", out);
        } else if !is_sysctl(name) {
            let why = "must have at most 253 characters and match regex \
                       ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
            sysctl.invalid("name", why, out);
        } else if seen.contains(&name) {
            out.push(FieldError::duplicate(&sysctl.path("name"), name));
        }
        let dotted = name.replace('/', ".");
        if spec.flag("hostNetwork") && dotted.starts_with("net.") {
            sysctl.invalid("name", "may not be specified when 'hostNetwork' is true", out);
        }
        let of_ipc = ["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."].iter().any(|p| dotted.starts_with(p));
        if spec.flag("hostIPC") && of_ipc {
            sysctl.invalid("name", "may not be specified when 'hostIPC' is true", out);
        }
        seen.push(name);
    }
}

fn profiles(at: &At<'_>, out: &mut FieldErrors) {
    for (field, shown) in [("seccompProfile", "seccomp"), ("appArmorProfile", "AppArmor")] {
        let profile = at.get(field);
        if !profile.is_set() {
            continue;
        }
        let supported = &["Localhost", "RuntimeDefault", "Unconfined"];
        if profile.text("type").is_empty() {
            profile.missing("type", &format!("type is required when {field} is set"), out);
        } else {
            profile.one_of("type", supported, out);
        }
        match (profile.text("type"), profile.has("localhostProfile")) {
            ("Localhost", false) => {
                profile.missing("localhostProfile", &format!("must be set when {shown} type is Localhost"), out);
            }
            ("Localhost", true) if field == "seccompProfile" => descending_path(&profile.get("localhostProfile"), out),
            ("Localhost", true) => app_armor_file(&profile, out),
            // Of a type that is none, upstream says no more of AppArmor.
            (other, true) if other != "Localhost" && (field == "seccompProfile" || supported.contains(&other)) => {
                let why = format!("can only be set when {shown} type is Localhost");
                // Of the one upstream shows the whole.
                let value = if field == "seccompProfile" {
                    profile.value
                } else {
                    profile.value.get_or_null("localhostProfile")
                };
                out.push(FieldError::invalid(&profile.path("localhostProfile"), value.clone(), &why));
            }
            _ => {}
        }
    }
}

fn app_armor_file(profile: &At<'_>, out: &mut FieldErrors) {
    const LONGEST: usize = 4095;
    let file = profile.text("localhostProfile");
    if file.trim() != file {
        profile.invalid("localhostProfile", "must not be padded with whitespace", out);
    } else if file.is_empty() {
        profile.missing("localhostProfile", "must be set when AppArmor type is Localhost", out);
    }
    if file.len() > LONGEST {
        out.push(FieldError::too_long(&profile.path("localhostProfile"), LONGEST));
    }
}

/// Gives containers of a new pod the AppArmor profiles that its annotations ask for, where they have none.
pub(crate) fn app_armor_of_annotations(pod: &mut Value) {
    if pod.at("spec.os").text("name") == "windows" {
        return;
    }
    let of_pod = pod.at("spec.securityContext").get_or_null("appArmorProfile").clone();
    for list in LISTS {
        for number in 0..pod.at("spec").count(list) {
            let container = &pod.at("spec").items(list)[number];
            if container.get_or_null("securityContext").has("appArmorProfile") {
                continue;
            }
            let Some(profile) = app_armor_profile(pod, container.text("name")) else { continue };
            let mut faults = Vec::new();
            app_armor_file(&At::root(&profile), &mut faults);
            if profile != of_pod && (profile.text("type") != "Localhost" || faults.is_empty()) {
                let container = &mut pod.child("spec").items_mut(list)[number];
                container.child("securityContext").put("appArmorProfile", profile);
            }
        }
    }
}

/// Faults of a container's security context.
pub(super) fn container(at: &At<'_>, host_users: bool, out: &mut FieldErrors) {
    ids(at, &["runAsUser", "runAsGroup"], out);
    at.optional_one_of("procMount", &["Default", "Unmasked"], out);
    if host_users && at.text("procMount") == "Unmasked" {
        at.invalid("procMount", "`hostUsers` must be false to use `Unmasked`", out);
    }
    profiles(at, out);
    windows::options(at, out);
    if at.value.get_or_null("allowPrivilegeEscalation") == false {
        if at.flag("privileged") {
            at.wrong("cannot set `allowPrivilegeEscalation` to false and `privileged` to true", out);
        }
        if at.value.get_or_null("capabilities").texts("add").any(|c| c == "CAP_SYS_ADMIN") {
            at.wrong("cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN", out);
        }
    }
}

/// Whether the pod has the host's users.
pub(super) fn has_host_users(spec: &At<'_>) -> bool {
    spec.value.get_or_null("hostUsers") != false
}

/// Faults of a pod with users of its own.
pub(super) fn host_users(spec: &At<'_>, out: &mut FieldErrors) {
    if has_host_users(spec) {
        return;
    }
    for (flag, shown) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
        if spec.flag(flag) {
            spec.forbidden(shown, "when `hostUsers` is false", out);
        }
    }
    for container in containers(spec) {
        if container.value.count("volumeDevices") > 0 {
            container.forbidden("volumeDevices", "when `hostUsers` is false", out);
        }
    }
}
