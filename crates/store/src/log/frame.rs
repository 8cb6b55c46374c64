//! Frames: the batches of the log. One frame is one write, one sync and one checksum, so a frame is there or it is not.
//!
//! ```text
//!  0  magic     u32    4  length of the payload, a multiple of 8   u32
//!  8  CRC-32    u32   12  number of entries                        u32
//! 16  sequence  u64   24  payload: entries, zeros to the next multiple of 8
//! ```
//!
//! Little-endian. The checksum covers the segment's salt, then everything but magic and itself. The salt is random, so
//! that no value of a client, however it was made, can pass for a frame when damage makes us search for one.

use bytes::Buf;

/// Bytes before the payload.
pub(crate) const HEADER: usize = 24;
const MAGIC: u32 = 0x4d52_4653;

/// Makes `frame` an empty frame, to be appended to.
pub(crate) fn begin(frame: &mut Vec<u8>) {
    frame.clear();
    frame.resize(HEADER, 0);
}

/// Completes a frame.
pub(crate) fn seal(frame: &mut Vec<u8>, entries: u32, sequence: u64, salt: u64) {
    frame.resize(frame.len().next_multiple_of(8), 0);
    let length = (frame.len() - HEADER) as u32;
    frame[0..4].copy_from_slice(&MAGIC.to_le_bytes());
    frame[4..8].copy_from_slice(&length.to_le_bytes());
    frame[12..16].copy_from_slice(&entries.to_le_bytes());
    frame[16..24].copy_from_slice(&sequence.to_le_bytes());
    let sum = checksum(frame, salt);
    frame[8..12].copy_from_slice(&sum.to_le_bytes());
}

fn checksum(frame: &[u8], salt: u64) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&salt.to_le_bytes());
    hasher.update(&frame[4..8]);
    hasher.update(&frame[12..]);
    hasher.finalize()
}

/// What lies at some place of a segment.
#[derive(Debug, PartialEq)]
pub(crate) enum Found<'a> {
    /// Zeros where a frame would begin.
    Nothing,
    /// A whole frame of `size` bytes.
    Frame { sequence: u64, entries: u32, payload: &'a [u8], size: usize },
    /// Something else.
    Damage(&'static str),
}

/// Looks at the beginning of `bytes`.
pub(crate) fn look(bytes: &[u8], salt: u64) -> Found<'_> {
    let Some(mut header) = bytes.get(..HEADER) else { return Found::Nothing };
    if header.iter().all(|byte| *byte == 0) {
        return Found::Nothing;
    }
    let (magic, length, sum) = (header.get_u32_le(), header.get_u32_le() as usize, header.get_u32_le());
    let (entries, sequence) = (header.get_u32_le(), header.get_u64_le());
    if magic != MAGIC {
        return Found::Damage("no frame begins here");
    }
    let size = HEADER + length;
    match bytes.get(..size) {
        None => Found::Damage("the frame is longer than the file"),
        Some(frame) if checksum(frame, salt) != sum => Found::Damage("the checksum does not match"),
        Some(frame) => Found::Frame { sequence, entries, payload: &frame[HEADER..], size },
    }
}

/// Whether a whole frame newer than `sequence` begins anywhere in `bytes`, which starts at a multiple of 8.
pub(crate) fn any_after(bytes: &[u8], sequence: u64, salt: u64) -> bool {
    let magic = MAGIC.to_le_bytes();
    let mut places = bytes.chunks_exact(8).enumerate().filter(|(_, word)| word[..4] == magic).map(|(at, _)| at * 8);
    places.any(|at| matches!(look(&bytes[at..], salt), Found::Frame { sequence: found, .. } if found > sequence))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(payload: &[u8], sequence: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        begin(&mut bytes);
        bytes.extend_from_slice(payload);
        seal(&mut bytes, 3, sequence, 77);
        bytes
    }

    #[test]
    fn round_trip() {
        let bytes = frame(b"hello", 9);
        let expected = Found::Frame { sequence: 9, entries: 3, payload: b"hello\0\0\0", size: 32 };
        assert_eq!(look(&bytes, 77), expected);
        assert!(matches!(look(&bytes, 78), Found::Damage(_)), "another segment's frame");
        assert_eq!(look(&[0; 100], 77), Found::Nothing);
        assert_eq!(look(&[], 77), Found::Nothing);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let bytes = frame(b"some payload", 9);
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(look(&damaged, 77), Found::Damage(_)), "bit {bit}");
        }
        for cut in 1..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[cut..].fill(0);
            let is_whole = damaged == bytes;
            assert_eq!(matches!(look(&damaged, 77), Found::Frame { .. }), is_whole, "cut at {cut}");
        }
    }

    #[test]
    fn searching() {
        let mut bytes = vec![1; 64];
        bytes.extend(frame(b"hello", 9));
        assert!(any_after(&bytes, 8, 77));
        assert!(!any_after(&bytes, 9, 77));
        assert!(!any_after(&bytes, 8, 78));
    }
}
