//! The shape all built-in kinds share: a row of what is particular, and the machinery of what is common.
//!
//! Common are the split between the object and its status, `metadata.generation`, and that an update must be valid as
//! a new object would be. A row names the particular functions; what it leaves out does nothing.

use jiff::Timestamp;
use serde_json::Value;
use skiff_meta::field::FieldErrors;
use skiff_meta::names::NameForm;
use skiff_meta::partial::Wanted;

use crate::disabled::{self, Disabled};
use crate::view::{Change, View};
use crate::warnings::Warn;
use crate::{Column, Part, Rules, age};

/// What is particular about one kind.
pub(crate) struct Row {
    /// API group.
    pub(crate) group: &'static str,
    /// Kind.
    pub(crate) kind: &'static str,
    /// What names look like.
    pub(crate) name: NameForm,
    /// Fills in what was left out.
    pub(crate) default: fn(&mut Value),
    /// What the status of a new object is, where there is a status that only its own subresource writes.
    pub(crate) status: Option<fn() -> Value>,
    /// What a write to the object itself makes nobody the owner of; empty: the status, where there is one that only its own
    /// subresource writes.
    pub(crate) resets: &'static [&'static [&'static str]],
    /// Metadata that writes to the status do not change.
    pub(crate) status_keeps: &'static [&'static str],
    /// Dotted paths whose change counts as a new generation; none: generations are not counted.
    pub(crate) generation: &'static [&'static str],
    /// More to reset at creation.
    pub(crate) prepare_create: fn(&mut Value),
    /// More to carry over at an update.
    pub(crate) prepare_update: fn(&mut Value, &Value, Part),
    /// Faults of the object itself, new or updated.
    pub(crate) validate: fn(&Value, &mut FieldErrors),
    /// Faults of an object about to be created, on top.
    pub(crate) validate_create: fn(&Value, &mut FieldErrors),
    /// Faults of changes to the object itself, on top.
    pub(crate) validate_update: fn(&Value, &Value, &mut FieldErrors),
    /// Faults of a write to another part.
    pub(crate) validate_part: fn(&Value, &Value, Part, &mut FieldErrors),
    /// Fields of features that are off.
    pub(crate) disabled: &'static [Disabled],
    /// Doubtful use.
    pub(crate) warnings: Warn,
    /// What of an object its selectable fields are told from; empty: all of it.
    pub(crate) selects_from: &'static Wanted,
    /// Selectable fields.
    pub(crate) selectable: fn(&Value) -> Vec<(&'static str, String)>,
    /// Columns of the table, separated by commas: `+` before a name: wide output only; `#`: integer; `?`: boolean;
    /// `@`: a name.
    pub(crate) columns: &'static str,
    /// A row's cells.
    pub(crate) cells: fn(&Value, Timestamp) -> Vec<Value>,
}

/// A status that begins empty.
pub(crate) const EMPTY: Option<fn() -> Value> = Some(|| Value::Object(serde_json::Map::new()));

/// All metadata that a kind whose status is written without it keeps.
pub(crate) const METADATA: &[&str] =
    &["annotations", "deletionTimestamp", "finalizers", "generation", "labels", "ownerReferences"];

/// The same where nothing at all is taken over.
pub(crate) const WHOLE_METADATA: &[&str] = &[
    "annotations",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "ownerReferences",
    "uid",
];

impl Row {
    /// A kind about which nothing is particular.
    pub(crate) const fn new(group: &'static str, kind: &'static str) -> Self {
        Self {
            group,
            kind,
            name: NameForm::Subdomain,
            default: |_| {},
            status: None,
            resets: &[],
            status_keeps: &[],
            generation: &[],
            prepare_create: |_| {},
            prepare_update: |_, _, _| {},
            validate: |_, _| {},
            validate_create: |_, _| {},
            validate_update: |_, _, _| {},
            validate_part: |_, _, _, _| {},
            disabled: &[],
            warnings: |_, _, _| Vec::new(),
            selects_from: &[],
            selectable: |_| Vec::new(),
            columns: "Name,Created At",
            cells: |object, _| vec![name_cell(object), object.at("metadata.creationTimestamp").clone()],
        }
    }
}

/// The object's name, as a cell.
pub(crate) fn name_cell(object: &Value) -> Value {
    object.at("metadata").text("name").into()
}

/// Name and age: the cells of kinds that show nothing else.
pub(crate) fn name_and_age(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name_cell(object), age::cell(object, now)]
}

fn column(spec: &str) -> Column {
    let (priority, spec) = spec.strip_prefix('+').map_or((0, spec), |rest| (1, rest));
    let (ty, name) = match spec.as_bytes().first() {
        Some(b'#') => ("integer", &spec[1..]),
        Some(b'?') => ("boolean", &spec[1..]),
        _ if spec == "Created At" => ("date", spec),
        Some(b'@') => ("string", &spec[1..]),
        _ => ("string", spec),
    };
    let (format, description) = match name {
        _ if spec.starts_with('@') => ("name", ""),
        "Name" => ("name", "Name of the object, unique in its namespace."),
        "Age" | "Created At" => ("", "When the object was created."),
        _ => ("", ""),
    };
    Column {
        name: name.to_owned(),
        ty: ty.to_owned(),
        format: format.to_owned(),
        description: description.to_owned(),
        priority,
    }
}

impl Rules for Row {
    fn default(&self, object: &mut Value) {
        (self.default)(object);
    }

