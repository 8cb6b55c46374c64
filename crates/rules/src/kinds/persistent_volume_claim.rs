//! Claims to persistent volumes.

use jiff::Timestamp;
use serde_json::{Value, json};
use skiff_meta::Quantity;
use skiff_meta::field::{FieldError, FieldErrors, FieldPath};
use skiff_meta::names;

use crate::at::At;
use crate::cells::or_unset;
use crate::podspec::{self, quantity};
use crate::row::{Row, name_cell};
use crate::view::{Change, View};
use crate::warnings;
use crate::workload::same_quantity;
use crate::{Part, age};

pub(super) const ACCESS_MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
/// How far the growth of a volume has come.
const RESIZE_STATES: &[&str] = &[
    "ControllerResizeInProgress",
    "ControllerResizeInfeasible",
    "NodeResizeInProgress",
    "NodeResizeInfeasible",
    "NodeResizePending",
];
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

pub(crate) const PERSISTENT_VOLUME_CLAIM: Row = Row {
    status: Some(|| json!({"phase": "Pending"})),
    default,
    prepare_create: |claim| sources(claim.child("spec"), &Value::Null),
    prepare_update: |new, old, part| {
        if part == Part::Main {
            sources(new.child("spec"), old.get_or_null("spec"));
        }
    },
    validate: |claim, out| validate_spec(&At::member(claim, "spec"), out),
    validate_update,
    validate_part: |new, _, part, out| {
        if part == Part::Status {
            validate_status(&At::member(new, "status"), out);
        }
    },
    warnings: warnings::of_persistent_volume_claim,
    columns: "Name,Status,Volume,Capacity,Access Modes,StorageClass,VolumeAttributesClass,Age,+VolumeMode",
    cells,
    ..Row::new("", "PersistentVolumeClaim")
};

/// What a volume begins with stands in two fields. The older one knows claims and snapshots alone, and what else is in
/// it was always ignored; sources in other namespaces are a feature that is off
/// (`pkg/api/persistentvolumeclaim/util.go`).
fn sources(spec: &mut Value, before: &Value) {
    if source_elsewhere(spec) && !before.has("dataSourceRef") {
        spec.drop_member("dataSourceRef");
    }
    let had = before.has("dataSource") || before.has("dataSourceRef");
    let known = |source: &Value| {
        matches!(
            (source.text("apiGroup"), source.text("kind")),
            ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot")
        )
    };
    if !had && !spec.has("dataSourceRef") && !known(spec.get_or_null("dataSource")) {
        spec.drop_member("dataSource");
    }
    for (from, to) in [("dataSource", "dataSourceRef"), ("dataSourceRef", "dataSource")] {
        let source = spec.get_or_null(from);
        if source.is_null() || spec.has(to) || !source.text("namespace").is_empty() {
            continue;
        }
        let mut same = Value::Object(serde_json::Map::new());
        for name in ["apiGroup", "kind", "name"] {
            same.put(name, source.get_or_null(name).clone());
        }
        spec.put(to, same);
    }
}

/// Fills in a claim, or a template of claims.
pub(super) fn default(claim: &mut Value) {
    if !claim.at("status").has("phase") {
        claim.child("status").put("phase", "Pending".into());
    }
    let spec = claim.child("spec");
    spec.default_to("volumeMode", "Filesystem");
    if let Some(resources) = spec.existing("resources") {
        podspec::default_resources(resources);
    }
    for list in ["capacity", "allocatedResources"] {
        podspec::round(claim.child("status").existing(list));
    }
}

/// Faults of a claim's spec.
pub(super) fn validate_spec(spec: &At<'_>, out: &mut FieldErrors) {
    if spec.value.count("accessModes") == 0 {
        spec.missing("accessModes", "at least 1 access mode is required", out);
    }
    spec.get("selector").label_selector(out);
    access_modes(spec, out);
    let storage = spec.value.at("resources.requests.storage");
    let path = spec.path("resources").key("storage");
    if storage.is_null() {
        out.push(FieldError::required(&path, ""));
    } else {
        let at = At { value: storage, path };
        match Quantity::from_json(storage) {
            Ok(size) if size.is_zero() || size.is_negative() => at.wrong("must be greater than zero", out),
            _ => quantity("storage", &at, out),
        }
    }
    spec.form("storageClassName", names::dns1123_subdomain, out);
    spec.optional_one_of("volumeMode", &["Block", "Filesystem"], out);
    data_source(spec, out);
    spec.form("volumeAttributesClassName", names::dns1123_subdomain, out);
}

