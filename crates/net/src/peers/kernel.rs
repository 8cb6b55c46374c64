//! The kernel's side of [`super::plan`].

use std::net::IpAddr;

use ipnet::IpNet;

use super::plan::{Hop, Mac, Paths, Step, Way};
use crate::netlink::{Netlink, Route, Tunnel, Via};
use crate::{Family, NetError, sysctl};

/// Who has the routes, neighbours and forwarding entries.
pub trait Kernel: Send + 'static {
    /// Ranges of addresses on the machine's wires, but for those within `cluster`.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn wire(&mut self, cluster: &[IpNet]) -> Result<Vec<IpNet>, NetError>;
    /// Makes the tunnel's port as it should be, or removes what bears `device`'s name where there should be none.
    /// Returns the port's index and the family it travels in.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn prepare(&mut self, device: &str, tunnel: Option<&Tunnel>) -> Result<Option<(u32, Family)>, NetError>;
    /// What leads into the ranges of `cluster` now, beside the node's `own` pods.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn paths(&mut self, way: &Way, cluster: &[IpNet], own: &[IpNet]) -> Result<Paths, NetError>;
    /// Takes a step.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn take(&mut self, way: &Way, sources: &[IpAddr], step: &Step) -> Result<(), NetError>;
}

/// This machine's kernel.
pub struct RealKernel;

impl Kernel for RealKernel {
    fn wire(&mut self, cluster: &[IpNet]) -> Result<Vec<IpNet>, NetError> {
        let routes = Netlink::open()?.routes()?.into_iter();
        let wires = routes.filter(|route| matches!(route.via, Via::Device(_))).map(|route| route.destination);
        let many = wires.filter(|range| range.prefix_len() > 0 && range.prefix_len() < range.max_prefix_len());
        Ok(many.filter(|range| !cluster.iter().any(|cluster| cluster.contains(range))).collect())
    }

    fn prepare(&mut self, device: &str, tunnel: Option<&Tunnel>) -> Result<Option<(u32, Family)>, NetError> {
        let mut netlink = Netlink::open()?;
        let Some(tunnel) = tunnel else {
            netlink.delete_link(device)?;
            return Ok(None);
        };
        let found = netlink.link(device)?;
        if let Some(index) = found.as_ref().filter(|link| tunnel.is(link)).map(|link| link.index) {
            add_addresses(&mut netlink, index, tunnel)?;
            return Ok(Some((index, Family::of(tunnel.local))));
        }
        if found.is_some() {
            netlink.delete_link(device)?;
        }
        netlink.add_tunnel(device, tunnel)?;
        let index = netlink.link(device)?.ok_or_else(|| NetError::NoDevice(device.to_owned()))?.index;
        // Node ports on 127.0.0.1 may lead to endpoints on other nodes; the pod table guards the way back.
        sysctl::set(&["ipv4", "conf", device, "route_localnet"], "1")?;
        add_addresses(&mut netlink, index, tunnel)?;
        Ok(Some((index, Family::of(tunnel.local))))
    }

    fn paths(&mut self, way: &Way, cluster: &[IpNet], own: &[IpNet]) -> Result<Paths, NetError> {
        let mut netlink = Netlink::open()?;
        let mut paths = Paths::default();
        for route in netlink.routes()? {
            let within = |ranges: &[IpNet]| ranges.iter().any(|range| range.contains(&route.destination));
            let inside = within(cluster) && !within(own);
            let hop = match route.via {
                Via::Gateway(_, gateway) => Hop { gateway, device: None },
                Via::OnLink(device, gateway) => Hop { gateway, device: Some(device) },
                _ => continue,
            };
            if inside && !cluster.contains(&route.destination) {
                paths.routes.insert(route.destination, hop);
            }
        }
        if let Some((index, _)) = way.tunnel {
            paths.neighbours = netlink.neighbours(index)?.into_iter().map(|(to, mac)| (to, Mac(mac))).collect();
            paths.forwards = netlink.forwards(index)?.into_iter().map(|(mac, to)| (Mac(mac), to)).collect();
        }
        Ok(paths)
    }

    fn take(&mut self, way: &Way, sources: &[IpAddr], step: &Step) -> Result<(), NetError> {
        let mut netlink = Netlink::open()?;
        let index = way.tunnel.map_or(0, |(index, _)| index);
        let route = |to: IpNet, hop: Hop| {
            let via = match hop.device {
                Some(device) => Via::OnLink(device, hop.gateway),
                // The kernel finds the device.
                None => Via::Gateway(0, hop.gateway),
            };
            let source = sources.iter().copied().find(|source| source.is_ipv4() == to.addr().is_ipv4());
            Route { destination: to, via, source }
        };
        match *step {
            Step::RemoveRoute(to, hop) => drop(netlink.delete_route(&Route { source: None, ..route(to, hop) })?),
            Step::RemoveNeighbour(address) => drop(netlink.delete_neighbour(index, address)?),
            Step::RemoveForward(mac, to) => drop(netlink.delete_forward(index, mac.0, to)?),
            Step::SetForward(mac, to) => netlink.set_forward(index, mac.0, to)?,
            Step::SetNeighbour(address, mac) => netlink.set_neighbour(index, address, mac.0)?,
            Step::SetRoute(to, hop) => netlink.set_route(&route(to, hop))?,
        }
        Ok(())
    }
}

fn add_addresses(netlink: &mut Netlink, index: u32, tunnel: &Tunnel) -> Result<(), NetError> {
    for address in &tunnel.addresses {
        netlink.add_address(index, IpNet::from(*address))?;
    }
    Ok(())
}
