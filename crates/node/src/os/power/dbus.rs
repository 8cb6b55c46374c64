//! As much of D-Bus as a few calls to one service need: the handshake, calls with plain arguments, answers, signals, and
//! files that come along. A whole library would be larger than all that is done with it.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Interest};
use tokio::net::UnixStream;

/// Nothing that is asked for here comes near it.
const LARGEST: usize = 1 << 20;
const ENDIAN: u8 = if cfg!(target_endian = "little") { b'l' } else { b'B' };
const CALL: u8 = 1;
const RETURN: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;

/// What a header says, by number.
mod field {
    pub(super) const PATH: u8 = 1;
    pub(super) const INTERFACE: u8 = 2;
    pub(super) const MEMBER: u8 = 3;
    pub(super) const ERROR_NAME: u8 = 4;
    pub(super) const REPLY_SERIAL: u8 = 5;
    pub(super) const DESTINATION: u8 = 6;
    pub(super) const SIGNATURE: u8 = 8;
    pub(super) const FILES: u8 = 9;
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a message of the bus is malformed")
}

/// Bytes in which every value stands at a multiple of its size.
#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }
    fn u32(&mut self, number: u32) {
        self.align(4);
        self.0.extend(number.to_ne_bytes());
    }
    fn string(&mut self, text: &str) {
        self.u32(u32::try_from(text.len()).unwrap_or(u32::MAX));
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }
    fn signature(&mut self, text: &str) {
        self.0.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }
    fn field(&mut self, code: u8, kind: &str, text: &str) {
        self.align(8);
        self.0.push(code);
        self.signature(kind);
        if kind == "g" { self.signature(text) } else { self.string(text) }
    }
}

/// A call to be made.
pub(super) struct Call {
    to: (&'static str, &'static str, &'static str),
    member: &'static str,
    signature: String,
    body: Writer,
}

impl Call {
    /// Of a member of an interface of an object of a service: `(service, object, interface)`.
    pub(super) fn new(to: (&'static str, &'static str, &'static str), member: &'static str) -> Self {
        Self { to, member, signature: String::new(), body: Writer::default() }
    }
    pub(super) fn string(mut self, text: &str) -> Self {
        self.signature.push('s');
        self.body.string(text);
        self
    }
    pub(super) fn int32(mut self, number: i32) -> Self {
        self.signature.push('i');
        self.body.u32(number.cast_unsigned());
        self
    }

    fn encode(&self, serial: u32) -> Vec<u8> {
        let mut fields = Writer::default();
        for (code, kind, text) in [
            (field::PATH, "o", self.to.1),
            (field::INTERFACE, "s", self.to.2),
            (field::MEMBER, "s", self.member),
            (field::DESTINATION, "s", self.to.0),
            (field::SIGNATURE, "g", &self.signature),
        ] {
            if !text.is_empty() {
                fields.field(code, kind, text);
            }
        }
        framed(CALL, serial, fields, &self.body.0)
    }
}

fn framed(kind: u8, serial: u32, fields: Writer, body: &[u8]) -> Vec<u8> {
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let mut out = Writer(vec![ENDIAN, kind, 0, 1]);
    out.u32(length(body));
    out.u32(serial);
    out.u32(length(&fields.0));
    out.0.extend(fields.0);
    out.align(8);
    out.0.extend(body);
    out.0
}

/// Reads values where they stand.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> io::Result<&'a [u8]> {
        let end = self.at.checked_add(count).ok_or_else(malformed)?;
        let taken = self.bytes.get(self.at..end).ok_or_else(malformed)?;
        self.at = end;
        Ok(taken)
    }
    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }
    fn byte(&mut self) -> io::Result<u8> {
        Ok(self.take(1)?[0])
    }
    fn u32(&mut self) -> io::Result<u32> {
        self.align(4);
        self.take(4)?.try_into().map(u32::from_ne_bytes).map_err(|_| malformed())
    }
    fn u64(&mut self) -> io::Result<u64> {
        self.align(8);
        self.take(8)?.try_into().map(u64::from_ne_bytes).map_err(|_| malformed())
    }
    fn text(&mut self, length: usize) -> io::Result<&'a str> {
        let text = self.take(length)?;
        self.take(1)?;
        std::str::from_utf8(text).map_err(|_| malformed())
    }
    fn string(&mut self) -> io::Result<&'a str> {
        let length = self.u32()? as usize;
        self.text(length)
    }
    fn signature(&mut self) -> io::Result<&'a str> {
        let length = self.byte()?.into();
        self.text(length)
    }
    pub(super) fn boolean(&mut self) -> io::Result<bool> {
        Ok(self.u32()? != 0)
    }
    /// A number of 64 bits, in a variant.
    pub(super) fn variant_of_number(&mut self) -> io::Result<u64> {
        if self.signature()? == "t" { self.u64() } else { Err(malformed()) }
    }
}