fn validate_status(status: &At<'_>, out: &mut FieldErrors) {
    for (_, amount) in status.entries("capacity") {
        basic_quantity(&amount, out);
    }
    let path = status.path("allocatedResourceStatuses");
    for (name, state) in status.entries("allocatedResourceStatuses") {
        resource_key(name, &path, out);
        if !RESIZE_STATES.contains(&state.value.as_str().unwrap_or_default()) {
            out.push(FieldError::not_supported(&path, name, RESIZE_STATES));
        }
    }
    for (name, amount) in status.entries("allocatedResources") {
        if resource_key(name, &status.path("allocatedResources"), out) && basic_quantity(&amount, out) {
            quantity("storage", &amount, out);
        }
    }
}

/// Whether an amount is none that nobody can have.
fn basic_quantity(amount: &At<'_>, out: &mut FieldErrors) -> bool {
    let Ok(quantity) = Quantity::from_json(amount.value) else { return false };
    if quantity.is_negative() {
        out.push(FieldError::invalid(&amount.path, quantity.value(), "must be a valid resource quantity"));
    }
    !quantity.is_negative()
}

/// Whether this is the name of something that claims have; of Kubernetes' own that is storage alone.
fn resource_key(name: &str, path: &FieldPath, out: &mut FieldErrors) -> bool {
    let faults = names::qualified_name(name);
    out.extend(faults.iter().map(|why| FieldError::invalid(path, name, why)));
    let native = !name.contains('/') || name.contains("kubernetes.io/");
    let foreign = faults.is_empty() && native && name != "storage";
    if foreign {
        out.push(FieldError::not_supported(path, name, &["storage"]));
    }
    faults.is_empty() && !foreign
}

pub(super) fn access_modes(spec: &At<'_>, out: &mut FieldErrors) {
    for mode in spec.value.texts("accessModes") {
        if !ACCESS_MODES.contains(&mode) {
            out.push(FieldError::not_supported(&spec.path("accessModes"), mode, ACCESS_MODES));
        }
    }
    let mut modes = spec.value.texts("accessModes");
    if spec.value.count("accessModes") > 1 && modes.any(|m| m == "ReadWriteOncePod") {
        let why = "may not use ReadWriteOncePod with other access modes";
        spec.forbidden("accessModes", why, out);
    }
}

fn data_source(spec: &At<'_>, out: &mut FieldErrors) {
    for field in ["dataSource", "dataSourceRef"] {
        let source = spec.get(field);
        if !source.is_set() {
            continue;
        }
        source.require("name", out);
        source.require("kind", out);
        if source.text("apiGroup").is_empty() && source.text("kind") != "PersistentVolumeClaim" {
            let why = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
            out.push(FieldError::invalid(&source.path, source.text("kind"), why));
        }
        source.form("apiGroup", names::dns1123_subdomain, out);
        source.form("namespace", names::dns1123_label, out);
    }
    if source_elsewhere(spec.value) && spec.has("dataSource") {
        let why = "may not be specified when dataSourceRef.namespace is specified";
        out.push(FieldError::invalid(&spec.path, spec.path("dataSource").to_string(), why));
    } else if spec.has("dataSource") && spec.has("dataSourceRef") {
        let part = |source: &str, name| spec.value.get_or_null(source).text(name).to_owned();
        if ["apiGroup", "kind", "name"].iter().any(|name| part("dataSource", name) != part("dataSourceRef", name)) {
            let why = "must match dataSourceRef";
            out.push(FieldError::invalid(&spec.path, spec.path("dataSource").to_string(), why));
        }
    }
}

