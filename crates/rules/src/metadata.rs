//! Metadata, as every kind has it (`k8s.io/apimachinery/pkg/api/validation/objectmeta.go`).

use std::collections::BTreeSet;

use serde_json::Value;
use skiff_meta::field::{FieldError, FieldErrors, FieldPath};
use skiff_meta::names;

use crate::at::At;
use crate::view::View;
use crate::{Part, Rules};

/// Most bytes of all annotations together.
const MAX_ANNOTATIONS: usize = 256 << 10;
/// Most bytes of a field manager's name, and of the subresource it wrote to.
const MAX_MANAGER: usize = 128;
const MAX_SUBRESOURCE: usize = 256;
const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// Whether the metadata of a new object is looked at only if nothing else is wrong: upstream's check of these kinds is
/// about the rest of them.
pub fn is_looked_at_last(object: &Value) -> bool {
    matches!((object.text("apiVersion"), object.text("kind")), ("policy/v1", "PodDisruptionBudget") | ("v1", "Event"))
}

/// All faults in the metadata of an object about to be created, its name already generated.
pub fn validate_create(object: &Value, namespaced: bool, rules: &dyn Rules) -> FieldErrors {
    let (metadata, path) = (object.at("metadata"), FieldPath::new("metadata"));
    let mut faults = FieldErrors::new();
    let generate_name = metadata.text("generateName");
    if !generate_name.is_empty() {
        let at = path.child("generateName");
        // Upstream's newer checks are of names alone.
        let newer = [("resource.k8s.io", "DeviceClass"), ("", "ReplicationController")];
        let bad = match newer.contains(&(group(object), object.text("kind"))) {
            true => names::path_segment(generate_name, true),
            false => rules.name_faults(generate_name, true),
        };
        faults.extend(bad.iter().map(|why| FieldError::invalid(&at, generate_name, why)));
    }
    let (name, at) = (metadata.text("name"), path.child("name"));
    if name.is_empty() {
        faults.push(FieldError::required(&at, "name or generateName is required"));
    } else {
        faults.extend(rules.name_faults(name, false).iter().map(|why| FieldError::invalid(&at, name, why)));
    }
    let (namespace, at) = (metadata.text("namespace"), path.child("namespace"));
    match (namespaced, namespace.is_empty()) {
        (true, true) => faults.push(FieldError::required(&at, "")),
        (true, false) => {
            let bad = names::dns1123_label(namespace);
            faults.extend(bad.iter().map(|why| FieldError::invalid(&at, namespace, why)));
        }
        (false, false) => faults.push(FieldError::forbidden(&at, "not allowed on this type")),
        (false, true) => {}
    }
    whole(metadata, &path, &mut faults);
    known_finalizers(object, &mut faults);
    faults
}

/// Kinds whose names are looked at again at updates, for upstream asks again whether the whole object is one; of other
/// kinds they are asked for no more than that paths can hold them.
const NAMED_AGAIN: &[(&str, &[&str])] = &[
    (
        "",
        &[
            "ConfigMap",
            "Endpoints",
            "LimitRange",
            "Namespace",
            "Node",
            "PersistentVolume",
            "PersistentVolumeClaim",
            "Pod",
            "Secret",
            "ServiceAccount",
        ],
    ),
    ("admissionregistration.k8s.io", &[]),
    ("apiregistration.k8s.io", &[]),
    ("apps", &["ControllerRevision"]),
    ("batch", &["Job"]),
    ("certificates.k8s.io", &["CertificateSigningRequest"]),
    ("discovery.k8s.io", &[]),
    ("flowcontrol.apiserver.k8s.io", &[]),
    ("networking.k8s.io", &["IPAddress", "Ingress", "IngressClass"]),
    ("node.k8s.io", &[]),
    ("rbac.authorization.k8s.io", &[]),
    ("resource.k8s.io", &["ResourceClaim", "ResourceClaimTemplate"]),
    ("storage.k8s.io", &["CSINode", "CSIStorageCapacity", "StorageClass", "VolumeAttachment", "VolumeAttributesClass"]),
];

fn is_named_again(object: &Value, part: Part) -> bool {
    let (group, kind) = (group(object), object.text("kind"));
    let whole = part == Part::Main || matches!(kind, "CertificateSigningRequest" | "VolumeAttachment");
    let is_in = |(of, kinds): &(&str, &[&str])| *of == group && (kinds.is_empty() || kinds.contains(&kind));
    whole && NAMED_AGAIN.iter().any(is_in)
}

