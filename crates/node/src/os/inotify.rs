//! News of files: the kernel tells when something in a directory, or a file, changes.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;

/// A directory that is watched.
pub(crate) struct Watched {
    /// The kernel's queue is no pipe, but it is read like one; what it says does not matter, only that it speaks.
    queue: Receiver,
}

impl Watched {
    /// Watches a directory for files that were written in full or moved into it.
    pub(crate) fn arrivals(directory: &Path) -> io::Result<Self> {
        Self::new(directory, AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_MOVED_TO)
    }

    /// Watches a directory for any change to the files in it.
    pub(crate) fn changes(directory: &Path) -> io::Result<Self> {
        let names = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_DELETE;
        Self::new(directory, names | AddWatchFlags::IN_MODIFY)
    }

    fn new(path: &Path, what: AddWatchFlags) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        inotify.add_watch(path, what)?;
        Ok(Self { queue: Receiver::from_owned_fd_unchecked(OwnedFd::from(inotify))? })
    }

    /// Completes when something has changed since the last call.
    pub(crate) async fn changed(&mut self) -> io::Result<()> {
        let mut events = [0; 4096];
        self.queue.read(&mut events).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_arrival_is_heard_of() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut watched = Watched::arrivals(dir.path()).expect("watched");
        std::fs::write(dir.path().join("a"), b"x").expect("written");
        watched.changed().await.expect("heard");
    }
}
