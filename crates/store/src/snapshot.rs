//! Snapshots: the whole state of a running store in one file, and a new data directory made of one.
//!
//! ```text
//! header        64 bytes, as of every file of the store: format version, revision, second
//! blocks        the state, as in a checkpoint, then files that go with it
//! zeros         up to a multiple of 512 bytes
//! SHA-256       of all before it, 32 bytes
//! ```
//!
//! The last two lines are what etcd's clients expect of a snapshot, so that `etcdctl snapshot save` takes this one as
//! well. It is no bbolt file: only [`restore`] reads it.

use std::fs::File;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use sha2::{Digest, Sha256};
use skiff_meta::WorldRef;

use crate::contract::{KeyRange, Revision, StoreError};
use crate::disk::{Disk, DiskFile, RealDisk, store_error};
use crate::engine::Shared;
use crate::log::blocks::{Blocks, Input, Piece};
use crate::log::checkpoint::{self, Plan};
use crate::log::{Options, Segment, checkpoint_name, header};

/// A snapshot on its way, in chunks.
pub type Snapshot = BoxStream<'static, Result<Bytes, StoreError>>;

/// The size is this much more than a multiple of [`SECTOR`].
const DIGEST: u64 = 32;
const SECTOR: u64 = 512;
/// Bytes copied at once.
const COPY: usize = 1 << 20;
/// What is being restored lies here until it is whole.
const UNFINISHED: &str = "store.restoring";

/// The state as it is now; it stays readable while the snapshot is read.
pub(crate) fn take(shared: &Arc<Shared>, files: Vec<(String, Bytes)>) -> Result<Snapshot, StoreError> {
    let clock = shared.clock();
    let mut state = shared.state.write();
    state.check_open()?;
    let plan = Plan::of_state(&mut state, clock);
    drop(state);
    let (hash, blocks, rest) = (Sha256::new(), Blocks::new(), KeyRange::prefix(""));
    let writer =
        Writer { pinned: Pinned { shared: shared.clone(), plan }, files, hash, blocks, rest, size: 0, total: 0 };
    Ok(stream::unfold((writer, Part::Head), |(mut writer, part)| async move {
        match writer.next(part) {
            Ok(None) => None,
            Ok(Some((bytes, part))) => Some((Ok(bytes), (writer, part))),
            Err(error) => Some((Err(error), (writer, Part::Done))),
        }
    })
    .boxed())
}

/// Lets go of the state when the snapshot is read or given up.
struct Pinned {
    shared: Arc<Shared>,
    plan: Plan,
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.shared.state.write().core.unpin(self.plan.revision);
    }
}

struct Writer {
    pinned: Pinned,
    files: Vec<(String, Bytes)>,
    hash: Sha256,
    blocks: Blocks,
    /// Keys not yet told.
    rest: KeyRange,
    size: u64,
    total: u64,
}

/// What comes next.
enum Part {
    Head,
    Values,
    Files,
    Tail,
    Done,
}

impl Writer {
    fn next(&mut self, part: Part) -> Result<Option<(Bytes, Part)>, StoreError> {
        let Self { pinned: Pinned { shared, plan }, blocks, .. } = self;
        let (bytes, next) = match part {
            Part::Head => {
                let fields = [plan.revision, plan.second as u64, 0, 0, 0, 0];
                let mut head = header::encode(header::SNAPSHOT, fields).to_vec();
                head.extend_from_slice(blocks.leases(&plan.leases));
                (head, Part::Values)
            }
            Part::Values => {
                let piece = checkpoint::values(shared, &mut self.rest, plan.revision)?;
                if piece.is_empty() {
                    (blocks.end(self.total).to_vec(), Part::Files)
                } else {
                    self.total += piece.len() as u64;
                    let (mut piece, mut bytes) = (&piece[..], Vec::new());
                    while !piece.is_empty() {
                        bytes.extend_from_slice(blocks.values(&mut piece));
                    }
                    (bytes, Part::Values)
                }
            }
            Part::Files => match self.files.pop() {
                Some((name, content)) => (blocks.file(&name, &content).to_vec(), Part::Files),
                None => return self.next(Part::Tail),
            },
            Part::Tail => {
                let mut tail = vec![0; (self.size.next_multiple_of(SECTOR) - self.size) as usize];
                self.hash.update(&tail);
                tail.extend_from_slice(&self.hash.finalize_reset());
                return Ok(Some((tail.into(), Part::Done)));
            }
            Part::Done => return Ok(None),
        };
        self.hash.update(&bytes);
        self.size += bytes.len() as u64;
        Ok(Some((bytes.into(), next)))
    }
}

/// Why a snapshot cannot be restored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The snapshot is damaged, too new, or cannot be read.
    #[error(transparent)]
    Snapshot(#[from] StoreError),
    /// Something lies where the restored state is to go.
    #[error("{0} exists already; a snapshot is restored into an empty data directory")]
    NotEmpty(PathBuf),
    /// The directory cannot be written.
    #[error("{0}: {1}")]
    Io(PathBuf, io::Error),
}

/// What a snapshot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contents {
    /// The revision of its state.
    pub revision: Revision,
    /// When that was committed, in seconds since 1970.
    pub second: i64,
    /// Number of keys.
    pub keys: u64,
}

