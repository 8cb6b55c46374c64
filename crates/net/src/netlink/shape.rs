//! How fast a device may send: a token bucket (`tbf`).

use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage, TcOption};

use super::{Netlink, NetlinkError};

/// How long packets may wait to be sent, in milliseconds, before they are dropped.
const PATIENCE: u64 = 25;

// Parameters of the bucket, as `linux/pkt_sched.h` numbers them.
const PARAMETERS: u16 = 1;
const RATE64: u16 = 4;
const BURST: u16 = 6;

/// A rate and what may exceed it for a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Bytes per second.
    pub rate: u64,
    /// Bytes at once.
    pub burst: u32,
}

impl Netlink {
    /// Makes device `index` send no faster than `shape`.
    ///
    /// # Errors
    /// When the kernel refuses, or has no token buckets.
    pub fn shape(&mut self, index: u32, shape: Shape) -> Result<(), NetlinkError> {
        let mut message = TcMessage::with_index(index.cast_signed());
        message.header.parent = TcHandle::ROOT;
        message.header.handle = TcHandle { major: 1, minor: 0 };
        let limit = shape.rate.saturating_mul(PATIENCE) / 1_000 + u64::from(shape.burst);
        let other = |kind, value: Vec<u8>| TcOption::Other(DefaultNla::new(kind, value));
        let mut options = vec![
            other(PARAMETERS, parameters(shape.rate, u32::try_from(limit).unwrap_or(u32::MAX))),
            other(BURST, shape.burst.to_ne_bytes().to_vec()),
        ];
        if shape.rate > u64::from(u32::MAX) {
            options.push(other(RATE64, shape.rate.to_ne_bytes().to_vec()));
        }
        message.attributes = vec![TcAttribute::Kind("tbf".to_owned()), TcAttribute::Options(options)];
        let message = RouteNetlinkMessage::NewQueueDiscipline(message);
        self.tell("limit the rate of a device", message, NLM_F_CREATE | NLM_F_REPLACE)
    }
}

/// `struct tc_tbf_qopt`: rate, peak rate (none), limit, and buffer and mtu, which the burst replaces.
fn parameters(rate: u64, limit: u32) -> Vec<u8> {
    let rate = u32::try_from(rate).unwrap_or(u32::MAX);
    // Cell size, link layer (Ethernet), overhead, alignment, smallest packet, rate.
    let spec = |rate: u32| [&[0, 1, 0, 0, 0, 0, 0, 0][..], &rate.to_ne_bytes()].concat();
    [spec(rate), spec(0), limit.to_ne_bytes().to_vec(), vec![0; 8]].concat()
}
