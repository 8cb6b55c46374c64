//! Conversions: `int(x)`, `string(x)` and their like.

use std::rc::Rc;

use crate::error::Error;
use crate::time;
use crate::value::{Evaluated, Special, Text, Value};

fn failed<'a>(value: &Value<'a>, to: &str) -> Evaluated<'a> {
    Err(Error::new(format!("type conversion error from '{}' to '{to}'", value.type_of().name())))
}

/// The conversion to the type that gives the function its name.
pub(crate) fn convert<'a>(to: &str, value: &Value<'a>) -> Evaluated<'a> {
    match to {
        "int" => to_int(value),
        "uint" => to_uint(value),
        "double" => to_double(value),
        "string" => to_string(value).map(Value::String),
        "bool" => match value {
            Value::Bool(_) => Ok(value.clone()),
            Value::String(text) => match &**text {
                "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Value::Bool(true)),
                "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Value::Bool(false)),
                _ => failed(value, "bool"),
            },
            _ => Err(Error::no_overload()),
        },
        "bytes" => match value {
            Value::Bytes(_) => Ok(value.clone()),
            Value::String(text) => Ok(Value::Bytes(text.as_bytes().into())),
            _ => Err(Error::no_overload()),
        },
        "timestamp" => match value {
            Value::Timestamp(_) => Ok(value.clone()),
            Value::Int(seconds) => time::timestamp_of(*seconds).map(Value::Timestamp),
            Value::String(text) => time::parse_timestamp(text)
                .map_or_else(|| failed(value, "google.protobuf.Timestamp"), |t| Ok(Value::Timestamp(t))),
            _ => Err(Error::no_overload()),
        },
        "duration" => match value {
            Value::Duration(_) => Ok(value.clone()),
            Value::Int(nanos) => Ok(Value::Duration(*nanos)),
            Value::String(text) => time::parse_duration(text)
                .map_or_else(|| failed(value, "google.protobuf.Duration"), |d| Ok(Value::Duration(d))),
            _ => Err(Error::no_overload()),
        },
        _ => Ok(value.clone()),
    }
}

fn to_int<'a>(value: &Value<'a>) -> Evaluated<'a> {
    let overflow = || Error::new("integer overflow");
    Ok(Value::Int(match value {
        Value::Int(n) => *n,
        Value::Uint(n) => i64::try_from(*n).map_err(|_| overflow())?,
        Value::Double(n) if n.is_finite() && *n > i64::MIN as f64 && *n < i64::MAX as f64 => *n as i64,
        Value::Double(_) => return Err(overflow()),
        Value::Duration(nanos) => *nanos,
        Value::Timestamp(at) => at.as_second(),
        Value::String(text) => match text.strip_prefix('+').unwrap_or(text).parse() {
            Ok(n) => n,
            Err(_) => return failed(value, "int"),
        },
        _ => return Err(Error::no_overload()),
    }))
}

fn to_uint<'a>(value: &Value<'a>) -> Evaluated<'a> {
    let overflow = || Error::new("unsigned integer overflow");
    Ok(Value::Uint(match value {
        Value::Uint(n) => *n,
        Value::Int(n) => u64::try_from(*n).map_err(|_| overflow())?,
        Value::Double(n) if n.is_finite() && *n >= 0.0 && *n < u64::MAX as f64 => *n as u64,
        Value::Double(_) => return Err(overflow()),
        Value::String(text) if !text.starts_with('+') => match text.parse() {
            Ok(n) => n,
            Err(_) => return failed(value, "uint"),
        },
        Value::String(_) => return failed(value, "uint"),
        _ => return Err(Error::no_overload()),
    }))
}

fn to_double<'a>(value: &Value<'a>) -> Evaluated<'a> {
    Ok(Value::Double(match value {
        Value::Double(n) => *n,
        Value::Int(n) => *n as f64,
        Value::Uint(n) => *n as f64,
        Value::String(text) => match text.parse() {
            Ok(n) => n,
            Err(_) => return failed(value, "double"),
        },
        _ => return Err(Error::no_overload()),
    }))
}

/// The text of a value, as `string(x)` gives it.
pub(crate) fn to_string<'a>(value: &Value<'a>) -> Result<Text<'a>, Error> {
    let owned = |text: String| Ok(Text::Owned(text.into()));
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Bool(b) => owned(b.to_string()),
        Value::Int(n) => owned(n.to_string()),
        Value::Uint(n) => owned(n.to_string()),
        Value::Double(n) => owned(show_double(*n)),
        Value::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => owned(text.to_owned()),
            Err(_) => Err(Error::new("invalid UTF-8 in bytes, cannot convert to string")),
        },
        Value::Timestamp(at) => owned(time::show_timestamp(*at)),
        Value::Duration(nanos) => owned(time::show_duration(*nanos)),
        Value::Type(ty) => owned(ty.name().to_owned()),
        Value::Library(special) => match &**special {
            Special::Ip(ip) => owned(ip.to_string()),
            Special::Cidr(net) => owned(net.to_string()),
            _ => Err(Error::no_overload()),
        },
        _ => Err(Error::no_overload()),
    }
}

/// Go's `%g`: the shortest text, with an exponent for the very large and the very small.
pub(crate) fn show_double(n: f64) -> String {
    if n.is_nan() {
        return "NaN".to_owned();
    }
    if n.is_infinite() {
        return if n > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let scientific = format!("{n:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if n != 0.0 && !(-4..21).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{mantissa}e{sign}{:02}", exponent.abs());
    }
    format!("{n}")
}

/// `type(x)`.
pub(crate) fn type_value<'a>(value: &Value<'a>) -> Value<'a> {
    Value::Type(Rc::new(value.type_of()))
}
