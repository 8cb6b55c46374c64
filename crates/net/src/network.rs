//! What the node needs before a pod can be attached: a device with the node's address in the pod network, routes, the
//! pod table, and the CNI plugin with its configuration, once the node's range of addresses is known.
//!
//! The device is a bridge without ports. It carries no pod traffic (each pod has a link and a route of its own,
//! [`crate::cni::Effects`] says why); it holds the address that DNS listens at, and the route that makes addresses of
//! Services reachable from the node whether or not the machine has a default route.

use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;

use crate::cni::{self, Bookings, PluginConfig};
use crate::config::state_dir;
use crate::family::{after, of_family};
use crate::names::overlay_number;
use crate::netlink::{Link, Netlink, NetlinkError, Route, Tunnel, Via};
use crate::nft::{Nft, NftError};
use crate::peers::{Kernel, Mac, Own, RealKernel, Way};
use crate::{Family, Instance, NetConfig, NetError, NetworkMode, PodNetwork, ports, proxy, sysctl, wireguard};

/// Largest packet where no default route says anything else.
const ETHERNET_MTU: u32 = 1_500;
/// The UDP port of overlays, as Linux and flannel have it.
const OVERLAY_PORT: u16 = 8472;

/// The largest packet on the wire between nodes.
fn wire_mtu(config: &NetConfig) -> Result<u32, NetError> {
    Ok(uplink(&mut Netlink::open()?, config.node_ip())?.map_or(ETHERNET_MTU, |link| link.mtu))
}

/// What the overlay puts around a packet: Ethernet, IP, UDP and its own header.
fn overlay_bytes(local: IpAddr) -> u32 {
    if local.is_ipv4() { 50 } else { 70 }
}

/// The pod network of one node, as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeNetwork {
    /// Whose it is.
    pub instance: Instance,
    /// Addresses of the node's pods, a range of each family; the first of a range is the node's own.
    pub pod_cidrs: Vec<IpNet>,
    /// Addresses of all nodes' pods.
    pub cluster_cidrs: Vec<IpNet>,
    /// Addresses of Services.
    pub service_cidrs: Vec<IpNet>,
}

impl NodeNetwork {
    /// The network of a node with these ranges.
    pub fn new(config: &NetConfig, pod_cidrs: Vec<IpNet>) -> Self {
        let (cluster_cidrs, service_cidrs) = (config.cluster_cidrs.clone(), config.service_cidrs.clone());
        Self { instance: Instance::of(&config.data_dir), pod_cidrs, cluster_cidrs, service_cidrs }
    }

    /// The node's addresses in the ranges, the pods' gateways.
    pub fn gateways(&self) -> Vec<IpAddr> {
        self.pod_cidrs.iter().map(|range| after(range.network(), 1)).collect()
    }

    fn routes(&self, device: u32) -> Vec<Route> {
        // More than a courtesy: without it, packets to a pod that is gone would leave by the default route.
        let pods = self.pod_cidrs.iter().map(|range| (range.trunc(), Via::Unreachable, None));
        let own = |range: &IpNet| self.gateways().into_iter().find(|own| own.is_ipv4() == range.addr().is_ipv4());
        let services = self.service_cidrs.iter().map(|range| (range.trunc(), Via::Device(device), own(range)));
        pods.chain(services).map(|(destination, via, source)| Route { destination, via, source }).collect()
    }

    /// Brings the network up, or whatever of it is missing, and tells the container runtime. Doing it again is fine.
    ///
    /// # Errors
    /// When the kernel, nftables or the disk refuses.
    pub async fn up(&self, config: &NetConfig, nft: &dyn Nft) -> Result<(), NetError> {
        let way_out = uplink(&mut Netlink::open()?, config.node_ip())?.map(|link| link.name);
        for range in &self.pod_cidrs {
            sysctl::forward(Family::of_range(*range), way_out.as_deref())?;
        }
        let mtu = self.mtu(config)?;
        self.device(mtu)?;
        let uplink = way_out.filter(|_| config.mode == NetworkMode::Routed);
        if let Some(uplink) = &uplink {
            // Node ports on 127.0.0.1 may lead to endpoints on other nodes; the pod table guards the way back.
            sysctl::set(&["ipv4", "conf", uplink, "route_localnet"], "1")?;
        }
        let state_dir = state_dir(&config.data_dir);
        Bookings::forget_earlier_boots(&state_dir).map_err(NetError::bookings)?;
        self.pod_table(&Bookings::open(&state_dir).map_err(NetError::bookings)?, nft).await?;
        cni::install(&config.cni_bin_dir, &config.cni_conf_dir, &self.plugin_config(&state_dir, mtu, uplink))?;
        Ok(())
    }

