//! A container, as the runtime is asked for it.

use k8s_openapi::api::core::v1::{Container, Pod};
use skiff_cri::v1::{
    CdiDevice, ContainerConfig, ContainerMetadata, Device, ImageSpec, KeyValue, LinuxContainerConfig,
    LinuxContainerResources, LinuxContainerSecurityContext, Mount,
};

use super::environment::Environment;
use super::expand::expand;
use crate::devices::{Needs, NeedsDevice, NeedsMount};
use crate::pod::facts::{self, key};

/// What goes into a container beside its specification.
pub(crate) struct Parts {
    pub(crate) restarts: u32,
    /// The image as found.
    pub(crate) image_ref: String,
    pub(crate) environment: Environment,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) devices: Vec<Device>,
    /// What it needs to use devices of plugins.
    pub(crate) needs: Needs,
    pub(crate) resources: LinuxContainerResources,
    pub(crate) security: LinuxContainerSecurityContext,
}

/// The log file of a container's n-th life, below its pod's log directory.
pub(crate) fn log_path(name: &str, restarts: u32) -> String {
    format!("{name}/{restarts}.log")
}

/// The container to be made.
pub(crate) fn config(pod: &Pod, container: &Container, parts: Parts) -> ContainerConfig {
    let words = |list: &Option<Vec<String>>| {
        let expanded = list.iter().flatten().map(|word| expand(word, |name| parts.environment.get(name)));
        expanded.collect::<Vec<_>>()
    };
    let (command, args) = (words(&container.command), words(&container.args));
    let user_image = container.image.clone().unwrap_or_default();
    let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let Needs { variables, annotations: wanted, mounts, devices, names } = parts.needs;
    let annotations = [
        label(key::HASH, &facts::container_hash(container)),
        label(key::RESTART_COUNT, &parts.restarts.to_string()),
        label(key::MESSAGE_PATH, container.termination_message_path.as_deref().unwrap_or_default()),
        label(key::MESSAGE_POLICY, container.termination_message_policy.as_deref().unwrap_or_default()),
        label(key::RESOURCES, &serde_json::to_string(&container.resources).unwrap_or_default()),
    ];
    // What the pod says of a variable counts before what a plugin says.
    let own = parts.environment.into_pairs();
    let told =
        variables.into_iter().filter(|(name, _)| !own.iter().any(|(known, _)| known == name)).collect::<Vec<_>>();
    let envs = told.into_iter().chain(own).map(|(key, value)| KeyValue { key, value }).collect();
    let mount = |mount: NeedsMount| Mount {
        container_path: mount.inside,
        host_path: mount.host,
        readonly: mount.read_only,
        ..Mount::default()
    };
    let device = |device: NeedsDevice| Device {
        container_path: device.inside,
        host_path: device.host,
        permissions: device.permissions,
    };
    ContainerConfig {
        metadata: Some(ContainerMetadata { name: container.name.clone(), attempt: parts.restarts }),
        image: Some(ImageSpec { image: parts.image_ref, user_specified_image: user_image, ..ImageSpec::default() }),
        command,
        args,
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs,
        mounts: parts.mounts.into_iter().chain(mounts.into_iter().map(mount)).collect(),
        devices: parts.devices.into_iter().chain(devices.into_iter().map(device)).collect(),
        labels: [
            label(key::POD_NAME, facts::name(pod)),
            label(key::POD_NAMESPACE, facts::namespace(pod)),
            label(key::POD_UID, facts::uid(pod)),
            label(key::CONTAINER_NAME, &container.name),
        ]
        .into(),
        annotations: wanted.into_iter().chain(annotations).collect(),
        log_path: log_path(&container.name, parts.restarts),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        tty: container.tty == Some(true),
        cdi_devices: names.into_iter().map(|name| CdiDevice { name }).collect(),
        linux: Some(LinuxContainerConfig { resources: Some(parts.resources), security_context: Some(parts.security) }),
    }
}
