//! What changes the store: every mutation is one of these, decided once, applied to memory and written to the log alike,
//! and applied again when the log is read back.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, TryGetError};
use skiff_meta::TraceContext;

use crate::contract::{LeaseId, Revision, Write};

/// One mutation.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Entry {
    /// A transaction that writes; `time` in seconds since 1970.
    Commit { revision: Revision, time: i64, trace: Option<TraceContext>, writes: Vec<Write> },
    /// A lease was granted or kept alive; it ends at `ends`, milliseconds since 1970.
    Lease { id: LeaseId, ttl: Duration, ends: i64 },
    /// A lease is gone. Its keys go by a commit before this.
    Revoke { id: LeaseId },
    /// History before this revision is forgotten.
    Compact { revision: Revision },
}

/// Bytes that are no entry.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadEntry {
    #[error("unknown tag {0}")]
    Tag(u8),
    #[error("entry cut short")]
    Short(#[from] TryGetError),
}

const COMMIT: u8 = 1;
const LEASE: u8 = 2;
const REVOKE: u8 = 3;
const COMPACT: u8 = 4;
const PUT: u8 = 1;
const DELETE: u8 = 2;

impl Entry {
    /// Appends the entry's bytes, integers little-endian.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Commit { revision, time, trace, writes } => {
                out.put_u8(COMMIT);
                out.put_u64_le(*revision);
                out.put_i64_le(*time);
                encode_trace(*trace, out);
                out.put_u32_le(writes.len() as u32);
                writes.iter().for_each(|write| encode_write(write, out));
            }
            Self::Lease { id, ttl, ends } => {
                out.put_u8(LEASE);
                out.put_i64_le(*id);
                out.put_u64_le(ttl.as_millis() as u64);
                out.put_i64_le(*ends);
            }
            Self::Revoke { id } => {
                out.put_u8(REVOKE);
                out.put_i64_le(*id);
            }
            Self::Compact { revision } => {
                out.put_u8(COMPACT);
                out.put_u64_le(*revision);
            }
        }
    }

    /// Reads one entry off the front of `from`.
    pub(crate) fn decode(from: &mut &[u8]) -> Result<Self, BadEntry> {
        Ok(match from.try_get_u8()? {
            COMMIT => {
                let (revision, time) = (from.try_get_u64_le()?, from.try_get_i64_le()?);
                let trace = decode_trace(from)?;
                let writes = (0..from.try_get_u32_le()?).map(|_| decode_write(from)).collect::<Result<_, _>>()?;
                Self::Commit { revision, time, trace, writes }
            }
            LEASE => Self::Lease {
                id: from.try_get_i64_le()?,
                ttl: Duration::from_millis(from.try_get_u64_le()?),
                ends: from.try_get_i64_le()?,
            },
            REVOKE => Self::Revoke { id: from.try_get_i64_le()? },
            COMPACT => Self::Compact { revision: from.try_get_u64_le()? },
            tag => return Err(BadEntry::Tag(tag)),
        })
    }
}

fn encode_write(write: &Write, out: &mut Vec<u8>) {
    match write {
        Write::Put { key, value, lease } => {
            out.put_u8(PUT);
            out.put_i64_le(*lease);
            encode_pair(key, value, out);
        }
        Write::Delete { key } => {
            out.put_u8(DELETE);
            encode_pair(key, &[], out);
        }
    }
}

fn decode_write(from: &mut &[u8]) -> Result<Write, BadEntry> {
    Ok(match from.try_get_u8()? {
        PUT => {
            let lease = from.try_get_i64_le()?;
            let (key, value) = decode_pair(from)?;
            Write::Put { key, value, lease }
        }
        DELETE => Write::Delete { key: decode_pair(from)?.0 },
        tag => return Err(BadEntry::Tag(tag)),
    })
}

/// A flag, then the ids.
pub(crate) fn encode_trace(trace: Option<TraceContext>, out: &mut Vec<u8>) {
    out.put_u8(u8::from(trace.is_some()));
    if let Some(TraceContext { trace_id, span_id, flags }) = trace {
        out.put_u128_le(trace_id);
        out.put_u64_le(span_id);
        out.put_u8(flags);
    }
}

pub(crate) fn decode_trace(from: &mut &[u8]) -> Result<Option<TraceContext>, BadEntry> {
    if from.try_get_u8()? == 0 {
        return Ok(None);
    }
    let (trace_id, span_id) = (from.try_get_u128_le()?, from.try_get_u64_le()?);
    Ok(Some(TraceContext { trace_id, span_id, flags: from.try_get_u8()? }))
}

/// Two lengths, then key and value.
pub(crate) fn encode_pair(key: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.put_u32_le(key.len() as u32);
    out.put_u32_le(value.len() as u32);
    out.put_slice(key);
    out.put_slice(value);
}

/// Both parts share one allocation of their own.
pub(crate) fn decode_pair(from: &mut &[u8]) -> Result<(Bytes, Bytes), BadEntry> {
    let (key, value) = (from.try_get_u32_le()? as usize, from.try_get_u32_le()? as usize);
    let both = from.get(..key + value).ok_or(TryGetError { requested: key + value, available: from.len() })?;
    from.advance(key + value);
    let mut value = Bytes::copy_from_slice(both);
    let key = value.split_to(key);
    Ok((key, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_every_cut() {
        let trace = Some(TraceContext { trace_id: 7, span_id: 9, flags: 1 });
        let writes = vec![
            Write::Put { key: "a".into(), value: "value".into(), lease: 5 },
            Write::Delete { key: "b".into() },
            Write::Put { key: "c".into(), value: Bytes::new(), lease: 0 },
        ];
        let entries = [
            Entry::Commit { revision: 2, time: 100, trace, writes },
            Entry::Commit { revision: 3, time: -1, trace: None, writes: Vec::new() },
            Entry::Lease { id: 4, ttl: Duration::from_millis(1500), ends: 99 },
            Entry::Revoke { id: 4 },
            Entry::Compact { revision: 3 },
        ];
        for entry in entries {
            let mut bytes = Vec::new();
            entry.encode(&mut bytes);
            let mut rest = &bytes[..];
            assert_eq!(Entry::decode(&mut rest).expect("its own bytes"), entry);
            assert!(rest.is_empty());
            for cut in 0..bytes.len() {
                assert!(Entry::decode(&mut &bytes[..cut]).is_err(), "{entry:?} cut at {cut}");
            }
        }
        assert!(matches!(Entry::decode(&mut &[9][..]), Err(BadEntry::Tag(9))));
    }
}
