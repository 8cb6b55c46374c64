//! The audit log, as the policy wants it.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use skiff_client::config::Remote;
use skiff_meta::world::RealWorld;
use skiff_server::audit::{AuditConfig, Batching, LogOptions, Mode, Policy, WebhookOptions};
use skiff_server::chain::User;
use skiff_server::pki::Pki;
use skiff_server::{Api, ServerConfig};
use skiff_store::MemoryStore;
use support::{CONFIG_MAPS, Server, config_map};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitManagedFields: true
rules:
- level: None
  users: ["system:apiserver"]
- level: Metadata
  resources: [{group: "", resources: ["secrets"]}]
- level: RequestResponse
  omitStages: [RequestReceived]
  resources: [{group: "", resources: ["configmaps"]}]
- level: Request
"#;

async fn start(path: &Path) -> Server {
    let log = LogOptions { path: path.to_owned(), max_age: 0, max_backups: 0, max_size: 0 };
    start_with(AuditConfig {
        policy: Policy::read(POLICY).unwrap(),
        log: Some((log, Mode::Blocking)),
        webhook: None,
        batching: Batching::default(),
    })
    .await
}

async fn start_with(audit: AuditConfig) -> Server {
    let world = RealWorld::shared();
    let store = Arc::new(MemoryStore::new(world.clone()));
    let pki = Pki::in_memory(world.now()).unwrap();
    let config = ServerConfig { audit: Some(audit), ..ServerConfig::default() };
    Server::of(Api::new(config, &pki, store.clone(), world).await.unwrap(), store)
}

#[tokio::test]
async fn requests_are_written_down_as_the_policy_says() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let server = start(&path).await;
    let events = || -> Vec<Value> {
        let text = std::fs::read_to_string(&path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let last = || events().pop().unwrap();

    // Metadata: who did what, and no secret.
    let secret =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"k": "hush-hush"}});
    let made = server.post("/api/v1/namespaces/default/secrets", &secret).await;
    let id = made.headers["audit-id"].to_str().unwrap();
    server.get("/api/v1/namespaces/default/secrets/s").await.ok();
    let event = events().into_iter().rfind(|e| e["auditID"] == id).unwrap();
    assert_eq!((&event["stage"], &event["level"]), (&json!("ResponseComplete"), &json!("Metadata")));
    assert_eq!((&event["verb"], &event["user"]["username"]), (&json!("create"), &json!("admin")));
    assert_eq!(
        event["objectRef"],
        json!({"resource": "secrets", "namespace": "default", "name": "s", "apiVersion": "v1"})
    );
    assert_eq!(event["responseStatus"], json!({"metadata": {}, "code": 201}));
    assert_eq!(event["annotations"]["authorization.k8s.io/decision"], "allow");
    assert!(!std::fs::read_to_string(&path).unwrap().contains("hush-hush"));
    assert!(!std::fs::read_to_string(&path).unwrap().contains("aHVzaC1odXNo"));

    // Bodies, without what is to be left out.
    server.post(CONFIG_MAPS, &config_map("a", "v")).await.ok();
    let event = last();
    assert_eq!(event["requestObject"]["data"], json!({"k": "v"}));
    assert_eq!(event["responseObject"]["data"], json!({"k": "v"}));
    assert!(event["responseObject"]["metadata"].get("managedFields").is_none(), "{event}");
    server.merge(&format!("{CONFIG_MAPS}/a"), &json!({"data": {"k": "w"}})).await.ok();
    assert_eq!(last()["requestObject"], json!({"data": {"k": "w"}}));
    server.get(CONFIG_MAPS).await.ok();
    assert_eq!((&last()["responseObject"]["kind"], &last()["verb"]), (&json!("ConfigMapList"), &json!("list")));
    assert_eq!(events().iter().filter(|e| e["objectRef"]["resource"] == "configmaps").count(), 3);
    server.get(&format!("{CONFIG_MAPS}/none")).await;
    let event = last();
    assert_eq!(
        (&event["responseStatus"]["reason"], &event["responseStatus"]["code"]),
        (&json!("NotFound"), &json!(404))
    );
    assert_eq!(event["responseObject"]["kind"], "Status");

    // Refusals, and who acts as whom.
    let alice = server.as_user(User::new("alice", &["system:authenticated"]));
    alice.get("/api/v1/nodes").await;
    assert_eq!(last()["annotations"]["authorization.k8s.io/decision"], "forbid");
    server.send(Method::GET, "/version", &[("impersonate-user", "bob"), ("user-agent", "test/1")], "").await;
    let event = last();
    assert_eq!((&event["user"]["username"], &event["impersonatedUser"]["username"]), (&json!("admin"), &json!("bob")));
    assert_eq!((&event["requestURI"], &event["userAgent"]), (&json!("/version"), &json!("test/1")));
    assert!(event.get("objectRef").is_none());

    // A watch has a begin and an end.
    let watch = server.watch("/api/v1/nodes?watch=true", "application/json").await;
    assert_eq!((&last()["stage"], &last()["responseStatus"]["code"]), (&json!("ResponseStarted"), &json!(200)));
    drop(watch);
    while last()["stage"] != "ResponseComplete" {
        tokio::task::yield_now().await;
    }
    let metrics = server.get("/metrics").await;
    assert!(String::from_utf8_lossy(&metrics.bytes).contains("apiserver_audit_error_total{plugin=\"log\"} 0"));
}

