//! Kinds that make up the cluster itself.

use serde_json::{Value, json};
use skiff_meta::field::FieldError;

use crate::Part;
use skiff_meta::names::NameForm;

use crate::kind::{AGE, KindRules, NAME, empty_status};
use crate::show::{created, name, or_none};
use crate::tree::{fill, items, items_mut, members, number, object, put, text};

pub(crate) static NODE: KindRules = KindRules {
    // A node's status may come with its creation: the agent registers both at once.
    default: |node| {
        object(node, "spec");
        object(node, "status");
    },
    carry: |new, old, part| {
        if part == Part::Main {
            put(new, "status", old["status"].clone());
        }
    },
    validate: |at, faults| {
        let mut seen = Vec::new();
        for taint in at.walk("spec.taints").items() {
            let (key, effect) = (taint.get("key"), taint.get("effect"));
            key.named(faults, skiff_meta::names::qualified_name);
            if effect.required(faults, "") {
                effect.one_of(faults, &["NoSchedule", "PreferNoSchedule", "NoExecute"]);
            }
            if seen.contains(&(key.text(), effect.text())) {
                faults.push(FieldError::duplicate(&taint.path, taint.value.clone()));
            }
            seen.push((key.text(), effect.text()));
        }
    },
    validate_change: |new, old, faults| {
        for field in ["podCIDR", "podCIDRs", "providerID"] {
            if !old.get("spec").get(field).is_empty() {
                new.get("spec").get(field).immutable(&old.get("spec").get(field), faults);
            }
        }
    },
    columns: &[
        NAME,
        ("Status", "string", 0, "Whether the node takes pods"),
        ("Roles", "string", 0, "Roles, by its labels"),
        AGE,
        ("Version", "string", 0, "Version of its agent"),
        ("Internal-IP", "string", 1, "Address inside the cluster"),
        ("External-IP", "string", 1, "Address outside the cluster"),
        ("OS-Image", "string", 1, "Its operating system"),
        ("Kernel-Version", "string", 1, "Its kernel"),
        ("Container-Runtime", "string", 1, "Its container runtime"),
    ],
    cells: |node, now| {
        let (info, status) = (&node["status"]["nodeInfo"], &node["status"]);
        let address = |ty: &str| {
            items(&status["addresses"])
                .iter()
                .find(|a| a["type"] == ty)
                .map_or("<none>", |a| text(&a["address"]))
                .to_owned()
        };
        let known =
            |value: &Value| if text(value).is_empty() { "<unknown>".to_owned() } else { text(value).to_owned() };
        let mut kernel = known(&info["kernelVersion"]);
        if !text(&info["architecture"]).is_empty() {
            kernel = format!("{kernel} ({})", text(&info["architecture"]));
        }
        vec![
            name(node),
            node_state(node).into(),
            roles(node).into(),
            created(node, now),
            text(&info["kubeletVersion"]).into(),
            address("InternalIP").into(),
            address("ExternalIP").into(),
            known(&info["osImage"]).into(),
            kernel.into(),
            known(&info["containerRuntimeVersion"]).into(),
        ]
    },
    fields: |node| vec![("spec.unschedulable", (node["spec"]["unschedulable"] == true).to_string())],
    ..KindRules::new("", "Node")
};

fn node_state(node: &Value) -> String {
    let ready = items(&node["status"]["conditions"]).iter().find(|c| c["type"] == "Ready");
    let mut state = match ready {
        None => "Unknown",
        Some(condition) if condition["status"] == "True" => "Ready",
        Some(_) => "NotReady",
    }
    .to_owned();
    if node["spec"]["unschedulable"] == true {
        state.push_str(",SchedulingDisabled");
    }
    state
}

fn roles(node: &Value) -> String {
    let mut roles: Vec<&str> = members(&node["metadata"]["labels"])
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role),
            None if key == "kubernetes.io/role" => Some(text(value)),
            None => None,
        })
        .filter(|role| !role.is_empty())
        .collect();
    roles.sort_unstable();
    if roles.is_empty() { "<none>".to_owned() } else { roles.join(",") }
}

