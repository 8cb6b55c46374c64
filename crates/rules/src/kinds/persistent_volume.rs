//! Persistent volumes.

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use skiff_meta::field::{FieldError, FieldErrors};
use skiff_meta::{Quantity, names};

use super::persistent_volume_claim::{access_modes, class, short_modes};
use crate::age;
use crate::at::At;
use crate::cells::or_unset;
use crate::podspec::{self, Holder, node_selector};
use crate::row::{Row, name_cell};
use crate::view::{Change, View};
use crate::warnings;

/// What can stand behind a volume.
const SOURCES: &[&str] = &[
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "flocker",
    "nfs",
    "rbd",
    "quobyte",
    "cephfs",
    "iscsi",
    "cinder",
    "fc",
    "flexVolume",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "scaleIO",
    "local",
    "storageos",
    "csi",
];

pub(crate) const PERSISTENT_VOLUME: Row = Row {
    status: Some(|| json!({"phase": "Pending"})),
    default: |volume| {
        let spec = volume.child("spec");
        spec.default_text("persistentVolumeReclaimPolicy", "Retain");
        spec.default_to("volumeMode", "Filesystem");
        podspec::default_source(spec);
        podspec::round(spec.existing("capacity"));
        volume.child("status").default_text("phase", "Pending");
    },
    validate: |volume, out| {
        let name = volume.at("metadata.name").as_str().unwrap_or_default();
        validate_spec(name, &At::member(volume, "spec"), out);
    },
    validate_update,
    warnings: warnings::of_persistent_volume,
    columns: "Name,Capacity,Access Modes,Reclaim Policy,Status,Claim,StorageClass,VolumeAttributesClass,Reason,Age,+VolumeMode",
    cells,
    ..Row::new("", "PersistentVolume")
};

fn validate_spec(name: &str, spec: &At<'_>, out: &mut FieldErrors) {
    any_access(spec, out);
    capacity(spec, out);
    spec.optional_one_of("persistentVolumeReclaimPolicy", &["Delete", "Recycle", "Retain"], out);
    let affinity = spec.get("nodeAffinity");
    if affinity.has("required") {
        node_selector(&affinity.get("required"), out);
    } else if affinity.is_set() {
        affinity.missing("required", "must specify required node constraints", out);
    }
    source(name, spec, out);
    no_recycled_root(spec, out);
    spec.form("storageClassName", names::dns1123_subdomain, out);
    spec.optional_one_of("volumeMode", &["Block", "Filesystem"], out);
    if spec.has("volumeAttributesClassName") {
        if spec.text("volumeAttributesClassName").is_empty() {
            spec.missing("volumeAttributesClassName", "an empty string is disallowed", out);
        }
        spec.form("volumeAttributesClassName", names::dns1123_subdomain, out);
        if !spec.has("csi") {
            spec.missing("csi", "has to be specified when using volumeAttributesClassName", out);
        }
    }
}

/// Faults of the spec of a volume that is no object of its own, but part of an attachment.
pub(crate) fn validate_inline(spec: &At<'_>, out: &mut FieldErrors) {
    const WHERE: &str = "in the context of inline volumes";
    let unwanted =
        |name: &str, out: &mut FieldErrors| spec.forbidden(name, &format!("may not be specified {WHERE}"), out);
    if spec.has("claimRef") {
        unwanted("claimRef", out);
    }
    if spec.value.count("capacity") > 0 {
        unwanted("capacity", out);
    }
    if !spec.has("csi") {
        spec.missing("csi", &format!("has to be specified {WHERE}"), out);
    }
    any_access(spec, out);
    if !matches!(spec.text("persistentVolumeReclaimPolicy"), "" | "Retain") {
        spec.forbidden("persistentVolumeReclaimPolicy", &format!("may only be Retain {WHERE}"), out);
    }
    if spec.has("nodeAffinity") {
        unwanted("nodeAffinity", out);
    }
    source("", spec, out);
    no_recycled_root(spec, out);
    if !spec.text("storageClassName").is_empty() {
        unwanted("storageClassName", out);
    }
    if spec.has("volumeMode") && spec.text("volumeMode") != "Filesystem" {
        let why = format!("may not specify volumeMode other than Filesystem {WHERE}");
        spec.forbidden("volumeMode", &why, out);
    }
}

