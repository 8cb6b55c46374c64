//! Encryption at rest: what is in the store, who can read it, and how keys change.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use std::sync::Arc;

use serde_json::json;
use skiff_meta::WorldRef;
use skiff_meta::world::RealWorld;
use skiff_server::encryption::{EncryptionConfig, Keyring};
use skiff_server::pki::Pki;
use skiff_server::{Api, ServerConfig};
use skiff_store::{KeyRange, MemoryStore, RangeQuery, Store};
use support::{CONFIG_MAPS, Server, config_map};

const SECRETS: &str = "/api/v1/namespaces/default/secrets";

fn keys(providers: &str, world: &WorldRef) -> Arc<Keyring> {
    Keyring::new(config(providers), world.clone())
}

fn config(providers: &str) -> EncryptionConfig {
    let text = format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n\
         - resources: [secrets, '*.example.com']\n  providers: [{providers}]\n"
    );
    EncryptionConfig::read(&text).unwrap()
}

fn provider(kind: &str, key: &str, byte: &str) -> String {
    // 32 equal bytes, as base64: 42 letters and a rest.
    let secret = match byte {
        "1" => "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=",
        _ => "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=",
    };
    format!("{{{kind}: {{keys: [{{name: {key}, secret: {secret}}}]}}}}")
}

async fn start(store: &Arc<MemoryStore>, keys: &Arc<Keyring>, world: &WorldRef) -> Server {
    let pki = Pki::in_memory(world.now()).unwrap();
    let config = ServerConfig { encryption: Some(keys.clone()), ..ServerConfig::default() };
    Server::of(Api::new(config, &pki, store.clone(), world.clone()).await.unwrap(), store.clone())
}

async fn stored(store: &MemoryStore, prefix: &str) -> Vec<Vec<u8>> {
    let query = RangeQuery { keys: KeyRange::prefix(prefix.to_owned()), limit: 0, at: None };
    store.range(query).await.unwrap().items.into_iter().map(|pair| pair.value.to_vec()).collect()
}

#[tokio::test]
async fn secrets_are_unreadable_in_the_store_and_keys_can_change() {
    let world = RealWorld::shared();
    let store = Arc::new(MemoryStore::new(world.clone()));
    let (first, second) = (provider("aesgcm", "one", "1"), provider("secretbox", "two", "2"));
    let ring = keys(&first, &world);
    let server = start(&store, &ring, &world).await;
    let secret = |name: &str| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": {"k": "aHVzaA=="}});
    let mut watch = server.watch(&format!("{SECRETS}?watch=true"), "application/json").await;
    server.post(SECRETS, &secret("a")).await.ok();
    assert_eq!(watch.told().await, "ADDED a", "watchers see what it says");
    server.post(CONFIG_MAPS, &config_map("plain", "v")).await.ok();
    let value = stored(&store, "/registry/secrets/default/a").await.remove(0);
    assert!(value.starts_with(b"k8s:enc:aesgcm:v1:one:") && !value.windows(4).any(|w| w == b"aHVz"));
    assert!(stored(&store, "/registry/configmaps/default/plain").await[0].starts_with(b"{"));

    // The new key writes, both read; history too.
    let version = server.get(&format!("{SECRETS}/a")).await.ok()["metadata"]["resourceVersion"].clone();
    ring.replace(config(&format!("{second}, {first}")));
    server.merge(&format!("{SECRETS}/a"), &json!({"data": {"k": "bmV3"}})).await.ok();
    server.post(SECRETS, &secret("b")).await.ok();
    let values = stored(&store, "/registry/secrets/default/").await;
    assert!(values.iter().all(|value| value.starts_with(b"k8s:enc:secretbox:v1:two:")));
    let then = server.get(&format!("{SECRETS}/a?at={}", version.as_str().unwrap())).await.ok();
    assert_eq!(then["data"]["k"], "aHVzaA==");

    // Another server with the keys reads all of it; one without is told why it cannot.
    let again = start(&store, &keys(&format!("{second}, {{identity: {{}}}}"), &world), &world).await;
    assert_eq!(again.get(&format!("{SECRETS}/a")).await.ok()["data"]["k"], "bmV3");
    let other = start(&store, &keys(&format!("{first}, {{identity: {{}}}}"), &world), &world).await;
    let (code, _, message) = other.get(&format!("{SECRETS}/a")).await.refusal();
    assert_eq!(code, 500, "{message}");
    assert!(message.contains("encrypted"), "{message}");

    // Back to plain values, which are read only where that is allowed.
    ring.replace(config(&format!("{{identity: {{}}}}, {second}, {first}")));
    server.post(SECRETS, &secret("c")).await.ok();
    assert!(stored(&store, "/registry/secrets/default/c").await[0].starts_with(b"{"));
    let strict = start(&store, &keys(&format!("{second}, {first}"), &world), &world).await;
    assert_eq!(strict.get(&format!("{SECRETS}/c")).await.refusal().0, 500);
    assert_eq!(strict.get(&format!("{SECRETS}/b")).await.ok()["data"]["k"], "aHVzaA==");
}

#[tokio::test]
async fn custom_kinds_are_covered_by_their_group() {
    let world = RealWorld::shared();
    let store = Arc::new(MemoryStore::new(world.clone()));
    let server = start(&store, &keys(&provider("aescbc", "one", "1"), &world), &world).await;
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.example.com"},
        "spec": {
            "group": "example.com", "scope": "Cluster", "names": {"plural": "things", "singular": "thing", "kind": "Thing"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}],
        },
    });
    server.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &definition).await.ok();
    let thing = json!({"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "a"}});
    let made = server.post("/apis/example.com/v1/things", &thing).await.ok();
    let value = stored(&store, "/registry/example.com/things/a").await.remove(0);
    assert!(value.starts_with(b"k8s:enc:aescbc:v1:one:"));
    assert_eq!(server.get("/apis/example.com/v1/things/a").await.ok()["metadata"]["uid"], made["metadata"]["uid"]);
    assert!(stored(&store, "/registry/apiextensions.k8s.io/").await[0].starts_with(b"{"));
}