/// All faults in the metadata of an updated object, immutable fields included (upstream: `validateCommonFields` of
/// `registry/rest/update.go`).
pub fn validate_update(object: &Value, old: &Value, rules: &dyn Rules, part: Part) -> FieldErrors {
    let (new, old, path) = (object.at("metadata"), old.at("metadata"), FieldPath::new("metadata"));
    let mut faults = FieldErrors::new();
    let generate_name = new.text("generateName");
    let mut bad = names::path_segment(generate_name, true);
    if !generate_name.is_empty() && is_named_again(object, part) {
        bad.extend(rules.name_faults(generate_name, true));
    }
    faults.extend(bad.iter().map(|why| FieldError::invalid(&path.child("generateName"), generate_name, why)));
    whole(new, &path, &mut faults);
    if old.has("deletionTimestamp") {
        no_new_finalizers(new, old, &path.child("finalizers"), &mut faults);
    }
    for field in ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        immutable(new.get_or_null(field), old.get_or_null(field), &path.child(field), &mut faults);
    }
    known_finalizers(object, &mut faults);
    faults
}

/// Faults of the `labels` or `annotations` in a metadata.
pub fn faults_of(metadata: &Value, name: &str) -> FieldErrors {
    let (path, mut faults) = (FieldPath::new("metadata"), FieldErrors::new());
    match name {
        "labels" => labels(metadata, name, &path, &mut faults),
        _ => annotations(metadata, &path.child(name), &mut faults),
    }
    faults
}

/// A fault unless the two are the same.
pub(crate) fn immutable(new: &Value, old: &Value, path: &FieldPath, faults: &mut FieldErrors) {
    if new != old {
        faults.push(FieldError::invalid(path, new.clone(), "field is immutable"));
    }
}

fn whole(metadata: &Value, path: &FieldPath, faults: &mut FieldErrors) {
    if let Some(generation) = metadata.get_or_null("generation").as_i64().filter(|generation| *generation < 0) {
        faults.push(FieldError::invalid(&path.child("generation"), generation, "must be greater than or equal to 0"));
    }
    labels(metadata, "labels", path, faults);
    annotations(metadata, &path.child("annotations"), faults);
    owner_references(metadata, &path.child("ownerReferences"), faults);
    finalizers(metadata, &path.child("finalizers"), faults);
    managed_fields(metadata, &path.child("managedFields"), faults);
}

/// Faults of the labels at member `name`.
pub(crate) fn labels(holder: &Value, name: &str, path: &FieldPath, faults: &mut FieldErrors) {
    let at = path.child(name);
    for (key, value) in holder.entries(name) {
        faults.extend(names::qualified_name(key).iter().map(|why| FieldError::invalid(&at, key, why)));
        let value = value.as_str().unwrap_or_default();
        faults.extend(names::label_value(value).iter().map(|why| FieldError::invalid(&at, value, why)));
    }
}

/// Faults in the metadata of what objects are made of, which has labels and annotations and nothing else.
pub(crate) fn of_template(metadata: &Value, path: &FieldPath, faults: &mut FieldErrors) {
    annotations(metadata, &path.child("annotations"), faults);
    labels(metadata, "labels", path, faults);
    for (name, _) in metadata.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null()) {
        if !matches!(name.as_str(), "annotations" | "labels") {
            let name = if name == "uid" { "uID" } else { name };
            faults.push(FieldError::forbidden(&path.child(name), "cannot be set"));
        }
    }
}

/// Faults of annotations.
pub(crate) fn annotations(metadata: &Value, path: &FieldPath, faults: &mut FieldErrors) {
    let mut size = 0;
    for (key, value) in metadata.entries("annotations") {
        let bad = names::qualified_name(&key.to_lowercase());
        faults.extend(bad.iter().map(|why| FieldError::invalid(path, key, why)));
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > MAX_ANNOTATIONS {
        faults.push(FieldError::too_long(path, MAX_ANNOTATIONS));
    }
}

fn owner_references(metadata: &Value, path: &FieldPath, faults: &mut FieldErrors) {
    let mut controller: Option<String> = None;
    for owner in metadata.items("ownerReferences") {
        let (api_version, kind) = (owner.text("apiVersion"), owner.text("kind"));
        let version = api_version.rsplit('/').next().unwrap_or_default();
        if version.is_empty() {
            faults.push(FieldError::invalid(&path.child("apiVersion"), api_version, "version must not be empty"));
        }
        for field in ["kind", "name", "uid"] {
            if owner.text(field).is_empty() {
                faults.push(FieldError::invalid(&path.child(field), "", "must not be empty"));
            }
        }
        if (api_version, kind) == ("v1", "Event") {
            let why = "/v1, Kind=Event is disallowed from being an owner";
            faults.push(FieldError::invalid(path, owner.clone(), why));
        }
        if owner.flag("controller") {
            let name = format!("{kind}/{}", owner.text("name"));
            match &controller {
                None => controller = Some(name),
                Some(first) => {
                    let why = format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} \
                         and {name}"
                    );
                    faults.push(FieldError::invalid(path, metadata.get_or_null("ownerReferences").clone(), &why));
                }
            }
        }
    }
}

