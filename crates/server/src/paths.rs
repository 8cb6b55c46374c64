//! Paths that are no resource: discovery, health, version, metrics.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, header};
use serde_json::json;
use skiff_client::Body;
use skiff_meta::{GroupVersion, Status};

use crate::api::Api;
use crate::openapi::{self, CustomKind};
use crate::request::Query;
use crate::resource::Resource;
use crate::resource::discovery::{AGGREGATED_TYPE, wants_aggregated};
use crate::{error, respond, tree};

const JSON: &str = "application/json";

/// Answers a path.
pub(crate) async fn serve(
    api: &Arc<Api>,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
    query: &Query,
) -> Result<Response<Body>, Status> {
    if *method != Method::GET && *method != Method::HEAD {
        return Err(Status::no_such_path());
    }
    if let Some(document) = api.chain.documents.get(path) {
        return Ok(respond::whole(200, document.content_type, document.body.clone(), false));
    }
    match path {
        "/healthz" | "/livez" | "/readyz" => return Ok(health(api, path, query).await),
        "/version" | "/version/" => return Ok(respond::whole(200, JSON, version(), false)),
        crate::snapshot::PATH => return crate::snapshot::save(api).await,
        "/metrics" => return Ok(respond::text(200, api.metrics.text(api))),
        "/" => return Ok(respond::whole(200, JSON, index(api), false)),
        _ => {}
    }
    if let Some(check) = ["/healthz/", "/livez/", "/readyz/"].iter().find_map(|p| path.strip_prefix(p)) {
        return single_check(api, check).await;
    }
    if path.starts_with("/openapi/") {
        return openapi(api, path, headers, query).await;
    }
    if let Some(found) = discovery(api, path, headers).await? {
        return Ok(found);
    }
    Err(Status::no_such_path())
}

async fn discovery(api: &Arc<Api>, path: &str, headers: &HeaderMap) -> Result<Option<Response<Body>>, Status> {
    let path = path.trim_end_matches('/');
    if path != "/api" && path != "/apis" && !path.starts_with("/api/") && !path.starts_with("/apis/") {
        return Ok(None);
    }
    let accept: Vec<&str> = headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok()).collect();
    let aggregated = wants_aggregated(&accept.join(",")) && matches!(path, "/api" | "/apis");
    let gzip = accepts_gzip(headers);
    let address = api.address().to_string();
    // A definition may have been acknowledged a moment ago.
    api.feed.catch_up().await.map_err(|e| error::catch_up(&e))?;
    let document = api.catalog.registry().document(path, aggregated, &address);
    let content_type = if aggregated { AGGREGATED_TYPE } else { JSON };
    Ok(document.map(|bytes| {
        let mut response = respond::whole(200, content_type, bytes, gzip);
        response.headers_mut().append(header::VARY, HeaderValue::from_static("Accept"));
        response
    }))
}

/// OpenAPI documents, of every definition acknowledged so far too.
async fn openapi(api: &Arc<Api>, path: &str, headers: &HeaderMap, query: &Query) -> Result<Response<Body>, Status> {
    api.feed.catch_up().await.map_err(|e| error::catch_up(&e))?;
    let registry = api.catalog.registry();
    let custom: Vec<CustomKind<'_>> = registry.resources().iter().flat_map(|r| custom_kinds(r)).collect();
    let gzip = accepts_gzip(headers);
    let document = |tree: &serde_json::Value| respond::whole(200, JSON, respond::encode::json(tree, false), gzip);
    match path {
        "/openapi/v3" | "/openapi/v3/" => return Ok(document(&openapi::v3_index(&custom))),
        "/openapi/v2" if !wants_json(headers) => return Err(only_json()),
        "/openapi/v2" => return Ok(document(&openapi::v2_document(&custom))),
        _ => {}
    }
    let rest = path.strip_prefix("/openapi/v3/").ok_or_else(Status::no_such_path)?;
    let gv = match rest.strip_prefix("apis/").and_then(|r| r.split_once('/')) {
        Some((group, version)) => GroupVersion::new(group, version),
        None => GroupVersion::new("", rest.strip_prefix("api/").ok_or_else(Status::no_such_path)?),
    };
    let hash = openapi::hash(&gv, &custom);
    let tag = HeaderValue::from_str(&format!("\"{hash}\"")).map_err(Status::internal)?;
    let known = headers.get(header::IF_NONE_MATCH) == Some(&tag);
    let mut response = if known {
        respond::text(304, "")
    } else {
        document(&openapi::v3_document(&gv, &custom).ok_or_else(Status::no_such_path)?)
    };
    if query.get("hash") == Some(&hash) {
        let forever = HeaderValue::from_static("public, immutable");
        response.headers_mut().insert(header::CACHE_CONTROL, forever);
    }
    response.headers_mut().insert(header::ETAG, tag);
    Ok(response)
}

