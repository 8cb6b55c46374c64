//! Subresources, graceful deletion, Services, namespaces: what is particular about some kinds.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use http::Method;
use serde_json::{Value, json};
use support::{Server, start};

const PODS: &str = "/api/v1/namespaces/default/pods";
const SERVICES: &str = "/api/v1/namespaces/default/services";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

/// Pods need their namespace's default service account.
async fn with_account() -> Server {
    let server = start().await;
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    server.post("/api/v1/namespaces/default/serviceaccounts", &account).await.ok();
    server
}

fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "a"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

fn deployment() -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "a"}},
            "template": {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
}

#[tokio::test]
async fn status_and_spec_are_written_apart() {
    let server = start().await;
    let made = server.post(DEPLOYMENTS, &deployment()).await.ok();
    assert_eq!(
        (&made["metadata"]["generation"], &made["spec"]["strategy"]["type"]),
        (&json!(1), &json!("RollingUpdate"))
    );
    let uri = format!("{DEPLOYMENTS}/d");
    let status = json!({"status": {"replicas": 2, "observedGeneration": 1}, "spec": {"replicas": 9}});
    let after = server.merge(&format!("{uri}/status"), &status).await.ok();
    assert_eq!((&after["status"]["replicas"], &after["spec"]["replicas"]), (&json!(2), &json!(2)));
    assert_eq!(after["metadata"]["generation"], 1);
    let both = json!({"status": {"replicas": 5}, "spec": {"replicas": 3}});
    let after = server.merge(&uri, &both).await.ok();
    assert_eq!((&after["status"]["replicas"], &after["spec"]["replicas"]), (&json!(2), &json!(3)));
    assert_eq!(after["metadata"]["generation"], 2);
    let fields = after["metadata"]["managedFields"].as_array().unwrap();
    assert!(fields.iter().any(|f| f["subresource"] == "status"));
}

#[tokio::test]
async fn scale_is_a_view_of_replicas() {
    let server = start().await;
    server.post(DEPLOYMENTS, &deployment()).await.ok();
    let uri = format!("{DEPLOYMENTS}/d/scale");
    let mut scale = server.get(&uri).await.ok();
    assert_eq!((&scale["kind"], &scale["spec"]["replicas"]), (&json!("Scale"), &json!(2)));
    assert_eq!(scale["status"]["selector"], "app=a");
    scale["spec"]["replicas"] = json!(5);
    assert_eq!(server.put(&uri, &scale).await.ok()["spec"]["replicas"], 5);
    assert_eq!(server.put(&uri, &scale).await.refusal().0, 409, "the version is no longer the newest");
    assert_eq!(server.merge(&uri, &json!({"spec": {"replicas": 1}})).await.ok()["spec"]["replicas"], 1);
    assert_eq!(server.merge(&uri, &json!({"spec": {"replicas": -1}})).await.refusal().0, 422);
    assert_eq!(server.get(&format!("{DEPLOYMENTS}/d")).await.ok()["spec"]["replicas"], 1);
    assert_eq!(server.get("/api/v1/namespaces/default/configmaps/a/scale").await.refusal().0, 404);
}

