//! Much data at once, for files that nobody reads soon.

use std::io;

use super::DiskFile;

/// Bytes written at once.
const PIECE: usize = 1 << 20;
/// What the address, the place and the length of a write must be multiples of to go around the page cache.
pub(super) const ALIGNED: usize = 4096;
/// Synced every so many bytes, so that other files' syncs never wait for a large backlog.
const SYNC: u64 = 8 << 20;

/// Gathers what is written one after the other into pieces that may go around the page cache ([`DiskFile::write`]):
/// neither copied once more nor in the way of what is read often.
pub(crate) struct Bulk<'a> {
    file: &'a dyn DiskFile,
    /// One piece and room to align it.
    buffer: Vec<u8>,
    start: usize,
    filled: usize,
    at: u64,
    synced: u64,
}

impl<'a> Bulk<'a> {
    /// Writes from byte `at` on.
    pub(crate) fn new(file: &'a dyn DiskFile, at: u64) -> Self {
        let buffer = vec![0; PIECE + ALIGNED];
        let start = buffer.as_ptr().align_offset(ALIGNED).min(ALIGNED);
        Self { file, buffer, start, filled: 0, at, synced: at }
    }

    pub(crate) fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let room = self.room();
            let (now, later) = bytes.split_at(bytes.len().min(room.len()));
            room[..now.len()].copy_from_slice(now);
            self.filled += now.len();
            bytes = later;
            if self.room().is_empty() {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Writes what is left and makes all of it durable.
    pub(crate) fn finish(mut self) -> io::Result<u64> {
        self.flush()?;
        self.file.sync()?;
        Ok(self.at)
    }

    /// What is free of the piece, which ends where a piece of the file ends.
    fn room(&mut self) -> &mut [u8] {
        let whole = PIECE - self.at as usize % PIECE;
        &mut self.buffer[self.start..][self.filled..whole]
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write(&self.buffer[self.start..][..self.filled], self.at)?;
        self.at += std::mem::take(&mut self.filled) as u64;
        if self.at - self.synced >= SYNC {
            self.file.sync()?;
            self.synced = self.at;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Disk, RealDisk};
    use super::*;

    #[test]
    fn pieces_arrive_whole_and_in_order() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let disk = RealDisk::open(dir.path())?;
        let bytes: Vec<u8> = (0..3 * PIECE as u32 + 77).map(|at| (at % 251) as u8).collect();
        for (from, step) in [(0, 1 << 20), (64, 100_000), (4096, 3_000_000)] {
            let file = disk.create("a")?;
            file.write(&vec![9; from], 0)?;
            let mut bulk = Bulk::new(&*file, from as u64);
            for part in bytes.chunks(step) {
                bulk.write(part)?;
            }
            let end = bulk.finish()?;
            assert_eq!(end, (from + bytes.len()) as u64, "{from} {step}");
            let mut read = vec![1; end as usize];
            file.read(&mut read, 0)?;
            assert!(read[..from].iter().all(|byte| *byte == 9), "{from} {step}");
            assert!(read[from..] == bytes, "{from} {step}");
        }
        Ok(())
    }
}