fn source_elsewhere(spec: &Value) -> bool {
    !spec.at("dataSourceRef").text("namespace").is_empty()
}

/// A claim without a class may get one: that of its old annotation, which may go then, or a default one.
fn gets_class(new: &Value, old: &Value, out: &mut FieldErrors) -> bool {
    let annotated = |claim: &Value| {
        let annotation = claim.at("metadata").get_or_null("annotations").get_or_null(CLASS_ANNOTATION);
        annotation.as_str().map(str::to_owned)
    };
    let (was, is) = (annotated(old), annotated(new));
    let class = new.at("spec.storageClassName").as_str();
    let gets = class.is_some() && !old.at("spec").has("storageClassName");
    let as_annotated = was.as_deref().is_none_or(|was| class == Some(was));
    let moves = gets && was.is_some() && as_annotated && is.is_none();
    if is != was && !moves {
        let path = FieldPath::new("metadata.annotations").child(CLASS_ANNOTATION);
        out.push(FieldError::invalid(&path, is.unwrap_or_default(), "field is immutable"));
    }
    gets && as_annotated
}

fn validate_update(new: &Value, old: &Value, out: &mut FieldErrors) {
    let (spec, before) = (At::member(new, "spec"), old.get_or_null("spec"));
    let bound = new.at("status").text("phase") == "Bound";
    let mut rest = spec.value.clone();
    if before.text("volumeName").is_empty() {
        rest.put("volumeName", before.get_or_null("volumeName").clone());
    }
    if gets_class(new, old, out) {
        rest.drop_member("storageClassName");
    }
    if bound {
        if let Some(requests) = rest.existing("resources").and_then(|resources| resources.existing("requests")) {
            requests.put("storage", before.at("resources.requests.storage").clone());
        }
        rest.put("volumeAttributesClassName", before.get_or_null("volumeAttributesClassName").clone());
    }
    if !same_quantity(rest.at("resources.requests.storage"), before.at("resources.requests.storage")) || rest != *before
    {
        let why = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound \
                   claims";
        out.push(FieldError::forbidden(&spec.path, why));
    }
    let nothing = || Quantity::from_json(&0.into());
    let size = |spec: &Value, path: &str| Quantity::from_json(spec.at(path)).or_else(|_| nothing());
    let storage = "resources.requests.storage";
    let sizes = (size(spec.value, storage), size(before, storage), size(old, "status.capacity.storage"));
    if let (Ok(asked), Ok(had), Ok(given)) = sizes
        && asked < had
        && asked <= given
    {
        let path = spec.path("resources").child("requests").child("storage");
        out.push(FieldError::forbidden(&path, "field can not be less than status.capacity"));
    }
    let path = FieldPath::new("volumeMode");
    crate::metadata::immutable(spec.value.get_or_null("volumeMode"), before.get_or_null("volumeMode"), &path, out);
    if old.at("status").has("currentVolumeAttributesClassName") {
        let had = before.get_or_null("volumeAttributesClassName");
        match spec.value.get_or_null("volumeAttributesClassName") {
            now if now == had => {}
            Value::Null => spec.forbidden(
                "volumeAttributesClassName",
                "update to nil is forbidden when status.currentVolumeAttributesClassName is not nil",
                out,
            ),
            Value::String(name) if name.is_empty() => spec.forbidden(
                "volumeAttributesClassName",
                "update to empty string is forbidden when status.currentVolumeAttributesClassName is not nil",
                out,
            ),
            _ => {}
        }
    }
}

/// `RWO,ROX` and the like.
pub(super) fn short_modes(holder: &Value) -> String {
    let short =
        [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];
    let found = short.iter().filter(|(mode, _)| holder.texts("accessModes").any(|m| m == *mode));
    found.map(|(_, short)| *short).collect::<Vec<_>>().join(",")
}

/// The storage class, from where it used to be told or from where it is told now.
pub(super) fn class(object: &Value) -> &str {
    match object.at("metadata").get_or_null("annotations").text(CLASS_ANNOTATION) {
        "" => object.at("spec").text("storageClassName"),
        class => class,
    }
}

