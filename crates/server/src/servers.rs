//! Where the `kubernetes` Service leads: to every living server.
//!
//! A server that has its store for itself is the only one. Servers on a shared store each keep a key alive there, with
//! upstream's name and times (`pkg/controlplane/reconcilers/lease.go`), so that both kinds of servers see each other; each
//! brings Endpoints and EndpointSlice in line with the keys it finds.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use serde_json::{Value, json};
use skiff_meta::world::Task;
use skiff_store::{KeyRange, LeaseId, RangeQuery, StoreError, Transaction, Write};

use crate::api::Api;
use crate::bootstrap::ensure;
use crate::error::ServerError;

/// Keys of living servers, by address.
const KEYS: &str = "/registry/masterleases/";
/// How long a server counts as alive after its last sign of life.
const ALIVE: Duration = Duration::from_secs(15);
/// How often it gives one, and looks who else is there.
const RENEWAL: Duration = Duration::from_secs(10);

/// Publishes this server and, on a shared store, goes on doing so.
pub(crate) async fn start(api: &Arc<Api>) -> Result<Option<Task>, ServerError> {
    let own = api.config.advertise;
    // Nobody else reaches a loopback address; a simulation has no port at all.
    if own.is_loopback() || api.address().port() == 0 {
        return Ok(None);
    }
    if !api.config.shared_store {
        announce(api, &[own]).await?;
        return Ok(None);
    }
    let lease = round(api, None).await?;
    let (world, api) = (api.world.clone(), Arc::downgrade(api));
    let clock = world.clone();
    let task = async move {
        let mut lease = Some(lease);
        loop {
            clock.sleep(RENEWAL).await;
            let Some(api) = api.upgrade() else { return };
            match round(&api, lease).await {
                Ok(renewed) => lease = Some(renewed),
                Err(error) => tracing::warn!("the addresses of the API servers were not brought up to date: {error}"),
            }
        }
    };
    Ok(Some(world.spawn("server-addresses", Box::pin(task))))
}

/// Lets the others know at once that this server ends.
pub(crate) async fn leave(api: &Arc<Api>) {
    let own = api.config.advertise;
    if !api.config.shared_store || own.is_loopback() {
        return;
    }
    let writes = vec![Write::Delete { key: key(own) }];
    let left = async {
        api.store.commit(Transaction { writes, ..Transaction::default() }).await?;
        let rest = living(api).await?;
        if rest.is_empty() { Ok(()) } else { announce(api, &rest).await }
    };
    if let Err(error) = left.await {
        tracing::warn!("the address of this server is still published for some seconds: {error}");
    }
}

/// A sign of life, and a look around.
async fn round(api: &Arc<Api>, lease: Option<LeaseId>) -> Result<LeaseId, ServerError> {
    let lease = renew(api, lease).await?;
    announce(api, &living(api).await?).await?;
    Ok(lease)
}

async fn renew(api: &Api, lease: Option<LeaseId>) -> Result<LeaseId, StoreError> {
    if let Some(lease) = lease {
        match api.store.keep_alive(lease).await {
            Ok(_) => return Ok(lease),
            Err(StoreError::LeaseNotFound(_)) => {}
            Err(error) => return Err(error),
        }
    }
    let own = api.config.advertise;
    let value = json!({
        "apiVersion": "v1", "kind": "Endpoints", "metadata": {},
        "subsets": [{"addresses": [{"ip": own.to_string()}]}],
    });
    let lease = api.store.grant(ALIVE).await?;
    let writes = vec![Write::Put { key: key(own), value: value.to_string().into(), lease }];
    api.store.commit(Transaction { writes, ..Transaction::default() }).await?;
    Ok(lease)
}

fn key(address: IpAddr) -> Bytes {
    format!("{KEYS}{address}").into()
}

/// The addresses that have given a sign of life.
async fn living(api: &Api) -> Result<Vec<IpAddr>, StoreError> {
    let found = api.store.range(RangeQuery { keys: KeyRange::prefix(KEYS), limit: 0, at: None }).await?;
    Ok(found.items.iter().filter_map(|pair| address(&pair.key)).collect())
}

fn address(key: &[u8]) -> Option<IpAddr> {
    std::str::from_utf8(key).ok()?.strip_prefix(KEYS)?.parse().ok()
}

/// Writes Endpoints and EndpointSlice, where they say something else.
async fn announce(api: &Arc<Api>, addresses: &[IpAddr]) -> Result<(), ServerError> {
    let objects = objects(addresses, api.address().port());
    let written = objects.into_iter().map(|(uri, object)| ensure(api, uri, object));
    join_all(written).await.into_iter().collect()
}

fn objects(addresses: &[IpAddr], port: u16) -> [(&'static str, Value); 2] {
    let first_is_v4 = addresses.first().is_none_or(IpAddr::is_ipv4);
    let same: Vec<_> = addresses.iter().filter(|a| a.is_ipv4() == first_is_v4).collect();
    let ports = json!([{"name": "https", "port": port, "protocol": "TCP"}]);
    let endpoints = json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {
            "name": "kubernetes", "namespace": "default",
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
        },
        "subsets": [{"addresses": addresses.iter().map(|ip| json!({"ip": ip})).collect::<Vec<_>>(), "ports": ports}],
    });
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "addressType": if first_is_v4 { "IPv4" } else { "IPv6" },
        "metadata": {
            "name": "kubernetes", "namespace": "default",
            "labels": {"kubernetes.io/service-name": "kubernetes"},
        },
        "endpoints": same.iter().map(|ip| json!({"addresses": [ip], "conditions": {"ready": true}})).collect::<Vec<_>>(),
        "ports": ports,
    });
    [
        ("/api/v1/namespaces/default/endpoints", endpoints),
        ("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", slice),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_living_server_is_an_endpoint() {
        let addresses: Vec<IpAddr> =
            ["/registry/masterleases/192.0.2.1", "/registry/masterleases/192.0.2.2", "/registry/masterleases/nonsense"]
                .iter()
                .filter_map(|key| address(key.as_bytes()))
                .collect();
        let [(_, endpoints), (_, slice)] = objects(&addresses, 6443);
        assert_eq!(endpoints["subsets"][0]["addresses"], json!([{"ip": "192.0.2.1"}, {"ip": "192.0.2.2"}]));
        assert_eq!(slice["endpoints"][1]["addresses"], json!(["192.0.2.2"]));
        assert_eq!(slice["ports"], endpoints["subsets"][0]["ports"]);
    }
}
