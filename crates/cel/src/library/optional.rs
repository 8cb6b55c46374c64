//! Optional values.

use super::Function;
use crate::error::Error;
use crate::value::{Evaluated, Value};

pub(super) fn function(name: &str) -> Option<Function> {
    Some(match name {
        "optional.of" => |args| match args {
            [value] => Ok(Some(value.clone()).into()),
            _ => Err(Error::no_overload()),
        },
        "optional.ofNonZeroValue" => |args| match args {
            [value] => Ok(Some(value.clone()).filter(|v| !v.is_zero()).into()),
            _ => Err(Error::no_overload()),
        },
        "optional.none" => |_| Ok(Value::Optional(None)),
        "value" => |args| match args {
            [Value::Optional(Some(value))] => Ok(value.as_ref().clone()),
            [Value::Optional(None)] => Err(Error::new("optional.none() dereference")),
            _ => Err(Error::no_overload()),
        },
        "hasValue" => |args| match args {
            [Value::Optional(value)] => Ok(Value::Bool(value.is_some())),
            _ => Err(Error::no_overload()),
        },
        "optional.unwrap" | "unwrapOpt" => unwrap,
        "first" => |args| end(args, |_| 0),
        "last" => |args| end(args, |length| length - 1),
        _ => return None,
    })
}

fn unwrap<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::List(list)] = args else { return Err(Error::no_overload()) };
    let mut out = Vec::new();
    for item in list.iter() {
        match item? {
            Value::Optional(value) => out.extend(value.map(|v| v.as_ref().clone())),
            other => return Err(Error::new(format!("value {} is not optional", other.shown()))),
        }
    }
    Ok(out.into())
}

fn end<'a>(args: &[Value<'a>], index: fn(usize) -> usize) -> Evaluated<'a> {
    match args {
        [Value::List(list)] if list.len() == 0 => Ok(Value::Optional(None)),
        [Value::List(list)] => Ok(Some(list.get(index(list.len()))?).into()),
        _ => Err(Error::no_overload()),
    }
}
