//! The network of a local cluster: a bridge on this machine, and on it a network namespace per node, each as good as a
//! host of its own. Namespaces are kept by files below the cluster's directory; names derive from it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use skiff_net::Instance;
use skiff_net::netlink::{Namespace, Netlink, Route, Via, inside};

use crate::error::StartError;

const MTU: u32 = 1_500;

/// The wire of the cluster in one directory.
pub(super) struct Wire {
    instance: Instance,
    directory: PathBuf,
}

/// A range of 256 addresses for the wire, and one of IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Subnet(u8);

impl Subnet {
    fn addresses(self, last: u8) -> [IpNet; 2] {
        let v6 = Ipv6Addr::new(0xfd00, 0x5c1f, 0x172, 0x30, u16::from(self.0), 0, 0, u16::from(last));
        [
            IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(172, 30, self.0, last), 24)),
            IpNet::V6(Ipv6Net::new_assert(v6, 80)),
        ]
    }

    /// This machine's own addresses.
    fn machine(self) -> [IpNet; 2] {
        self.addresses(1)
    }

    /// The addresses of node `number`, IPv4 first.
    pub(super) fn node(self, number: u8) -> [IpAddr; 2] {
        self.addresses(number.saturating_add(10)).map(|address| address.addr())
    }
}

impl Wire {
    pub(super) fn of(directory: &Path) -> Self {
        Self { instance: Instance::of(directory), directory: directory.to_path_buf() }
    }

    fn bridge(&self) -> String {
        format!("{}ln", self.instance.device_prefix())
    }

    /// The file that keeps a node's namespace.
    pub(super) fn namespace(&self, node: &str) -> PathBuf {
        self.directory.join("netns").join(node)
    }

    /// Makes the bridge, with addresses that nothing on this machine has a route to.
    pub(super) fn lay(&self) -> Result<Subnet, StartError> {
        let mut netlink = Netlink::open()?;
        let taken: Vec<_> = netlink.routes()?.into_iter().filter(|route| route.destination.prefix_len() > 0).collect();
        let free = (0..=u8::MAX)
            .map(Subnet)
            .find(|subnet| !taken.iter().any(|route| route.destination.contains(&subnet.machine()[0].addr())));
        let subnet = free.ok_or_else(|| StartError::Program("all of 172.30.0.0/16 is in use here".to_owned()))?;
        netlink.add_bridge(&self.bridge(), MTU)?;
        let bridge = netlink.link(&self.bridge())?.map(|link| link.index).unwrap_or_default();
        join_wire(&mut netlink, bridge, subnet.machine())?;
        Ok(subnet)
    }

    /// Adds a host to the wire.
    pub(super) fn add(&self, node: &str, number: u8, subnet: Subnet) -> Result<(), StartError> {
        let path = self.namespace(node);
        let failed = |e| StartError::Io(path.display().to_string(), e);
        std::fs::create_dir_all(self.directory.join("netns")).map_err(failed)?;
        std::fs::write(&path, "").map_err(failed)?;
        program(Command::new("unshare").arg(format!("--net={}", path.display())).arg("true"))?;
        let namespace = Namespace::open(&path).map_err(failed)?;
        let device = format!("{}n{number}", self.instance.device_prefix());
        let mut here = Netlink::open()?;
        here.add_veth(&device, "eth0", namespace.as_fd(), MTU)?;
        let bridge = here.link(&self.bridge())?.map(|link| link.index).unwrap_or_default();
        let near = here.link(&device)?.map(|link| link.index).unwrap_or_default();
        here.set_bridge(near, bridge)?;
        let mut there = inside(&namespace, Netlink::open).map_err(failed)??;
        for name in ["lo", "eth0"] {
            let index = there.link(name)?.map(|link| link.index).unwrap_or_default();
            there.set_up(index)?;
            if name == "eth0" {
                join_wire(&mut there, index, subnet.addresses(number.saturating_add(10)))?;
                let all = [IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())];
                for (destination, machine) in all.into_iter().zip(subnet.machine()) {
                    let via = Via::Gateway(index, machine.addr());
                    there.set_route(&Route { destination, via, source: None })?;
                }
            }
        }
        Ok(())
    }

    /// Removes a host; what runs in it must have ended.
    pub(super) fn remove(&self, node: &Path) {
        if let Err(error) = nix::mount::umount2(node, nix::mount::MntFlags::MNT_DETACH) {
            tracing::debug!("{} was not mounted: {error}", node.display());
        }
        let _ = std::fs::remove_file(node);
    }

    /// Removes the bridge and whatever else bears the cluster's name.
    pub(super) fn take_up(&self) -> Result<(), StartError> {
        let mut netlink = Netlink::open()?;
        let ours = netlink.links()?.into_iter().filter(|link| link.name.starts_with(&self.instance.device_prefix()));
        for link in ours {
            netlink.delete_link(&link.name)?;
        }
        Ok(())
    }
}

/// Gives a device its addresses, and routes to its neighbours.
fn join_wire(netlink: &mut Netlink, device: u32, addresses: [IpNet; 2]) -> Result<(), StartError> {
    for address in addresses {
        netlink.add_address(device, address)?;
        netlink.set_route(&Route {
            destination: address.trunc(),
            via: Via::Device(device),
            source: Some(address.addr()),
        })?;
    }
    Ok(())
}

/// Runs a program to its end.
pub(super) fn program(command: &mut Command) -> Result<(), StartError> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|e| StartError::Program(format!("{name} cannot be run: {e}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(StartError::Program(format!("{name}: {}", if said.is_empty() { output.status.to_string() } else { said })))
}
