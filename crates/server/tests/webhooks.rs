//! Webhooks of admission, asked over real TLS.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "support/hook.rs"]
mod hook;
mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use hook::{Hook, allow, at_once, patch};
use serde_json::{Value, json};
use skiff_server::ServerConfig;
use skiff_server::admission::config::AdmissionConfig;
use support::{CONFIG_MAPS, Server, config_map, start, start_with};
use tokio::sync::Notify;

const MUTATING: &str = "MutatingWebhookConfiguration";
const VALIDATING: &str = "ValidatingWebhookConfiguration";

async fn configure(server: &Server, kind: &str, name: &str, hooks: Value) {
    let uri = format!("/apis/admissionregistration.k8s.io/v1/{}s", kind.to_ascii_lowercase());
    let api = "admissionregistration.k8s.io/v1";
    let tree = json!({"apiVersion": api, "kind": kind, "metadata": {"name": name}, "webhooks": hooks});
    server.post(&uri, &tree).await.ok();
    // A read waits until the server has heard of it.
    server.get(&format!("{uri}/{name}")).await.ok();
}

async fn forget(server: &Server, name: &str) {
    let uri = format!("/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/{name}");
    server.delete(&uri).await.ok();
    assert_eq!(server.get(&uri).await.code, 404);
}

fn deny(why: &str) -> Value {
    json!({"allowed": false, "status": {"code": 403, "message": why, "reason": "Forbidden"}})
}

#[tokio::test]
async fn hooks_change_objects_and_hear_of_later_changes() {
    let server = start().await;
    let first = Hook::start(at_once(|request| {
        let text = request["object"]["data"]["seen"].as_str().unwrap_or("nothing").to_owned();
        patch(&json!([{"op": "add", "path": "/data/first", "value": text}]))
    }))
    .await;
    let second =
        Hook::start(at_once(|_| patch(&json!([{"op": "add", "path": "/data/seen", "value": "second"}])))).await;
    let silent = Hook::start(at_once(|_| allow())).await;
    let hooks = json!([
        first.entry("first.example.com", json!({"reinvocationPolicy": "IfNeeded"})),
        second.entry("second.example.com", json!({})),
        silent.entry("third.example.com", json!({"reinvocationPolicy": "IfNeeded"})),
    ]);
    configure(&server, MUTATING, "m", hooks).await;
    let made = server.post(CONFIG_MAPS, &config_map("a", "x")).await.ok();
    assert_eq!(made["data"], json!({"k": "x", "first": "second", "seen": "second"}));
    let calls = [&first, &second, &silent].map(|hook| hook.seen.lock().len());
    assert_eq!(calls, [2, 1, 2], "who wants to know of later changes is asked again, once");
    let asked = first.seen.lock()[0].clone();
    let expected = json!({"group": "", "version": "v1", "kind": "ConfigMap"});
    assert_eq!((&asked["kind"], &asked["requestKind"]), (&expected, &expected));
    assert_eq!(asked["operation"], "CREATE");
    assert_eq!((&asked["namespace"], &asked["name"]), (&json!("default"), &json!("a")));
    assert_eq!((&asked["userInfo"]["username"], &asked["dryRun"]), (&json!("admin"), &json!(false)));
    assert_eq!((&asked["oldObject"], &asked["options"]["kind"]), (&Value::Null, &json!("CreateOptions")));

    server.merge(&format!("{CONFIG_MAPS}/a"), &json!({"data": {"k": "y"}})).await.ok();
    let asked = first.seen.lock().last().cloned().unwrap();
    assert_eq!((&asked["oldObject"]["data"]["k"], &asked["object"]["data"]["k"]), (&json!("x"), &json!("y")));
    assert_eq!(first.connections.load(Ordering::Relaxed), 1, "connections are used again");
    let metrics = server.get("/metrics").await;
    let text = String::from_utf8_lossy(&metrics.bytes).into_owned();
    let counted =
        "apiserver_admission_webhook_request_total{code=\"200\",name=\"first.example.com\",operation=\"CREATE\"";
    assert!(text.contains(counted), "{text}");
}

