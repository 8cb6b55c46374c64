//! The documents in protobuf, as kubectl asks for them.
//!
//! A document is written from its JSON form: [`forms`] says under which numbers the members of each message lie, and
//! whatever value is free in JSON (defaults, extensions) travels as text.

mod forms;

use std::convert::Infallible;

use serde_json::Value;
use skiff_meta::codec::protobuf::{put_bytes, put_double, put_int, put_message};

pub(super) use forms::{V2, V3};

/// How a JSON value is written.
pub(super) enum Form {
    Text,
    Flag,
    Integer,
    Number,
    /// Any JSON, as text.
    Any,
    Message(&'static Message),
    /// The items of an array one by one; what is no array is its only item.
    List(&'static Form),
    /// An object whose keys are names: a message that repeats pairs.
    Map(&'static Form),
    /// Alone in a message, under this number.
    In(u32, &'static Form),
    /// One of several, told by the value: numbers of the messages around it, and its form.
    Choice(fn(&Value) -> (&'static [u32], &'static Form)),
}

/// A JSON object with known members.
pub(super) struct Message {
    /// Name, number and form of each.
    fields: &'static [(&'static str, u32, Form)],
    /// Where members that begin with `x-` lie; 0 when there can be none.
    extensions: u32,
    /// Where all other members lie as pairs.
    others: Option<(u32, Form)>,
}

/// Writes a document.
pub(super) fn encode(document: &Value, form: &'static Message) -> Vec<u8> {
    let mut out = Vec::new();
    members(&mut out, document, form);
    out
}

fn members(out: &mut Vec<u8>, value: &Value, message: &Message) {
    let Some(map) = value.as_object() else { return };
    for (name, number, form) in message.fields {
        if let Some(value) = map.get(*name) {
            put(out, *number, value, form);
        }
    }
    for (name, value) in map.iter().filter(|(name, _)| !message.fields.iter().any(|(known, ..)| known == name)) {
        match &message.others {
            _ if name.starts_with("x-") && message.extensions != 0 => {
                pair(out, message.extensions, name, value, &Form::Any);
            }
            Some((number, form)) => pair(out, *number, name, value, form),
            None => {}
        }
    }
}

fn put(out: &mut Vec<u8>, number: u32, value: &Value, form: &Form) {
    match form {
        Form::Text => put_bytes(out, number, value.as_str().unwrap_or_default().as_bytes()),
        Form::Flag => put_int(out, number, value.as_bool().unwrap_or_default().into()),
        Form::Integer => put_int(out, number, value.as_i64().unwrap_or_default()),
        Form::Number => put_double(out, number, value.as_f64().unwrap_or_default()),
        Form::Any => within(out, number, |out| put_bytes(out, 2, value.to_string().as_bytes())),
        Form::Message(message) => within(out, number, |out| members(out, value, message)),
        Form::List(form) => match value {
            Value::Array(items) => items.iter().for_each(|item| put(out, number, item, form)),
            _ => put(out, number, value, form),
        },
        Form::Map(form) => within(out, number, |out| {
            value.as_object().into_iter().flatten().for_each(|(name, value)| pair(out, 1, name, value, form));
        }),
        Form::In(inner, form) => within(out, number, |out| put(out, *inner, value, form)),
        Form::Choice(choose) => {
            let (path, form) = choose(value);
            within(out, number, |out| nested(out, path, value, form));
        }
    }
}

fn nested(out: &mut Vec<u8>, path: &[u32], value: &Value, form: &Form) {
    match path {
        [] => {}
        [number] => put(out, *number, value, form),
        [number, rest @ ..] => within(out, *number, |out| nested(out, rest, value, form)),
    }
}

fn pair(out: &mut Vec<u8>, number: u32, name: &str, value: &Value, form: &Form) {
    within(out, number, |out| {
        put_bytes(out, 1, name.as_bytes());
        put(out, 2, value, form);
    });
}

fn within(out: &mut Vec<u8>, number: u32, body: impl FnOnce(&mut Vec<u8>)) {
    let Ok(()) = put_message::<Infallible>(out, number, |out| {
        body(out);
        Ok(())
    });
}
