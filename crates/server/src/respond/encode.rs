//! Trees become bytes: JSON, YAML, protobuf.

use bytes::Bytes;
use serde_json::Value;
use skiff_meta::schema::KindSchema;
use skiff_meta::{GroupVersion, GroupVersionKind, Status, codec};

use crate::request::{Accept, Encoding};
use crate::tree;

/// A tree with apiVersion and kind, as bytes.
pub(crate) fn tree(tree: &Value, accept: Accept) -> Result<Bytes, Status> {
    match accept.encoding {
        Encoding::Json => Ok(json(tree, accept.pretty)),
        Encoding::Yaml => yaml(tree),
        Encoding::Protobuf => protobuf(tree),
    }
}

/// JSON with a final line feed.
pub(crate) fn json(tree: &Value, pretty: bool) -> Bytes {
    let made = if pretty { serde_json::to_vec_pretty(tree) } else { serde_json::to_vec(tree) };
    let mut bytes = made.unwrap_or_default();
    bytes.push(b'\n');
    bytes.into()
}

/// One event of a watch.
pub(crate) fn event(ty: &str, object: &Value, accept: Accept) -> Result<Bytes, Status> {
    match accept.encoding {
        Encoding::Protobuf => protobuf_event(ty, object),
        Encoding::Json | Encoding::Yaml => {
            let mut bytes = format!("{{\"type\":\"{ty}\",\"object\":").into_bytes();
            serde_json::to_writer(&mut bytes, object).map_err(Status::internal)?;
            bytes.extend_from_slice(b"}\n");
            Ok(bytes.into())
        }
    }
}

fn yaml(tree: &Value) -> Result<Bytes, Status> {
    codec::yaml::encode(tree).map(Bytes::from).map_err(Status::internal)
}

/// Kind and schema of a tree that says what it is.
fn schema(tree: &Value) -> Result<(GroupVersionKind, KindSchema), Status> {
    let version: GroupVersion = tree::text(tree, &["apiVersion"]).parse().map_err(Status::internal)?;
    let gvk = GroupVersionKind::new(version.group, version.version, tree::text(tree, &["kind"]));
    match skiff_api::facts::schema(&gvk) {
        Some(schema) => Ok((gvk, schema)),
        None => Err(Status::not_acceptable(format!("{} has no protobuf form", gvk.kind))),
    }
}

fn protobuf(tree: &Value) -> Result<Bytes, Status> {
    let (gvk, schema) = schema(tree)?;
    codec::protobuf::encode(tree, &gvk, schema.root()).map(Bytes::from).map_err(Status::internal)
}

fn protobuf_event(ty: &str, object: &Value) -> Result<Bytes, Status> {
    Ok(codec::protobuf::watch_frame(ty, &protobuf(object)?).into())
}