#[tokio::test]
async fn bindings_give_pods_their_node_once() {
    let server = with_account().await;
    server.post(PODS, &pod("p")).await.ok();
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}});
    let bound = server.post(&format!("{PODS}/p/binding"), &binding).await;
    assert_eq!((bound.code, bound.ok()["status"].clone()), (201, json!("Success")));
    let after = server.get(&format!("{PODS}/p")).await.ok();
    assert_eq!(after["spec"]["nodeName"], "n");
    let scheduled = &after["status"]["conditions"][0];
    assert_eq!((&scheduled["type"], &scheduled["status"]), (&json!("PodScheduled"), &json!("True")));
    let (code, reason, message) = server.post(&format!("{PODS}/p/binding"), &binding).await.refusal();
    assert_eq!((code, reason.as_str()), (409, "Conflict"));
    assert_eq!(message, "Operation cannot be fulfilled on pods/binding \"p\": pod p is already assigned to node \"n\"");
    let mine = "/api/v1/pods?fieldSelector=spec.nodeName%3Dn";
    assert_eq!(server.get(mine).await.ok()["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn node_agents_see_their_pods_come_and_go() {
    let server = with_account().await;
    let mut lines = server.watch("/api/v1/pods?watch=1&fieldSelector=spec.nodeName%3Dn", "*/*").await;
    for name in ["p", "q"] {
        server.post(PODS, &pod(name)).await.ok();
        let node = if name == "p" { "other" } else { "n" };
        let binding =
            json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": {"name": node}});
        server.post(&format!("{PODS}/{name}/binding"), &binding).await.ok();
    }
    assert_eq!(lines.told().await, "ADDED q");
    let marked = server.delete(&format!("{PODS}/q")).await.ok();
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30);
    assert_eq!(lines.told().await, "MODIFIED q");
    let now = json!({"gracePeriodSeconds": 0}).to_string();
    server.send(Method::DELETE, &format!("{PODS}/q"), &[], now).await.ok();
    assert_eq!(lines.told().await, "DELETED q");
    assert_eq!(server.get(&format!("{PODS}/q")).await.refusal().0, 404);
}

#[tokio::test]
async fn evictions_keep_budgets() {
    let server = with_account().await;
    for name in ["p", "q"] {
        server.post(PODS, &pod(name)).await.ok();
        let status = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
        server.merge(&format!("{PODS}/{name}/status"), &status).await.ok();
    }
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "a"}}}});
    server.post(budgets, &budget).await.ok();
    let status = json!({"status": {"observedGeneration": 1, "disruptionsAllowed": 1, "currentHealthy": 2,
        "desiredHealthy": 1, "expectedPods": 2}});
    server.merge(&format!("{budgets}/b/status"), &status).await.ok();
    let evict = |name: &str| json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
    let mut dry = evict("p");
    dry["deleteOptions"] = json!({"dryRun": ["All"]});
    server.post(&format!("{PODS}/p/eviction"), &dry).await.ok();
    let pod = server.get(&format!("{PODS}/p")).await.ok();
    let mut late = evict("p");
    late["deleteOptions"] = json!({"preconditions": {"resourceVersion": "1"}});
    assert_eq!(server.post(&format!("{PODS}/p/eviction"), &late).await.refusal().0, 409);
    // Neither leaves a trace; an eviction says on the pod why it goes, before it goes.
    assert_eq!(server.get(&format!("{PODS}/p")).await.ok(), pod);
    server.merge(&format!("{budgets}/b/status"), &json!({"status": {"disruptionsAllowed": 1}})).await.ok();
    let version = pod["metadata"]["resourceVersion"].as_str().unwrap();
    let mut events = server
        .watch(&format!("{PODS}?watch=1&resourceVersion={version}&fieldSelector=metadata.name%3Dp"), "application/json")
        .await;
    late["deleteOptions"] = json!({"preconditions": {"resourceVersion": version}});
    let evicted = server.post(&format!("{PODS}/p/eviction"), &late).await;
    assert_eq!(evicted.code, 201);
    let marked = events.next().await.unwrap();
    let condition = marked["object"]["status"]["conditions"][1].clone();
    assert_eq!((&marked["type"], &condition["type"]), (&json!("MODIFIED"), &json!("DisruptionTarget")));
    assert_eq!((&condition["status"], &condition["reason"]), (&json!("True"), &json!("EvictionByEvictionAPI")));
    assert_eq!(server.get(&format!("{PODS}/p")).await.refusal().0, 404, "pods without a node go at once");
    let (code, reason, message) = server.post(&format!("{PODS}/q/eviction"), &evict("q")).await.refusal();
    assert_eq!((code, reason.as_str()), (429, "TooManyRequests"));
    assert_eq!(message, "Cannot evict pod as it would violate the pod's disruption budget.");
    let after = server.get(&format!("{budgets}/b")).await.ok();
    assert_eq!(after["status"]["disruptionsAllowed"], 0);
    assert!(after["status"]["disruptedPods"]["p"].is_string());
}

fn service(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
}

