//! The way to the other nodes' pods: an overlay, or plain routes to those on one wire and an overlay to the others.
//!
//! All nodes are watched; whenever one's range or address changes, what should lead to them is planned anew, compared
//! with what the kernel has, and brought in step. Nodes that are merely silent keep their routes: whether they answer is
//! for others to judge, and a partition that heals finds everything in place.

mod kernel;
mod plan;

use std::net::IpAddr;
use std::time::Duration;

use futures::StreamExt;
use ipnet::IpNet;
use skiff_client::Client;
use skiff_meta::WorldRef;

pub use kernel::{Kernel, RealKernel};
pub use plan::{Hop, Mac, Paths, Peer, Step, Way, steps};

use crate::guard::{Losses, lost};
use crate::netlink::Tunnel;
use crate::others::Others;
use crate::{NetError, watch};

/// How long to wait before trying again what the kernel refused.
const RETRY: Duration = Duration::from_secs(1);

/// What this node knows of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Own {
    /// Its name.
    pub name: String,
    /// Its pods, a range of each family.
    pub pod_cidrs: Vec<IpNet>,
    /// All nodes' pods.
    pub cluster_cidrs: Vec<IpNet>,
    /// The addresses it sends from itself.
    pub sources: Vec<IpAddr>,
    /// The name of the tunnel's port.
    pub device: String,
    /// The overlay's port, where there has to be one.
    pub tunnel: Tunnel,
    /// Whether nodes on one wire are reached without it.
    pub direct: bool,
}

/// Keeps the way to other nodes, for ever, and puts back what `losses` says is lost.
pub async fn run(own: Own, client: Client, world: WorldRef, kernel: impl Kernel, mut losses: Losses) {
    let mut events = watch::nodes(&client);
    let mut state = State { peers: Others::new(&own.name, Peer::of), own, kernel };
    let Some(first) = events.next().await else { return };
    state.peers.take(first);
    loop {
        let synced = state.sync().inspect_err(|error| tracing::error!("other nodes' pods may not be reached: {error}"));
        let mut retry = world.sleep(RETRY);
        loop {
            tokio::select! {
                event = events.next() => {
                    let Some(event) = event else { return };
                    if state.peers.take(event) {
                        break;
                    }
                }
                () = &mut retry, if synced.is_err() => break,
                () = lost(&mut losses) => break,
            }
        }
    }
}

struct State<K> {
    own: Own,
    kernel: K,
    peers: Others<Peer>,
}

impl<K: Kernel> State<K> {
    /// Brings the kernel in step.
    fn sync(&mut self) -> Result<(), NetError> {
        let own = &self.own;
        let wire = if own.direct { self.kernel.wire(&own.cluster_cidrs)? } else { Vec::new() };
        let far = !own.direct || self.peers.iter().any(|peer| peer.is_far(&wire));
        let way = Way { tunnel: self.kernel.prepare(&own.device, far.then_some(&own.tunnel))?, wire };
        let is = self.kernel.paths(&way, &own.cluster_cidrs, &own.pod_cidrs)?;
        let should = Paths::to(&way, self.peers.iter());
        let mut failed = None;
        // One node that cannot be reached must not keep the others from being.
        for step in steps(&is, &should) {
            match self.kernel.take(&way, &own.sources, &step) {
                Ok(()) => tracing::debug!(?step, "way to a node"),
                Err(error) => {
                    tracing::warn!(?step, "{error}");
                    failed = Some(error);
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::FutureExt;
    use parking_lot::Mutex;
    use serde_json::json;
    use skiff_client::Event;
    use skiff_meta::Object;

    use super::*;
    use crate::Family;
    use crate::fake::{Cluster, Hurry, object};

    /// A kernel that does what it is told, but for the first so many steps.
    #[derive(Clone, Default)]
    struct FakeKernel(Arc<Mutex<(Paths, usize)>>);

    impl Kernel for FakeKernel {
        fn wire(&mut self, _: &[IpNet]) -> Result<Vec<IpNet>, NetError> {
            Ok(vec!["192.0.2.0/24".parse().unwrap()])
        }
        fn prepare(&mut self, _: &str, tunnel: Option<&Tunnel>) -> Result<Option<(u32, Family)>, NetError> {
            Ok(tunnel.map(|tunnel| (7, Family::of(tunnel.local))))
        }
        fn paths(&mut self, _: &Way, _: &[IpNet], _: &[IpNet]) -> Result<Paths, NetError> {
            Ok(self.0.lock().0.clone())
        }
        fn take(&mut self, _: &Way, _: &[IpAddr], step: &Step) -> Result<(), NetError> {
            let (paths, refusals) = &mut *self.0.lock();
            if *refusals > 0 {
                *refusals -= 1;
                return Err(NetError::bookings(std::io::Error::other("made to fail")));
            }
            match *step {
                Step::RemoveRoute(to, _) => drop(paths.routes.remove(&to)),
                Step::SetRoute(to, hop) => drop(paths.routes.insert(to, hop)),
                _ => {}
            }
            Ok(())
        }
    }

    fn node(name: &str, number: u8) -> Arc<Object> {
        object(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "uid": name},
            "spec": {"podCIDR": format!("10.42.{number}.0/24")},
            "status": {"addresses": [{"type": "InternalIP", "address": format!("192.0.2.{number}")}]}}))
    }

    #[test]
    fn routes_follow_the_nodes_and_refusals_are_tried_again() {
        let cluster = Arc::new(Cluster::default());
        let source = cluster.source("nodes");
        let kernel = FakeKernel::default();
        kernel.0.lock().1 = 2;
        let own = Own {
            name: "n1".to_owned(),
            pod_cidrs: vec!["10.42.1.0/24".parse().unwrap()],
            cluster_cidrs: vec!["10.42.0.0/16".parse().unwrap()],
            sources: vec!["10.42.1.1".parse().unwrap()],
            device: "skvx".to_owned(),
            tunnel: Tunnel {
                number: 7,
                port: 8472,
                local: "192.0.2.1".parse().unwrap(),
                mac: [0; 6],
                mtu: 1_450,
                addresses: Vec::new(),
            },
            direct: true,
        };
        let mut work = Box::pin(run(own, cluster.client(), Hurry::shared(), kernel.clone(), crate::guard::none()));
        let mut turn = || assert!((&mut work).now_or_never().is_none());
        let routes = || kernel.0.lock().0.routes.keys().map(ToString::to_string).collect::<Vec<_>>();
        let send = |event| source.unbounded_send(event).unwrap();
        turn();
        send(Event::Replace(vec![node("n1", 1), node("n2", 2), node("n3", 3)]));
        turn();
        assert_eq!(routes(), ["10.42.2.0/24", "10.42.3.0/24"], "in spite of two refusals");
        send(Event::Delete(node("n2", 2)));
        send(Event::Apply(node("n3", 4)));
        turn();
        assert_eq!(routes(), ["10.42.4.0/24"]);
    }
}
