//! The little of SPDY/3.1 that remote commands need: opening streams and sending data on them
//! (<https://www.chromium.org/spdy/spdy-protocol/spdy-protocol-draft3-1/>).
//!
//! We are always the client, and the answers' headers say nothing that we need, so that frames are written here and
//! read only by their type, stream and payload. Header blocks are one zlib stream over the connection; it may, but need
//! not, begin from the protocol's dictionary, and ours does not.

use flate2::{Compress, Compression, FlushCompress, Status};

/// What arrives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// Data on a stream, and whether it is the last.
    Data { stream: u32, bytes: Vec<u8>, last: bool },
    /// A ping, to be sent back.
    Ping(u32),
    /// A stream was ended by force.
    Reset(u32),
    /// The connection ends.
    GoAway,
    /// Something that needs no answer.
    Other,
}

const CONTROL: u16 = 0x8003;
const SYN_STREAM: u16 = 1;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const FIN: u8 = 1;

/// The writing side of a connection.
pub(super) struct Writer {
    headers: Compress,
    next: u32,
}

impl Writer {
    pub(super) fn new() -> Self {
        Self { headers: Compress::new(Compression::fast(), true), next: 1 }
    }

    /// Opens a stream with these headers; its id and the frame to send.
    pub(super) fn open(&mut self, headers: &[(&str, &str)]) -> std::io::Result<(u32, Vec<u8>)> {
        let stream = self.next;
        self.next += 2;
        let mut block = u32::try_from(headers.len()).unwrap_or(0).to_be_bytes().to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            block.extend(u32::try_from(text.len()).unwrap_or(0).to_be_bytes());
            block.extend(text.as_bytes());
        }
        let mut body = stream.to_be_bytes().to_vec();
        body.extend([0; 6]);
        body.extend(self.compress(&block)?);
        Ok((stream, control(SYN_STREAM, 0, &body)))
    }

    fn compress(&mut self, block: &[u8]) -> std::io::Result<Vec<u8>> {
        let mut out = Vec::with_capacity(block.len() + 64);
        let before = self.headers.total_in();
        loop {
            let taken = usize::try_from(self.headers.total_in() - before).unwrap_or(block.len());
            let status = self.headers.compress_vec(&block[taken..], &mut out, FlushCompress::Sync)?;
            let done = self.headers.total_in() - before == block.len() as u64;
            if done && out.len() < out.capacity() || status == Status::StreamEnd {
                return Ok(out);
            }
            out.reserve(64);
        }
    }
}

fn control(kind: u16, flags: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = CONTROL.to_be_bytes().to_vec();
    frame.extend(kind.to_be_bytes());
    frame.push(flags);
    frame.extend(&u32::try_from(body.len()).unwrap_or(0).to_be_bytes()[1..]);
    frame.extend(body);
    frame
}

/// Data on a stream; the last of it ends our side.
pub(super) fn data(stream: u32, bytes: &[u8], last: bool) -> Vec<u8> {
    let mut frame = stream.to_be_bytes().to_vec();
    frame.push(if last { FIN } else { 0 });
    frame.extend(&u32::try_from(bytes.len()).unwrap_or(0).to_be_bytes()[1..]);
    frame.extend(bytes);
    frame
}

/// The answer to a ping.
pub(super) fn pong(id: u32) -> Vec<u8> {
    control(PING, 0, &id.to_be_bytes())
}

/// Takes the next whole frame out of `buffer`; `None` when more bytes are needed.
pub(super) fn next(buffer: &mut Vec<u8>) -> Option<Frame> {
    let head: [u8; 8] = buffer.get(..8)?.try_into().ok()?;
    let word = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
    let size = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
    if buffer.len() < 8 + size {
        return None;
    }
    let body: Vec<u8> = buffer.drain(..8 + size).skip(8).collect();
    if word >> 31 == 0 {
        return Some(Frame::Data { stream: word, bytes: body, last: head[4] & FIN != 0 });
    }
    let first = body.get(..4).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes);
    Some(match (word as u16, first) {
        (PING, Some(id)) => Frame::Ping(id),
        (RST_STREAM, Some(stream)) => Frame::Reset(stream & 0x7fff_ffff),
        (GOAWAY, _) => Frame::GoAway,
        _ => Frame::Other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn frames_are_taken_whole() {
        let mut buffer = data(5, b"hello", true);
        buffer.extend(pong(7));
        buffer.extend(&data(1, b"cut", false)[..6]);
        assert_eq!(next(&mut buffer), Some(Frame::Data { stream: 5, bytes: b"hello".to_vec(), last: true }));
        assert_eq!(next(&mut buffer), Some(Frame::Ping(7)));
        assert_eq!(next(&mut buffer), None);
        assert_eq!(buffer.len(), 6);
    }

    #[test]
    fn header_blocks_are_one_zlib_stream() {
        let mut writer = Writer::new();
        let (first, one) = writer.open(&[("streamtype", "error")]).expect("a frame");
        let (second, two) = writer.open(&[("streamtype", "stdin"), ("port", "80")]).expect("a frame");
        assert_eq!((first, second), (1, 3));
        let zlib = [&one[18..], &two[18..]].concat();
        let mut plain = vec![0; 30 + 48];
        let mut decoder = flate2::read::ZlibDecoder::new(&*zlib);
        decoder.read_exact(&mut plain[..27]).expect("the first block");
        assert_eq!(&plain[..27], b"\0\0\0\x01\0\0\0\x0astreamtype\0\0\0\x05error");
    }
}