#[tokio::test]
async fn services_get_addresses_and_ports_that_nobody_else_has() {
    let server = start().await;
    let api = server.get(&format!("{SERVICES}/kubernetes")).await.ok();
    assert_eq!(api["spec"]["clusterIP"], "10.43.0.1");
    let spec = json!({"selector": {"app": "a"}, "type": "NodePort", "ports": [{"port": 80}]});
    let made = server.post(SERVICES, &service("a", spec)).await.ok();
    let address = made["spec"]["clusterIP"].as_str().unwrap().to_owned();
    let port = made["spec"]["ports"][0]["nodePort"].as_i64().unwrap();
    assert!(address.starts_with("10.43.") && (30_000..=32_767).contains(&port));
    assert_eq!(made["spec"]["clusterIPs"], json!([address]));
    let held = server.get(&format!("/apis/networking.k8s.io/v1/ipaddresses/{address}")).await.ok();
    assert_eq!(held["spec"]["parentRef"]["name"], "a");

    let same = json!({"clusterIP": address, "ports": [{"port": 80}]});
    let (code, reason, message) = server.post(SERVICES, &service("b", same)).await.refusal();
    assert_eq!((code, reason.as_str()), (422, "Invalid"));
    assert!(message.ends_with("provided IP is already allocated"), "{message}");
    let same = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]});
    let (_, _, message) = server.post(SERVICES, &service("b", same)).await.refusal();
    assert!(message.contains("provided port is already allocated"), "{message}");
    let outside = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 80}]});
    let (_, _, message) = server.post(SERVICES, &service("b", outside)).await.refusal();
    assert!(message.contains("provided port is not in the valid range"), "{message}");

    // Back to ClusterIP: the port is free again, the address stays.
    let mut changed = made.clone();
    changed["spec"]["type"] = json!("ClusterIP");
    changed["spec"]["ports"] = json!([{"port": 80}]);
    let changed = server.put(&format!("{SERVICES}/a"), &changed).await.ok();
    assert_eq!((&changed["spec"]["clusterIP"], changed["spec"]["ports"][0].get("nodePort")), (&json!(address), None));
    let taken = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]});
    server.post(SERVICES, &service("b", taken)).await.ok();
    server.delete(&format!("{SERVICES}/a")).await.ok();
    assert_eq!(server.get(&format!("/apis/networking.k8s.io/v1/ipaddresses/{address}")).await.refusal().0, 404);
    server.post(SERVICES, &service("c", json!({"clusterIP": address, "ports": [{"port": 1}]}))).await.ok();

    let headless =
        server.post(SERVICES, &service("h", json!({"clusterIP": "None", "selector": {"a": "b"}}))).await.ok();
    assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
    let external = json!({"type": "ExternalName", "externalName": "example.com"});
    let external = server.post(SERVICES, &service("e", external)).await.ok();
    assert_eq!(external["spec"].get("clusterIP"), None);
}

#[tokio::test]
async fn services_made_at_once_get_different_addresses() {
    let server = start().await;
    let spec = json!({"type": "NodePort", "ports": [{"port": 80}]});
    let made = futures::future::join_all((0..30).map(|i| {
        let (server, spec) = (&server, spec.clone());
        async move { server.post(SERVICES, &service(&format!("s{i}"), spec)).await.ok() }
    }))
    .await;
    let addresses: std::collections::HashSet<_> = made.iter().map(|s| s["spec"]["clusterIP"].to_string()).collect();
    let ports: std::collections::HashSet<_> =
        made.iter().map(|s| s["spec"]["ports"][0]["nodePort"].to_string()).collect();
    assert_eq!((addresses.len(), ports.len()), (30, 30));
}

