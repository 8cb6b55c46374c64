//! The port of an overlay (VXLAN, RFC 7348).

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkInfo};

use super::{Link, Netlink, NetlinkError, up_link};
use crate::Family;

/// A port as it should be. It learns nothing from packets: who is where is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Which overlay (24 bits).
    pub number: u32,
    /// UDP port.
    pub port: u16,
    /// The machine's address on the wire.
    pub local: IpAddr,
    /// Its hardware address in the overlay.
    pub mac: [u8; 6],
    /// The largest packet inside.
    pub mtu: u32,
    /// Its own addresses inside, one of each family.
    pub addresses: Vec<IpAddr>,
}

impl Tunnel {
    /// Whether `link` is this port, and up.
    pub fn is(&self, link: &Link) -> bool {
        link.tunnel == Some((self.number, self.port, self.local))
            && link.mac == self.mac
            && link.mtu == self.mtu
            && link.up
    }
}

impl Netlink {
    /// Makes the port of an overlay, up.
    ///
    /// # Errors
    /// When the name, or the number in this namespace, is taken, or the kernel refuses.
    pub fn add_tunnel(&mut self, name: &str, tunnel: &Tunnel) -> Result<(), NetlinkError> {
        let data = vec![
            InfoVxlan::Id(tunnel.number),
            match tunnel.local {
                IpAddr::V4(local) => InfoVxlan::Local(local),
                IpAddr::V6(local) => InfoVxlan::Local6(local),
            },
            InfoVxlan::Port(tunnel.port),
            InfoVxlan::Learning(false),
        ];
        let mut message = up_link();
        message.attributes.extend([
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Mtu(tunnel.mtu),
            LinkAttribute::Address(tunnel.mac.to_vec()),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Vxlan), LinkInfo::Data(InfoData::Vxlan(data))]),
        ]);
        self.tell("create overlay port", RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
    }
}

/// Number, UDP port and own address, where the device is a port of an overlay.
pub(super) fn read(infos: &[LinkInfo]) -> Option<(u32, u16, IpAddr)> {
    let data = infos.iter().find_map(|info| match info {
        LinkInfo::Data(InfoData::Vxlan(data)) => Some(data),
        _ => None,
    })?;
    let (mut number, mut port, mut local) = (0, 0, Family::V4.unspecified());
    for item in data {
        match item {
            InfoVxlan::Id(id) => number = *id,
            InfoVxlan::Port(found) => port = *found,
            InfoVxlan::Local(address) => local = IpAddr::V4(*address),
            InfoVxlan::Local6(address) => local = IpAddr::V6(*address),
            _ => {}
        }
    }
    Some((number, port, local))
}