pub(crate) static NAMESPACE: KindRules = KindRules {
    default: |namespace| {
        let name = namespace["metadata"]["name"].clone();
        if name.is_string() {
            object(object(namespace, "metadata"), "labels")["kubernetes.io/metadata.name"] = name;
        }
    },
    first_status: Some(|| json!({"phase": "Active"})),
    create: |namespace| {
        let spec = object(namespace, "spec");
        let mut finalizers = items(&spec["finalizers"]).to_vec();
        if !finalizers.iter().any(|f| f == "kubernetes") {
            finalizers.push(json!("kubernetes"));
        }
        spec["finalizers"] = Value::Array(finalizers);
    },
    carry: |new, old, part| match part {
        Part::Main => put(new, "spec", old["spec"].clone()),
        Part::Other("finalize") => put(new, "status", old["status"].clone()),
        _ => {}
    },
    columns: &[NAME, ("Status", "string", 0, "Whether the namespace is in use or going"), AGE],
    cells: |object, now| vec![name(object), object["status"]["phase"].clone(), created(object, now)],
    fields: |object| vec![("status.phase", text(&object["status"]["phase"]).to_owned())],
    name: NameForm::Label,
    ..KindRules::new("", "Namespace")
};

pub(crate) static LEASE: KindRules = KindRules {
    validate: |at, faults| {
        let spec = at.get("spec");
        let duration = spec.get("leaseDurationSeconds");
        if duration.number().is_some_and(|n| n <= 0) {
            duration.invalid(faults, "must be greater than 0");
        }
        spec.get("leaseTransitions").not_negative(faults);
    },
    columns: &[NAME, ("Holder", "string", 0, "Who holds the lease"), AGE],
    cells: |object, now| vec![name(object), text(&object["spec"]["holderIdentity"]).into(), created(object, now)],
    ..KindRules::new("coordination.k8s.io", "Lease")
};

/// The highest value that users' classes may have.
const HIGHEST_USER_PRIORITY: i64 = 1_000_000_000;

pub(crate) static PRIORITY_CLASS: KindRules = KindRules {
    default: |class| fill(class, "preemptionPolicy", "PreemptLowerPriority"),
    counts_generation: true,
    validate: |at, faults| {
        let (name, value) = (at.walk("metadata.name").text(), at.get("value"));
        let system = matches!(name, "system-node-critical" | "system-cluster-critical");
        if name.starts_with("system-") && !system {
            at.walk("metadata.name")
                .forbidden(faults, "priority class names with 'system-' prefix are reserved for system use only");
        }
        if !system && value.number().is_some_and(|n| n > HIGHEST_USER_PRIORITY) {
            value.forbidden(
                faults,
                &format!("maximum allowed value of a user defined priority is {HIGHEST_USER_PRIORITY}"),
            );
        }
        at.get("preemptionPolicy").one_of(faults, &["PreemptLowerPriority", "Never"]);
    },
    validate_change: |new, old, faults| {
        for field in ["value", "preemptionPolicy"] {
            if new.get(field).value != old.get(field).value {
                new.get(field).invalid(faults, "field is immutable");
            }
        }
    },
    columns: &[
        NAME,
        ("Value", "integer", 0, "Its priority"),
        ("Global-Default", "boolean", 0, "Whether pods without a class get it"),
        AGE,
        ("PreemptionPolicy", "string", 0, "Whether its pods displace others"),
    ],
    cells: |object, now| {
        vec![
            name(object),
            number(&object["value"]).into(),
            (object["globalDefault"] == true).into(),
            created(object, now),
            object["preemptionPolicy"].clone(),
        ]
    },
    ..KindRules::new("scheduling.k8s.io", "PriorityClass")
};

pub(crate) static RUNTIME_CLASS: KindRules = KindRules {
    validate: |at, faults| {
        let handler = at.get("handler");
        if handler.required(faults, "") {
            handler.named(faults, skiff_meta::names::dns1123_label);
        }
    },
    validate_change: |new, old, faults| new.get("handler").immutable(&old.get("handler"), faults),
    columns: &[NAME, ("Handler", "string", 0, "Name of the handler in the runtime"), AGE],
    cells: |object, now| vec![name(object), object["handler"].clone(), created(object, now)],
    ..KindRules::new("node.k8s.io", "RuntimeClass")
};

