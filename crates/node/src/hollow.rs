//! Nodes without a machine: the whole agent, on a runtime in memory and an operating system that does nothing.
//!
//! For tests of everything else, and to see how a cluster of many nodes behaves. Needs no Tokio runtime, so that it runs
//! in a simulated world as well.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use skiff_client::Client;
use skiff_cri::Runtime;
use skiff_meta::WorldRef;

use crate::os::{MachineFacts, Os};
use crate::{NodeConfig, NodeError, Settings, run};

/// The machine that a hollow node claims to be: 8 processors, 32 GiB of memory.
pub fn facts() -> MachineFacts {
    MachineFacts {
        processors: 8,
        memory: 32 << 30,
        storage: 1 << 40,
        kernel: "hollow".to_owned(),
        os_image: "Hollow".to_owned(),
        architecture: "amd64".to_owned(),
        ..MachineFacts::default()
    }
}

/// The configuration of the hollow node number `number`, to be changed where a test wants it otherwise.
pub fn config(name: &str, number: u16) -> NodeConfig {
    let [high, low] = number.to_be_bytes();
    NodeConfig {
        name: name.to_owned(),
        hostname: name.to_owned(),
        addresses: vec![IpAddr::V4(Ipv4Addr::new(10, 99, high, low))],
        labels: BTreeMap::new(),
        taints: Vec::new(),
        directory: format!("/hollow/{name}").into(),
        log_directory: format!("/hollow/{name}/logs").into(),
        storage_directory: format!("/hollow/{name}/storage").into(),
        image_directory: None,
        static_pod_directory: None,
        cluster_dns: None,
        cluster_domain: "cluster.local".to_owned(),
        settings: Settings::default(),
        watches_pressure: false,
        takes_plugins: false,
        version: "v1.36.2".to_owned(),
        server: None,
        os: Os::hollow(facts()),
    }
}

/// Runs a hollow node until `shutdown` completes; `runtime` is a [`skiff_cri::fake::FakeRuntime`].
///
/// # Errors
/// When the runtime refuses to say who it is.
pub async fn node(
    name: &str,
    number: u16,
    client: Client,
    runtime: Arc<dyn Runtime>,
    world: WorldRef,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), NodeError> {
    run(config(name, number), client, runtime, world, shutdown).await
}
