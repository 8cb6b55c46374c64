//! How results are shown: tables, trees, names, paths.

pub mod columns;
pub mod jsonpath;
pub mod lines;
pub mod table;
pub mod yaml;

use serde_json::{Value, json};

use crate::error::CliError;
use crate::kinds::Kind;
use jsonpath::JsonPath;

/// `-o`.
#[derive(Clone, Debug, PartialEq)]
pub enum Format {
    /// The server's table.
    Table,
    /// With the columns of lower priority.
    Wide,
    /// JSON with indents.
    Json,
    /// YAML.
    Yaml,
    /// `kind/name`.
    Name,
    /// A template of paths.
    JsonPath(JsonPath),
    /// Columns of one's own.
    Columns(Vec<(String, JsonPath)>),
}

impl Format {
    /// Reads the value of `-o`; empty is a table.
    pub fn parse(text: &str) -> Result<Self, CliError> {
        let (name, argument) = text.split_once('=').unwrap_or((text, ""));
        Ok(match name {
            "" => Self::Table,
            "wide" => Self::Wide,
            "json" => Self::Json,
            "yaml" => Self::Yaml,
            "name" => Self::Name,
            "jsonpath" => Self::JsonPath(JsonPath::parse(argument)?),
            "custom-columns" => Self::Columns(columns::parse(argument)?),
            _ => {
                return Err(CliError::usage(format!(
                    "unable to match a printer suitable for the output format \"{text}\", allowed formats are: custom-columns,json,jsonpath,name,wide,yaml"
                )));
            }
        })
    }

    /// Whether the server's table is what is shown.
    pub fn is_table(&self) -> bool {
        matches!(self, Self::Table | Self::Wide)
    }

    /// One object, or a list of them, in any form but a table.
    pub fn render(&self, kind: &Kind, value: &Value) -> Result<String, CliError> {
        Ok(match self {
            Self::Json => format!("{}\n", serde_json::to_string_pretty(value).unwrap_or_default()),
            Self::Yaml => yaml::emit(value),
            Self::Name => items(value)
                .iter()
                .map(|item| format!("{}/{}\n", kind.named(), item["metadata"]["name"].as_str().unwrap_or_default()))
                .collect(),
            Self::JsonPath(path) => path.render(value),
            Self::Columns(columns) => columns::render(columns, &items(value)),
            Self::Table | Self::Wide => String::new(),
        })
    }
}

/// The objects of a list, or the one object itself.
pub fn items(value: &Value) -> Vec<Value> {
    match value.get("items").and_then(Value::as_array) {
        Some(items) => items.clone(),
        None => vec![value.clone()],
    }
}

/// Several results as one `List`, as kubectl shows them.
pub fn list_of(items: Vec<Value>) -> Value {
    json!({"apiVersion": "v1", "items": items, "kind": "List", "metadata": {"resourceVersion": ""}})
}