#[tokio::test]
async fn hooks_refuse_warn_and_are_not_asked_about_themselves() {
    let server = start().await;
    let hook = Hook::start(at_once(|request| {
        let mut answer = if request["object"]["data"]["k"] == "bad" || request["operation"] == "DELETE" {
            deny("not this one")
        } else {
            allow()
        };
        answer["warnings"] = json!(["think twice"]);
        answer
    }))
    .await;
    let everything = json!([{"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*/*"]}]);
    configure(&server, VALIDATING, "v", json!([hook.entry("v.example.com", json!({"rules": everything}))])).await;
    let refused = server.post(CONFIG_MAPS, &config_map("a", "bad")).await;
    assert_eq!(refused.warnings(), ["299 - \"think twice\""]);
    let why = "admission webhook \"v.example.com\" denied the request: not this one";
    assert_eq!(refused.refusal(), (403, "Forbidden".to_owned(), why.to_owned()));
    server.post(CONFIG_MAPS, &config_map("a", "good")).await.ok();
    let put = server.put(&format!("{CONFIG_MAPS}/a"), &config_map("a", "bad")).await;
    assert_eq!(put.refusal().2, why);
    assert_eq!(server.delete(&format!("{CONFIG_MAPS}/a")).await.refusal().2, why);
    let exec = server.post("/api/v1/namespaces/default/pods/p/exec?command=sh&stdin=true", &json!({})).await;
    assert_eq!(exec.code, 404, "a hook that does not mind leaves it at that: {:?}", exec.bytes);
    let asked = hook.seen.lock().last().cloned().unwrap();
    assert_eq!((&asked["operation"], &asked["subResource"]), (&json!("CONNECT"), &json!("exec")));
    assert_eq!(
        asked["object"],
        json!({"kind": "PodExecOptions", "apiVersion": "v1", "stdin": true, "command": ["sh"]})
    );
    forget(&server, "v").await;
    server.delete(&format!("{CONFIG_MAPS}/a")).await.ok();
}

#[tokio::test]
async fn what_cannot_be_asked_fails_as_it_was_told() {
    let server = start().await;
    let broken = Hook::start(Arc::new(|_| Box::pin(async { None }))).await;
    let other = Hook::start(at_once(|_| allow())).await;
    let liar = Hook::start(at_once(|_| json!({"uid": "other", "allowed": true}))).await;
    let moody = Hook::start(at_once(|_| allow())).await;
    let config = |url: &str, bundle: &str| json!({"url": url, "caBundle": bundle});
    let service = json!({"service": {"namespace": "default", "name": "nowhere", "path": "/x"}, "caBundle": ""});
    let cases = [
        (json!({}), &broken, "an error on the server (\"out of order\") has prevented the request from succeeding"),
        (
            json!({"clientConfig": config(&other.url, &broken.bundle)}),
            &other,
            "tls: failed to verify certificate: x509: certificate signed by unknown authority",
        ),
        (json!({}), &liar, "received invalid webhook response: expected response.uid="),
        (json!({"clientConfig": service}), &other, "service \"nowhere\" not found"),
        (
            json!({"clientConfig": config("https://127.0.0.1:1/x", &other.bundle)}),
            &other,
            "Post \"https://127.0.0.1:1/x?timeout=5s\": dial tcp 127.0.0.1:1: connect: connection refused",
        ),
    ];
    for (i, (otherwise, hook, why)) in cases.into_iter().enumerate() {
        for policy in ["Fail", "Ignore"] {
            let mut entry = hook.entry("h.example.com", otherwise.clone());
            entry["failurePolicy"] = json!(policy);
            let name = format!("v{i}");
            configure(&server, VALIDATING, &name, json!([entry])).await;
            let answer = server.post(CONFIG_MAPS, &config_map(&format!("a{i}-{}", policy.to_lowercase()), "x")).await;
            if policy == "Ignore" {
                answer.ok();
            } else {
                let (code, reason, message) = answer.refusal();
                assert_eq!((code, &*reason), (500, "InternalError"));
                let start = "Internal error occurred: failed calling webhook \"h.example.com\": ";
                assert!(message.starts_with(start) && message.contains(why), "{message}");
            }
            forget(&server, &name).await;
        }
    }
    let effects = json!([moody.entry("moody.example.com", json!({"sideEffects": "NoneOnDryRun"}))]);
    configure(&server, VALIDATING, "moody", effects).await;
    server.post(&format!("{CONFIG_MAPS}?dryRun=All"), &config_map("dry", "x")).await.ok();
    assert_eq!(moody.seen.lock()[0]["dryRun"], true);
}

