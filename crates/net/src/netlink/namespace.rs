//! Entering a network namespace and coming back.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use nix::sched::{CloneFlags, setns};

/// An open network namespace.
#[derive(Debug)]
pub struct Namespace(File);

impl Namespace {
    /// The namespace at `path` (`/run/netns/x`, `/proc/1/ns/net`).
    ///
    /// # Errors
    /// When the path cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        File::open(path).map(Self)
    }

    /// The calling thread's namespace.
    ///
    /// # Errors
    /// When `/proc` is not there.
    pub fn current() -> io::Result<Self> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Runs `work` with the calling thread inside `namespace`. `work` must stay on this thread.
///
/// # Errors
/// When the namespace cannot be entered (root is needed, and the file must be a network namespace) or left again.
pub fn inside<T>(namespace: &Namespace, work: impl FnOnce() -> T) -> io::Result<T> {
    let home = Namespace::current()?;
    setns(namespace, CloneFlags::CLONE_NEWNET)?;
    let result = work();
    setns(&home, CloneFlags::CLONE_NEWNET)?;
    Ok(result)
}
