//! From JSON to protobuf: fields in the order of their numbers, absent ones left out, unknown ones dropped.

use serde_json::Value;

use super::ProtobufError;
use super::forms::{self, Form};
use super::wire::{put_bytes, put_double, put_int, put_message};
use crate::schema::{Field, Scalar, Type, TypeRef};

/// A field that is there, and its value.
type Present<'a> = (&'a Field, &'a Value);

/// The body of a struct's message.
pub(super) fn message(out: &mut Vec<u8>, value: &Value, ty: TypeRef<'_>) -> Result<(), ProtobufError> {
    let map = value.as_object().ok_or(ProtobufError::Unfit("object"))?;
    let known = map.iter().filter_map(|(name, value)| ty.field(name).map(|field| (field, value)));
    let mut present: Vec<Present<'_>> = known.filter(|(field, value)| field.proto != 0 && !value.is_null()).collect();
    present.sort_by(|(a, _), (b, _)| path(a).cmp(path(b)));
    level(out, &present, 0, ty)
}

/// Where a field lies: numbers of embedded messages, then its own.
fn path(field: &Field) -> impl Iterator<Item = u32> + '_ {
    field.proto_parents.iter().copied().chain([field.proto])
}

/// Fields that lie in the same message, `depth` levels below the struct's own.
fn level(out: &mut Vec<u8>, fields: &[Present<'_>], depth: usize, ty: TypeRef<'_>) -> Result<(), ProtobufError> {
    let parent = |(field, _): &Present<'_>| field.proto_parents.get(depth).copied();
    for group in fields.chunk_by(|a, b| parent(a).is_some() && parent(a) == parent(b)) {
        match group.first().and_then(parent) {
            Some(number) => put_message(out, number, |out| level(out, group, depth + 1, ty))?,
            None => group.iter().try_for_each(|(field, value)| self::field(out, field, value, ty))?,
        }
    }
    Ok(())
}

fn field(out: &mut Vec<u8>, field: &Field, value: &Value, parent: TypeRef<'_>) -> Result<(), ProtobufError> {
    let ty = parent.to(field.ty);
    let form = Form::of(field);
    match (ty.get(), value) {
        (Type::List { .. }, Value::Array(items)) if form == Form::Wrapped => {
            put_message(out, field.proto, |out| repeated(out, 1, items, ty.item()))
        }
        (Type::List { .. }, Value::Array(items)) => repeated(out, field.proto, items, ty.item()),
        (Type::Map { .. }, Value::Object(entries)) => entries.iter().try_for_each(|(key, value)| {
            put_message(out, field.proto, |out| {
                put_bytes(out, 1, key.as_bytes());
                match form {
                    Form::Plain | Form::Wrapped => single(out, 2, value, ty.member("")),
                    _ => put_message(out, 2, |out| union(out, value, form, parent)),
                }
            })
        }),
        (Type::List { .. } | Type::Map { .. }, _) => Err(ProtobufError::Unfit("list or map")),
        _ => match form {
            Form::Plain | Form::Wrapped => single(out, field.proto, value, ty),
            _ => put_message(out, field.proto, |out| union(out, value, form, parent)),
        },
    }
}

fn repeated(out: &mut Vec<u8>, number: u32, items: &[Value], item: TypeRef<'_>) -> Result<(), ProtobufError> {
    items.iter().try_for_each(|value| single(out, number, value, item))
}

/// One value of any type: an item, a map's value, or a field that is neither list nor map.
fn single(out: &mut Vec<u8>, number: u32, value: &Value, ty: TypeRef<'_>) -> Result<(), ProtobufError> {
    match ty.get() {
        Type::Scalar(scalar) => self::scalar(out, number, value, *scalar),
        Type::Any => put_message(out, number, |out| forms::write_any(out, value)),
        Type::Struct(_) if value.is_null() => {
            put_bytes(out, number, b"");
            Ok(())
        }
        Type::Struct(_) => put_message(out, number, |out| message(out, value, ty)),
        Type::List { .. } => {
            let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
            put_message(out, number, |out| repeated(out, 1, items, ty.item()))
        }
        Type::Map { .. } => Err(ProtobufError::Unfit("type with a protobuf form")),
    }
}

fn scalar(out: &mut Vec<u8>, number: u32, value: &Value, scalar: Scalar) -> Result<(), ProtobufError> {
    let text = || value.as_str().ok_or(ProtobufError::Unfit("string"));
    match scalar {
        Scalar::String => put_bytes(out, number, text()?.as_bytes()),
        Scalar::Bytes => put_bytes(out, number, &forms::decode_base64(text()?)?),
        Scalar::Int32 | Scalar::Int64 => put_int(out, number, forms::int(value)?),
        Scalar::Bool => put_int(out, number, value.as_bool().ok_or(ProtobufError::Unfit("boolean"))?.into()),
        Scalar::Float64 => put_double(out, number, value.as_f64().ok_or(ProtobufError::Unfit("number"))?),
        Scalar::Quantity => {
            let shown = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            put_message(out, number, |out| {
                put_bytes(out, 1, shown.as_bytes());
                Ok::<_, ProtobufError>(())
            })?;
        }
        Scalar::IntOrString => put_message(out, number, |out| forms::write_int_or_string(out, value))?,
        Scalar::Time | Scalar::MicroTime if value.is_null() => put_bytes(out, number, b""),
        Scalar::Time => put_message(out, number, |out| forms::write_time(out, text()?, false))?,
        Scalar::MicroTime => put_message(out, number, |out| forms::write_time(out, text()?, true))?,
        Scalar::Duration => return Err(ProtobufError::Unfit("type with a protobuf form")),
    }
    Ok(())
}

/// The types of JSON schema that are one thing or another.
fn union(out: &mut Vec<u8>, value: &Value, form: Form, schema: TypeRef<'_>) -> Result<(), ProtobufError> {
    match (value, form) {
        (Value::Bool(allows), Form::SchemaOrBool) => {
            put_int(out, 1, (*allows).into());
            Ok(())
        }
        (Value::Object(_), Form::SchemaOrBool) => {
            put_int(out, 1, 1);
            single(out, 2, value, schema)
        }
        (Value::Object(_), _) => single(out, 1, value, schema),
        (Value::Array(items), Form::SchemaOrSchemas) => repeated(out, 2, items, schema),
        (Value::Array(items), Form::SchemaOrStrings) => {
            items.iter().try_for_each(|item| scalar(out, 2, item, Scalar::String))
        }
        _ => Err(ProtobufError::Unfit("schema")),
    }
}
