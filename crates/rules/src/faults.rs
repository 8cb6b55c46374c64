//! Collecting faults while walking an object.

use serde_json::Value;
use skiff_meta::field::{FieldError, FieldErrors, FieldPath};
use skiff_meta::names;

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
    pub(crate) fn number(&self) -> Option<i64> {
        self.value.as_i64()
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
    /// No less than zero, where something is said.
    pub(crate) fn not_negative(&self, faults: &mut FieldErrors) {
        if self.number().is_some_and(|n| n < 0) {
            self.invalid(faults, "must be greater than or equal to 0");
        }
    }
    /// A port number.
    pub(crate) fn port(&self, faults: &mut FieldErrors) {
        if let Some(port) = self.number() {
            names::port_number(port).iter().for_each(|fault| self.invalid(faults, fault));
        }
    }
    /// Text that keeps a rule from [`names`].
    pub(crate) fn named(&self, faults: &mut FieldErrors, rule: fn(&str) -> Vec<String>) {
        rule(self.text()).iter().for_each(|fault| self.invalid(faults, fault));
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

/// Labels' or annotations' keys (and, for labels, values).
pub(crate) fn labels(at: &At<'_>, faults: &mut FieldErrors) {
    for (key, value) in at.value.as_object().into_iter().flatten() {
        for fault in names::qualified_name(key) {
            faults.push(FieldError::invalid(&at.path, key.clone(), &fault));
        }
        for fault in names::label_value(text(value)) {
            faults.push(FieldError::invalid(&at.path, text(value), &fault));
        }
    }
}

/// A LabelSelector.
pub(crate) fn label_selector(at: &At<'_>, faults: &mut FieldErrors) {
    labels(&at.get("matchLabels"), faults);
    for expression in at.get("matchExpressions").items() {
        let (operator, values) = (expression.get("operator"), expression.get("values"));
        match operator.text() {
            "In" | "NotIn" if values.is_empty() => {
                values.required(faults, "must be specified when `operator` is 'In' or 'NotIn'");
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                values.forbidden(faults, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => operator.invalid(faults, "not a valid selector operator"),
        }
        let key = expression.get("key");
        key.named(faults, names::qualified_name);
    }
}
