//! What others take away from the node's network is put back: devices and routes at once, since the kernel tells of them,
//! tables after some seconds, since it tells of them only together with each of their elements.
//!
//! A service that starts a firewall empties all of nftables; an administrator deletes a bridge he does not know.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::LinkAttribute;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket, AsyncSocketExt, TokioSocket};
use skiff_meta::WorldRef;
use tokio::sync::watch;

use crate::news::News;
use crate::nft::Tables;
use crate::{Family, Instance};

/// How often tables are looked for.
const LOOK: Duration = Duration::from_secs(10);
/// How long to wait before listening to the kernel is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// Groups of messages: links, routes and addresses of both families (`linux/rtnetlink.h`).
const GROUPS: [u32; 5] = [1, 5, 7, 9, 11];

/// What is gone.
enum Loss {
    /// A device, or an address of one.
    Device(String),
    /// The route to a range.
    Route(IpNet),
}

/// Hears of losses; each part of the network has one.
pub type Losses = watch::Receiver<()>;

/// Nothing is ever lost.
#[cfg(test)]
pub(crate) fn none() -> Losses {
    watch::channel(()).1
}

/// Waits for the next loss; for ever when nobody watches.
pub(crate) async fn lost(losses: &mut Losses) {
    if losses.changed().await.is_err() {
        std::future::pending().await
    }
}

/// Watches over what is ours.
pub(crate) struct Guard {
    devices: Vec<String>,
    ranges: Vec<IpNet>,
    /// Families that have tables.
    families: Vec<Family>,
    /// Devices, addresses and routes.
    base: watch::Sender<()>,
    /// Tables, and who puts each of them up.
    tables: Vec<(String, watch::Sender<()>)>,
    news: News,
}

impl Guard {
    /// Over devices and routes of `instance`; `ranges`: destinations whose routes are ours, or lie within.
    pub(crate) fn new(instance: &Instance, ranges: Vec<IpNet>, families: Vec<Family>, news: News) -> Self {
        let devices = vec![instance.node_device(), instance.tunnel_device()];
        Self { devices, ranges, families, base: watch::Sender::new(()), tables: Vec::new(), news }
    }

    /// Whoever sets devices and routes up.
    pub(crate) fn base(&self) -> Losses {
        self.base.subscribe()
    }

    /// Whoever puts up the tables of this name.
    pub(crate) fn tables(&mut self, name: String) -> Losses {
        let (sender, receiver) = watch::channel(());
        self.tables.push((name, sender));
        receiver
    }

    /// Watches for ever.
    pub(crate) async fn run(self, world: WorldRef) {
        futures::join!(self.listen(&world), self.look(&world));
    }

    /// Looks for tables now and then.
    async fn look(&self, world: &WorldRef) {
        let mut tables = Tables::default();
        loop {
            world.sleep(LOOK).await;
            for (name, lost) in &self.tables {
                // What cannot be asked for is not known to be lost.
                let gone = |family: &&Family| matches!(tables.is_there(**family, name), Ok(false));
                if let Some(family) = self.families.iter().find(gone) {
                    self.news.repaired(&format!("table {name} of nftables ({family})"));
                    lost.send_replace(());
                }
            }
        }
    }

    /// Listens to the kernel.
    async fn listen(&self, world: &WorldRef) {
        loop {
            if let Err(error) = self.hear().await {
                // Some messages may be missing.
                tracing::debug!("listening to the kernel: {error}");
                self.base.send_replace(());
            }
            world.sleep(RETRY).await;
        }
    }

    async fn hear(&self) -> io::Result<()> {
        let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
        socket.socket_mut().bind_auto()?;
        for group in GROUPS {
            socket.socket_mut().add_membership(group)?;
        }
        loop {
            let (heard, _) = socket.recv_from_full().await?;
            if let Some(what) = messages(&heard).find_map(|message| self.loss(message)) {
                match what {
                    Loss::Device(name) => self.news.repaired(&name),
                    // Routes to nodes that left go as well; whoever is asked to put something back knows.
                    Loss::Route(destination) => tracing::info!(%destination, "a route is gone"),
                }
                self.base.send_replace(());
            }
        }
    }

    /// What of ours a message says is gone.
    fn loss(&self, message: RouteNetlinkMessage) -> Option<Loss> {
        match message {
            RouteNetlinkMessage::DelLink(link) => link.attributes.into_iter().find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => {
                    self.devices.contains(&name).then(|| Loss::Device(format!("device {name}")))
                }
                _ => None,
            }),
            RouteNetlinkMessage::DelRoute(route) => {
                let destination = destination(&route)?;
                // Pods' own routes come and go with their devices.
                let whole = destination.prefix_len() < destination.max_prefix_len();
                let ours = self.ranges.iter().any(|range| range.contains(&destination));
                (whole && ours).then_some(Loss::Route(destination))
            }
            RouteNetlinkMessage::DelAddress(address) => {
                let name = nix::net::if_::if_indextoname(address.header.index).ok()?;
                let name = name.to_str().ok()?.to_owned();
                self.devices.contains(&name).then(|| Loss::Device(format!("an address of device {name}")))
            }
            _ => None,
        }
    }
}

fn destination(route: &RouteMessage) -> Option<IpNet> {
    let address = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(v4)) => Some(IpAddr::V4(*v4)),
        RouteAttribute::Destination(RouteAddress::Inet6(v6)) => Some(IpAddr::V6(*v6)),
        _ => None,
    })?;
    IpNet::new(address, route.header.destination_prefix_length).ok()
}

/// The messages of a datagram; what cannot be read is left out.
fn messages(datagram: &[u8]) -> impl Iterator<Item = RouteNetlinkMessage> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        while !rest.is_empty() {
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest);
            let length = rest.get(..4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_ne_bytes);
            rest = rest.get((length.max(16) as usize).next_multiple_of(4)..).unwrap_or_default();
            if let Ok(NetlinkMessage { payload: NetlinkPayload::InnerMessage(message), .. }) = message {
                return Some(message);
            }
        }
        None
    })
}
