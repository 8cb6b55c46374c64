//! What the node needs before a pod can be attached: a device with the node's address in the pod network, routes, the
//! pod table, and the CNI plugin with its configuration, once the node's range of addresses is known.
//!
//! The device is a bridge without ports. It carries no pod traffic (each pod has a link and a route of its own,
//! [`crate::cni::Effects`] says why); it holds the address that DNS listens at, and the route that makes addresses of
//! Services reachable from the node whether or not the machine has a default route.

use std::net::Ipv4Addr;
use std::path::Path;

use ipnet::Ipv4Net;

use crate::cni::{self, Bookings, PluginConfig};
use crate::config::state_dir;
use crate::names::overlay_number;
use crate::netlink::{Link, Netlink, Route, Tunnel, Via};
use crate::nft::{Nft, NftError};
use crate::peers::{Kernel, Mac, Own, RealKernel, Way};
use crate::{Instance, NetConfig, NetError, NetworkMode, PodNetwork, ports, sysctl};

/// Largest packet where no default route says anything else.
const ETHERNET_MTU: u32 = 1_500;
/// The UDP port of overlays, as Linux and flannel have it.
const OVERLAY_PORT: u16 = 8472;
/// What the overlay puts around a packet: Ethernet, IPv4, UDP and its own header.
const OVERLAY_BYTES: u32 = 50;

/// The pod network of one node, as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeNetwork {
    /// Whose it is.
    pub instance: Instance,
    /// Addresses of the node's pods; the first is the node's own.
    pub pod_cidr: Ipv4Net,
    /// Addresses of all nodes' pods.
    pub cluster_cidr: Ipv4Net,
    /// Addresses of Services.
    pub service_cidr: Ipv4Net,
}

impl NodeNetwork {
    /// The network of a node with range `pod_cidr`.
    pub fn new(config: &NetConfig, pod_cidr: Ipv4Net) -> Self {
        let (cluster_cidr, service_cidr) = (config.cluster_cidr, config.service_cidr);
        Self { instance: Instance::of(&config.data_dir), pod_cidr, cluster_cidr, service_cidr }
    }

    /// The node's address in the range, the pods' gateway.
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.pod_cidr.network()).saturating_add(1))
    }

    fn routes(&self, device: u32) -> [Route; 2] {
        let source = Some(self.gateway());
        [
            // More than a courtesy: without it, packets to a pod that is gone would leave by the default route.
            Route { destination: self.pod_cidr.trunc(), via: Via::Unreachable, source: None },
            Route { destination: self.service_cidr.trunc(), via: Via::Device(device), source },
        ]
    }

    /// Brings the network up, or whatever of it is missing, and tells the container runtime. Doing it again is fine.
    ///
    /// # Errors
    /// When the kernel, nftables or the disk refuses.
    pub async fn up(&self, config: &NetConfig, nft: &dyn Nft) -> Result<(), NetError> {
        sysctl::set(&["ipv4", "ip_forward"], "1")?;
        let mtu = self.mtu(config)?;
        self.device(mtu)?;
        let uplink = (config.mode == NetworkMode::Routed).then(|| uplink(&mut Netlink::open()?, config.node_ip));
        let uplink = uplink.transpose()?.flatten().map(|link| link.name);
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
        let uplink = uplink(&mut Netlink::open()?, config.node_ip)?.map_or(ETHERNET_MTU, |link| link.mtu);
        Ok(if config.mode == NetworkMode::Vxlan { uplink.saturating_sub(OVERLAY_BYTES) } else { uplink })
    }

    /// What the way to other nodes begins with; `None` where there are no others.
    ///
    /// # Errors
    /// When the kernel does not say how large packets may be.
    pub fn own(&self, config: &NetConfig) -> Result<Option<Own>, NetError> {
        if !matches!(config.mode, NetworkMode::Vxlan | NetworkMode::Routed) {
            return Ok(None);
        }
        Ok(Some(Own {
            name: config.node_name.clone(),
            pod_cidr: self.pod_cidr,
            cluster_cidr: self.cluster_cidr,
            source: self.gateway(),
            device: self.instance.tunnel_device(),
            tunnel: self.tunnel(config)?,
        }))
    }

    fn tunnel(&self, config: &NetConfig) -> Result<Option<Tunnel>, NetError> {
        if config.mode != NetworkMode::Vxlan {
            return Ok(None);
        }
        Ok(Some(Tunnel {
            number: overlay_number(&config.cluster),
            port: OVERLAY_PORT,
            local: config.node_ip,
            mac: Mac::of(self.pod_cidr).0,
            mtu: self.mtu(config)?,
            address: self.pod_cidr.network(),
        }))
    }

    /// Sets up device, address and routes.
    fn device(&self, mtu: u32) -> Result<(), NetError> {
        let mut netlink = Netlink::open()?;
        let (name, gateway) = (self.instance.node_device(), self.gateway());
        if let Some(old) = netlink.link(&name)?
            && netlink.addresses(old.index)?.iter().any(|address| *address != gateway)
        {
            // The node got another range since (its Node object was made anew).
            netlink.delete_link(&name)?;
        }
        if netlink.link(&name)?.is_none() {
            netlink.add_bridge(&name, mtu)?;
        }
        let device = netlink.link(&name)?.ok_or(NetError::NoDevice(name))?;
        netlink.add_address(device.index, Ipv4Net::from(gateway))?;
        for route in self.routes(device.index) {
            netlink.set_route(&route)?;
        }
        Ok(())
    }

    /// Puts the pod table up with the host ports that pods have. Pods come and go meanwhile: the plugin changes records
    /// first and the table second, so whoever changed after our reading shows in a second one.
    async fn pod_table(&self, bookings: &Bookings, nft: &dyn Nft) -> Result<(), NetError> {
        let network = PodNetwork { pod_cidr: self.pod_cidr, cluster_cidr: self.cluster_cidr };
        let before = bookings.records().map_err(NetError::bookings)?;
        nft.run(ports::table_script(&self.instance, network, &before)?).await?;
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
            pod_cidr: self.pod_cidr,
            cluster_cidr: self.cluster_cidr,
            uplink,
            gateway: self.gateway(),
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
fn uplink(netlink: &mut Netlink, node: Ipv4Addr) -> Result<Option<Link>, NetError> {
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
        let own = installed.pod_cidr.trunc();
        netlink.delete_route(&Route { destination: own, via: Via::Unreachable, source: None })?;
        for (destination, hop) in RealKernel.paths(Way::Plain, installed.cluster_cidr, own)?.routes {
            netlink.delete_route(&Route { destination, via: Via::Gateway(0, hop.gateway), source: None })?;
        }
        if let Some(uplink) = &installed.uplink {
            // The device may be gone, and the guard goes with its table.
            let _ = sysctl::set(&["ipv4", "conf", uplink, "route_localnet"], "0");
        }
        cni::uninstall(cni_bin_dir, cni_conf_dir)?;
    }
    for table in [instance.service_table(), instance.policy_table(), instance.pod_table()] {
        crate::nft::run_blocking(&format!("add table ip {table}\ndelete table ip {table}\n"))?;
    }
    match std::fs::remove_dir_all(state_dir(data_dir)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(NetError::bookings(error)),
        _ => Ok(()),
    }
}
