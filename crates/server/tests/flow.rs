//! What stands around the pipeline: flow control by its objects, time-outs, faults that stay within their request.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use skiff_meta::world::RealWorld;
use skiff_server::chain::{Attributes, Authorizer, Decision, User};
use skiff_server::pki::Pki;
use skiff_server::{Api, ServerConfig};
use skiff_store::MemoryStore;
use support::{Server, start};

const SCHEMAS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas";
const LEVELS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations";

/// Waits for an object that `fits`, by watching.
async fn until(server: &Server, uri: &str, fits: impl Fn(&Value) -> bool) -> Value {
    let mut watch = server.watch(&format!("{uri}?watch=true"), "application/json").await;
    loop {
        let event = watch.next().await.unwrap();
        if event["type"] != "DELETED" && fits(&event["object"]) {
            return event["object"].clone();
        }
    }
}

fn named(name: &str) -> impl Fn(&Value) -> bool + use<'_> {
    move |object| object["metadata"]["name"] == name
}

#[tokio::test]
async fn the_defaults_are_kept_and_requests_are_told_theirs() {
    let server = start().await;
    let dangling = |object: &Value| object["status"]["conditions"][0]["status"] == "False";
    let schema = until(&server, SCHEMAS, |o| named("global-default")(o) && dangling(o)).await;
    let level = until(&server, LEVELS, named("global-default")).await;
    let alice = server.as_user(User::new("alice", &["system:authenticated"]));
    // The configuration follows its objects; a request may come before it.
    let answer = loop {
        let answer = alice.get("/version").await;
        if answer.headers["x-kubernetes-pf-flowschema-uid"] == schema["metadata"]["uid"].as_str().unwrap() {
            break answer;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(answer.headers["x-kubernetes-pf-prioritylevel-uid"], level["metadata"]["uid"].as_str().unwrap());
    // A mandatory object comes back, and is changed back.
    let old = until(&server, LEVELS, named("catch-all")).await;
    server.delete(&format!("{LEVELS}/catch-all")).await.ok();
    until(&server, LEVELS, |o| named("catch-all")(o) && o["metadata"]["uid"] != old["metadata"]["uid"]).await;
    let shares = json!({"spec": {"limited": {"nominalConcurrencyShares": 77}}});
    let of = |shares: u32| move |o: &Value| o["spec"]["limited"]["nominalConcurrencyShares"] == shares;
    server.merge(&format!("{LEVELS}/system"), &shares).await.ok();
    until(&server, LEVELS, |o| named("system")(o) && of(30)(o)).await;
    // Its owner may say so and keep a change. What is changed back later shows that nobody was left out.
    let mut mine = shares.clone();
    mine["metadata"] = json!({"annotations": {"apf.kubernetes.io/autoupdate-spec": "false"}});
    server.merge(&format!("{LEVELS}/system"), &mine).await.ok();
    server.merge(&format!("{LEVELS}/node-high"), &shares).await.ok();
    until(&server, LEVELS, |o| named("node-high")(o) && of(40)(o)).await;
    assert!(of(77)(&server.get(&format!("{LEVELS}/system")).await.ok()));
    // A schema without level dangles until the level is there.
    let mut own = server.get(&format!("{SCHEMAS}/global-default")).await.ok();
    own["metadata"] = json!({"name": "own"});
    own["spec"]["priorityLevelConfiguration"]["name"] = json!("nowhere");
    own["spec"]["matchingPrecedence"] = json!(50);
    own.as_object_mut().unwrap().remove("status");
    server.post(SCHEMAS, &own).await.ok();
    let condition =
        |status: &'static str| move |o: &Value| named("own")(o) && o["status"]["conditions"][0]["status"] == status;
    until(&server, SCHEMAS, condition("True")).await;
    let mut nowhere = server.get(&format!("{LEVELS}/global-default")).await.ok();
    nowhere["metadata"] = json!({"name": "nowhere"});
    server.post(LEVELS, &nowhere).await.ok();
    until(&server, SCHEMAS, condition("False")).await;
    let metrics = String::from_utf8(server.get("/metrics").await.bytes.to_vec()).unwrap();
    for told in [
        "apiserver_flowcontrol_nominal_limit_seats{priority_level=\"nowhere\"}",
        "apiserver_flowcontrol_dispatched_requests_total{priority_level=\"global-default\",flow_schema=\"global-default\"}",
        "apiserver_current_inflight_requests{request_kind=\"readOnly\"} 1",
    ] {
        assert!(metrics.contains(told), "{told}\n{metrics}");
    }
    let dump = server.get("/debug/api_priority_and_fairness/dump_priority_levels").await;
    assert!(String::from_utf8_lossy(&dump.bytes).starts_with("PriorityLevelName, ActiveQueues, IsIdle,"));
    assert_eq!(server.get("/debug/api_priority_and_fairness/other").await.code, 404);
}

/// Never answers about `slow`, and has a fault at `panic`.
struct Odd(Arc<dyn Authorizer>);

#[async_trait]
impl Authorizer for Odd {
    async fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        match attributes.name {
            "slow" => std::future::pending().await,
            "panic" => panic!("as the test wants it"),
            _ => self.0.authorize(attributes).await,
        }
    }
}

async fn odd(config: ServerConfig) -> Server {
    let world = RealWorld::shared();
    let store = Arc::new(MemoryStore::new(world.clone()));
    let pki = Pki::in_memory(world.now()).unwrap();
    let chain = |config: &ServerConfig, view, world: &_| {
        let mut chain = skiff_server::auth::chain(config, &pki, view, Arc::clone(world))?;
        chain.authorizer = Arc::new(Odd(chain.authorizer));
        Ok(chain)
    };
    Server::of(Api::with_chain(config, store.clone(), world, &chain).await.unwrap(), store)
}

#[tokio::test]
async fn faults_and_slowness_stay_within_their_request() {
    let server = odd(ServerConfig { request_timeout: Duration::from_millis(300), ..ServerConfig::default() }).await;
    let uri = |name: &str| format!("{}/{name}", support::CONFIG_MAPS);
    let panicked = server.get(&uri("panic")).await;
    let text = "This request caused apiserver to panic. Look in the logs for details.\n";
    assert_eq!((panicked.code, &*panicked.bytes), (500, text.as_bytes()));
    for query in ["", "?timeout=20ms", "?timeout=0", "?timeout=1h"] {
        let (code, reason, message) = server.get(&format!("{}{query}", uri("slow"))).await.refusal();
        assert_eq!((code, &*reason), (504, "Timeout"), "{query}");
        assert_eq!(message, "Timeout: request did not complete within the allotted timeout");
    }
    let (code, _, message) = server.get(&format!("{}?timeout=soon", uri("a"))).await.refusal();
    let why = "invalid timeout specified in the request URL - time: invalid duration \"soon\"";
    assert_eq!((code, &*message), (400, why));
    assert_eq!(server.get(&uri("other")).await.code, 404);
}

#[tokio::test]
async fn without_flow_control_requests_are_refused_past_a_number() {
    let timeout = Duration::from_secs(600);
    let config = ServerConfig {
        priority_and_fairness: false,
        max_in_flight: (1, 1),
        request_timeout: timeout,
        ..Default::default()
    };
    let server = odd(config).await;
    let alice = server.as_user(User::new("alice", &["system:authenticated"]));
    let uri = format!("{}/slow", support::CONFIG_MAPS);
    let mut slow = Box::pin(alice.get(&uri));
    assert!(futures::poll!(slow.as_mut()).is_pending());
    let refused = alice.get("/version").await;
    assert_eq!((refused.code, refused.headers["retry-after"].to_str().unwrap()), (429, "1"));
    assert_eq!(&*refused.bytes, b"Too many requests, please try again later.\n");
    assert_eq!(server.get("/version").await.code, 200, "administrators are let through");
    drop(slow);
    assert_eq!(alice.get("/version").await.code, 200);
}
