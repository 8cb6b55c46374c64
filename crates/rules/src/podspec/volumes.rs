//! Volumes and their mounts.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use skiff_meta::Quantity;
use skiff_meta::field::{FieldError, FieldErrors, FieldPath};
use skiff_meta::names;

use super::remote::{self, Holder};
use super::{Context, env};
use crate::at::At;
use crate::view::View;

const MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";
const HOST_PATH_TYPES: &[&str] =
    &["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];

/// Sound volumes by name.
pub(super) type Volumes<'v> = BTreeMap<&'v str, &'v Value>;

/// Faults of the pod's volumes; returns those without.
pub(super) fn validate<'v>(spec: &At<'v>, context: Context<'_>, out: &mut FieldErrors) -> Volumes<'v> {
    let mut volumes = Volumes::new();
    let pod = context.pod.map_or("", |metadata| metadata.text("name"));
    let claims_made: BTreeSet<String> = spec
        .value
        .items("volumes")
        .iter()
        .filter(|v| !pod.is_empty() && v.has("ephemeral"))
        .map(|v| format!("{pod}-{}", v.text("name")))
        .collect();
    for volume in spec.items("volumes") {
        let before = out.len();
        source(&volume, out);
        volume.require_form("name", names::dns1123_label, out);
        if volumes.contains_key(volume.text("name")) {
            out.push(FieldError::duplicate(&volume.path("name"), volume.text("name")));
        }
        if out.len() == before {
            volumes.insert(volume.text("name"), volume.value);
        }
        let claim = volume.get("persistentVolumeClaim");
        if claims_made.contains(claim.text("claimName")) {
            claim.invalid("claimName", "must not reference a PVC that gets created for an ephemeral volume", out);
        }
    }
    volumes
}

/// The order in which upstream looks at sources, and what it calls those it names otherwise when they are too many.
const SOURCES: &[(&str, &str)] = &[
    ("emptyDir", ""),
    ("hostPath", ""),
    ("gitRepo", ""),
    ("gcePersistentDisk", ""),
    ("awsElasticBlockStore", ""),
    ("secret", ""),
    ("nfs", ""),
    ("iscsi", ""),
    ("glusterfs", ""),
    ("flocker", ""),
    ("persistentVolumeClaim", ""),
    ("rbd", ""),
    ("cinder", ""),
    ("cephfs", "cephFS"),
    ("quobyte", ""),
    ("downwardAPI", "downwarAPI"),
    ("fc", ""),
    ("flexVolume", ""),
    ("configMap", ""),
    ("azureFile", ""),
    ("vsphereVolume", ""),
    ("photonPersistentDisk", ""),
    ("portworxVolume", ""),
    ("azureDisk", ""),
    ("storageos", ""),
    ("projected", ""),
    ("scaleIO", ""),
    ("csi", ""),
    ("ephemeral", ""),
    ("image", ""),
];

fn source(volume: &At<'_>, out: &mut FieldErrors) {
    let mut sources = SOURCES.iter().filter(|(name, _)| volume.has(name));
    let Some((first, _)) = sources.next() else {
        return out.push(FieldError::required(&volume.path, "must specify a volume type"));
    };
    for (extra, told) in sources {
        volume.forbidden(if told.is_empty() { extra } else { told }, "may not specify more than 1 volume type", out);
    }
    volume_source(Holder::Pod, volume, first, out);
}

/// Faults of the source of the kind `kind` of a volume, or of a persistent volume's spec.
pub(crate) fn volume_source(of: Holder<'_>, holder: &At<'_>, kind: &str, out: &mut FieldErrors) {
    let at = holder.get(kind);
    match kind {
        "emptyDir" if Quantity::from_json(at.value.get_or_null("sizeLimit")).is_ok_and(Quantity::is_negative) => {
            at.forbidden("sizeLimit", "SizeLimit field must be a valid resource quantity", out);
        }
        "hostPath" => host_path(&at, out),
        "secret" => {
            at.require("secretName", out);
            mode(&at, "defaultMode", out);
            keys(&at, out);
        }
        "configMap" => {
            at.require("name", out);
            mode(&at, "defaultMode", out);
            keys(&at, out);
        }
        "downwardAPI" => {
            mode(&at, "defaultMode", out);
            at.items("items").for_each(|file| downward_file(&file, out));
        }
        "projected" => projected(&at, out),
        "persistentVolumeClaim" => drop(at.require("claimName", out)),
        "nfs" => {
            at.require("server", out);
            at.require("path", out);
            if !at.text("path").starts_with('/') {
                at.invalid("path", "must be an absolute path", out);
            }
        }
        "csi" => {
            at.require("driver", out);
            if at.has("nodePublishSecretRef") {
                at.get("nodePublishSecretRef").require("name", out);
            }
        }
        "ephemeral" if !at.has("volumeClaimTemplate") => at.missing("volumeClaimTemplate", "", out),
        "image" => {
            at.require("reference", out);
            at.one_of("pullPolicy", &["Always", "IfNotPresent", "Never"], out);
        }
        _ => remote::validate(of, holder, kind, out),
    }
}

fn host_path(at: &At<'_>, out: &mut FieldErrors) {
    if at.require("path", out) {
        no_backsteps(&at.get("path"), out);
        at.optional_one_of("type", HOST_PATH_TYPES, out);
    }
}

fn mode(at: &At<'_>, field: &str, out: &mut FieldErrors) {
    if at.int(field).is_some_and(|mode| !(0..=0o777).contains(&mode)) {
        at.invalid(field, MODE, out);
    }
}

fn keys(at: &At<'_>, out: &mut FieldErrors) {
    for item in at.items("items") {
        key_to_path(&item, out);
    }
}

fn key_to_path(item: &At<'_>, out: &mut FieldErrors) {
    item.require("key", out);
    item.require("path", out);
    non_reserved_path(&item.get("path"), out);
    mode(item, "mode", out);
}

fn downward_file(file: &At<'_>, out: &mut FieldErrors) {
    file.require("path", out);
    non_reserved_path(&file.get("path"), out);
    match (file.has("fieldRef"), file.has("resourceFieldRef")) {
        (true, true) => {
            let why = "fieldRef and resourceFieldRef can not be specified simultaneously";
            out.push(FieldError::invalid(&file.path, "resource", why));
        }
        (true, false) => env::field_ref(&file.get("fieldRef"), true, out),
        (false, true) => env::resource_ref(&file.get("resourceFieldRef"), true, out),
        (false, false) => {
            out.push(FieldError::required(&file.path, "one of fieldRef and resourceFieldRef is required"));
        }
    }
    mode(file, "mode", out);
}

fn projected(at: &At<'_>, out: &mut FieldErrors) {
    mode(at, "defaultMode", out);
    let mut paths = BTreeSet::new();
    let mut claim = |path: &str, shown: &str, out: &mut FieldErrors| {
        if !path.is_empty() && !paths.insert(path.to_owned()) {
            out.push(FieldError::invalid(&at.path, shown, "conflicting duplicate paths"));
        }
    };
    for source in at.items("sources") {
        let kinds =
            ["secret", "configMap", "downwardAPI", "serviceAccountToken", "clusterTrustBundle", "podCertificate"];
        for kind in ["secret", "configMap"] {
            let part = source.get(kind);
            if part.is_set() {
                part.require("name", out);
            }
            for item in part.items("items") {
                key_to_path(&item, out);
                claim(item.text("path"), part.text("name"), out);
            }
        }
        let downward = source.get("downwardAPI");
        for file in downward.items("items") {
            // Upstream leaves out which of them.
            downward_file(&At { path: downward.path.clone(), ..file.clone() }, out);
            claim(file.text("path"), file.text("path"), out);
        }
        let token = source.get("serviceAccountToken");
        if token.is_set() {
            service_account_token(&token, &at.path, out);
        }
        if kinds.iter().filter(|kind| source.has(kind)).count() > 1 {
            out.push(FieldError::forbidden(&source.path, "may not specify more than 1 volume type per source"));
        }
    }
}

fn service_account_token(token: &At<'_>, projected: &FieldPath, out: &mut FieldErrors) {
    let seconds = token.int("expirationSeconds").unwrap_or_default();
    if seconds < 600 {
        token.invalid("expirationSeconds", "may not specify a duration less than 10 minutes", out);
    }
    if seconds > 1 << 32 {
        token.invalid("expirationSeconds", "may not specify a duration larger than 2^32 seconds", out);
    }
    let path = At { value: token.value.get_or_null("path"), path: projected.child("path") };
    if token.text("path").is_empty() {
        out.push(FieldError::required(&path.path, ""));
    } else {
        non_reserved_path(&path, out);
    }
}

/// The path here must not lead upwards.
pub(crate) fn no_backsteps(at: &At<'_>, out: &mut FieldErrors) {
    if at.value.as_str().is_some_and(|path| path.split('/').any(|step| step == "..")) {
        at.wrong("must not contain '..'", out);
    }
}

/// The path here must lead downwards.
pub(super) fn descending_path(at: &At<'_>, out: &mut FieldErrors) {
    if at.value.as_str().is_some_and(|path| path.starts_with('/')) {
        at.wrong("must be a relative path", out);
    }
    no_backsteps(at, out);
}

fn non_reserved_path(at: &At<'_>, out: &mut FieldErrors) {
    descending_path(at, out);
    let path = at.value.as_str().unwrap_or_default();
    if path.starts_with("..") && !path.starts_with("../") && path != ".." {
        at.wrong("must not start with '..'", out);
    }
}

/// Faults of a container's mounts and devices.
pub(super) fn mounts(container: &At<'_>, volumes: &Volumes<'_>, out: &mut FieldErrors) {
    let all = |list: &str, field: &str| container.value.items(list).iter().map(|m| m.text(field).to_owned()).collect();
    let device_names: BTreeSet<String> = all("volumeDevices", "name");
    let device_paths: BTreeSet<String> = all("volumeDevices", "devicePath");
    let mut seen = BTreeSet::new();
    for mount in container.items("volumeMounts") {
        let (name, path) = (mount.text("name"), mount.text("mountPath"));
        mount.require("name", out);
        if !volumes.contains_key(name) {
            out.push(FieldError::not_found(&mount.path("name"), name));
        }
        mount.require("mountPath", out);
        if !seen.insert(path) {
            mount.invalid("mountPath", "must be unique", out);
        }
        if device_names.contains(name) {
            mount.invalid("name", "must not already exist in volumeDevices", out);
        }
        if device_paths.contains(path) {
            mount.invalid("mountPath", "must not already exist as a path in volumeDevices", out);
        }
        mount_options(container, &mount, out);
    }
    devices(container, volumes, out);
}

fn mount_options(container: &At<'_>, mount: &At<'_>, out: &mut FieldErrors) {
    let list = container.path("volumeMounts");
    for field in ["subPath", "subPathExpr"] {
        let sub_path = At { value: mount.value.get_or_null(field), path: list.child(field) };
        descending_path(&sub_path, out);
    }
    if !mount.text("subPath").is_empty() && !mount.text("subPathExpr").is_empty() {
        mount.invalid("subPathExpr", "subPathExpr and subPath are mutually exclusive", out);
    }
    let propagation = mount.text("mountPropagation");
    let supported = &["Bidirectional", "HostToContainer", "None"];
    let path = list.child("mountPropagation");
    if mount.has("mountPropagation") && !supported.contains(&propagation) {
        out.push(FieldError::not_supported(&path, propagation, supported));
    }
    if propagation == "Bidirectional" && !container.get("securityContext").flag("privileged") {
        let why = "Bidirectional mount propagation is available only to privileged containers";
        out.push(FieldError::forbidden(&path, why));
    }
    let path = list.child("recursiveReadOnly");
    match mount.text("recursiveReadOnly") {
        "Enabled" | "IfPossible" if !mount.flag("readOnly") => {
            out.push(FieldError::forbidden(&path, "may only be specified when readOnly is true"));
        }
        "Disabled" | "Enabled" | "IfPossible" => {}
        _ if !mount.has("recursiveReadOnly") => {}
        other => out.push(FieldError::not_supported(&path, other, &["Disabled", "Enabled", "IfPossible"])),
    }
}

fn devices(container: &At<'_>, volumes: &Volumes<'_>, out: &mut FieldErrors) {
    let (mut names, mut paths) = (BTreeSet::new(), BTreeSet::new());
    for device in container.items("volumeDevices") {
        let (name, path) = (device.text("name"), device.text("devicePath"));
        device.require("name", out);
        if !name.is_empty() && !names.insert(name) {
            device.invalid("name", "must be unique", out);
        }
        match volumes.get(name) {
            Some(volume) if volume.has("persistentVolumeClaim") || volume.has("ephemeral") => {}
            Some(_) => {
                let why = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                device.invalid("name", why, out);
            }
            None => out.push(FieldError::not_found(&device.path("name"), name)),
        }
        device.require("devicePath", out);
        if path.split('/').any(|step| step == "..") {
            device.invalid("devicePath", "can not contain backsteps ('..')", out);
        } else if !paths.insert(path) {
            device.invalid("devicePath", "must be unique", out);
        }
    }
}
