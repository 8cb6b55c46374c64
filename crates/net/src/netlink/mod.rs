//! Links, addresses and routes, by blocking netlink.
//!
//! The CNI plugin is a short-lived process that asks the kernel a handful of questions one after the other; an async
//! runtime would cost it more than the questions do. The agent uses the same code for the few devices it sets up once.
//! A socket belongs to the network namespace it was opened in, so work inside a pod needs only a socket opened there.

mod namespace;
mod neighbour;
mod shape;
mod socket;
mod tunnel;

use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

pub use namespace::{Namespace, inside};
pub use shape::Shape;
pub use socket::{Netlink, NetlinkError};
pub use tunnel::Tunnel;

use crate::Family;

/// What one needs to know of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number for it, unique in its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its hardware address, empty where it has none.
    pub mac: Vec<u8>,
    /// The largest packet it carries, in bytes.
    pub mtu: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// Where it is the port of a tunnel: its number, UDP port and own address.
    pub tunnel: Option<(u32, u16, IpAddr)>,
    /// Whether it is one of WireGuard's.
    pub is_wireguard: bool,
}

impl Link {
    fn from_message(message: LinkMessage) -> Self {
        let up = message.header.flags.contains(LinkFlags::Up);
        let mut link = Self { index: message.header.index, up, ..Self::default() };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Address(mac) => link.mac = mac,
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::LinkInfo(infos) => {
                    link.tunnel = tunnel::read(&infos);
                    link.is_wireguard = infos.contains(&LinkInfo::Kind(InfoKind::Wireguard));
                }
                _ => {}
            }
        }
        link
    }

    /// The hardware address as people write it.
    pub fn mac_text(&self) -> String {
        self.mac.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
    }
}

/// Where packets to a destination go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// The destination is on this device's link.
    Device(u32),
    /// Through a gateway on this device's link; device 0: whichever link the gateway is on.
    Gateway(u32, IpAddr),
    /// Through a gateway that is taken to be on this device's link, whatever its address.
    OnLink(u32, IpAddr),
    /// Nowhere: senders hear "host unreachable" at once.
    Unreachable,
}

/// One route of the main table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Which destinations.
    pub destination: IpNet,
    /// Where they go.
    pub via: Via,
    /// The source address the host itself uses for them.
    pub source: Option<IpAddr>,
}