fn any_access(spec: &At<'_>, out: &mut FieldErrors) {
    if spec.value.count("accessModes") == 0 {
        spec.missing("accessModes", "", out);
    }
    access_modes(spec, out);
}

fn no_recycled_root(spec: &At<'_>, out: &mut FieldErrors) {
    let recycled = spec.text("persistentVolumeReclaimPolicy") == "Recycle";
    let path = spec.get("hostPath");
    if recycled && path.is_set() && path.text("path").trim_matches('/').is_empty() {
        let why = "may not be 'recycle' for a hostPath mount of '/'";
        spec.forbidden("persistentVolumeReclaimPolicy", why, out);
    }
}

fn capacity(spec: &At<'_>, out: &mut FieldErrors) {
    let capacity = spec.value.get_or_null("capacity");
    if spec.value.count("capacity") == 0 {
        spec.missing("capacity", "", out);
    }
    if !capacity.has("storage") || spec.value.count("capacity") > 1 {
        let shown = if capacity.is_null() { Value::Object(Map::new()) } else { capacity.clone() };
        out.push(FieldError::not_supported(&spec.path("capacity"), shown, &["storage"]));
    }
    for (_, amount) in spec.entries("capacity") {
        match Quantity::from_json(amount.value) {
            Ok(size) if size.is_negative() => {
                let why = "must be a valid resource quantity";
                out.push(FieldError::invalid(&amount.path, size.value(), why));
                amount.wrong("must be greater than zero", out);
            }
            Ok(size) if size.is_zero() => amount.wrong("must be greater than zero", out),
            _ => {}
        }
    }
}

fn source(name: &str, spec: &At<'_>, out: &mut FieldErrors) {
    let mut given = SOURCES.iter().filter(|name| spec.has(name));
    let Some(first) = given.next() else {
        return out.push(FieldError::required(&spec.path, "must specify a volume type"));
    };
    // Upstream counts a flexVolume, but does not mind one that comes after others.
    for extra in given.filter(|name| **name != "flexVolume") {
        let extra = if *extra == "cephfs" { "cephFS" } else { extra };
        spec.forbidden(extra, "may not specify more than 1 volume type", out);
    }
    let at = spec.get(first);
    match *first {
        "local" => {
            if at.require("path", out) {
                podspec::no_backsteps(&at.get("path"), out);
            }
            if !spec.has("nodeAffinity") {
                spec.missing("nodeAffinity", "Local volume requires node affinity", out);
            }
        }
        "csi" => {
            at.driver_name("driver", out);
            at.require("volumeHandle", out);
            let secrets = [
                "controllerPublishSecretRef",
                "controllerExpandSecretRef",
                "nodePublishSecretRef",
                "nodeExpandSecretRef",
            ];
            for secret in secrets.into_iter().filter(|name| at.has(name)) {
                at.get(secret).require_form("name", names::dns1123_subdomain, out);
                at.get(secret).require_form("namespace", names::dns1123_label, out);
            }
        }
        _ => podspec::volume_source(Holder::Persistent(name), spec, first, out),
    }
}

fn validate_update(new: &Value, old: &Value, out: &mut FieldErrors) {
    let (spec, before) = (At::member(new, "spec"), old.get_or_null("spec"));
    let same = |name: &&&str| {
        let (mut now, then) = (spec.value.get_or_null(name).clone(), before.get_or_null(name));
        if !then.has("controllerExpandSecretRef") {
            now.drop_member("controllerExpandSecretRef");
        }
        now == *then
    };
    if !SOURCES.iter().all(|name| same(&name)) {
        let why = "spec.persistentvolumesource is immutable after creation";
        spec.forbidden("persistentvolumesource", why, out);
    }
    if spec.value.get_or_null("volumeMode") != before.get_or_null("volumeMode") {
        let path = skiff_meta::field::FieldPath::new("volumeMode");
        out.push(FieldError::invalid(&path, spec.value.get_or_null("volumeMode").clone(), "field is immutable"));
    }
    if before.has("nodeAffinity") && spec.value.get_or_null("nodeAffinity") != before.get_or_null("nodeAffinity") {
        let path = skiff_meta::field::FieldPath::new("nodeAffinity");
        let why = "field is immutable, except for updating from beta label to GA";
        out.push(FieldError::invalid(&path, spec.value.get_or_null("nodeAffinity").clone(), why));
    }
    if before.has("volumeAttributesClassName") && !spec.has("volumeAttributesClassName") {
        spec.forbidden("volumeAttributesClassName", "update from non-nil value to nil is forbidden", out);
    }
}

