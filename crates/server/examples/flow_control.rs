//! What flow control adds to a request: `cargo run --release -p skiff-server --example flow_control`.
//!
//! The same GETs, in one process and without sockets, with flow control and with mere counting.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use skiff_client::Backend;
use skiff_meta::WorldRef;
use skiff_meta::world::RealWorld;
use skiff_server::chain::User;
use skiff_server::pki::Pki;
use skiff_server::{Api, ServerConfig};
use skiff_store::MemoryStore;

const REQUESTS: u32 = 200_000;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let world = RealWorld::shared();
    let apis = [start(&world, false).await, start(&world, true).await];
    for (name, groups) in [("alice", &["system:authenticated"][..]), ("admin", &["system:masters"])] {
        // Turn by turn, so that what else the machine does falls on both.
        let mut nanos = [u128::MAX; 2];
        for _ in 0..5 {
            for (api, best) in apis.iter().zip(&mut nanos) {
                let backend = api.backend(User::new(name, groups));
                *best = (*best).min(measure(&*backend, &world).await);
            }
        }
        let [without, with] = nanos;
        println!(
            "{name}: {without} ns per request without flow control, {with} with it: {} more",
            with.saturating_sub(without)
        );
    }
}

async fn start(world: &WorldRef, priority_and_fairness: bool) -> Arc<Api> {
    let pki = Pki::in_memory(world.now()).expect("keys");
    let config = ServerConfig { priority_and_fairness, ..ServerConfig::default() };
    Api::new(config, &pki, Arc::new(MemoryStore::new(world.clone())), world.clone()).await.expect("a server")
}

async fn measure(backend: &dyn Backend, world: &WorldRef) -> u128 {
    let begun = world.elapsed();
    for _ in 0..REQUESTS {
        let request = Request::get("/version").body(Bytes::new()).expect("a request");
        assert_eq!(backend.send(request).await.expect("an answer").status(), 200);
    }
    (world.elapsed() - begun).as_nanos() / u128::from(REQUESTS)
}
