//! Answers become bytes here, in the form the client asked for.

pub(crate) mod body;
pub(crate) mod encode;
pub(crate) mod list;
pub(crate) mod shape;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde_json::Value;
use skiff_client::Body;
use skiff_meta::{Object, Status};

use crate::call::Call;
use crate::request::{Accept, Encoding, Shape};

/// A response with a body that is known as a whole.
pub(crate) fn whole(code: u16, content_type: &'static str, bytes: Bytes, gzip: bool) -> Response<Body> {
    let mut response = Response::new(Body::default());
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    body::fill(&mut response, std::iter::once(bytes), gzip);
    response
}

/// A `Status`.
pub(crate) fn status(status: &Status, encoding: Encoding) -> Response<Body> {
    let code = if status.code == 0 { 200 } else { status.code };
    let as_json = || line(serde_json::to_vec(status).unwrap_or_default());
    let (encoding, bytes) = match encoding {
        Encoding::Json => (encoding, as_json()),
        _ => {
            let tree = serde_json::to_value(status).unwrap_or_default();
            let made = encode::tree(&tree, Accept { encoding, ..Accept::JSON });
            made.map_or_else(|_| (Encoding::Json, as_json()), |bytes| (encoding, bytes))
        }
    };
    let mut response = whole(code, encoding.content_type(), bytes, false);
    if let Some(seconds) = status.details.as_ref().map(|d| d.retry_after_seconds).filter(|s| *s > 0) {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// Plain text.
pub(crate) fn text(code: u16, text: impl Into<Bytes>) -> Response<Body> {
    whole(code, "text/plain; charset=utf-8", text.into(), false)
}

/// A path that nobody knows.
pub(crate) fn no_page() -> Response<Body> {
    text(404, "404 page not found\n")
}

fn line(mut bytes: Vec<u8>) -> Bytes {
    bytes.push(b'\n');
    bytes.into()
}

/// An object of the store, as the client wants it.
pub(crate) fn object(call: &Call, code: u16, object: &Object) -> Result<Response<Body>, Status> {
    let accept = call.accept;
    let plain = accept.encoding == Encoding::Json && accept.shape == Shape::Whole && !accept.pretty;
    if plain && call.served.version.conversion.is_same() && call.target.subresource != "scale" {
        let mut out = BytesMut::with_capacity(object.json_size() + 1);
        object.write_json(&mut out);
        out.put_u8(b'\n');
        return Ok(whole(code, Encoding::Json.content_type(), out.freeze(), accept.gzip));
    }
    tree(call, code, call.shown(object)?)
}

/// A tree, as the client wants it.
pub(crate) fn tree(call: &Call, code: u16, tree: Value) -> Result<Response<Body>, Status> {
    let accept = call.accept;
    let is_status = tree.get("kind").is_some_and(|k| k == "Status");
    let shaped = if is_status { tree } else { shape::one(call, tree)? };
    let bytes = encode::tree(&shaped, accept)?;
    Ok(whole(code, accept.encoding.content_type(), bytes, accept.gzip))
}

/// Most characters of all warnings together, and of each where they are more.
const MOST_WARNED: usize = 4096;
const MOST_IN_ONE: usize = 256;

/// Adds `Warning` headers, each text once, and cut where there is too much of it.
pub(crate) fn warn_all(headers: &mut HeaderMap, texts: &[String]) {
    let mut told: Vec<&str> = Vec::with_capacity(texts.len());
    for text in texts {
        if !text.is_empty() && !told.contains(&&**text) {
            told.push(text);
        }
    }
    let all: usize = told.iter().map(|text| text.chars().count()).sum();
    let mut left = MOST_WARNED;
    for text in told {
        let end = if all > MOST_WARNED { text.char_indices().nth(MOST_IN_ONE).map(|(end, _)| end) } else { None };
        let cut = &text[..end.unwrap_or(text.len())];
        warn(headers, cut);
        left = left.saturating_sub(cut.chars().count());
        if left == 0 {
            return;
        }
    }
}

/// Adds a `Warning` header (RFC 7234, as upstream writes it).
pub(crate) fn warn(headers: &mut HeaderMap, text: &str) {
    let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let quoted = clean.replace('\\', "\\\\").replace('"', "\\\"");
    if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{quoted}\"").as_bytes()) {
        headers.append(header::WARNING, value);
    }
}

/// Whether answers in this form can be made of stored bytes.
pub(crate) fn is_plain(accept: Accept) -> bool {
    accept.encoding == Encoding::Json && accept.shape == Shape::Whole && !accept.pretty
}
