//! Health checks of load balancers: a Service with external policy Local has a port on every node that says how many of
//! its endpoints are there, so that a balancer outside sends connections only where one is.

use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use parking_lot::Mutex;
use serde_json::json;
use skiff_meta::WorldRef;
use skiff_meta::world::AbortOnDrop;
use tokio::net::TcpListener;

use super::plan::NodeFacts;
use crate::http;

/// How long to wait before trying again where a port is taken.
const RETRY: Duration = Duration::from_secs(5);

/// What one port says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// The Service's namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// How many of its ready endpoints are on this node.
    pub local: usize,
}

impl HealthCheck {
    /// The port and what it says; `None` for Services without one.
    pub(super) fn of(service: &Service, slices: &[&EndpointSlice], node: &NodeFacts) -> Option<(u16, Self)> {
        let spec = service.spec.as_ref().filter(|spec| {
            spec.type_.as_deref() == Some("LoadBalancer") && spec.external_traffic_policy.as_deref() == Some("Local")
        })?;
        // Where a Service has both families, its first one tells.
        let family = spec.ip_families.iter().flatten().next();
        if family.is_some_and(|family| *family != node.family.to_string()) {
            return None;
        }
        let port = spec.health_check_node_port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0)?;
        let mine = slices.iter().filter(|slice| slice.address_type == node.family.to_string());
        let endpoints = mine.flat_map(|slice| slice.endpoints.iter().flatten());
        let here = endpoints.filter(|endpoint| {
            let ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) != Some(false);
            ready && endpoint.node_name.as_deref() == Some(&*node.name)
        });
        let addresses: std::collections::BTreeSet<_> = here.filter_map(|endpoint| endpoint.addresses.first()).collect();
        let (namespace, name) = (service.metadata.namespace.clone()?, service.metadata.name.clone()?);
        Some((port, Self { namespace, name, local: addresses.len() }))
    }

    /// The whole answer.
    fn answer(&self) -> String {
        let status = if self.local > 0 { "200 OK" } else { "503 Service Unavailable" };
        let body = json!({
            "service": {"namespace": self.namespace, "name": self.name},
            "localEndpoints": self.local,
            "serviceProxyHealthy": true,
        })
        .to_string();
        let weight = self.local;
        let headers = format!("X-Content-Type-Options: nosniff\r\nX-Load-Balancing-Endpoint-Weight: {weight}\r\n");
        http::answer(status, "application/json", &headers, &body)
    }
}

/// Who serves the ports.
pub trait HealthPorts: Send + Sync + 'static {
    /// From now on, these ports say this, and no others anything.
    fn set(&self, checks: BTreeMap<u16, HealthCheck>);
}

/// Listeners on this machine.
pub struct Listeners {
    world: WorldRef,
    known: Arc<Mutex<BTreeMap<u16, HealthCheck>>>,
    tasks: Mutex<HashMap<u16, AbortOnDrop>>,
}

impl Listeners {
    /// None yet.
    pub fn new(world: WorldRef) -> Self {
        Self { world, known: Arc::default(), tasks: Mutex::default() }
    }
}

impl HealthPorts for Listeners {
    fn set(&self, checks: BTreeMap<u16, HealthCheck>) {
        let mut tasks = self.tasks.lock();
        tasks.retain(|port, _| checks.contains_key(port));
        for port in checks.keys().filter(|port| !tasks.contains_key(*port)).copied().collect::<Vec<_>>() {
            let work = serve(port, self.known.clone(), self.world.clone());
            tasks.insert(port, AbortOnDrop(self.world.spawn("health check port", work.boxed())));
        }
        *self.known.lock() = checks;
    }
}

/// Listens at all addresses, of both families where the machine has both.
async fn listen(port: u16) -> std::io::Result<TcpListener> {
    match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
        Ok(listener) => Ok(listener),
        Err(_) => TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await,
    }
}

/// Answers at one port, for ever; tries again where it is taken.
async fn serve(port: u16, known: Arc<Mutex<BTreeMap<u16, HealthCheck>>>, world: WorldRef) {
    loop {
        match listen(port).await {
            Ok(listener) => {
                let known = known.clone();
                let page = move |_: &str| known.lock().get(&port).map(HealthCheck::answer).unwrap_or_default();
                http::serve(listener, world.clone(), page).await;
            }
            Err(error) => tracing::warn!(port, "a health check port cannot be served: {error}"),
        }
        world.sleep(RETRY).await;
    }
}