fn finalizers(metadata: &Value, path: &FieldPath, faults: &mut FieldErrors) {
    for finalizer in metadata.texts("finalizers") {
        let bad = names::qualified_name(finalizer);
        faults.extend(bad.iter().map(|why| FieldError::invalid(path, finalizer, why)));
    }
    let has = |name| metadata.texts("finalizers").any(|f| f == name);
    if has(ORPHAN) && has(FOREGROUND) {
        let why = format!("finalizer {ORPHAN} and {FOREGROUND} cannot be both set");
        faults.push(FieldError::invalid(path, metadata.get_or_null("finalizers").clone(), &why));
    }
}

/// Groups whose kinds take only finalizers with a domain, or those that Kubernetes knows (upstream: `ValidateObjectMeta`
/// of `pkg/apis/core/validation`).
const STRICT: &[&str] = &[
    "",
    "apps",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "discovery.k8s.io",
    "events.k8s.io",
    "flowcontrol.apiserver.k8s.io",
    "networking.k8s.io",
    "rbac.authorization.k8s.io",
    "resource.k8s.io",
    "scheduling.k8s.io",
    "storage.k8s.io",
];

fn group(object: &Value) -> &str {
    object.text("apiVersion").split_once('/').map_or("", |(group, _)| group)
}

fn known_finalizers(object: &Value, faults: &mut FieldErrors) {
    let group = group(object);
    if !STRICT.contains(&group) || group.is_empty() && object.text("kind") == "Event" {
        return;
    }
    for (at, finalizer) in object.at("metadata").texts("finalizers").enumerate() {
        if !finalizer.contains('/') && ![ORPHAN, FOREGROUND, "kubernetes"].contains(&finalizer) {
            let why = "name is neither a standard finalizer name nor is it fully qualified";
            faults.push(FieldError::invalid(&FieldPath::new("metadata.finalizers").index(at), finalizer, why));
        }
    }
}

/// Faults of the conditions at member `name` (`ValidateConditions` of `k8s.io/apimachinery/pkg/apis/meta/v1/validation`).
pub(crate) fn conditions(status: &At<'_>, name: &str, faults: &mut FieldErrors) {
    const STATES: &[&str] = &["False", "True", "Unknown"];
    const LONGEST_REASON: usize = 1 << 10;
    const LONGEST_MESSAGE: usize = 32 << 10;
    let mut seen = BTreeSet::new();
    for condition in status.items(name) {
        if !seen.insert(condition.text("type")) {
            faults.push(FieldError::duplicate(&condition.path("type"), condition.text("type")));
        }
        condition.faults("type", &names::qualified_name(condition.text("type")), faults);
        if !STATES.contains(&condition.text("status")) {
            faults.push(FieldError::not_supported(&condition.path("status"), condition.text("status"), STATES));
        }
        if condition.int("observedGeneration").is_some_and(|generation| generation < 0) {
            condition.invalid("observedGeneration", "must be greater than or equal to zero", faults);
        }
        if !condition.has("lastTransitionTime") {
            condition.missing("lastTransitionTime", "", faults);
        }
        if condition.require("reason", faults) {
            condition.form("reason", condition_reason, faults);
            if condition.text("reason").len() > LONGEST_REASON {
                faults.push(FieldError::too_long(&condition.path("reason"), LONGEST_REASON));
            }
        }
        if condition.text("message").len() > LONGEST_MESSAGE {
            faults.push(FieldError::too_long(&condition.path("message"), LONGEST_MESSAGE));
        }
    }
}

