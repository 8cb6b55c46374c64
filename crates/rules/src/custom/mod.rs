//! The rules of all custom kinds: their schema is the rule.
//!
//! A definition's structural schema becomes a type graph ([`kind_schema`], by which unknown members are found and
//! dropped, lists merge and fields are owned, as for built-in kinds) and, here, defaults, faults and columns. The metadata of
//! embedded objects is not judged beyond its types.

mod columns;
mod defaults;
mod formats;
mod jsonpath;
mod lists;
mod node;
mod scale;
pub(crate) mod structural;
mod types;
pub(crate) mod validations;
mod values;

use jiff::Timestamp;
use serde_json::{Value, json};
use skiff_meta::field::{FieldErrors, FieldPath};
use skiff_meta::names::NameForm;

use crate::tree::{items, put, text, without};
use crate::{Column, Part, Rules};
use columns::Printed;
use jsonpath::JsonPath;
use node::Node;
use validations::Validations;

pub use types::kind_schema;

/// The rules of one version of a custom kind.
pub struct CustomRules {
    schema: Node,
    has_status: bool,
    scale: Option<scale::Paths>,
    printed: Vec<Printed>,
    selectable: Vec<(String, Option<JsonPath>)>,
    validations: Option<Validations>,
}

impl CustomRules {
    /// From an entry of a definition's `spec.versions`.
    pub fn new(version: &Value) -> Self {
        let schema = version.pointer("/schema/openAPIV3Schema");
        let selectable = items(&version["selectableFields"]).iter().map(|field| {
            let path = text(&field["jsonPath"]);
            (path.trim_start_matches('.').to_owned(), JsonPath::parse(path))
        });
        Self {
            schema: Node::read(schema),
            has_status: !version["subresources"]["status"].is_null(),
            scale: scale::Paths::read(&version["subresources"]["scale"]),
            printed: columns::of_version(version),
            selectable: selectable.collect(),
            validations: Validations::read(schema),
        }
    }

    /// Names of the fields that field selectors can select, beside name and namespace.
    pub fn selectable(&self) -> impl Iterator<Item = &str> {
        self.selectable.iter().map(|(name, _)| name.as_str())
    }

    /// What field selectors can select of an object: each name with its value, empty where there is none.
    pub fn selected(&self, object: &Value) -> Vec<(String, String)> {
        let shown = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let value = |path: &Option<JsonPath>| path.as_ref()?.first(object).filter(|v| !v.is_null()).map(shown);
        self.selectable.iter().map(|(name, path)| (name.clone(), value(path).unwrap_or_default())).collect()
    }

    fn faults(&self, new: &Value, old: Option<&Value>) -> FieldErrors {
        let root = FieldPath::root();
        let mut faults = values::validate(new, old, &self.schema, &root);
        if let Some(scale) = &self.scale {
            scale.check_spec(new, &mut faults);
            scale.check_status(new, &mut faults);
        }
        let list_faults = |object: &Value| {
            let mut found = Vec::new();
            lists::check(object, &self.schema, &root, &mut found);
            found
        };
        if old.is_none_or(|old| list_faults(old).is_empty()) {
            faults.extend(list_faults(new));
        }
        self.judged(faults, new, old)
    }

    /// With what the rules in CEL say, if the object is fit to be judged by them.
    fn judged(&self, mut faults: FieldErrors, new: &Value, old: Option<&Value>) -> FieldErrors {
        if let Some(validations) = &self.validations {
            if validations::are_blocked(&faults) {
                faults.push(validations::blocked());
            } else {
                faults.extend(validations.faults(new, old));
            }
        }
        faults
    }

    fn status_faults(&self, new: &Value, old: &Value) -> FieldErrors {
        let mut faults = match (self.schema.properties.get("status"), new.get("status")) {
            (Some(schema), Some(status)) => {
                values::validate(status, old.get("status"), schema, &FieldPath::new("status"))
            }
            _ => Vec::new(),
        };
        if let Some(scale) = &self.scale {
            scale.check_status(new, &mut faults);
        }
        self.judged(faults, new, Some(old))
    }
}

impl Rules for CustomRules {
    fn default(&self, object: &mut Value) {
        defaults::fill(object, &self.schema);
    }

    fn prepare_create(&self, object: &mut Value) {
        if self.has_status {
            put(object, "status", Value::Null);
        }
        object["metadata"]["generation"] = json!(1);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, part: Part) {
        match part {
            Part::Status => only_status(new, old),
            _ if self.has_status => put(new, "status", old["status"].clone()),
            _ => {}
        }
        let changed = part != Part::Status && without(new, &["metadata"]) != without(old, &["metadata"]);
        let leaving =
            new["metadata"]["deletionTimestamp"].is_string() && old["metadata"]["deletionTimestamp"].is_null();
        let generation = old["metadata"]["generation"].as_i64().unwrap_or(0);
        new["metadata"]["generation"] = json!(generation + i64::from(changed || leaving));
    }

    fn validate_create(&self, object: &Value) -> FieldErrors {
        self.faults(object, None)
    }

    fn validate_update(&self, new: &Value, old: &Value, part: Part) -> FieldErrors {
        if part == Part::Status { self.status_faults(new, old) } else { self.faults(new, Some(old)) }
    }

    fn reset_fields(&self, part: Part) -> &'static [&'static [&'static str]] {
        match part {
            Part::Status => &[&["spec"], &["metadata"]],
            _ if self.has_status => &[&["status"]],
            _ => &[],
        }
    }

    fn warnings(&self, new: &Value, _: Option<&Value>, part: Part) -> Vec<String> {
        if part == Part::Status {
            return Vec::new();
        }
        items(&new["metadata"]["finalizers"]).iter().filter_map(|f| finalizer_warning(text(f))).collect()
    }

    fn columns(&self) -> Vec<Column> {
        columns::columns(&self.printed)
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        columns::cells(&self.printed, object, now)
    }

    fn name_faults(&self, name: &str, prefix: bool) -> Vec<String> {
        NameForm::Subdomain.faults(name, prefix)
    }
}

/// A status write leaves everything else as it was; who wrote what is told by its managed fields.
fn only_status(new: &mut Value, old: &Value) {
    let mut kept = old.clone();
    put(&mut kept, "status", new["status"].take());
    for name in ["managedFields", "resourceVersion"] {
        put(&mut kept["metadata"], name, new["metadata"][name].take());
    }
    *new = kept;
}

fn finalizer_warning(finalizer: &str) -> Option<String> {
    let standard = matches!(finalizer, "orphan" | "foregroundDeletion" | "kubernetes");
    let better = if finalizer.contains('.') { " including a path (/)" } else { "" };
    (!standard && !finalizer.contains('/')).then(|| {
        format!(
            "metadata.finalizers: {finalizer:?}: prefer a domain-qualified finalizer name{better} to avoid accidental \
             conflicts with other finalizer writers"
        )
    })
}

#[cfg(test)]
mod tests;
