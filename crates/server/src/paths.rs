//! Paths that are no resource: discovery, health, version, metrics.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, header};
use serde_json::{Value, json};
use skiff_client::Body;
use skiff_meta::Status;

use crate::api::{Api, method_not_allowed};
use crate::openapi;
use crate::request::media::Offer;
use crate::request::{Accept, Encoding, Query};
use crate::resource::discovery::{AGGREGATED_TYPE, wants_aggregated};
use crate::{error, respond};

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
        let routed = matches!(path.trim_end_matches('/'), "/version" | "/api" | "/apis" | "/api/v1")
            || path
                .strip_prefix("/apis/")
                .is_some_and(|group| api.catalog.registry().document(path, false, "").is_some() && !group.is_empty());
        return if routed { Err(method_not_allowed()) } else { Ok(respond::no_page()) };
    }
    if let Some(document) = api.chain.documents.get(path) {
        return Ok(respond::whole(200, document.content_type, document.body.clone(), false));
    }
    match path {
        "/version" | "/version/" => return Ok(respond::whole(200, JSON, version(), false)),
        crate::snapshot::PATH => return crate::snapshot::save(api).await,
        "/metrics" => return Ok(respond::text(200, api.metrics.text(api))),
        "/" => return Ok(respond::whole(200, JSON, index(api), false)),
        _ => {}
    }
    if let Some(answer) = crate::health::serve(api, path, query).await {
        return Ok(answer);
    }
    if let Some(name) = path.strip_prefix(crate::flow::DUMPS) {
        let details = !query.text("includeRequestDetails").is_empty();
        let dump = api.flow.as_ref().and_then(|flow| flow.dump(name, details));
        return Ok(dump.map_or_else(respond::no_page, |text| respond::text(200, text)));
    }
    if path.starts_with("/openapi/") {
        return openapi::serve::serve(api, path, headers, query).await;
    }
    if let Some(found) = discovery(api, path, headers).await? {
        return Ok(found);
    }
    Ok(respond::no_page())
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
    let document = api.chain.aggregator.discovery(path, aggregated, document);
    let Some(bytes) = document else { return Ok(None) };
    let (content_type, bytes) = if aggregated { (AGGREGATED_TYPE, bytes) } else { negotiated(headers, bytes)? };
    let mut response = respond::whole(200, content_type, bytes, gzip);
    response.headers_mut().append(header::VARY, HeaderValue::from_static("Accept"));
    Ok(Some(response))
}

/// A document of discovery in the form asked for.
fn negotiated(headers: &HeaderMap, json: Bytes) -> Result<(&'static str, Bytes), Status> {
    let offer = Offer {
        protobuf: true,
        stream: false,
        streams: false,
        list: false,
        shapes: false,
        tables: false,
        routed: true,
    };
    let accept = Accept::negotiate(headers, Some(false), offer)?;
    let bytes = match accept.encoding {
        Encoding::Json => json,
        encoding => {
            let mut tree: Value = serde_json::from_slice(&json).map_err(Status::internal)?;
            if encoding == Encoding::Protobuf {
                // Documents of the core group do not say it, envelopes do.
                tree["apiVersion"] = json!("v1");
            }
            respond::encode::tree(&tree, accept)?
        }
    };
    Ok((accept.encoding.content_type(), bytes))
}

pub(crate) fn accepts_gzip(headers: &HeaderMap) -> bool {
    let text = headers.get(header::ACCEPT_ENCODING).and_then(|v| v.to_str().ok()).unwrap_or_default();
    text.contains("gzip")
}

/// What we call ourselves.
pub(crate) const GIT_VERSION: &str = concat!("v1.36.2+skiff-", env!("CARGO_PKG_VERSION"));

fn version() -> Bytes {
    let platform = format!("linux/{}", if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" });
    let version = json!({
        "major": "1", "minor": "36", "emulationMajor": "1", "emulationMinor": "36",
        "minCompatibilityMajor": "1", "minCompatibilityMinor": "35",
        "gitVersion": GIT_VERSION, "gitCommit": "", "gitTreeState": "clean",
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
