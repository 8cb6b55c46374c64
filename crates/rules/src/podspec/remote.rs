//! Volumes that lie elsewhere: on storage networks, in clouds, behind drivers. Most are served by CSI drivers by now and
//! have the rules they always had (`pkg/apis/core/validation/validation.go`).

use serde_json::Value;
use skiff_meta::field::{FieldError, FieldErrors};
use skiff_meta::names;

use crate::at::At;
use crate::view::View;

/// What holds a source. Persistent volumes belong to no namespace, and name that of what they refer to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holder<'v> {
    /// A volume of a pod.
    Pod,
    /// A persistent volume of this name.
    Persistent(&'v str),
}

/// What each sort of source must name.
const REQUIRED: &[(&str, &[&str])] = &[
    ("awsElasticBlockStore", &["volumeID"]),
    ("azureDisk", &["diskName", "diskURI"]),
    ("azureFile", &["secretName", "shareName"]),
    ("cephfs", &["monitors"]),
    ("cinder", &["volumeID"]),
    ("flexVolume", &["driver"]),
    ("gcePersistentDisk", &["pdName"]),
    ("gitRepo", &["repository"]),
    ("glusterfs", &["endpoints", "path"]),
    ("photonPersistentDisk", &["pdID"]),
    ("portworxVolume", &["volumeID"]),
    ("rbd", &["monitors", "image"]),
    ("scaleIO", &["gateway", "system", "volumeName"]),
    ("storageos", &["volumeName"]),
    ("vsphereVolume", &["volumePath"]),
];

const MANAGED_DISK: &str =
    "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}";
const BLOB_DISK: &str = "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd";

/// Faults of the source of the kind `kind` that `holder` has.
pub(super) fn validate(of: Holder<'_>, holder: &At<'_>, kind: &str, out: &mut FieldErrors) {
    let mut at = holder.get(kind);
    if kind == "gcePersistentDisk" {
        // So called in refusals alone.
        at.path = holder.path("persistentDisk");
    }
    let required = REQUIRED.iter().find(|(name, _)| *name == kind).map_or(&[][..], |(_, required)| required);
    for name in required {
        if at.text(name).is_empty() && at.value.count(name) == 0 {
            at.missing(name, "", out);
        }
    }
    match kind {
        "gcePersistentDisk" | "awsElasticBlockStore"
            if at.int("partition").is_some_and(|n| !(0..=255).contains(&n)) =>
        {
            at.invalid("partition", &names::range_fault(1, 255), out);
        }
        "gitRepo" => super::volumes::descending_path(&at.get("directory"), out),
        "iscsi" => iscsi(of, holder, &at, out),
        "fc" => fibre_channel(&at, out),
        "glusterfs" if at.has("endpointsNamespace") => {
            if at.text("endpointsNamespace").is_empty() {
                let why = "if the endpointnamespace is set, it must be a valid namespace name";
                at.invalid("endpointsNamespace", why, out);
            }
            at.form("endpointsNamespace", names::dns1123_label, out);
        }
        "flocker" => flocker(&at, out),
        "quobyte" => quobyte(&at, out),
        "flexVolume" => options(&at, out),
        "azureFile" if at.has("secretNamespace") => drop(at.require("secretNamespace", out)),
        "azureDisk" => azure_disk(&at, out),
        "storageos" => {
            at.form("volumeName", names::dns1123_label, out);
            at.form("volumeNamespace", names::dns1123_label, out);
            secret(of, &at, out);
        }
        "cinder" => secret(of, &at, out),
        _ => {}
    }
}

/// A reference to a secret, where there is one.
fn secret(of: Holder<'_>, at: &At<'_>, out: &mut FieldErrors) {
    let secret = at.get("secretRef");
    if secret.is_set() {
        secret.require("name", out);
        if of != Holder::Pod {
            secret.require("namespace", out);
        }
    }
}