impl Netlink {
    /// The device called `name`.
    ///
    /// # Errors
    /// When the kernel refuses; a missing device is `None`.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        match self.ask("look up device", RouteNetlinkMessage::GetLink(message), 0) {
            Ok(answers) => Ok(answers.into_iter().find_map(as_link)),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All devices.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let answers = self.ask("list devices", RouteNetlinkMessage::GetLink(LinkMessage::default()), NLM_F_DUMP)?;
        Ok(answers.into_iter().filter_map(as_link).collect())
    }

    /// Makes a bridge without ports, up.
    ///
    /// # Errors
    /// When the name is taken or the kernel refuses.
    pub fn add_bridge(&mut self, name: &str, mtu: u32) -> Result<(), NetlinkError> {
        let mut message = up_link();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        message.attributes.push(LinkAttribute::Mtu(mtu));
        message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]));
        self.tell("create bridge", RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Makes a device of WireGuard, up.
    ///
    /// # Errors
    /// When the name is taken, or the kernel has no WireGuard or refuses.
    pub fn add_wireguard(&mut self, name: &str, mtu: u32) -> Result<(), NetlinkError> {
        let mut message = up_link();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        message.attributes.push(LinkAttribute::Mtu(mtu));
        message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Wireguard)]));
        let what = "create a WireGuard device (the kernel needs the module wireguard)";
        self.tell(what, RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Makes a pair of linked devices: `name` here, up, and `peer` in the namespace `peer_namespace`, down (the kernel
    /// cannot bring it up before it has its other end).
    ///
    /// # Errors
    /// When one of the names is taken or the kernel refuses.
    pub fn add_veth(
        &mut self,
        name: &str,
        peer: &str,
        peer_namespace: BorrowedFd<'_>,
        mtu: u32,
    ) -> Result<(), NetlinkError> {
        let mut far = LinkMessage::default();
        far.attributes.push(LinkAttribute::IfName(peer.to_owned()));
        far.attributes.push(LinkAttribute::Mtu(mtu));
        far.attributes.push(LinkAttribute::NetNsFd(peer_namespace.as_raw_fd()));
        let mut near = up_link();
        near.attributes.push(LinkAttribute::IfName(name.to_owned()));
        near.attributes.push(LinkAttribute::Mtu(mtu));
        let pair = LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(far)));
        near.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth), pair]));
        self.tell("create veth pair", RouteNetlinkMessage::NewLink(near), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Makes a device a port of the bridge `bridge`.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_bridge(&mut self, index: u32, bridge: u32) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.push(LinkAttribute::Controller(bridge));
        self.tell("attach device to bridge", RouteNetlinkMessage::SetLink(message), 0)
    }

    /// Removes a device with its addresses and routes (and a veth's peer).
    ///
    /// # Errors
    /// When the kernel refuses; a missing device is fine, and `false`.
    pub fn delete_link(&mut self, name: &str) -> Result<bool, NetlinkError> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        gone_is_fine(self.tell("delete device", RouteNetlinkMessage::DelLink(message), 0))
    }

    /// Brings a device up.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_up(&mut self, index: u32) -> Result<(), NetlinkError> {
        let mut message = up_link();
        message.header.index = index;
        self.tell("bring device up", RouteNetlinkMessage::SetLink(message), 0)
    }

    /// Gives a device an address, usable at once: nobody else is asked whether he has it. Having it already is fine.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn add_address(&mut self, index: u32, address: IpNet) -> Result<(), NetlinkError> {
        let mut message = AddressMessage::default();
        message.header.family = family(Family::of_range(address));
        message.header.prefix_len = address.prefix_len();
        message.header.scope = AddressScope::Universe;
        message.header.index = index;
        message.attributes.push(AddressAttribute::Local(address.addr()));
        message.attributes.push(AddressAttribute::Address(address.addr()));
        if address.addr().is_ipv6() {
            let flags = AddressFlags::Nodad | AddressFlags::Noprefixroute;
            message.attributes.push(AddressAttribute::Flags(flags));
        }
        self.tell("add address", RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Takes an address from a device.
    ///
    /// # Errors
    /// When the kernel refuses; a missing address is fine, and `false`.
    pub fn delete_address(&mut self, index: u32, address: IpNet) -> Result<bool, NetlinkError> {
        let mut message = AddressMessage::default();
        message.header.family = family(Family::of_range(address));
        message.header.prefix_len = address.prefix_len();
        message.header.index = index;
        message.attributes.push(AddressAttribute::Local(address.addr()));
        gone_is_fine(self.tell("delete address", RouteNetlinkMessage::DelAddress(message), 0))
    }

    /// The addresses of the device `index`, but for those that the kernel gives every device.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn addresses(&mut self, index: u32) -> Result<Vec<IpAddr>, NetlinkError> {
        let message = AddressMessage::default();
        let answers = self.ask("list addresses", RouteNetlinkMessage::GetAddress(message), NLM_F_DUMP)?;
        Ok(answers.into_iter().filter_map(|answer| as_address(answer, index)).collect())
    }

    /// Sets a route, in place of one to the same destination.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_route(&mut self, route: &Route) -> Result<(), NetlinkError> {
        self.tell("set route", RouteNetlinkMessage::NewRoute(route.message()), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Removes a route.
    ///
    /// # Errors
    /// When the kernel refuses; a missing route is fine, and `false`.
    pub fn delete_route(&mut self, route: &Route) -> Result<bool, NetlinkError> {
        gone_is_fine(self.tell("delete route", RouteNetlinkMessage::DelRoute(route.message()), 0))
    }

    /// All routes of the main table that lead to a device or nowhere, of all families.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn routes(&mut self) -> Result<Vec<Route>, NetlinkError> {
        let message = RouteMessage::default();
        let answers = self.ask("list routes", RouteNetlinkMessage::GetRoute(message), NLM_F_DUMP)?;
        Ok(answers.into_iter().filter_map(as_route).collect())
    }

    fn tell(&mut self, what: &'static str, message: RouteNetlinkMessage, flags: u16) -> Result<(), NetlinkError> {
        self.ask(what, message, flags | NLM_F_ACK).map(drop)
    }
}

