//! What the plugin does to the machine, behind one trait.
//!
//! A pod hangs on a link of its own and has its addresses alone (`/32`, `/128`): it reaches everything, its neighbours included,
//! through the host's routing. So every packet passes the host's IP hooks whether or not the kernel filters bridged
//! traffic, replies of Services come back through connection tracking by themselves, a pod reaches itself through its
//! Service without hairpin mode, and neighbours cannot spoof one another (reverse path filter). The price of a bridge
//! (learning, flooding, 1,023 ports) is not paid.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use super::protocol::PluginError;
use crate::Family;
use crate::netlink::{self, Link, Namespace, Netlink, Route, Shape, Via};
use crate::nft;
use crate::sysctl;

/// One pod interface as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodLink {
    /// The pod's network namespace.
    pub namespace: PathBuf,
    /// The device in the pod.
    pub interface: String,
    /// The device on the host.
    pub host_device: String,
    /// The pod's addresses, one of each family.
    pub addresses: Vec<IpAddr>,
    /// The host's addresses, as the pod sees it: one for each of the pod's.
    pub gateways: Vec<IpAddr>,
    /// The largest packet, in bytes.
    pub mtu: u32,
    /// How fast the host's device and the pod's may send.
    pub shapes: [Option<Shape>; 2],
}

impl PodLink {
    /// Each address with its gateway.
    fn pairs(&self) -> impl Iterator<Item = (IpAddr, IpAddr)> {
        self.addresses.iter().copied().zip(self.gateways.iter().copied())
    }
}

/// Both ends of a link that was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ends {
    /// The host's device.
    pub host: Link,
    /// The pod's device.
    pub pod: Link,
}

/// What the plugin does to the machine.
pub trait Effects {
    /// Makes the link, replacing what a killed plugin left behind.
    ///
    /// # Errors
    /// When the namespace is gone or the kernel refuses.
    fn attach(&mut self, link: &PodLink) -> Result<Ends, PluginError>;
    /// Removes the host's device, and with it the pod's and all routes.
    ///
    /// # Errors
    /// When the kernel refuses; a missing device is fine.
    fn detach(&mut self, host_device: &str) -> Result<(), PluginError>;
    /// Whether the link is as it should be.
    ///
    /// # Errors
    /// [`PluginError::Check`] says what is not.
    fn check(&mut self, link: &PodLink) -> Result<(), PluginError>;
    /// Names of the host's devices that begin with `prefix`.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn devices(&mut self, prefix: &str) -> Result<Vec<String>, PluginError>;
    /// Runs an nftables script, all of it or nothing.
    ///
    /// # Errors
    /// When nftables refuses.
    fn nft(&mut self, script: &str) -> Result<(), PluginError>;
}

/// The kernel.
pub struct Kernel {
    host: Netlink,
}

impl Kernel {
    /// Works on the calling thread's network namespace as the host.
    ///
    /// # Errors
    /// When there is no netlink.
    pub fn open() -> Result<Self, PluginError> {
        Ok(Self { host: Netlink::open()? })
    }

    fn host_end(&mut self, link: &PodLink) -> Result<Link, PluginError> {
        let device = self.required(&link.host_device)?;
        for (address, gateway) in link.pairs() {
            self.host.add_address(device.index, IpNet::from(gateway))?;
            let source = Some(gateway);
            let route = Route { destination: IpNet::from(address), via: Via::Device(device.index), source };
            self.host.set_route(&route)?;
        }
        let conf = |key| ["ipv4", "conf", &link.host_device, key];
        sysctl::set(&conf("rp_filter"), "1")?;
        // Lets node ports answer on 127.0.0.1; the pod table drops what pods themselves send there.
        sysctl::set(&conf("route_localnet"), "1")?;
        Ok(device)
    }

    fn required(&mut self, name: &str) -> Result<Link, PluginError> {
        self.host.link(name)?.ok_or_else(|| PluginError::Check(format!("device {name} is missing")))
    }
}

impl Effects for Kernel {
    fn attach(&mut self, link: &PodLink) -> Result<Ends, PluginError> {
        let namespace = open_namespace(&link.namespace)?;
        self.host.delete_link(&link.host_device)?;
        self.host.add_veth(&link.host_device, &link.interface, namespace.as_fd(), link.mtu)?;
        let host = self.host_end(link)?;
        if link.addresses.iter().any(IpAddr::is_ipv6) {
            // Some runtimes begin with it switched off.
            let on = || sysctl::set(&["ipv6", "conf", "all", "disable_ipv6"], "0");
            netlink::inside(&namespace, on).map_err(PluginError::io("enter a network namespace"))??;
        }
        let pod = in_pod(&namespace, &link.namespace, |pod| pod_end(pod, link))?;
        if let Some(shape) = link.shapes[0] {
            self.host.shape(host.index, shape)?;
        }
        if let Ok(mac) = <[u8; 6]>::try_from(&*pod.mac) {
            // The kernel asks for neighbours only once it has made sure of its own address on the link, a second or two
            // after the link came up.
            for address in link.addresses.iter().filter(|address| address.is_ipv6()) {
                self.host.set_neighbour(host.index, *address, mac)?;
            }
        }
        Ok(Ends { host, pod })
    }

