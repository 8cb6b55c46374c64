//! Environment variables and where their values come from.

use skiff_meta::Quantity;
use skiff_meta::field::{FieldError, FieldErrors};
use skiff_meta::names;

use super::object_name;
use crate::at::At;
use crate::view::View;

const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const FILE_FIELDS: &[&str] =
    &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
const RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];
const ALL_FIELDS: &[&[&str]] = &[ENV_FIELDS, FILE_FIELDS, &["spec.restartPolicy", "status.phase"]];

/// Faults of a container's variables.
pub(super) fn variables(container: &At<'_>, out: &mut FieldErrors) {
    for variable in container.items("env") {
        variable.require_form("name", names::env_var_name, out);
        if variable.has("valueFrom") {
            value_from(&variable, out);
        }
    }
    for source in container.items("envFrom") {
        source.form("prefix", names::env_var_name, out);
        let sources = ["configMapRef", "secretRef"].into_iter().filter(|s| source.has(s)).collect::<Vec<_>>();
        for name in &sources {
            source.get(name).require_form("name", object_name, out);
        }
        let path = container.path("envFrom");
        match sources.len() {
            0 => out.push(FieldError::invalid(&path, "", "must specify one of: `configMapRef` or `secretRef`")),
            1 => {}
            _ => out.push(FieldError::invalid(&path, "", "may not have more than one field specified at a time")),
        }
    }
}

fn value_from(variable: &At<'_>, out: &mut FieldErrors) {
    let from = variable.get("valueFrom");
    let mut sources = 0;
    for name in ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"] {
        let source = from.get(name);
        if !source.is_set() {
            continue;
        }
        sources += 1;
        match name {
            "fieldRef" => field_ref(&source, false, out),
            "resourceFieldRef" => resource_ref(&source, false, out),
            "fileKeyRef" => file_key(&source, out),
            _ => {
                source.faults("name", &object_name(source.text("name")), out);
                source.require_form("key", names::config_key, out);
            }
        }
    }
    let why = if sources == 0 {
        "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"
    } else if !variable.text("value").is_empty() {
        "may not be specified when `value` is not empty"
    } else if sources > 1 {
        "may not have more than one field specified at a time"
    } else {
        return;
    };
    out.push(FieldError::invalid(&from.path, "", why));
}

fn file_key(source: &At<'_>, out: &mut FieldErrors) {
    source.require_form("key", names::env_var_name, out);
    source.require_form("volumeName", names::dns1123_label, out);
    if source.require("path", out) {
        super::volumes::no_backsteps(&source.get("path"), out);
    }
}

/// Faults of variables read from files: their volume must be one of the pod's own that begins empty.
pub(super) fn file_volumes(spec: &At<'_>, out: &mut FieldErrors) {
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for variable in spec.items(list).flat_map(|container| container.items("env").collect::<Vec<_>>()) {
            let source = variable.get("valueFrom").get("fileKeyRef");
            if !source.is_set() {
                continue;
            }
            let name = source.text("volumeName");
            match spec.value.items("volumes").iter().rfind(|volume| volume.text("name") == name) {
                None => out.push(FieldError::not_found(&source.path("volumeName"), name)),
                Some(volume) if !volume.has("emptyDir") => {
                    source.invalid("volumeName", "referenced volume must be of type emptyDir", out);
                }
                Some(_) => {}
            }
        }
    }
}

/// `metadata.labels['app']` taken apart.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (path, rest) = path.split_once("['")?;
    Some((path, rest.strip_suffix("']")?))
}

/// Faults of a reference to a field of the pod; files know other fields than variables.
pub(super) fn field_ref(at: &At<'_>, in_file: bool, out: &mut FieldErrors) {
    if !at.require("apiVersion", out) || !at.require("fieldPath", out) {
        return;
    }
    let path = at.text("fieldPath");
    if at.text("apiVersion") != "v1" {
        let why = format!("error converting fieldPath: unsupported pod version: {}", at.text("apiVersion"));
        return at.invalid("fieldPath", &why, out);
    }
    if let Some((path, key)) = subscript(path) {
        let key = match path {
            "metadata.annotations" => key.to_lowercase(),
            "metadata.labels" => key.to_owned(),
            _ => {
                let why = format!("error converting fieldPath: field label does not support subscript: {path}");
                return at.invalid("fieldPath", &why, out);
            }
        };
        for why in names::qualified_name(&key) {
            out.push(FieldError::invalid(&at.path, key.as_str(), &why));
        }
        return;
    }
    if !ALL_FIELDS.iter().any(|fields| fields.contains(&path)) {
        let why = format!("error converting fieldPath: field label not supported: {path}");
        return at.invalid("fieldPath", &why, out);
    }
    let supported = if in_file { FILE_FIELDS } else { ENV_FIELDS };
    at.optional_one_of("fieldPath", supported, out);
}

/// Faults of a reference to a container's resource.
pub(super) fn resource_ref(at: &At<'_>, in_file: bool, out: &mut FieldErrors) {
    let resource = at.text("resource");
    let huge_pages = resource.starts_with("requests.hugepages-") || resource.starts_with("limits.hugepages-");
    if in_file && at.text("containerName").is_empty() {
        at.missing("containerName", "", out);
    } else if resource.is_empty() {
        at.missing("resource", "", out);
    } else if !huge_pages {
        at.optional_one_of("resource", RESOURCES, out);
    }
    divisor(at, resource, huge_pages, out);
}

fn divisor(at: &At<'_>, resource: &str, huge_pages: bool, out: &mut FieldErrors) {
    let Ok(divisor) = Quantity::from_json(at.get("divisor").value) else { return };
    let divisor = divisor.to_string();
    const SIZES: &[&str] = &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];
    let (allowed, what): (&[&str], _) = match resource.split_once('.').map(|(_, name)| name) {
        Some("cpu") => (&["1m", "1"], "cpu"),
        Some("memory") => (SIZES, "memory"),
        Some("ephemeral-storage") => (SIZES, "local ephemeral storage"),
        _ if huge_pages => (SIZES, "hugepages"),
        _ => return,
    };
    if divisor == "0" || allowed.contains(&&*divisor) {
        return;
    }
    let listed = if what == "cpu" { "1m and 1".to_owned() } else { allowed.join(", ") };
    let why = format!("only divisor's values {listed} are supported with the {what} resource");
    out.push(FieldError::invalid(&at.path("divisor"), resource, &why));
}
