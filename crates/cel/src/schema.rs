//! Structural schemas in the eyes of expressions: which type each part has, how large it can get, and how to read it.
//!
//! After `k8s.io/apiserver/pkg/cel/common`: fields are known by escaped names, parts that no schema describes are not known
//! at all, and the root of a resource always has its kind and its name.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value as Json;

use crate::escape::escape;
use crate::types::{Struct, Type};

/// The largest request, in bytes: whatever has no bound of its own is bounded by it.
pub const MAX_REQUEST: i64 = 3 * 1024 * 1024;

/// A schema, as values are read through it.
#[derive(Debug)]
pub struct Schema {
    pub(crate) shape: Shape,
    pub(crate) nullable: bool,
    /// Bounds, for the estimate of costs: length, items or properties.
    max: Option<i64>,
    min_size: i64,
}

#[derive(Debug)]
pub(crate) enum Shape {
    /// Whatever it is.
    Any,
    IntOrString,
    Object(Object),
    Map(Box<Schema>),
    List {
        item: Box<Schema>,
        kind: ListKind,
    },
    Text(TextKind),
    Number,
    Int,
    Bool,
    /// Kept, but not described: it has no type.
    Unknown,
}

#[derive(Debug)]
pub(crate) struct Object {
    /// By escaped name.
    pub(crate) fields: BTreeMap<String, Field>,
}

#[derive(Debug)]
pub(crate) struct Field {
    /// The name in JSON.
    pub(crate) name: String,
    pub(crate) schema: Schema,
}

/// How the items of a list are told apart: by place, by value, or by their keys.
#[derive(Clone, Debug, PartialEq)]
pub enum ListKind {
    /// By place.
    Atomic,
    /// By value.
    Set,
    /// By escaped names of its keys.
    Map(Vec<String>),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum TextKind {
    Plain,
    Bytes,
    Duration,
    Date,
    DateTime,
}

/// A type with the bounds of its data.
#[derive(Clone, Debug)]
pub struct Decl {
    /// The type that the checker sees.
    pub ty: Type,
    /// How many characters, items or entries at most.
    pub max_elements: u64,
    /// The fewest bytes it has as JSON.
    pub min_size: i64,
    inner: Inner,
}

#[derive(Clone, Debug)]
enum Inner {
    Leaf,
    List(Arc<Decl>),
    Map(Arc<Decl>),
    Object(Arc<BTreeMap<String, Decl>>),
}

impl Object {
    /// The field of a name in an expression, where reserved words may be written as they are.
    pub(crate) fn find(&self, name: &str) -> Option<&Field> {
        self.fields.get(name).or_else(|| self.fields.get(&format!("__{name}__")).filter(|field| field.name == name))
    }
}

impl Schema {
    /// No schema: any JSON.
    pub const ANY: Schema = Schema { shape: Shape::Any, nullable: true, max: None, min_size: 1 };

