//! A structural schema, read once from its definition.

use std::collections::BTreeMap;

use regex::Regex;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// One schema; names are those of `JSONSchemaProps`. What a structural schema cannot have is not read.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Node {
    #[serde(rename = "type")]
    ty: String,
    format: String,
    pub(super) nullable: bool,
    #[serde(deserialize_with = "present")]
    pub(super) default: Option<Value>,
    pub(super) properties: BTreeMap<String, Node>,
    pub(super) additional_properties: Additional,
    pub(super) items: Option<Box<Node>>,
    pub(super) required: Vec<String>,
    #[serde(rename = "enum")]
    pub(super) choices: Vec<Value>,
    pub(super) pattern: Option<Pattern>,
    #[serde(flatten)]
    pub(super) bounds: Bounds,
    pub(super) unique_items: bool,
    pub(super) all_of: Vec<Node>,
    pub(super) any_of: Vec<Node>,
    pub(super) one_of: Vec<Node>,
    pub(super) not: Option<Box<Node>>,
    #[serde(rename = "x-kubernetes-preserve-unknown-fields")]
    pub(super) preserve: bool,
    #[serde(rename = "x-kubernetes-embedded-resource")]
    pub(super) embedded: bool,
    #[serde(rename = "x-kubernetes-int-or-string")]
    pub(super) int_or_string: bool,
    #[serde(rename = "x-kubernetes-list-type")]
    pub(super) list_type: String,
    #[serde(rename = "x-kubernetes-list-map-keys")]
    pub(super) list_map_keys: Vec<String>,
    #[serde(rename = "x-kubernetes-map-type")]
    pub(super) map_type: String,
}

/// Limits of numbers and sizes.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Bounds {
    pub(super) maximum: Option<f64>,
    pub(super) exclusive_maximum: bool,
    pub(super) minimum: Option<f64>,
    pub(super) exclusive_minimum: bool,
    pub(super) multiple_of: Option<f64>,
    pub(super) max_length: Option<i64>,
    pub(super) min_length: Option<i64>,
    pub(super) max_items: Option<i64>,
    pub(super) min_items: Option<i64>,
    pub(super) max_properties: Option<i64>,
    pub(super) min_properties: Option<i64>,
}

/// `additionalProperties`.
#[derive(Debug, Default)]
pub(super) enum Additional {
    /// Nothing is said: anything is valid, and pruned.
    #[default]
    Unsaid,
    /// `true`: anything, and kept.
    Allowed,
    /// `false`.
    Forbidden,
    Schema(Box<Node>),
}

/// `pattern`, compiled.
#[derive(Debug)]
pub(super) struct Pattern {
    pub(super) text: String,
    /// `None` for what is no regular expression; definitions with such are refused.
    pub(super) regex: Option<Regex>,
}

/// A default of null is no default.
fn present<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Value>, D::Error> {
    Ok(Some(Value::deserialize(d)?).filter(|v| !v.is_null()))
}

impl<'de> Deserialize<'de> for Additional {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Ok(match Value::deserialize(d)? {
            Value::Bool(true) => Self::Allowed,
            Value::Bool(false) => Self::Forbidden,
            schema => Self::Schema(Box::new(Node::deserialize(schema).map_err(serde::de::Error::custom)?)),
        })
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        Ok(Self { regex: Regex::new(&text).ok(), text })
    }
}

impl Node {
    /// Reads a schema. Where there is none, or one that cannot be read (validation of its definition has refused it),
    /// everything is let through.
    pub(super) fn read(schema: Option<&Value>) -> Self {
        let read = schema.and_then(|schema| Self::deserialize(schema).ok());
        read.unwrap_or_else(|| Self { preserve: true, ..Self::default() })
    }

    /// The JSON types that fit; none: all.
    pub(super) fn types(&self) -> &[&str] {
        if self.int_or_string {
            return &["integer", "string"];
        }
        match &*self.ty {
            "object" => &["object"],
            "array" => &["array"],
            "string" => &["string"],
            "integer" => &["integer"],
            "number" => &["number"],
            "boolean" => &["boolean"],
            _ => &[],
        }
    }

    /// The format, where it means something for the type.
    pub(super) fn format(&self) -> &str {
        let known = match (self.types(), &*self.format) {
            ([] | ["string"], format) => super::formats::is_known(format),
            (["integer"], format) => matches!(format, "int32" | "int64"),
            (["number"], format) => matches!(format, "float" | "double"),
            _ => false,
        };
        if known { &self.format } else { "" }
    }

    /// The schema of member `name`.
    pub(super) fn member(&self, name: &str) -> Option<&Node> {
        self.properties.get(name).or(match &self.additional_properties {
            Additional::Schema(schema) => Some(schema),
            _ => None,
        })
    }
}
