//! A disk in memory that fills up, breaks and loses power when a test asks for it.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Disk, DiskFile};

/// What survives a power cut is decided per sector.
const SECTOR: usize = 512;

/// A disk in memory. Clones are the same disk.
#[derive(Clone, Default)]
pub struct FakeDisk {
    platter: Arc<Mutex<Platter>>,
    /// The life it was plugged in for; `None`: whichever is now.
    plugged: Option<u64>,
}

#[derive(Default)]
struct Platter {
    files: BTreeMap<String, Shelf>,
    /// Changes of names that are not durable, oldest first.
    names: Vec<NameChange>,
    locked: bool,
    /// Handles of earlier lives are dead.
    life: u64,
    capacity: Option<u64>,
    /// After this many more changes the power goes.
    fuse: Option<u64>,
    sync_fails: bool,
}

type Shelf = Arc<Mutex<Content>>;

#[derive(Default)]
struct Content {
    bytes: Vec<u8>,
    /// Sectors written since the last sync, as they were before.
    unsynced: BTreeMap<usize, Vec<u8>>,
}

enum NameChange {
    Created(String),
    Renamed { from: String, to: String, replaced: Option<Shelf> },
    Removed(String, Shelf),
}

impl FakeDisk {
    /// The same disk until the power goes: for a machine whose threads do not survive that, be they in the middle of
    /// something.
    #[must_use]
    pub fn plugged(&self) -> Self {
        Self { platter: self.platter.clone(), plugged: Some(self.life()) }
    }

    /// Room for this many bytes in all files together; `None`: without end.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.platter.lock().capacity = bytes;
    }

    /// Bytes in all files together.
    pub fn used(&self) -> u64 {
        self.platter.lock().used()
    }

    /// The power goes after this many more writes, syncs and changes of names: from then on everything fails.
    pub fn cut_power_after(&self, changes: u64) {
        self.platter.lock().fuse = Some(changes);
    }

    /// Lets all syncs of files fail.
    pub fn fail_syncs(&self, fail: bool) {
        self.platter.lock().sync_fails = fail;
    }

    /// The power goes, if it has not yet, and comes back: of each sector and name not synced, `keeps` tells whether it
    /// had reached the platter. Old handles stay dead.
    pub fn power_cycle(&self, mut keeps: impl FnMut() -> bool) {
        let mut platter = self.platter.lock();
        platter.life += 1;
        platter.locked = false;
        platter.fuse = None;
        let changes = std::mem::take(&mut platter.names);
        let kept = changes.iter().take_while(|_| keeps()).count();
        for change in changes.into_iter().skip(kept).rev() {
            platter.take_back(change);
        }
        for file in platter.files.values() {
            let mut file = file.lock();
            for (at, old) in std::mem::take(&mut file.unsynced) {
                if !keeps() {
                    file.bytes[at..at + old.len()].copy_from_slice(&old);
                }
            }
        }
    }

    /// A file's bytes, for looking and for damaging.
    pub fn edit<T>(&self, name: &str, edit: impl FnOnce(&mut Vec<u8>) -> T) -> Option<T> {
        let file = self.platter.lock().files.get(name)?.clone();
        let mut file = file.lock();
        Some(edit(&mut file.bytes))
    }

    /// Every change passes here.
    fn change(&self, life: u64) -> io::Result<parking_lot::MutexGuard<'_, Platter>> {
        let mut platter = self.platter.lock();
        platter.check_life(life)?;
        if let Some(left) = platter.fuse.as_mut() {
            *left = left.saturating_sub(1);
        }
        Ok(platter)
    }

    fn handle(&self, content: Shelf, life: u64) -> Box<dyn DiskFile> {
        Box::new(FakeFile { disk: self.clone(), content, life })
    }

    fn life(&self) -> u64 {
        self.plugged.unwrap_or_else(|| self.platter.lock().life)
    }
}

impl Platter {
    fn check_life(&self, life: u64) -> io::Result<()> {
        if self.life != life || self.fuse == Some(0) {
            return Err(io::Error::other("the power is off"));
        }
        Ok(())
    }

    fn used(&self) -> u64 {
        self.files.values().map(|file| file.lock().bytes.len() as u64).sum()
    }