#[tokio::test]
async fn namespaces_go_in_two_steps() {
    let server = start().await;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "gone"}});
    let made = server.post("/api/v1/namespaces", &namespace).await.ok();
    assert_eq!((&made["spec"]["finalizers"], &made["status"]["phase"]), (&json!(["kubernetes"]), &json!("Active")));
    let marked = server.delete("/api/v1/namespaces/gone").await.ok();
    assert_eq!(marked["status"]["phase"], "Terminating");
    let refused = server.post("/api/v1/namespaces/gone/configmaps", &support::config_map("a", "x")).await.refusal();
    assert_eq!((refused.0, refused.1.as_str()), (403, "Forbidden"));
    let mut done = marked.clone();
    done["spec"]["finalizers"] = json!([]);
    server.put("/api/v1/namespaces/gone/finalize", &done).await.ok();
    assert_eq!(server.get("/api/v1/namespaces/gone").await.refusal().0, 404);
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        server.get(&format!("/api/v1/namespaces/{name}")).await.ok();
    }
}

#[tokio::test]
async fn events_are_the_same_in_both_groups() {
    let server = start().await;
    let event = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"}, "reason": "R", "message": "m",
        "type": "Normal", "involvedObject": {"kind": "Pod", "namespace": "default", "name": "p"}, "count": 1});
    server.post("/api/v1/namespaces/default/events", &event).await.ok();
    let other = server.get("/apis/events.k8s.io/v1/namespaces/default/events/e").await.ok();
    assert_eq!(
        (&other["apiVersion"], &other["note"], &other["regarding"]["name"]),
        (&json!("events.k8s.io/v1"), &json!("m"), &json!("p"))
    );
    let found = server.get("/api/v1/events?fieldSelector=involvedObject.name%3Dp").await.ok();
    assert_eq!(found["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn autoscalers_of_the_old_version_are_the_same_objects() {
    let server = start().await;
    let scaler = json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "a"},
        "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}, "maxReplicas": 3,
            "targetCPUUtilizationPercentage": 50}});
    let old = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers";
    let made = server.post(old, &scaler).await.ok();
    assert_eq!((&made["apiVersion"], &made["spec"]["minReplicas"]), (&json!("autoscaling/v1"), &json!(1)));
    let new = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers/a";
    let read = server.get(new).await.ok();
    assert_eq!(read["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 50);
    let patched =
        server.merge(&format!("{old}/a"), &json!({"spec": {"targetCPUUtilizationPercentage": 60}})).await.ok();
    assert_eq!(patched["spec"]["targetCPUUtilizationPercentage"], 60);
    assert_eq!(server.get(new).await.ok()["spec"]["metrics"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn component_statuses_are_computed() {
    let server = start().await;
    let all = server.get("/api/v1/componentstatuses").await;
    assert_eq!(all.warnings().len(), 1);
    assert_eq!(all.ok()["items"][0]["conditions"][0]["status"], "True");
    assert_eq!(server.get("/api/v1/componentstatuses/none").await.refusal().0, 404);
}

#[tokio::test]
async fn traces_ride_with_writes() {
    let server = start().await;
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let headers = [("content-type", "application/json"), ("traceparent", parent), ("audit-id", "mine")];
    let body = support::config_map("a", "x").to_string();
    let made = server.send(Method::POST, support::CONFIG_MAPS, &headers, body).await;
    assert_eq!(made.headers["audit-id"], "mine");
    let id = skiff_meta::GroupResource::new("", "configmaps");
    server.api.view().refresh(&id).await.unwrap();
    let object = server.api.view().get(&id, "default", "a").unwrap();
    assert_eq!(object.trace().unwrap().trace_id, 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
}

#[tokio::test]
async fn certificate_requests_say_who_made_them() {
    let server = support::start().await;
    let request = skiff_server::pki::KeyedRequest::client("system:node:n1", "system:nodes").unwrap().request;
    let body = json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": {"name": "r"}, "spec": {"signerName": "kubernetes.io/kube-apiserver-client-kubelet",
            "usages": ["digital signature", "client auth"], "request": k8s_openapi::ByteString(request.into_bytes()),
            "username": "system:node:n1", "groups": ["system:masters"], "uid": "made up"}});
    let made = server.post("/apis/certificates.k8s.io/v1/certificatesigningrequests", &body).await.ok();
    let admin = support::admin();
    assert_eq!(made["spec"]["username"], json!(admin.name));
    assert_eq!(made["spec"]["groups"], json!(admin.groups));
    assert_eq!(made["spec"].get("uid").cloned().unwrap_or_default(), json!(null));
}