fn iscsi(of: Holder<'_>, holder: &At<'_>, at: &At<'_>, out: &mut FieldErrors) {
    const TOO_LONG: &str = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if \
                            iscsi.initiatorName is specified.";
    let name = if let Holder::Persistent(name) = of { name } else { holder.text("name") };
    let portal = at.text("targetPortal");
    let too_long = at.has("initiatorName") && name.len() + 1 + portal.len() > 64;
    let persistent = of != Holder::Pod;
    at.require("targetPortal", out);
    if too_long && persistent {
        out.push(FieldError::invalid(&at.path("targetportal"), portal, TOO_LONG));
    }
    if at.require("iqn", out) {
        out.extend(
            initiator(at.text("iqn"), persistent).map(|why| FieldError::invalid(&at.path("iqn"), at.text("iqn"), why)),
        );
    }
    at.in_range("lun", 0, 255, out);
    if (at.flag("chapAuthDiscovery") || at.flag("chapAuthSession")) && !at.has("secretRef") {
        at.missing("secretRef", "", out);
    }
    if persistent && at.has("secretRef") {
        at.get("secretRef").require("name", out);
    }
    if at.has("initiatorName") {
        let given = at.text("initiatorName");
        let fault = initiator(given, persistent);
        out.extend(fault.map(|why| FieldError::invalid(&at.path("initiatorname"), given, why)));
    }
    if too_long && !persistent {
        out.push(FieldError::invalid(&holder.path("name"), name, TOO_LONG));
    }
}

/// What is wrong with the name of somebody on a storage network (RFC 3720, in upstream's reading).
fn initiator(name: &str, persistent: bool) -> Option<&'static str> {
    let alphanumeric = |text: &str, length: usize| {
        text.chars().count() == length + 1 && text.chars().skip(1).all(|c| c.is_ascii_alphanumeric())
    };
    let good = match name.get(..3) {
        Some("iqn") => qualified(name),
        Some("eui") => alphanumeric(&name[3..], 16),
        Some("naa") => alphanumeric(&name[3..], 32),
        _ if persistent => false,
        _ => return Some("must be valid format starting with iqn, eui, or naa"),
    };
    (!good).then_some("must be valid format")
}

/// Whether it has `iqn.YEAR-MONTH.DOMAIN:NAME` at its end.
fn qualified(name: &str) -> bool {
    name.match_indices("iqn.").any(|(place, prefix)| {
        let rest = &name[place + prefix.len()..];
        let date = rest.as_bytes().get(..8).is_some_and(|date| {
            let digit = |range: std::ops::Range<usize>| date[range].iter().all(u8::is_ascii_digit);
            digit(0..4) && date[4] == b'-' && digit(5..7) && date[7] == b'.'
        });
        // Neither part of the domain may hold a colon, so that the first one ends it.
        let parts = rest.get(8..).and_then(|rest| rest.split_once(':'));
        date && parts.is_some_and(|(domain, name)| {
            let of_domain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
            let of_name = |c: char| !matches!(c, ',' | ';' | '*' | '&' | '$' | '|') && !c.is_ascii_whitespace();
            !domain.is_empty() && domain.chars().all(of_domain) && !name.is_empty() && name.chars().all(of_name)
        })
    })
}

fn fibre_channel(at: &At<'_>, out: &mut FieldErrors) {
    let (targets, ids) = (at.value.count("targetWWNs") > 0, at.value.count("wwids") > 0);
    if !targets && !ids {
        at.missing("targetWWNs", "must specify either targetWWNs or wwids, but not both", out);
    }
    if targets && ids {
        at.invalid("targetWWNs", "targetWWNs and wwids can not be specified simultaneously", out);
    }
    if targets && !at.has("lun") {
        at.missing("lun", "lun is required if targetWWNs is specified", out);
    } else if targets {
        at.in_range("lun", 0, 255, out);
    }
}