    /// The largest packet of pods.
    fn mtu(&self, config: &NetConfig) -> Result<u32, NetError> {
        let around = match config.mode {
            NetworkMode::Vxlan => overlay_bytes(config.node_ip()),
            // IP, UDP, and what encryption adds: 32 bytes.
            NetworkMode::Wireguard => overlay_bytes(config.node_ip()) + 10,
            NetworkMode::Routed | NetworkMode::Bridge | NetworkMode::None => 0,
        };
        Ok(wire_mtu(config)?.saturating_sub(around))
    }

    /// What the way to other nodes begins with; `None` where there are no others.
    ///
    /// # Errors
    /// When the kernel does not say how large packets may be.
    pub fn own(&self, config: &NetConfig) -> Result<Option<Own>, NetError> {
        let across = matches!(config.mode, NetworkMode::Vxlan | NetworkMode::Routed);
        let Some(first) = self.pod_cidrs.first().filter(|_| across) else { return Ok(None) };
        Ok(Some(Own {
            name: config.node_name.clone(),
            pod_cidrs: self.pod_cidrs.clone(),
            cluster_cidrs: self.cluster_cidrs.clone(),
            sources: self.gateways(),
            device: self.instance.tunnel_device(),
            tunnel: self.tunnel(config, *first)?,
            direct: config.mode == NetworkMode::Routed,
        }))
    }

    /// The same through WireGuard.
    ///
    /// # Errors
    /// As [`NodeNetwork::own`].
    pub fn encrypted(&self, config: &NetConfig) -> Result<Option<wireguard::Own>, NetError> {
        if config.mode != NetworkMode::Wireguard {
            return Ok(None);
        }
        Ok(Some(wireguard::Own {
            name: config.node_name.clone(),
            outside: Family::of(config.node_ip()),
            cluster_cidrs: self.cluster_cidrs.clone(),
            sources: self.gateways(),
            device: self.instance.tunnel_device(),
            mtu: self.mtu(config)?,
            key_file: state_dir(&config.data_dir).join("wireguard.key"),
        }))
    }

    fn tunnel(&self, config: &NetConfig, first: IpNet) -> Result<Tunnel, NetError> {
        Ok(Tunnel {
            number: overlay_number(&config.cluster),
            port: OVERLAY_PORT,
            local: config.node_ip(),
            mac: Mac::of(first).0,
            mtu: wire_mtu(config)?.saturating_sub(overlay_bytes(config.node_ip())),
            addresses: self.pod_cidrs.iter().map(IpNet::network).collect(),
        })
    }

    /// Sets up device, address and routes.
    fn device(&self, mtu: u32) -> Result<(), NetError> {
        let mut netlink = Netlink::open()?;
        let (name, gateways) = (self.instance.node_device(), self.gateways());
        if let Some(old) = netlink.link(&name)?
            && netlink.addresses(old.index)?.iter().any(|address| !gateways.contains(address))
        {
            // The node got another range since (its Node object was made anew).
            netlink.delete_link(&name)?;
        }
        if netlink.link(&name)?.is_none() {
            netlink.add_bridge(&name, mtu)?;
        }
        let device = netlink.link(&name)?.ok_or(NetError::NoDevice(name))?;
        for gateway in gateways {
            netlink.add_address(device.index, IpNet::from(gateway))?;
        }
        for route in self.routes(device.index) {
            netlink.set_route(&route)?;
        }
        Ok(())
    }

