//! Addresses of load balancers that this node answers for.
//!
//! A condition of a Service whose addresses come from the pool says which node that is. The node takes them onto the
//! device that it has its own address on, so that the kernel answers whoever asks on the wire; where IPv4's neighbours
//! remember another node, they are told.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Service;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, sendto, socket};
use parking_lot::Mutex;
use skiff_api::network::{announcer, is_balanced};

use super::plan::{NodeFacts, load_balancer_ips};
use crate::netlink::{Netlink, NetlinkError};
use crate::network::uplink;

/// Which of a Service's addresses the node answers for.
pub(super) fn announced(service: &Service, node: &NodeFacts) -> Vec<IpAddr> {
    let own = is_balanced(service) && announcer(service) == Some(&node.name);
    if own { load_balancer_ips(service, node.family) } else { Vec::new() }
}

/// Who answers for addresses.
pub trait Announce: Send + Sync + 'static {
    /// From now on, the node answers for these and no others.
    ///
    /// # Errors
    /// When the kernel or the disk refuses; then some may be answered for.
    fn set(&self, addresses: &BTreeSet<IpAddr>) -> Result<(), AnnounceError>;
}

/// The node cannot answer as it should.
#[derive(Debug, thiserror::Error)]
pub enum AnnounceError {
    /// The kernel refused an address.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// What is announced cannot be written down.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// No device has the node's address.
    #[error("no device of this machine has the node's address {0}")]
    NoDevice(IpAddr),
}

/// The device with the node's address.
pub struct Wire {
    node: IpAddr,
    /// What was announced, by lines, so that a process that comes later knows what to take back.
    file: PathBuf,
    known: Mutex<Option<BTreeSet<IpAddr>>>,
}

impl Wire {
    /// On the device that has address `node`; notes are kept in `directory`.
    pub fn new(node: IpAddr, directory: &Path) -> Self {
        Self { node, file: directory.join("announced"), known: Mutex::default() }
    }

    fn write(&self, addresses: &BTreeSet<IpAddr>) -> Result<(), AnnounceError> {
        let failed = |source| AnnounceError::File { path: self.file.clone(), source };
        if let Some(directory) = self.file.parent() {
            std::fs::create_dir_all(directory).map_err(failed)?;
        }
        let lines: String = addresses.iter().map(|address| format!("{address}\n")).collect();
        std::fs::write(&self.file, lines).map_err(failed)
    }
}

impl Announce for Wire {
    fn set(&self, addresses: &BTreeSet<IpAddr>) -> Result<(), AnnounceError> {
        let mut known = self.known.lock();
        let before = match known.as_ref() {
            Some(before) => before.clone(),
            None => {
                let text = std::fs::read_to_string(&self.file).unwrap_or_default();
                text.lines().filter_map(|line| line.parse().ok()).collect()
            }
        };
        if before.is_empty() && addresses.is_empty() {
            *known = Some(before);
            return Ok(());
        }
        let mut netlink = Netlink::open()?;
        let device = uplink(&mut netlink, self.node)?.ok_or(AnnounceError::NoDevice(self.node))?;
        let there = netlink.addresses(device.index)?;
        // What may be there is noted before it is.
        self.write(&before.union(addresses).copied().collect())?;
        for address in before.difference(addresses) {
            netlink.delete_address(device.index, IpNet::from(*address))?;
        }
        for address in addresses.iter().filter(|address| !there.contains(address)) {
            netlink.add_address(device.index, IpNet::from(*address))?;
            if let IpAddr::V4(v4) = address
                && let Err(error) = tell_neighbours(&device.name, &device.mac, *v4)
            {
                // They find out by themselves, some seconds later.
                tracing::debug!(%address, "neighbours are not told: {error}");
            }
            tracing::info!(%address, device = device.name, "answering for a load balancer's address");
        }
        self.write(addresses)?;
        *known = Some(addresses.clone());
        Ok(())
    }
}

/// Gives back, from whatever device, what notes in `directory` say was answered for.
///
/// # Errors
/// When the kernel or the disk refuses; no notes are fine.
pub(crate) fn withdraw(directory: &Path) -> Result<(), AnnounceError> {
    let file = directory.join("announced");
    let Ok(text) = std::fs::read_to_string(&file) else { return Ok(()) };
    let mut netlink = Netlink::open()?;
    for link in netlink.links()? {
        for address in text.lines().filter_map(|line| line.parse::<IpAddr>().ok()) {
            netlink.delete_address(link.index, IpNet::from(address))?;
        }
    }
    std::fs::remove_file(&file).map_err(|source| AnnounceError::File { path: file, source })
}

/// Tells everybody on the wire whose address this is (RFC 5227, an ARP announcement).
fn tell_neighbours(device: &str, mac: &[u8], address: Ipv4Addr) -> io::Result<()> {
    let own = nix::ifaddrs::getifaddrs()?.find_map(|found| {
        let link = found.address.and_then(|address| address.as_link_addr().copied());
        link.filter(|_| found.interface_name == device)
    });
    let own = own.ok_or(io::ErrorKind::NotFound)?;
    let address = address.octets();
    let mut frame = [&[0xff; 6], mac, &[0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1]].concat();
    frame.extend([mac, &address, &[0; 6], &address].concat());
    // Nothing is received, so no protocol is asked for.
    let none: Option<SockProtocol> = None;
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, none)?;
    sendto(socket.as_raw_fd(), &frame, &own, MsgFlags::empty())?;
    Ok(())
}
