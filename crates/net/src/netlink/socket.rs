//! One question at a time over a netlink socket.

use std::io;

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// The kernel refused, or could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The kernel's own answer.
    #[error("cannot {what}: {source}")]
    Refused {
        /// What was asked for.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The socket failed.
    #[error("netlink socket: {0}")]
    Socket(#[from] io::Error),
    /// The answer is not netlink.
    #[error("netlink answer cannot be read: {0}")]
    Decode(#[from] netlink_packet_core::DecodeError),
}

impl NetlinkError {
    /// What was asked for does not exist.
    pub fn is_missing(&self) -> bool {
        const ENOENT: i32 = nix::errno::Errno::ENOENT as i32;
        const ENODEV: i32 = nix::errno::Errno::ENODEV as i32;
        const ESRCH: i32 = nix::errno::Errno::ESRCH as i32;
        const EADDRNOTAVAIL: i32 = nix::errno::Errno::EADDRNOTAVAIL as i32;
        let missing = [ENOENT, ENODEV, ESRCH, EADDRNOTAVAIL];
        matches!(self, Self::Refused { source, .. } if source.raw_os_error().is_some_and(|code| missing.contains(&code)))
    }
    /// The name is taken.
    pub fn is_taken(&self) -> bool {
        matches!(self, Self::Refused { source, .. } if source.kind() == io::ErrorKind::AlreadyExists)
    }
}

/// A route netlink socket of the namespace it was opened in.
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// When the kernel has no netlink or no descriptor is left.
    pub fn open() -> Result<Self, NetlinkError> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Sends one request and gathers its answers. A request that neither acknowledges nor dumps has one answer.
    pub(super) fn ask(
        &mut self,
        what: &'static str,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags | NLM_F_REQUEST;
        header.sequence_number = self.sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::from(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        self.gather(what, flags & (NLM_F_ACK | NLM_F_DUMP) == 0)
    }

    fn gather(&mut self, what: &'static str, one_answer: bool) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        let mut answers = Vec::new();
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            let mut rest = &datagram[..];
            while !rest.is_empty() {
                let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)?;
                // Messages are padded to four bytes; a length of zero would never end.
                let length = (message.header.length.max(16) as usize).next_multiple_of(4);
                rest = rest.get(length..).unwrap_or_default();
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                match message.payload {
                    NetlinkPayload::InnerMessage(answer) => answers.push(answer),
                    NetlinkPayload::Error(error) if error.code.is_some() => {
                        return Err(NetlinkError::Refused { what, source: error.to_io() });
                    }
                    NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok(answers),
                    _ => {}
                }
            }
            if one_answer && !answers.is_empty() {
                return Ok(answers);
            }
        }
    }
}
