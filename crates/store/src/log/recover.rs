//! Reads a directory back: the checkpoint, then the log after it.
//!
//! A crash may leave the last frame half-written; it was never acknowledged and is wiped. Anything else that does not
//! add up is damage, and is reported with its place: a frame that fails its checksum while a newer one is whole, a gap in
//! the sequence, a missing file.

use std::io;
use std::sync::Arc;

use skiff_meta::WorldRef;

use super::checkpoint::{self, Loaded};
use super::frame::{self, Found};
use super::writer::Amount;
use super::{Files, Log, Options, Segment, header, number, segment_name};
use crate::contract::StoreError;
use crate::disk::{Disk, store_error};
use crate::entry::Entry;
use crate::state::{Clock, Core};

/// A store as it was found.
pub(crate) struct Recovered {
    pub(crate) core: Core,
    pub(crate) log: Log,
    /// How much of the log comes after the checkpoint.
    pub(crate) since_checkpoint: Amount,
    pub(crate) keys_at_checkpoint: u64,
}

/// Takes the directory and reads it.
pub(crate) fn open(disk: Arc<dyn Disk>, world: &WorldRef, options: &Options) -> Result<Recovered, StoreError> {
    let lock = disk.lock().map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => StoreError::InUse(disk.name()),
        _ => store_error(&*disk, error),
    })?;
    let clock = Clock { unix: world.now().as_millisecond(), elapsed: world.elapsed() };
    let mut core = Core::new(options.retention);
    let Listing { checkpoints, segments } = list(&*disk).map_err(|error| store_error(&*disk, error))?;
    let files = Arc::new(Files::new(disk.clone()));

    let checkpoint = match checkpoints.last() {
        Some(sequence) => Some(checkpoint::load(&*disk, &super::checkpoint_name(*sequence), &mut core, clock)?),
        None => None,
    };
    let segments = needed_segments(&*disk, segments, checkpoint.as_ref())?;
    let (through, keys_at_checkpoint) = checkpoint.as_ref().map_or((0, 0), |loaded| (loaded.sequence, loaded.keys));
    let mut replay = Replay { disk: &*disk, core, clock, through, sequence: None, amount: Amount::default() };
    let mut active = None;
    for (at, number) in segments.iter().enumerate() {
        let segment = replay.segment(*number, at + 1 == segments.len())?;
        if at + 1 < segments.len() {
            files.seal(super::Sealed { number: *number, size: segment.size });
        }
        active = Some(segment);
    }
    let sequence = replay.sequence.unwrap_or(0).max(through);
    let Replay { core, amount, .. } = replay;
    let segment = match active {
        Some(segment) => segment,
        None => {
            Segment::create(&*disk, 1, world.random(), options.segment).map_err(|error| store_error(&*disk, error))?
        }
    };
    files.set_active(segment.size);
    if let Some(Loaded { sequence, segment, size, .. }) = checkpoint {
        // Lets go of what a crash kept from being removed.
        files.replace(sequence, segment, size);
    }
    let log = Log { disk, world: world.clone(), files, segment_size: options.segment, segment, sequence, _lock: lock };
    Ok(Recovered { core, log, since_checkpoint: amount, keys_at_checkpoint })
}

/// Numbers in the names of the files, ascending.
struct Listing {
    checkpoints: Vec<u64>,
    segments: Vec<u64>,
}

/// Lists the directory, and removes what was never finished and checkpoints that have been replaced.
fn list(disk: &dyn Disk) -> io::Result<Listing> {
    let mut names = disk.list()?;
    names.sort_unstable();
    for name in names.iter().filter(|name| name.ends_with(".tmp")) {
        disk.remove(name)?;
    }
    let numbers = |prefix| names.iter().filter_map(|name| number(name, prefix)).collect::<Vec<_>>();
    let mut checkpoints = numbers("checkpoint-");
    let replaced = checkpoints.len().saturating_sub(1);
    for old in checkpoints.drain(..replaced) {
        disk.remove(&super::checkpoint_name(old))?;
    }
    Ok(Listing { checkpoints, segments: numbers("log-") })
}