    /// Reads a structural schema (`openAPIV3Schema`). `resource`: whether it is that of a whole object, which always has
    /// `apiVersion`, `kind`, `metadata.name` and `metadata.generateName`.
    pub fn read(json: &Json, resource: bool) -> Self {
        let flag = |name: &str| json.get(name) == Some(&Json::Bool(true));
        let bound = |name: &str| json.get(name).and_then(Json::as_i64).map(|n| n.max(0));
        let nullable = flag("nullable");
        let make = |shape, max, min_size| Schema { shape, nullable, max, min_size };
        if flag("x-kubernetes-int-or-string") {
            return make(Shape::IntOrString, Some(bound("maxLength").map_or(MAX_REQUEST - 2, |n| n * 4)), 1);
        }
        match json["type"].as_str().unwrap_or_default() {
            "object" => Self::read_object(json, resource || flag("x-kubernetes-embedded-resource"), nullable),
            "array" => {
                let Some(item) = json.get("items").filter(|item| item.is_object()) else {
                    return make(Shape::Unknown, None, 2);
                };
                let item = Self::read(item, item["x-kubernetes-embedded-resource"] == true);
                let max = bound("maxItems").unwrap_or((MAX_REQUEST - 2) / (item.min_size + 1));
                let keys = json["x-kubernetes-list-map-keys"].as_array();
                let kind = match json["x-kubernetes-list-type"].as_str() {
                    Some("set") => ListKind::Set,
                    Some("map") => ListKind::Map(
                        keys.into_iter()
                            .flatten()
                            .filter_map(Json::as_str)
                            .map(|k| escape(k).unwrap_or(k.into()))
                            .collect(),
                    ),
                    _ => ListKind::Atomic,
                };
                make(Shape::List { item: Box::new(item), kind }, Some(max), 2)
            }
            "string" => {
                let length = bound("maxLength");
                let choices = json["enum"].as_array().filter(|choices| !choices.is_empty());
                let longest = |choices: &Vec<Json>| choices.iter().filter_map(|c| Some(c.as_str()?.len() as i64)).max();
                let (kind, max, min_size) = match json["format"].as_str() {
                    Some("byte") => (TextKind::Bytes, length.unwrap_or(MAX_REQUEST - 2), 2),
                    Some("duration") => (TextKind::Duration, 32, 3),
                    Some("date") => (TextKind::Date, 12, 12),
                    Some("date-time") => (TextKind::DateTime, 32, 21),
                    _ => {
                        let unbounded = || choices.map_or(MAX_REQUEST - 2, |c| longest(c).unwrap_or(0));
                        (TextKind::Plain, length.map_or_else(unbounded, |n| n.saturating_mul(4)), 2)
                    }
                };
                make(Shape::Text(kind), Some(max), min_size)
            }
            "boolean" => make(Shape::Bool, None, 4),
            "number" => make(Shape::Number, None, 1),
            "integer" => make(Shape::Int, None, 1),
            _ => make(Shape::Unknown, None, 1),
        }
    }

    fn read_object(json: &Json, resource: bool, nullable: bool) -> Self {
        let properties = json["properties"].as_object();
        let additional = json.get("additionalProperties").filter(|a| a.is_object());
        if let (Some(value), None | Some(0)) = (additional, properties.map(serde_json::Map::len)) {
            let value = Self::read(value, value["x-kubernetes-embedded-resource"] == true);
            let bound = json["maxProperties"].as_i64().map(|n| n.max(0));
            let max = bound.unwrap_or((MAX_REQUEST - 2) / (value.min_size + 6));
            return Schema { shape: Shape::Map(Box::new(value)), nullable, max: Some(max), min_size: 2 };
        }
        let mut fields = BTreeMap::new();
        let mut min_size = 2;
        let required: Vec<&str> = json["required"].as_array().into_iter().flatten().filter_map(Json::as_str).collect();
        for (name, property) in properties.into_iter().flatten() {
            let schema = Self::read(property, property["x-kubernetes-embedded-resource"] == true);
            if required.contains(&name.as_str()) && property["default"].is_null() && schema.is_typed() {
                min_size += name.len() as i64 + schema.min_size + 4;
            }
            if let Some(escaped) = escape(name) {
                fields.insert(escaped, Field { name: name.clone(), schema });
            }
        }
        if resource && !has_identity(json) {
            let text = || serde_json::json!({"type": "string"});
            let meta = serde_json::json!({"type": "object", "properties": {"name": text(), "generateName": text()}});
            for (name, schema) in [("apiVersion", text()), ("kind", text()), ("metadata", meta)] {
                fields.insert(name.to_owned(), Field { name: name.to_owned(), schema: Self::read(&schema, false) });
            }
        }
        Schema { shape: Shape::Object(Object { fields }), nullable, max: None, min_size }
    }

    pub(crate) fn is_object(&self) -> bool {
        matches!(self.shape, Shape::Object(_))
    }

    pub(crate) fn item(&self) -> Option<&Schema> {
        match &self.shape {
            Shape::List { item, .. } => Some(item),
            _ => None,
        }
    }

    /// The schema of items, or of the values of a map.
    pub fn element(&self) -> Option<&Schema> {
        match &self.shape {
            Shape::List { item: element, .. } | Shape::Map(element) => Some(element),
            _ => None,
        }
    }

