//! Classes of storage, and what drivers of storage tell.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde_json::{Value, json};
use skiff_meta::field::{FieldError, FieldErrors};
use skiff_meta::{Quantity, names};

use crate::age;
use crate::at::At;
use crate::cells::{NONE, or_none};
use crate::disabled;
use crate::row::{METADATA, Row, name_cell};
use crate::view::{Change, View};
use crate::warnings;

pub(crate) const STORAGE_CLASS: Row = Row {
    default: |class| {
        class.default_to("reclaimPolicy", "Delete");
        class.default_to("volumeBindingMode", "Immediate");
    },
    validate: |class, out| {
        let class = At::root(class);
        driver(&class, "provisioner", out);
        parameters(&class, out);
        if !class.text("reclaimPolicy").is_empty() {
            class.one_of("reclaimPolicy", &["Delete", "Retain"], out);
        }
        class.optional_one_of("volumeBindingMode", &["Immediate", "WaitForFirstConsumer"], out);
        topologies(&class, out);
    },
    validate_update: |new, old, out| {
        for name in ["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"] {
            At::root(new).immutable(name, old, out);
        }
    },
    warnings: warnings::of_storage_class,
    columns: "Name,Provisioner,ReclaimPolicy,VolumeBindingMode,AllowVolumeExpansion,Age",
    cells: |class, now| {
        vec![
            marked_default(
                class,
                &["storageclass.kubernetes.io/", "storageclass.beta.kubernetes.io/"],
                "is-default-class",
            ),
            class.text("provisioner").into(),
            class.get_or_null("reclaimPolicy").as_str().unwrap_or("Delete").into(),
            class.get_or_null("volumeBindingMode").as_str().unwrap_or("Immediate").into(),
            class.flag("allowVolumeExpansion").into(),
            age::cell(class, now),
        ]
    },
    ..Row::new("storage.k8s.io", "StorageClass")
};

pub(crate) const VOLUME_ATTRIBUTES_CLASS: Row = Row {
    validate: |class, out| {
        let class = At::root(class);
        driver(&class, "driverName", out);
        parameters(&class, out);
        if class.value.count("parameters") == 0 {
            class.missing("parameters", "must contain at least one key/value pair", out);
        }
    },
    validate_update: |new, old, out| {
        for name in ["driverName", "parameters"] {
            if new.get_or_null(name) != old.get_or_null(name) {
                At::root(new).forbidden(name, &format!("updates to {name} are forbidden."), out);
            }
        }
    },
    columns: "Name,DriverName,Age",
    cells: |class, now| vec![name_cell(class), class.text("driverName").into(), age::cell(class, now)],
    ..Row::new("storage.k8s.io", "VolumeAttributesClass")
};

pub(crate) const VOLUME_ATTACHMENT: Row = Row {
    status: Some(|| json!({"attached": false})),
    status_keeps: METADATA,
    validate: validate_attachment,
    validate_update: |new, old, out| At::root(new).immutable("spec", old, out),
    columns: "Name,@Attacher,PV,Node,?Attached,Age",
    cells: |object, now| {
        let spec = object.get_or_null("spec");
        vec![
            name_cell(object),
            spec.text("attacher").into(),
            spec.at("source").text("persistentVolumeName").into(),
            spec.text("nodeName").into(),
            object.at("status").flag("attached").into(),
            age::cell(object, now),
        ]
    },
    ..Row::new("storage.k8s.io", "VolumeAttachment")
};

pub(crate) const CSI_NODE: Row = Row {
    validate: |node, out| {
        let spec = At::member(node, "spec");
        let mut seen = BTreeSet::new();
        for driver in spec.items("drivers") {
            node_driver(&driver, out);
            if !seen.insert(driver.text("name")) {
                out.push(FieldError::duplicate(&driver.path("name"), driver.text("name")));
            }
        }
    },
    validate_update: |new, old, out| {
        let comparable = |driver: &Value| {
            let mut driver = driver.clone();
            driver.drop_member("allocatable");
            driver
        };
        let spec = At::member(new, "spec");
        for driver in spec.value.items("drivers") {
            let before = old.at("spec").find("drivers", "name", driver.text("name"));
            if before.is_some_and(|before| comparable(before) != comparable(driver)) {
                out.push(FieldError::invalid(&spec.path("drivers"), comparable(driver), "field is immutable"));
            }
        }
    },
    columns: "Name,#Drivers,Age",
    cells: |node, now| vec![name_cell(node), node.at("spec").count("drivers").into(), age::cell(node, now)],
    ..Row::new("storage.k8s.io", "CSINode")
};

