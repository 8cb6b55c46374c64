//! The operating system, behind narrow traits: what the machine is, cgroups, mounts, files, and news of new files.
//!
//! Each has a real implementation and one that does nothing, so that the same agent runs pods on a machine, under test,
//! and on nodes that are hollow.

mod cgroups;
pub mod code;
mod files;
mod inotify;
mod machine;
mod mounts;
mod power;
mod usage;

use std::path::Path;
use std::sync::Arc;

pub use crate::make::resources::Limits;
pub use crate::pinning::Topology;
pub use cgroups::{Cgroups, NoCgroups, RealCgroups};
pub use files::{Content, Files, NoFiles, RealFiles};
pub(crate) use inotify::Watched;
pub use machine::{Machine, MachineFacts};
pub use mounts::{Mounts, NoMounts, RealMounts, Share};
pub use power::{Logind, NoPower, Power, PowerWatch};
pub use usage::{Size, Space, Traffic, Usage};

/// All of it.
#[derive(Clone)]
pub struct Os {
    /// What the machine is.
    pub machine: Arc<dyn Machine>,
    /// Resource groups.
    pub cgroups: Arc<dyn Cgroups>,
    /// Mounts.
    pub mounts: Arc<dyn Mounts>,
    /// Files.
    pub files: Arc<dyn Files>,
    /// Whether the machine is about to stop.
    pub power: Arc<dyn Power>,
}

impl Os {
    /// This machine. Pods' cgroups will lie below `cgroup_root` (such as `/kubepods`), images and volumes on the file
    /// system of `directory`.
    ///
    /// # Errors
    /// When the machine's facts or its cgroup mounts cannot be read.
    pub fn real(cgroup_root: &str, directory: &Path) -> std::io::Result<Self> {
        Ok(Self {
            machine: Arc::new(MachineFacts::read(directory)?),
            cgroups: Arc::new(RealCgroups::detect(cgroup_root)?),
            mounts: Arc::new(RealMounts),
            files: Arc::new(RealFiles),
            power: Arc::new(Logind::default()),
        })
    }

    /// No machine at all, which claims to be `facts`.
    pub fn hollow(facts: MachineFacts) -> Self {
        Self {
            machine: Arc::new(facts),
            cgroups: Arc::new(NoCgroups),
            mounts: Arc::new(NoMounts),
            files: Arc::new(NoFiles),
            power: Arc::new(NoPower),
        }
    }
}