    fn take_back(&mut self, change: NameChange) {
        match change {
            NameChange::Created(name) => drop(self.files.remove(&name)),
            NameChange::Renamed { from, to, replaced } => {
                if let Some(file) = self.files.remove(&to) {
                    self.files.insert(from, file);
                }
                self.files.extend(replaced.map(|file| (to, file)));
            }
            NameChange::Removed(name, file) => drop(self.files.insert(name, file)),
        }
    }
}

impl Disk for FakeDisk {
    fn name(&self) -> String {
        "a fake disk".into()
    }

    fn lock(&self) -> io::Result<Box<dyn Send>> {
        let mut platter = self.platter.lock();
        if std::mem::replace(&mut platter.locked, true) {
            return Err(ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(FakeLock { platter: self.platter.clone(), life: platter.life }))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.platter.lock().files.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let (content, life) = (Shelf::default(), self.life());
        let mut platter = self.change(life)?;
        if let Some(old) = platter.files.insert(name.into(), content.clone()) {
            platter.names.push(NameChange::Removed(name.into(), old));
        }
        platter.names.push(NameChange::Created(name.into()));
        drop(platter);
        Ok(self.handle(content, life))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let life = self.life();
        let platter = self.platter.lock();
        platter.check_life(life)?;
        let content = platter.files.get(name).cloned().ok_or(ErrorKind::NotFound)?;
        drop(platter);
        Ok(self.handle(content, life))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut platter = self.change(self.life())?;
        let file = platter.files.remove(from).ok_or(ErrorKind::NotFound)?;
        let replaced = platter.files.insert(to.into(), file);
        platter.names.push(NameChange::Renamed { from: from.into(), to: to.into(), replaced });
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut platter = self.change(self.life())?;
        let file = platter.files.remove(name).ok_or(ErrorKind::NotFound)?;
        platter.names.push(NameChange::Removed(name.into(), file));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.change(self.life())?.names.clear();
        Ok(())
    }
}

struct FakeLock {
    platter: Arc<Mutex<Platter>>,
    life: u64,
}

impl Drop for FakeLock {
    fn drop(&mut self) {
        let mut platter = self.platter.lock();
        if platter.life == self.life {
            platter.locked = false;
        }
    }
}

struct FakeFile {
    disk: FakeDisk,
    content: Shelf,
    life: u64,
}

impl FakeFile {
    /// Lets the file grow to `size` if the disk has room.
    fn grow(&self, platter: &Platter, size: usize) -> io::Result<()> {
        let old = self.content.lock().bytes.len();
        let more = size.saturating_sub(old);
        if more > 0 && platter.capacity.is_some_and(|capacity| platter.used() + more as u64 > capacity) {
            return Err(ErrorKind::StorageFull.into());
        }
        self.content.lock().bytes.resize(size.max(old), 0);
        Ok(())
    }
}

impl DiskFile for FakeFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.content.lock().bytes.len() as u64)
    }

    fn read(&self, into: &mut [u8], at: u64) -> io::Result<()> {
        self.disk.platter.lock().check_life(self.life)?;
        let content = self.content.lock();
        let from = content.bytes.get(at as usize..at as usize + into.len()).ok_or(ErrorKind::UnexpectedEof)?;
        into.copy_from_slice(from);
        Ok(())
    }

    fn write(&self, data: &[u8], at: u64) -> io::Result<()> {
        let platter = self.disk.change(self.life)?;
        let (start, end) = (at as usize, at as usize + data.len());
        self.grow(&platter, end)?;
        let mut content = self.content.lock();
        let Content { bytes, unsynced } = &mut *content;
        for sector in start / SECTOR..end.div_ceil(SECTOR) {
            let from = sector * SECTOR;
            unsynced.entry(from).or_insert_with(|| bytes[from..bytes.len().min(from + SECTOR)].to_vec());
        }
        bytes[start..end].copy_from_slice(data);
        Ok(())
    }

    fn allocate(&self, size: u64) -> io::Result<()> {
        let platter = self.disk.change(self.life)?;
        self.grow(&platter, size as usize)
    }

    fn sync(&self) -> io::Result<()> {
        let platter = self.disk.change(self.life)?;
        // The change that burns the fuse is the first that fails: what it was to make durable is not.
        platter.check_life(self.life)?;
        if platter.sync_fails {
            return Err(io::Error::other("the medium failed"));
        }
        self.content.lock().unsynced.clear();
        Ok(())
    }
}
