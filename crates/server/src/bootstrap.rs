//! What exists from the first start on: namespaces, the `kubernetes` Service, priority classes, RBAC's defaults.
//!
//! Everything goes through the same pipeline as any request, by a member of `system:masters`, all at once, so that a
//! store with group commit needs a few syncs and not a hundred.

mod ranges;

use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;
use http::{Method, Request};
use serde_json::{Value, json};
use skiff_meta::{GroupVersionKind, Status};

use crate::api::Api;
use crate::chain::{Identity, User};
use crate::error::ServerError;
use crate::resource::registry::Registry;
use crate::respond::body::full;
use crate::tree;

/// The user of what the server does by itself.
pub(crate) fn apiserver() -> Arc<User> {
    Arc::new(User::new("system:apiserver", &["system:masters", "system:authenticated"]))
}

/// Creates what is missing.
pub(crate) async fn run(api: &Arc<Api>) -> Result<(), ServerError> {
    create_all(api, namespaces()).await?;
    let mut rest = priority_classes();
    rest.extend(api_services(&api.catalog.registry()));
    rest.extend(api.chain.defaults.iter().cloned());
    create_all(api, rest).await?;
    ranges::declare(api).await?;
    crate::tokens::declare(api).await?;
    publish(api).await
}

async fn create_all(api: &Arc<Api>, objects: Vec<Value>) -> Result<(), ServerError> {
    let results = join_all(objects.into_iter().map(|o| create(api, o))).await;
    results.into_iter().collect()
}

fn what(object: &Value) -> String {
    format!("{} {}", tree::text(object, &["kind"]), tree::text(object, &["metadata", "name"]))
}

/// Creates one object unless it is there; a default role or binding that lacks something gets it.
async fn create(api: &Arc<Api>, object: Value) -> Result<(), ServerError> {
    let fail = |status: Status| ServerError::Bootstrap { what: what(&object), status };
    let (group, version) = match tree::text(&object, &["apiVersion"]).split_once('/') {
        Some((group, version)) => (group, version),
        None => ("", tree::text(&object, &["apiVersion"])),
    };
    let gvk = GroupVersionKind::new(group, version, tree::text(&object, &["kind"]));
    let served = api.catalog.registry().by_kind(&gvk).ok_or_else(|| fail(Status::no_such_path()))?;
    let namespace = tree::text(&object, &["metadata", "namespace"]);
    let key = served.key(namespace, tree::text(&object, &["metadata", "name"]));
    let existing = served.resource.cache.as_ref().and_then(|c| c.get(&key));
    let start = if group.is_empty() { "/api".to_owned() } else { format!("/apis/{group}") };
    let scope = if namespace.is_empty() { String::new() } else { format!("/namespaces/{namespace}") };
    let uri = format!("{start}/{version}{scope}/{}", served.resource.names.plural);
    if let Some(existing) = existing {
        let existing = existing.to_value().map_err(|e| fail(Status::internal(e)))?;
        let updated = match tree::text(&object, &["kind"]) {
            // How to know our clients may have changed with our authorities.
            "ConfigMap" => (existing["data"] != object["data"]).then(|| object.clone()),
            _ => crate::auth::reconciled(&existing, &object),
        };
        let Some(updated) = updated else { return Ok(()) };
        let uri = format!("{uri}/{}", tree::text(&object, &["metadata", "name"]));
        return match send(api, Method::PUT, &uri, &updated).await {
            // Another server was faster, with the same.
            Err(status) if status.is("Conflict") => Ok(()),
            other => other.map(|_| ()).map_err(fail),
        };
    }
    match send(api, Method::POST, &uri, &object).await {
        Err(status) if status.is("AlreadyExists") => Ok(()),
        other => other.map(|_| ()).map_err(fail),
    }
}

/// One request by the server itself; the answer's object.
pub(crate) async fn send(api: &Arc<Api>, method: Method, uri: &str, body: &Value) -> Result<Value, Status> {
    send_as(api, method, uri, body, "application/json").await
}

/// Server-side apply by the server itself.
pub(crate) async fn apply(api: &Arc<Api>, uri: &str, body: &Value) -> Result<Value, Status> {
    send_as(api, Method::PATCH, uri, body, "application/apply-patch+yaml").await
}

/// A merge patch by the server itself.
pub(crate) async fn merge(api: &Arc<Api>, uri: &str, body: &Value) -> Result<Value, Status> {
    send_as(api, Method::PATCH, uri, body, "application/merge-patch+json").await
}

async fn send_as(
    api: &Arc<Api>,
    method: Method,
    uri: &str,
    body: &Value,
    media: &'static str,
) -> Result<Value, Status> {
    let bytes = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
    let mut request = Request::new(full(bytes));
    *request.method_mut() = method;
    *request.uri_mut() = uri.parse().map_err(Status::internal)?;
    let agent = http::HeaderValue::from_static("kube-apiserver/v1");
    request.headers_mut().insert(http::header::USER_AGENT, agent);
    request.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(media));
    let response = Box::pin(api.handle(request, Identity::Bound(apiserver()))).await;
    let code = response.status();
    let bytes = http_body_util::BodyExt::collect(response.into_body()).await.map_err(Status::internal)?.to_bytes();
    if code.is_success() {
        return serde_json::from_slice(&bytes).map_err(Status::internal);
    }
    Err(serde_json::from_slice(&bytes).unwrap_or_else(|_| Status::internal(String::from_utf8_lossy(&bytes))))
}