#[tokio::test]
async fn a_hook_that_hangs_costs_only_its_own_requests() {
    let server = Arc::new(start().await);
    server
        .post("/api/v1/namespaces", &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "slow"}}))
        .await
        .ok();
    let (begun, end) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (told, wait) = (begun.clone(), end.clone());
    let hook = Hook::start(Arc::new(move |_| {
        let (told, wait) = (told.clone(), wait.clone());
        Box::pin(async move {
            told.notify_one();
            wait.notified().await;
            Some(allow())
        })
    }))
    .await;
    let only = json!({"matchLabels": {"kubernetes.io/metadata.name": "slow"}});
    let entry = |name: &str, other: Value| hook.entry(name, other);
    let hooks = json!([entry("h.example.com", json!({"namespaceSelector": only, "timeoutSeconds": 30}))]);
    configure(&server, VALIDATING, "v", hooks).await;
    let slow = async { server.post("/api/v1/namespaces/slow/configmaps", &config_map("a", "x")).await.ok() };
    let others = async {
        begun.notified().await;
        for i in 0..20 {
            server.post(CONFIG_MAPS, &config_map(&format!("c{i}"), "x")).await.ok();
        }
        end.notify_one();
    };
    futures::join!(slow, others);
    let impatient = json!([entry("h.example.com", json!({"namespaceSelector": only, "timeoutSeconds": 1}))]);
    configure(&server, VALIDATING, "w", impatient).await;
    forget(&server, "v").await;
    let late = server.post("/api/v1/namespaces/slow/configmaps", &config_map("b", "x")).await.refusal();
    assert!(late.2.ends_with("?timeout=1s\": context deadline exceeded"), "{late:?}");
}

