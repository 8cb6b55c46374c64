//! From a pod's specification to what the runtime is asked to make. Pure: everything that has to be fetched or looked up
//! (config maps, services, host files) comes in as values.

pub(crate) mod container;
pub(crate) mod dns;
pub(crate) mod environment;
pub(crate) mod expand;
pub(crate) mod fields;
pub(crate) mod hosts;
pub(crate) mod resources;
pub(crate) mod sandbox;
pub(crate) mod security;
pub(crate) mod services;

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};

/// Why a container cannot be made from its specification as the cluster is now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("configmap {0:?} not found")]
    NoConfigMap(String),
    #[error("secret {0:?} not found")]
    NoSecret(String),
    #[error("couldn't find key {key} in ConfigMap {namespace}/{name}")]
    NoConfigMapKey { namespace: String, name: String, key: String },
    #[error("couldn't find key {key} in Secret {namespace}/{name}")]
    NoSecretKey { namespace: String, name: String, key: String },
    #[error("unsupported fieldPath: {0}")]
    NoField(String),
    #[error("unsupported container resource : {0}")]
    NoResource(String),
    #[error("container {0} not found")]
    NoContainer(String),
    #[error("invalid divisor {0:?}")]
    BadDivisor(String),
    #[error("container has runAsNonRoot and image will run as root (pod: {pod:?}, container: {container})")]
    ImageRunsAsRoot { pod: String, container: String },
    #[error("container's runAsUser breaks non-root policy (pod: {pod:?}, container: {container})")]
    RunsAsRoot { pod: String, container: String },
    #[error(
        "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root \
         (pod: {pod:?}, container: {container})"
    )]
    UnknownUser { user: String, pod: String, container: String },
    #[error("volume {0:?} of a mount is not in the pod")]
    NoVolume(String),
    #[error("volume {0:?} requested recursive read-only mode, but it is not supported by the runtime")]
    NoRecursiveReadOnly(String),
    #[error("RuntimeHandler {0:?} does not support user namespaces (hostUsers: false)")]
    NoUserNamespaces(String),
    #[error("the runtime cannot be told of devices by their names in the Container Device Interface")]
    NoDeviceNames,
    #[error("subPath {sub_path:?} of volume {volume:?} leads out of it")]
    SubPathEscapes { volume: String, sub_path: String },
    #[error("{what}: {reason}")]
    Files { what: String, reason: String },
}

/// The config maps and secrets that a pod refers to, as they are now; what does not exist is missing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Referenced {
    pub(crate) config_maps: BTreeMap<String, Arc<ConfigMap>>,
    pub(crate) secrets: BTreeMap<String, Arc<Secret>>,
}
