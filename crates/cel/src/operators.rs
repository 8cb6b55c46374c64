//! Operators and the functions of the standard library that belong to no other place.

use std::cmp::Ordering;

use crate::error::Error;
use crate::time;
use crate::value::{Evaluated, LARGEST, Value, compare};

type Args<'x, 'a> = &'x [Value<'a>];

fn overflow<'a>(result: Option<Value<'a>>, kind: &str) -> Evaluated<'a> {
    result.ok_or_else(|| Error::new(format!("{kind} overflow")))
}

pub(crate) fn add<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    match args {
        [Value::Int(a), Value::Int(b)] => overflow(a.checked_add(*b).map(Value::Int), "integer"),
        [Value::Uint(a), Value::Uint(b)] => overflow(a.checked_add(*b).map(Value::Uint), "unsigned integer"),
        [Value::Double(a), Value::Double(b)] => Ok(Value::Double(a + b)),
        [Value::String(a), Value::String(b)] if a.len() + b.len() > LARGEST => Err(Error::new("string is too large")),
        [Value::String(a), Value::String(b)] => Ok(Value::from(format!("{}{}", &**a, &**b))),
        [Value::Bytes(a), Value::Bytes(b)] if a.len() + b.len() > LARGEST => Err(Error::new("bytes are too large")),
        [Value::Bytes(a), Value::Bytes(b)] => Ok(Value::Bytes([&**a, &**b].concat().into())),
        [Value::List(a), Value::List(b)] => a.plus(b),
        [Value::Duration(a), Value::Duration(b)] => overflow(a.checked_add(*b).map(Value::Duration), "duration"),
        [Value::Timestamp(at), Value::Duration(by)] | [Value::Duration(by), Value::Timestamp(at)] => {
            time::shifted(*at, *by)
        }
        _ => Err(Error::no_overload()),
    }
}

pub(crate) fn subtract<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    match args {
        [Value::Int(a), Value::Int(b)] => overflow(a.checked_sub(*b).map(Value::Int), "integer"),
        [Value::Uint(a), Value::Uint(b)] => overflow(a.checked_sub(*b).map(Value::Uint), "unsigned integer"),
        [Value::Double(a), Value::Double(b)] => Ok(Value::Double(a - b)),
        [Value::Duration(a), Value::Duration(b)] => overflow(a.checked_sub(*b).map(Value::Duration), "duration"),
        [Value::Timestamp(a), Value::Timestamp(b)] => time::between(*a, *b),
        [Value::Timestamp(at), Value::Duration(by)] => match by.checked_neg() {
            Some(back) => time::shifted(*at, back),
            None => Err(Error::new("timestamp overflow")),
        },
        _ => Err(Error::no_overload()),
    }
}

pub(crate) fn multiply<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    match args {
        [Value::Int(a), Value::Int(b)] => overflow(a.checked_mul(*b).map(Value::Int), "integer"),
        [Value::Uint(a), Value::Uint(b)] => overflow(a.checked_mul(*b).map(Value::Uint), "unsigned integer"),
        [Value::Double(a), Value::Double(b)] => Ok(Value::Double(a * b)),
        _ => Err(Error::no_overload()),
    }
}

pub(crate) fn divide<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    match args {
        [Value::Int(_), Value::Int(0)] | [Value::Uint(_), Value::Uint(0)] => Err(Error::new("division by zero")),
        [Value::Int(a), Value::Int(b)] => overflow(a.checked_div(*b).map(Value::Int), "integer"),
        [Value::Uint(a), Value::Uint(b)] => Ok(Value::Uint(a / b)),
        [Value::Double(a), Value::Double(b)] => Ok(Value::Double(a / b)),
        _ => Err(Error::no_overload()),
    }
}

pub(crate) fn modulo<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    match args {
        [Value::Int(_), Value::Int(0)] | [Value::Uint(_), Value::Uint(0)] => Err(Error::new("modulus by zero")),
        [Value::Int(a), Value::Int(b)] => overflow(a.checked_rem(*b).map(Value::Int), "integer"),
        [Value::Uint(a), Value::Uint(b)] => Ok(Value::Uint(a % b)),
        _ => Err(Error::no_overload()),
    }
}

