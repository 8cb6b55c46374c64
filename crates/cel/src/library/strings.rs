//! Text: the standard functions and the strings extension (its version 2, which Kubernetes has).

use super::{Function, formatting};
use crate::error::Error;
use crate::value::{Evaluated, LARGEST, List, Value};

type Args<'x, 'a> = &'x [Value<'a>];

pub(super) fn function(name: &str) -> Option<Function> {
    Some(match name {
        "contains" => |args| tested(args, |text, part| text.contains(part)),
        "startsWith" => |args| tested(args, |text, part| text.starts_with(part)),
        "endsWith" => |args| tested(args, |text, part| text.ends_with(part)),
        "charAt" => char_at,
        "lowerAscii" => |args| mapped(args, str::to_ascii_lowercase),
        "upperAscii" => |args| mapped(args, str::to_ascii_uppercase),
        "trim" => |args| mapped(args, |text| text.trim().to_owned()),
        "strings.quote" => |args| mapped(args, quoted),
        "jsonpatch.escapeKey" => |args| mapped(args, |text| text.replace('~', "~0").replace('/', "~1")),
        "replace" => replace,
        "split" => split,
        "substring" => substring,
        "join" => join,
        "format" => formatting::format,
        _ => return None,
    })
}

fn tested<'a>(args: Args<'_, 'a>, test: fn(&str, &str) -> bool) -> Evaluated<'a> {
    match args {
        [Value::String(text), Value::String(part)] => Ok(Value::Bool(test(text, part))),
        _ => Err(Error::no_overload()),
    }
}

fn mapped<'a>(args: Args<'_, 'a>, map: fn(&str) -> String) -> Evaluated<'a> {
    match args {
        [Value::String(text)] => Ok(map(text).into()),
        _ => Err(Error::no_overload()),
    }
}

fn out_of_range<T>(index: i64) -> Result<T, Error> {
    Err(Error::new(format!("index out of range: {index}")))
}

/// The byte at which character `index` begins; the length for the one after the last.
fn place(text: &str, index: i64) -> Option<usize> {
    let index = usize::try_from(index).ok()?;
    text.char_indices().map(|(at, _)| at).chain([text.len()]).nth(index)
}

fn char_at<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    let [Value::String(text), Value::Int(index)] = args else { return Err(Error::no_overload()) };
    match place(text, *index) {
        None => out_of_range(*index),
        Some(at) => Ok(text[at..].chars().next().map(String::from).unwrap_or_default().into()),
    }
}

fn count(text: &str) -> i64 {
    text.chars().count() as i64
}

pub(super) fn index_of<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    let (text, part, offset) = match args {
        [Value::List(list), value] => return Ok(Value::Int(position(list, value, false))),
        [Value::String(text), Value::String(part)] => (text, part, 0),
        [Value::String(text), Value::String(part), Value::Int(offset)] => (text, part, *offset),
        _ => return Err(Error::no_overload()),
    };
    if part.is_empty() {
        return Ok(Value::Int(offset));
    }
    if offset < 0 {
        return out_of_range(offset);
    }
    let found = place(text, offset).and_then(|from| text[from..].find(&**part).map(|at| count(&text[..from + at])));
    Ok(Value::Int(found.unwrap_or(-1)))
}

pub(super) fn last_index_of<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    let (text, part, offset) = match args {
        [Value::List(list), value] => return Ok(Value::Int(position(list, value, true))),
        [Value::String(text), Value::String(part)] if part.is_empty() => return Ok(Value::Int(count(text))),
        [Value::String(text), Value::String(part)] => (text, part, count(text) - 1),
        [Value::String(text), Value::String(part), Value::Int(offset)] => (text, part, *offset),
        _ => return Err(Error::no_overload()),
    };
    if part.is_empty() {
        return Ok(Value::Int(offset));
    }
    if text.is_empty() && args.len() == 2 {
        return Ok(Value::Int(-1));
    }
    if offset < 0 {
        return out_of_range(offset);
    }
    if offset >= count(text) {
        return Ok(Value::Int(-1));
    }
    let end = place(text, offset).map_or(text.len(), |at| (at + part.len()).min(text.len()));
    let end = (end..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
    Ok(Value::Int(text[..end].rfind(&**part).map_or(-1, |at| count(&text[..at]))))
}

fn position<'a>(list: &List<'a>, value: &Value<'a>, last: bool) -> i64 {
    let same = |i: &usize| list.get(*i).is_ok_and(|item| item.equals(value));
    let found = if last { (0..list.len()).rev().find(same) } else { (0..list.len()).find(same) };
    found.map_or(-1, |i| i as i64)
}

fn replace<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    let (text, old, new, limit) = match args {
        [Value::String(text), Value::String(old), Value::String(new)] => (text, old, new, -1),
        [Value::String(text), Value::String(old), Value::String(new), Value::Int(n)] => (text, old, new, *n),
        _ => return Err(Error::no_overload()),
    };
    let most = usize::try_from(limit).unwrap_or(usize::MAX);
    let found = if old.is_empty() { count(text) as usize + 1 } else { text.matches(&**old).count() };
    if found.min(most).saturating_mul(new.len()) + text.len() > LARGEST {
        return Err(Error::new("string is too large"));
    }
    Ok(text.replacen(&**old, new, most).into())
}

fn split<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    let (text, separator, limit) = match args {
        [Value::String(text), Value::String(separator)] => (text, separator, -1),
        [Value::String(text), Value::String(separator), Value::Int(n)] => (text, separator, *n),
        _ => return Err(Error::no_overload()),
    };
    let most = usize::try_from(limit).unwrap_or(usize::MAX);
    let parts: Vec<Value<'a>> = if most == 0 {
        Vec::new()
    } else if separator.is_empty() {
        let mut parts: Vec<Value<'a>> = text.chars().take(most - 1).map(|c| c.to_string().into()).collect();
        let rest: String = text.chars().skip(most - 1).collect();
        if !rest.is_empty() {
            parts.push(rest.into());
        }
        parts
    } else {
        text.splitn(most, &**separator).map(|part| part.to_owned().into()).collect()
    };
    Ok(parts.into())
}

fn substring<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    let (text, start, end) = match args {
        [Value::String(text), Value::Int(start)] => (text, *start, None),
        [Value::String(text), Value::Int(start), Value::Int(end)] => (text, *start, Some(*end)),
        _ => return Err(Error::no_overload()),
    };
    if let Some(end) = end.filter(|end| start > *end) {
        return Err(Error::new(format!("invalid substring range. start: {start}, end: {end}")));
    }
    let Some(from) = place(text, start) else { return out_of_range(start) };
    let to = match end {
        None => text.len(),
        Some(end) => match place(text, end) {
            Some(to) => to,
            None => return out_of_range(end),
        },
    };
    Ok(text[from..to].to_owned().into())
}

fn join<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    let (list, separator) = match args {
        [Value::List(list)] => (list, ""),
        [Value::List(list), Value::String(separator)] => (list, &**separator),
        _ => return Err(Error::no_overload()),
    };
    let mut out = String::new();
    for (i, item) in list.iter().enumerate() {
        if i > 0 {
            out.push_str(separator);
        }
        match item? {
            Value::String(text) => out.push_str(&text),
            other => return Err(Error::new(format!("join: invalid input: {}", other.shown()))),
        }
        if out.len() > LARGEST {
            return Err(Error::new("string is too large"));
        }
    }
    Ok(out.into())
}

fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
