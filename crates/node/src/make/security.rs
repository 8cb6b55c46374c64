//! Who a container runs as and what it may do.

use k8s_openapi::api::core::v1::{
    AppArmorProfile, Capabilities, Container, Pod, PodSecurityContext, SELinuxOptions, SeccompProfile, SecurityContext,
};
use skiff_cri::v1::security_profile::ProfileType;
use skiff_cri::v1::{
    Capability, Int64Value, LinuxContainerSecurityContext, LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption,
    SeLinuxOption, SecurityProfile, SupplementalGroupsPolicy,
};

use super::ConfigError;
use crate::pod::facts;

/// The user an image wants to run as.
#[derive(Clone, Debug, Default)]
pub(crate) struct ImageUser {
    pub(crate) uid: Option<i64>,
    pub(crate) name: String,
}

/// What a container cannot see of the host's /proc and /sys, unless it asks for all of it.
const MASKED: &[&str] = &[
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
/// What a container can see but not write.
const READ_ONLY: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

fn number(value: i64) -> Int64Value {
    Int64Value { value }
}

fn pod_context(pod: &Pod) -> PodSecurityContext {
    facts::spec(pod).security_context.clone().unwrap_or_default()
}

/// The namespaces of the pod's containers.
pub(crate) fn namespaces(pod: &Pod) -> NamespaceOption {
    let spec = facts::spec(pod);
    let mode = |on_host: Option<bool>, otherwise| if on_host == Some(true) { NamespaceMode::Node } else { otherwise };
    let own_pid = match spec.share_process_namespace {
        Some(true) => NamespaceMode::Pod,
        _ => NamespaceMode::Container,
    };
    NamespaceOption {
        network: mode(spec.host_network, NamespaceMode::Pod).into(),
        pid: mode(spec.host_pid, own_pid).into(),
        ipc: mode(spec.host_ipc, NamespaceMode::Pod).into(),
        target_id: String::new(),
        // Ids are the node's to give, later.
        userns_options: None,
    }
}

/// Who the sandbox runs as.
pub(crate) fn sandbox(pod: &Pod) -> LinuxSandboxSecurityContext {
    let context = pod_context(pod);
    let privileged = |c: &Container| c.security_context.as_ref().and_then(|s| s.privileged) == Some(true);
    LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(pod)),
        selinux_options: context.se_linux_options.clone().map(selinux),
        run_as_user: context.run_as_user.map(number),
        // A group without a user is refused by the runtime; the pause process has no use for one.
        run_as_group: context.run_as_group.filter(|_| context.run_as_user.is_some()).map(number),
        supplemental_groups: groups(&context),
        supplemental_groups_policy: groups_policy(&context).into(),
        privileged: facts::containers(pod).iter().any(|(_, container)| privileged(container)),
        seccomp: Some(profile(ProfileType::RuntimeDefault, "")),
        ..LinuxSandboxSecurityContext::default()
    }
}

/// Who a container runs as.
///
/// # Errors
/// When it must not run as root but would, or may.
pub(crate) fn container(
    pod: &Pod,
    container: &Container,
    image: &ImageUser,
    target: Option<&str>,
) -> Result<LinuxContainerSecurityContext, ConfigError> {
    let context = pod_context(pod);
    let own = container.security_context.clone().unwrap_or_default();
    let user = own.run_as_user.or(context.run_as_user);
    refuse_root(pod, container, user, own.run_as_non_root.or(context.run_as_non_root), image)?;
    let unmasked = own.proc_mount.as_deref() == Some("Unmasked");
    let paths =
        |list: &[&str]| if unmasked { Vec::new() } else { list.iter().map(|path| (*path).to_owned()).collect() };
    let mut namespaces = namespaces(pod);
    if let Some(target) = target.filter(|_| namespaces.pid() == NamespaceMode::Container) {
        namespaces.set_pid(NamespaceMode::Target);
        namespaces.target_id = target.to_owned();
    }
    let user_from_image = user.is_none();
    Ok(LinuxContainerSecurityContext {
        capabilities: own.capabilities.clone().map(capabilities),
        privileged: own.privileged == Some(true),
        namespace_options: Some(namespaces),
        selinux_options: own.se_linux_options.clone().or(context.se_linux_options.clone()).map(selinux),
        run_as_user: user.or(image.uid.filter(|_| user_from_image)).map(number),
        run_as_group: own.run_as_group.or(context.run_as_group).map(number),
        run_as_username: if user_from_image && image.uid.is_none() { image.name.clone() } else { String::new() },
        readonly_rootfs: own.read_only_root_filesystem == Some(true),
        supplemental_groups: groups(&context),
        supplemental_groups_policy: groups_policy(&context).into(),
        no_new_privs: no_new_privileges(&own),
        masked_paths: paths(MASKED),
        readonly_paths: paths(READ_ONLY),
        seccomp: Some(seccomp(own.seccomp_profile.as_ref().or(context.seccomp_profile.as_ref()))),
        apparmor: own.app_armor_profile.as_ref().or(context.app_armor_profile.as_ref()).map(apparmor),
    })
}

