//! What each standard forbids. One row per check and version in which it changed.

use std::collections::BTreeSet;

use serde_json::Value;

use super::Level;
use crate::view::View;

/// Reason and detail of a violation.
type Found = Option<(String, String)>;

struct Check {
    name: &'static str,
    level: Level,
    /// The first minor version in which it is so.
    since: u32,
    /// The check of the level below that it is stricter than.
    replaces: &'static str,
    find: fn(&Pod<'_>) -> Found,
}

const fn baseline(name: &'static str, since: u32, find: fn(&Pod<'_>) -> Found) -> Check {
    Check { name, level: Level::Baseline, since, replaces: "", find }
}

const fn restricted(name: &'static str, since: u32, replaces: &'static str, find: fn(&Pod<'_>) -> Found) -> Check {
    Check { name, level: Level::Restricted, since, replaces, find }
}

/// In the order in which violations are told: by level, then by name; of one check the newest comes last.
const CHECKS: &[Check] = &[
    baseline("appArmorProfile", 0, app_armor),
    baseline("capabilities_baseline", 0, added_capabilities),
    baseline("hostNamespaces", 0, host_namespaces),
    baseline("hostPathVolumes", 0, host_paths),
    baseline("hostPorts", 0, host_ports),
    baseline("hostProbesAndHostLifecycle", 34, probed_hosts),
    baseline("privileged", 0, privileged),
    baseline("procMount", 0, proc_mount),
    baseline("procMount", 35, |pod| unless_own_users(pod, proc_mount)),
    baseline("seLinuxOptions", 0, |pod| selinux(pod, 3)),
    baseline("seLinuxOptions", 31, |pod| selinux(pod, 4)),
    baseline("seccompProfile_baseline", 0, seccomp_annotations),
    baseline("seccompProfile_baseline", 19, |pod| seccomp(pod, false)),
    baseline("sysctls", 0, |pod| sysctls(pod, 5)),
    baseline("sysctls", 27, |pod| sysctls(pod, 6)),
    baseline("sysctls", 29, |pod| sysctls(pod, 10)),
    baseline("sysctls", 32, |pod| sysctls(pod, 12)),
    baseline("windowsHostProcess", 0, windows_host),
    restricted("allowPrivilegeEscalation", 8, "", escalation),
    restricted("allowPrivilegeEscalation", 25, "", |pod| unless_windows(pod, escalation)),
    restricted("capabilities_restricted", 22, "capabilities_baseline", kept_capabilities),
    restricted("capabilities_restricted", 25, "capabilities_baseline", |pod| unless_windows(pod, kept_capabilities)),
    restricted("procMount_restricted", 35, "procMount", proc_mount),
    restricted("restrictedVolumes", 0, "hostPathVolumes", volumes),
    restricted("runAsNonRoot", 0, "", non_root),
    restricted("runAsNonRoot", 35, "", |pod| unless_own_users(pod, non_root)),
    restricted("runAsUser", 23, "", root_user),
    restricted("runAsUser", 35, "", |pod| unless_own_users(pod, root_user)),
    restricted("seccompProfile_restricted", 19, "seccompProfile_baseline", |pod| seccomp(pod, true)),
    restricted("seccompProfile_restricted", 25, "seccompProfile_baseline", |pod| {
        unless_windows(pod, |pod| seccomp(pod, true))
    }),
];

pub(super) fn run(level: Level, minor: u32, template: &Value) -> Vec<(String, String)> {
    let in_force = |check: &&Check| {
        let newer = |other: &Check| other.name == check.name && other.since > check.since && other.since <= minor;
        check.level <= level && check.since <= minor && !CHECKS.iter().any(newer)
    };
    let checks: Vec<&Check> = CHECKS.iter().filter(in_force).collect();
    let replaced: BTreeSet<&str> = checks.iter().map(|check| check.replaces).collect();
    let pod = Pod { annotations: template.at("metadata.annotations"), spec: template.get_or_null("spec") };
    checks.iter().filter(|check| !replaced.contains(check.name)).filter_map(|check| (check.find)(&pod)).collect()
}

struct Pod<'a> {
    annotations: &'a Value,
    spec: &'a Value,
}

