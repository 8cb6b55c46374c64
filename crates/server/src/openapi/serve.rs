//! Who asks for which document, in which form.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Response, header};
use serde_json::Value;
use skiff_client::Body;
use skiff_meta::{GroupVersion, Status};

use super::protobuf::{self, Message, V2, V3};
use super::{CustomKind, hash, hash_of_all, paths, v2_document, v3_document, v3_index};
use crate::api::Api;
use crate::paths::accepts_gzip;
use crate::request::Query;
use crate::request::media::first_on_offer;
use crate::resource::Resource;
use crate::{error, respond, tree};

const JSON: &str = "application/json";

/// A form of the documents: what it is called when asked for and when answered, and its numbers.
struct Family {
    /// JSON first, then protobuf's name and its older spelling.
    on_offer: [&'static str; 3],
    message: &'static Message,
}

const OLDER: Family = Family {
    on_offer: [
        JSON,
        "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
        "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
    ],
    message: &V2,
};
const NEWER: Family = Family {
    on_offer: [
        JSON,
        "application/com.github.proto-openapi.spec.v3.v1.0+protobuf",
        "application/com.github.proto-openapi.spec.v3@v1.0+protobuf",
    ],
    message: &V3,
};

/// OpenAPI documents, of every definition acknowledged so far too.
pub(crate) async fn serve(
    api: &Arc<Api>,
    path: &str,
    headers: &HeaderMap,
    query: &Query,
) -> Result<Response<Body>, Status> {
    api.feed.catch_up().await.map_err(|e| error::catch_up(&e))?;
    let registry = api.catalog.registry();
    let custom: Vec<CustomKind<'_>> = registry.resources().iter().flat_map(|r| custom_kinds(r)).collect();
    match path {
        "/openapi/v3" | "/openapi/v3/" => {
            let mut index = v3_index(&custom);
            api.chain.aggregator.openapi_index(&mut index);
            let bytes = respond::encode::json(&index, false);
            return Ok(respond::whole(200, JSON, bytes, accepts_gzip(headers)));
        }
        "/openapi/v2" => {
            let others = &api.chain.aggregator;
            let whole = || {
                let mut document = v2_document(&custom);
                others.openapi_v2(&mut document);
                Some(document)
            };
            let hash = format!("{}{}", hash_of_all(&custom), others.openapi_mark());
            return tagged(api, &OLDER, headers, &hash, whole).await;
        }
        _ => {}
    }
    let rest = path.strip_prefix("/openapi/v3/").ok_or_else(Status::no_such_path)?;
    let gv = match rest.strip_prefix("apis/").and_then(|r| r.split_once('/')) {
        Some((group, version)) => GroupVersion::new(group, version),
        None => GroupVersion::new("", rest.strip_prefix("api/").ok_or_else(Status::no_such_path)?),
    };
    let hash = hash(&gv, &custom);
    let asked = query.get("hash").filter(|asked| !asked.is_empty());
    if asked.is_some_and(|asked| *asked != hash) {
        let mut moved = respond::text(301, "");
        let place = format!("/openapi/v3{}?hash={hash}", paths::base(&gv));
        moved.headers_mut().insert(header::LOCATION, HeaderValue::from_str(&place).map_err(Status::internal)?);
        return Ok(moved);
    }
    let mut response = tagged(api, &NEWER, headers, &hash, || v3_document(&gv, &custom)).await?;
    if asked.is_some() {
        let forever = HeaderValue::from_static("public, immutable");
        response.headers_mut().insert(header::CACHE_CONTROL, forever);
    }
    Ok(response)
}

/// The document in the form asked for, unless the client has it already.
async fn tagged(
    api: &Api,
    family: &Family,
    headers: &HeaderMap,
    hash: &str,
    document: impl FnOnce() -> Option<Value> + Send,
) -> Result<Response<Body>, Status> {
    let Some(chosen) = first_on_offer(headers, &family.on_offer) else { return Ok(respond::text(406, "")) };
    let tag = HeaderValue::from_str(&format!("\"{hash}\"")).map_err(Status::internal)?;
    let mut response = if headers.get(header::IF_NONE_MATCH) == Some(&tag) {
        respond::text(304, "")
    } else {
        let content_type = if chosen == 0 { JSON } else { family.on_offer[1] };
        let write = || {
            let document = document()?;
            Some(match chosen {
                0 => respond::encode::json(&document, false),
                _ => protobuf::encode(&document, family.message).into(),
            })
        };
        // The hash tells groups and versions apart too.
        let written = api.documents.get(&api.world, format!("{content_type} {hash}"), write).await;
        let bytes = written.ok_or_else(Status::no_such_path)?;
        respond::whole(200, content_type, bytes, accepts_gzip(headers))
    };
    response.headers_mut().insert(header::ETAG, tag);
    response.headers_mut().append(header::VARY, HeaderValue::from_static("Accept"));
    Ok(response)
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
