//! The service proxy: Services and EndpointSlices of the cluster -> nftables tables of this node, one of each address
//! family.
//!
//! Events mark Services as dirty; a turn of the loop takes all events that have come, plans the dirty Services anew and
//! loads what changes as one transaction. While nftables works, events gather for the next turn: a single change goes
//! through at once, and a burst is coalesced by as much as the machine is behind, without any timer.

mod announce;
mod conntrack;
mod endpoints;
mod health;
mod plan;
mod state;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use skiff_client::{Client, Event};
use skiff_meta::WorldRef;

pub(crate) use announce::withdraw;
pub use announce::{Announce, AnnounceError, Wire};
pub use conntrack::{Conntrack, Program as ConntrackProgram};
pub use health::{HealthCheck, HealthPorts, Listeners};
pub use plan::{NodeFacts, UdpFlow, plan, skeleton, udp_flows};
pub use state::{Changes, State};

use crate::config::state_dir;
use crate::guard::{Losses, lost};
use crate::nft::Nft;
use crate::watch;
use crate::{NetConfig, NetError};

/// How long to wait before trying again when nftables refused the whole table.
const RETRY: Duration = Duration::from_secs(1);

/// What the proxy does to the machine.
#[derive(Clone)]
pub struct Effects {
    /// Loads tables.
    pub nft: Arc<dyn Nft>,
    /// Forgets flows.
    pub conntrack: Arc<dyn Conntrack>,
    /// Answers load balancers.
    pub health: Arc<dyn HealthPorts>,
    /// Answers for load balancers' addresses.
    pub announce: Arc<dyn Announce>,
}

impl Effects {
    /// The ports and devices of this machine, beside the program `nft`.
    pub fn real(config: &NetConfig, nft: Arc<dyn Nft>, world: &WorldRef) -> Self {
        Self {
            nft,
            conntrack: Arc::new(conntrack::Program),
            health: Arc::new(Listeners::new(world.clone())),
            announce: Arc::new(Wire::new(config.node_ip(), &state_dir(&config.data_dir))),
        }
    }
}

/// Keeps tables called `table` in step with the cluster, for ever: one for each family that `nodes` tells of. What
/// `losses` says is lost is put up anew.
pub async fn run(
    table: &str,
    nodes: Vec<NodeFacts>,
    client: Client,
    world: WorldRef,
    effects: Effects,
    losses: Losses,
) {
    let services = watch::services(&client);
    let slices = watch::endpoint_slices(&client);
    let families = nodes.into_iter().map(|node| Family { state: State::new(table, node), rebuild: true }).collect();
    Proxy { families, effects, world, services, slices, losses, stale: BTreeSet::new(), announced: None }.run().await;
}

/// What is kept of one address family.
struct Family {
    state: State,
    /// The kernel's table is not what the state says (at the start, and after a refusal).
    rebuild: bool,
}

struct Proxy {
    families: Vec<Family>,
    effects: Effects,
    world: WorldRef,
    services: BoxStream<'static, Event>,
    slices: BoxStream<'static, Event>,
    losses: Losses,
    /// Flows to forget once the table leads elsewhere.
    stale: BTreeSet<UdpFlow>,
    /// What the node answers for; `None`: not known.
    announced: Option<BTreeSet<IpAddr>>,
}

impl Proxy {
    async fn run(mut self) {
        // Both lists first: a table made of Services alone would refuse what it could serve.
        if !self.take_service().await || !self.take_slice().await {
            return;
        }
        loop {
            while let Some(true) = self.take_any().now_or_never() {}
            if let Err(error) = self.sync().await {
                tracing::error!("Services are not up to date: {error}");
                self.world.sleep(RETRY).await;
                continue;
            }
            if !self.take_any().await {
                return;
            }
        }
    }

    async fn take_service(&mut self) -> bool {
        let event = self.services.next().await;
        event.map(|event| service_event(&mut self.families, &event)).is_some()
    }

    async fn take_slice(&mut self) -> bool {
        let event = self.slices.next().await;
        event.map(|event| slice_event(&mut self.families, &event)).is_some()
    }

    /// Takes the next event of any kind; `false` when a source has ended, which only a shutdown does.
    fn take_any(&mut self) -> BoxFuture<'_, bool> {
        Box::pin(async move {
            let Self { services, slices, families, losses, .. } = self;
            tokio::select! {
                event = services.next() => event.map(|event| service_event(families, &event)).is_some(),
                event = slices.next() => event.map(|event| slice_event(families, &event)).is_some(),
                () = lost(losses) => {
                    families.iter_mut().for_each(|family| family.rebuild = true);
                    true
                }
            }
        })
    }

    async fn sync(&mut self) -> Result<(), NetError> {
        let mut script = String::new();
        let mut checks_changed = false;
        for Family { state, rebuild } in &mut self.families {
            let mut changes = state.changes();
            self.stale.append(&mut changes.stale_flows);
            checks_changed |= changes.health_checks;
            match rebuild {
                true => script.push_str(&state.table().to_string()),
                false => script.push_str(&changes.batch.to_string()),
            }
            // Until it is known to have been loaded.
            *rebuild = true;
        }
        if checks_changed {
            let checks = self.families.iter().flat_map(|family| family.state.health_checks());
            self.effects.health.set(checks.map(|(port, check)| (*port, check.clone())).collect());
        }
        if !script.is_empty() {
            let (start, bytes) = (self.world.elapsed(), script.len());
            self.effects.nft.run(script).await?;
            let took = self.world.elapsed().saturating_sub(start);
            tracing::debug!(bytes, micros = took.as_micros(), "service table is up to date");
        }
        self.families.iter_mut().for_each(|family| family.rebuild = false);
        self.effects.conntrack.forget(&std::mem::take(&mut self.stale)).await;
        // Addresses are answered for once connections to them are taken.
        let wanted: BTreeSet<IpAddr> = self.families.iter().flat_map(|family| family.state.announced()).collect();
        if self.announced.as_ref() != Some(&wanted) {
            self.effects.announce.set(&wanted)?;
            self.announced = Some(wanted);
        }
        Ok(())
    }
}

fn service_event(families: &mut [Family], event: &Event) {
    families.iter_mut().for_each(|family| family.state.service_event(event));
}

fn slice_event(families: &mut [Family], event: &Event) {
    families.iter_mut().for_each(|family| family.state.slice_event(event));
}
