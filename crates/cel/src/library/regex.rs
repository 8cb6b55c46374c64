//! Patterns: `matches`, `find`, `findAll`.

use regex::Regex;

use super::Function;
use crate::error::Error;
use crate::pattern;
use crate::value::{Evaluated, Value};

pub(super) fn function(name: &str) -> Option<Function> {
    Some(match name {
        "matches" => |args| dynamic("matches", args),
        "find" => |args| dynamic("find", args),
        "findAll" => |args| dynamic("findAll", args),
        _ => return None,
    })
}

fn dynamic<'a>(name: &str, args: &[Value<'a>]) -> Evaluated<'a> {
    let [_, Value::String(text), ..] = args else { return Err(Error::no_overload()) };
    let words = |reason: String| if name == "matches" { reason } else { format!("Illegal regex: {reason}") };
    let pattern = pattern::compile(text).map_err(|reason| Error::new(words(reason)))?;
    with(name, &pattern, args)
}

/// With a pattern that is compiled already.
pub(crate) fn with<'a>(name: &str, pattern: &Regex, args: &[Value<'a>]) -> Evaluated<'a> {
    let Some(Value::String(text)) = args.first() else { return Err(Error::no_overload()) };
    match (name, args.get(2)) {
        ("matches", None) => Ok(Value::Bool(pattern.is_match(text))),
        ("find", None) => Ok(pattern.find(text).map(|found| found.as_str().to_owned()).unwrap_or_default().into()),
        ("findAll", None | Some(Value::Int(_))) => {
            let most = match args.get(2) {
                Some(Value::Int(n)) => usize::try_from(*n).unwrap_or(usize::MAX),
                _ => usize::MAX,
            };
            Ok(pattern
                .find_iter(text)
                .take(most)
                .map(|found| found.as_str().to_owned().into())
                .collect::<Vec<_>>()
                .into())
        }
        _ => Err(Error::no_overload()),
    }
}
