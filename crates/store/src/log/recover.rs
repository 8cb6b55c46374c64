//! Reads a directory back: the checkpoint, then the log after it.
//!
//! A crash may leave the last frame half-written; it was never acknowledged and is wiped. Anything else that does not
//! add up is damage, and is reported with its place: a frame that fails its checksum while a newer one is whole, a gap in
//! the sequence, a missing file.

use std::io;
use std::sync::Arc;

use skiff_meta::WorldRef;

use super::checkpoint;
use super::files::Base;
use super::frame::{self, Found};
use super::writer::Amount;
use super::{Files, Log, Options, Segment, checkpoint_name, header, number, segment_name};
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
    let failed = |error| store_error(&*disk, error);
    let lock = disk.lock().map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => StoreError::InUse(disk.name()),
        _ => store_error(&*disk, error),
    })?;
    let clock = Clock { unix: world.now().as_millisecond(), elapsed: world.elapsed() };
    let mut core = Core::new(options.retention);
    let Listing { checkpoints, mut segments } = list(&*disk).map_err(failed)?;
    let files = Arc::new(Files::new(disk.clone(), options.history));

    let (newest, keys_at_checkpoint) = match checkpoints.last() {
        Some(sequence) => checkpoint::load(&*disk, &checkpoint_name(*sequence), &mut core, clock)?,
        None => (Base::ORIGIN, 0),
    };
    if !segments.is_empty() || newest.size > 0 {
        check_segments(&segments, newest.segment)?;
        history(&*disk, &files, &checkpoints, &mut segments, newest).map_err(failed)?;
    }
    files.add(newest);
    let through = newest.sequence;
    let mut replay = Replay { disk: &*disk, core, clock, through, sequence: None, amount: Amount::default() };
    let mut active = None;
    let needed = segments.partition_point(|number| *number < newest.segment);
    for (at, number) in segments.iter().enumerate().skip(needed) {
        let segment = replay.segment(*number, at + 1 == segments.len())?;
        files.set_active(*number, segment.size);
        active = Some(segment);
    }
    let sequence = replay.sequence.unwrap_or(0).max(through);
    let Replay { core, amount, .. } = replay;
    let segment = match active {
        Some(segment) => segment,
        None => {
            let first = Segment::create(&*disk, 1, world.random(), options.segment).map_err(failed)?;
            files.set_active(first.number, first.size);
            first
        }
    };
    // Lets go of what became too old meanwhile, and of what a crash kept from being removed.
    files.prune(clock.second());
    let log = Log { disk, world: world.clone(), files, segment_size: options.segment, segment, sequence, _lock: lock };
    Ok(Recovered { core, log, since_checkpoint: amount, keys_at_checkpoint })
}

/// Numbers in the names of the files, ascending.
struct Listing {
    checkpoints: Vec<u64>,
    segments: Vec<u64>,
}

/// Lists the directory, and removes what was never finished.
fn list(disk: &dyn Disk) -> io::Result<Listing> {
    let mut names = disk.list()?;
    names.sort_unstable();
    for name in names.iter().filter(|name| name.ends_with(".tmp")) {
        disk.remove(name)?;
    }
    let numbers = |prefix| names.iter().filter_map(|name| number(name, prefix)).collect::<Vec<_>>();
    Ok(Listing { checkpoints: numbers("checkpoint-"), segments: numbers("log-") })
}

/// All segments from `needed` on must be there.
fn check_segments(segments: &[u64], needed: u64) -> Result<(), StoreError> {
    let missing = |number| {
        let what = "the file is missing".into();
        Err(StoreError::Corrupt { file: segment_name(number), offset: 0, what })
    };
    let run = segments.partition_point(|number| *number < needed);
    for (expected, number) in (needed..).zip(&segments[run..]) {
        if *number != expected {
            return missing(expected);
        }
    }
    if run == segments.len() { missing(needed) } else { Ok(()) }
}

/// Takes stock of older checkpoints and segments: what hangs together with the state is history, the rest was left by a
/// crash, or is of no use. History that is damaged is no reason not to start.
fn history(
    disk: &dyn Disk,
    files: &Files,
    checkpoints: &[u64],
    segments: &mut Vec<u64>,
    newest: Base,
) -> io::Result<()> {
    let needed = segments.partition_point(|number| *number < newest.segment);
    let gap = (1..=needed).rev().find(|at| segments[*at] != segments[*at - 1] + 1);
    let first = segments[gap.unwrap_or(0)];
    let mut bases = Vec::new();
    for sequence in checkpoints.iter().rev().skip(1) {
        match checkpoint::open(disk, &checkpoint_name(*sequence)) {
            Ok((base, _)) if base.segment >= first => bases.push(base),
            Ok(_) => disk.remove(&checkpoint_name(*sequence))?,
            Err(error) => {
                tracing::warn!("history before it is let go: {error}");
                disk.remove(&checkpoint_name(*sequence))?;
            }
        }
    }
    if first == Base::ORIGIN.segment && newest.size > 0 {
        bases.push(Base::ORIGIN);
    }
    bases.reverse();
    let kept = bases.first().unwrap_or(&newest).segment;
    let left_over = segments.partition_point(|number| *number < kept);
    for number in segments.drain(..left_over) {
        disk.remove(&segment_name(number))?;
    }
    bases.into_iter().for_each(|base| files.add(base));
    for number in segments.iter().take_while(|number| **number < newest.segment) {
        files.set_active(*number, disk.open(&segment_name(*number))?.size()?);
    }
    Ok(())
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
