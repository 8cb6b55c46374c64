//! What roles cost a request: `cargo run --release -p skiff-server --example authorization`.
//!
//! The same GETs in one process and without sockets, by `system:masters`, who are never asked, and by somebody with a
//! role: through a binding of the whole cluster, through one of a namespace, and as a service account; among few and
//! among many bindings.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request};
use serde_json::{Value, json};
use skiff_client::Backend;
use skiff_meta::WorldRef;
use skiff_meta::world::RealWorld;
use skiff_server::chain::User;
use skiff_server::pki::Pki;
use skiff_server::{Api, ServerConfig};
use skiff_store::MemoryStore;

const REQUESTS: u32 = 100_000;
const BINDINGS: [usize; 3] = [10, 1_000, 10_000];
const MASTERS: &[&str] = &["system:masters"];
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let world = RealWorld::shared();
    let config = ServerConfig { priority_and_fairness: false, ..ServerConfig::default() };
    let pki = Pki::in_memory(world.now()).expect("keys");
    let api = Api::new(config, &pki, Arc::new(MemoryStore::new(world.clone())), world.clone()).await.expect("a server");
    let admin = api.backend(User::new("admin", MASTERS));
    let mut made = 0;
    for bindings in BINDINGS {
        while made < bindings {
            bind(&*admin, made).await;
            made += 1;
        }
        let users = [
            ("nobody is asked", User::new("admin", MASTERS)),
            ("binding of the cluster", User::new("user-0", &["developers", "system:authenticated"])),
            ("binding of a namespace", User::new("user-1", &["developers", "system:authenticated"])),
            ("service account", User::new("system:serviceaccount:default:user-2", &["system:serviceaccounts"])),
        ];
        let mut nanos = users.each_ref().map(|_| u128::MAX);
        // Turn by turn, so that what else the machine does falls on all.
        for _ in 0..5 {
            for ((_, user), best) in users.iter().zip(&mut nanos) {
                *best = (*best).min(measure(&*api.backend(user.clone()), &world).await);
            }
        }
        let none = nanos[0];
        println!("{made} bindings; a GET without being asked: {none} ns");
        for ((name, _), nanos) in users.iter().zip(nanos).skip(1) {
            println!("  {name}: {} ns more", nanos.saturating_sub(none));
        }
    }
}

/// One more binding, of one of three forms, to a subject of its own.
async fn bind(admin: &dyn Backend, number: usize) {
    let name = format!("user-{number}");
    let subject = match number % 3 {
        2 => json!({"kind": "ServiceAccount", "namespace": "default", "name": name}),
        _ => json!({"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": name}),
    };
    let (kind, path) = match number % 3 {
        0 => ("ClusterRoleBinding", format!("{RBAC}/clusterrolebindings")),
        _ => ("RoleBinding", format!("{RBAC}/namespaces/default/rolebindings")),
    };
    let object: Value = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [subject],
    });
    let request = Request::builder().method(Method::POST).uri(path).header("content-type", "application/json");
    let answer = admin.send(request.body(object.to_string().into()).expect("a request")).await.expect("an answer");
    assert_eq!(answer.status(), 201);
}

/// Nanoseconds per request.
async fn measure(backend: &dyn Backend, world: &WorldRef) -> u128 {
    let begun = world.elapsed();
    for _ in 0..REQUESTS {
        let request = Request::get("/api/v1/namespaces/default/services/kubernetes").body(Bytes::new());
        let answer = backend.send(request.expect("a request")).await.expect("an answer");
        assert_eq!(answer.status(), 200);
    }
    (world.elapsed() - begun).as_nanos() / u128::from(REQUESTS)
}