    /// Puts the pod tables up with the host ports that pods have. Pods come and go meanwhile: the plugin changes records
    /// first and the table second, so whoever changed after our reading shows in a second one.
    async fn pod_table(&self, bookings: &Bookings, nft: &dyn Nft) -> Result<(), NetError> {
        let before = bookings.records().map_err(NetError::bookings)?;
        for pod_cidr in &self.pod_cidrs {
            let cluster_cidr = of_family(&self.cluster_cidrs, Family::of_range(*pod_cidr)).unwrap_or(*pod_cidr);
            let network = PodNetwork { pod_cidr: *pod_cidr, cluster_cidr };
            nft.run(ports::table_script(&self.instance, network, &before)?).await?;
        }
        let after = bookings.records().map_err(NetError::bookings)?;
        for record in after.iter().filter(|record| !record.ports.is_empty() && !before.contains(record)) {
            nft.run(ports::add_script(&self.instance, record)?).await?;
        }
        for record in before.iter().filter(|record| !after.contains(record)) {
            for script in ports::remove_scripts(&self.instance, record) {
                ignore_refusal(nft.run(script).await)?;
            }
        }
        Ok(())
    }

    fn plugin_config(&self, state_dir: &Path, mtu: u32, uplink: Option<String>) -> PluginConfig {
        PluginConfig {
            cni_version: String::new(),
            name: "skiff".to_owned(),
            plugin: String::new(),
            instance: self.instance.id().to_owned(),
            state_dir: state_dir.to_owned(),
            pod_cidrs: self.pod_cidrs.clone(),
            cluster_cidrs: self.cluster_cidrs.clone(),
            uplink,
            gateways: self.gateways(),
            mtu,
            capabilities: serde_json::Value::Null,
            runtime_config: cni::RuntimeConfig::default(),
            prev_result: None,
            valid_attachments: None,
        }
    }
}

fn ignore_refusal(result: Result<(), NftError>) -> Result<(), NftError> {
    match result {
        Err(NftError::Refused(_)) => Ok(()),
        other => other,
    }
}

/// The device that has the node's address; failing that, the one that leads out of the machine.
pub(crate) fn uplink(netlink: &mut Netlink, node: IpAddr) -> Result<Option<Link>, NetlinkError> {
    let links = netlink.links()?;
    if !node.is_loopback() {
        for link in &links {
            if netlink.addresses(link.index)?.contains(&node) {
                return Ok(Some(link.clone()));
            }
        }
    }
    let default = netlink.routes()?.into_iter().find(|route| route.destination.prefix_len() == 0);
    let Some(Route { via: Via::Device(index) | Via::Gateway(index, _), .. }) = default else { return Ok(None) };
    Ok(links.into_iter().find(|link| link.index == index))
}

/// Removes every device, route, table and file of the server with `data_dir`, and its plugin from the runtime's
/// directories (a user's own plugins there are left alone). Addresses booked for pods go with their devices.
///
/// # Errors
/// When the kernel or the disk refuses; what is not there is fine.
pub fn cleanup(data_dir: &Path, cni_bin_dir: &Path, cni_conf_dir: &Path) -> Result<(), NetError> {
    let instance = Instance::of(data_dir);
    let mut netlink = Netlink::open()?;
    for link in netlink.links()?.into_iter().filter(|link| link.name.starts_with(&instance.device_prefix())) {
        netlink.delete_link(&link.name)?;
    }
    if let Some(installed) = cni::installed(cni_conf_dir).filter(|found| found.instance == instance.id()) {
        let own: Vec<IpNet> = installed.pod_cidrs.iter().map(IpNet::trunc).collect();
        for destination in &own {
            netlink.delete_route(&Route { destination: *destination, via: Via::Unreachable, source: None })?;
        }
        for (destination, hop) in RealKernel.paths(&Way::default(), &installed.cluster_cidrs, &own)?.routes {
            netlink.delete_route(&Route { destination, via: Via::Gateway(0, hop.gateway), source: None })?;
        }
        if let Some(uplink) = &installed.uplink {
            // The device may be gone, and the guard goes with its table.
            let _ = sysctl::set(&["ipv4", "conf", uplink, "route_localnet"], "0");
        }
        cni::uninstall(cni_bin_dir, cni_conf_dir)?;
    }
    proxy::withdraw(&state_dir(data_dir))?;
    for family in Family::ALL {
        for table in [instance.service_table(), instance.policy_table(), instance.pod_table()] {
            crate::nft::run_blocking(&crate::nft::removal(family, &table))?;
        }
    }
    match std::fs::remove_dir_all(state_dir(data_dir)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(NetError::bookings(error)),
        _ => Ok(()),
    }
}