pub(crate) const CSI_DRIVER: Row = Row {
    generation: &["spec"],
    default: |driver| {
        let spec = driver.child("spec");
        spec.default_to("attachRequired", true);
        for name in ["podInfoOnMount", "storageCapacity", "requiresRepublish", "seLinuxMount"] {
            spec.default_to(name, false);
        }
        spec.default_to("fsGroupPolicy", "ReadWriteOnceWithFSType");
        if spec.count("volumeLifecycleModes") == 0 {
            spec.put("volumeLifecycleModes", json!(["Persistent"]));
        }
    },
    // Unlike other kinds, this one begins without a generation.
    prepare_create: |driver| driver.child("metadata").drop_member("generation"),
    validate: validate_driver,
    validate_update: |new, old, out| {
        let (spec, before) = (At::member(new, "spec"), old.get_or_null("spec"));
        // Upstream tells it under another name.
        let told = spec.path("attachedRequired");
        let (now, was) = (spec.value.get_or_null("attachRequired"), before.get_or_null("attachRequired"));
        crate::metadata::immutable(now, was, &told, out);
        spec.immutable("volumeLifecycleModes", before, out);
    },
    disabled: disabled::CSI_DRIVER,
    warnings: warnings::of_csi_driver,
    columns: "Name,?AttachRequired,?PodInfoOnMount,?StorageCapacity,TokenRequests,?RequiresRepublish,Modes,Age",
    cells: driver_cells,
    ..Row::new("storage.k8s.io", "CSIDriver")
};

pub(crate) const CSI_STORAGE_CAPACITY: Row = Row {
    validate: |capacity, out| {
        let at = At::root(capacity);
        at.get("nodeTopology").label_selector(out);
        at.faults("storageClassName", &names::dns1123_subdomain(at.text("storageClassName")), out);
        if Quantity::from_json(capacity.get_or_null("capacity")).is_ok_and(Quantity::is_negative) {
            at.invalid("capacity", "must be greater than or equal to 0", out);
        }
    },
    validate_update: |new, old, out| {
        At::root(new).immutable("nodeTopology", old, out);
        At::root(new).immutable("storageClassName", old, out);
    },
    warnings: warnings::of_csi_storage_capacity,
    ..Row::new("storage.k8s.io", "CSIStorageCapacity")
};

/// The name, with a word added when an annotation makes the object the default of its kind.
pub(super) fn marked_default(object: &Value, prefixes: &[&str], annotation: &str) -> Value {
    let annotations = object.at("metadata.annotations");
    let default = prefixes.iter().any(|prefix| annotations.text(&format!("{prefix}{annotation}")) == "true");
    let name = object.at("metadata").text("name");
    if default { format!("{name} (default)").into() } else { name.into() }
}

fn driver(at: &At<'_>, name: &str, out: &mut FieldErrors) {
    if at.require(name, out) {
        let lower = at.text(name).to_lowercase();
        out.extend(names::qualified_name(&lower).iter().map(|why| FieldError::invalid(&at.path(name), &*lower, why)));
    }
}