#[tokio::test]
async fn hooks_choose_what_they_are_asked_about() {
    let server = start().await;
    let hook = Hook::start(at_once(|_| allow())).await;
    let hpa = json!([{"operations": ["CREATE"], "apiGroups": ["autoscaling"], "apiVersions": ["v2"],
        "resources": ["horizontalpodautoscalers"]}]);
    let hooks = json!([
        hook.entry("labels.example.com", json!({"objectSelector": {"matchLabels": {"app": "chosen"}}})),
        hook.entry(
            "cel.example.com",
            json!({"matchConditions": [
            {"name": "named", "expression": "object.metadata.name == 'named' && request.operation == 'CREATE'"}]})
        ),
        hook.entry("same.example.com", json!({"rules": hpa})),
        hook.entry("exact.example.com", json!({"rules": hpa, "matchPolicy": "Exact"})),
    ]);
    configure(&server, VALIDATING, "v", hooks).await;
    let asked = || std::mem::take(&mut *hook.seen.lock());
    server.post(CONFIG_MAPS, &config_map("a", "x")).await.ok();
    assert_eq!(asked().len(), 0);
    server.post(CONFIG_MAPS, &config_map("b", "chosen")).await.ok();
    assert_eq!(asked().len(), 1);
    server.post(CONFIG_MAPS, &config_map("named", "x")).await.ok();
    assert_eq!(asked().len(), 1);
    let old = json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"},
        "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 50,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}}});
    server.post("/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers", &old).await.ok();
    let asked = asked();
    assert_eq!(asked.len(), 1, "by whoever means all versions");
    assert_eq!((&asked[0]["kind"]["version"], &asked[0]["requestKind"]["version"]), (&json!("v2"), &json!("v1")));
    assert_eq!(asked[0]["object"]["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 50);
}

#[tokio::test]
async fn hooks_are_shown_who_asks() {
    let made = rcgen::generate_simple_self_signed(vec!["server".to_owned()]).unwrap();
    let files = tempfile::tempdir().unwrap();
    for (name, text) in [("crt", made.cert.pem()), ("key", made.signing_key.serialize_pem())] {
        std::fs::write(files.path().join(name), text).unwrap();
    }
    let kubeconfig = files.path().join("hooks");
    let users = json!([
        {"name": "127.0.0.1:*", "user": {"token": "not this one"}},
        {"name": "*", "user": {"token": "t0ken", "client-certificate": "crt", "client-key": "key"}},
    ]);
    std::fs::write(&kubeconfig, json!({"apiVersion": "v1", "kind": "Config", "users": users}).to_string()).unwrap();
    let told = json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "WebhookAdmissionConfiguration",
        "kubeConfigFile": kubeconfig});
    let config = json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AdmissionConfiguration",
        "plugins": [{"name": "ValidatingAdmissionWebhook", "configuration": told}]});
    let admission = AdmissionConfig::read(&config.to_string(), &|_| Err("no other".to_owned())).unwrap();
    let server = start_with(ServerConfig { admission, ..ServerConfig::default() }).await;
    let hook = Hook::start_for(at_once(|_| allow()), Some(&made.cert)).await;
    configure(&server, VALIDATING, "v", json!([hook.entry("v.example.com", json!({}))])).await;
    server.post(CONFIG_MAPS, &config_map("a", "x")).await.ok();
    assert_eq!(*hook.shown.lock(), ["Bearer t0ken"]);
    // The other plug-in was told nothing, and a stranger is not let in.
    forget(&server, "v").await;
    configure(&server, MUTATING, "m", json!([hook.entry("m.example.com", json!({}))])).await;
    assert_eq!(server.post(CONFIG_MAPS, &config_map("b", "x")).await.code, 500);
    assert_eq!(hook.seen.lock().len(), 1);
}

#[tokio::test]
async fn hooks_see_a_scale_and_may_change_it() {
    let server = start().await;
    let lower =
        Hook::start(at_once(|_| patch(&json!([{"op": "replace", "path": "/spec/replicas", "value": 4}])))).await;
    let look = Hook::start(at_once(|_| allow())).await;
    let rules = json!({"rules": [{"operations": ["UPDATE"], "apiGroups": ["apps"], "apiVersions": ["v1"],
        "resources": ["deployments/scale"]}]});
    configure(&server, MUTATING, "m", json!([lower.entry("m.example.com", rules.clone())])).await;
    configure(&server, VALIDATING, "v", json!([look.entry("v.example.com", rules)])).await;
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let labels = json!({"a": "b"});
    let template = json!({"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let spec = json!({"replicas": 2, "selector": {"matchLabels": labels}, "template": template});
    let tree = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": spec});
    server.post(deployments, &tree).await.ok();
    let scale = format!("{deployments}/d/scale");
    let scaled = server.merge(&scale, &json!({"spec": {"replicas": 9}})).await.ok();
    assert_eq!(scaled["spec"]["replicas"], 4);
    assert_eq!(server.get(&format!("{deployments}/d")).await.ok()["spec"]["replicas"], 4);
    let asked = [lower.seen.lock()[0].clone(), look.seen.lock()[0].clone()];
    for (asked, replicas) in asked.iter().zip([9, 4]) {
        assert_eq!(asked["kind"], json!({"group": "autoscaling", "version": "v1", "kind": "Scale"}));
        assert_eq!((&asked["resource"]["resource"], &asked["subResource"]), (&json!("deployments"), &json!("scale")));
        assert_eq!((&asked["object"]["kind"], &asked["oldObject"]["kind"]), (&json!("Scale"), &json!("Scale")));
        assert_eq!(asked["object"]["spec"]["replicas"], replicas);
        assert_eq!(asked["oldObject"]["spec"]["replicas"], 2);
        assert_eq!(asked["object"]["status"]["selector"], "a=b");
    }
}