    fn detach(&mut self, host_device: &str) -> Result<(), PluginError> {
        self.host.delete_link(host_device)?;
        Ok(())
    }

    fn check(&mut self, link: &PodLink) -> Result<(), PluginError> {
        let device = self.required(&link.host_device)?;
        let routes = self.host.routes()?;
        for address in &link.addresses {
            let wanted = IpNet::from(*address);
            let leads = |route: &Route| route.destination == wanted && route.via == Via::Device(device.index);
            if !device.up || !routes.iter().any(leads) {
                return Err(PluginError::Check(format!("{} has no route to {address}", link.host_device)));
            }
        }
        let namespace = open_namespace(&link.namespace)?;
        in_pod(&namespace, &link.namespace, |pod| check_pod_end(pod, link))
    }

    fn devices(&mut self, prefix: &str) -> Result<Vec<String>, PluginError> {
        let links = self.host.links()?;
        Ok(links.into_iter().map(|link| link.name).filter(|name| name.starts_with(prefix)).collect())
    }

    fn nft(&mut self, script: &str) -> Result<(), PluginError> {
        Ok(nft::run_blocking(script)?)
    }
}

fn open_namespace(path: &Path) -> Result<Namespace, PluginError> {
    Namespace::open(path).map_err(PluginError::io(format!("open network namespace {}", path.display())))
}

fn in_pod<T>(
    namespace: &Namespace,
    path: &Path,
    work: impl FnOnce(&mut Netlink) -> Result<T, PluginError>,
) -> Result<T, PluginError> {
    let socket = netlink::inside(namespace, Netlink::open);
    let mut socket = socket.map_err(PluginError::io(format!("enter network namespace {}", path.display())))??;
    work(&mut socket)
}

/// Brings up `lo` in a network namespace.
pub(super) fn loopback_up(path: &Path) -> Result<(), PluginError> {
    let namespace = open_namespace(path)?;
    in_pod(&namespace, path, |pod| {
        let missing = || PluginError::Check("device lo is missing in the pod".to_owned());
        let device = pod.link("lo")?.ok_or_else(missing)?;
        Ok(pod.set_up(device.index)?)
    })
}

fn pod_end(pod: &mut Netlink, link: &PodLink) -> Result<Link, PluginError> {
    let missing = |name: &str| PluginError::Check(format!("device {name} is missing in the pod"));
    let loopback = pod.link("lo")?.ok_or_else(|| missing("lo"))?;
    pod.set_up(loopback.index)?;
    let device = pod.link(&link.interface)?.ok_or_else(|| missing(&link.interface))?;
    pod.set_up(device.index)?;
    for (address, gateway) in link.pairs() {
        pod.add_address(device.index, IpNet::from(address))?;
        let (destination, via) = (IpNet::from(gateway), Via::Device(device.index));
        pod.set_route(&Route { destination, via, source: Some(address) })?;
        pod.set_route(&default_route(device.index, gateway))?;
    }
    if let Some(shape) = link.shapes[1] {
        pod.shape(device.index, shape)?;
    }
    Ok(device)
}

fn default_route(device: u32, gateway: IpAddr) -> Route {
    Route { destination: Family::of(gateway).everything(), via: Via::Gateway(device, gateway), source: None }
}

fn check_pod_end(pod: &mut Netlink, link: &PodLink) -> Result<(), PluginError> {
    let wrong = |what: String| Err(PluginError::Check(what));
    let Some(device) = pod.link(&link.interface)? else {
        return wrong(format!("device {} is missing in the pod", link.interface));
    };
    if !device.up {
        return wrong(format!("device {} is down in the pod", link.interface));
    }
    let (addresses, routes) = (pod.addresses(device.index)?, pod.routes()?);
    for (address, gateway) in link.pairs() {
        if !addresses.contains(&address) {
            return wrong(format!("the pod has lost its address {address}"));
        }
        if !routes.contains(&default_route(device.index, gateway)) {
            return wrong("the pod has lost its default route".to_owned());
        }
    }
    Ok(())
}