fn parameters(at: &At<'_>, out: &mut FieldErrors) {
    const MOST: usize = 512;
    const LARGEST: usize = 256 << 10;
    if at.value.count("parameters") > MOST {
        return out.push(FieldError::too_long(&at.path("parameters"), MOST));
    }
    let mut size = 0;
    for (key, value) in at.value.entries("parameters") {
        if key.is_empty() {
            out.push(FieldError::invalid(&at.path("parameters"), key, "field can not be empty."));
        }
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > LARGEST {
        out.push(FieldError::too_long(&at.path("parameters"), LARGEST));
    }
}

fn topologies(class: &At<'_>, out: &mut FieldErrors) {
    let mut terms = Vec::new();
    for term in class.items("allowedTopologies") {
        for expression in term.items("matchLabelExpressions") {
            if expression.value.count("values") == 0 {
                expression.missing("values", "", out);
            }
            let mut seen = BTreeSet::new();
            for value in expression.items("values") {
                let text = value.value.as_str().unwrap_or_default();
                if !seen.insert(text) {
                    out.push(FieldError::duplicate(&value.path, text));
                }
            }
            expression.faults("key", &names::qualified_name(expression.text("key")), out);
        }
        term.unique("matchLabelExpressions", "key", out);
        let expressions = term.value.items("matchLabelExpressions");
        let keys: BTreeMap<_, BTreeSet<_>> =
            expressions.iter().map(|e| (e.text("key"), e.texts("values").collect())).collect();
        // What selects nothing is one with every other, as upstream compares them.
        if keys.is_empty() || terms.contains(&keys) {
            out.push(FieldError::duplicate(&term.path("matchLabelExpressions"), ""));
        }
        terms.push(keys);
    }
}

fn validate_attachment(object: &Value, out: &mut FieldErrors) {
    let spec = At::member(object, "spec");
    spec.driver_name("attacher", out);
    let source = spec.get("source");
    let why = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    match (source.has("inlineVolumeSpec"), source.has("persistentVolumeName")) {
        (false, false) => out.push(FieldError::required(&source.path, why)),
        (true, true) => out.push(FieldError::forbidden(&source.path, why)),
        (false, true) if source.text("persistentVolumeName").is_empty() => {
            source.missing("persistentVolumeName", "must specify non empty persistentVolumeName", out);
        }
        (true, false) => super::persistent_volume::validate_inline(&source.get("inlineVolumeSpec"), out),
        _ => {}
    }
    spec.faults("nodeName", &names::dns1123_subdomain(spec.text("nodeName")), out);
    source.form_if_set("persistentVolumeName", names::dns1123_subdomain, out);
}

fn node_driver(driver: &At<'_>, out: &mut FieldErrors) {
    driver.driver_name("name", out);
    if driver.require("nodeID", out) && driver.text("nodeID").len() > 256 {
        driver.invalid("nodeID", "must be 256 characters or less", out);
    }
    driver.get("allocatable").not_negative("count", out);
    let mut seen = BTreeSet::new();
    for key in driver.value.texts("topologyKeys") {
        if key.is_empty() {
            out.push(FieldError::required(&driver.path, key));
        }
        if !seen.insert(key) {
            out.push(FieldError::duplicate(&driver.path, key));
        }
        out.extend(names::qualified_name(key).iter().map(|why| FieldError::invalid(&driver.path, key, why)));
    }
}

fn validate_driver(object: &Value, out: &mut FieldErrors) {
    let spec = At::member(object, "spec");
    spec.optional_one_of("fsGroupPolicy", &["File", "None", "ReadWriteOnceWithFSType"], out);
    let mut audiences = BTreeSet::new();
    for request in spec.items("tokenRequests") {
        if !audiences.insert(request.text("audience")) {
            out.push(FieldError::duplicate(&request.path("audience"), request.text("audience")));
            continue;
        }
        match request.int("expirationSeconds") {
            Some(..600) => {
                request.invalid("expirationSeconds", "may not specify a duration less than 10 minutes", out);
            }
            Some(seconds) if seconds > 1 << 32 => {
                request.invalid("expirationSeconds", "may not specify a duration larger than 2^32 seconds", out);
            }
            _ => {}
        }
    }
    for mode in spec.value.texts("volumeLifecycleModes").filter(|m| !matches!(*m, "Persistent" | "Ephemeral")) {
        let path = spec.path("volumeLifecycleModes");
        out.push(FieldError::not_supported(&path, mode, &["Ephemeral", "Persistent"]));
    }
    if spec.int("nodeAllocatableUpdatePeriodSeconds").is_some_and(|seconds| seconds < 10) {
        let why = "must be greater than or equal to 10 seconds";
        spec.invalid("nodeAllocatableUpdatePeriodSeconds", why, out);
    }
    if spec.has("serviceAccountTokenInSecrets") && spec.value.count("tokenRequests") == 0 {
        let why = "serviceAccountTokenInSecrets is set but no tokenRequests are specified";
        spec.invalid("serviceAccountTokenInSecrets", why, out);
    }
}

fn driver_cells(object: &Value, now: Timestamp) -> Vec<Value> {
    let spec = object.get_or_null("spec");
    let modes: Vec<&str> = spec.texts("volumeLifecycleModes").collect();
    let audiences: Vec<&str> = spec.items("tokenRequests").iter().map(|request| request.text("audience")).collect();
    vec![
        name_cell(object),
        spec.get_or_null("attachRequired").as_bool().unwrap_or(true).into(),
        spec.flag("podInfoOnMount").into(),
        spec.flag("storageCapacity").into(),
        if spec.has("tokenRequests") { audiences.join(",").into() } else { "<unset>".into() },
        spec.flag("requiresRepublish").into(),
        if modes.is_empty() { NONE.into() } else { or_none(&modes.join(",")).into() },
        age::cell(object, now),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Part, Rules};

    fn texts(faults: &FieldErrors) -> Vec<String> {
        faults.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn classes() {
        let mut class = json!({"metadata": {"name": "fast", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
            "provisioner": "example.com/disk"});
        STORAGE_CLASS.default(&mut class);
        assert_eq!(STORAGE_CLASS.validate_create(&class), []);
        let cells = STORAGE_CLASS.cells(&class, Timestamp::UNIX_EPOCH);
        assert_eq!(cells[..4], ["fast (default)", "example.com/disk", "Delete", "Immediate"].map(Value::from));
        let mut other = class.clone();
        other["provisioner"] = json!("");
        other["volumeBindingMode"] = json!("Later");
        assert_eq!(
            texts(&STORAGE_CLASS.validate_create(&other)),
            [
                "provisioner: Required value",
                "volumeBindingMode: Unsupported value: \"Later\": supported values: \"Immediate\", \"WaitForFirstConsumer\""
            ]
        );
        assert_eq!(STORAGE_CLASS.validate_update(&other, &class, Part::Main).len(), 4);
    }

    #[test]
    fn drivers() {
        let mut driver = json!({"metadata": {"name": "d.example.com"}, "spec": {"tokenRequests": [{"audience": "a"}, {"audience": "a"}]}});
        CSI_DRIVER.default(&mut driver);
        CSI_DRIVER.prepare_create(&mut driver);
        assert_eq!(driver["metadata"].get("generation"), None);
        assert_eq!(
            texts(&CSI_DRIVER.validate_create(&driver)),
            ["spec.tokenRequests[1].audience: Duplicate value: \"a\""]
        );
        let mut changed = driver.clone();
        changed["spec"]["requiresRepublish"] = json!(true);
        CSI_DRIVER.prepare_update(&mut changed, &driver, Part::Main);
        assert_eq!(changed["metadata"]["generation"], 1);
        let row = CSI_DRIVER.cells(&driver, Timestamp::UNIX_EPOCH);
        assert_eq!(row[1..5], [json!(true), json!(false), json!(false), json!("a,a")]);
        assert_eq!(row[6], "Persistent");
    }

    #[test]
    fn attachments_and_nodes() {
        let bad = json!({"spec": {"attacher": "x.y", "source": {}, "nodeName": "n"}});
        assert_eq!(
            texts(&VOLUME_ATTACHMENT.validate_create(&bad)),
            ["spec.source: Required value: must specify exactly one of inlineVolumeSpec and persistentVolumeName"]
        );
        let inline = json!({"spec": {"attacher": "x.y", "nodeName": "n", "source": {"inlineVolumeSpec": {
            "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "nfs": {"server": "s", "path": "/"}}}}});
        assert_eq!(
            texts(&VOLUME_ATTACHMENT.validate_create(&inline)),
            [
                "spec.source.inlineVolumeSpec.capacity: Forbidden: may not be specified in the context of inline volumes",
                "spec.source.inlineVolumeSpec.csi: Required value: has to be specified in the context of inline volumes",
            ]
        );
        let node = |id: &str| json!({"spec": {"drivers": [{"name": "x.y", "nodeID": id}]}});
        assert_eq!(CSI_NODE.validate_create(&node("n")), []);
        assert_eq!(CSI_NODE.validate_update(&node("m"), &node("n"), Part::Main).len(), 1);
    }
}