/// The segments to read. All that are needed must be there; older ones, with a gap behind them, are what is left of a
/// removal that a crash cut short.
fn needed_segments(
    disk: &dyn Disk,
    mut segments: Vec<u64>,
    checkpoint: Option<&Loaded>,
) -> Result<Vec<u64>, StoreError> {
    let needed = checkpoint.map_or(1, |loaded| loaded.segment);
    let missing = |number| {
        let what = "the file is missing".into();
        Err(StoreError::Corrupt { file: segment_name(number), offset: 0, what })
    };
    if segments.is_empty() && checkpoint.is_none() {
        return Ok(segments);
    }
    let gap = segments.windows(2).rposition(|pair| pair[1] != pair[0] + 1);
    let left_over: Vec<_> = segments.drain(..gap.map_or(0, |at| at + 1)).collect();
    match (segments.first(), segments.last()) {
        (Some(first), Some(last)) if (*first..=*last).contains(&needed) => {}
        (Some(first), _) if *first > needed => return missing(first - 1),
        _ => return missing(needed),
    }
    for number in left_over {
        disk.remove(&segment_name(number)).map_err(|error| store_error(disk, error))?;
    }
    Ok(segments)
}

/// The log while it is read.
struct Replay<'a> {
    disk: &'a dyn Disk,
    core: Core,
    clock: Clock,
    /// Frames up to here are in the checkpoint.
    through: u64,
    /// The last frame seen.
    sequence: Option<u64>,
    amount: Amount,
}

impl Replay<'_> {
    fn segment(&mut self, segment: u64, is_last: bool) -> Result<Segment, StoreError> {
        let name = segment_name(segment);
        let failed = |error| store_error(self.disk, error);
        let damaged =
            |at: usize, what: &str| StoreError::Corrupt { file: name.clone(), offset: at as u64, what: what.into() };
        let file = self.disk.open(&name).map_err(failed)?;
        let size = file.size().map_err(failed)?;
        let mut bytes = vec![0; size as usize];
        file.read(&mut bytes, 0).map_err(failed)?;
        let [found, salt, expected_size, ..] = header::decode(header::SEGMENT, &bytes, &name)?;
        if found != segment {
            return Err(damaged(0, "the file belongs elsewhere"));
        }
        if size != expected_size {
            return Err(damaged(size as usize, "the file does not have the size it was made with"));
        }

        let mut at = header::SIZE;
        let damage = loop {
            match frame::look(&bytes[at..], salt) {
                Found::Frame { sequence, entries, payload, size } => {
                    self.frame(sequence, entries, payload).map_err(|what| damaged(at, &what))?;
                    self.count(sequence, size, entries);
                    at += size;
                }
                Found::Nothing => break None,
                Found::Damage(what) => break Some(what),
            }
        };
        if frame::any_after(&bytes[at..], self.sequence.unwrap_or(0), salt) {
            return Err(damaged(at, damage.unwrap_or("a frame is missing here")));
        }
        if is_last && self.sequence.unwrap_or(0) < self.through {
            return Err(damaged(at, "frames are missing from here on"));
        }
        let rest = bytes[at..].iter().rposition(|byte| *byte != 0).map(|last| (at + last + 1) as u64);
        if rest.is_some() && !is_last {
            // The next segment was begun only after everything in this one was durable.
            return Err(damaged(at, damage.unwrap_or("something follows the last frame")));
        }
        let end = at as u64;
        let mut segment = Segment { file, number: segment, salt, size, end, touched: end, dirty: rest };
        segment.clean().map_err(failed)?;
        Ok(segment)
    }

    /// Applies a frame that is not in the checkpoint.
    fn frame(&mut self, sequence: u64, entries: u32, mut payload: &[u8]) -> Result<(), String> {
        let is_next = match self.sequence {
            Some(last) => sequence == last + 1,
            None => sequence <= self.through + 1,
        };
        if !is_next {
            return Err(format!("frame {sequence} follows, frames before it are missing"));
        }
        self.sequence = Some(sequence);
        if sequence <= self.through {
            return Ok(());
        }
        for _ in 0..entries {
            let entry = Entry::decode(&mut payload).map_err(|error| error.to_string())?;
            if let Entry::Commit { revision, .. } = &entry
                && *revision != self.core.head() + 1
            {
                return Err(format!("revision {revision} follows {}", self.core.head()));
            }
            self.core.apply(entry, self.clock);
        }
        self.core.publish(self.core.head(), self.clock);
        Ok(())
    }

    fn count(&mut self, sequence: u64, size: usize, entries: u32) {
        if sequence > self.through {
            self.amount.bytes += size as u64;
            self.amount.entries += u64::from(entries);
        }
    }
}
