//! `format`: text with clauses (`%s`, `%d`, `%.2f`, `%e`, `%b`, `%x`, `%o`) filled from a list.

use std::fmt::Write as _;

use crate::convert;
use crate::error::Error;
use crate::time;
use crate::value::{Evaluated, LARGEST, List, Value};

const PRECISION: usize = 6;
const MOST_DECIMALS: usize = 1_000;

pub(super) fn format<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::String(text), Value::List(list)] = args else { return Err(Error::no_overload()) };
    let (mut out, mut rest, mut next) = (String::new(), &**text, 0);
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            out.push('%');
            rest = after;
            continue;
        }
        if next >= list.len() {
            return Err(Error::new(format!("index {next} out of range")));
        }
        if rest.is_empty() {
            return Err(Error::new("unexpected end of string"));
        }
        rest = clause(rest, list, next, &mut out)?;
        next += 1;
        if out.len() > LARGEST {
            return Err(Error::new("string is too large"));
        }
    }
    out.push_str(rest);
    Ok(out.into())
}

/// Fills the clause that begins `rest` and returns what follows it.
fn clause<'r>(rest: &'r str, list: &List<'_>, index: usize, out: &mut String) -> Result<&'r str, Error> {
    let unparsed = |why: &str| Error::new(format!("could not parse formatting clause: {why}"));
    let (precision, rest) = match rest.strip_prefix('.') {
        None => (None, rest),
        Some(digits) => {
            let count = digits.bytes().take_while(u8::is_ascii_digit).count();
            if count == digits.len() {
                return Err(unparsed("error while parsing precision: could not find end of precision specifier"));
            }
            let precision: usize = digits[..count]
                .parse()
                .map_err(|_| unparsed("error while parsing precision: error while converting precision to integer"))?;
            (Some(precision.min(MOST_DECIMALS)), &digits[count..])
        }
    };
    let Some(kind) = rest.chars().next() else { return Err(unparsed("unexpected end of string")) };
    let value = list.get(index)?;
    let wrong = |words: &str| Err(format!("{words}, was given {}", value.type_of().name()));
    let filled = match kind {
        's' => shown(&value),
        'd' => match &value {
            Value::Int(n) => Ok(n.to_string()),
            Value::Uint(n) => Ok(n.to_string()),
            _ => wrong("decimal clause can only be used on integers"),
        },
        'f' => match double(&value) {
            Some(n) => Ok(fixed(n, precision.unwrap_or(PRECISION))),
            None => wrong("fixed-point clause can only be used on doubles"),
        },
        'e' => match double(&value) {
            Some(n) => Ok(scientific(n, precision.unwrap_or(PRECISION))),
            None => wrong("scientific clause can only be used on doubles"),
        },
        'b' => match &value {
            Value::Int(n) => Ok(signed(*n, |n| format!("{n:b}"))),
            Value::Uint(n) => Ok(format!("{n:b}")),
            Value::Bool(b) => Ok(u8::from(*b).to_string()),
            _ => wrong("only integers and bools can be formatted as binary"),
        },
        'o' => match &value {
            Value::Int(n) => Ok(signed(*n, |n| format!("{n:o}"))),
            Value::Uint(n) => Ok(format!("{n:o}")),
            _ => wrong("octal clause can only be used on integers"),
        },
        'x' | 'X' => {
            let bytes = |bytes: &[u8]| {
                bytes.iter().fold(String::new(), |mut out, b| {
                    let _ = write!(out, "{b:02x}");
                    out
                })
            };
            let hex = match &value {
                Value::Int(n) => Ok(signed(*n, |n| format!("{n:x}"))),
                Value::Uint(n) => Ok(format!("{n:x}")),
                Value::String(text) => Ok(bytes(text.as_bytes())),
                Value::Bytes(b) => Ok(bytes(b)),
                _ => wrong("only integers, byte buffers, and strings can be formatted as hex"),
            };
            hex.map(|hex| if kind == 'X' { hex.to_ascii_uppercase() } else { hex })
        }
        other => return Err(unparsed(&format!("unrecognized formatting clause \"{other}\""))),
    };
    out.push_str(&filled.map_err(|why| Error::new(format!("error during formatting: {why}")))?);
    Ok(&rest[kind.len_utf8()..])
}

fn signed(n: i64, show: impl Fn(u64) -> String) -> String {
    let sign = if n < 0 { "-" } else { "" };
    format!("{sign}{}", show(n.unsigned_abs()))
}

