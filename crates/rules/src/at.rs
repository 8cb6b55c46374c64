//! A value and where it stands: what validation walks.
//!
//! Checks add their faults to a list that the caller passes on, in the order in which upstream finds them.

use std::collections::BTreeSet;

use serde_json::Value;
use skiff_meta::field::{FieldError, FieldErrors, FieldPath};
use skiff_meta::names;

use crate::view::View;

/// A value in an object, and its path.
#[derive(Clone, Debug)]
pub(crate) struct At<'v> {
    /// The value; null where there is none.
    pub(crate) value: &'v Value,
    /// Its path.
    pub(crate) path: FieldPath,
}

/// A check of text, such as those in [`names`].
pub(crate) type Form = fn(&str) -> Vec<String>;

impl<'v> At<'v> {
    /// The object itself.
    pub(crate) fn root(object: &'v Value) -> Self {
        Self { value: object, path: FieldPath::root() }
    }
    /// The member `name` of an object.
    pub(crate) fn member(object: &'v Value, name: &str) -> Self {
        Self { value: object.get_or_null(name), path: FieldPath::new(name) }
    }
    /// The member `name` below.
    pub(crate) fn get(&self, name: &str) -> At<'v> {
        At { value: self.value.get_or_null(name), path: self.path.child(name) }
    }
    /// The path of the member `name`.
    pub(crate) fn path(&self, name: &str) -> FieldPath {
        self.path.child(name)
    }
    /// The items of the list at member `name`.
    pub(crate) fn items(&self, name: &str) -> impl Iterator<Item = At<'v>> + use<'v> {
        let items = self.value.items(name);
        let path = if items.is_empty() { FieldPath::root() } else { self.path.child(name) };
        items.iter().enumerate().map(move |(i, value)| At { value, path: path.index(i) })
    }
    /// The members of the map at member `name`, with paths like `limits[cpu]`.
    pub(crate) fn entries(&self, name: &str) -> impl Iterator<Item = (&'v str, At<'v>)> + use<'v> {
        let members = self.value.get_or_null(name).as_object().filter(|members| !members.is_empty());
        let path = if members.is_some() { self.path.child(name) } else { FieldPath::root() };
        members.into_iter().flatten().map(move |(key, value)| (key.as_str(), At { value, path: path.key(key) }))
    }
    /// Whether the value is there.
    pub(crate) fn is_set(&self) -> bool {
        !self.value.is_null()
    }
    /// Whether the member `name` is there.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.value.has(name)
    }
    /// Text of the member `name`.
    pub(crate) fn text(&self, name: &str) -> &'v str {
        self.value.get_or_null(name).as_str().unwrap_or_default()
    }
    /// The whole number at member `name`.
    pub(crate) fn int(&self, name: &str) -> Option<i64> {
        self.value.int(name)
    }
    /// Whether member `name` is `true`.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.value.flag(name)
    }

    /// This value is wrong.
    pub(crate) fn wrong(&self, why: &str, out: &mut FieldErrors) {
        out.push(FieldError::invalid(&self.path, self.value.clone(), why));
    }
    /// The member `name` is wrong.
    pub(crate) fn invalid(&self, name: &str, why: &str, out: &mut FieldErrors) {
        out.push(FieldError::invalid(&self.path(name), self.value.get_or_null(name).clone(), why));
    }
    /// The member `name` may not be there.
    pub(crate) fn forbidden(&self, name: &str, why: &str, out: &mut FieldErrors) {
        out.push(FieldError::forbidden(&self.path(name), why));
    }
    /// The member `name` must be there.
    pub(crate) fn missing(&self, name: &str, why: &str, out: &mut FieldErrors) {
        out.push(FieldError::required(&self.path(name), why));
    }

    /// Text must stand at `name`; says whether it does.
    pub(crate) fn require(&self, name: &str, out: &mut FieldErrors) -> bool {
        let there = !self.text(name).is_empty();
        if !there {
            self.missing(name, "", out);
        }
        there
    }
    /// Text at `name`, where there is any, must pass `form`.
    pub(crate) fn form(&self, name: &str, form: Form, out: &mut FieldErrors) {
        if !self.text(name).is_empty() {
            self.faults(name, &form(self.text(name)), out);
        }
    }
    /// Text at `name` must pass `form`, even if it is empty, where there is any.
    pub(crate) fn form_if_set(&self, name: &str, form: Form, out: &mut FieldErrors) {
        if self.has(name) {
            self.faults(name, &form(self.text(name)), out);
        }
    }
    /// Text must stand at `name` and pass `form`.
    pub(crate) fn require_form(&self, name: &str, form: Form, out: &mut FieldErrors) {
        if self.require(name, out) {
            self.form(name, form, out);
        }
    }
    /// The member `name` has these faults.
    pub(crate) fn faults(&self, name: &str, faults: &[String], out: &mut FieldErrors) {
        for why in faults {
            self.invalid(name, why, out);
        }
    }
    /// Text at `name` must be usable as one segment of a URL's path.
    pub(crate) fn require_segment(&self, name: &str, out: &mut FieldErrors) {
        self.require_form(name, |text| names::path_segment(text, false), out);
    }
    /// Text at `name` must be like `acme.io/foo`.
    pub(crate) fn domain_prefixed_path(&self, name: &str, out: &mut FieldErrors) {
        if !self.require(name, out) {
            return;
        }
        match self.text(name).split_once('/') {
            Some((host, rest)) if !host.is_empty() && !rest.is_empty() => {
                let path = self.path(name);
                out.extend(names::dns1123_subdomain(host).iter().map(|why| FieldError::invalid(&path, host, why)));
                let fine = |b: u8| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b);
                if !rest.bytes().all(fine) {
                    let why = names::regex_fault("Invalid path", r"[A-Za-z0-9/\-._~%!$&'()*+,;=:]+", &[]);
                    out.push(FieldError::invalid(&path, rest, &why));
                }
            }
            _ => self.invalid(name, "must be a domain-prefixed path (such as \"acme.io/foo\")", out),
        }
    }
    /// Text at `name` must be a domain of at least three segments.
    pub(crate) fn fully_qualified(&self, name: &str, out: &mut FieldErrors) {
        if !self.require(name, out) {
            return;
        }
        let faults = names::dns1123_subdomain(self.text(name));
        if !faults.is_empty() {
            self.invalid(name, &faults.join(","), out);
        } else if self.text(name).split('.').count() < 3 {
            self.invalid(name, "should be a domain with at least three segments separated by dots", out);
        }
    }
    /// Names of resources' drivers at `name`.
    pub(crate) fn driver_name(&self, name: &str, out: &mut FieldErrors) {
        if !self.require(name, out) {
            return;
        }
        if self.text(name).len() > 63 {
            out.push(FieldError::too_long(&self.path(name), 63));
        }
        self.faults(name, &names::dns1123_subdomain(&self.text(name).to_lowercase()), out);
    }
    /// No more than `max` items may stand at `name`.
    pub(crate) fn at_most(&self, name: &str, max: usize, out: &mut FieldErrors) {
        let count = self.value.count(name);
        if count > max {
            out.push(FieldError::too_many(&self.path(name), count, max));
        }
    }
    /// All items at list `name` must pass `check`; of more than `max`, which is a fault, none is looked at. Says whether
    /// they were.
    pub(crate) fn each(
        &self,
        name: &str,
        max: usize,
        check: impl Fn(&At<'v>, &mut FieldErrors),
        out: &mut FieldErrors,
    ) -> bool {
        self.at_most(name, max, out);
        let fine = self.value.count(name) <= max;
        if fine {
            self.items(name).for_each(|item| check(&item, out));
        }
        fine
    }
    /// The same, and the items must differ in their `key`; an empty key: as a whole.
    pub(crate) fn each_unique(
        &self,
        name: &str,
        (max, key): (usize, &str),
        check: impl Fn(&At<'v>, &mut FieldErrors),
        out: &mut FieldErrors,
    ) {
        if !self.each(name, max, check, out) {
            return;
        }
        let mut seen = BTreeSet::new();
        for item in self.items(name) {
            let id = if key.is_empty() { item.value.as_str().unwrap_or_default() } else { item.text(key) };
            if !seen.insert(id) {
                out.push(FieldError::duplicate(&item.path, id));
            }
        }
    }
    /// What is wrong with the text here.
    pub(crate) fn own_faults(&self, form: Form, out: &mut FieldErrors) {
        for why in form(self.value.as_str().unwrap_or_default()) {
            self.wrong(&why, out);
        }
    }
    /// Items at list `name` must differ in their `key`.
    pub(crate) fn unique(&self, name: &str, key: &str, out: &mut FieldErrors) {
        let mut seen = BTreeSet::new();
        for item in self.items(name) {
            let text = item.text(key);
            if !text.is_empty() && !seen.insert(text) {
                out.push(FieldError::duplicate(&item.path(key), text));
            }
        }
    }
    /// One of `supported` must stand at `name`.
    pub(crate) fn one_of(&self, name: &str, supported: &[&str], out: &mut FieldErrors) {
        if self.require(name, out) {
            self.optional_one_of(name, supported, out);
        }
    }
    /// One of `supported` must stand at `name`, where there is something.
    pub(crate) fn optional_one_of(&self, name: &str, supported: &[&str], out: &mut FieldErrors) {
        let text = self.text(name);
        if self.has(name) && !supported.contains(&text) {
            out.push(FieldError::not_supported(&self.path(name), text, supported));
        }
    }
    /// The number at `name`, where there is one, must not be negative.
    pub(crate) fn not_negative(&self, name: &str, out: &mut FieldErrors) {
        if self.int(name).is_some_and(|n| n < 0) {
            self.invalid(name, "must be greater than or equal to 0", out);
        }
    }
    /// The number at `name`, where there is one, must lie between `low` and `high`.
    pub(crate) fn in_range(&self, name: &str, low: i64, high: i64, out: &mut FieldErrors) {
        if self.int(name).is_some_and(|n| !(low..=high).contains(&n)) {
            self.invalid(name, &names::range_fault(low, high), out);
        }
    }
    /// The number at `name` must be a port.
    pub(crate) fn port(&self, name: &str, out: &mut FieldErrors) {
        self.faults(name, &names::port_number(self.int(name).unwrap_or_default()), out);
    }
    /// A port's number or name stands here.
    pub(crate) fn port_or_name(&self, name: &str, out: &mut FieldErrors) {
        match self.value.get_or_null(name) {
            Value::String(text) => self.faults(name, &names::port_name(text), out),
            _ => self.port(name, out),
        }
    }
    /// The member `name` must be as it was in `old`.
    pub(crate) fn immutable(&self, name: &str, old: &Value, out: &mut FieldErrors) {
        if self.value.get_or_null(name) != old.get_or_null(name) {
            self.invalid(name, "field is immutable", out);
        }
    }
    /// Labels at member `name` must be labels.
    pub(crate) fn labels(&self, name: &str, out: &mut FieldErrors) {
        crate::metadata::labels(self.value, name, &self.path, out);
    }
    /// The label selector here, where there is one, must be one
    /// (`k8s.io/apimachinery/pkg/apis/meta/v1/validation`).
    pub(crate) fn label_selector(&self, out: &mut FieldErrors) {
        self.labels("matchLabels", out);
        for expression in self.items("matchExpressions") {
            let count = expression.value.count("values");
            match expression.text("operator") {
                "In" | "NotIn" if count == 0 => {
                    expression.missing("values", "must be specified when `operator` is 'In' or 'NotIn'", out);
                }
                "Exists" | "DoesNotExist" if count > 0 => {
                    let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                    expression.forbidden("values", why, out);
                }
                "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
                other => {
                    let path = expression.path("operator");
                    out.push(FieldError::invalid(&path, other, "not a valid selector operator"));
                }
            }
            expression.faults("key", &names::qualified_name(expression.text("key")), out);
            for value in expression.items("values") {
                for why in names::label_value(value.value.as_str().unwrap_or_default()) {
                    value.wrong(&why, out);
                }
            }
        }
    }
}

/// Whether a selector selects nothing in particular.
pub(crate) fn is_empty_selector(selector: &Value) -> bool {
    selector.count("matchLabels") == 0 && selector.count("matchExpressions") == 0
}