impl Pod<'_> {
    fn containers(&self) -> impl Iterator<Item = &Value> {
        ["initContainers", "containers", "ephemeralContainers"].into_iter().flat_map(|list| self.spec.items(list))
    }

    /// A setting of the pod as a whole.
    fn own(&self, path: &str) -> &Value {
        self.spec.get_or_null("securityContext").at(path)
    }

    /// Names of the containers that `is_bad` is about.
    fn which(&self, is_bad: impl FnMut(&&Value) -> bool) -> Vec<&str> {
        self.containers().filter(is_bad).map(|container| container.text("name")).collect()
    }

    /// Who sets something at `path` that is bad: the pod, containers, or both.
    fn setters(&self, path: &str, is_bad: impl Fn(&Value) -> bool) -> Vec<String> {
        let bad = self.which(|container| is_bad(setting(container, path)));
        let own = is_bad(self.own(path)).then(|| "pod".to_owned());
        own.into_iter().chain((!bad.is_empty()).then(|| named("container", &bad))).collect()
    }

    /// All values at `path`, of the pod and of containers.
    fn settings(&self, path: &str) -> impl Iterator<Item = &Value> {
        std::iter::once(self.own(path)).chain(self.containers().map(move |container| setting(container, path)))
    }
}

/// A setting of a container.
fn setting<'a>(container: &'a Value, path: &str) -> &'a Value {
    container.get_or_null("securityContext").at(path)
}

fn quoted<'a>(items: impl IntoIterator<Item = &'a str>) -> String {
    items.into_iter().map(|item| format!("\"{item}\"")).collect::<Vec<_>>().join(", ")
}

fn plural(one: &str, count: usize) -> String {
    if count == 1 { one.to_owned() } else { format!("{one}s") }
}

/// `container "a"`, `containers "a", "b"`.
fn named(what: &str, names: &[&str]) -> String {
    format!("{} {}", plural(what, names.len()), quoted(names.iter().copied()))
}

fn uses(count: usize) -> &'static str {
    if count == 1 { "uses" } else { "use" }
}

fn found(reason: impl Into<String>, detail: impl Into<String>) -> Found {
    Some((reason.into(), detail.into()))
}

/// A violation by containers, where there are any.
fn by_containers(names: &[&str], reason: &str, detail: impl FnOnce(String) -> String) -> Found {
    if names.is_empty() { None } else { found(reason, detail(named("container", names))) }
}

/// A violation by whoever sets something, where there is anybody.
fn by_setters(setters: &[String], reason: &str, detail: impl FnOnce(String) -> String) -> Found {
    if setters.is_empty() { None } else { found(reason, detail(setters.join(" and "))) }
}

fn is_true(value: &Value) -> bool {
    value == &Value::Bool(true)
}

fn unless_windows(pod: &Pod<'_>, find: fn(&Pod<'_>) -> Found) -> Found {
    if pod.spec.at("os.name") == "windows" { None } else { find(pod) }
}

/// Whoever is root in a user namespace of the pod's own is nobody outside.
fn unless_own_users(pod: &Pod<'_>, find: fn(&Pod<'_>) -> Found) -> Found {
    if pod.spec.get_or_null("hostUsers") == &Value::Bool(false) { None } else { find(pod) }
}

