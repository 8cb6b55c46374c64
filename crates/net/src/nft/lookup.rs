//! Whether a table is there: one question to the kernel, without the program.

use std::io;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};

use crate::Family;

// `linux/netlink.h`, `linux/netfilter/nfnetlink.h` and `nf_tables.h`.
const REQUEST: u16 = 1;
const ERROR: u16 = 2;
const GET_TABLE: u16 = (10 << 8) | 1;
const TABLE_NAME: u16 = 1;
const HEADER: usize = 16;

/// Asks for tables. The socket is kept between questions.
#[derive(Default)]
pub(crate) struct Tables(Option<Socket>);

impl Tables {
    /// Whether there is a table of this name.
    ///
    /// # Errors
    /// When the kernel cannot be asked, or its answer is none.
    pub(crate) fn is_there(&mut self, family: Family, name: &str) -> io::Result<bool> {
        let answer = self.ask(&question(family, name));
        if answer.is_err() {
            self.0 = None;
        }
        let answer = answer?;
        let field = |at: usize| answer.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
        let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
        match (kind, field(HEADER)) {
            (Some(ERROR), Some(code)) if code == -(nix::errno::Errno::ENOENT as i32) => Ok(false),
            (Some(ERROR), Some(code)) => Err(io::Error::from_raw_os_error(-code)),
            (Some(_), _) => Ok(true),
            (None, _) => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn ask(&mut self, question: &[u8]) -> io::Result<Vec<u8>> {
        if self.0.is_none() {
            let mut socket = Socket::new(NETLINK_NETFILTER)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            self.0 = Some(socket);
        }
        let socket = self.0.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        socket.send(question, 0)?;
        Ok(socket.recv_from_full()?.0)
    }
}

fn question(family: Family, name: &str) -> Vec<u8> {
    let number: u8 = match family {
        Family::V4 => 2,
        Family::V6 => 10,
    };
    let mut attribute = name.as_bytes().to_vec();
    attribute.push(0);
    let attribute_length = u16::try_from(attribute.len() + 4).unwrap_or(u16::MAX);
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    let length = u32::try_from(HEADER + 8 + attribute.len()).unwrap_or(u32::MAX);
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(GET_TABLE.to_ne_bytes());
    message.extend(REQUEST.to_ne_bytes());
    // Sequence number and port: one question at a time needs neither.
    message.extend([0; 8]);
    message.extend([number, 0, 0, 0]);
    message.extend(attribute_length.to_ne_bytes());
    message.extend(TABLE_NAME.to_ne_bytes());
    message.extend(attribute);
    message
}
