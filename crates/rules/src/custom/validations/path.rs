//! `fieldPath` of a rule: the part of the object that a fault is told of (`.spec.items['a.b']`).

use serde_json::Value as Json;

/// The path as faults print it; `None` for one that does not lead to anything in the schema.
pub(super) fn normalized(path: &str, schema: &Json) -> Option<String> {
    let (mut out, mut rest, mut here) = (String::new(), path, schema);
    while !rest.is_empty() {
        let (name, after) = if let Some(name) = rest.strip_prefix("['") {
            let (name, after) = quoted(name)?;
            (name, after.strip_prefix(']')?)
        } else {
            let name = rest.strip_prefix('.')?;
            let end = name.find(['.', '[', ']']).unwrap_or(name.len());
            (name[..end].to_owned(), &name[end..])
        };
        if name.is_empty() {
            return None;
        }
        if here["properties"].is_object() {
            here = here["properties"].get(&name)?;
            out.push('.');
            out.push_str(&name);
        } else {
            here = Some(&here["additionalProperties"]).filter(|a| a.is_object())?;
            out.push_str(&format!("[{name}]"));
        }
        rest = after;
    }
    Some(out)
}

/// A name in quotes, from behind the opening one, and what follows the closing one.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut out = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\'' => return Some((out, &text[at + 1..])),
            '\\' => out.push(match chars.next()?.1 {
                'a' => '\u{7}',
                'b' => '\u{8}',
                'f' => '\u{c}',
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                'v' => '\u{b}',
                c @ ('\'' | '\\') => c,
                _ => return None,
            }),
            c => out.push(c),
        }
    }
    None
}
