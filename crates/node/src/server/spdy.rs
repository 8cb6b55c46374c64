//! As much of SPDY/3.1 as it takes to be the client of a runtime's streaming server.
//!
//! A connection carries streams, each with headers and bytes in both directions that end independently, which is what
//! a command's input needs and the WebSocket side of these servers lacks. The servers (Go's `spdystream`) use no flow
//! control. Headers travel compressed by zlib with a dictionary; ours are sent as stored blocks, which any inflater
//! reads and which need no dictionary, and theirs (the empty replies to our streams) are skipped unread.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The largest data frame sent.
const MAX_DATA: usize = 32 * 1024;
/// No frame of a sane peer is larger.
const MAX_FRAME: usize = 1 << 24;

const CONTROL: u8 = 0x80;
const VERSION: u8 = 3;
const FIN: u8 = 1;

const SYN_STREAM: u8 = 1;
const RST_STREAM: u8 = 3;
const PING: u8 = 6;
const GO_AWAY: u8 = 7;

/// What the other side says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// Bytes on a stream; whether they are its last.
    Data { stream: u32, bytes: Vec<u8>, last: bool },
    /// A stream was broken off.
    Reset { stream: u32 },
    /// It is to be echoed.
    Ping(u32),
    /// Nothing more will come.
    Gone,
    /// Nothing that matters.
    Other,
}

/// The sending half.
pub(super) struct Sender<W> {
    io: W,
    next: u32,
    begun: bool,
}

impl<W: AsyncWrite + Unpin> Sender<W> {
    pub(super) fn new(io: W) -> Self {
        Self { io, next: 1, begun: false }
    }

    /// Opens a stream with these headers (names in lower case); returns its number.
    pub(super) async fn open(&mut self, headers: &[(&str, &str)]) -> io::Result<u32> {
        let stream = self.next;
        self.next += 2;
        let mut payload = Vec::new();
        payload.extend(stream.to_be_bytes());
        payload.extend([0; 6]); // no other stream it belongs to, no priority
        payload.extend(self.header_block(headers));
        self.control(SYN_STREAM, 0, &payload).await?;
        Ok(stream)
    }

    /// The zlib header once per connection, then each block stored as it is.
    fn header_block(&mut self, headers: &[(&str, &str)]) -> Vec<u8> {
        let mut plain = size(headers.len()).to_vec();
        for (name, value) in headers {
            for text in [name, value] {
                plain.extend(size(text.len()));
                plain.extend(text.as_bytes());
            }
        }
        let mut block = if self.begun { Vec::new() } else { vec![0x78, 0x01] };
        self.begun = true;
        for part in plain.chunks(usize::from(u16::MAX)) {
            let length = u16::try_from(part.len()).unwrap_or(u16::MAX);
            block.push(0);
            block.extend(length.to_le_bytes());
            block.extend((!length).to_le_bytes());
            block.extend(part);
        }
        // An empty block makes the other side's library hand out what it has read (zlib calls it a flush).
        block.extend([0, 0, 0, 0xff, 0xff]);
        block
    }

    async fn control(&mut self, kind: u8, flags: u8, payload: &[u8]) -> io::Result<()> {
        let [_, a, b, c] = size(payload.len());
        let mut frame = vec![CONTROL, VERSION, 0, kind, flags, a, b, c];
        frame.extend(payload);
        self.io.write_all(&frame).await?;
        self.io.flush().await
    }

    /// Sends bytes on a stream; `last` closes it in this direction.
    pub(super) async fn data(&mut self, stream: u32, bytes: &[u8], last: bool) -> io::Result<()> {
        let mut rest = bytes;
        loop {
            let (part, more) = rest.split_at(rest.len().min(MAX_DATA));
            let [_, a, b, c] = size(part.len());
            let [d, e, f, g] = stream.to_be_bytes();
            let fin = if last && more.is_empty() { FIN } else { 0 };
            let mut frame = vec![d, e, f, g, fin, a, b, c];
            frame.extend(part);
            self.io.write_all(&frame).await?;
            rest = more;
            if rest.is_empty() {
                return self.io.flush().await;
            }
        }
    }

