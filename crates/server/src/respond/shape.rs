//! What is told of an object: all of it, its metadata, or a row of a table.

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use skiff_meta::Status;

use crate::call::Call;
use crate::request::Shape;
use crate::resource::Version;

/// `includeObject`: what comes with each row of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Include {
    /// Nothing.
    None,
    /// Its metadata.
    Metadata,
    /// All of it.
    Object,
}

impl Include {
    /// From the query.
    pub(crate) fn parse(text: &str) -> Result<Self, Status> {
        match text {
            "" | "Metadata" => Ok(Self::Metadata),
            "None" => Ok(Self::None),
            "Object" => Ok(Self::Object),
            other => Err(Status::bad_request(format!(
                "Unable to convert to Table as requested: includeObject: Invalid value: {other:?}: must be 'Metadata', \
                 'Object', 'None', or empty"
            ))),
        }
    }
}

/// The metadata alone.
pub(crate) fn metadata_only(object: &Value) -> Value {
    let metadata = object.get("metadata").cloned().unwrap_or_else(|| json!({}));
    json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": metadata})
}

/// A table's column definitions.
pub(crate) fn columns(version: &Version) -> Value {
    let columns = version.rules().columns().into_iter().map(|c| {
        json!({
            "name": c.name, "type": c.ty, "format": c.format, "description": c.description, "priority": c.priority,
        })
    });
    Value::Array(columns.collect())
}

/// One row.
pub(crate) fn row(version: &Version, object: Value, include: Include, now: Timestamp) -> Value {
    let mut row = Map::new();
    row.insert("cells".to_owned(), Value::Array(version.rules().cells(&object, now)));
    match include {
        Include::None => row.insert("object".to_owned(), Value::Null),
        Include::Metadata => row.insert("object".to_owned(), metadata_only(&object)),
        Include::Object => row.insert("object".to_owned(), object),
    };
    Value::Object(row)
}

/// A table of rows.
pub(crate) fn table(version: &Version, metadata: Value, rows: Vec<Value>) -> Value {
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
        "columnDefinitions": columns(version), "rows": rows,
    })
}

/// 406 for who took a list for an object, or the other way about; Go's name of the type is told.
pub(crate) fn mistaken(call: &Call, list: bool) -> Status {
    let resource = &call.served.resource;
    let group = match &*resource.storage.group {
        "" => "core",
        group => group.split('.').next().unwrap_or_default(),
    };
    let (package, kind) =
        if resource.custom { ("unstructured", "Unstructured") } else { (group, &*resource.storage.kind) };
    let (asked, is, list) = if list { ("", "a", "List") } else { ("List", "not a", "") };
    Status::failure(
        406,
        "NotAcceptable",
        format!(
            "you requested PartialObjectMetadata{asked}, but the requested object is {is} list (*{package}.{kind}{list})"
        ),
    )
}

/// One object in the shape a request asked for.
pub(crate) fn one(call: &Call, object: Value) -> Result<Value, Status> {
    match call.accept.shape {
        Shape::Whole => Ok(object),
        Shape::Metadata => Ok(metadata_only(&object)),
        Shape::Mistaken => Err(mistaken(call, false)),
        Shape::Table => {
            let include = Include::parse(call.query.text("includeObject"))?;
            let version = object.pointer("/metadata/resourceVersion").cloned();
            let metadata = version.map_or_else(|| json!({}), |v| json!({"resourceVersion": v}));
            let rows = vec![row(&call.served.version, object, include, call.now())];
            Ok(table(&call.served.version, metadata, rows))
        }
    }
}
