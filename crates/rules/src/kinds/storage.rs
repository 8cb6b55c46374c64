//! Volumes that outlive pods.

use serde_json::{Value, json};

use crate::kind::{AGE, ColumnFacts, KindRules, NAME};
use crate::show::{created, name, or_none};
use crate::tree::{fill, items, object, put, text, without};

const MODE: ColumnFacts = ("VolumeMode", "string", 1, "Whether it holds files or is a bare device");
const ATTRIBUTES: ColumnFacts = ("VolumeAttributesClass", "string", 0, "Class of its attributes");

fn access_modes(value: &Value) -> String {
    let short = |mode: &Value| match text(mode) {
        "ReadWriteOnce" => "RWO",
        "ReadOnlyMany" => "ROX",
        "ReadWriteMany" => "RWX",
        "ReadWriteOncePod" => "RWOP",
        _ => "",
    };
    items(value).iter().map(short).collect::<Vec<_>>().join(",")
}

fn phase(object: &Value) -> Value {
    if object["metadata"]["deletionTimestamp"].is_string() {
        "Terminating".into()
    } else {
        object["status"]["phase"].clone()
    }
}

fn unset(value: &Value) -> Value {
    if text(value).is_empty() { "<unset>".into() } else { value.clone() }
}

pub(crate) static PERSISTENT_VOLUME: KindRules = KindRules {
    default: |volume| {
        let spec = object(volume, "spec");
        fill(spec, "persistentVolumeReclaimPolicy", "Retain");
        fill(spec, "volumeMode", "Filesystem");
    },
    first_status: Some(|| json!({"phase": "Pending"})),
    validate: |at, faults| {
        let spec = at.get("spec");
        spec.get("accessModes").required(faults, "");
        spec.get("capacity").required(faults, "");
        spec.get("persistentVolumeReclaimPolicy").one_of(faults, &["Delete", "Recycle", "Retain"]);
    },
    columns: &[
        NAME,
        ("Capacity", "string", 0, "Its size"),
        ("Access Modes", "string", 0, "How it can be mounted"),
        ("Reclaim Policy", "string", 0, "What becomes of it after its claim"),
        ("Status", "string", 0, "Whether it is bound"),
        ("Claim", "string", 0, "The claim it is bound to"),
        ("StorageClass", "string", 0, "Its class"),
        ATTRIBUTES,
        ("Reason", "string", 0, "Why it failed"),
        AGE,
        MODE,
    ],
    cells: |volume, now| {
        let spec = &volume["spec"];
        let claim = &spec["claimRef"];
        let claim = if claim.is_object() {
            format!("{}/{}", text(&claim["namespace"]), text(&claim["name"]))
        } else {
            String::new()
        };
        vec![
            name(volume),
            spec["capacity"]["storage"].clone(),
            access_modes(&spec["accessModes"]).into(),
            spec["persistentVolumeReclaimPolicy"].clone(),
            phase(volume),
            claim.into(),
            text(&spec["storageClassName"]).into(),
            unset(&spec["volumeAttributesClassName"]),
            text(&volume["status"]["reason"]).into(),
            created(volume, now),
            unset(&spec["volumeMode"]),
        ]
    },
    ..KindRules::new("", "PersistentVolume")
};

/// Fills in a claim; also claims within a StatefulSet.
pub(crate) fn default_claim(claim: &mut Value) {
    fill(object(claim, "spec"), "volumeMode", "Filesystem");
    fill(object(claim, "status"), "phase", "Pending");
}

pub(crate) static PERSISTENT_VOLUME_CLAIM: KindRules = KindRules {
    default: |claim| fill(object(claim, "spec"), "volumeMode", "Filesystem"),
    first_status: Some(|| json!({"phase": "Pending"})),
    validate: |at, faults| {
        let spec = at.get("spec");
        spec.get("accessModes").required(faults, "at least 1 access mode is required");
        spec.walk("resources.requests.storage").required(faults, "");
    },
    validate_change: |new, old, faults| {
        let rest = |value: &Value| {
            let mut spec = value["spec"].clone();
            for free in ["volumeName", "volumeAttributesClassName"] {
                put(&mut spec, free, Value::Null);
            }
            put(&mut spec["resources"], "requests", Value::Null);
            without(&spec, &[])
        };
        if rest(new.value) != rest(old.value) {
            new.get("spec").forbidden(faults, "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims");
        }
    },
    columns: &[
        NAME,
        ("Status", "string", 0, "Whether it is bound"),
        ("Volume", "string", 0, "The volume it is bound to"),
        ("Capacity", "string", 0, "Size of that volume"),
        ("Access Modes", "string", 0, "How it can be mounted"),
        ("StorageClass", "string", 0, "Its class"),
        ATTRIBUTES,
        AGE,
        MODE,
    ],
    cells: |claim, now| {
        let (spec, status) = (&claim["spec"], &claim["status"]);
        let bound = !text(&spec["volumeName"]).is_empty();
        vec![
            name(claim),
            phase(claim),
            text(&spec["volumeName"]).into(),
            if bound { text(&status["capacity"]["storage"]).into() } else { "".into() },
            if bound { access_modes(&status["accessModes"]).into() } else { "".into() },
            text(&spec["storageClassName"]).into(),
            unset(&spec["volumeAttributesClassName"]),
            created(claim, now),
            unset(&spec["volumeMode"]),
        ]
    },
    ..KindRules::new("", "PersistentVolumeClaim")
};

pub(crate) static STORAGE_CLASS: KindRules = KindRules {
    default: |class| {
        fill(class, "reclaimPolicy", "Delete");
        fill(class, "volumeBindingMode", "Immediate");
    },
    validate: |at, faults| {
        at.get("provisioner").required(faults, "");
        at.get("reclaimPolicy").one_of(faults, &["Delete", "Retain"]);
        at.get("volumeBindingMode").one_of(faults, &["Immediate", "WaitForFirstConsumer"]);
    },
    validate_change: |new, old, faults| {
        for field in ["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"] {
            if new.get(field).value != old.get(field).value {
                new.get(field).forbidden(faults, &format!("updates to {field} are forbidden."));
            }
        }
    },
    columns: &[
        NAME,
        ("Provisioner", "string", 0, "Who makes its volumes"),
        ("ReclaimPolicy", "string", 0, "What becomes of volumes after their claims"),
        ("VolumeBindingMode", "string", 0, "When claims are bound"),
        ("AllowVolumeExpansion", "string", 0, "Whether volumes can grow"),
        AGE,
    ],
    cells: |class, now| {
        let default = class["metadata"]["annotations"]["storageclass.kubernetes.io/is-default-class"] == "true";
        let shown =
            if default { format!("{} (default)", text(&class["metadata"]["name"])).into() } else { name(class) };
        vec![
            shown,
            class["provisioner"].clone(),
            or_none(&class["reclaimPolicy"]),
            or_none(&class["volumeBindingMode"]),
            (class["allowVolumeExpansion"] == true).into(),
            created(class, now),
        ]
    },
    ..KindRules::new("storage.k8s.io", "StorageClass")
};
