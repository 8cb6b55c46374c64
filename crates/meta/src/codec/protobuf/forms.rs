//! Types whose protobuf form is not that of their JSON.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use serde_json::{Number, Value};

use super::ProtobufError;
use super::wire::{Reader, Wire, put_bytes, put_int};
use crate::quantity::Quantity;
use crate::schema::Field;

/// What is special about a field, told by the name of its Go type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Plain,
    /// A named list is a message with the items in field 1.
    Wrapped,
    /// `JSONSchemaPropsOrBool`: 1 allows, 2 schema.
    SchemaOrBool,
    /// `JSONSchemaPropsOrArray`: 1 schema, 2 schemas.
    SchemaOrSchemas,
    /// A map to `JSONSchemaPropsOrStringArray`: 1 schema, 2 properties.
    SchemaOrStrings,
}

impl Form {
    pub(super) fn of(field: &Field) -> Self {
        match field.go.named {
            "v1.Verbs" => Self::Wrapped,
            "v1.JSONSchemaPropsOrBool" => Self::SchemaOrBool,
            "v1.JSONSchemaPropsOrArray" => Self::SchemaOrSchemas,
            "v1.JSONSchemaDependencies" => Self::SchemaOrStrings,
            _ => Self::Plain,
        }
    }
}

/// `Time` and `MicroTime`: 1 seconds, 2 nanoseconds. An empty message is Go's zero time, which JSON shows as null.
pub(super) fn read_time(message: &[u8], micro: bool) -> Result<Value, ProtobufError> {
    if message.is_empty() {
        return Ok(Value::Null);
    }
    let (mut seconds, mut nanos) = (0, 0);
    let mut reader = Reader::new(message);
    while let Some(field) = reader.field()? {
        match field {
            (1, Wire::Varint(value)) => seconds = value.cast_signed(),
            (2, Wire::Varint(value)) => nanos = value as i32,
            _ => {}
        }
    }
    let nanos = if micro { nanos } else { 0 };
    let time = Timestamp::new(seconds, nanos).map_err(|_| ProtobufError::Malformed("time is out of range"))?;
    let format = if micro { "%Y-%m-%dT%H:%M:%S.%6fZ" } else { "%Y-%m-%dT%H:%M:%SZ" };
    Ok(Value::String(time.strftime(format).to_string()))
}

pub(super) fn write_time(out: &mut Vec<u8>, text: &str, micro: bool) -> Result<(), ProtobufError> {
    let time: Timestamp = text.parse().map_err(|_| ProtobufError::Unfit("time"))?;
    let nanos = time.subsec_nanosecond();
    // Before 1970 both parts are negative here; on the wire nanoseconds count forward.
    let seconds = if nanos < 0 { time.as_second() - 1 } else { time.as_second() };
    put_int(out, 1, seconds);
    put_int(out, 2, if micro { i64::from(nanos.rem_euclid(1_000_000_000)) / 1000 * 1000 } else { 0 });
    Ok(())
}

/// `Quantity`: 1 text.
pub(super) fn read_quantity(message: &[u8]) -> Result<Value, ProtobufError> {
    // None is given at all, or one that is empty, which is none.
    let mut text = "0";
    let mut reader = Reader::new(message);
    while let Some(field) = reader.field()? {
        if let (1, Wire::Bytes(bytes)) = field {
            text = utf8(bytes)?;
        }
    }
    text.parse::<Quantity>()?;
    Ok(Value::String(text.to_owned()))
}

/// `IntOrString`: 1 which (0 number, 1 text), 2 number, 3 text.
pub(super) fn read_int_or_string(message: &[u8]) -> Result<Value, ProtobufError> {
    let (mut is_text, mut number, mut text) = (false, 0, "");
    let mut reader = Reader::new(message);
    while let Some(field) = reader.field()? {
        match field {
            (1, Wire::Varint(value)) => is_text = value == 1,
            (2, Wire::Varint(value)) => number = value as i32,
            (3, Wire::Bytes(bytes)) => text = utf8(bytes)?,
            _ => {}
        }
    }
    Ok(if is_text { Value::String(text.to_owned()) } else { Value::from(number) })
}

pub(super) fn write_int_or_string(out: &mut Vec<u8>, value: &Value) -> Result<(), ProtobufError> {
    put_int(out, 1, value.is_string().into());
    match value {
        Value::String(text) => {
            put_int(out, 2, 0);
            put_bytes(out, 3, text.as_bytes());
        }
        other => {
            put_int(out, 2, int(other)?);
            put_bytes(out, 3, b"");
        }
    }
    Ok(())
}

/// `RawExtension`, `FieldsV1`, `JSON`: 1 the JSON text.
pub(super) fn read_any(message: &[u8]) -> Result<Value, ProtobufError> {
    let mut json: &[u8] = b"";
    let mut reader = Reader::new(message);
    while let Some(field) = reader.field()? {
        if let (1, Wire::Bytes(bytes)) = field {
            json = bytes;
        }
    }
    if json.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(json).map_err(ProtobufError::Json)
}

pub(super) fn write_any(out: &mut Vec<u8>, value: &Value) -> Result<(), ProtobufError> {
    put_bytes(out, 1, &serde_json::to_vec(value).map_err(ProtobufError::Json)?);
    Ok(())
}

pub(super) fn utf8(bytes: &[u8]) -> Result<&str, ProtobufError> {
    std::str::from_utf8(bytes).map_err(|_| ProtobufError::Malformed("string is not UTF-8"))
}

pub(super) fn encode_base64(bytes: &[u8]) -> Value {
    Value::String(BASE64.encode(bytes))
}

pub(super) fn decode_base64(text: &str) -> Result<Vec<u8>, ProtobufError> {
    BASE64.decode(text).map_err(|_| ProtobufError::Unfit("base64 text"))
}

/// A whole number in JSON, also where it is written `1.0`.
pub(super) fn int(value: &Value) -> Result<i64, ProtobufError> {
    let whole = |f: &f64| f.fract() == 0.0 && f.abs() < 9e15;
    value.as_i64().or_else(|| value.as_f64().filter(whole).map(|f| f as i64)).ok_or(ProtobufError::Unfit("integer"))
}

/// A number as Go's JSON writes it: without a fraction where there is none.
pub(super) fn float(value: f64) -> Result<Value, ProtobufError> {
    if value.fract() == 0.0 && value.abs() < 9e15 {
        return Ok(Value::from(value as i64));
    }
    Number::from_f64(value).map(Value::Number).ok_or(ProtobufError::Malformed("number is not finite"))
}
