//! The shape of the rules of definitions of custom kinds, which stand beside the rows of [`crate::row`].

use jiff::Timestamp;
use serde_json::{Value, json};
use skiff_meta::field::FieldErrors;
use skiff_meta::names::NameForm;

use crate::faults::At;
use crate::tree::{put, without};
use crate::{Column, Part, Rules, show};

/// A column in short: name, type, priority, help.
pub(crate) type ColumnFacts = (&'static str, &'static str, i32, &'static str);

/// The rules of one kind.
pub(crate) struct KindRules {
    /// Group and kind.
    pub(crate) names: (&'static str, &'static str),
    /// Fills in what was left out.
    pub(crate) default: fn(&mut Value),
    /// What a new object's status is: `None` when the kind has no status of its own.
    pub(crate) first_status: Option<fn() -> Value>,
    /// Whether `metadata.generation` counts changes of everything but metadata and status.
    pub(crate) counts_generation: bool,
    /// Faults of any object of the kind.
    pub(crate) validate: fn(&At<'_>, &mut FieldErrors),
    /// More faults of a new object.
    pub(crate) validate_new: fn(&At<'_>, &mut FieldErrors),
    /// Faults of a change, beyond those of the new object.
    pub(crate) validate_change: fn(&At<'_>, &At<'_>, &mut FieldErrors),
    /// Faults of a status.
    pub(crate) validate_status: fn(&At<'_>, &mut FieldErrors),
    /// What is made at creation, once the object has its UID.
    pub(crate) create: fn(&mut Value),
    /// Corrections that depend on the old object.
    pub(crate) carry: fn(&mut Value, &Value, Part),
    /// Columns after the name, before the age.
    pub(crate) columns: &'static [ColumnFacts],
    /// A cell per column, the name included.
    pub(crate) cells: fn(&Value, Timestamp) -> Vec<Value>,
    /// What field selectors can select.
    pub(crate) fields: fn(&Value) -> Vec<(&'static str, String)>,
    /// What a name must be like.
    pub(crate) name: NameForm,
}

/// The columns that every kind has that says nothing else.
pub(crate) const NAME: ColumnFacts =
    ("Name", "string", 0, "Name of the object, unique among its kind in its namespace");
pub(crate) const AGE: ColumnFacts = ("Age", "string", 0, "Time since the object was created");

impl KindRules {
    /// A kind about which nothing more is to be said; rows override what is.
    pub(crate) const fn new(group: &'static str, kind: &'static str) -> Self {
        Self {
            names: (group, kind),
            default: |_| {},
            first_status: None,
            counts_generation: false,
            validate: |_, _| {},
            validate_new: |_, _| {},
            validate_change: |_, _, _| {},
            validate_status: |_, _| {},
            create: |_| {},
            carry: |_, _, _| {},
            columns: &[NAME, AGE],
            cells: |object, now| vec![show::name(object), show::created(object, now)],
            fields: |_| Vec::new(),
            name: NameForm::Subdomain,
        }
    }
}

impl Rules for KindRules {
    fn default(&self, object: &mut Value) {
        (self.default)(object);
    }

    fn prepare_create(&self, object: &mut Value) {
        if let Some(status) = self.first_status {
            put(object, "status", status());
        }
        if self.counts_generation {
            object["metadata"]["generation"] = json!(1);
        }
        (self.create)(object);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, part: Part) {
        match part {
            Part::Main if self.first_status.is_some() => put(new, "status", old["status"].clone()),
            Part::Status => self.only_status(new, old),
            _ => {}
        }
        (self.carry)(new, old, part);
        let generation = old["metadata"]["generation"].as_i64();
        if self.counts_generation {
            let rest = ["metadata", "status", "apiVersion", "kind"];
            let changed = without(new, &rest) != without(old, &rest);
            let leaving =
                new["metadata"]["deletionTimestamp"].is_string() && old["metadata"]["deletionTimestamp"].is_null();
            new["metadata"]["generation"] = json!(generation.unwrap_or(0) + i64::from(changed || leaving));
        } else if let Some(metadata) = new.get_mut("metadata") {
            put(metadata, "generation", generation.map_or(Value::Null, Value::from));
        }
    }

    fn validate_create(&self, object: &Value) -> FieldErrors {
        let mut faults = Vec::new();
        (self.validate)(&At::root(object), &mut faults);
        (self.validate_new)(&At::root(object), &mut faults);
        faults
    }

    fn validate_update(&self, new: &Value, old: &Value, part: Part) -> FieldErrors {
        let mut faults = Vec::new();
        match part {
            Part::Main => {
                (self.validate)(&At::root(new), &mut faults);
                (self.validate_change)(&At::root(new), &At::root(old), &mut faults);
            }
            Part::Status => (self.validate_status)(&At::root(new), &mut faults),
            Part::Other(_) => {}
        }
        faults
    }

    fn reset_fields(&self, part: Part) -> &'static [&'static [&'static str]] {
        match part {
            _ if self.first_status.is_none() => &[],
            Part::Main => &[&["status"]],
            Part::Status => &[&["spec"]],
            Part::Other(_) => &[],
        }
    }

    fn selectable_fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        (self.fields)(object)
    }

    fn columns(&self) -> Vec<Column> {
        let format = |name: &str| if name == "Name" { "name" } else { "" };
        let column = |(name, ty, priority, help): &ColumnFacts| Column {
            name: (*name).to_owned(),
            ty: (*ty).to_owned(),
            format: format(name).to_owned(),
            description: (*help).to_owned(),
            priority: *priority,
        };
        self.columns.iter().map(column).collect()
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        (self.cells)(object, now)
    }

    fn name_faults(&self, name: &str, prefix: bool) -> Vec<String> {
        self.name.faults(name, prefix)
    }
}

impl KindRules {
    /// A status write leaves the declared state alone.
    fn only_status(&self, new: &mut Value, old: &Value) {
        for name in old.as_object().into_iter().flatten().map(|(name, _)| name) {
            if !matches!(name.as_str(), "metadata" | "status") {
                put(new, name, old[name].clone());
            }
        }
        if let Some(map) = new.as_object_mut() {
            map.retain(|name, _| matches!(name.as_str(), "metadata" | "status") || old.get(name).is_some());
        }
    }
}
