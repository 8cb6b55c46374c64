//! Collecting faults while walking an object.

use serde_json::Value;
use skiff_meta::field::{FieldError, FieldErrors, FieldPath};

use crate::tree::{is_empty, text};

/// A place in an object together with the faults found so far.
pub(crate) struct At<'a> {
    pub(crate) value: &'a Value,
    pub(crate) path: FieldPath,
}

static NOTHING: Value = Value::Null;

impl<'a> At<'a> {
    pub(crate) fn root(value: &'a Value) -> Self {
        Self { value, path: FieldPath::root() }
    }
    /// The member `name`, which may be absent.
    pub(crate) fn get(&self, name: &str) -> At<'a> {
        At { value: self.value.get(name).unwrap_or(&NOTHING), path: self.path.child(name) }
    }
    /// The member at a dotted path.
    pub(crate) fn walk(&self, path: &str) -> At<'a> {
        path.split('.').fold(At { value: self.value, path: self.path.clone() }, |at, name| at.get(name))
    }
    /// All items of the list here.
    pub(crate) fn items(&self) -> impl Iterator<Item = At<'a>> + use<'a> {
        let path = self.path.clone();
        self.value.as_array().into_iter().flatten().enumerate().map(move |(i, value)| At { value, path: path.index(i) })
    }
    pub(crate) fn text(&self) -> &'a str {
        text(self.value)
    }
    pub(crate) fn is_empty(&self) -> bool {
        is_empty(self.value)
    }
    pub(crate) fn exists(&self) -> bool {
        !self.value.is_null()
    }
    /// A value must be here; whether it is.
    pub(crate) fn required(&self, faults: &mut FieldErrors, detail: &str) -> bool {
        if self.is_empty() {
            faults.push(FieldError::required(&self.path, detail));
        }
        !self.is_empty()
    }
    /// One of these, where something is said.
    pub(crate) fn one_of(&self, faults: &mut FieldErrors, supported: &[&str]) {
        if self.exists() && !supported.contains(&self.text()) {
            faults.push(FieldError::not_supported(&self.path, self.value.clone(), supported));
        }
    }
    pub(crate) fn invalid(&self, faults: &mut FieldErrors, detail: &str) {
        faults.push(FieldError::invalid(&self.path, self.value.clone(), detail));
    }
    pub(crate) fn forbidden(&self, faults: &mut FieldErrors, detail: &str) {
        faults.push(FieldError::forbidden(&self.path, detail));
    }
    /// The same as in `old`.
    pub(crate) fn immutable(&self, old: &At<'_>, faults: &mut FieldErrors) {
        if self.value != old.value && !(self.is_empty() && old.is_empty()) {
            self.invalid(faults, "field is immutable");
        }
    }
}
