//! The verbs of the API, a file each. Every kind goes through the same ones.

pub(crate) mod collection;
mod components;
pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod get;
pub(crate) mod list;
pub(crate) mod metrics;
mod past;
pub(crate) mod patch;
mod sub;
pub(crate) mod update;
pub(crate) mod watch;

use http::Request;
use skiff_client::Body;
use skiff_meta::codec::yaml;
use skiff_meta::schema::TypeRef;
use skiff_meta::{Status, names};
use skiff_rules::Part;

use crate::audit::Record;
use crate::call::{Answer, Call, Payload};
use crate::request::decode::{self, Expected};
use crate::request::{body, query::FieldValidation};

/// Which part of an object a subresource writes; `None` for subresources that are no part of their object.
pub(crate) fn part(subresource: &str) -> Option<Part> {
    Some(match subresource {
        "" => Part::Main,
        "status" => Part::Status,
        "ephemeralcontainers" => Part::Other("ephemeralcontainers"),
        "resize" => Part::Other("resize"),
        "approval" => Part::Other("approval"),
        "finalize" => Part::Other("finalize"),
        _ => return None,
    })
}

/// Does what the request asks for.
pub(crate) async fn dispatch(call: &mut Call, parts: &mut http::request::Parts, body: Body) -> Result<Answer, Status> {
    let subresource = call.target.subresource.as_str();
    if matches!(subresource, "log" | "exec" | "attach" | "portforward" | "proxy") {
        let mut request = Request::new(body);
        *request.method_mut() = parts.method.clone();
        *request.uri_mut() = parts.uri.clone();
        *request.headers_mut() = call.headers.clone();
        *request.extensions_mut() = std::mem::take(&mut parts.extensions);
        return sub::connect::connect(call, request).await;
    }
    let bad = names::path_segment(&call.target.name, false);
    if !call.target.name.is_empty() && !bad.is_empty() {
        let why = format!("Name parameter invalid: {:?}: {}", call.target.name, bad.join(";"));
        return Err(Status::bad_request(why));
    }
    if call.served.id().group.is_empty() && call.served.id().resource == "componentstatuses" {
        return components::read(call).await;
    }
    if call.served.id().group == metrics::GROUP {
        return metrics::read(call).await;
    }
    match call.target.verb {
        "list" => return list::list(call).await,
        "watch" => return watch::watch(call, parts.extensions.remove()).await,
        "get" if subresource == "scale" => return sub::scale::get(call).await,
        "get"
            if subresource.is_empty()
                && let Some(at) = call.query.get("at") =>
        {
            let at = at.to_owned();
            return past::get(call, &at).await;
        }
        "get" => return get::get(call).await,
        _ => {}
    }
    let media = body::media_type(&call.headers).to_owned();
    let payload = Payload { media, bytes: body::read(body).await? };
    if let Some(record) = &call.record {
        recorded(call, record, &payload);
    }
    let sub = call.target.subresource.clone();
    match (call.target.verb, sub.as_str()) {
        ("create", "") => create::create(call, payload).await,
        ("create", "binding") => sub::binding::bind(call, payload).await,
        ("create", "eviction") => sub::eviction::evict(call, payload).await,
        ("create", "token") => sub::token::issue(call, payload).await,
        ("update", _) => update::update(call, payload).await,
        ("patch", _) => patch::patch(call, payload).await,
        ("delete", _) => delete::delete(call, payload).await,
        ("deletecollection", _) => collection::delete_collection(call, payload).await,
        _ => Err(Status::no_such_path()),
    }
}

/// Tells the audit log what a write says.
fn recorded(call: &Call, record: &Record, payload: &Payload) {
    let is_patch = call.target.verb == "patch";
    let object = match &*payload.media {
        _ if payload.bytes.is_empty() => return,
        media if media.ends_with("yaml") => yaml::decode(&payload.bytes).ok().map(|decoded| decoded.value),
        media if media.contains("protobuf") => {
            let version = &call.served.version;
            let root = version.core.schema().map_or(TypeRef::any(), |schema| schema.root());
            let expected = Expected { gvk: &version.gvk, root, protobuf: true };
            decode::object(payload, expected, FieldValidation::Ignore, &mut Vec::new()).ok()
        }
        _ => serde_json::from_slice(&payload.bytes).ok(),
    };
    if let Some(object) = object {
        record.request(object, is_patch);
    }
}
