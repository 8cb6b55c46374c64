//! What makes up the API itself: who serves which version, and how the control plane is.

use serde_json::{Value, json};
use skiff_meta::field::{FieldError, FieldErrors};
use skiff_meta::names::{self, NameForm};

use crate::age;
use crate::at::At;
use crate::cells;
use crate::row::{EMPTY, Row, name_cell};
use crate::view::{Change, View};

pub(crate) const API_SERVICE: Row = Row {
    // `v1.` of the core group is no DNS name.
    name: NameForm::PathSegment,
    status: EMPTY,
    // A time of deletion is refused, not passed over.
    status_keeps: &["annotations", "finalizers", "generation", "labels", "ownerReferences"],
    default: |object| {
        if let Some(service) = object.existing("spec").and_then(|s| s.existing("service")) {
            service.default_to("port", 443);
        }
    },
    // What this server serves itself is there from the first moment on.
    prepare_create: |object| {
        if !object.at("spec").has("service") {
            let since = object.at("metadata.creationTimestamp").clone();
            let available = json!({"type": "Available", "status": "True", "reason": "Local",
                "message": "Local APIServices are always available", "lastTransitionTime": since});
            object.child("status").put("conditions", json!([available]));
        }
    },
    validate,
    validate_part: |new, _, _, out| {
        for condition in At::member(new, "status").items("conditions") {
            let supported = &["False", "True", "Unknown"];
            if !supported.contains(&condition.text("status")) {
                let path = condition.path("status");
                out.push(FieldError::not_supported(&path, condition.text("status"), supported));
            }
        }
    },
    columns: "Name,Service,Available,Age",
    cells: |object, now| {
        let service = object.at("spec.service");
        let shown = if service.is_null() {
            "Local".to_owned()
        } else {
            format!("{}/{}", service.text("namespace"), service.text("name"))
        };
        let available = match cells::condition(object, "Available") {
            None => "Unknown".to_owned(),
            Some(condition) if condition.text("status") == "True" => "True".to_owned(),
            Some(condition) => format!("{} ({})", condition.text("status"), condition.text("reason")),
        };
        vec![name_cell(object), shown.into(), available.into(), age::cell(object, now)]
    },
    ..Row::new("apiregistration.k8s.io", "APIService")
};

fn validate(object: &Value, out: &mut FieldErrors) {
    let spec = At::member(object, "spec");
    let (group, version) = (spec.text("group"), spec.text("version"));
    let meta = At::member(object, "metadata");
    let wanted = format!("{version}.{group}");
    for name in ["generateName", "name"] {
        let given = meta.text(name);
        if !given.is_empty() && given != wanted && names::path_segment(given, false).is_empty() {
            meta.invalid(name, &format!("must be `spec.version+\".\"+spec.group`: {wanted:?}"), out);
        }
    }
    if group.is_empty() && version != "v1" {
        spec.missing("group", "only v1 may have an empty group and it better be legacy kube", out);
    }
    spec.form("group", names::dns1123_subdomain, out);
    for why in names::dns1035_label(version) {
        out.push(FieldError::invalid(&spec.path("version"), version, &why));
    }
    for (name, most) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1000)] {
        let priority = spec.int(name).unwrap_or_default();
        if !(1..=most).contains(&priority) {
            let why = format!("must be positive and less than {most}");
            out.push(FieldError::invalid(&spec.path(name), priority, &why));
        }
    }
    let insecure = spec.flag("insecureSkipTLSVerify");
    if !spec.has("service") {
        if spec.has("caBundle") {
            spec.invalid("caBundle", "local APIServices may not have a caBundle", out);
        }
        if insecure {
            spec.invalid("insecureSkipTLSVerify", "local APIServices may not have insecureSkipTLSVerify", out);
        }
        return;
    }
    let service = spec.get("service");
    service.require("namespace", out);
    service.require("name", out);
    let faults = names::port_number(service.int("port").unwrap_or_default());
    if !faults.is_empty() {
        service.invalid("port", &format!("port is not valid: {}", faults.join(", ")), out);
    }
    if insecure && spec.has("caBundle") {
        spec.invalid("insecureSkipTLSVerify", "may not be true if caBundle is present", out);
    }
}

pub(crate) const COMPONENT_STATUS: Row = Row {
    columns: "Name,Status,Message,Error",
    cells: |object, _| {
        let condition = object.find("conditions", "type", "Healthy").unwrap_or(&Value::Null);
        let state = match condition.text("status") {
            "" => "Unknown",
            "True" => "Healthy",
            _ => "Unhealthy",
        };
        vec![name_cell(object), state.into(), condition.text("message").into(), condition.text("error").into()]
    },
    ..Row::new("", "ComponentStatus")
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rules;

    #[test]
    fn services() {
        let mut object = json!({"metadata": {"name": "v1.example.com"}, "spec": {"group": "example.com", "version": "v1",
            "groupPriorityMinimum": 100, "versionPriority": 10, "service": {"name": "s", "namespace": "n"}}});
        API_SERVICE.default(&mut object);
        assert_eq!(API_SERVICE.validate_create(&object), []);
        let cells = |object: &Value| API_SERVICE.cells(object, jiff::Timestamp::UNIX_EPOCH);
        assert_eq!(cells(&object)[1..3], ["n/s", "Unknown"].map(Value::from));
        object["status"] = json!({"conditions": [{"type": "Available", "status": "False", "reason": "Gone"}]});
        assert_eq!(cells(&object)[2], "False (Gone)");
        object["spec"]["versionPriority"] = json!(0);
        object["metadata"]["name"] = json!("v1");
        object["spec"]["service"]["port"] = json!(0);
        assert_eq!(API_SERVICE.validate_create(&object).len(), 3);
    }

    #[test]
    fn components() {
        let object =
            json!({"metadata": {"name": "c"}, "conditions": [{"type": "Healthy", "status": "True", "message": "ok"}]});
        let cells = COMPONENT_STATUS.cells(&object, jiff::Timestamp::UNIX_EPOCH);
        assert_eq!(cells, ["c", "Healthy", "ok", ""].map(Value::from));
    }
}
