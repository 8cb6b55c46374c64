//! `application/vnd.kubernetes.protobuf`, both ways, for every kind by one transcoder.
//!
//! The type graph knows each field's number, so no kind needs generated code: messages are read straight into the JSON
//! tree that all else works on, and written from it. Objects travel in an envelope: four bytes of magic, then a
//! `runtime.Unknown` with API version and kind. Custom kinds have no numbers and no protobuf form.

mod decode;
mod encode;
mod forms;
mod wire;

use serde_json::{Map, Value};

use crate::gvk::{GroupVersion, GroupVersionKind};
use crate::schema::{KindSchema, TypeRef};
use wire::{Reader, Wire};
pub use wire::{put_bytes, put_double, put_int, put_message};

/// The media type of single objects and lists.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

const MAGIC: &[u8] = b"k8s\0";

/// How deep messages may nest; JSON has a similar limit.
const MAX_DEPTH: u32 = 100;

/// Input that is no object in protobuf, or a tree that has no protobuf form.
#[derive(Debug, thiserror::Error)]
pub enum ProtobufError {
    /// The envelope's first bytes are others.
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    NoMagic,
    /// Not the wire format, or not the types expected.
    #[error("proto: {0}")]
    Malformed(&'static str),
    /// A quantity that is none.
    #[error(transparent)]
    Quantity(#[from] crate::quantity::QuantityError),
    /// Messages in messages beyond all need.
    #[error("proto: messages nest deeper than {0}")]
    TooDeep(u32),
    /// A part that should be JSON is not.
    #[error("proto: embedded JSON cannot be read: {0}")]
    Json(#[source] serde_json::Error),
    /// The envelope's `apiVersion` is none, or there is no kind.
    #[error("proto: the object does not say its apiVersion and kind")]
    NoKind,
    /// Nobody knows this kind, or it has no protobuf form.
    #[error("no kind {:?} is registered for version {:?}", .0.kind, .0.api_version())]
    UnknownKind(GroupVersionKind),
    /// The tree does not fit the schema.
    #[error("object cannot be written as protobuf: not a {0}")]
    Unfit(&'static str),
}

/// Reads an enveloped object. `default` stands in where the envelope does not say its kind. The tree has `apiVersion`
/// and `kind`; the items of a list have not, as upstream.
///
/// # Errors
/// When the bytes are malformed or the kind is unknown to `lookup`.
pub fn decode(
    bytes: &[u8],
    default: Option<&GroupVersionKind>,
    lookup: impl FnOnce(&GroupVersionKind) -> Option<KindSchema>,
) -> Result<(GroupVersionKind, Value), ProtobufError> {
    let unknown = bytes.strip_prefix(MAGIC).ok_or(ProtobufError::NoMagic)?;
    let (mut api_version, mut kind, mut raw) = ("", "", &b""[..]);
    let mut reader = Reader::new(unknown);
    while let Some(field) = reader.field()? {
        match field {
            (1, Wire::Bytes(type_meta)) => (api_version, kind) = read_type_meta(type_meta)?,
            (2, Wire::Bytes(message)) => raw = message,
            (3, Wire::Bytes(encoding)) if !encoding.is_empty() => {
                return Err(ProtobufError::Malformed("content encoding is not known"));
            }
            _ => {}
        }
    }
    let gvk = match (kind.is_empty(), default) {
        (false, _) => {
            let said: GroupVersion = api_version.parse().map_err(|_| ProtobufError::NoKind)?;
            GroupVersionKind::new(said.group, said.version, kind)
        }
        (true, Some(default)) => default.clone(),
        (true, None) => return Err(ProtobufError::NoKind),
    };
    let Some(schema) = lookup(&gvk) else { return Err(ProtobufError::UnknownKind(gvk)) };
    let mut value = Value::Object(Map::new());
    decode::message(raw, schema.root(), MAX_DEPTH, &mut value)?;
    if let Value::Object(map) = &mut value {
        map.insert("apiVersion".to_owned(), gvk.api_version().into());
        map.insert("kind".to_owned(), gvk.kind.clone().into());
    }
    Ok((gvk, value))
}

fn read_type_meta(message: &[u8]) -> Result<(&str, &str), ProtobufError> {
    let (mut api_version, mut kind) = ("", "");
    let mut reader = Reader::new(message);
    while let Some(field) = reader.field()? {
        match field {
            (1, Wire::Bytes(text)) => api_version = forms::utf8(text)?,
            (2, Wire::Bytes(text)) => kind = forms::utf8(text)?,
            _ => {}
        }
    }
    Ok((api_version, kind))
}

/// Writes an object or a list in its envelope.
///
/// # Errors
/// When the tree does not fit the schema.
pub fn encode(value: &Value, gvk: &GroupVersionKind, ty: TypeRef<'_>) -> Result<Vec<u8>, ProtobufError> {
    Ok(envelope(gvk, &encode_body(value, ty)?))
}

/// Writes an object without envelope: what [`envelope`] and [`encode_list`] take.
///
/// # Errors
/// When the tree does not fit the schema.
pub fn encode_body(value: &Value, ty: TypeRef<'_>) -> Result<Vec<u8>, ProtobufError> {
    let mut out = Vec::with_capacity(256);
    encode::message(&mut out, value, ty)?;
    Ok(out)
}

/// Puts a body into its envelope.
pub fn envelope(gvk: &GroupVersionKind, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + 64);
    open_envelope(&mut out, gvk);
    put_bytes(&mut out, 2, body);
    close_envelope(&mut out);
    out
}

fn open_envelope(out: &mut Vec<u8>, gvk: &GroupVersionKind) {
    out.extend_from_slice(MAGIC);
    let mut type_meta = Vec::with_capacity(48);
    put_bytes(&mut type_meta, 1, gvk.api_version().as_bytes());
    put_bytes(&mut type_meta, 2, gvk.kind.as_bytes());
    put_bytes(out, 1, &type_meta);
}

fn close_envelope(out: &mut Vec<u8>) {
    put_bytes(out, 3, b"");
    put_bytes(out, 4, b"");
}

/// Writes a list from bodies of its items, which may have been encoded long before. `metadata` is the list's own
/// (`resourceVersion`, `continue`, `remainingItemCount`), `ty` the type of the list, such as `PodList`.
///
/// # Errors
/// When `metadata` does not fit the schema.
pub fn encode_list<'a>(
    gvk: &GroupVersionKind,
    ty: TypeRef<'_>,
    metadata: &Value,
    bodies: impl IntoIterator<Item = &'a [u8]>,
) -> Result<Vec<u8>, ProtobufError> {
    let mut out = Vec::with_capacity(4096);
    open_envelope(&mut out, gvk);
    put_message(&mut out, 2, |out| {
        let head = Value::Object(Map::from_iter([("metadata".to_owned(), metadata.clone())]));
        encode::message(out, &head, ty)?;
        bodies.into_iter().for_each(|body| put_bytes(out, 2, body));
        Ok::<_, ProtobufError>(())
    })?;
    close_envelope(&mut out);
    Ok(out)
}

/// One frame of a watch: four bytes of length, then a bare `WatchEvent` whose object is enveloped. `kind` is `ADDED`,
/// `MODIFIED`, `DELETED`, `BOOKMARK` or `ERROR`.
pub fn watch_frame(kind: &str, enveloped: &[u8]) -> Vec<u8> {
    let mut raw = Vec::with_capacity(enveloped.len() + 8);
    put_bytes(&mut raw, 1, enveloped);
    let mut out = vec![0; 4];
    put_bytes(&mut out, 1, kind.as_bytes());
    put_bytes(&mut out, 2, &raw);
    let length = u32::try_from(out.len() - 4).unwrap_or(u32::MAX);
    out[..4].copy_from_slice(&length.to_be_bytes());
    out
}

#[cfg(test)]
mod tests;
