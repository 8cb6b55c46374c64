//! Checkpoints: the whole state in one file, written in the background while the store goes on.
//!
//! After the header, blocks: `length u32, CRC-32 u32, payload`. A payload begins with its kind: leases or values (a count,
//! then the entries), or the end (the number of values). The state is read piece by piece at the revision of the
//! checkpoint, which is pinned for the time.

use std::io;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};

use super::{Files, Log, checkpoint_name, header};
use crate::contract::{KeyRange, KeyValue, Revision, StoreError};
use crate::disk::{Disk, DiskFile, store_error};
use crate::engine::{Shared, State, successor};
use crate::entry::{BadEntry, Entry, decode_pair, decode_trace, encode_pair, encode_trace};
use crate::state::{Clock, Core, Undo};

/// A block is written once it has this many bytes.
const BLOCK: usize = 1 << 20;
/// Synced every so many bytes, so that the log's syncs never wait for a large backlog.
const SYNC: u64 = 8 << 20;
/// Keys read under one lock.
const PIECE: usize = 1024;

const LEASES: u8 = 1;
const VALUES: u8 = 2;
const END: u8 = 3;

/// What a checkpoint is to hold, beside the values.
pub(crate) struct Plan {
    /// The last frame it includes.
    sequence: u64,
    segment: u64,
    revision: Revision,
    second: i64,
    leases: Vec<Entry>,
    /// About how many keys there are.
    pub(crate) keys: u64,
}

impl Plan {
    /// Takes down the state as of the frame just published, and pins it.
    pub(crate) fn make(state: &mut State, log: &Log, clock: Clock) -> Self {
        let revision = state.core.pin();
        let until = |ends: std::time::Duration| {
            let left = ends.saturating_sub(clock.elapsed).as_millis();
            clock.unix.saturating_add(i64::try_from(left).unwrap_or(i64::MAX))
        };
        let mut leases: std::collections::BTreeMap<_, _> =
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
            sequence: log.sequence(),
            segment: log.segment_number(),
            revision,
            second: state.core.time_of(revision).unwrap_or(clock.second()),
            leases: leases.into_iter().map(|(id, (ttl, ends))| Entry::Lease { id, ttl, ends }).collect(),
            keys: state.core.count(&KeyRange::prefix(""), revision) as u64,
        }
    }
}

/// Writes the checkpoint and lets the files go that it replaces.
pub(crate) fn run(shared: &Shared, files: &Files, plan: Plan) {
    const TEMPORARY: &str = "checkpoint.tmp";
    let disk = &*files.disk;
    let name = checkpoint_name(plan.sequence);
    let written = write(shared, disk, TEMPORARY, &plan).and_then(|size| {
        disk.rename(TEMPORARY, &name)?;
        disk.sync()?;
        Ok(size)
    });
    shared.state.write().core.unpin();
    match written {
        Ok(size) => files.replace(plan.sequence, plan.segment, size),
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
    let mut out = Output { file: disk.create(name)?, at: 0, synced: 0, block: Vec::with_capacity(BLOCK + BLOCK / 8) };
    let fields = [plan.sequence, plan.segment, plan.revision, plan.second as u64, 0, 0];
    out.write(&header::encode(header::CHECKPOINT, fields))?;
    out.begin(LEASES);
    out.block.put_u32_le(plan.leases.len() as u32);
    plan.leases.iter().for_each(|lease| lease.encode(&mut out.block));
    out.finish()?;

    let mut rest = KeyRange::prefix("");
    let mut total = 0;
    loop {
        let piece: Vec<_> = {
            let state = shared.state.read();
            if state.closed {
                return Err(io::ErrorKind::Interrupted.into());
            }
            state.core.range(&rest, plan.revision).take(PIECE).cloned().collect()
        };
        let Some(last) = piece.last() else { break };
        rest.start = successor(&last.key);
        total += piece.len() as u64;
        out.values(&piece)?;
    }
    out.begin(END);
    out.block.put_u64_le(total);
    out.finish()?;
    out.file.sync()?;
    Ok(out.at)
}

struct Output {
    file: Box<dyn DiskFile>,
    at: u64,
    synced: u64,
    block: Vec<u8>,
}

impl Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write(bytes, self.at)?;
        self.at += bytes.len() as u64;
        if self.at - self.synced >= SYNC {
            self.file.sync()?;
            self.synced = self.at;
        }
        Ok(())
    }

    /// Begins a block: room for length and checksum, and the kind.
    fn begin(&mut self, kind: u8) {
        self.block.clear();
        self.block.put_u64_le(0);
        self.block.put_u8(kind);
    }

    fn finish(&mut self) -> io::Result<()> {
        let mut block = std::mem::take(&mut self.block);
        let (length, sum) = ((block.len() - 8) as u32, crc32fast::hash(&block[8..]));
        block[0..4].copy_from_slice(&length.to_le_bytes());
        block[4..8].copy_from_slice(&sum.to_le_bytes());
        self.write(&block)?;
        self.block = block;
        Ok(())
    }

    fn values(&mut self, mut values: &[Arc<KeyValue>]) -> io::Result<()> {
        while !values.is_empty() {
            self.begin(VALUES);
            self.block.put_u32_le(0);
            let mut count = 0_u32;
            while let Some((value, rest)) = values.split_first().filter(|_| self.block.len() < BLOCK) {
                encode(value, &mut self.block);
                count += 1;
                values = rest;
            }
            self.block[9..13].copy_from_slice(&count.to_le_bytes());
            self.finish()?;
        }
        Ok(())
    }
}

