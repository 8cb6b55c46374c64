//! A body becomes a tree that fits its kind.

use serde_json::Value;
use skiff_meta::codec::{self, Decoded};
use skiff_meta::schema::{KindSchema, TypeRef};
use skiff_meta::{GroupVersionKind, Status, check};

use super::Encoding;
use super::go_words;
use super::query::FieldValidation;
use crate::call::Payload;

/// What a body must be.
#[derive(Clone, Copy)]
pub(crate) struct Expected<'a> {
    /// Its group, version and kind; said where the body does not say it.
    pub(crate) gvk: &'a GroupVersionKind,
    /// Its type.
    pub(crate) root: TypeRef<'a>,
    /// Whether there is a protobuf form.
    pub(crate) protobuf: bool,
}

fn unknown_format(expected: Expected<'_>) -> Status {
    let mut types = vec!["application/json", "application/yaml"];
    if expected.protobuf {
        types.push("application/vnd.kubernetes.protobuf");
    }
    let types = types.join(", ");
    let message = format!("the body of the request was in an unknown format - accepted media types include: {types}");
    Status::unsupported_media_type(message)
}

/// Reads a body of create, update and the like.
pub(crate) fn object(
    payload: &Payload,
    expected: Expected<'_>,
    validation: FieldValidation,
    warnings: &mut Vec<String>,
) -> Result<Value, Status> {
    let unreadable = |why: String| check::unrecognized(&expected.gvk.kind, &why, &payload.bytes);
    if payload.bytes.is_empty() && encoding(payload, expected)? == Encoding::Protobuf {
        return Err(unreadable("empty data".to_owned()));
    }
    let decoded = any(payload, expected, skiff_api::facts::schema, unreadable)?;
    if let Some(why) = no_type(&decoded.value) {
        return Err(unreadable(why));
    }
    let json = encoding(payload, expected)? == Encoding::Json;
    fit(decoded, expected, validation, warnings, if json { &payload.bytes } else { b"" })
}

/// Why a tree cannot even say what it is; null says nothing wrong.
pub(crate) fn no_type(value: &Value) -> Option<String> {
    const UNREAD: &str = "couldn't get version/kind; json parse error: json: cannot unmarshal";
    let Some(members) = value.as_object() else {
        let found = check::json_kind(value)?;
        return Some(format!(
            "{UNREAD} {found} into Go value of type struct {{ APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; \
             Kind string \"json:\\\"kind,omitempty\\\"\" }}"
        ));
    };
    ["apiVersion", "kind"].iter().find_map(|name| {
        let found = members.get(*name).and_then(check::json_kind).filter(|found| *found != "string")?;
        Some(format!("{UNREAD} {found} into Go struct field .{name} of type string"))
    })
}

fn encoding(payload: &Payload, expected: Expected<'_>) -> Result<Encoding, Status> {
    match payload.media.as_str() {
        "" => Ok(Encoding::Json),
        media => Encoding::of(media)
            .filter(|&encoding| encoding != Encoding::Protobuf || expected.protobuf)
            .ok_or_else(|| unknown_format(expected)),
    }
}

/// Decodes a body in any encoding; what it says it is must be known to `lookup` where it is protobuf, and is judged
/// after. `unreadable` has the words for what is no document.
pub(crate) fn any(
    payload: &Payload,
    expected: Expected<'_>,
    lookup: impl FnOnce(&GroupVersionKind) -> Option<KindSchema>,
    unreadable: impl Fn(String) -> Status,
) -> Result<Decoded, Status> {
    match encoding(payload, expected)? {
        Encoding::Json => codec::json::decode(&payload.bytes)
            .map_err(|e| unreadable(format!("couldn't get version/kind; json parse error: {e}"))),
        Encoding::Yaml => codec::yaml::decode(&payload.bytes).map_err(|e| unreadable(e.to_string())),
        Encoding::Protobuf => match codec::protobuf::decode(&payload.bytes, Some(expected.gvk), lookup) {
            Ok((_, value)) => Ok(Decoded { value, duplicates: Vec::new() }),
            Err(error @ codec::protobuf::ProtobufError::Quantity(_)) => {
                let (kind, version) = (&expected.gvk.kind, &expected.gvk.version);
                Err(check::cannot_be_handled(kind, version, kind, &error.to_string()))
            }
            Err(error) => Err(unreadable(error.to_string())),
        },
    }
}

