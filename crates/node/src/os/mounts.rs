//! Mounts of our own: memory for secrets and for volumes that ask for it, and directories of file servers.

use std::io;
use std::path::{Path, PathBuf};

use futures::future::BoxFuture;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// A directory of a file server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Such as `server:/path`.
    pub source: String,
    /// Such as `ro`.
    pub options: Vec<String>,
}

/// Mounts and unmounts.
pub trait Mounts: Send + Sync + 'static {
    /// Mounts memory at a directory, limited to `size` bytes (`None`: half of all memory, the kernel's default).
    ///
    /// # Errors
    /// When the kernel refuses.
    fn mount_memory(&self, directory: &Path, size: Option<u64>) -> io::Result<()>;
    /// What is mounted at a directory can neither be written to nor run from.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn seal(&self, directory: &Path) -> io::Result<()>;
    /// Mounts a directory of an NFS server with the machine's own programs, which ask the server for a while.
    ///
    /// # Errors
    /// In the program's words; with the system's where it is missing.
    fn mount_share<'a>(&'a self, share: &'a Share, directory: &'a Path) -> BoxFuture<'a, io::Result<()>>;
    /// Unmounts such a directory and removes the empty one below: what is on the server is never removed. Fine when it is not
    /// there.
    ///
    /// # Errors
    /// When the kernel refuses, or the directory below is not empty.
    fn remove_share(&self, directory: &Path) -> io::Result<()>;
    /// Unmounts; fine when nothing is mounted there.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn unmount(&self, directory: &Path) -> io::Result<()>;
    /// All mount points at or below a directory, the deepest first.
    ///
    /// # Errors
    /// When the mount table cannot be read.
    fn below(&self, directory: &Path) -> io::Result<Vec<PathBuf>>;
}

/// The kernel's mounts.
pub struct RealMounts;

impl Mounts for RealMounts {
    fn mount_memory(&self, directory: &Path, size: Option<u64>) -> io::Result<()> {
        let options = size.map(|size| format!("size={size},mode=0777")).unwrap_or_else(|| "mode=0777".to_owned());
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        Ok(mount(Some("tmpfs"), directory, Some("tmpfs"), flags, Some(options.as_str()))?)
    }
    fn seal(&self, directory: &Path) -> io::Result<()> {
        let restrictions = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | restrictions;
        Ok(mount(None::<&str>, directory, None::<&str>, flags, None::<&str>)?)
    }
    fn mount_share<'a>(&'a self, share: &'a Share, directory: &'a Path) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move {
            let mut mount = tokio::process::Command::new("mount");
            mount.args(["-t", "nfs"]).kill_on_drop(true).stdin(std::process::Stdio::null());
            if !share.options.is_empty() {
                mount.arg("-o").arg(share.options.join(","));
            }
            let done = mount.arg("--").arg(&share.source).arg(directory).output().await?;
            let said = || String::from_utf8_lossy(&done.stderr).trim().to_owned();
            if done.status.success() { Ok(()) } else { Err(io::Error::other(format!("mount: {}", said()))) }
        })
    }
    fn remove_share(&self, directory: &Path) -> io::Result<()> {
        self.unmount(directory)?;
        match std::fs::remove_dir(directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
    fn unmount(&self, directory: &Path) -> io::Result<()> {
        match umount2(directory, MntFlags::MNT_DETACH) {
            Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
    fn below(&self, directory: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(mount_points(&std::fs::read_to_string("/proc/self/mountinfo")?, directory))
    }
}

/// The fifth column is the mount point, with blanks and backslashes in octal.
fn mount_points(table: &str, directory: &Path) -> Vec<PathBuf> {
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(|path| PathBuf::from(unescaped(path)));
    let mut points: Vec<PathBuf> = points.filter(|path| path.starts_with(directory)).collect();
    points.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
    points
}

fn unescaped(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

/// No mounts: memory is an ordinary directory.
pub struct NoMounts;

impl Mounts for NoMounts {
    fn mount_memory(&self, _: &Path, _: Option<u64>) -> io::Result<()> {
        Ok(())
    }
    fn seal(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
    fn mount_share<'a>(&'a self, _: &'a Share, _: &'a Path) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(std::future::ready(Ok(())))
    }
    fn remove_share(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
    fn unmount(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
    fn below(&self, _: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_below_a_directory() {
        let table = "1 0 0:1 / / rw - ext4 d rw\n2 1 0:2 / /d/a\\040b rw - tmpfs t rw\n3 2 0:3 / /d/a\\040b/c rw - x y z\n\
                     4 1 0:4 / /dd rw - x y z\n";
        assert_eq!(mount_points(table, Path::new("/d")), [Path::new("/d/a b/c"), Path::new("/d/a b")]);
    }

    /// What lies there without being mounted is not the server's, and yet nobody's to remove.
    #[test]
    fn a_share_goes_only_when_it_is_empty() {
        let dir = tempfile::tempdir().expect("a directory");
        let share = dir.path().join("share");
        RealMounts.remove_share(&share).expect("not there");
        std::fs::create_dir(&share).expect("made");
        std::fs::write(share.join("kept"), "x").expect("written");
        RealMounts.remove_share(&share).expect_err("it is not empty");
        assert!(share.join("kept").exists());
        std::fs::remove_file(share.join("kept")).expect("removed");
        RealMounts.remove_share(&share).expect("gone");
        assert!(!share.exists());
    }
}