/// Reads a whole snapshot and checks every byte of it.
pub fn verify(path: &Path) -> Result<Contents, StoreError> {
    Ok(Opened::read(path)?.contents)
}

/// A snapshot whose every byte is good.
struct Opened {
    contents: Contents,
    file: File,
    /// Where the state ends, which begins after the header.
    end: u64,
    files: Vec<(String, Bytes)>,
}

impl Opened {
    fn read(path: &Path) -> Result<Self, StoreError> {
        let failed = |error| StoreError::Io(Arc::new(error));
        let name = path.display().to_string();
        let again =
            || File::open(path).map_err(|e| failed(io::Error::new(e.kind(), format!("{}: {e}", path.display()))));
        let (mut input, [revision, second, ..]) = Input::open(Box::new(again()?), &name, header::SNAPSHOT)?;
        let (_, size) = input.place();
        if size % SECTOR != DIGEST {
            return Err(input.damaged(size, "it is cut short"));
        }
        let file = again()?;
        let (hash, digest) = digest(&file, size).map_err(failed)?;
        if hash != digest {
            return Err(input.damaged(size - DIGEST, "the checksum of the whole does not match"));
        }
        let keys = input.state(&mut |_| {})?;
        let (end, _) = input.place();
        let mut files = Vec::new();
        while starts_block(&file, input.place().0, size - DIGEST).map_err(failed)? {
            input.block(size - DIGEST, &mut |piece| {
                if let Piece::File(name, content) = piece {
                    files.push((name, content));
                }
            })?;
        }
        let contents = Contents { revision, second: second as i64, keys };
        Ok(Self { contents, file, end, files })
    }
}

/// Whether something other than padding begins here.
fn starts_block(file: &File, at: u64, end: u64) -> io::Result<bool> {
    let mut length = [0; 4];
    if at + 8 > end {
        return Ok(false);
    }
    file.read(&mut length, at)?;
    Ok(length != [0; 4])
}

/// The checksum as it is, and as it should be.
fn digest(file: &File, size: u64) -> io::Result<([u8; 32], [u8; 32])> {
    let (mut hash, mut buffer, mut at) = (Sha256::new(), vec![0; COPY], 0);
    while at < size - DIGEST {
        let length = (size - DIGEST - at).min(COPY as u64) as usize;
        file.read(&mut buffer[..length], at)?;
        hash.update(&buffer[..length]);
        at += length as u64;
    }
    let mut digest = [0; 32];
    file.read(&mut digest, size - DIGEST)?;
    Ok((hash.finalize().into(), digest))
}

/// Makes a data directory of a snapshot: the store in `data/store`, and the files that went with it. The store comes
/// last and at once, so that what a crash leaves does not pass for a store.
pub fn restore(snapshot: &Path, data: &Path, world: &WorldRef) -> Result<Contents, RestoreError> {
    let opened = Opened::read(snapshot)?;
    let store = data.join("store");
    let targets: Vec<_> = opened.files.iter().filter(|(name, _)| is_inside(name)).collect();
    for path in targets.iter().map(|(name, _)| data.join(name)).chain([store.clone()]) {
        if path.exists() {
            return Err(RestoreError::NotEmpty(path));
        }
    }
    let unfinished = data.join(UNFINISHED);
    let failed = |error| RestoreError::Io(data.to_owned(), error);
    if unfinished.exists() {
        std::fs::remove_dir_all(&unfinished).map_err(failed)?;
    }
    let disk = RealDisk::open(&unfinished).map_err(failed)?;
    write_store(&disk, &opened, world.random()).map_err(|error| RestoreError::Snapshot(store_error(&disk, error)))?;
    for (name, content) in targets {
        write_private(&data.join(name), content).map_err(failed)?;
    }
    std::fs::rename(&unfinished, &store).and_then(|()| File::open(data)?.sync_all()).map_err(failed)?;
    Ok(opened.contents)
}

/// Whether a name leads nowhere but into the directory.
fn is_inside(name: &str) -> bool {
    let mut parts = Path::new(name).components().peekable();
    parts.peek().is_some() && parts.all(|part| matches!(part, Component::Normal(_)))
}

/// A checkpoint with the snapshot's blocks, and an empty log after it.
fn write_store(disk: &RealDisk, opened: &Opened, salt: u64) -> io::Result<()> {
    // Not 1: a log that begins there begins with an empty store.
    const SEGMENT: u64 = 2;
    let Contents { revision, second, .. } = opened.contents;
    let file = disk.create(&checkpoint_name(0))?;
    file.write(&header::encode(header::CHECKPOINT, [0, SEGMENT, revision, second as u64, 0, 0]), 0)?;
    let (mut at, mut buffer) = (header::SIZE as u64, vec![0; COPY]);
    while at < opened.end {
        let length = (opened.end - at).min(COPY as u64) as usize;
        opened.file.read(&mut buffer[..length], at)?;
        file.write(&buffer[..length], at)?;
        at += length as u64;
    }
    file.sync()?;
    Segment::create(disk, SEGMENT, salt, Options::default().segment)?;
    disk.sync()
}

fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
    if let Some(parent) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    }
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_stay_inside() {
        for (name, inside) in [("pki/ca.key", true), ("a", true), ("", false), ("../a", false), ("/a", false)] {
            assert_eq!(is_inside(name), inside, "{name}");
        }
        assert!(!is_inside("a/../../b"));
    }
}
