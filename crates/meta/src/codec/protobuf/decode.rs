//! From protobuf to JSON.
//!
//! Go writes every field that is not a pointer, also when it holds nothing, so zeros on the wire become what Go's JSON
//! makes of them: nothing where the field says `omitempty`, else the zero itself.

use serde_json::{Map, Value};

use super::forms::{self, Form};
use super::wire::{Reader, Wire};
use super::{MAX_DEPTH, ProtobufError};
use crate::schema::{Field, Scalar, StructType, Type, TypeRef};

/// The message of a struct type, into an object that may hold fields already.
pub(super) fn message(bytes: &[u8], ty: TypeRef<'_>, depth: u32, into: &mut Value) -> Result<(), ProtobufError> {
    let Type::Struct(s) = ty.get() else { return Err(ProtobufError::Unfit("struct")) };
    if !into.is_object() {
        *into = Value::Object(Map::new());
    }
    let Value::Object(map) = into else { return Err(ProtobufError::Unfit("object")) };
    level(bytes, Place { ty, s }, &[], depth, map)
}

/// Where in the schema we are.
#[derive(Clone, Copy)]
struct Place<'a> {
    ty: TypeRef<'a>,
    s: &'a StructType,
}

/// The fields of a message, or of one embedded in it under the numbers `parents`.
fn level(
    bytes: &[u8],
    at: Place<'_>,
    parents: &[u32],
    depth: u32,
    map: &mut Map<String, Value>,
) -> Result<(), ProtobufError> {
    if depth == 0 {
        return Err(ProtobufError::TooDeep(MAX_DEPTH));
    }
    let mut reader = Reader::new(bytes);
    while let Some((number, wire)) = reader.field()? {
        if let Some(found) = at.s.fields.iter().find(|f| f.proto == number && f.proto_parents == parents) {
            field(found, wire, at, depth - 1, map)?;
            continue;
        }
        let mut inner = parents.to_vec();
        inner.push(number);
        if let Wire::Bytes(embedded) = wire
            && at.s.fields.iter().any(|f| f.proto_parents.starts_with(&inner))
        {
            level(embedded, at, &inner, depth - 1, map)?;
        }
    }
    Ok(())
}

fn field(
    field: &Field,
    wire: Wire<'_>,
    at: Place<'_>,
    depth: u32,
    map: &mut Map<String, Value>,
) -> Result<(), ProtobufError> {
    let ty = at.ty.to(field.ty);
    let form = Form::of(field);
    match ty.get() {
        Type::List { .. } => {
            let mut list = list_in(map, &field.name);
            if form == Form::Wrapped {
                wrapped(bytes(wire)?, ty, depth, &mut list)?;
            } else {
                items(wire, ty.item(), depth, &mut list)?;
            }
            map.insert(field.name.clone(), Value::Array(list));
        }
        Type::Map { .. } => {
            let entries = map.entry(&*field.name).or_insert_with(|| Value::Object(Map::new()));
            let Value::Object(entries) = entries else { return Err(ProtobufError::Unfit("object")) };
            let (key, value) = entry(bytes(wire)?, ty.member(""), form, at.ty, depth)?;
            entries.insert(key, value);
        }
        Type::Struct(_) => {
            // A message that comes in parts is merged.
            let slot = map.entry(&*field.name).or_insert(Value::Null);
            message(bytes(wire)?, ty, depth, slot)?;
        }
        _ => {
            let value = match form {
                Form::Plain | Form::Wrapped => single(wire, ty, depth)?,
                _ => union(bytes(wire)?, form, at.ty, depth)?,
            };
            let keep = !value.is_null() && (field.go.pointer || !field.go.omit_empty || !is_zero(&value));
            if keep {
                map.insert(field.name.clone(), value);
            }
        }
    }
    Ok(())
}

fn list_in(map: &mut Map<String, Value>, name: &str) -> Vec<Value> {
    match map.remove(name) {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    }
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty(),
        _ => false,
    }
}

fn bytes(wire: Wire<'_>) -> Result<&[u8], ProtobufError> {
    match wire {
        Wire::Bytes(bytes) => Ok(bytes),
        _ => Err(ProtobufError::Malformed("wire type does not fit the field")),
    }
}

/// One item of a repeated field, or several packed ones.
fn items(wire: Wire<'_>, item: TypeRef<'_>, depth: u32, list: &mut Vec<Value>) -> Result<(), ProtobufError> {
    let numeric = matches!(item.get(), Type::Scalar(Scalar::Int32 | Scalar::Int64 | Scalar::Bool));
    match wire {
        Wire::Bytes(packed) if numeric => {
            let mut reader = Reader::new(packed);
            while let Some(number) = reader.packed_varint()? {
                list.push(single(Wire::Varint(number), item, depth)?);
            }
        }
        _ => list.push(single(wire, item, depth)?),
    }
    Ok(())
}