/// What has come.
#[derive(Debug, Default)]
pub(super) struct Message {
    kind: u8,
    reply_serial: u32,
    interface: String,
    member: String,
    error: String,
    signature: String,
    file_count: usize,
    body: Vec<u8>,
    files: VecDeque<OwnedFd>,
    #[cfg(test)]
    serial: u32,
}

impl Message {
    /// The first message in the bytes, once it is whole, with the number of its bytes.
    fn decode(bytes: &[u8]) -> io::Result<Option<(Self, usize)>> {
        if bytes.len() < 16 {
            return Ok(None);
        }
        let mut reader = Reader { bytes, at: 0 };
        if reader.byte()? != ENDIAN {
            return Err(malformed());
        }
        let mut message = Self { kind: reader.byte()?, ..Self::default() };
        reader.at = 4;
        let (body, _serial, fields) = (reader.u32()? as usize, reader.u32()?, reader.u32()? as usize);
        if body > LARGEST || fields > LARGEST {
            return Err(malformed());
        }
        let begin = (16 + fields).next_multiple_of(8);
        let Some(whole) = bytes.get(..begin + body) else { return Ok(None) };
        let mut reader = Reader { bytes: &whole[..16 + fields], at: 16 };
        while reader.at < 16 + fields {
            message.read_field(&mut reader)?;
            reader.align(8);
        }
        message.body = whole[begin..].to_vec();
        #[cfg(test)]
        {
            message.serial = _serial;
        }
        Ok(Some((message, begin + body)))
    }

    fn read_field(&mut self, reader: &mut Reader<'_>) -> io::Result<()> {
        let code = reader.byte()?;
        match (code, reader.signature()?) {
            (code, "s" | "o") => {
                let text = reader.string()?.to_owned();
                match code {
                    field::INTERFACE => self.interface = text,
                    field::MEMBER => self.member = text,
                    field::ERROR_NAME => self.error = text,
                    _ => {}
                }
            }
            (code, "u") => match (code, reader.u32()?) {
                (field::REPLY_SERIAL, serial) => self.reply_serial = serial,
                (field::FILES, count) => self.file_count = count as usize,
                _ => {}
            },
            (_, "g") => self.signature = reader.signature()?.to_owned(),
            _ => return Err(malformed()),
        }
        Ok(())
    }

    pub(super) fn is_signal(&self, interface: &str, member: &str) -> bool {
        self.kind == SIGNAL && self.interface == interface && self.member == member
    }
    pub(super) fn answers(&self, serial: u32) -> bool {
        matches!(self.kind, RETURN | ERROR) && self.reply_serial == serial
    }
    /// What was asked for, or what was said instead.
    pub(super) fn into_answer(self) -> io::Result<Self> {
        if self.kind != ERROR {
            return Ok(self);
        }
        let said = if self.signature.starts_with('s') { self.body().string().unwrap_or_default() } else { "" };
        Err(io::Error::other(format!("{}: {said}", self.error)))
    }
    pub(super) fn body(&self) -> Reader<'_> {
        Reader { bytes: &self.body, at: 0 }
    }
    /// The first file that came along.
    pub(super) fn into_file(mut self) -> Option<OwnedFd> {
        self.files.pop_front()
    }
}

/// A connection to a bus.
pub(super) struct Bus {
    stream: UnixStream,
    serial: u32,
    bytes: Vec<u8>,
    files: VecDeque<OwnedFd>,
}

