//! The files of one data directory: the only way in which the embedded engine touches the operating system.
//!
//! Flat names, positional reads and writes, explicit syncs. [`RealDisk`] is a directory; [`FakeDisk`] lives in memory,
//! fills up, breaks and loses power on demand.

mod bulk;
mod fake;
mod real;

use std::io;
use std::sync::Arc;

pub(crate) use bulk::Bulk;
pub use fake::FakeDisk;
pub use real::RealDisk;

use crate::contract::StoreError;

/// A directory.
pub trait Disk: Send + Sync + 'static {
    /// What to call it in messages.
    fn name(&self) -> String;
    /// Takes the directory for this process until the guard is dropped; `WouldBlock` when another has it.
    fn lock(&self) -> io::Result<Box<dyn Send>>;
    /// The names of all files.
    fn list(&self) -> io::Result<Vec<String>>;
    /// A new empty file; an old one of that name goes.
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;
    /// An existing file.
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;
    /// Gives a file a new name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes names durable: those created, given and removed.
    fn sync(&self) -> io::Result<()>;
}

/// An open file.
pub trait DiskFile: Send {
    /// Its size in bytes.
    fn size(&self) -> io::Result<u64>;
    /// Fills `into` from byte `at` on; `UnexpectedEof` when the file ends before.
    fn read(&self, into: &mut [u8], at: u64) -> io::Result<()>;
    /// Writes all of `data` at byte `at`. Where address, length and place are multiples of 4,096 and the length is at
    /// least 64 KiB, it may go around the page cache.
    fn write(&self, data: &[u8], at: u64) -> io::Result<()>;
    /// Sets the size and takes the room for it; new bytes are zero.
    fn allocate(&self, size: u64) -> io::Result<()>;
    /// Makes the contents durable.
    fn sync(&self) -> io::Result<()>;
}

/// The store's error for a disk's. Want of room is told apart, as it passes.
pub(crate) fn store_error(disk: &dyn Disk, error: io::Error) -> StoreError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::NoSpace(disk.name()),
        _ => StoreError::Io(Arc::new(error)),
    }
}