    /// Echoes a ping.
    pub(super) async fn pong(&mut self, id: u32) -> io::Result<()> {
        self.control(PING, 0, &id.to_be_bytes()).await
    }
}

fn size(length: usize) -> [u8; 4] {
    u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes()
}

/// Reads the next frame; `Gone` at the end of the connection.
pub(super) async fn receive<R: AsyncRead + Unpin>(io: &mut R) -> io::Result<Said> {
    let mut head = [0; 8];
    match io.read_exact(&mut head).await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Said::Gone),
        other => other?,
    };
    let length = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
    if length > MAX_FRAME {
        return Err(io::Error::other("the runtime's streaming server sent an impossible frame"));
    }
    let mut payload = vec![0; length];
    io.read_exact(&mut payload).await?;
    let first_word = payload.first_chunk().map_or(0, |word| u32::from_be_bytes(*word) & 0x7fff_ffff);
    if head[0] & CONTROL == 0 {
        let stream = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        return Ok(Said::Data { stream, bytes: payload, last: head[4] & FIN != 0 });
    }
    Ok(match head[3] {
        RST_STREAM => Said::Reset { stream: first_word },
        PING => Said::Ping(first_word),
        GO_AWAY => Said::Gone,
        _ => Said::Other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_are_written_as_the_standard_has_them() {
        let mut wire = Vec::new();
        let mut sender = Sender::new(&mut wire);
        let first = sender.open(&[("streamtype", "stdin")]).await.expect("opened");
        let second = sender.open(&[]).await.expect("opened");
        assert_eq!((first, second), (1, 3));
        sender.data(1, b"hi", true).await.expect("sent");
        sender.pong(7).await.expect("sent");
        let plain = [&[0, 0, 0, 1, 0, 0, 0, 10][..], b"streamtype", &[0, 0, 0, 5], b"stdin"].concat();
        let flush = &[0, 0, 0, 0xff, 0xff][..];
        let stored = [&[0x78, 1, 0, 27, 0, !27, 0xff][..], &plain, flush].concat();
        let expected = [
            &[0x80, 3, 0, 1, 0, 0, 0, 49, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0][..],
            &stored,
            &[0x80, 3, 0, 1, 0, 0, 0, 24, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 4, 0, !4, 0xff, 0, 0, 0, 0],
            flush,
            &[0, 0, 0, 1, 1, 0, 0, 2, b'h', b'i'],
            &[0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 7],
        ]
        .concat();
        assert_eq!(wire, expected);
    }

    /// What is written can be inflated by an ordinary library.
    #[tokio::test]
    async fn headers_are_a_valid_zlib_stream() {
        let mut sender = Sender::new(Vec::new());
        let mut block = sender.header_block(&[("a", "b")]);
        block.extend(sender.header_block(&[("c", "d")]));
        let mut inflate = flate2::Decompress::new(true);
        let mut plain = Vec::with_capacity(256);
        inflate.decompress_vec(&block, &mut plain, flate2::FlushDecompress::Sync).expect("inflated");
        let pair = |name: u8, value: u8| [0, 0, 0, 1, 0, 0, 0, 1, name, 0, 0, 0, 1, value];
        assert_eq!(plain, [pair(b'a', b'b'), pair(b'c', b'd')].concat());
    }

    #[tokio::test]
    async fn frames_are_read() {
        let wire = [
            &[0x80, 3, 0, 2, 0, 0, 0, 5, 0, 0, 0, 1, 9][..],
            &[0, 0, 0, 3, 1, 0, 0, 1, b'x'],
            &[0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, 5, 0, 0, 0, 1],
            &[0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 2],
        ]
        .concat();
        let mut wire = &wire[..];
        let mut said = Vec::new();
        for _ in 0..5 {
            said.push(receive(&mut wire).await.expect("a frame"));
        }
        let data = Said::Data { stream: 3, bytes: b"x".to_vec(), last: true };
        assert_eq!(said, [Said::Other, data, Said::Reset { stream: 5 }, Said::Ping(2), Said::Gone]);
    }
}
