//! A directory of the operating system.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, Flock, FlockArg, OFlag, fallocate};

use super::bulk::ALIGNED;
use super::{Disk, DiskFile};

/// Less than this goes through the page cache.
const BULK: usize = 64 << 10;

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

    fn real(&self, name: &str, options: &mut OpenOptions) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(RealFile { file: self.file(name, options)?, path: self.dir.join(name), direct: OnceLock::new() }))
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
        self.real(name, OpenOptions::new().create(true).truncate(true))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        self.real(name, &mut OpenOptions::new())
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

/// A file of the directory.
struct RealFile {
    file: File,
    /// Its name while it is made, which is when much is written at once.
    path: PathBuf,
    /// The same file around the page cache, where its file system can do that.
    direct: OnceLock<Option<File>>,
}

impl RealFile {
    /// Whether it was written around the page cache; whatever went wrong, the ordinary way will tell.
    fn write_direct(&self, data: &[u8], at: u64) -> bool {
        let is_aligned = |number: usize| number.is_multiple_of(ALIGNED);
        let fits = is_aligned(data.as_ptr().addr()) && is_aligned(data.len()) && is_aligned(at as usize);
        if data.len() < BULK || !fits {
            return false;
        }
        let open = || OpenOptions::new().write(true).custom_flags(OFlag::O_DIRECT.bits()).open(&self.path).ok();
        self.direct.get_or_init(open).as_ref().is_some_and(|direct| direct.write_all_at(data, at).is_ok())
    }
}

impl DiskFile for RealFile {
    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn read(&self, into: &mut [u8], at: u64) -> io::Result<()> {
        DiskFile::read(&self.file, into, at)
    }

    fn write(&self, data: &[u8], at: u64) -> io::Result<()> {
        if self.write_direct(data, at) { Ok(()) } else { DiskFile::write(&self.file, data, at) }
    }

    fn allocate(&self, size: u64) -> io::Result<()> {
        DiskFile::allocate(&self.file, size)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }
}

/// Files elsewhere, such as snapshots.
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
