//! Cluster DNS: names of Services and pods from the API, all others from the machine's resolvers.
//!
//! It runs on every node, in the agent's process, at the node's address in the pod network; the `kube-dns` Service leads
//! there ([`objects`] says how). So a question never leaves the node, and no pod need run for names to work. What is
//! answered is a function of the [`Zone`], an index that each event changes in place; sockets and the network beyond the
//! cluster are kept apart from it.

mod cache;
mod corefile;
mod lookup;
mod metrics;
mod objects;
mod respond;
mod server;
mod settings;
mod upstream;
mod zone;

#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use k8s_openapi::api::core::v1::ConfigMap;
use parking_lot::RwLock;
use skiff_client::{Client, Event};
use skiff_meta::WorldRef;
use tokio::net::TcpListener;

pub use lookup::{Answer, Lookup};
pub use zone::Zone;

use crate::{NetError, http, watch};
use metrics::Metrics;
use respond::Responder;
use server::Sockets;
use settings::Settings;
use upstream::Upstream;

/// The usual port.
const PORT: u16 = 53;
/// Where CoreDNS tells its figures.
const METRICS_PORT: u16 = 9153;
/// What administrators say.
const SETTINGS: (&str, &str) = ("kube-system", "kube-dns");
/// How long to wait before publishing is tried again, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// What DNS needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsConfig {
    /// Where to listen: port 53 if it is free there, else any.
    pub listen: IpAddr,
    /// The address of the `kube-dns` Service.
    pub cluster_dns: IpAddr,
    /// `cluster.local`.
    pub cluster_domain: String,
    /// This node.
    pub node_name: String,
    /// UID of its Node object; empty: unknown, and the endpoint outlives the node.
    pub node_uid: String,
    /// The machine's `resolv.conf`.
    pub resolv_conf: PathBuf,
}

/// Answers for ever, from the moment everything has been listed once (before, it could only lie).
///
/// # Errors
/// When no port can be had.
pub async fn run(config: DnsConfig, client: Client, world: WorldRef) -> Result<(), NetError> {
    let sockets = bind(config.listen).await?;
    let at = sockets.address().map_err(|source| NetError::Listen { address: (config.listen, PORT).into(), source })?;
    let zone = Zone::new(&config.cluster_domain, config.cluster_dns);
    let ourselves = vec![at.ip(), config.cluster_dns];
    let upstream = Upstream::new(config.resolv_conf.clone(), ourselves, world.clone());
    let (zone, upstream) = (Arc::new(RwLock::new(zone)), Arc::new(upstream));
    let mut sources = Sources::new(&client);
    let mut known = [false; 3];
    while known.contains(&false) {
        match sources.next(&zone).await {
            Some(index) => known[index] = true,
            None => return Ok(()),
        }
    }
    let metrics = Arc::new(Metrics::default());
    let responder =
        Responder { zone: zone.clone(), upstream: upstream.clone(), metrics: metrics.clone(), world: world.clone() };
    let follow = async { while sources.next(&zone).await.is_some() {} };
    let settings = follow_settings(watch::config_map(&client, SETTINGS.0, SETTINGS.1), &upstream);
    let figures = tell_figures(config.listen, metrics, &world);
    futures::join!(follow, settings, figures, sockets.serve(responder), publish(&config, &client, &world, at));
    Ok(())
}

/// Follows the ConfigMap of settings.
async fn follow_settings(mut events: BoxStream<'static, Event>, upstream: &Upstream) {
    while let Some(event) = events.next().await {
        let map = match event {
            Event::Replace(maps) => maps.into_iter().next(),
            Event::Apply(map) => Some(map),
            Event::Delete(_) => None,
        };
        let read = map.map_or(Ok(Settings::default()), |map| {
            map.typed::<ConfigMap>()
                .map_or_else(|error| Err(error.to_string()), |map| Settings::read(&map).map_err(|e| e.to_string()))
        });
        match read {
            Ok(settings) => upstream.set(settings),
            Err(error) => tracing::warn!("ConfigMap {}/{} is left as it was: {error}", SETTINGS.0, SETTINGS.1),
        }
    }
}

/// Tells figures where it may; names resolve without them.
async fn tell_figures(listen: IpAddr, metrics: Arc<Metrics>, world: &WorldRef) {
    let listener = match TcpListener::bind((listen, METRICS_PORT)).await {
        Ok(listener) => listener,
        Err(error) => {
            return tracing::info!(%listen, "port {METRICS_PORT} is not to be had, no figures of DNS: {error}");
        }
    };
    let page = move |path: &str| match path {
        "/metrics" => http::answer("200 OK", "text/plain; version=0.0.4", "", &metrics.page()),
        _ => http::answer("404 Not Found", "text/plain", "", "see /metrics\n"),
    };
    http::serve(listener, world.clone(), page).await;
}

async fn bind(listen: IpAddr) -> Result<Sockets, NetError> {
    match Sockets::bind((listen, PORT).into()).await {
        Ok(sockets) => return Ok(sockets),
        Err(error) => tracing::info!(%listen, "port {PORT} is not to be had, taking another: {error}"),
    }
    let address = SocketAddr::from((listen, 0));
    Sockets::bind(address).await.map_err(|source| NetError::Listen { address, source })
}

/// Publishes the Service and this node's endpoint, trying until it is done (at the start, the namespace may be missing).
async fn publish(config: &DnsConfig, client: &Client, world: &WorldRef, at: SocketAddr) {
    let mut wait = RETRY.0;
    while let Err(error) = objects::publish(client, config.cluster_dns, &config.node_name, &config.node_uid, at).await {
        tracing::warn!("the kube-dns Service is not published yet: {error}");
        world.sleep(wait).await;
        wait = (wait * 2).min(RETRY.1);
    }
}

/// What the zone is made of.
struct Sources {
    namespaces: BoxStream<'static, Event>,
    services: BoxStream<'static, Event>,
    slices: BoxStream<'static, Event>,
}

impl Sources {
    fn new(client: &Client) -> Self {
        let (namespaces, services) = (watch::namespaces(client), watch::services(client));
        Self { namespaces, services, slices: watch::endpoint_slices(client) }
    }

    /// Puts the next event into the zone and says which source it came from; `None` when one has ended.
    async fn next(&mut self, zone: &RwLock<Zone>) -> Option<usize> {
        tokio::select! {
            event = self.namespaces.next() => event.map(|event| { zone.write().namespace_event(event); 0 }),
            event = self.services.next() => event.map(|event| { zone.write().service_event(event); 1 }),
            event = self.slices.next() => event.map(|event| { zone.write().slice_event(event); 2 }),
        }
    }
}
