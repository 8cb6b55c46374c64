//! Paths into a schema (`.spec.items['a.b']`): the part of the object that a fault is told of, and fields that lists are
//! selected by.

use serde_json::Value as Json;

/// Where a path leads.
#[derive(Debug)]
pub(crate) struct Place<'s> {
    /// The path as faults print it.
    pub(crate) path: String,
    pub(crate) schema: &'s Json,
}

/// Follows a path through a schema; `brackets` says whether members may be named in them.
///
/// # Errors
/// Why the path leads nowhere.
pub(crate) fn follow<'s>(path: &str, schema: &'s Json, brackets: bool) -> Result<Place<'s>, String> {
    const NOWHERE: &str = "does not refer to a valid field";
    let mut place = Place { path: String::new(), schema };
    let mut tokens = Tokens(path);
    while let Some(token) = tokens.next() {
        let end = || "unexpected end of JSON path".to_owned();
        let in_brackets = token == "[";
        let name = match token {
            "[" if !brackets => return Err("array notation is not allowed".into()),
            "[" => unquoted(tokens.next().ok_or_else(end)?)?,
            "." => tokens.next().ok_or_else(end)?.to_owned(),
            other => return Err(format!("expected [ or . but got: {other}")),
        };
        if place.schema["properties"].is_object() {
            place.path.push('.');
            place.path.push_str(&name);
            place.schema = place.schema["properties"].get(&name).ok_or(NOWHERE)?;
        } else {
            place.path.push_str(&format!("[{name}]"));
            place.schema = Some(&place.schema["additionalProperties"]).filter(|a| a.is_object()).ok_or(NOWHERE)?;
        }
        if in_brackets {
            match tokens.next().ok_or_else(end)? {
                "]" => {}
                other => return Err(format!("expected ] but got {other}")),
            }
        }
    }
    Ok(place)
}

/// Dots, brackets, texts in quotes, and what stands between.
struct Tokens<'p>(&'p str);

impl<'p> Iterator for Tokens<'p> {
    type Item = &'p str;

    fn next(&mut self) -> Option<&'p str> {
        let text = self.0;
        let length = match text.chars().next()? {
            '.' | '[' | ']' => 1,
            '\'' => {
                let closing = text.match_indices('\'').skip(1).find(|(at, _)| text.as_bytes()[at - 1] != b'\\');
                closing.map_or(text.len(), |(at, _)| at + 1)
            }
            _ => text.find(['.', '[', ']']).unwrap_or(text.len()),
        };
        let (token, rest) = text.split_at(length);
        self.0 = rest;
        Some(token)
    }
}

/// What stands in quotes.
fn unquoted(token: &str) -> Result<String, String> {
    let inner = token.strip_prefix('\'').and_then(|t| t.strip_suffix('\''));
    let inner = inner.ok_or_else(|| format!("expected single quoted string but got {token}"))?;
    let mut out = String::new();
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        let escaped = if c == '\\' { chars.next() } else { None };
        out.push(match (c, escaped) {
            ('\\', Some('a')) => '\u{7}',
            ('\\', Some('b')) => '\u{8}',
            ('\\', Some('f')) => '\u{c}',
            ('\\', Some('n')) => '\n',
            ('\\', Some('r')) => '\r',
            ('\\', Some('t')) => '\t',
            ('\\', Some('v')) => '\u{b}',
            ('\\', Some(c @ ('\'' | '\\'))) => c,
            ('\\', Some(c)) => return Err(format!("invalid string literal: invalid escape char \\{c}")),
            (c, _) => c,
        });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn leads_somewhere_or_says_why_not() {
        let schema = json!({"properties": {
            "spec": {"properties": {"a.b": {"type": "string"}, "size": {"type": "integer"}}},
            "labels": {"additionalProperties": {"type": "string"}},
        }});
        for (path, brackets, expected) in [
            (".spec.size", false, Ok(".spec.size")),
            (".spec['a.b']", true, Ok(".spec.a.b")),
            (".labels.x", false, Ok(".labels[x]")),
            (".labels['it\\'s']", true, Ok(".labels[it's]")),
            (".spec['a.b']", false, Err("array notation is not allowed")),
            ("spec", false, Err("expected [ or . but got: spec")),
            ("0", false, Err("expected [ or . but got: 0")),
            (".spec.", false, Err("unexpected end of JSON path")),
            (".spec.other", false, Err("does not refer to a valid field")),
            (".spec.size.x", false, Err("does not refer to a valid field")),
            (".spec[0]", true, Err("expected single quoted string but got 0")),
            (".spec['size'", true, Err("unexpected end of JSON path")),
            (".spec['size'.", true, Err("expected ] but got .")),
            (".spec['\\q']", true, Err("invalid string literal: invalid escape char \\q")),
        ] {
            let found = follow(path, &schema, brackets).map(|place| place.path);
            assert_eq!(found.as_deref().map_err(String::as_str), expected, "{path}");
        }
    }
}