fn condition_reason(text: &str) -> Vec<String> {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic());
    let ends = text.bytes().next_back().is_some_and(is_word);
    if begins && ends && text.bytes().all(|b| is_word(b) || matches!(b, b',' | b':')) {
        return Vec::new();
    }
    let message = "a condition reason must start with alphabetic character, optionally followed by a string of \
                   alphanumeric characters or '_,:', and must end with an alphanumeric character or '_'";
    let examples = ["my_name", "MY_NAME", "MyName", "ReasonA,ReasonB", "ReasonA:ReasonB"];
    vec![names::regex_fault(message, "[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", &examples)]
}

fn managed_fields(metadata: &Value, path: &FieldPath, faults: &mut FieldErrors) {
    for (at, entry) in metadata.items("managedFields").iter().enumerate() {
        let path = path.index(at);
        let (operation, fields_type, manager) =
            (entry.text("operation"), entry.text("fieldsType"), entry.text("manager"));
        if !matches!(operation, "Apply" | "Update") {
            faults.push(FieldError::invalid(&path.child("operation"), operation, "must be `Apply` or `Update`"));
        }
        if !matches!(fields_type, "" | "FieldsV1") {
            faults.push(FieldError::invalid(&path.child("fieldsType"), fields_type, "must be `FieldsV1`"));
        }
        if manager.len() > MAX_MANAGER {
            faults.push(FieldError::too_long(&path.child("manager"), MAX_MANAGER));
        }
        if entry.text("subresource").len() > MAX_SUBRESOURCE {
            faults.push(FieldError::too_long(&path.child("subresource"), MAX_SUBRESOURCE));
        }
    }
}

fn no_new_finalizers(new: &Value, old: &Value, path: &FieldPath, faults: &mut FieldErrors) {
    let known: BTreeSet<&str> = old.texts("finalizers").collect();
    let extra: BTreeSet<&str> = new.texts("finalizers").filter(|f| !known.contains(f)).collect();
    if !extra.is_empty() {
        let extra: Vec<String> = extra.iter().map(|f| format!("{f:?}")).collect();
        let why = format!(
            "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
            extra.join(", ")
        );
        faults.push(FieldError::forbidden(path, &why));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules_for;
    use serde_json::json;
    use skiff_meta::GroupKind;

    fn faults(metadata: Value, namespaced: bool) -> Vec<String> {
        let rules = rules_for(&GroupKind::new("", "ConfigMap"));
        let object = json!({ "metadata": metadata });
        validate_create(&object, namespaced, rules).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn creation() {
        assert!(faults(json!({"name": "a.b", "namespace": "default", "labels": {"a/b": "c"}}), true).is_empty());
        assert_eq!(
            faults(json!({}), true),
            ["metadata.name: Required value: name or generateName is required", "metadata.namespace: Required value"]
        );
        assert_eq!(
            faults(json!({"name": "a", "namespace": "b"}), false),
            ["metadata.namespace: Forbidden: not allowed on this type"]
        );
        let many = faults(
            json!({"name": "A", "namespace": "b", "labels": {"x": "-"}, "annotations": {"a/b/c": ""},
                "finalizers": ["orphan", "foregroundDeletion"],
                "ownerReferences": [{"apiVersion": "v1", "kind": "Event", "name": "e", "uid": ""}]}),
            true,
        );
        let fields: Vec<_> = many.iter().map(|f| f.split(": ").next().unwrap()).collect();
        assert_eq!(
            fields,
            [
                "metadata.name",
                "metadata.labels",
                "metadata.annotations",
                "metadata.ownerReferences.uid",
                "metadata.ownerReferences",
                "metadata.finalizers",
            ]
        );
    }

    #[test]
    fn two_controllers() {
        let owner =
            |name: &str| json!({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": "u", "controller": true});
        let found = faults(json!({"name": "a", "namespace": "b", "ownerReferences": [owner("x"), owner("y")]}), true);
        assert_eq!(found.len(), 1);
        assert!(found[0].ends_with("references for Pod/x and Pod/y"), "{found:?}");
    }

    #[test]
    fn updates() {
        let old = json!({"metadata": {"name": "a", "uid": "1", "deletionTimestamp": "t", "finalizers": ["a/b"]}});
        let mut new = old.clone();
        let rules = rules_for(&GroupKind::new("", "ConfigMap"));
        assert!(validate_update(&new, &old, rules, Part::Main).is_empty());
        new["metadata"]["uid"] = json!("2");
        new["metadata"]["finalizers"] = json!(["a/b", "c/d"]);
        let faults = validate_update(&new, &old, rules, Part::Main);
        let found: Vec<_> = faults.iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found \
                 new finalizers []string{\"c/d\"}",
                "metadata.uid: Invalid value: \"2\": field is immutable",
            ]
        );
    }
}