pub(crate) static API_SERVICE: KindRules = KindRules {
    default: |service| {
        if let Some(target) = service.pointer_mut("/spec/service").filter(|s| s.is_object()) {
            fill(target, "port", 443);
        }
    },
    first_status: Some(empty_status),
    columns: &[
        NAME,
        ("Service", "string", 0, "Who serves the version"),
        ("Available", "string", 0, "Whether it is served"),
        AGE,
    ],
    cells: |object, now| {
        let target = &object["spec"]["service"];
        let shown = if target.is_object() {
            format!("{}/{}", text(&target["namespace"]), text(&target["name"]))
        } else {
            "Local".to_owned()
        };
        let available = items(&object["status"]["conditions"]).iter().find(|c| c["type"] == "Available");
        let state = match available {
            Some(c) if c["status"] == "True" => "True".to_owned(),
            Some(c) => format!("{} ({})", text(&c["status"]), text(&c["reason"])),
            None => "Unknown".to_owned(),
        };
        vec![name(object), shown.into(), state.into(), created(object, now)]
    },
    // What this server serves itself is there from the first moment on.
    create: |service| {
        if service["spec"]["service"].is_null() {
            service["status"]["conditions"] = json!([{
                "type": "Available", "status": "True", "reason": "Local",
                "message": "Local APIServices are always available",
                "lastTransitionTime": service["metadata"]["creationTimestamp"],
            }]);
        }
    },
    // `v1.` of the core group is no DNS name.
    name: NameForm::PathSegment,
    ..KindRules::new("apiregistration.k8s.io", "APIService")
};

pub(crate) static CERTIFICATE_SIGNING_REQUEST: KindRules = KindRules {
    default: |request| fill(object(request, "spec"), "usages", json!(["digital signature", "key encipherment"])),
    first_status: Some(empty_status),
    validate: |at, faults| {
        at.walk("spec.request").required(faults, "");
        at.walk("spec.signerName").required(faults, "");
    },
    validate_change: |new, old, faults| new.get("spec").immutable(&old.get("spec"), faults),
    carry: |new, old, part| {
        if part == Part::Other("approval") {
            let conditions = new["status"]["conditions"].clone();
            let mut status = old["status"].clone();
            if !status.is_object() {
                status = json!({});
            }
            put(&mut status, "conditions", conditions);
            for condition in status.get_mut("conditions").into_iter().flat_map(items_mut) {
                fill(condition, "status", "True");
            }
            new["status"] = status;
            put(new, "spec", old["spec"].clone());
        }
    },
    columns: &[
        NAME,
        AGE,
        ("SignerName", "string", 0, "Who is asked to sign"),
        ("Requestor", "string", 0, "Who asks"),
        ("RequestedDuration", "string", 0, "For how long"),
        ("Condition", "string", 0, "What became of it"),
    ],
    cells: |object, now| {
        let spec = &object["spec"];
        let mut state: Vec<&str> = items(&object["status"]["conditions"]).iter().map(|c| text(&c["type"])).collect();
        if state.is_empty() {
            state.push("Pending");
        }
        if !text(&object["status"]["certificate"]).is_empty() {
            state.push("Issued");
        }
        let duration = spec["expirationSeconds"].as_i64().map_or_else(|| "<none>".to_owned(), crate::show::duration);
        vec![
            name(object),
            created(object, now),
            spec["signerName"].clone(),
            or_none(&spec["username"]),
            duration.into(),
            state.join(",").into(),
        ]
    },
    fields: |object| vec![("spec.signerName", text(&object["spec"]["signerName"]).to_owned())],
    ..KindRules::new("certificates.k8s.io", "CertificateSigningRequest")
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rules;

    #[test]
    fn namespaces_carry_their_name_and_finalizer() {
        let mut object = json!({"metadata": {"name": "x"}});
        Rules::default(&NAMESPACE, &mut object);
        NAMESPACE.prepare_create(&mut object);
        assert_eq!(
            object,
            json!({"metadata": {"name": "x", "labels": {"kubernetes.io/metadata.name": "x"}}, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}})
        );
        let mut update = json!({"metadata": {"name": "x"}, "spec": {}});
        NAMESPACE.prepare_update(&mut update, &object, Part::Main);
        assert_eq!(update["spec"]["finalizers"], json!(["kubernetes"]));
        let mut finalize = json!({"metadata": {"name": "x"}, "spec": {"finalizers": []}});
        NAMESPACE.prepare_update(&mut finalize, &object, Part::Other("finalize"));
        assert_eq!(finalize["spec"]["finalizers"], json!([]));
        assert_eq!(finalize["status"]["phase"], "Active");
    }

    #[test]
    fn how_a_node_is_shown() {
        let node = json!({"metadata": {"name": "n", "labels": {"node-role.kubernetes.io/control-plane": ""}}, "spec": {"unschedulable": true}, "status": {"conditions": [{"type": "Ready", "status": "True"}], "nodeInfo": {"kubeletVersion": "v1"}}});
        let row = NODE.cells(&node, jiff::Timestamp::UNIX_EPOCH);
        assert_eq!((row[1].as_str(), row[2].as_str()), (Some("Ready,SchedulingDisabled"), Some("control-plane")));
    }
}
