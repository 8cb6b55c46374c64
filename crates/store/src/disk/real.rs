//! A directory of the operating system.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, Flock, FlockArg, fallocate};

use super::{Disk, DiskFile};

/// A directory of the operating system. Secrets lie in it, so only its owner may look.
pub struct RealDisk {
    dir: PathBuf,
}

impl RealDisk {
    /// Uses `dir`, which is made if it is missing.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let make = || {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
            match dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                Some(parent) => File::open(parent)?.sync_all(),
                None => Ok(()),
            }
        };
        make().map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", dir.display())))?;
        Ok(Self { dir: dir.to_owned() })
    }

    fn file(&self, name: &str, options: &mut OpenOptions) -> io::Result<File> {
        options.read(true).write(true).mode(0o600).open(self.dir.join(name))
    }
}

impl Disk for RealDisk {
    fn name(&self) -> String {
        self.dir.display().to_string()
    }

    fn lock(&self) -> io::Result<Box<dyn Send>> {
        let file = self.file("lock", OpenOptions::new().create(true).truncate(false))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Box::new(lock)),
            Err((_, error)) => Err(error.into()),
        }
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let name = |entry: io::Result<fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().into_owned());
        fs::read_dir(&self.dir)?.map(name).collect()
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(self.file(name, OpenOptions::new().create(true).truncate(true))?))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(self.file(name, &mut OpenOptions::new())?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.dir.join(from), self.dir.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.dir.join(name))
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }
}

impl DiskFile for File {
    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read(&self, into: &mut [u8], at: u64) -> io::Result<()> {
        self.read_exact_at(into, at)
    }

    fn write(&self, data: &[u8], at: u64) -> io::Result<()> {
        self.write_all_at(data, at)
    }

    fn allocate(&self, size: u64) -> io::Result<()> {
        let length = i64::try_from(size).map_err(io::Error::other)?;
        match fallocate(self, FallocateFlags::empty(), 0, length) {
            // A file system that cannot reserve room: the want of it shows when it is written.
            Err(Errno::EOPNOTSUPP) => self.set_len(size),
            result => Ok(result?),
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_the_lock() {
        let dir = tempfile::tempdir().expect("a directory");
        let disk = RealDisk::open(&dir.path().join("store")).expect("a directory below");
        let lock = disk.lock().expect("free");
        assert_eq!(disk.lock().err().map(|error| error.kind()), Some(io::ErrorKind::WouldBlock));
        drop(lock);
        drop(disk.lock().expect("free again"));

        let file = disk.create("a.tmp").expect("a file");
        file.allocate(4096).expect("room");
        file.write(b"hello", 100).expect("a write");
        file.sync().expect("a sync");
        disk.rename("a.tmp", "a").expect("a new name");
        disk.sync().expect("a sync");
        let file = disk.open("a").expect("the file");
        let mut bytes = [1; 6];
        file.read(&mut bytes, 100).expect("what was written, and a zero");
        assert_eq!((&bytes, file.size().expect("a size")), (b"hello\0", 4096));
        let beyond = file.read(&mut bytes, 4095).err().map(|error| error.kind());
        assert_eq!(beyond, Some(io::ErrorKind::UnexpectedEof));
        disk.remove("a").expect("gone");
        assert_eq!(disk.list().expect("a list"), ["lock"]);
    }
}