/// A message that holds nothing but items in field 1.
fn wrapped(message: &[u8], ty: TypeRef<'_>, depth: u32, list: &mut Vec<Value>) -> Result<(), ProtobufError> {
    let mut reader = Reader::new(message);
    while let Some((number, wire)) = reader.field()? {
        if number == 1 {
            items(wire, ty.item(), depth, list)?;
        }
    }
    Ok(())
}

/// A map's entry: 1 key, 2 value; what is absent is zero.
fn entry(
    message: &[u8],
    value: TypeRef<'_>,
    form: Form,
    parent: TypeRef<'_>,
    depth: u32,
) -> Result<(String, Value), ProtobufError> {
    let (mut key, mut found) = ("", None);
    let mut reader = Reader::new(message);
    while let Some(part) = reader.field()? {
        match part {
            (1, Wire::Bytes(text)) => key = forms::utf8(text)?,
            (2, wire) => found = Some(wire),
            _ => {}
        }
    }
    let wire = found.unwrap_or(match value.get() {
        Type::Scalar(Scalar::Int32 | Scalar::Int64 | Scalar::Bool) => Wire::Varint(0),
        Type::Scalar(Scalar::Float64) => Wire::Fixed64(0),
        _ => Wire::Bytes(&[]),
    });
    let value = match form {
        Form::Plain | Form::Wrapped => single(wire, value, depth)?,
        _ => union(bytes(wire)?, form, parent, depth)?,
    };
    Ok((key.to_owned(), value))
}

/// One value of any type: an item, a map's value, or a field that is neither list nor map.
fn single(wire: Wire<'_>, ty: TypeRef<'_>, depth: u32) -> Result<Value, ProtobufError> {
    match ty.get() {
        Type::Scalar(scalar) => self::scalar(*scalar, wire),
        Type::Any => forms::read_any(bytes(wire)?),
        Type::Struct(_) => {
            let mut value = Value::Null;
            message(bytes(wire)?, ty, depth, &mut value)?;
            Ok(value)
        }
        Type::List { .. } => {
            let mut list = Vec::new();
            wrapped(bytes(wire)?, ty, depth, &mut list)?;
            Ok(Value::Array(list))
        }
        Type::Map { .. } => Err(ProtobufError::Unfit("type without a protobuf form")),
    }
}

fn scalar(scalar: Scalar, wire: Wire<'_>) -> Result<Value, ProtobufError> {
    Ok(match (scalar, wire) {
        (Scalar::String, Wire::Bytes(text)) => Value::String(forms::utf8(text)?.to_owned()),
        (Scalar::Bytes, Wire::Bytes(bytes)) => forms::encode_base64(bytes),
        (Scalar::Int32, Wire::Varint(number)) => Value::from(number as i32),
        (Scalar::Int64, Wire::Varint(number)) => Value::from(number.cast_signed()),
        (Scalar::Bool, Wire::Varint(number)) => Value::Bool(number != 0),
        (Scalar::Float64, Wire::Fixed64(bits)) => forms::float(f64::from_bits(bits))?,
        (Scalar::Quantity, Wire::Bytes(message)) => forms::read_quantity(message)?,
        (Scalar::IntOrString, Wire::Bytes(message)) => forms::read_int_or_string(message)?,
        (Scalar::Time, Wire::Bytes(message)) => forms::read_time(message, false)?,
        (Scalar::MicroTime, Wire::Bytes(message)) => forms::read_time(message, true)?,
        _ => return Err(ProtobufError::Malformed("wire type does not fit the field")),
    })
}

/// The types of JSON schema that are one thing or another.
fn union(message: &[u8], form: Form, schema: TypeRef<'_>, depth: u32) -> Result<Value, ProtobufError> {
    let (mut whole, mut allows, mut list) = (None, false, Vec::new());
    let mut reader = Reader::new(message);
    while let Some((number, wire)) = reader.field()? {
        match (form, number) {
            (Form::SchemaOrBool, 1) => allows = matches!(wire, Wire::Varint(number) if number != 0),
            (Form::SchemaOrBool, 2) | (Form::SchemaOrSchemas | Form::SchemaOrStrings, 1) => {
                whole = Some(single(wire, schema, depth)?);
            }
            (Form::SchemaOrSchemas, 2) => list.push(single(wire, schema, depth)?),
            (Form::SchemaOrStrings, 2) => list.push(scalar(Scalar::String, wire)?),
            _ => {}
        }
    }
    Ok(match (whole, form) {
        (Some(schema), _) => schema,
        (None, Form::SchemaOrBool) => Value::Bool(allows),
        (None, _) => Value::Array(list),
    })
}
