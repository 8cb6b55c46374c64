//! Aligned columns, exactly as kubectl aligns them: three spaces between, none after the last, six wide at least.

use serde_json::Value;

/// What of a table is shown.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shown {
    /// Also columns of lower priority.
    pub wide: bool,
    /// A first column with the namespace.
    pub namespace: bool,
    /// A last column with the labels.
    pub labels: bool,
    /// No heading.
    pub no_headers: bool,
    /// Names as `kind/name`.
    pub kind: bool,
}

/// Rows of a server's `Table`, heading first.
pub fn rows(table: &Value, shown: Shown, kind: &str) -> Vec<Vec<String>> {
    let empty = Vec::new();
    let definitions = table["columnDefinitions"].as_array().unwrap_or(&empty);
    let columns: Vec<usize> = (0..definitions.len())
        .filter(|i| shown.wide || definitions[*i]["priority"].as_i64().unwrap_or(0) == 0)
        .collect();
    let mut rows = Vec::new();
    if !shown.no_headers {
        let names = columns.iter().map(|i| definitions[*i]["name"].as_str().unwrap_or_default().to_uppercase());
        let before = shown.namespace.then(|| "NAMESPACE".to_owned());
        rows.push(before.into_iter().chain(names).chain(shown.labels.then(|| "LABELS".to_owned())).collect());
    }
    for row in table["rows"].as_array().unwrap_or(&empty) {
        let metadata = &row["object"]["metadata"];
        let mut cells = Vec::new();
        if shown.namespace {
            cells.push(metadata["namespace"].as_str().unwrap_or_default().to_owned());
        }
        for i in &columns {
            let text = cell(&row["cells"][*i]);
            let is_name = definitions[*i]["format"] == "name" || definitions[*i]["name"] == "Name";
            cells.push(if shown.kind && is_name { format!("{kind}/{text}") } else { text });
        }
        if shown.labels {
            cells.push(labels(&metadata["labels"]));
        }
        rows.push(cells);
    }
    rows
}

/// `a=b,c=d`, or `<none>`.
pub fn labels(value: &Value) -> String {
    match value.as_object() {
        Some(map) if !map.is_empty() => {
            map.iter().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect::<Vec<_>>().join(",")
        }
        _ => "<none>".to_owned(),
    }
}

fn cell(value: &Value) -> String {
    match value {
        Value::String(text) => text.lines().next().unwrap_or_default().to_owned(),
        Value::Null => "<none>".to_owned(),
        other => other.to_string(),
    }
}

/// Rows as aligned text.
pub fn align(rows: &[Vec<String>]) -> String {
    align_to(rows, &mut Vec::new())
}

/// Rows as aligned text that never gets narrower than `widths`, which is updated: what `-w` needs.
pub fn align_to(rows: &[Vec<String>], widths: &mut Vec<usize>) -> String {
    for row in rows {
        for (i, text) in row.iter().enumerate() {
            let width = (text.chars().count() + 3).max(6);
            match widths.get_mut(i) {
                Some(known) => *known = (*known).max(width),
                None => widths.push(width),
            }
        }
    }
    let mut out = String::new();
    for row in rows {
        for (i, text) in row.iter().enumerate() {
            out.push_str(text);
            if i + 1 < row.len() {
                let width = widths.get(i).copied().unwrap_or_default();
                out.extend(std::iter::repeat_n(' ', width.saturating_sub(text.chars().count())));
            }
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn table() -> Value {
        json!({"columnDefinitions": [{"name": "Name", "format": "name", "priority": 0}, {"name": "Ready", "priority": 0}, {"name": "IP", "priority": 1}],
            "rows": [{"cells": ["a", "1/1", null], "object": {"metadata": {"namespace": "x", "labels": {"k": "v"}}}}]})
    }

    #[test]
    fn columns_align() {
        assert_eq!(align(&rows(&table(), Shown::default(), "pod")), "NAME   READY\na      1/1\n");
    }

    #[test]
    fn what_is_shown() {
        let shown = Shown { wide: true, namespace: true, labels: true, kind: true, ..Shown::default() };
        let rows = rows(&table(), shown, "pod");
        assert_eq!(rows[0], ["NAMESPACE", "NAME", "READY", "IP", "LABELS"]);
        assert_eq!(rows[1], ["x", "pod/a", "1/1", "<none>", "k=v"]);
    }

    #[test]
    fn a_watch_never_gets_narrower() {
        let mut widths = Vec::new();
        align_to(&[vec!["long-name".into(), "x".into()]], &mut widths);
        assert_eq!(align_to(&[vec!["a".into(), "x".into()]], &mut widths), "a           x\n");
    }
}