fn cells(claim: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (claim.get_or_null("spec"), claim.get_or_null("status"));
    let going = claim.at("metadata").has("deletionTimestamp");
    let bound = !spec.text("volumeName").is_empty();
    let capacity = match status.at("capacity").text("storage") {
        "" => "0",
        capacity => capacity,
    };
    vec![
        name_cell(claim),
        if going { "Terminating".into() } else { status.text("phase").into() },
        spec.text("volumeName").into(),
        if bound { capacity.into() } else { "".into() },
        if bound { short_modes(status).into() } else { "".into() },
        class(claim).into(),
        or_unset(spec.text("volumeAttributesClassName")).into(),
        age::cell(claim, now),
        or_unset(spec.text("volumeMode")).into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rules;

    fn claim() -> Value {
        let mut claim = json!({"metadata": {"name": "c"}, "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "fast",
            "resources": {"requests": {"storage": "1Gi"}}}});
        PERSISTENT_VOLUME_CLAIM.default(&mut claim);
        claim
    }

    #[test]
    fn faults() {
        assert_eq!(PERSISTENT_VOLUME_CLAIM.validate_create(&claim()), []);
        let bad = json!({"spec": {"accessModes": ["Any"], "resources": {"requests": {"storage": "0"}}, "volumeMode": "Tape"}});
        let found: Vec<_> = PERSISTENT_VOLUME_CLAIM.validate_create(&bad).iter().map(ToString::to_string).collect();
        assert_eq!(found.len(), 3, "{found:?}");
        assert_eq!(found[1], "spec.resources[storage]: Invalid value: \"0\": must be greater than zero");
    }

    #[test]
    fn only_bound_claims_grow() {
        let mut old = claim();
        let mut new = old.clone();
        new["spec"]["resources"]["requests"]["storage"] = json!("2Gi");
        assert_eq!(PERSISTENT_VOLUME_CLAIM.validate_update(&new, &old, Part::Main).len(), 1);
        old["status"] = json!({"phase": "Bound", "capacity": {"storage": "1Gi"}});
        new["status"] = old["status"].clone();
        assert_eq!(PERSISTENT_VOLUME_CLAIM.validate_update(&new, &old, Part::Main), []);
        new["spec"]["accessModes"] = json!(["ReadOnlyMany"]);
        assert_eq!(PERSISTENT_VOLUME_CLAIM.validate_update(&new, &old, Part::Main).len(), 1);
    }

    #[test]
    fn a_claim_without_a_class_may_get_one() {
        let annotated = |class: &str| json!({"annotations": {CLASS_ANNOTATION: class}});
        for (before, (class, after), count) in [
            (Value::Null, (json!("fast"), Value::Null), 0),
            (Value::Null, (json!("fast"), annotated("fast")), 1),
            (annotated("fast"), (json!("fast"), Value::Null), 0),
            (annotated("fast"), (json!("fast"), annotated("fast")), 0),
            (annotated("fast"), (json!("slow"), annotated("fast")), 1),
            (annotated("fast"), (Value::Null, Value::Null), 1),
        ] {
            let (mut old, mut new) = (claim(), claim());
            old["spec"].drop_member("storageClassName");
            new["spec"].put("storageClassName", class.clone());
            (old["metadata"], new["metadata"]) = (before.clone(), after.clone());
            let found = PERSISTENT_VOLUME_CLAIM.validate_update(&new, &old, Part::Main);
            assert_eq!(found.len(), count, "{before} {class} {after}: {found:?}");
        }
    }

    #[test]
    fn row() {
        let mut claim = claim();
        claim["spec"]["volumeName"] = json!("pv");
        claim["status"] =
            json!({"phase": "Bound", "accessModes": ["ReadWriteOnce", "ReadOnlyMany"], "capacity": {"storage": "1Gi"}});
        let cells = PERSISTENT_VOLUME_CLAIM.cells(&claim, Timestamp::UNIX_EPOCH);
        assert_eq!(cells[1..7], ["Bound", "pv", "1Gi", "RWO,ROX", "fast", "<unset>"].map(Value::from));
    }
}
