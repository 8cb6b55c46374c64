//! `skiff agent`: a worker node of a cluster that is elsewhere.

use std::path::Path;

use skiff_meta::WorldRef;
use skiff_node::os::code;

use crate::error::StartError;
use crate::flags;
use crate::join::Joining;
use crate::node::{self, Identity, Node, NodeClients};
use crate::place::{DataDir, host_name, own_address};
use crate::ranges;
use crate::server::stopped;

/// Joins, and runs until told to stop.
pub(crate) async fn run(flags: &flags::Agent, world: WorldRef) -> Result<(), StartError> {
    node::fit(&flags.node)?;
    let chosen = flags.node.data_dir != Path::new(flags::DATA_DIR);
    let data = DataDir::open(&flags.node.data_dir, false, chosen)?;
    let name = flags.node.node_name.clone().unwrap_or_else(host_name);
    let addresses = ranges::node_ips(&flags.node.node_ip, own_address)?;
    let joining = Joining {
        server: &flags.server,
        token: &flags.token,
        data: data.path(),
        node: &name,
        addresses: &addresses,
        world: world.clone(),
    };
    let joined = tokio::select! {
        joined = joining.join() => joined?,
        ended = stopped(None) => return ended,
    };
    tracing::info!(server = flags.server, node = name, ?addresses, "joined");
    let [node, proxy, policy, dns] = joined.clients;
    let identity = Identity {
        data: data.path().to_path_buf(),
        name: name.clone(),
        addresses: addresses.clone(),
        serving: joined.serving,
        authority: joined.authority,
        clients: NodeClients { node, proxy, policy, dns },
        cluster: joined.cluster,
    };
    let node = Node::start(&flags.node, identity, &world).await?;
    let settling = world.spawn("settling", Box::pin(code::give_back_when_quiet(world.clone())));
    let ended = tokio::select! {
        ended = stopped(Some(&node)) => ended,
        never = joining.renew(joined.certificates) => match never {},
    };
    tracing::info!("stopping");
    settling.abort();
    node.stop(false).await;
    ended
}
