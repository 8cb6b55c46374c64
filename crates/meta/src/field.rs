//! Paths to fields, and what can be wrong with the value there: the causes of an `Invalid` status.
//!
//! The words are upstream's (`k8s.io/apimachinery/pkg/util/validation/field`), since clients and people match on them.

use std::fmt;

use serde_json::Value;

/// A path such as `spec.containers[0].name` or `metadata.labels[app]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct FieldPath(String);

impl FieldPath {
    /// The object itself; prints as nothing.
    pub fn root() -> Self {
        Self::default()
    }
    /// A path from its text.
    pub fn new(path: impl Into<String>) -> Self {
        Self(path.into())
    }
    /// The field `name` below this one. `name` may itself be dotted.
    pub fn child(&self, name: &str) -> Self {
        match self.0.is_empty() {
            true => Self(name.to_owned()),
            false => self.with(&[".", name]),
        }
    }
    /// Item `index` of the list here.
    pub fn index(&self, index: usize) -> Self {
        // Most lists are short.
        match u8::try_from(index) {
            Ok(digit @ 0..=9) => self.with(&["[", char::from(b'0' + digit).encode_utf8(&mut [0; 4]), "]"]),
            _ => self.with(&["[", &index.to_string(), "]"]),
        }
    }
    /// Entry `key` of the map here.
    pub fn key(&self, key: &str) -> Self {
        self.with(&["[", key, "]"])
    }
    /// Validation makes a path for everything it looks at: in one piece, and without a formatter.
    fn with(&self, pieces: &[&str]) -> Self {
        let more: usize = pieces.iter().map(|piece| piece.len()).sum();
        let mut path = String::with_capacity(self.0.len() + more);
        path.push_str(&self.0);
        pieces.iter().for_each(|piece| path.push_str(piece));
        Self(path)
    }
    /// The path's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "<nil>" } else { &self.0 })
    }
}

/// What kind of fault; `reason` of a status cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FaultKind {
    /// A value that must be there is not.
    Required,
    /// A value that must be unique is there twice.
    Duplicate,
    /// A value that does not fit its form.
    Invalid,
    /// A value outside an enumeration.
    NotSupported,
    /// A well-formed value that may not stand here.
    Forbidden,
    /// A string longer than allowed.
    TooLong,
    /// More items than allowed.
    TooMany,
    /// A value that names something that is not there.
    NotFound,
    /// A value of the wrong type.
    TypeInvalid,
    /// The server's own fault.
    Internal,
}

impl FaultKind {
    /// The machine-readable reason of a status cause.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::NotFound => "FieldValueNotFound",
            Self::TypeInvalid => "FieldValueTypeInvalid",
            Self::Internal => "InternalError",
        }
    }
    fn words(self) -> &'static str {
        match self {
            Self::Required => "Required value",
            Self::Duplicate => "Duplicate value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::NotFound => "Not found",
            Self::Internal => "Internal error",
        }
    }
}

/// One fault at one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// What kind of fault.
    pub kind: FaultKind,
    /// Where.
    pub path: FieldPath,
    /// The message without the path, as a status cause carries it.
    pub message: String,
}

/// Faults, collected.
pub type FieldErrors = Vec<FieldError>;

impl FieldError {
    fn plain(kind: FaultKind, path: &FieldPath, detail: &str) -> Self {
        let words = kind.words();
        let message = if detail.is_empty() { words.to_owned() } else { format!("{words}: {detail}") };
        Self { kind, path: path.clone(), message }
    }
    fn valued(kind: FaultKind, path: &FieldPath, value: &Value, detail: &str) -> Self {
        let words = kind.words();
        let shown = match value {
            Value::String(_) | Value::Object(_) | Value::Array(_) => value.to_string(),
            Value::Null => "null".to_owned(),
            other => other.to_string(),
        };
        let message =
            if detail.is_empty() { format!("{words}: {shown}") } else { format!("{words}: {shown}: {detail}") };
        Self { kind, path: path.clone(), message }
    }
    /// A value that must be there is not.
    pub fn required(path: &FieldPath, detail: &str) -> Self {
        Self::plain(FaultKind::Required, path, detail)
    }
    /// A value that does not fit its form.
    pub fn invalid(path: &FieldPath, value: impl Into<Value>, detail: &str) -> Self {
        Self::valued(FaultKind::Invalid, path, &value.into(), detail)
    }
    /// A value that does not fit its form and is not to be shown.
    pub fn invalid_unshown(path: &FieldPath, detail: &str) -> Self {
        Self::plain(FaultKind::Invalid, path, detail)
    }
    /// A value of the wrong type.
    pub fn type_invalid(path: &FieldPath, value: impl Into<Value>, detail: &str) -> Self {
        Self::valued(FaultKind::TypeInvalid, path, &value.into(), detail)
    }
    /// A value that must be unique is there twice.
    pub fn duplicate(path: &FieldPath, value: impl Into<Value>) -> Self {
        Self::valued(FaultKind::Duplicate, path, &value.into(), "")
    }
    /// A value that names something that is not there.
    pub fn not_found(path: &FieldPath, value: impl Into<Value>) -> Self {
        Self::valued(FaultKind::NotFound, path, &value.into(), "")
    }
    /// A well-formed value that may not stand here.
    pub fn forbidden(path: &FieldPath, detail: &str) -> Self {
        Self::plain(FaultKind::Forbidden, path, detail)
    }
    /// A value outside the enumeration `supported`, which is shown sorted.
    pub fn not_supported(path: &FieldPath, value: impl Into<Value>, supported: &[&str]) -> Self {
        let mut sorted = supported.to_vec();
        sorted.sort_unstable();
        Self::not_supported_as_listed(path, value, &sorted)
    }
    /// The same, shown in the order given.
    pub fn not_supported_as_listed(path: &FieldPath, value: impl Into<Value>, supported: &[&str]) -> Self {
        let names: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
        let detail = if names.is_empty() { String::new() } else { format!("supported values: {}", names.join(", ")) };
        Self::valued(FaultKind::NotSupported, path, &value.into(), &detail)
    }
    /// A string of more than `max` bytes.
    pub fn too_long(path: &FieldPath, max: usize) -> Self {
        let unit = if max == 1 { "byte" } else { "bytes" };
        Self::plain(FaultKind::TooLong, path, &format!("may not be more than {max} {unit}"))
    }
    /// More than `max` items.
    pub fn too_many(path: &FieldPath, actual: usize, max: usize) -> Self {
        let unit = if max == 1 { "item" } else { "items" };
        Self::valued(FaultKind::TooMany, path, &Value::from(actual), &format!("must have at most {max} {unit}"))
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}