/// Takes lists of events, but not at the first time.
async fn sink(lists: mpsc::UnboundedSender<Value>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tries = Arc::new(AtomicUsize::new(0));
    let serving = async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (lists, tries) = (lists.clone(), tries.clone());
            let service = service_fn(move |request: Request<Incoming>| {
                let (lists, first) = (lists.clone(), tries.fetch_add(1, Ordering::Relaxed) == 0);
                async move {
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    if !first {
                        lists.send(serde_json::from_slice(&body).unwrap()).unwrap();
                    }
                    let code = if first { 503 } else { 200 };
                    Ok::<_, Infallible>(Response::builder().status(code).body(Full::<Bytes>::default()).unwrap())
                }
            });
            let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            RealWorld::shared().spawn("sink-connection", Box::pin(async { drop(connection.await) }));
        }
    };
    RealWorld::shared().spawn("sink", Box::pin(serving));
    format!("http://{address}")
}

#[tokio::test]
async fn a_webhook_is_told_in_batches_until_it_has_them() {
    let (sender, mut lists) = mpsc::unbounded_channel();
    let remote = Remote { server: sink(sender).await, ..Remote::default() };
    let webhook = WebhookOptions { remote, initial_backoff: Duration::from_millis(1) };
    // Nothing but their number makes a batch.
    let batching = Batching { buffer: 100, most: 3, wait: Duration::from_secs(600), rate: 0, burst: 1 };
    let policy = Policy::read(POLICY).unwrap();
    let server = start_with(AuditConfig { policy, log: None, webhook: Some((webhook, Mode::Batch)), batching }).await;
    for i in 0..6 {
        server.post(CONFIG_MAPS, &config_map(&format!("m{i}"), "v")).await.ok();
    }
    let mut names = Vec::new();
    for _ in 0..2 {
        let list = lists.recv().await.unwrap();
        assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("EventList"), &json!("audit.k8s.io/v1")));
        let items = list["items"].as_array().unwrap();
        assert_eq!(items.len(), 3);
        names.extend(items.iter().map(|event| {
            assert_eq!((&event["stage"], &event["verb"]), (&json!("ResponseComplete"), &json!("create")));
            event["objectRef"]["name"].as_str().unwrap_or_default().to_owned()
        }));
    }
    assert_eq!(names, ["m0", "m1", "m2", "m3", "m4", "m5"]);
    let metrics = server.get("/metrics").await;
    assert!(String::from_utf8_lossy(&metrics.bytes).contains("apiserver_audit_error_total{plugin=\"webhook\"} 0"));
}