fn refuse_root(
    pod: &Pod,
    container: &Container,
    user: Option<i64>,
    non_root: Option<bool>,
    image: &ImageUser,
) -> Result<(), ConfigError> {
    if non_root != Some(true) {
        return Ok(());
    }
    let (pod, container) = (facts::described(pod), container.name.clone());
    match (user, image.uid) {
        (Some(0), _) => Err(ConfigError::RunsAsRoot { pod, container }),
        (Some(_), _) => Ok(()),
        (None, Some(0)) => Err(ConfigError::ImageRunsAsRoot { pod, container }),
        (None, None) if !image.name.is_empty() => {
            Err(ConfigError::UnknownUser { user: image.name.clone(), pod, container })
        }
        (None, None) => Err(ConfigError::ImageRunsAsRoot { pod, container }),
        (None, Some(_)) => Ok(()),
    }
}

/// Escalation is possible unless it is forbidden in so many words.
fn no_new_privileges(context: &SecurityContext) -> bool {
    context.allow_privilege_escalation == Some(false)
}

fn groups(context: &PodSecurityContext) -> Vec<i64> {
    context.fs_group.iter().chain(context.supplemental_groups.iter().flatten()).copied().collect()
}

fn groups_policy(context: &PodSecurityContext) -> SupplementalGroupsPolicy {
    match context.supplemental_groups_policy.as_deref() {
        Some("Strict") => SupplementalGroupsPolicy::Strict,
        _ => SupplementalGroupsPolicy::Merge,
    }
}

fn capabilities(capabilities: Capabilities) -> Capability {
    Capability {
        add_capabilities: capabilities.add.unwrap_or_default(),
        drop_capabilities: capabilities.drop.unwrap_or_default(),
        add_ambient_capabilities: Vec::new(),
    }
}

fn selinux(options: SELinuxOptions) -> SeLinuxOption {
    SeLinuxOption {
        user: options.user.unwrap_or_default(),
        role: options.role.unwrap_or_default(),
        r#type: options.type_.unwrap_or_default(),
        level: options.level.unwrap_or_default(),
    }
}

fn profile(kind: ProfileType, reference: &str) -> SecurityProfile {
    SecurityProfile { profile_type: kind.into(), localhost_ref: reference.to_owned() }
}

/// Without a word on it a container runs unconfined, as upstream's default is.
fn seccomp(given: Option<&SeccompProfile>) -> SecurityProfile {
    match given.map(|profile| (profile.type_.as_str(), profile.localhost_profile.as_deref())) {
        Some(("RuntimeDefault", _)) => profile(ProfileType::RuntimeDefault, ""),
        Some(("Localhost", reference)) => profile(ProfileType::Localhost, reference.unwrap_or_default()),
        _ => profile(ProfileType::Unconfined, ""),
    }
}

fn apparmor(given: &AppArmorProfile) -> SecurityProfile {
    match given.type_.as_str() {
        "Localhost" => profile(ProfileType::Localhost, given.localhost_profile.as_deref().unwrap_or_default()),
        "Unconfined" => profile(ProfileType::Unconfined, ""),
        _ => profile(ProfileType::RuntimeDefault, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn made(pod: Value, own: Value, image: &ImageUser) -> Result<LinuxContainerSecurityContext, ConfigError> {
        let container = json!({"name": "c", "securityContext": own});
        let value = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"securityContext": pod, "containers": [container]}});
        let pod: Pod = serde_json::from_value(value).expect("a pod");
        super::container(&pod, &facts::main_containers(&pod)[0], image, None)
    }

    #[test]
    fn the_container_overrules_the_pod() {
        let pod = json!({"runAsUser": 1, "runAsGroup": 2, "fsGroup": 3, "supplementalGroups": [4],
            "seccompProfile": {"type": "RuntimeDefault"}});
        let own = json!({"runAsUser": 10, "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]},
            "readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false});
        let made = made(pod, own, &ImageUser::default()).expect("a context");
        assert_eq!((made.run_as_user, made.run_as_group), (Some(number(10)), Some(number(2))));
        assert_eq!(made.supplemental_groups, [3, 4]);
        assert_eq!(made.capabilities.expect("capabilities").add_capabilities, ["NET_ADMIN"]);
        assert!(made.readonly_rootfs && made.no_new_privs && !made.privileged && !made.masked_paths.is_empty());
        assert_eq!(made.seccomp.expect("a profile").profile_type(), ProfileType::RuntimeDefault);
    }

    #[test]
    fn root_is_refused_where_it_must_be() {
        let image = |uid, name: &str| ImageUser { uid, name: name.into() };
        let refused = |own: Value, image: &ImageUser| made(json!({"runAsNonRoot": true}), own, image).is_err();
        assert!(refused(json!({}), &image(Some(0), "")));
        assert!(refused(json!({}), &image(None, "www")));
        assert!(refused(json!({}), &image(None, "")));
        assert!(refused(json!({"runAsUser": 0}), &image(Some(5), "")));
        assert!(!refused(json!({"runAsUser": 7}), &image(Some(0), "")));
        assert!(!refused(json!({}), &image(Some(5), "")));
        assert!(!refused(json!({"runAsNonRoot": false}), &image(Some(0), "")));
    }
}