fn namespaces() -> Vec<Value> {
    ["default", "kube-system", "kube-public", "kube-node-lease"]
        .map(|name| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))
        .to_vec()
}

fn priority_classes() -> Vec<Value> {
    let class = |name: &str, value: i64, description: &str| {
        json!({
            "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name},
            "value": value, "description": description,
        })
    };
    vec![
        class(
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        ),
        class(
            "system-node-critical",
            2_000_001_000,
            "Used for system critical pods that must not be moved from their current node.",
        ),
    ]
}

/// Which group comes first where several know a name (upstream: `pkg/controlplane/apiserver/aggregator.go` and
/// `cmd/kube-apiserver/app/aggregator.go`). The group of APIServices has none itself.
const GROUPS: &[(&str, i64)] = &[
    ("", 18_000),
    ("apps", 17_800),
    ("events.k8s.io", 17_750),
    ("authentication.k8s.io", 17_700),
    ("authorization.k8s.io", 17_600),
    ("autoscaling", 17_500),
    ("batch", 17_400),
    ("certificates.k8s.io", 17_300),
    ("networking.k8s.io", 17_200),
    ("policy", 17_100),
    ("rbac.authorization.k8s.io", 17_000),
    ("storage.k8s.io", 16_800),
    ("apiextensions.k8s.io", 16_700),
    ("admissionregistration.k8s.io", 16_700),
    ("scheduling.k8s.io", 16_600),
    ("coordination.k8s.io", 16_500),
    ("node.k8s.io", 16_300),
    ("discovery.k8s.io", 16_200),
    ("flowcontrol.apiserver.k8s.io", 16_100),
    ("resource.k8s.io", 16_200),
    // Elsewhere the group of an extension server; this is what that one asks for.
    ("metrics.k8s.io", 100),
];

/// Which version of a group comes first, where it is not 15.
fn version_priority(group: &str, version: &str) -> i64 {
    match (group, version) {
        ("", _) => 1,
        ("autoscaling", "v2") => 30,
        ("flowcontrol.apiserver.k8s.io" | "resource.k8s.io", _) => 21,
        ("metrics.k8s.io", _) => 100,
        _ => 15,
    }
}

/// The group versions this server serves itself, as APIService objects; those of custom kinds come with their definitions.
fn api_services(registry: &Registry) -> Vec<Value> {
    let own = |name: &str| GROUPS.iter().find(|(group, _)| *group == name);
    let groups = registry.groups().iter().filter_map(|group| Some((group, own(&group.name)?.1)));
    let versions = groups.flat_map(|(group, minimum)| group.versions.iter().map(move |v| (&*group.name, v, minimum)));
    versions
        .map(|(group, version, minimum)| {
            json!({
                "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
                "metadata": {
                    "name": format!("{version}.{group}"),
                    "labels": {"kube-aggregator.kubernetes.io/automanaged": "onstart"},
                },
                "spec": {
                    "group": group, "version": version, "groupPriorityMinimum": minimum,
                    "versionPriority": version_priority(group, version),
                },
            })
        })
        .collect()
}

/// The Service through which pods reach the servers.
async fn publish(api: &Arc<Api>) -> Result<(), ServerError> {
    let port = api.address().port();
    let first = api.config.kubernetes_address();
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": "kubernetes", "namespace": "default",
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "type": "ClusterIP", "clusterIP": first, "sessionAffinity": "None",
            "ports": [{"name": "https", "protocol": "TCP", "port": 443, "targetPort": port.max(1)}],
        },
    });
    ensure(api, "/api/v1/namespaces/default/services", service).await
}

/// Creates an object, or brings an older one up to date; other servers may be doing the same. Asking first matters: a
/// second `kubernetes` Service would be refused for its address, which the first one holds.
pub(crate) async fn ensure(api: &Arc<Api>, uri: &str, object: Value) -> Result<(), ServerError> {
    let own = format!("{uri}/{}", tree::text(&object, &["metadata", "name"]));
    let mut refused = None;
    for _ in 0..3 {
        let written = match send(api, Method::GET, &own, &Value::Null).await {
            Ok(found) if says_the_same(&found, &object) => return Ok(()),
            Ok(_) => send(api, Method::PUT, &own, &object).await,
            Err(status) if status.is("NotFound") => send(api, Method::POST, uri, &object).await,
            Err(status) => Err(status),
        };
        match written {
            Ok(_) => return Ok(()),
            Err(status) => refused = Some(status),
        }
    }
    let status = refused.unwrap_or_else(|| Status::internal("never tried"));
    Err(ServerError::Bootstrap { what: what(&object), status })
}

/// Whether all that `wanted` says at the top, but for metadata and defaults within, is what `found` says.
fn says_the_same(found: &Value, wanted: &Value) -> bool {
    let members = wanted.as_object().into_iter().flatten().filter(|(name, _)| *name != "metadata");
    members.into_iter().all(|(name, value)| found.get(name) == Some(value))
        && tree::at(found, &["metadata", "labels"]) == tree::at(wanted, &["metadata", "labels"])
}
