//! The log: the store's durable form.
//!
//! A directory holds the `lock`, segments `log-N` of a fixed size with frames one after another ([`frame`]), and
//! checkpoints `checkpoint-S`: the whole state as of frame S. The state is the newest one and the segments from there on;
//! older files are its past ([`files`]), and go when they are no longer wanted. Files are made under a name that ends in
//! `.tmp` and renamed when they are whole, so one without it is complete, or damaged.
//!
//! Room for a segment is taken when it is made: a full disk is met there, with nothing half-written. A sync that only
//! overwrites is half as long as one that also has to note that blocks are in use now, so the log writes zeros ahead.

pub(crate) mod blocks;
pub(crate) mod checkpoint;
pub(crate) mod files;
pub(crate) mod frame;
pub(crate) mod header;
pub(crate) mod past;
pub(crate) mod recover;
pub(crate) mod writer;

use std::sync::Arc;

use skiff_meta::WorldRef;

use crate::contract::StoreError;
use crate::disk::{Disk, DiskFile, store_error};
use crate::state::Retention;

pub(crate) use files::Files;
pub use files::HistoryLimits;

/// How far ahead zeros are written.
const AHEAD: u64 = 1 << 20;

/// How the embedded engine uses its disk and memory.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How much history stays in memory, for API clients.
    pub retention: Retention,
    /// How much stays on disk beyond that.
    pub history: HistoryLimits,
    /// Size of a segment of the log, in bytes. This much is taken from the disk at the least.
    pub segment: u64,
    /// A checkpoint is due when the log since the last one has this many bytes, or twice as many as the last one,
    /// whichever is more.
    pub checkpoint_bytes: u64,
    /// A checkpoint is due as well when the log since the last one has this many mutations, or as many as there were
    /// keys: it bounds the time to start.
    pub checkpoint_entries: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            retention: Retention::default(),
            history: HistoryLimits::default(),
            segment: 32 << 20,
            checkpoint_bytes: 64 << 20,
            checkpoint_entries: 200_000,
        }
    }
}

pub(crate) fn segment_name(number: u64) -> String {
    format!("log-{number:020}")
}

pub(crate) fn checkpoint_name(sequence: u64) -> String {
    format!("checkpoint-{sequence:020}")
}

/// The number in a file's name.
fn number(name: &str, prefix: &str) -> Option<u64> {
    name.strip_prefix(prefix)?.parse().ok()
}

/// The end of the log, where frames are added.
pub(crate) struct Log {
    disk: Arc<dyn Disk>,
    world: WorldRef,
    files: Arc<Files>,
    segment_size: u64,
    segment: Segment,
    /// Sequence of the last frame.
    sequence: u64,
    /// Held as long as the log is.
    _lock: Box<dyn Send>,
}

/// The segment written now.
pub(crate) struct Segment {
    file: Box<dyn DiskFile>,
    number: u64,
    salt: u64,
    size: u64,
    /// Where the next frame goes.
    end: u64,
    /// Up to here blocks have been written to.
    touched: u64,
    /// A failed frame may have left something up to here.
    dirty: Option<u64>,
}

impl Log {
    pub(crate) fn sequence(&self) -> u64 {
        self.sequence
    }

    pub(crate) fn segment_number(&self) -> u64 {
        self.segment.number
    }

    /// Makes a frame durable. After [`StoreError::NoSpace`] the next may succeed; after any other error nothing is
    /// known about the disk any more.
    pub(crate) fn append(&mut self, frame: &mut Vec<u8>, entries: u32) -> Result<(), StoreError> {
        let mut result = self.try_append(frame, entries).map_err(|error| store_error(&*self.disk, error));
        if let Err(StoreError::NoSpace(_)) = result
            && self.files.forget_history()
        {
            // The past takes no room from the present.
            result = self.try_append(frame, entries).map_err(|error| store_error(&*self.disk, error));
        }
        if let Err(StoreError::NoSpace(_)) = result {
            // Best at once; if it fails now, the next frame waits until it succeeds.
            let _ = self.segment.clean();
        }
        result
    }

    fn try_append(&mut self, frame: &mut Vec<u8>, entries: u32) -> std::io::Result<()> {
        self.segment.clean()?;
        let room = self.segment.size - self.segment.end;
        if frame.len().next_multiple_of(8) as u64 > room {
            self.next_segment(frame.len() as u64)?;
        }
        frame::seal(frame, entries, self.sequence + 1, self.segment.salt);
        self.segment.append(frame)?;
        self.sequence += 1;
        Ok(())
    }

    fn next_segment(&mut self, frame: u64) -> std::io::Result<()> {
        let size = self.segment_size.max(frame + 2 * header::SIZE as u64);
        let next = Segment::create(&*self.disk, self.segment.number + 1, self.world.random(), size)?;
        self.files.set_active(next.number, size);
        self.segment = next;
        Ok(())
    }
}

impl Segment {
    /// A new, empty segment, durable under its name.
    pub(crate) fn create(disk: &dyn Disk, number: u64, salt: u64, size: u64) -> std::io::Result<Self> {
        let name = segment_name(number);
        let temporary = format!("{name}.tmp");
        let make = || -> std::io::Result<_> {
            let file = disk.create(&temporary)?;
            file.allocate(size)?;
            file.write(&header::encode(header::SEGMENT, [number, salt, size, 0, 0, 0]), 0)?;
            file.sync()?;
            disk.rename(&temporary, &name)?;
            disk.sync()?;
            Ok(file)
        };
        let file = make().inspect_err(|_| {
            // Only to give back the room; the next start removes it in any case.
            let _ = disk.remove(&temporary);
        })?;
        let end = header::SIZE as u64;
        Ok(Self { file, number, salt, size, end, touched: end, dirty: None })
    }

    fn append(&mut self, frame: &[u8]) -> std::io::Result<()> {
        let end = self.end + frame.len() as u64;
        self.dirty = Some(end);
        self.file.write(frame, self.end)?;
        if end > self.touched {
            let touched = self.size.min(end + AHEAD);
            self.zero(end, touched)?;
            self.touched = touched;
        }
        self.file.sync()?;
        self.dirty = None;
        self.end = end;
        Ok(())
    }

    /// Wipes what a failed frame left, so that it can neither come true after a crash nor pass for damage.
    fn clean(&mut self) -> std::io::Result<()> {
        if let Some(dirty) = self.dirty {
            self.zero(self.end, dirty)?;
            self.file.sync()?;
            self.dirty = None;
        }
        Ok(())
    }

    fn zero(&self, from: u64, to: u64) -> std::io::Result<()> {
        static ZEROS: [u8; 1 << 16] = [0; 1 << 16];
        let mut at = from;
        while at < to {
            let length = (to - at).min(ZEROS.len() as u64);
            self.file.write(&ZEROS[..length as usize], at)?;
            at += length;
        }
        Ok(())
    }
}