fn gone_is_fine(result: Result<(), NetlinkError>) -> Result<bool, NetlinkError> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.is_missing() => Ok(false),
        Err(error) => Err(error),
    }
}

impl Route {
    fn message(&self) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header = RouteHeader {
            address_family: family(Family::of_range(self.destination)),
            destination_prefix_length: self.destination.prefix_len(),
            table: RouteHeader::RT_TABLE_MAIN,
            protocol: RouteProtocol::Static,
            scope: RouteScope::Universe,
            kind: RouteType::Unicast,
            ..RouteHeader::default()
        };
        message.attributes.push(RouteAttribute::Destination(self.destination.network().into()));
        match self.via {
            Via::Device(index) => {
                message.header.scope = RouteScope::Link;
                message.attributes.push(RouteAttribute::Oif(index));
            }
            Via::Gateway(index, gateway) | Via::OnLink(index, gateway) => {
                if index > 0 {
                    message.attributes.push(RouteAttribute::Oif(index));
                }
                if matches!(self.via, Via::OnLink(..)) {
                    message.header.flags = RouteFlags::Onlink;
                }
                message.attributes.push(RouteAttribute::Gateway(gateway.into()));
            }
            Via::Unreachable => message.header.kind = RouteType::Unreachable,
        }
        if let Some(source) = self.source {
            message.attributes.push(RouteAttribute::PrefSource(source.into()));
        }
        message
    }
}

fn family(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}

fn plain_address(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

fn up_link() -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message
}

fn as_link(message: RouteNetlinkMessage) -> Option<Link> {
    match message {
        RouteNetlinkMessage::NewLink(link) => Some(Link::from_message(link)),
        _ => None,
    }
}

fn as_address(message: RouteNetlinkMessage, index: u32) -> Option<IpAddr> {
    let RouteNetlinkMessage::NewAddress(message) = message else { return None };
    if message.header.index != index || message.header.scope == AddressScope::Link {
        return None;
    }
    let (mut address, mut local) = (None, None);
    for attribute in message.attributes {
        match attribute {
            // Devices that join two machines have the other's here, and say their own below.
            AddressAttribute::Address(found) => address = Some(found),
            AddressAttribute::Local(found) => local = Some(found),
            _ => {}
        }
    }
    local.or(address)
}

fn as_route(message: RouteNetlinkMessage) -> Option<Route> {
    let RouteNetlinkMessage::NewRoute(message) = message else { return None };
    if message.header.table != RouteHeader::RT_TABLE_MAIN {
        return None;
    }
    let on_link = message.header.flags.contains(RouteFlags::Onlink);
    let mut destination = match message.header.address_family {
        AddressFamily::Inet => Family::V4.unspecified(),
        AddressFamily::Inet6 => Family::V6.unspecified(),
        _ => return None,
    };
    let (mut device, mut gateway, mut source) = (None, None, None);
    for attribute in message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = plain_address(&address)?,
            RouteAttribute::Gateway(address) => gateway = Some(plain_address(&address)?),
            RouteAttribute::PrefSource(address) => source = Some(plain_address(&address)?),
            RouteAttribute::Oif(index) => device = Some(index),
            _ => {}
        }
    }
    let via = match (message.header.kind, device, gateway) {
        (RouteType::Unreachable, ..) => Via::Unreachable,
        (RouteType::Unicast, Some(index), Some(gateway)) if on_link => Via::OnLink(index, gateway),
        (RouteType::Unicast, Some(index), Some(gateway)) => Via::Gateway(index, gateway),
        (RouteType::Unicast, Some(index), None) => Via::Device(index),
        _ => return None,
    };
    let destination = IpNet::new(destination, message.header.destination_prefix_length).ok()?;
    Some(Route { destination, via, source })
}