/// Why a tree does not fit its kind.
pub(crate) enum Unfit {
    /// A value of the wrong type or form.
    Misfit(check::Misfit),
    /// Unknown and repeated fields, where they are refused.
    Strict(String),
}

impl std::fmt::Display for Unfit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Misfit(misfit) => misfit.fmt(f),
            Self::Strict(message) => message.fmt(f),
        }
    }
}

/// Makes a decoded tree fit its kind; unknown and repeated fields are refused, warned of or dropped, in the order of
/// the JSON `document` where it came from one.
pub(crate) fn fit(
    decoded: Decoded,
    expected: Expected<'_>,
    validation: FieldValidation,
    warnings: &mut Vec<String>,
    document: &[u8],
) -> Result<Value, Status> {
    let gvk = expected.gvk;
    let words = |why: Unfit| check::cannot_be_handled(&gvk.kind, &gvk.version, &gvk.kind, &why.to_string());
    fit_or(decoded, expected, validation, warnings, document, &words)
}

/// The same for somebody who has own words for what does not fit.
pub(crate) fn fit_or(
    decoded: Decoded,
    expected: Expected<'_>,
    validation: FieldValidation,
    warnings: &mut Vec<String>,
    document: &[u8],
    words: &dyn Fn(Unfit) -> Status,
) -> Result<Value, Status> {
    let Decoded { mut value, mut duplicates } = decoded;
    identify(&mut value, expected)?;
    let unknown = check::check(&mut value, expected.root).map_err(|misfit| words(Unfit::Misfit(misfit)))?;
    duplicates.extend(unknown);
    if duplicates.len() > 1 && !document.is_empty() {
        codec::json::sort_as_in(document, &mut duplicates);
    }
    if !duplicates.is_empty() {
        match validation {
            FieldValidation::Ignore => {}
            FieldValidation::Warn => warnings.append(&mut duplicates),
            FieldValidation::Strict => return Err(words(Unfit::Strict(check::strict_message(&duplicates)))),
        }
    }
    Ok(value)
}

/// Checks what the tree says it is, and says it where it does not.
fn identify(value: &mut Value, expected: Expected<'_>) -> Result<(), Status> {
    let gvk = expected.gvk;
    let api_version = gvk.api_version();
    if value.is_null() {
        *value = Value::Object(serde_json::Map::new());
    }
    let Some(map) = value.as_object_mut() else {
        return Err(check::unrecognized(&gvk.kind, &no_type(value).unwrap_or_default(), b""));
    };
    let text = |name: &str| map.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (kind, version) = (text("kind"), text("apiVersion"));
    if kind != gvk.kind && !kind.is_empty() {
        let said = if version.is_empty() { api_version.as_str() } else { version.as_str() };
        let short = said.rsplit('/').next().unwrap_or_default();
        // A kind that there is, and one that there is not.
        let other = GroupVersionKind::new(&*gvk.group, &*gvk.version, &*kind);
        let why = match skiff_api::facts::schema(gvk).is_none() || skiff_api::facts::schema(&other).is_some() {
            true => format!("no kind {kind:?} is registered for version {said:?} that is a {}", gvk.kind),
            false => go_words::no_kind(&kind, said, &gvk.group),
        };
        return Err(check::cannot_be_handled(&kind, short, &gvk.kind, &why));
    }
    if version != api_version && !version.is_empty() {
        // A version that there is for this kind, and one that there is not.
        let (group, short) = version.split_once('/').unwrap_or(("", &version));
        let other = GroupVersionKind::new(group, short, &*gvk.kind);
        if skiff_api::facts::schema(gvk).is_some() && skiff_api::facts::schema(&other).is_none() {
            let why = match short {
                "" => format!("Object 'apiVersion' is missing in '{}'", Value::Object(map.clone())),
                _ => go_words::no_kind(&gvk.kind, &version, &gvk.group),
            };
            return Err(check::cannot_be_handled(&gvk.kind, short, &gvk.kind, &why));
        }
        return Err(Status::bad_request(format!(
            "the API version in the data ({version}) does not match the expected API version ({api_version})"
        )));
    }
    map.insert("kind".to_owned(), Value::from(gvk.kind.as_str()));
    map.insert("apiVersion".to_owned(), Value::from(api_version));
    Ok(())
}