pub(crate) fn negate<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    match args {
        [Value::Int(n)] => overflow(n.checked_neg().map(Value::Int), "integer"),
        [Value::Double(n)] => Ok(Value::Double(-n)),
        _ => Err(Error::no_overload()),
    }
}

pub(crate) fn not<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    match args {
        [Value::Bool(b)] => Ok(Value::Bool(!b)),
        _ => Err(Error::no_overload()),
    }
}

pub(crate) fn equals<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    match args {
        [a, b] => Ok(Value::Bool(a.equals(b))),
        _ => Err(Error::no_overload()),
    }
}

pub(crate) fn differs<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    match args {
        [a, b] => Ok(Value::Bool(!a.equals(b))),
        _ => Err(Error::no_overload()),
    }
}

/// The order of two values as an error where they have none.
pub(crate) fn ordered(a: &Value<'_>, b: &Value<'_>) -> Result<Ordering, Error> {
    let nan = |value: &Value<'_>| matches!(value, Value::Double(n) if n.is_nan());
    compare(a, b)
        .ok_or_else(|| if nan(a) || nan(b) { Error::new("NaN values cannot be ordered") } else { Error::no_overload() })
}

fn relation<'a>(args: Args<'_, 'a>, holds: fn(Ordering) -> bool) -> Evaluated<'a> {
    match args {
        [a, b] => ordered(a, b).map(|order| Value::Bool(holds(order))),
        _ => Err(Error::no_overload()),
    }
}

pub(crate) fn less<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    relation(args, Ordering::is_lt)
}
pub(crate) fn less_or_equal<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    relation(args, Ordering::is_le)
}
pub(crate) fn greater<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    relation(args, Ordering::is_gt)
}
pub(crate) fn greater_or_equal<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    relation(args, Ordering::is_ge)
}

/// The item at an index or the value of a key, if there is one.
pub(crate) fn element<'a>(container: &Value<'a>, key: &Value<'a>) -> Result<Option<Value<'a>>, Error> {
    match container {
        Value::List(list) => {
            let index = match key {
                Value::Int(n) => usize::try_from(*n).ok(),
                Value::Uint(n) => usize::try_from(*n).ok(),
                Value::Double(n) if n.fract() == 0.0 && *n >= 0.0 => Some(*n as usize),
                Value::Double(_) => None,
                other => {
                    let words = format!("unsupported index type '{}' in list", other.type_of().name());
                    return Err(Error::new(words));
                }
            };
            index.filter(|i| *i < list.len()).map(|i| list.get(i)).transpose()
        }
        Value::Map(map) => map.find(key).transpose(),
        Value::Struct(object) => Ok(match key {
            Value::String(name) => object.1.get(&**name).cloned(),
            _ => None,
        }),
        _ => Err(Error::no_overload()),
    }
}

/// `a[?b]`, and `a[b]` of an optional.
pub(crate) fn optional_index<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    match args {
        [Value::Optional(None), _] => Ok(Value::Optional(None)),
        [Value::Optional(Some(inner)), key] => element(inner, key).map(Value::from),
        [container, key] => element(container, key).map(Value::from),
        _ => Err(Error::no_overload()),
    }
}

pub(crate) fn within<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    match args {
        [value, Value::List(list)] => Ok(Value::Bool(list.contains(value))),
        [key, Value::Map(map)] => Ok(Value::Bool(map.has(key))),
        _ => Err(Error::no_overload()),
    }
}

pub(crate) fn size<'a>(args: Args<'_, 'a>) -> Evaluated<'a> {
    match args {
        [value @ (Value::String(_) | Value::Bytes(_) | Value::List(_) | Value::Map(_))] => {
            Ok(Value::Int(i64::try_from(value.size()).unwrap_or(i64::MAX)))
        }
        _ => Err(Error::no_overload()),
    }
}
