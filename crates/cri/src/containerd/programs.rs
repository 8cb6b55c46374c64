//! Where the programs are that containers need.

use std::path::PathBuf;

use super::ContainerdError;

/// Directories that hold system programs but are often missing from a user's PATH.
const SYSTEM: &[&str] = &["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// PATH, with the system's directories behind it.
pub(super) fn search_path() -> String {
    let own = std::env::var("PATH").unwrap_or_default();
    let mut directories: Vec<&str> = own.split(':').filter(|directory| !directory.is_empty()).collect();
    for directory in SYSTEM {
        if !directories.contains(directory) {
            directories.push(directory);
        }
    }
    directories.join(":")
}

/// What a private containerd needs.
pub const PROGRAMS: [&str; 4] = ["runc", "containerd-shim-runc-v2", "containerd", "ctr"];

/// Whether a program is where those are looked for.
pub fn is_installed(program: &str) -> bool {
    find(program).is_some()
}

fn find(program: &str) -> Option<PathBuf> {
    let path = search_path();
    path.split(':').map(|directory| PathBuf::from(directory).join(program)).find(|path| path.is_file())
}

/// The programs of a private containerd.
pub(super) struct Programs {
    pub(super) containerd: PathBuf,
    pub(super) ctr: PathBuf,
}

impl Programs {
    pub(super) fn find() -> Result<Self, ContainerdError> {
        let need = |program: &'static str| find(program).ok_or(ContainerdError::Missing(program));
        let [runc, shim, containerd, ctr] = PROGRAMS.map(need);
        runc.and(shim)?;
        Ok(Self { containerd: containerd?, ctr: ctr? })
    }
}