fn app_armor(pod: &Pod<'_>) -> Found {
    const PREFIX: &str = "container.apparmor.security.beta.kubernetes.io/";
    let bad = |ty: &Value| !ty.is_null() && ty != "RuntimeDefault" && ty != "Localhost";
    let mut setters = pod.setters("appArmorProfile.type", bad);
    let values = pod.settings("appArmorProfile.type").filter(|ty| bad(ty)).filter_map(Value::as_str);
    let mut values: Vec<String> = values.collect::<BTreeSet<_>>().into_iter().map(str::to_owned).collect();
    let notes = pod.annotations.as_object().into_iter().flatten();
    let notes = notes.filter_map(|(name, value)| Some((name, value.as_str()?)));
    let fine = |value: &str| value.is_empty() || value == "runtime/default" || value.starts_with("localhost/");
    let notes = notes.filter(|(name, value)| name.starts_with(PREFIX) && !fine(value));
    let notes: BTreeSet<String> = notes.map(|(name, value)| format!("{name}={value:?}")).collect();
    if !notes.is_empty() {
        setters.push(plural("annotation", notes.len()));
        values.extend(notes);
    }
    let reason = plural("forbidden AppArmor profile", values.len());
    let values = quoted(values.iter().map(String::as_str));
    by_setters(&setters, &reason, |who| format!("{who} must not set AppArmor profile type to {values}"))
}

const DEFAULT_CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// Containers that add other capabilities than these, and which ones.
fn adding<'a>(pod: &'a Pod<'_>, allowed: &[&str]) -> (Vec<&'a str>, String) {
    let bad = |container: &'a Value| {
        setting(container, "capabilities").texts("add").filter(|capability| !allowed.contains(capability))
    };
    let names = pod.containers().filter(|container| bad(container).next().is_some());
    let names = names.map(|container| container.text("name")).collect();
    (names, quoted(pod.containers().flat_map(bad).collect::<BTreeSet<_>>()))
}

fn added_capabilities(pod: &Pod<'_>) -> Found {
    let (bad, which) = adding(pod, &DEFAULT_CAPABILITIES);
    by_containers(&bad, "non-default capabilities", |who| {
        format!("{who} must not include {which} in securityContext.capabilities.add")
    })
}