fn flocker(at: &At<'_>, out: &mut FieldErrors) {
    let given = ["datasetName", "datasetUUID"].map(|name| !at.text(name).is_empty());
    match given {
        [false, false] => {
            out.push(FieldError::required(&at.path, "one of datasetName and datasetUUID is required"));
        }
        [true, true] => {
            let why = "datasetName and datasetUUID can not be specified simultaneously";
            out.push(FieldError::invalid(&at.path, "resource", why));
        }
        _ => {}
    }
    if at.text("datasetName").contains('/') {
        at.invalid("datasetName", "must not contain '/'", out);
    }
}

fn quobyte(at: &At<'_>, out: &mut FieldErrors) {
    const PAIRS: &str = "must be a host:port pair or multiple pairs separated by commas";
    let registry = at.text("registry");
    if registry.is_empty() {
        at.missing("registry", PAIRS, out);
    } else if at.text("tenant").len() > 64 {
        at.missing("tenant", "must be a UUID and may not exceed a length of 64 characters", out);
    } else {
        for _ in registry.split(',').filter(|pair| !is_pair(pair)) {
            at.invalid("registry", PAIRS, out);
        }
    }
    at.require("volume", out);
}

/// Whether it is `HOST:PORT`, or `[HOST]:PORT` where the host has colons, as Go's `net.SplitHostPort` reads it.
fn is_pair(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let bare = |text: &str| !text.contains(['[', ']']);
    match host.strip_prefix('[') {
        Some(host) => host.strip_suffix(']').is_some_and(bare) && bare(port),
        None => !host.contains(':') && bare(text),
    }
}

/// Options must not look like Kubernetes' own.
fn options(at: &At<'_>, out: &mut FieldErrors) {
    for (key, option) in at.entries("options") {
        let namespace = key.split_once('/').map_or(key, |(namespace, _)| namespace);
        let namespace = format!(".{}", namespace.to_lowercase());
        if [".kubernetes.io", ".k8s.io"].iter().any(|own| namespace.ends_with(own)) {
            let why = "kubernetes.io and k8s.io namespaces are reserved";
            out.push(FieldError::invalid(&option.path, key, why));
        }
    }
}

