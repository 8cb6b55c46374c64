//! The first 64 bytes of every file of the store.
//!
//! ```text
//!  0  magic   8 bytes   8  format version  u32   12  CRC-32 of all but itself  u32   16  six fields  u64 each
//! ```

use bytes::{Buf, BufMut};

use crate::contract::StoreError;

/// Bytes of a header.
pub(crate) const SIZE: usize = 64;
/// The format this version writes, and the newest it reads.
pub(crate) const FORMAT: u32 = 1;
/// Begins a segment of the log. Fields: number, salt, size of the file.
pub(crate) const SEGMENT: &[u8; 8] = b"SKIFFLOG";
/// Begins a checkpoint. Fields: the last frame it includes, the segment written at the time, revision, and its second.
pub(crate) const CHECKPOINT: &[u8; 8] = b"SKIFFCKP";

/// Begins a snapshot. Fields: revision, and its second.
pub(crate) const SNAPSHOT: &[u8; 8] = b"SKIFFSNP";

/// The fields after magic, version and checksum.
pub(crate) type Fields = [u64; 6];

pub(crate) fn encode(magic: &[u8; 8], fields: Fields) -> [u8; SIZE] {
    let mut bytes = [0; SIZE];
    let mut out = &mut bytes[..];
    out.put_slice(magic);
    out.put_u32_le(FORMAT);
    out.put_u32_le(0);
    fields.iter().for_each(|field| out.put_u64_le(*field));
    let sum = checksum(&bytes);
    bytes[12..16].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// Reads a header; `file` is for the error.
pub(crate) fn decode(magic: &[u8; 8], bytes: &[u8], file: &str) -> Result<Fields, StoreError> {
    let damaged = |what: &str| StoreError::Corrupt { file: file.into(), offset: 0, what: what.into() };
    let bytes: &[u8; SIZE] = bytes.first_chunk().ok_or_else(|| damaged("the header is cut short"))?;
    let mut rest = &bytes[8..];
    let (format, sum) = (rest.get_u32_le(), rest.get_u32_le());
    if bytes[..8] != magic[..] {
        return Err(damaged("this is no file of the store"));
    }
    if checksum(bytes) != sum {
        return Err(damaged("the checksum of the header does not match"));
    }
    if format > FORMAT {
        return Err(StoreError::NewerFormat { found: format, known: FORMAT });
    }
    Ok(std::array::from_fn(|_| rest.get_u64_le()))
}

fn checksum(bytes: &[u8; SIZE]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..12]);
    hasher.update(&bytes[16..]);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_damage_and_the_future() {
        let fields = [1, 2, 3, 4, 5, u64::MAX];
        let bytes = encode(SEGMENT, fields);
        assert_eq!(decode(SEGMENT, &bytes, "f").expect("its own bytes"), fields);
        assert!(decode(CHECKPOINT, &bytes, "f").is_err());
        for bit in 0..SIZE * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(decode(SEGMENT, &damaged, "f"), Err(StoreError::Corrupt { .. })), "bit {bit}");
        }
        let mut newer = bytes;
        newer[8] = 2;
        let sum = checksum(&newer);
        newer[12..16].copy_from_slice(&sum.to_le_bytes());
        assert!(matches!(decode(SEGMENT, &newer, "f"), Err(StoreError::NewerFormat { found: 2, known: 1 })));
    }
}
