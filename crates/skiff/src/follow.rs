//! Configuration files that may change while the server runs.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;

/// News of a file, also when it is replaced as a whole, which editors and mounted volumes do.
pub(crate) struct Followed {
    /// The kernel's queue, which is read like a pipe.
    queue: Receiver,
}

impl Followed {
    /// Listens for changes in the file's directory.
    pub(crate) fn new(file: &Path) -> io::Result<Self> {
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        inotify.add_watch(folder, AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_MOVED_TO)?;
        Ok(Self { queue: Receiver::from_owned_fd_unchecked(OwnedFd::from(inotify))? })
    }

    /// Completes when something in the directory has changed since the last call.
    pub(crate) async fn changed(&mut self) -> io::Result<()> {
        let mut events = [0; 4096];
        self.queue.read(&mut events).await.map(drop)
    }
}