fn double(value: &Value<'_>) -> Option<f64> {
    match value {
        Value::Double(n) => Some(*n),
        Value::String(text) => match &**text {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        _ => None,
    }
}

fn special(n: f64) -> Option<&'static str> {
    match n {
        n if n.is_nan() => Some("NaN"),
        f64::INFINITY => Some("\u{221e}"),
        f64::NEG_INFINITY => Some("-\u{221e}"),
        _ => None,
    }
}

/// With the thousands apart, as upstream's locale (`en_US`) has it.
fn fixed(n: f64, precision: usize) -> String {
    if let Some(special) = special(n) {
        return special.to_owned();
    }
    let text = format!("{n:.precision$}");
    let (sign, digits) = text.strip_prefix('-').map_or(("", text.as_str()), |digits| ("-", digits));
    let (whole, decimals) = digits.split_once('.').map_or((digits, None), |(w, d)| (w, Some(d)));
    let mut grouped = String::from(sign);
    for (i, digit) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if let Some(decimals) = decimals {
        grouped.push('.');
        grouped.push_str(decimals);
    }
    grouped
}

/// `1.5×10⁰³`: upstream's locale again.
fn scientific(n: f64, precision: usize) -> String {
    if let Some(special) = special(n) {
        return special.to_owned();
    }
    let text = format!("{n:.precision$e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let raised = |c: char| match c {
        '1' => '\u{b9}',
        '2' => '\u{b2}',
        '3' => '\u{b3}',
        digit => char::from_u32(0x2070 + digit.to_digit(10).unwrap_or(0)).unwrap_or(digit),
    };
    let sign = if exponent < 0 { "\u{207b}" } else { "" };
    let digits: String = format!("{:02}", exponent.abs()).chars().map(raised).collect();
    format!("{mantissa}\u{d7}10{sign}{digits}")
}

/// `%s`.
fn shown(value: &Value<'_>) -> Result<String, String> {
    match value {
        Value::List(_) | Value::Map(_) => literal(value),
        Value::Null => Ok("null".to_owned()),
        Value::Library(_) | Value::Optional(_) | Value::Struct(_) | Value::Lazy(_) | Value::Opaque(_) => {
            let given = value.type_of();
            Err(format!(
                "string clause can only be used on strings, bools, bytes, ints, doubles, maps, lists, types, durations, and \
                 timestamps, was given {}",
                given.name()
            ))
        }
        other => convert::to_string(other).map(|text| text.to_string()).map_err(|e| e.to_string()),
    }
}

/// Within a list or a map: as the language would write it.
fn literal(value: &Value<'_>) -> Result<String, String> {
    let text = |value: &Value<'_>| convert::to_string(value).map(|t| t.to_string()).map_err(|e| e.to_string());
    Ok(match value {
        Value::String(text) => format!("{:?}", &**text),
        Value::Bytes(_) => format!("b{:?}", text(value)?),
        Value::Timestamp(at) => format!("timestamp({:?})", time::show_timestamp(*at)),
        Value::Duration(nanos) => format!("duration({:?})", time::show_duration(*nanos)),
        Value::Double(n) if n.is_finite() => format!("{n:.PRECISION$}"),
        Value::Double(n) if n.is_nan() => "\"NaN\"".to_owned(),
        Value::Double(n) => format!("\"{}Inf\"", if *n > 0.0 { '+' } else { '-' }),
        Value::List(list) => {
            let items: Vec<String> =
                list.iter().map(|item| literal(&item.map_err(|e| e.to_string())?)).collect::<Result<_, _>>()?;
            format!("[{}]", items.join(", "))
        }
        Value::Map(map) => {
            let mut entries = Vec::new();
            for (key, value) in map.entries() {
                if !matches!(key, Value::String(_) | Value::Bool(_) | Value::Int(_) | Value::Uint(_)) {
                    return Err(format!("no formatting function for map key of type {}", key.type_of().name()));
                }
                entries.push(format!("{}:{}", literal(&key)?, literal(&value.map_err(|e| e.to_string())?)?));
            }
            entries.sort();
            format!("{{{}}}", entries.join(", "))
        }
        Value::Null => "null".to_owned(),
        Value::Bool(_) | Value::Int(_) | Value::Uint(_) | Value::Type(_) => text(value)?,
        other => return Err(format!("no formatting function for {}", other.type_of().name())),
    })
}
