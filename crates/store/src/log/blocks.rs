//! The form in which a whole state lies in a file: in checkpoints and in snapshots.
//!
//! After the header, blocks: `length u32, CRC-32 u32, payload`. A payload begins with its kind: leases or values (a count,
//! then the entries), the end of the state (the number of values), or, in snapshots, a file that goes with it.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};

use super::header;
use crate::contract::{KeyValue, StoreError};
use crate::disk::DiskFile;
use crate::entry::{BadEntry, Entry, decode_pair, decode_trace, encode_pair, encode_trace};

/// A block of values is full once it has this many bytes.
const FULL: usize = 1 << 20;
/// No block is longer, whatever a damaged length says: the largest transaction, and some room.
const LONGEST: u64 = 64 << 20;

const LEASES: u8 = 1;
const VALUES: u8 = 2;
const END: u8 = 3;
const FILE: u8 = 4;

/// Makes blocks, one at a time in one buffer.
pub(crate) struct Blocks(Vec<u8>);

impl Blocks {
    pub(crate) fn new() -> Self {
        Self(Vec::with_capacity(FULL + FULL / 8))
    }

    pub(crate) fn leases(&mut self, leases: &[Entry]) -> &[u8] {
        self.begin(LEASES);
        self.0.put_u32_le(leases.len() as u32);
        leases.iter().for_each(|lease| lease.encode(&mut self.0));
        self.seal()
    }

    /// As many values as a block takes, which are cut off the front of `values`.
    pub(crate) fn values(&mut self, values: &mut &[Arc<KeyValue>]) -> &[u8] {
        self.begin(VALUES);
        self.0.put_u32_le(0);
        let mut count = 0_u32;
        while let Some((value, rest)) = values.split_first().filter(|_| self.0.len() < FULL) {
            encode(value, &mut self.0);
            count += 1;
            *values = rest;
        }
        self.0[9..13].copy_from_slice(&count.to_le_bytes());
        self.seal()
    }

    /// The end of the state, which has `total` values.
    pub(crate) fn end(&mut self, total: u64) -> &[u8] {
        self.begin(END);
        self.0.put_u64_le(total);
        self.seal()
    }

    pub(crate) fn file(&mut self, name: &str, content: &[u8]) -> &[u8] {
        self.begin(FILE);
        encode_pair(name.as_bytes(), content, &mut self.0);
        self.seal()
    }

    /// Begins a block: room for length and checksum, and the kind.
    fn begin(&mut self, kind: u8) {
        self.0.clear();
        self.0.put_u64_le(0);
        self.0.put_u8(kind);
    }

    fn seal(&mut self) -> &[u8] {
        let (length, sum) = ((self.0.len() - 8) as u32, crc32fast::hash(&self.0[8..]));
        self.0[0..4].copy_from_slice(&length.to_le_bytes());
        self.0[4..8].copy_from_slice(&sum.to_le_bytes());
        &self.0
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

/// What blocks hold.
pub(crate) enum Piece {
    Lease(Entry),
    Value(KeyValue),
    File(String, Bytes),
}

/// Reads a file of blocks from the front.
pub(crate) struct Input {
    file: Box<dyn DiskFile>,
    name: String,
    size: u64,
    at: u64,
    block: Vec<u8>,
}

impl Input {
    /// Reads and checks the header; `name` is for errors.
    pub(crate) fn open(
        file: Box<dyn DiskFile>,
        name: &str,
        magic: &[u8; 8],
    ) -> Result<(Self, header::Fields), StoreError> {
        let size = file.size().map_err(failed)?;
        let mut input = Self { file, name: name.to_owned(), size, at: 0, block: Vec::new() };
        let mut bytes = [0; header::SIZE];
        input.read(&mut bytes)?;
        let fields = header::decode(magic, &bytes, name)?;
        Ok((input, fields))
    }

    /// Reads up to the end of the state; the number of values.
    pub(crate) fn state(&mut self, visit: &mut dyn FnMut(Piece)) -> Result<u64, StoreError> {
        let mut values = 0;
        loop {
            let start = self.at;
            match self.block(self.size, &mut |piece| {
                values += u64::from(matches!(piece, Piece::Value(_)));
                visit(piece);
            })? {
                None => {}
                Some(total) if total == values => return Ok(total),
                Some(_) => return Err(self.damaged(start, "its end does not fit")),
            }
        }
    }

    /// Reads one block that ends before `limit`; the number of values where it is the state's end.
    pub(crate) fn block(&mut self, limit: u64, visit: &mut dyn FnMut(Piece)) -> Result<Option<u64>, StoreError> {
        let start = self.at;
        let mut head = [0; 8];
        self.read(&mut head)?;
        let mut head = &head[..];
        let (length, sum) = (u64::from(head.get_u32_le()), head.get_u32_le());
        if length > limit.saturating_sub(self.at) || length > LONGEST {
            return Err(self.damaged(start, "a block is longer than the file"));
        }
        let mut block = std::mem::take(&mut self.block);
        block.resize(length as usize, 0);
        self.read(&mut block)?;
        if crc32fast::hash(&block) != sum {
            return Err(self.damaged(start, "the checksum of a block does not match"));
        }
        let end = take(&block, visit).map_err(|error| self.damaged(start, &error.to_string()))?;
        self.block = block;
        Ok(end)
    }

    /// Where the next block begins, and the size of the file.
    pub(crate) fn place(&self) -> (u64, u64) {
        (self.at, self.size)
    }

    pub(crate) fn damaged(&self, offset: u64, what: &str) -> StoreError {
        StoreError::Corrupt { file: self.name.clone(), offset, what: what.into() }
    }

    fn read(&mut self, into: &mut [u8]) -> Result<(), StoreError> {
        if self.size - self.at < into.len() as u64 {
            return Err(self.damaged(self.size, "it is cut short"));
        }
        self.file.read(into, self.at).map_err(failed)?;
        self.at += into.len() as u64;
        Ok(())
    }
}

fn failed(error: std::io::Error) -> StoreError {
    StoreError::Io(Arc::new(error))
}

/// Takes one block apart; the number of values if it was the end of the state.
fn take(mut from: &[u8], visit: &mut dyn FnMut(Piece)) -> Result<Option<u64>, BadEntry> {
    match from.try_get_u8()? {
        LEASES => {
            for _ in 0..from.try_get_u32_le()? {
                visit(Piece::Lease(Entry::decode(&mut from)?));
            }
        }
        VALUES => {
            for _ in 0..from.try_get_u32_le()? {
                visit(Piece::Value(decode(&mut from)?));
            }
        }
        END => return Ok(Some(from.try_get_u64_le()?)),
        FILE => {
            let (name, content) = decode_pair(&mut from)?;
            visit(Piece::File(String::from_utf8_lossy(&name).into_owned(), content));
        }
        kind => return Err(BadEntry::Tag(kind)),
    }
    Ok(None)
}
