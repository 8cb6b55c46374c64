//! What an administrator says of a node: upstream's `KubeletConfiguration`, as far as it means something here.

mod file;

use std::time::Duration;

use skiff_api::resources::ResourceList;

use crate::pinning::Policy;
use crate::pressure::Threshold;
use crate::shutdown::Period;

/// What an administrator says of a node.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// How many pods it takes.
    pub max_pods: u32,
    /// When pods are evicted.
    pub(crate) eviction: Eviction,
    /// How long pods have when the machine is to stop, by priority.
    pub(crate) shutdown: Vec<Period>,
    /// Who has processors and memory for itself.
    pub(crate) pinning: Policy,
    /// What is not for pods: for the system and for the agent.
    pub(crate) reserved: ResourceList,
    /// A container's log larger than this is set aside, in bytes.
    pub(crate) log_size: u64,
    /// Files kept per container's log, the present one included.
    pub(crate) log_files: usize,
    /// Fields of the file that mean nothing here.
    pub unheeded: Vec<String>,
}

/// When pods are evicted, and how.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Eviction {
    pub(crate) thresholds: Vec<Threshold>,
    /// Seconds that a pod has at most where a threshold can wait.
    pub(crate) max_pod_grace: i64,
    /// A pressure counts until nothing has been seen of it for this long.
    pub(crate) transition: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        let transition = Duration::from_secs(300);
        Self {
            max_pods: 110,
            eviction: Eviction { thresholds: Threshold::defaults(), max_pod_grace: 0, transition },
            shutdown: Vec::new(),
            pinning: Policy::default(),
            reserved: ResourceList::new(),
            log_size: 10 << 20,
            log_files: 5,
            unheeded: Vec::new(),
        }
    }
}

/// What is wrong with a file of settings.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// It cannot be read as YAML or JSON.
    #[error("{0}")]
    Form(String),
    /// It is something else.
    #[error("it is no KubeletConfiguration of kubelet.config.k8s.io/v1beta1")]
    Kind,
    /// A field has a wrong value.
    #[error("{field}: {why}")]
    Field {
        /// Which.
        field: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

impl Settings {
    /// Reads a `KubeletConfiguration` (`kubelet.config.k8s.io/v1beta1`). Fields that it has beyond those that mean something
    /// here are named in [`Settings::unheeded`].
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn read(text: &[u8]) -> Result<Self, SettingsError> {
        file::read(text)
    }
}