fn encode(kv: &KeyValue, out: &mut Vec<u8>) {
    out.put_u64_le(kv.created);
    out.put_u64_le(kv.modified);
    out.put_u64_le(kv.version);
    out.put_i64_le(kv.lease);
    encode_trace(kv.trace, out);
    encode_pair(&kv.key, &kv.value, out);
}

fn decode(from: &mut &[u8]) -> Result<KeyValue, BadEntry> {
    let (created, modified) = (from.try_get_u64_le()?, from.try_get_u64_le()?);
    let (version, lease) = (from.try_get_u64_le()?, from.try_get_i64_le()?);
    let trace = decode_trace(from)?;
    let (key, value): (Bytes, Bytes) = decode_pair(from)?;
    Ok(KeyValue { key, value, created, modified, version, lease, trace })
}

/// What a checkpoint says about the log after it.
pub(crate) struct Loaded {
    /// The last frame it includes.
    pub(crate) sequence: u64,
    /// The segment that was written at the time.
    pub(crate) segment: u64,
    pub(crate) keys: u64,
    pub(crate) size: u64,
}

/// Reads a checkpoint into an empty state.
pub(crate) fn load(disk: &dyn Disk, name: &str, core: &mut Core, clock: Clock) -> Result<Loaded, StoreError> {
    let file = disk.open(name).map_err(|error| store_error(disk, error))?;
    let mut input = Input { disk, name, size: file.size().map_err(|error| store_error(disk, error))?, file, at: 0 };
    let mut bytes = vec![0; header::SIZE];
    input.read(&mut bytes)?;
    let [sequence, segment, revision, second, ..] = header::decode(header::CHECKPOINT, &bytes, name)?;
    let mut keys = 0;
    loop {
        let start = input.at;
        input.block(&mut bytes)?;
        let end =
            take_block(&bytes, core, clock, &mut keys).map_err(|error| input.damaged(start, &error.to_string()))?;
        match end {
            None => {}
            Some(total) if total == keys && input.at == input.size => break,
            Some(_) => return Err(input.damaged(start, "its end does not fit")),
        }
    }
    core.restore(revision, second as i64);
    Ok(Loaded { sequence, segment, keys, size: input.size })
}

/// Takes over one block; the number of values if it was the last.
fn take_block(block: &[u8], core: &mut Core, clock: Clock, keys: &mut u64) -> Result<Option<u64>, BadEntry> {
    let mut from = block;
    match from.try_get_u8()? {
        LEASES => {
            for _ in 0..from.try_get_u32_le()? {
                core.apply(Entry::decode(&mut from)?, clock);
            }
        }
        VALUES => {
            for _ in 0..from.try_get_u32_le()? {
                core.load(Arc::new(decode(&mut from)?));
                *keys += 1;
            }
        }
        END => return Ok(Some(from.try_get_u64_le()?)),
        kind => return Err(BadEntry::Tag(kind)),
    }
    Ok(None)
}

struct Input<'a> {
    disk: &'a dyn Disk,
    name: &'a str,
    file: Box<dyn DiskFile>,
    size: u64,
    at: u64,
}

impl Input<'_> {
    fn damaged(&self, offset: u64, what: &str) -> StoreError {
        StoreError::Corrupt { file: self.name.into(), offset, what: what.into() }
    }

    fn read(&mut self, into: &mut [u8]) -> Result<(), StoreError> {
        if self.size - self.at < into.len() as u64 {
            return Err(self.damaged(self.size, "it is cut short"));
        }
        self.file.read(into, self.at).map_err(|error| store_error(self.disk, error))?;
        self.at += into.len() as u64;
        Ok(())
    }

    /// Reads a block's payload.
    fn block(&mut self, into: &mut Vec<u8>) -> Result<(), StoreError> {
        let start = self.at;
        let mut head = [0; 8];
        self.read(&mut head)?;
        let mut head = &head[..];
        let (length, sum) = (head.get_u32_le(), head.get_u32_le());
        if u64::from(length) > self.size - self.at {
            return Err(self.damaged(start, "a block is longer than the file"));
        }
        into.resize(length as usize, 0);
        self.read(into)?;
        if crc32fast::hash(into) != sum {
            return Err(self.damaged(start, "the checksum of a block does not match"));
        }
        Ok(())
    }
}
