//! Where a server keeps its things, and where it stands in the network.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};

use crate::error::StartError;

/// The data directory; with `--ephemeral` a temporary one that goes with the process.
pub(crate) struct DataDir {
    path: PathBuf,
    temporary: bool,
}

impl DataDir {
    /// Makes it where it is missing, mode 0700: it holds keys.
    pub(crate) fn open(path: &Path, ephemeral: bool, chosen: bool) -> Result<Self, StartError> {
        use std::os::unix::fs::DirBuilderExt;
        let temporary = ephemeral && !chosen;
        let path = if temporary {
            std::env::temp_dir().join(format!("skiff-{}", std::process::id()))
        } else {
            path.to_path_buf()
        };
        let failed = |e| StartError::DataDir(path.display().to_string(), e);
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(failed)?;
        let path = path.canonicalize().map_err(failed)?;
        Ok(Self { path, temporary })
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A path inside.
    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        if self.temporary {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// The address others reach this machine at: the one its default route leaves from; loopback without one.
pub(crate) fn own_address() -> IpAddr {
    // Connecting a datagram socket sends nothing; it only asks the kernel which way it would go.
    let found = UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        socket.connect("192.0.2.1:9")?;
        socket.local_addr()
    });
    match found {
        Ok(address) if !address.ip().is_unspecified() => address.ip(),
        _ => IpAddr::V4(Ipv4Addr::LOCALHOST),
    }
}

/// The machine's name, as node names must be.
pub(crate) fn host_name() -> String {
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default();
    let name: String =
        name.to_lowercase().chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect();
    let name = name.trim_matches(['-', '.']).to_owned();
    if name.is_empty() { "localhost".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_fit_for_nodes() {
        let name = host_name();
        assert!(
            !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c))
        );
    }

    #[test]
    fn a_temporary_directory_goes_with_its_owner() {
        let dir = DataDir::open(Path::new("/nowhere"), true, false).unwrap();
        let path = dir.path().to_path_buf();
        assert!(path.is_dir());
        drop(dir);
        assert!(!path.exists());
    }
}
