//! `-o custom-columns=NAME:.metadata.name,...`.

use serde_json::Value;

use super::jsonpath::JsonPath;
use super::table::align;
use crate::error::CliError;

/// Reads the specification.
pub fn parse(text: &str) -> Result<Vec<(String, JsonPath)>, CliError> {
    if text.is_empty() {
        return Err(CliError::usage("custom-columns format specified but no custom columns given"));
    }
    text.split(',')
        .map(|column| {
            let wrong = || {
                CliError::usage(format!("unexpected custom-columns spec: {column}, expected <header>:<json-path-expr>"))
            };
            let (name, path) = column.split_once(':').ok_or_else(wrong)?;
            Ok((name.to_owned(), JsonPath::parse(&format!("{{{}}}", path.trim_matches(['{', '}'])))?))
        })
        .collect()
}

/// The table.
pub fn render(columns: &[(String, JsonPath)], items: &[Value]) -> String {
    let mut rows = vec![columns.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>()];
    for item in items {
        rows.push(
            columns
                .iter()
                .map(|(_, path)| {
                    let text = path.render(item);
                    if text.is_empty() { "<none>".to_owned() } else { text.replace(' ', ",") }
                })
                .collect(),
        );
    }
    align(&rows)
}
