//! What OpenAPI v3 documents tell about types.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde_json::{Value, json};

use crate::Failure;

/// A type as the table writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TypeRef {
    /// `string`, `int32`, ..., `any`.
    Leaf(&'static str),
    List(Box<TypeRef>),
    Map(Box<TypeRef>),
    Struct(String),
}

impl Default for TypeRef {
    fn default() -> Self {
        Self::Leaf("any")
    }
}

/// One struct type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Shape {
    /// `GROUP/VERSION` for each group and version in which the type is a kind, `*` for all.
    pub(super) gvks: Vec<String>,
    pub(super) atomic: bool,
    pub(super) properties: BTreeMap<String, Property>,
}

/// One property.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Property {
    pub(super) ty: TypeRef,
    pub(super) required: bool,
    /// `atomic`, `set`, `map:KEY,KEY`, or empty.
    pub(super) list: String,
    /// `atomic`, or `granular` where a type that is atomic elsewhere is not here; mostly empty.
    pub(super) map: String,
    /// `merge`, `merge:KEY`, `retain`, `merge,retain:KEY`, or empty.
    pub(super) patch: String,
    pub(super) default: Option<Value>,
}

const PREFIX: &str = "io.k8s.api.";

/// A name without the prefix that most have.
pub(super) fn short(name: &str) -> &str {
    name.strip_prefix(PREFIX).unwrap_or(name)
}

impl fmt::Display for TypeRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leaf(name) => f.write_str(name),
            Self::List(item) => write!(f, "[]{item}"),
            Self::Map(value) => write!(f, "{{}}{value}"),
            Self::Struct(name) => f.write_str(short(name)),
        }
    }
}

impl TypeRef {
    /// The Go type that the shape alone suggests, as `TypeRef::go_type` in `skiff-meta` computes it.
    pub(super) fn go_type(&self) -> String {
        match self {
            Self::Leaf(name) => match *name {
                "bytes" => "[]uint8",
                "quantity" => "resource.Quantity",
                "intorstring" => "intstr.IntOrString",
                "time" => "v1.Time",
                "microtime" => "v1.MicroTime",
                "duration" => "v1.Duration",
                "any" => "interface {}",
                other => other,
            }
            .to_owned(),
            Self::List(item) => format!("[]{}", item.go_type()),
            Self::Map(value) => format!("map[string]{}", value.go_type()),
            Self::Struct(name) => {
                name.rsplitn(3, '.').take(2).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join(".")
            }
        }
    }

    /// The default that a plain Go field of this type gets in OpenAPI.
    pub(super) fn zero(&self) -> Option<Value> {
        match self {
            Self::Leaf("string") => Some(json!("")),
            Self::Leaf("int32" | "int64" | "float64") => Some(json!(0)),
            Self::Leaf("bool") => Some(json!(false)),
            _ => None,
        }
    }
}

/// All types of all documents in `dir` whose file names say `__v1_` or `__v2_`: what is on by default.
pub(super) fn read(dir: &Path) -> Result<BTreeMap<String, Shape>, Failure> {
    let mut shapes = BTreeMap::new();
    for entry in std::fs::read_dir(dir).map_err(|e| format!("{}: {e}", dir.display()))? {
        let path = entry.map_err(|e| format!("{}: {e}", dir.display()))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if !(name.contains("__v1_openapi") || name.contains("__v2_openapi")) {
            continue;
        }
        let text = std::fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let document: Value = serde_json::from_slice(&text).map_err(|e| format!("{}: {e}", path.display()))?;
        let schemas = document["components"]["schemas"].as_object();
        let schemas = schemas.ok_or_else(|| format!("{}: no schemas", path.display()))?;
        for (name, schema) in schemas {
            if schema.get("properties").is_none() && leaf_of(name).is_some() {
                continue;
            }
            let read = shape(schema).map_err(|e| format!("{name}: {e}"))?;
            let kept: &mut Shape = shapes.entry(name.clone()).or_default();
            // A document shows those of its own group and version only.
            let gvks = std::mem::take(&mut kept.gvks);
            *kept = read;
            kept.gvks.extend(gvks);
            kept.gvks.sort();
            kept.gvks.dedup();
        }
    }
    for shape in shapes.values_mut().filter(|s: &&mut Shape| s.gvks.len() > 2) {
        shape.gvks = vec!["*".to_owned()];
    }
    Ok(shapes)
}

