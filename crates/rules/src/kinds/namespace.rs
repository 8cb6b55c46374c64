//! Namespaces.

use serde_json::{Value, json};
use skiff_meta::field::{FieldError, FieldErrors, FieldPath};
use skiff_meta::names::{self, NameForm};

use crate::row::{Row, name_cell};
use crate::view::{Change, View};
use crate::{Part, age};

const FINALIZER: &str = "kubernetes";

/// A namespace has its name as a label.
fn label(object: &mut Value) {
    let name = object.at("metadata").text("name").to_owned();
    if !name.is_empty() {
        object.child("metadata").child("labels").put("kubernetes.io/metadata.name", name.into());
    }
}

pub(crate) const NAMESPACE: Row = Row {
    name: NameForm::Label,
    status: Some(|| json!({"phase": "Active"})),
    default: |object| {
        label(object);
        if let Some(status) = object.existing("status") {
            status.default_text("phase", "Active");
        }
    },
    prepare_create: |object| {
        // A name that was made up is known only now.
        label(object);
        let spec = object.child("spec");
        let mut finalizers: Vec<Value> = spec.items("finalizers").to_vec();
        if !spec.texts("finalizers").any(|f| f == FINALIZER) {
            finalizers.push(FINALIZER.into());
        }
        spec.put("finalizers", finalizers.into());
    },
    prepare_update: |new, old, part| match part {
        Part::Main => new.child("spec").put("finalizers", old.at("spec.finalizers").clone()),
        Part::Other("finalize") => new.put("status", old.get_or_null("status").clone()),
        Part::Status | Part::Other(_) => {}
    },
    // Upstream tells which of them only of those that are written apart.
    validate: |namespace, out| finalizers(namespace, |path, _| path, out),
    validate_part: |new, _, part, out| match part {
        Part::Status => phase(new, out),
        Part::Main | Part::Other(_) => finalizers(new, |path, place| path.index(place), out),
    },
    selectable: |object| {
        vec![
            ("status.phase", object.at("status").text("phase").to_owned()),
            ("name", object.at("metadata").text("name").to_owned()),
        ]
    },
    columns: "Name,Status,Age",
    cells: |object, now| vec![name_cell(object), object.at("status.phase").clone(), age::cell(object, now)],
    ..Row::new("", "Namespace")
};

fn finalizers(object: &Value, place: fn(FieldPath, usize) -> FieldPath, out: &mut FieldErrors) {
    for (i, finalizer) in object.at("spec").texts("finalizers").enumerate() {
        let path = place(FieldPath::new("spec.finalizers"), i);
        out.extend(names::qualified_name(finalizer).iter().map(|why| FieldError::invalid(&path, finalizer, why)));
        if !finalizer.contains('/') && finalizer != FINALIZER {
            let why = "name is neither a standard finalizer name nor is it fully qualified";
            out.push(FieldError::invalid(&path, finalizer, why));
        }
    }
}

/// Only a namespace that is going may be called `Terminating`, and it must.
fn phase(object: &Value, out: &mut FieldErrors) {
    let phase = object.at("status").text("phase");
    let path = FieldPath::new("status.Phase");
    match (object.at("metadata").has("deletionTimestamp"), phase) {
        (true, other) if other != "Terminating" => {
            let why = "may only be 'Terminating' if `deletionTimestamp` is not empty";
            out.push(FieldError::invalid(&path, other, why));
        }
        (false, other) if other != "Active" => {
            out.push(FieldError::invalid(&path, other, "may only be 'Active' if `deletionTimestamp` is empty"));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rules;

    #[test]
    fn life() {
        let mut object = json!({"metadata": {"name": "a"}});
        NAMESPACE.default(&mut object);
        NAMESPACE.prepare_create(&mut object);
        assert_eq!(
            object,
            json!({"metadata": {"name": "a", "labels": {"kubernetes.io/metadata.name": "a"}},
                "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}})
        );
        let mut new = object.clone();
        new["spec"]["finalizers"] = json!([]);
        NAMESPACE.prepare_update(&mut new, &object, Part::Main);
        assert_eq!(new, object);
        let mut new = object.clone();
        new["spec"]["finalizers"] = json!([]);
        NAMESPACE.prepare_update(&mut new, &object, Part::Other("finalize"));
        assert_eq!(new["spec"]["finalizers"], json!([]));
        new["status"]["phase"] = json!("Terminating");
        assert_eq!(NAMESPACE.validate_update(&new, &object, Part::Status).len(), 1);
    }
}