    /// The schema of a field, by its name in JSON.
    pub fn field(&self, name: &str) -> Option<&Schema> {
        match &self.shape {
            Shape::Object(object) => object.fields.get(&escape(name)?).map(|f| &f.schema),
            _ => None,
        }
    }

    /// Whether expressions can speak of it.
    fn is_typed(&self) -> bool {
        match &self.shape {
            Shape::Unknown => false,
            Shape::List { item: element, .. } | Shape::Map(element) => element.is_typed(),
            _ => true,
        }
    }

    /// Its type and bounds; `None` for what expressions cannot speak of. `name` names the objects within.
    pub fn declare(&self, name: &str) -> Option<Decl> {
        let max = u64::try_from(self.max.unwrap_or(0)).unwrap_or(0);
        let make = |ty, inner| Some(Decl { ty, max_elements: max, min_size: self.min_size, inner });
        match &self.shape {
            Shape::Unknown => None,
            Shape::Any | Shape::IntOrString => make(Type::Dyn, Inner::Leaf),
            Shape::Object(object) => {
                let declare = |(field, f): (&String, &Field)| {
                    f.schema.declare(&format!("{name}.{field}")).map(|decl| (field.clone(), decl))
                };
                let decls: BTreeMap<String, Decl> = object.fields.iter().filter_map(declare).collect();
                let plain = |field: &str| {
                    object.fields.get(field).filter(|f| f.name.len() + 4 == field.len()).map(|f| f.name.clone())
                };
                let fields = decls.iter().map(|(field, decl)| (field.clone(), decl.ty.clone()));
                let reserved = decls.iter().filter_map(|(field, decl)| Some((plain(field)?, decl.ty.clone())));
                let fields = fields.chain(reserved).collect();
                let ty = Type::Struct(Arc::new(Struct { name: name.to_owned(), fields, open: false }));
                make(ty, Inner::Object(Arc::new(decls)))
            }
            Shape::Map(value) => {
                let value = value.declare(&format!("{name}.@elem"))?;
                make(Type::map(Type::String, value.ty.clone()), Inner::Map(Arc::new(value)))
            }
            Shape::List { item, .. } => {
                let item = item.declare(&format!("{name}.@idx"))?;
                make(Type::list(item.ty.clone()), Inner::List(Arc::new(item)))
            }
            Shape::Text(kind) => {
                let ty = match kind {
                    TextKind::Plain => Type::String,
                    TextKind::Bytes => Type::Bytes,
                    TextKind::Duration => Type::Duration,
                    TextKind::Date | TextKind::DateTime => Type::Timestamp,
                };
                make(ty, Inner::Leaf)
            }
            Shape::Number => make(Type::Double, Inner::Leaf),
            Shape::Int => make(Type::Int, Inner::Leaf),
            Shape::Bool => make(Type::Bool, Inner::Leaf),
        }
    }
}

fn has_identity(json: &Json) -> bool {
    let is = |path: &str, ty: &str| json.pointer(path).is_some_and(|schema| schema["type"] == ty);
    is("/properties/kind", "string")
        && is("/properties/apiVersion", "string")
        && is("/properties/metadata", "object")
        && is("/properties/metadata/properties/name", "string")
        && is("/properties/metadata/properties/generateName", "string")
}

impl Decl {
    /// The part at a path of the estimate (`items`, `@items`, ...), whose first element is the variable.
    pub(crate) fn at(&self, path: &[std::rc::Rc<str>]) -> Option<Decl> {
        const KEYS: Decl = Decl { ty: Type::String, max_elements: 0, min_size: 2, inner: Inner::Leaf };
        let mut here = self.clone();
        for name in path.get(1..)? {
            here = match (&here.inner, &**name) {
                (Inner::List(inner), "@items") | (Inner::Map(inner), "@values") => (**inner).clone(),
                (Inner::Map(_), "@keys") => KEYS,
                (Inner::Object(fields), name) => {
                    fields.get(name).or_else(|| fields.get(&format!("__{name}__")))?.clone()
                }
                _ => return None,
            };
        }
        Some(here)
    }
}
