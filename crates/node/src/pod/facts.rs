//! What a pod's specification says, in the form in which the agent asks for it.

use std::borrow::Cow;
use std::sync::LazyLock;

use k8s_openapi::api::core::v1::{
    Container, ContainerRestartRule, EphemeralContainer, ImageVolumeSource, Pod, PodSpec,
};
use skiff_api::resources::is_sidecar;

/// The label and annotation keys under which the runtime keeps what we must know of a pod after a restart of our own.
/// The names are upstream's, so that other tools on the node find what they look for.
pub(crate) mod key {
    pub(crate) const POD_NAME: &str = "io.kubernetes.pod.name";
    pub(crate) const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
    pub(crate) const POD_UID: &str = "io.kubernetes.pod.uid";
    pub(crate) const CONTAINER_NAME: &str = "io.kubernetes.container.name";
    pub(crate) const HASH: &str = "io.kubernetes.container.hash";
    pub(crate) const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
    pub(crate) const MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
    pub(crate) const MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
    pub(crate) const RESOURCES: &str = "skiff.io/container.resources";
    /// In the API, on what stands for a pod that a file describes: that pod's UID.
    pub(crate) const MIRROR: &str = "kubernetes.io/config.mirror";
    pub(crate) const GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
}

/// What part a container plays in its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Role {
    /// Runs to its end before the next may start.
    Init,
    /// Starts in turn with the init containers and runs on.
    Sidecar,
    /// What the pod is for.
    Main,
    /// Added to a running pod by somebody who looks for a fault.
    Ephemeral,
}

/// The specification; an empty one where there is none, which the API does not allow.
pub(crate) fn spec(pod: &Pod) -> &PodSpec {
    static NONE: LazyLock<PodSpec> = LazyLock::new(PodSpec::default);
    pod.spec.as_ref().unwrap_or(&NONE)
}

/// The pod's namespace.
pub(crate) fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or_default()
}

/// The pod's name.
pub(crate) fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

/// The pod's UID on this node; for a mirror that of its static pod.
pub(crate) fn uid(pod: &Pod) -> &str {
    mirrored(pod).or(pod.metadata.uid.as_deref()).unwrap_or_default()
}

/// The UID of the static pod that this object of the API shows, if it does.
pub(crate) fn mirrored(pod: &Pod) -> Option<&str> {
    pod.metadata.annotations.as_ref()?.get(key::MIRROR).map(String::as_str)
}

/// `NAME_NAMESPACE(UID)`, as upstream's messages name a pod.
pub(crate) fn described(pod: &Pod) -> String {
    format!("{}_{}({})", name(pod), namespace(pod), uid(pod))
}

/// Init containers and sidecars, in the order they start.
pub(crate) fn init_containers(pod: &Pod) -> &[Container] {
    spec(pod).init_containers.as_deref().unwrap_or_default()
}

/// The containers the pod is for.
pub(crate) fn main_containers(pod: &Pod) -> &[Container] {
    &spec(pod).containers
}

/// Containers added for debugging.
pub(crate) fn ephemeral_containers(pod: &Pod) -> Vec<Container> {
    spec(pod).ephemeral_containers.iter().flatten().map(from_ephemeral).collect()
}

/// The role of an init container.
pub(crate) fn init_role(container: &Container) -> Role {
    if is_sidecar(container) { Role::Sidecar } else { Role::Init }
}

/// The container of this name, with its role.
pub(crate) fn container<'a>(pod: &'a Pod, name: &str) -> Option<(Role, Cow<'a, Container>)> {
    let init = init_containers(pod).iter().find(|c| c.name == name).map(|c| (init_role(c), Cow::Borrowed(c)));
    let main = || main_containers(pod).iter().find(|c| c.name == name).map(|c| (Role::Main, Cow::Borrowed(c)));
    let ephemeral = || {
        let found = spec(pod).ephemeral_containers.iter().flatten().find(|c| c.name == name);
        found.map(|c| (Role::Ephemeral, Cow::Owned(from_ephemeral(c))))
    };
    init.or_else(main).or_else(ephemeral)
}

