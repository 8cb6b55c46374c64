//! Permanent neighbours, and the forwarding entries of overlay ports, which the kernel keeps as neighbours too.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Netlink, NetlinkError, family, gone_is_fine};
use crate::Family;

type Mac = [u8; 6];

impl Netlink {
    /// The permanent neighbours on device `index`.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn neighbours(&mut self, index: u32) -> Result<Vec<(IpAddr, Mac)>, NetlinkError> {
        let mut entries = self.entries("list neighbours", AddressFamily::Inet, index)?;
        entries.extend(self.entries("list neighbours", AddressFamily::Inet6, index)?);
        Ok(entries)
    }

    /// The forwarding entries of overlay port `index`, turned round.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn forwards(&mut self, index: u32) -> Result<Vec<(Mac, IpAddr)>, NetlinkError> {
        let entries = self.entries("list forwarding entries", AddressFamily::Bridge, index)?;
        Ok(entries.into_iter().map(|(address, mac)| (mac, address)).collect())
    }

    /// Sets a permanent neighbour.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_neighbour(&mut self, index: u32, address: IpAddr, mac: Mac) -> Result<(), NetlinkError> {
        let message = entry(family(Family::of(address)), index, address, Some(mac));
        self.tell("set neighbour", RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Removes a neighbour.
    ///
    /// # Errors
    /// When the kernel refuses; a missing one is fine, and `false`.
    pub fn delete_neighbour(&mut self, index: u32, address: IpAddr) -> Result<bool, NetlinkError> {
        let message = entry(family(Family::of(address)), index, address, None);
        gone_is_fine(self.tell("delete neighbour", RouteNetlinkMessage::DelNeighbour(message), 0))
    }

    /// Sets the machine that has the port with this hardware address.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_forward(&mut self, index: u32, mac: Mac, to: IpAddr) -> Result<(), NetlinkError> {
        let message = entry(AddressFamily::Bridge, index, to, Some(mac));
        self.tell("set forwarding entry", RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Removes a forwarding entry.
    ///
    /// # Errors
    /// When the kernel refuses; a missing one is fine, and `false`.
    pub fn delete_forward(&mut self, index: u32, mac: Mac, to: IpAddr) -> Result<bool, NetlinkError> {
        let message = entry(AddressFamily::Bridge, index, to, Some(mac));
        gone_is_fine(self.tell("delete forwarding entry", RouteNetlinkMessage::DelNeighbour(message), 0))
    }

    fn entries(
        &mut self,
        what: &'static str,
        family: AddressFamily,
        index: u32,
    ) -> Result<Vec<(IpAddr, Mac)>, NetlinkError> {
        let mut message = NeighbourMessage::default();
        message.header.family = family;
        message.header.ifindex = index;
        let answers = self.ask(what, RouteNetlinkMessage::GetNeighbour(message), NLM_F_DUMP)?;
        Ok(answers.into_iter().filter_map(|answer| read(answer, index)).collect())
    }
}

fn entry(family: AddressFamily, index: u32, address: IpAddr, mac: Option<Mac>) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family;
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    if family == AddressFamily::Bridge {
        message.header.flags = NeighbourFlags::Own;
    }
    message.attributes.push(NeighbourAttribute::Destination(address.into()));
    message.attributes.extend(mac.map(|mac| NeighbourAttribute::LinkLayerAddress(mac.to_vec())));
    message
}

fn read(answer: RouteNetlinkMessage, index: u32) -> Option<(IpAddr, Mac)> {
    let RouteNetlinkMessage::NewNeighbour(message) = answer else { return None };
    if message.header.ifindex != index || message.header.state != NeighbourState::Permanent {
        return None;
    }
    let (mut address, mut mac) = (None, None);
    for attribute in message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(found)) => address = Some(IpAddr::V4(found)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(found)) => address = Some(IpAddr::V6(found)),
            // Forwarding entries belong to the family of bridges, for which the address is just bytes.
            NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => {
                let v4 = <[u8; 4]>::try_from(&*bytes).map(IpAddr::from);
                address = v4.or_else(|_| <[u8; 16]>::try_from(&*bytes).map(IpAddr::from)).ok();
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = Mac::try_from(bytes).ok(),
            _ => {}
        }
    }
    address.zip(mac)
}