    fn prepare_create(&self, object: &mut Value) {
        disabled::drop_fields(self.disabled, object, None);
        if let Some(status) = self.status {
            object.put("status", status());
        }
        let metadata = object.child("metadata");
        if !self.generation.is_empty() {
            metadata.put("generation", 1.into());
        }
        (self.prepare_create)(object);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, part: Part) {
        disabled::drop_fields(self.disabled, new, Some(old));
        new.child("metadata").put("generation", old.at("metadata.generation").clone());
        match part {
            Part::Main if self.status.is_some() => new.put("status", old.get_or_null("status").clone()),
            Part::Status => keep_all_but_status(new, old, self.status_keeps),
            Part::Main | Part::Other(_) => {}
        }
        (self.prepare_update)(new, old, part);
        let changed = |path: &&str| new.at(path) != old.at(path);
        if part != Part::Status && self.generation.iter().any(changed) {
            let generation = old.at("metadata.generation").as_i64().unwrap_or_default();
            new.child("metadata").put("generation", generation.saturating_add(1).into());
        }
    }

    fn validate_create(&self, object: &Value) -> FieldErrors {
        let mut faults = FieldErrors::new();
        (self.validate)(object, &mut faults);
        (self.validate_create)(object, &mut faults);
        faults
    }

    fn validate_update(&self, new: &Value, old: &Value, part: Part) -> FieldErrors {
        let mut faults = FieldErrors::new();
        match part {
            Part::Main => {
                (self.validate)(new, &mut faults);
                (self.validate_update)(new, old, &mut faults);
            }
            Part::Status | Part::Other(_) => (self.validate_part)(new, old, part, &mut faults),
        }
        faults
    }

    fn reset_fields(&self, part: Part) -> &'static [&'static [&'static str]] {
        match part {
            Part::Main if !self.resets.is_empty() => self.resets,
            Part::Main if self.status.is_some() => &[&["status"]],
            Part::Other("approval") => &[&["spec"]],
            Part::Other("finalize") => &[&["status"]],
            Part::Status if self.status_keeps.contains(&"annotations") => &[&["metadata"], &["spec"]],
            Part::Status => &[&["spec"]],
            Part::Main | Part::Other(_) => &[],
        }
    }

    fn warnings(&self, new: &Value, old: Option<&Value>, part: Part) -> Vec<String> {
        (self.warnings)(new, old, part)
    }

    fn selects_from(&self) -> &'static Wanted {
        self.selects_from
    }

    fn selectable_fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        (self.selectable)(object)
    }

    fn columns(&self) -> Vec<Column> {
        self.columns.split(',').map(column).collect()
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        (self.cells)(object, now)
    }

    fn name_faults(&self, name: &str, prefix: bool) -> Vec<String> {
        self.name.faults(name, prefix)
    }
}

/// What a write to the status leaves as it was: everything but the status itself and most metadata.
fn keep_all_but_status(new: &mut Value, old: &Value, keeps: &[&str]) {
    let status = new.get_or_null("status").clone();
    let mut metadata = new.get_or_null("metadata").clone();
    for field in keeps {
        metadata.put(field, old.at("metadata").get_or_null(field).clone());
    }
    *new = old.clone();
    new.put("metadata", metadata);
    new.put("status", status);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const THING: Row = Row {
        status: EMPTY,
        status_keeps: &["labels"],
        generation: &["spec"],
        columns: "Name,#Desired,+Node,?Done,Port(s),Age",
        ..Row::new("g", "Thing")
    };

    #[test]
    fn creation_begins_at_generation_one_with_an_empty_status() {
        let mut object = json!({"metadata": {"generation": 7}, "spec": {}, "status": {"a": 1}});
        THING.prepare_create(&mut object);
        assert_eq!(object, json!({"metadata": {"generation": 1}, "spec": {}, "status": {}}));
    }

    #[test]
    fn parts_are_split() {
        let old = json!({"metadata": {"generation": 3, "labels": {"l": "1"}}, "spec": {"a": 1}, "status": {"s": 1}});
        let sent = json!({"metadata": {"generation": 9, "labels": {"l": "2"}}, "spec": {"a": 2}, "status": {"s": 2}});
        let mut new = sent.clone();
        THING.prepare_update(&mut new, &old, Part::Main);
        assert_eq!(
            new,
            json!({"metadata": {"generation": 4, "labels": {"l": "2"}}, "spec": {"a": 2}, "status": {"s": 1}})
        );
        let mut new = sent;
        THING.prepare_update(&mut new, &old, Part::Status);
        assert_eq!(
            new,
            json!({"metadata": {"generation": 3, "labels": {"l": "1"}}, "spec": {"a": 1}, "status": {"s": 2}})
        );
        let mut same = old.clone();
        THING.prepare_update(&mut same, &old, Part::Main);
        assert_eq!(same, old);
    }

    #[test]
    fn columns() {
        let columns: Vec<_> = THING.columns().into_iter().map(|c| (c.name, c.ty, c.format, c.priority)).collect();
        let expected = [
            ("Name", "string", "name", 0),
            ("Desired", "integer", "", 0),
            ("Node", "string", "", 1),
            ("Done", "boolean", "", 0),
            ("Port(s)", "string", "", 0),
            ("Age", "string", "", 0),
        ];
        assert_eq!(columns, expected.map(|(n, t, f, p)| (n.to_owned(), t.to_owned(), f.to_owned(), p)));
    }
}