impl Bus {
    /// Connects as the user that this process is.
    pub(super) async fn connect(socket: &Path) -> io::Result<Self> {
        let mut stream = BufReader::new(UnixStream::connect(socket).await?);
        let user = nix::unistd::geteuid().to_string();
        let user: String = user.bytes().map(|byte| format!("{byte:02x}")).collect();
        for (line, expected) in
            [(format!("\0AUTH EXTERNAL {user}\r\n"), "OK "), ("NEGOTIATE_UNIX_FD\r\n".into(), "AGREE")]
        {
            stream.write_all(line.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_line(&mut answer).await?;
            if !answer.starts_with(expected) {
                return Err(io::Error::other(format!("the bus refused: {}", answer.trim_end())));
            }
        }
        stream.write_all(b"BEGIN\r\n").await?;
        // The bus says nothing before it is spoken to, so that nothing is left in the buffer.
        Ok(Self { stream: stream.into_inner(), serial: 0, bytes: Vec::new(), files: VecDeque::new() })
    }

    /// Sends a call; gives the number by which its answer is known.
    pub(super) async fn send(&mut self, call: Call) -> io::Result<u32> {
        self.serial += 1;
        self.stream.write_all(&call.encode(self.serial)).await?;
        Ok(self.serial)
    }

    /// The next message. Nothing is lost when it is not waited for to its end.
    pub(super) async fn receive(&mut self) -> io::Result<Message> {
        loop {
            if let Some((mut message, used)) = Message::decode(&self.bytes)? {
                self.bytes.drain(..used);
                let count = message.file_count.min(self.files.len());
                message.files = self.files.drain(..count).collect();
                return Ok(message);
            }
            let (bytes, files) = (&mut self.bytes, &mut self.files);
            let stream = &self.stream;
            stream.async_io(Interest::READABLE, || read(stream, bytes, files)).await?;
        }
    }
}

fn read(stream: &UnixStream, bytes: &mut Vec<u8>, files: &mut VecDeque<OwnedFd>) -> io::Result<()> {
    let mut chunk = [0; 4096];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(stream, &mut [IoSliceMut::new(&mut chunk)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(sent) = message {
            files.extend(sent);
        }
    }
    if got.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    bytes.extend(&chunk[..got.bytes]);
    Ok(())
}

/// The other side of the wire.
#[cfg(test)]
pub(super) mod testing {
    use super::*;
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    use std::io::IoSlice;
    use std::os::fd::AsFd;
    use tokio::net::UnixListener;

    pub(in super::super) fn listener(path: &Path) -> UnixListener {
        UnixListener::bind(path).expect("a socket")
    }

    pub(in super::super) struct Peer(Bus);

    impl Peer {
        pub(in super::super) async fn accept(listener: &mut UnixListener) -> Self {
            let (stream, _) = listener.accept().await.expect("a client");
            let mut stream = BufReader::new(stream);
            for answer in ["OK 1234\r\n", "AGREE_UNIX_FD\r\n", ""] {
                let mut line = String::new();
                stream.read_line(&mut line).await.expect("a line");
                stream.write_all(answer.as_bytes()).await.expect("sent");
            }
            let bytes = stream.buffer().to_vec();
            Self(Bus { stream: stream.into_inner(), serial: 0, bytes, files: VecDeque::new() })
        }
        pub(in super::super) async fn expect(&mut self, member: &str) -> Message {
            let call = self.0.receive().await.expect("a call");
            assert_eq!((call.kind, call.member.as_str()), (CALL, member));
            call
        }
        pub(in super::super) async fn answer(&mut self, call: &Message, file: Option<OwnedFd>, body: &[u8]) {
            let mut fields = Writer::default();
            for (code, number) in [(field::REPLY_SERIAL, call.serial), (field::FILES, file.is_some().into())] {
                fields.align(8);
                fields.0.push(code);
                fields.signature("u");
                fields.u32(number);
            }
            self.send(&framed(RETURN, 1, fields, body), file).await;
        }
        pub(in super::super) async fn tell_signal(&mut self, interface: &str, member: &str, value: bool) {
            let mut fields = Writer::default();
            fields.field(field::INTERFACE, "s", interface);
            fields.field(field::MEMBER, "s", member);
            fields.field(field::SIGNATURE, "g", "b");
            self.send(&framed(SIGNAL, 2, fields, &u32::from(value).to_ne_bytes()), None).await;
        }
        async fn send(&mut self, bytes: &[u8], file: Option<OwnedFd>) {
            let files: Vec<_> = file.iter().map(AsFd::as_fd).collect();
            let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !files.is_empty() {
                assert!(control.push(SendAncillaryMessage::ScmRights(&files)));
            }
            self.0.stream.writable().await.expect("writable");
            let sent = sendmsg(&self.0.stream, &[IoSlice::new(bytes)], &mut control, SendFlags::empty()).expect("sent");
            assert_eq!(sent, bytes.len());
        }
    }

    /// Byte for byte as the specification has it.
    #[test]
    fn a_call_on_the_wire() {
        let call = Call::new(("a.b", "/o", "a.I"), "M").string("hi").int32(-1);
        let expected: &[u8] = b"l\x01\0\x01\x0c\0\0\0\x07\0\0\0\x48\0\0\0\
            \x01\x01o\0\x02\0\0\0/o\0\0\0\0\0\0\
            \x02\x01s\0\x03\0\0\0a.I\0\0\0\0\0\
            \x03\x01s\0\x01\0\0\0M\0\0\0\0\0\0\0\
            \x06\x01s\0\x03\0\0\0a.b\0\0\0\0\0\
            \x08\x01g\0\x02si\0\
            \x02\0\0\0hi\0\0\xff\xff\xff\xff";
        let encoded = call.encode(7);
        if cfg!(target_endian = "little") {
            assert_eq!(encoded, expected);
        }
        let (decoded, length) = Message::decode(&encoded).expect("well-formed").expect("whole");
        assert_eq!(
            (length, decoded.member.as_str(), decoded.body().string().expect("text")),
            (encoded.len(), "M", "hi")
        );
        for cut in 0..encoded.len() {
            assert!(Message::decode(&encoded[..cut]).expect("no fault").is_none(), "{cut} bytes are not whole");
        }
        let mut broken = encoded;
        broken[12] = 0x46;
        assert!(Message::decode(&broken).is_err(), "a field is cut off");
    }
}