fn azure_disk(at: &At<'_>, out: &mut FieldErrors) {
    at.optional_one_of("cachingMode", &["None", "ReadOnly", "ReadWrite"], out);
    at.optional_one_of("kind", &["Dedicated", "Managed", "Shared"], out);
    let (uri, managed) = (at.text("diskURI"), at.text("kind") == "Managed");
    if at.has("kind") {
        let (start, supported) = if managed { ("/subscriptions/", MANAGED_DISK) } else { ("https://", BLOB_DISK) };
        if !uri.starts_with(start) {
            out.push(FieldError::not_supported(&at.path("diskURI"), Value::from(uri), &[supported]));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_source_names_what_it_needs() {
        const IQN: &str = "iqn.2026-01.com.example:disk";
        let long = "1".repeat(60);
        for (kind, source, in_pod, persistent) in [
            ("rbd", json!({"monitors": ["m"]}), "v.rbd.image: Required value", "v.rbd.image: Required value"),
            (
                "cephfs",
                json!({"monitors": []}),
                "v.cephfs.monitors: Required value",
                "v.cephfs.monitors: Required value",
            ),
            (
                "gcePersistentDisk",
                json!({"pdName": "d", "partition": 256}),
                "v.persistentDisk.partition: Invalid value: 256: must be between 1 and 255, inclusive",
                "v.persistentDisk.partition: Invalid value: 256: must be between 1 and 255, inclusive",
            ),
            ("awsElasticBlockStore", json!({"volumeID": "d", "partition": 1}), "", ""),
            (
                "gitRepo",
                json!({"repository": "r", "directory": "/a"}),
                "v.gitRepo.directory: Invalid value: \"/a\": must be a relative path",
                "v.gitRepo.directory: Invalid value: \"/a\": must be a relative path",
            ),
            (
                "cinder",
                json!({"volumeID": "d", "secretRef": {"name": "s"}}),
                "",
                "v.cinder.secretRef.namespace: Required value",
            ),
            ("iscsi", json!({"targetPortal": "10.0.0.1", "iqn": IQN}), "", ""),
            (
                "iscsi",
                json!({"targetPortal": "10.0.0.1", "iqn": "eui.0123456789abcdef", "lun": 256}),
                "v.iscsi.lun: Invalid value: 256: must be between 0 and 255, inclusive",
                "v.iscsi.lun: Invalid value: 256: must be between 0 and 255, inclusive",
            ),
            (
                "iscsi",
                json!({"targetPortal": "p", "iqn": "naa.1"}),
                "v.iscsi.iqn: Invalid value: \"naa.1\": must be valid format",
                "v.iscsi.iqn: Invalid value: \"naa.1\": must be valid format",
            ),
            (
                "iscsi",
                json!({"targetPortal": "p", "iqn": "disk"}),
                "v.iscsi.iqn: Invalid value: \"disk\": must be valid format starting with iqn, eui, or naa",
                "v.iscsi.iqn: Invalid value: \"disk\": must be valid format",
            ),
            (
                "iscsi",
                json!({"targetPortal": "p", "iqn": IQN, "chapAuthSession": true}),
                "v.iscsi.secretRef: Required value",
                "v.iscsi.secretRef: Required value",
            ),
            (
                "iscsi",
                json!({"targetPortal": long, "iqn": IQN, "initiatorName": IQN}),
                "v.name: Invalid value: \"volume\": Total length",
                "v.iscsi.targetportal: Invalid value: \"1111",
            ),
            (
                "fc",
                json!({"targetWWNs": ["w"]}),
                "v.fc.lun: Required value: lun is required",
                "v.fc.lun: Required value: lun is required",
            ),
            ("fc", json!({"wwids": ["w"]}), "", ""),
            (
                "flocker",
                json!({}),
                "v.flocker: Required value: one of datasetName",
                "v.flocker: Required value: one of datasetName",
            ),
            ("quobyte", json!({"registry": "a:1,[::1]:2", "volume": "v"}), "", ""),
            (
                "quobyte",
                json!({"registry": "a:1,b", "volume": "v"}),
                "v.quobyte.registry: Invalid value: \"a:1,b\"",
                "v.quobyte.registry: Invalid value: \"a:1,b\"",
            ),
            (
                "flexVolume",
                json!({"driver": "d", "options": {"a.k8s.io/b": "c"}}),
                "v.flexVolume.options[a.k8s.io/b]: Invalid value",
                "v.flexVolume.options[a.k8s.io/b]: Invalid value",
            ),
            (
                "azureDisk",
                json!({"diskName": "d", "diskURI": "https://x", "kind": "Managed"}),
                "v.azureDisk.diskURI: Unsupported value",
                "v.azureDisk.diskURI: Unsupported value",
            ),
            (
                "azureFile",
                json!({"secretName": "s", "shareName": "s", "secretNamespace": ""}),
                "v.azureFile.secretNamespace: Required value",
                "v.azureFile.secretNamespace: Required value",
            ),
            (
                "storageos",
                json!({"volumeName": "V"}),
                "v.storageos.volumeName: Invalid value: \"V\"",
                "v.storageos.volumeName: Invalid value: \"V\"",
            ),
            (
                "glusterfs",
                json!({"endpoints": "e", "path": "p", "endpointsNamespace": ""}),
                "v.glusterfs.endpointsNamespace: Invalid value",
                "v.glusterfs.endpointsNamespace: Invalid value",
            ),
        ] {
            let volume = json!({"v": {"name": "volume", kind: source}});
            for (of, expected) in [(Holder::Pod, in_pod), (Holder::Persistent("volume"), persistent)] {
                let mut out = Vec::new();
                validate(of, &At::member(&volume, "v"), kind, &mut out);
                let told: Vec<_> = out.iter().map(ToString::to_string).collect();
                let fits = if expected.is_empty() {
                    told.is_empty()
                } else {
                    told.len() == 1 && told[0].starts_with(expected)
                };
                assert!(fits, "{kind} {source}: {told:?}, expected {expected:?}");
            }
        }
    }
}