fn shape(schema: &Value) -> Result<Shape, Failure> {
    let mut shape =
        Shape { gvks: gvks(schema), atomic: schema["x-kubernetes-map-type"] == "atomic", ..Shape::default() };
    let required: Vec<&str> = strings(&schema["required"]);
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let mut read = read_property(property).map_err(|e| format!("{name}: {e}"))?;
        read.required = required.contains(&&**name);
        shape.properties.insert(name.clone(), read);
    }
    Ok(shape)
}

fn gvks(schema: &Value) -> Vec<String> {
    let all = schema["x-kubernetes-group-version-kind"].as_array().map(Vec::as_slice).unwrap_or_default();
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    all.iter().map(|g| format!("{}/{}", text(&g["group"]), text(&g["version"]))).collect()
}

fn read_property(schema: &Value) -> Result<Property, Failure> {
    let ty = type_of(schema)?;
    let list = match schema["x-kubernetes-list-type"].as_str() {
        Some("map") => format!("map:{}", strings(&schema["x-kubernetes-list-map-keys"]).join(",")),
        other => other.unwrap_or_default().to_owned(),
    };
    let strategy = schema["x-kubernetes-patch-strategy"].as_str().unwrap_or_default().replace("retainKeys", "retain");
    let mut patch = strategy.replace("replace", "");
    if let Some(key) = schema["x-kubernetes-patch-merge-key"].as_str().filter(|_| !patch.is_empty()) {
        patch = format!("{patch}:{key}");
    }
    let default = schema.get("default").filter(|d| **d != json!({})).cloned();
    let map = schema["x-kubernetes-map-type"].as_str().unwrap_or_default().to_owned();
    Ok(Property { ty, required: false, list, map, patch, default })
}

fn type_of(schema: &Value) -> Result<TypeRef, Failure> {
    if let Some(name) = reference(schema) {
        return Ok(leaf_of(name).map_or_else(|| TypeRef::Struct(name.to_owned()), TypeRef::Leaf));
    }
    let format = schema["format"].as_str().unwrap_or_default();
    Ok(match schema["type"].as_str().unwrap_or_default() {
        "array" => TypeRef::List(Box::new(type_of(&schema["items"])?)),
        "object" if schema["additionalProperties"].is_object() => {
            TypeRef::Map(Box::new(type_of(&schema["additionalProperties"])?))
        }
        "string" if format == "byte" => TypeRef::Leaf("bytes"),
        "string" if format.is_empty() => TypeRef::Leaf("string"),
        "integer" if format == "int32" => TypeRef::Leaf("int32"),
        "integer" => TypeRef::Leaf("int64"),
        "number" => TypeRef::Leaf("float64"),
        "boolean" => TypeRef::Leaf("bool"),
        "object" => TypeRef::Leaf("any"),
        other => return Err(format!("type {other:?} with format {format:?} is not known")),
    })
}

fn reference(schema: &Value) -> Option<&str> {
    let direct = schema.get("$ref").or_else(|| schema.get("allOf")?.get(0)?.get("$ref"))?;
    direct.as_str()?.rsplit('/').next()
}

/// Types that are structs in Go but not in JSON.
fn leaf_of(name: &str) -> Option<&'static str> {
    Some(match name.rsplitn(3, '.').take(2).collect::<Vec<_>>()[..] {
        ["Quantity", "resource"] => "quantity",
        ["IntOrString", "intstr"] => "intorstring",
        ["Time", "v1"] => "time",
        ["MicroTime", "v1"] => "microtime",
        ["Duration", "v1"] => "duration",
        ["RawExtension", "runtime"] | ["FieldsV1" | "Patch", "v1"] => "any",
        ["JSON" | "JSONSchemaPropsOrArray" | "JSONSchemaPropsOrBool" | "JSONSchemaPropsOrStringArray", "v1"] => "any",
        _ => return None,
    })
}

/// The type a Go struct of this OpenAPI name has in JSON.
pub(super) fn named(name: String) -> TypeRef {
    leaf_of(&name).map_or(TypeRef::Struct(name), TypeRef::Leaf)
}

fn strings(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}