fn cells(volume: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (volume.get_or_null("spec"), volume.get_or_null("status"));
    let claim = spec.get_or_null("claimRef");
    let going = volume.at("metadata").has("deletionTimestamp");
    let size = match spec.at("capacity").text("storage") {
        "" => "0",
        size => size,
    };
    vec![
        name_cell(volume),
        size.into(),
        short_modes(spec).into(),
        spec.text("persistentVolumeReclaimPolicy").into(),
        if going { "Terminating".into() } else { status.text("phase").into() },
        if claim.is_null() { "".into() } else { format!("{}/{}", claim.text("namespace"), claim.text("name")).into() },
        class(volume).into(),
        or_unset(spec.text("volumeAttributesClassName")).into(),
        status.text("reason").into(),
        age::cell(volume, now),
        or_unset(spec.text("volumeMode")).into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Part, Rules};

    fn volume() -> Value {
        let mut volume = json!({"metadata": {"name": "v"}, "spec": {"accessModes": ["ReadWriteOnce"],
            "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/data"}}});
        PERSISTENT_VOLUME.default(&mut volume);
        volume
    }

    #[test]
    fn faults() {
        assert_eq!(PERSISTENT_VOLUME.validate_create(&volume()), []);
        for (name, value, expected) in [
            ("accessModes", json!([]), "spec.accessModes: Required value"),
            ("capacity", json!({"storage": "0"}), "spec.capacity[storage]: Invalid value: \"0\": must be greater than"),
            (
                "capacity",
                json!({"cpu": "1"}),
                "spec.capacity: Unsupported value: {\"cpu\":\"1\"}: supported values: \"st",
            ),
            ("hostPath", Value::Null, "spec: Required value: must specify a volume type"),
            ("local", json!({"path": "/x"}), "spec.local: Forbidden: may not specify more than 1 volume type"),
            ("persistentVolumeReclaimPolicy", json!("Keep"), "spec.persistentVolumeReclaimPolicy: Unsupported value"),
            ("nodeAffinity", json!({}), "spec.nodeAffinity.required: Required value: must specify required node"),
        ] {
            let mut volume = volume();
            volume["spec"][name] = value;
            let found: Vec<_> = PERSISTENT_VOLUME.validate_create(&volume).iter().map(ToString::to_string).collect();
            assert!(found.iter().any(|f| f.starts_with(expected)), "{name}: {found:?}");
        }
    }

    #[test]
    fn upstream_minds_no_flex_volume_beside_another() {
        let mut volume = volume();
        volume["spec"]["flexVolume"] = json!({"driver": "example.com/x"});
        assert_eq!(PERSISTENT_VOLUME.validate_create(&volume), []);
    }

    #[test]
    fn what_is_behind_a_volume_stays() {
        let (old, mut new) = (volume(), volume());
        new["spec"]["claimRef"] = json!({"namespace": "n", "name": "c"});
        assert_eq!(PERSISTENT_VOLUME.validate_update(&new, &old, Part::Main), []);
        new["spec"]["hostPath"]["path"] = json!("/other");
        assert_eq!(PERSISTENT_VOLUME.validate_update(&new, &old, Part::Main).len(), 1);
    }

    #[test]
    fn row() {
        let cells = PERSISTENT_VOLUME.cells(&volume(), Timestamp::UNIX_EPOCH);
        assert_eq!(cells[1..8], ["1Gi", "RWO", "Retain", "Pending", "", "", "<unset>"].map(Value::from));
    }
}