/// Whether JSON is among what is accepted; the old document's protobuf form is not there.
fn wants_json(headers: &HeaderMap) -> bool {
    let mut accepted = headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok()).peekable();
    let json = |types: &str| types.split(',').any(|t| matches!(media_type(t), JSON | "*/*" | "application/*"));
    accepted.peek().is_none() || accepted.any(json)
}

fn media_type(accepted: &str) -> &str {
    accepted.split(';').next().unwrap_or_default().trim()
}

fn only_json() -> Status {
    Status::not_acceptable(format!("only the following media types are accepted: {JSON}"))
}

/// A custom resource's versions, as the documents want them.
fn custom_kinds(resource: &Resource) -> Vec<CustomKind<'_>> {
    let versions = resource.definition.as_ref().and_then(|d| tree::at(d, &["spec", "versions"]));
    let of_version = |version: &str| {
        let all = versions.and_then(serde_json::Value::as_array)?;
        all.iter().find(|v| v["name"] == version)?.pointer("/schema/openAPIV3Schema")
    };
    resource
        .versions
        .iter()
        .filter(|_| resource.custom)
        .map(|version| CustomKind {
            group: &resource.id.group,
            version: &version.gvk.version,
            kind: &resource.names.kind,
            list_kind: &resource.names.list_kind,
            plural: &resource.names.plural,
            namespaced: resource.namespaced,
            schema: of_version(&version.gvk.version),
            status: version.subresource("status").is_some(),
            scale: version.subresource("scale").is_some(),
        })
        .collect()
}

fn accepts_gzip(headers: &HeaderMap) -> bool {
    let text = headers.get(header::ACCEPT_ENCODING).and_then(|v| v.to_str().ok()).unwrap_or_default();
    text.contains("gzip")
}

fn version() -> Bytes {
    let platform = format!("linux/{}", if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" });
    let version = json!({
        "major": "1", "minor": "36", "emulationMajor": "1", "emulationMinor": "36",
        "minCompatibilityMajor": "1", "minCompatibilityMinor": "35",
        "gitVersion": concat!("v1.36.2+skiff-", env!("CARGO_PKG_VERSION")), "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "none", "compiler": "rustc", "platform": platform,
    });
    respond::encode::json(&version, true)
}

fn index(api: &Api) -> Bytes {
    let registry = api.catalog.registry();
    let mut paths = vec!["/api".to_owned(), "/api/v1".to_owned(), "/apis".to_owned(), "/apis/".to_owned()];
    for group in registry.groups().iter().filter(|g| !g.name.is_empty()) {
        paths.push(format!("/apis/{}", group.name));
        paths.extend(group.versions.iter().map(|v| format!("/apis/{}/{v}", group.name)));
    }
    paths.extend(["/healthz", "/livez", "/metrics", "/openapi/v3", "/readyz", "/version"].map(str::to_owned));
    paths.sort();
    respond::encode::json(&json!({"paths": paths}), true)
}

/// The checks, by name.
const CHECKS: [&str; 3] = ["ping", "etcd", "informer-sync"];

async fn passes(api: &Api, check: &str) -> Option<bool> {
    match check {
        "ping" => Some(true),
        "etcd" => Some(api.store.revision().await.is_ok()),
        "informer-sync" => Some(api.feed.catch_up().await.is_ok()),
        _ => None,
    }
}

async fn single_check(api: &Api, check: &str) -> Result<Response<Body>, Status> {
    match passes(api, check).await {
        Some(true) => Ok(respond::text(200, "ok")),
        Some(false) => Ok(respond::text(500, format!("internal server error: {check} check failed"))),
        None => Err(Status::no_such_path()),
    }
}

async fn health(api: &Api, path: &str, query: &Query) -> Response<Body> {
    let mut lines = String::new();
    let mut healthy = true;
    for check in CHECKS {
        if query.all("exclude").any(|e| e == check) {
            lines.push_str(&format!("[+]{check} excluded: ok\n"));
            continue;
        }
        let ok = passes(api, check).await == Some(true);
        healthy &= ok;
        lines.push_str(&if ok { format!("[+]{check} ok\n") } else { format!("[-]{check} failed: reason withheld\n") });
    }
    let name = path.trim_start_matches('/');
    match (healthy, query.get("verbose").is_some()) {
        (true, false) => respond::text(200, "ok"),
        (true, true) => respond::text(200, format!("{lines}{name} check passed\n")),
        (false, _) => respond::text(500, format!("{lines}{name} check failed\n")),
    }
}
