//! Lists: a header, the objects' bytes, commas.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderValue, Response, header};
use serde_json::{Value, json};
use skiff_client::Body;
use skiff_meta::{Object, Status};
use skiff_store::Revision;

use super::shape::{self, Include};
use super::{body, encode};
use crate::cache::{Entry, Place, Sorted};
use crate::call::Call;
use crate::request::{Encoding, Shape};

/// Bytes per chunk of a streamed list: as few as cost a reader of large lists next to nothing, since whoever asks for
/// little waits for the chunks of those who ask for much.
const CHUNK: usize = 32 << 10;

/// The objects of a list.
pub(crate) enum Items {
    /// A stretch of the cache, shared with it.
    Stretch(Sorted<Entry>, Place, Place),
    /// Single objects.
    Picked(Vec<Arc<Object>>),
}

/// One page of a list.
pub(crate) struct Page {
    /// The objects.
    pub(crate) items: Items,
    /// What the page is true at.
    pub(crate) revision: Revision,
    /// How to get the next page, empty when there is none.
    pub(crate) continue_token: String,
    /// How many objects follow, where known.
    pub(crate) remaining: Option<usize>,
}

impl Page {
    fn metadata(&self) -> Value {
        let mut metadata = json!({"resourceVersion": self.revision.to_string()});
        if !self.continue_token.is_empty() {
            metadata["continue"] = json!(self.continue_token);
        }
        if let Some(remaining) = self.remaining {
            metadata["remainingItemCount"] = json!(remaining);
        }
        metadata
    }
}

impl Items {
    /// All objects, in order.
    pub(crate) fn into_objects(self) -> Vec<Arc<Object>> {
        match self {
            Self::Picked(objects) => objects,
            Self::Stretch(items, from, to) => items.range(from, to).map(|e| e.object().clone()).collect(),
        }
    }

    fn into_source(self) -> Source {
        match self {
            Self::Picked(objects) => Source::Picked(objects.into_iter()),
            Self::Stretch(items, at, to) => Source::Stretch { items, at, to },
        }
    }
}

enum Source {
    Picked(std::vec::IntoIter<Arc<Object>>),
    Stretch { items: Sorted<Entry>, at: Place, to: Place },
}

impl Source {
    /// Calls `visit` with the next object; false at the end.
    fn visit(&mut self, visit: impl FnOnce(&Object)) -> bool {
        match self {
            Self::Picked(objects) => objects.next().map(|o| visit(&o)).is_some(),
            Self::Stretch { items, at, to } => items.step(at, *to).map(|e| visit(e.object())).is_some(),
        }
    }
}

/// The bytes of a list, made chunk by chunk while they are sent.
struct ListBytes {
    source: Source,
    buffer: BytesMut,
    first: bool,
    done: bool,
    write: fn(&Object, &mut BytesMut),
}

impl ListBytes {
    fn new(header: &str, source: Source, write: fn(&Object, &mut BytesMut)) -> Self {
        let mut buffer = BytesMut::with_capacity(CHUNK);
        buffer.put_slice(header.as_bytes());
        Self { source, buffer, first: true, done: false, write }
    }
}

impl Iterator for ListBytes {
    type Item = Bytes;
    fn next(&mut self) -> Option<Bytes> {
        if self.done {
            return None;
        }
        let Self { source, buffer, first, write, .. } = self;
        while buffer.len() < CHUNK {
            let more = source.visit(|object| {
                if !std::mem::take(first) {
                    buffer.put_u8(b',');
                }
                write(object, buffer);
            });
            if !more {
                buffer.put_slice(b"]}\n");
                self.done = true;
                break;
            }
        }
        let chunk = self.buffer.split().freeze();
        if !self.done {
            self.buffer.reserve(CHUNK + CHUNK / 8);
        }
        Some(chunk)
    }
}

/// An item without what its list says.
fn untold(mut item: Value) -> Value {
    if let Some(map) = item.as_object_mut() {
        map.retain(|key, _| key != "kind" && key != "apiVersion");
    }
    item
}

/// A page, as the client wants it.
pub(crate) fn page(call: &Call, page: Page) -> Result<Response<Body>, Status> {
    let (version, accept) = (&call.served.version, call.accept);
    let list_kind = &call.served.resource.names.list_kind;
    let content_type = HeaderValue::from_static(accept.encoding.content_type());
    let mut response = Response::new(Body::default());
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    if super::is_plain(accept) && version.conversion.is_same() {
        let (kind, api_version) = (json!(list_kind), json!(version.api_version));
        let metadata = page.metadata();
        let header = format!("{{\"kind\":{kind},\"apiVersion\":{api_version},\"metadata\":{metadata},\"items\":[");
        // Items of built-in kinds have no kind of their own, upstream's being typed.
        let write = if call.served.resource.custom { Object::write_json } else { Object::write_item };
        body::fill(&mut response, ListBytes::new(&header, page.items.into_source(), write), accept.gzip);
        return Ok(response);
    }
    let metadata = page.metadata();
    let objects = page.items.into_objects();
    let trees = objects.iter().map(|o| call.shown(o)).collect::<Result<Vec<Value>, Status>>()?;
    let tree = match accept.shape {
        Shape::Whole => {
            let typed = !call.served.resource.custom;
            let trees: Vec<Value> = trees.into_iter().map(|tree| if typed { untold(tree) } else { tree }).collect();
            json!({"kind": list_kind, "apiVersion": version.api_version, "metadata": metadata, "items": trees})
        }
        Shape::Metadata => {
            let items: Option<Vec<Value>> =
                (!trees.is_empty()).then(|| trees.iter().map(shape::metadata_only).collect());
            let kind = "PartialObjectMetadataList";
            json!({"kind": kind, "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "items": items})
        }
        Shape::Mistaken => return Err(shape::mistaken(call, true)),
        Shape::Table => {
            let include = Include::parse(call.query.text("includeObject"))?;
            let now = call.now();
            let rows = trees.into_iter().map(|t| shape::row(version, t, include, now)).collect();
            shape::table(version, metadata, rows)
        }
    };
    debug_assert!(accept.encoding != Encoding::Json || tree.is_object());
    body::fill(&mut response, std::iter::once(encode::tree(&tree, accept)?), accept.gzip);
    Ok(response)
}