/// All containers with their roles: init containers first, then main ones, then ephemeral ones.
pub(crate) fn containers(pod: &Pod) -> Vec<(Role, Cow<'_, Container>)> {
    let init = init_containers(pod).iter().map(|c| (init_role(c), Cow::Borrowed(c)));
    let main = main_containers(pod).iter().map(|c| (Role::Main, Cow::Borrowed(c)));
    let ephemeral = ephemeral_containers(pod).into_iter().map(|c| (Role::Ephemeral, Cow::Owned(c)));
    init.chain(main).chain(ephemeral).collect()
}

fn from_ephemeral(container: &EphemeralContainer) -> Container {
    let c = container.clone();
    Container {
        args: c.args,
        command: c.command,
        env: c.env,
        env_from: c.env_from,
        image: c.image,
        image_pull_policy: c.image_pull_policy,
        name: c.name,
        resources: c.resources,
        security_context: c.security_context,
        stdin: c.stdin,
        stdin_once: c.stdin_once,
        termination_message_path: c.termination_message_path,
        termination_message_policy: c.termination_message_policy,
        tty: c.tty,
        volume_devices: c.volume_devices,
        volume_mounts: c.volume_mounts,
        working_dir: c.working_dir,
        ..Container::default()
    }
}

/// The volumes that show an image, by name.
pub(crate) fn image_volumes(pod: &Pod) -> impl Iterator<Item = (&str, &ImageVolumeSource)> {
    let volumes = spec(pod).volumes.iter().flatten();
    volumes.filter_map(|volume| Some((volume.name.as_str(), volume.image.as_ref()?)))
}

/// Whether a node agent has taken the pod in before.
pub(crate) fn has_begun(pod: &Pod) -> bool {
    pod.status.as_ref().is_some_and(|status| status.start_time.is_some())
}

/// Pods of this priority and above are what the cluster lives on.
const CRITICAL: i32 = 2_000_000_000;

/// Whether the node keeps the pod whatever it is short of: the cluster lives on it, or a file of this node describes it.
pub(crate) fn is_critical(pod: &Pod) -> bool {
    let source =
        pod.metadata.annotations.as_ref().and_then(|annotations| annotations.get("kubernetes.io/config.source"));
    source.is_some_and(|source| source != "api")
        || mirrored(pod).is_some()
        || skiff_api::pods::priority(pod) >= CRITICAL
}

/// Whether the pod lives in the node's own network.
pub(crate) fn on_host_network(pod: &Pod) -> bool {
    spec(pod).host_network.unwrap_or(false)
}

/// `Always`, `OnFailure` or `Never` for this container: its own word counts before the pod's.
fn restart_policy<'a>(pod: &'a Pod, container: &'a Container) -> &'a str {
    container.restart_policy.as_deref().or(spec(pod).restart_policy.as_deref()).unwrap_or("Always")
}

/// Whether a container that ended with `exit_code` is started again, rules included.
pub(crate) fn restarts_after(pod: &Pod, container: &Container, exit_code: i32) -> bool {
    if container.restart_policy.is_some()
        && let Some(rule) = matching_rule(container, exit_code)
        && rule.action.starts_with("Restart")
    {
        return true;
    }
    match restart_policy(pod, container) {
        "Never" => false,
        "OnFailure" => exit_code != 0,
        _ => true,
    }
}

/// Whether a container that has to be killed, or is lost, is started again. It has no exit code for rules to judge.
pub(crate) fn restarts_when_killed(pod: &Pod, container: &Container) -> bool {
    restart_policy(pod, container) != "Never"
}

fn matching_rule(container: &Container, exit_code: i32) -> Option<&ContainerRestartRule> {
    container.restart_policy_rules.iter().flatten().find(|rule| {
        let Some(codes) = &rule.exit_codes else { return false };
        let listed = codes.values.iter().flatten().any(|code| *code == exit_code);
        match codes.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            _ => false,
        }
    })
}

/// Changes when the container in the runtime no longer is what the specification wants. Like upstream's it covers what
/// can be changed in place: name and image.
pub(crate) fn container_hash(container: &Container) -> String {
    use sha2::{Digest, Sha256};
    let image = container.image.as_deref().unwrap_or_default();
    let digest = Sha256::new().chain_update(&container.name).chain_update([0]).chain_update(image).finalize();
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