fn kept_capabilities(pod: &Pod<'_>) -> Found {
    let keeping = pod.which(|container| !setting(container, "capabilities").texts("drop").any(|it| it == "ALL"));
    let (bad, which) = adding(pod, &["NET_BIND_SERVICE"]);
    let keeping = (!keeping.is_empty())
        .then(|| format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", named("container", &keeping)));
    let bad = (!bad.is_empty())
        .then(|| format!("{} must not include {which} in securityContext.capabilities.add", named("container", &bad)));
    let all: Vec<String> = keeping.into_iter().chain(bad).collect();
    if all.is_empty() { None } else { found("unrestricted capabilities", all.join("; ")) }
}

fn host_namespaces(pod: &Pod<'_>) -> Found {
    let shared = ["hostNetwork", "hostPID", "hostIPC"].into_iter().filter(|name| pod.spec.flag(name));
    let shared: Vec<String> = shared.map(|name| format!("{name}=true")).collect();
    if shared.is_empty() { None } else { found("host namespaces", shared.join(", ")) }
}

fn host_paths(pod: &Pod<'_>) -> Found {
    let bad = pod.spec.items("volumes").iter().filter(|volume| volume.has("hostPath"));
    let bad: Vec<&str> = bad.map(|volume| volume.text("name")).collect();
    if bad.is_empty() { None } else { found("hostPath volumes", named("volume", &bad)) }
}

fn host_ports(pod: &Pod<'_>) -> Found {
    let ports = |container: &Value| -> Vec<String> {
        let ports = container.items("ports").iter().filter_map(|port| port.int("hostPort"));
        ports.filter(|port| *port != 0).map(|port| port.to_string()).collect()
    };
    let bad = pod.which(|container| !ports(container).is_empty());
    let all: BTreeSet<String> = pod.containers().flat_map(ports).collect();
    let what = plural("hostPort", all.len());
    let all = all.into_iter().collect::<Vec<_>>().join(", ");
    by_containers(&bad, "hostPort", |who| format!("{who} {} {what} {all}", uses(bad.len())))
}

fn probed_hosts(pod: &Pod<'_>) -> Found {
    const HANDLERS: [&str; 5] =
        ["livenessProbe", "readinessProbe", "startupProbe", "lifecycle.postStart", "lifecycle.preStop"];
    let hosts = |container: &Value| -> Vec<String> {
        let handlers = HANDLERS.iter().map(|path| container.at(path));
        let hosts = handlers.flat_map(|handler| ["httpGet", "tcpSocket"].map(|how| handler.at(how).text("host")));
        hosts.filter(|host| !host.is_empty()).map(str::to_owned).collect()
    };
    let mut bad = pod.which(|container| !hosts(container).is_empty());
    bad.sort_unstable();
    let all: BTreeSet<String> = pod.containers().flat_map(hosts).collect();
    let what = plural("probe or lifecycle host", all.len());
    let all = quoted(all.iter().map(String::as_str));
    by_containers(&bad, "probe or lifecycle host", |who| format!("{who} {} {what} {all}", uses(bad.len())))
}

fn privileged(pod: &Pod<'_>) -> Found {
    let bad = pod.which(|container| is_true(setting(container, "privileged")));
    by_containers(&bad, "privileged", |who| format!("{who} must not set securityContext.privileged=true"))
}

fn proc_mount(pod: &Pod<'_>) -> Found {
    let mount = |container: &&Value| !matches!(setting(container, "procMount").as_str(), None | Some("Default"));
    let bad = pod.which(mount);
    let which = pod.containers().filter_map(|container| setting(container, "procMount").as_str());
    let which = quoted(which.filter(|mount| *mount != "Default").collect::<BTreeSet<_>>());
    by_containers(&bad, "procMount", |who| format!("{who} must not set securityContext.procMount to {which}"))
}

const SELINUX_TYPES: [&str; 4] = ["container_t", "container_init_t", "container_kvm_t", "container_engine_t"];

fn selinux(pod: &Pod<'_>, known: usize) -> Found {
    let odd = |options: &Value| {
        let ty = options.text("type");
        !ty.is_empty() && !SELINUX_TYPES[..known].contains(&ty)
    };
    let set = |options: &Value, field: &str| !options.text(field).is_empty();
    let bad = |options: &Value| odd(options) || set(options, "user") || set(options, "role");
    let types: BTreeSet<&str> =
        pod.settings("seLinuxOptions").filter(|options| odd(options)).map(|options| options.text("type")).collect();
    let mut what = Vec::new();
    if !types.is_empty() {
        what.push(format!("{} {}", plural("type", types.len()), quoted(types)));
    }
    for field in ["user", "role"] {
        if pod.settings("seLinuxOptions").any(|options| set(options, field)) {
            what.push(format!("{field} may not be set"));
        }
    }
    let setters = pod.setters("seLinuxOptions", bad);
    by_setters(&setters, "seLinuxOptions", |who| {
        format!("{who} set forbidden securityContext.seLinuxOptions: {}", what.join("; "))
    })
}

/// Before there were fields for it.
fn seccomp_annotations(pod: &Pod<'_>) -> Found {
    let fine = |v: &str| matches!(v, "runtime/default" | "docker/default") || v.starts_with("localhost/");
    let containers = pod.containers();
    let keys = containers.map(|it| format!("container.seccomp.security.alpha.kubernetes.io/{}", it.text("name")));
    let keys = keys.chain(["seccomp.security.alpha.kubernetes.io/pod".to_owned()]);
    let notes = keys.filter_map(|key| pod.annotations.get_or_null(&key).as_str().map(|value| (key, value)));
    let bad: BTreeSet<String> =
        notes.filter(|(_, value)| !fine(value)).map(|(key, value)| format!("{key}={value:?}")).collect();
    if bad.is_empty() {
        return None;
    }
    let what = plural("annotation", bad.len());
    found("seccompProfile", format!("forbidden {what} {}", bad.into_iter().collect::<Vec<_>>().join(", ")))
}

fn seccomp(pod: &Pod<'_>, required: bool) -> Found {
    const TYPE: &str = "seccompProfile.type";
    let bad = |ty: &Value| !ty.is_null() && ty != "RuntimeDefault" && ty != "Localhost";
    let values: BTreeSet<&str> = pod.settings(TYPE).filter(|ty| bad(ty)).filter_map(Value::as_str).collect();
    let values = quoted(values);
    let explicit = by_setters(&pod.setters(TYPE, bad), "seccompProfile", |who| {
        format!("{who} must not set securityContext.seccompProfile.type to {values}")
    });
    if explicit.is_some() || !required || !pod.own(TYPE).is_null() {
        return explicit;
    }
    let silent = pod.which(|container| setting(container, TYPE).is_null());
    by_containers(&silent, "seccompProfile", |who| {
        format!("pod or {who} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"")
    })
}

const SAFE_SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

fn sysctls(pod: &Pod<'_>, known: usize) -> Found {
    let names = pod.spec.get_or_null("securityContext").items("sysctls").iter().map(|sysctl| sysctl.text("name"));
    let bad: Vec<&str> = names.filter(|name| !SAFE_SYSCTLS[..known].contains(name)).collect();
    if bad.is_empty() { None } else { found("forbidden sysctls", bad.join(", ")) }
}

fn windows_host(pod: &Pod<'_>) -> Found {
    by_setters(&pod.setters("windowsOptions.hostProcess", is_true), "hostProcess", |who| {
        format!("{who} must not set securityContext.windowsOptions.hostProcess=true")
    })
}

fn escalation(pod: &Pod<'_>) -> Found {
    let bad = pod.which(|it| setting(it, "allowPrivilegeEscalation") != &Value::Bool(false));
    by_containers(&bad, "allowPrivilegeEscalation != false", |who| {
        format!("{who} must set securityContext.allowPrivilegeEscalation=false")
    })
}

const VOLUMES: [&str; 9] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

fn volumes(pod: &Pod<'_>) -> Found {
    let source = |volume: &Value| -> String {
        let set = volume.as_object().into_iter().flatten().filter(|(name, value)| *name != "name" && !value.is_null());
        set.map(|(name, _)| name.clone()).next().unwrap_or_else(|| "unknown".to_owned())
    };
    let is_bad = |volume: &&Value| !VOLUMES.iter().any(|name| volume.has(name));
    let volumes = pod.spec.items("volumes");
    let bad: Vec<&str> = volumes.iter().filter(is_bad).map(|volume| volume.text("name")).collect();
    if bad.is_empty() {
        return None;
    }
    let types: BTreeSet<String> = volumes.iter().filter(is_bad).map(source).collect();
    let (who, verb, what) = (named("volume", &bad), uses(bad.len()), plural("restricted volume type", types.len()));
    found("restricted volume types", format!("{who} {verb} {what} {}", quoted(types.iter().map(String::as_str))))
}

fn non_root(pod: &Pod<'_>) -> Found {
    const FIELD: &str = "runAsNonRoot";
    let explicit = by_setters(&pod.setters(FIELD, |it| it == &Value::Bool(false)), "runAsNonRoot != true", |who| {
        format!("{who} must not set securityContext.runAsNonRoot=false")
    });
    if explicit.is_some() || is_true(pod.own(FIELD)) {
        return explicit;
    }
    let silent = pod.which(|container| setting(container, FIELD).is_null());
    by_containers(&silent, "runAsNonRoot != true", |who| {
        format!("pod or {who} must set securityContext.runAsNonRoot=true")
    })
}

fn root_user(pod: &Pod<'_>) -> Found {
    by_setters(&pod.setters("runAsUser", |it| it.as_i64() == Some(0)), "runAsUser=0", |who| {
        format!("{who} must not set runAsUser=0")
    })
}
