//! Which files hold the state, and which hold its past.
//!
//! The newest checkpoint (the store's empty beginning is one without a file) and the segments after it are the state;
//! older ones are history. Any past state is the last checkpoint before it and the log from there on, so a checkpoint
//! goes together with the segments that only it needs, oldest first.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::{checkpoint_name, segment_name};
use crate::contract::Revision;
use crate::disk::{Disk, DiskFile};
use crate::state::FIRST;

/// How much of the past stays readable on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryLimits {
    /// No longer than this is needed.
    pub time: Duration,
    /// At most this many bytes, in steps of a checkpoint and the log up to the next; 0: nothing is kept.
    pub bytes: u64,
}

impl HistoryLimits {
    /// Nothing beyond what the state itself needs.
    pub const NONE: Self = Self { time: Duration::ZERO, bytes: 0 };
}

impl Default for HistoryLimits {
    fn default() -> Self {
        Self { time: Duration::from_secs(3600), bytes: 256 << 20 }
    }
}

/// The files that are there.
pub(crate) struct Files {
    pub(crate) disk: Arc<dyn Disk>,
    limits: HistoryLimits,
    inner: Mutex<Inner>,
    /// One reader of history at a time, for the sake of memory and disk.
    pub(crate) reading: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Inner {
    /// Full segments, oldest first.
    sealed: Vec<Segment>,
    active: Segment,
    /// Where reading can begin, oldest first; the last is where the state begins.
    bases: Vec<Base>,
}

#[derive(Clone, Copy, Default)]
pub(crate) struct Segment {
    pub(crate) number: u64,
    pub(crate) size: u64,
}

/// A checkpoint, as its header tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Base {
    /// The last frame it includes.
    pub(crate) sequence: u64,
    /// The segment written at the time.
    pub(crate) segment: u64,
    pub(crate) revision: Revision,
    pub(crate) second: i64,
    /// Bytes of the file; 0: there is none.
    pub(crate) size: u64,
}

impl Base {
    /// A store where nothing was ever written.
    pub(crate) const ORIGIN: Self = Self { sequence: 0, segment: 1, revision: FIRST, second: i64::MIN, size: 0 };
}

/// An open file and its name.
pub(crate) type Named = (String, Box<dyn DiskFile>);

/// Everything needed to read some past state; what is open here stays readable when it is removed.
pub(crate) struct Past {
    pub(crate) base: Base,
    /// The base's file, if it has one.
    pub(crate) checkpoint: Option<Named>,
    pub(crate) segments: Vec<Named>,
}

impl Files {
    pub(crate) fn new(disk: Arc<dyn Disk>, limits: HistoryLimits) -> Self {
        Self { disk, limits, inner: Mutex::default(), reading: tokio::sync::Mutex::default() }
    }

    /// Bytes in all files.
    pub(crate) fn size(&self) -> u64 {
        let inner = self.inner.lock();
        let sealed: u64 = inner.sealed.iter().map(|segment| segment.size).sum();
        sealed + inner.active.size + inner.bases.iter().map(|base| base.size).sum::<u64>()
    }

    pub(crate) fn checkpoint_size(&self) -> u64 {
        self.inner.lock().bases.last().map_or(0, |base| base.size)
    }

    /// The oldest revision that can be read.
    pub(crate) fn oldest(&self) -> Revision {
        self.inner.lock().bases.first().map_or(FIRST, |base| base.revision)
    }

    /// The log goes on in another segment.
    pub(crate) fn set_active(&self, number: u64, size: u64) {
        let mut inner = self.inner.lock();
        let last = std::mem::replace(&mut inner.active, Segment { number, size });
        if last.size > 0 {
            inner.sealed.push(last);
        }
    }

    /// Reading can begin here: a checkpoint, newer than all before it.
    pub(crate) fn add(&self, base: Base) {
        self.inner.lock().bases.push(base);
    }

    /// Lets go of history beyond its limits.
    pub(crate) fn prune(&self, now: i64) {
        let since = now.saturating_sub(i64::try_from(self.limits.time.as_secs()).unwrap_or(i64::MAX));
        self.forget(|inner| inner.bases[1].second < since || inner.history() > self.limits.bytes);
    }

    /// Lets go of all history, as the state itself needs the room; whether there was any.
    pub(crate) fn forget_history(&self) -> bool {
        self.forget(|_| true)
    }

    fn forget(&self, goes: impl Fn(&Inner) -> bool) -> bool {
        let mut inner = self.inner.lock();
        let mut gone = Vec::new();
        while inner.bases.len() > 1 && goes(&inner) {
            let base = inner.bases.remove(0);
            let next = inner.bases[0].segment;
            let covered = inner.sealed.partition_point(|segment| segment.number < next);
            gone.extend((base.size > 0).then(|| checkpoint_name(base.sequence)));
            gone.extend(inner.sealed.drain(..covered).map(|segment| segment_name(segment.number)));
        }
        drop(inner);
        let any = !gone.is_empty();
        for name in gone {
            if let Err(error) = self.disk.remove(&name) {
                tracing::warn!(file = name, "a store file no longer needed could not be removed: {error}");
            }
        }
        any
    }

    /// Opens what reading from the newest base on takes for which `fits` holds.
    pub(crate) fn past(&self, fits: impl Fn(&Base) -> bool) -> io::Result<Option<Past>> {
        // Under the lock, so that nothing is removed in between.
        let inner = self.inner.lock();
        let Some(base) = inner.bases.iter().rfind(|base| fits(base)).copied() else { return Ok(None) };
        let open = |name: String| Ok::<_, io::Error>((name.clone(), self.disk.open(&name)?));
        let checkpoint = (base.size > 0).then(|| open(checkpoint_name(base.sequence))).transpose()?;
        let numbers = inner.sealed.iter().chain([&inner.active]).map(|segment| segment.number);
        let segments = numbers.filter(|number| *number >= base.segment).map(|n| open(segment_name(n)));
        Ok(Some(Past { base, checkpoint, segments: segments.collect::<Result<_, _>>()? }))
    }
}

impl Inner {
    /// Bytes that only history needs.
    fn history(&self) -> u64 {
        let Some((last, older)) = self.bases.split_last() else { return 0 };
        let segments = self.sealed.iter().filter(|segment| segment.number < last.segment).map(|s| s.size);
        segments.sum::<u64>() + older.iter().map(|base| base.size).sum::<u64>()
    }
}
