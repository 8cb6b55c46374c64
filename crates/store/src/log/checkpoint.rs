//! Checkpoints: the whole state in one file, written in the background while the store goes on.
//!
//! The state ([`super::blocks`]) is read piece by piece at the revision of the checkpoint, which is pinned for the time.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::blocks::{Blocks, Input, Piece};
use super::files::Base;
use super::{Files, Log, checkpoint_name, header};
use crate::contract::{KeyRange, KeyValue, Revision, StoreError};
use crate::disk::{Bulk, Disk, store_error};
use crate::engine::{Shared, State, successor};
use crate::entry::Entry;
use crate::state::{Clock, Core, Undo};

/// Most keys read under one lock, and about how many bytes.
const PIECE: (usize, usize) = (256, 1 << 20);

/// What a checkpoint is to hold, beside the values.
pub(crate) struct Plan {
    /// The last frame it includes.
    sequence: u64,
    segment: u64,
    pub(crate) revision: Revision,
    pub(crate) second: i64,
    pub(crate) leases: Vec<Entry>,
    /// About how many keys there are.
    pub(crate) keys: u64,
}

impl Plan {
    /// Takes down the state as of the frame just published, and pins it.
    pub(crate) fn make(state: &mut State, log: &Log, clock: Clock) -> Self {
        Self { sequence: log.sequence(), segment: log.segment_number(), ..Self::of_state(state, clock) }
    }

    /// The same without a place in the log, for a snapshot.
    pub(crate) fn of_state(state: &mut State, clock: Clock) -> Self {
        let revision = state.core.pin();
        let until = |ends: std::time::Duration| {
            let left = ends.saturating_sub(clock.elapsed).as_millis();
            clock.unix.saturating_add(i64::try_from(left).unwrap_or(i64::MAX))
        };
        let mut leases: BTreeMap<_, _> =
            state.core.leases().iter().map(|(id, lease)| (id, (lease.ttl, until(lease.ends)))).collect();
        // Batches that are not durable yet may have granted and revoked some.
        for undo in state.staging.iter().flat_map(|staging| staging.undo()) {
            if let Undo::Revoked(id, lease) = undo {
                leases.insert(*id, (lease.ttl, until(lease.ends)));
            }
        }
        for undo in state.staging.iter().flat_map(|staging| staging.undo()) {
            if let Undo::Granted(id) = undo {
                leases.remove(id);
            }
        }
        Self {
            sequence: 0,
            segment: 0,
            revision,
            second: state.core.time_of(revision).unwrap_or(clock.second()),
            leases: leases.into_iter().map(|(id, (ttl, ends))| Entry::Lease { id, ttl, ends }).collect(),
            keys: state.core.count(&KeyRange::prefix(""), revision) as u64,
        }
    }
}

/// The next values of a pinned state, cut off the front of `rest`; none at the end.
pub(crate) fn values(shared: &Shared, rest: &mut KeyRange, at: Revision) -> Result<Vec<Arc<KeyValue>>, StoreError> {
    let mut bytes = 0;
    let mut fits = |kv: &&Arc<KeyValue>| {
        let fits = bytes < PIECE.1;
        bytes += kv.value.len();
        fits
    };
    let piece: Vec<_> =
        shared.read(|state| Ok(state.core.range(rest, at).take(PIECE.0).take_while(&mut fits).cloned().collect()))?;
    if let Some(last) = piece.last() {
        rest.start = successor(&last.key);
    }
    Ok(piece)
}

/// Writes the checkpoint and lets the files go that neither the state nor history needs any more.
pub(crate) fn run(shared: &Shared, files: &Files, plan: &Plan) {
    const TEMPORARY: &str = "checkpoint.tmp";
    let disk = &*files.disk;
    let name = checkpoint_name(plan.sequence);
    let written = write(shared, disk, TEMPORARY, plan).and_then(|size| {
        disk.rename(TEMPORARY, &name)?;
        disk.sync()?;
        Ok(size)
    });
    shared.state.write().core.unpin(plan.revision);
    match written {
        Ok(size) => {
            let Plan { sequence, segment, revision, second, .. } = *plan;
            files.add(Base { sequence, segment, revision, second, size });
            files.prune(shared.clock().second());
        }
        Err(error) => {
            if error.kind() != io::ErrorKind::Interrupted {
                tracing::warn!("a checkpoint could not be written, will try again: {error}");
            }
            // Only to give back the room; the next start removes it in any case.
            let _ = disk.remove(TEMPORARY);
        }
    }
}

/// `Interrupted` when the store closes in between.
fn write(shared: &Shared, disk: &dyn Disk, name: &str, plan: &Plan) -> io::Result<u64> {
    let file = disk.create(name)?;
    let mut out = Bulk::new(&*file, 0);
    let mut blocks = Blocks::new();
    let fields = [plan.sequence, plan.segment, plan.revision, plan.second as u64, 0, 0];
    out.write(&header::encode(header::CHECKPOINT, fields))?;
    out.write(blocks.leases(&plan.leases))?;
    let mut rest = KeyRange::prefix("");
    let mut total = 0;
    loop {
        let piece = values(shared, &mut rest, plan.revision).map_err(|_| io::ErrorKind::Interrupted)?;
        if piece.is_empty() {
            break;
        }
        total += piece.len() as u64;
        let mut piece = &piece[..];
        while !piece.is_empty() {
            out.write(blocks.values(&mut piece))?;
        }
    }
    out.write(blocks.end(total))?;
    out.finish()
}

/// Opens a checkpoint: where in the log and in time it is, and its blocks.
pub(crate) fn open(disk: &dyn Disk, name: &str) -> Result<(Base, Input), StoreError> {
    let file = disk.open(name).map_err(|error| store_error(disk, error))?;
    let (input, [sequence, segment, revision, second, ..]) = Input::open(file, name, header::CHECKPOINT)?;
    let size = input.place().1;
    Ok((Base { sequence, segment, revision, second: second as i64, size }, input))
}

/// Reads a checkpoint into an empty state; how many keys there are.
pub(crate) fn load(disk: &dyn Disk, name: &str, core: &mut Core, clock: Clock) -> Result<(Base, u64), StoreError> {
    let (base, mut input) = open(disk, name)?;
    let keys = input.state(&mut |piece| match piece {
        Piece::Lease(lease) => drop(core.apply(lease, clock)),
        Piece::Value(kv) => core.load(Arc::new(kv)),
        Piece::File(..) => {}
    })?;
    match input.place() {
        (at, size) if at < size => return Err(input.damaged(at, "something follows its end")),
        _ => core.restore(base.revision, base.second),
    }
    Ok((base, keys))
}
