//! Nodes, and runtime classes, which choose how containers run on them.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::Value;
use skiff_meta::field::{FaultKind, FieldError, FieldErrors, FieldPath};
use skiff_meta::names;

use crate::addresses::cidr;
use crate::at::At;
use crate::cells::{self, NONE, or_none};
use crate::disabled;
use crate::podspec::{self, quantity, tolerations};
use crate::row::{Row, name_cell};
use crate::view::{Change, View};
use crate::warnings;
use crate::{Part, age};

pub(crate) const NODE: Row = Row {
    // A node may be registered together with its first status.
    status: None,
    resets: &[&["status"]],
    default: |node| {
        // The older form says the same, and is believed where it does not.
        if let Some(spec) = node.existing("spec") {
            let first = spec.get_or_null("podCIDRs").get(0).cloned();
            match spec.get_or_null("podCIDR").clone() {
                Value::String(range) if !range.is_empty() => {
                    if first.is_none_or(|first| first != *range) {
                        spec.put("podCIDRs", Value::Array(vec![range.into()]));
                    }
                }
                _ => first.into_iter().for_each(|range| spec.put("podCIDR", range)),
            }
        }
        for list in ["capacity", "allocatable"] {
            podspec::round(node.existing("status").and_then(|status| status.existing(list)));
        }
        if let Some(status) = node.existing("status")
            && !status.has("allocatable")
            && status.has("capacity")
        {
            status.put("allocatable", status.get_or_null("capacity").clone());
        }
    },
    prepare_update: |new, old, part| match part {
        Part::Main => new.put("status", old.get_or_null("status").clone()),
        Part::Status => new.put("spec", old.get_or_null("spec").clone()),
        Part::Other(_) => {}
    },
    validate: |node, out| {
        taints(node, out);
        resources(node, out);
        features(node, out);
        let spec = At::member(node, "spec");
        spec.items("podCIDRs").for_each(|range| cidr(&range, out));
        families(&spec, out);
    },
    validate_update,
    validate_part: |new, _, _, out| {
        resources(new, out);
        features(new, out);
        addresses(new, out);
    },
    disabled: disabled::NODE,
    warnings: warnings::of_node,
    selectable: |node| vec![("spec.unschedulable", node.at("spec").flag("unschedulable").to_string())],
    columns: "Name,Status,Roles,Age,Version,+Internal-IP,+External-IP,+OS-Image,+Kernel-Version,+Container-Runtime",
    cells,
    ..Row::new("", "Node")
};

pub(crate) const RUNTIME_CLASS: Row = Row {
    validate: |class, out| {
        let handler = class.text("handler");
        let path = FieldPath::new("handler");
        if handler.is_empty() {
            out.push(FieldError::required(&path, ""));
        } else {
            out.extend(names::dns1123_label(handler).iter().map(|why| FieldError::invalid(&path, handler, why)));
        }
        for (name, mut amount) in At::member(class, "overhead").entries("podFixed") {
            // Looked at as the limits of a container.
            amount.path = FieldPath::new("overhead.limits").key(name);
            podspec::resource_name(name, &amount, true, out);
            quantity(name, &amount, out);
        }
        let scheduling = At::member(class, "scheduling");
        scheduling.labels("nodeSelector", out);
        tolerations(&scheduling, out);
        let mut seen = Vec::new();
        for toleration in scheduling.items("tolerations") {
            let key = ["key", "operator", "value", "effect"].map(|name| toleration.text(name));
            if seen.contains(&key) {
                out.push(FieldError::duplicate(&toleration.path, toleration.value.clone()));
            }
            seen.push(key);
        }
    },
    validate_update: |new, old, out| {
        let path = FieldPath::new("handler");
        crate::metadata::immutable(new.get_or_null("handler"), old.get_or_null("handler"), &path, out);
    },
    warnings: warnings::of_runtime_class,
    columns: "Name,Handler,Age",
    cells: |class, now| vec![name_cell(class), class.get_or_null("handler").clone(), age::cell(class, now)],
    ..Row::new("node.k8s.io", "RuntimeClass")
};

/// Of each family there may be one range.
fn families(spec: &At<'_>, out: &mut FieldErrors) {
    let ranges: Vec<&str> = spec.value.texts("podCIDRs").collect();
    if ranges.len() < 2 {
        return;
    }
    let parsed: Vec<Option<ipnet::IpNet>> = ranges.iter().map(|range| range.parse().ok()).collect();
    let path = spec.path("podCIDRs");
    let unread = ranges.iter().zip(&parsed).enumerate().find(|(_, (_, parsed))| parsed.is_none());
    if let Some((i, (range, _))) = unread {
        let message = format!(
            "Internal error: invalid PodCIDRs. failed to check with dual stack with error:invalid CIDR[{i}]: <nil> \
             (invalid CIDR address: {range})"
        );
        out.push(FieldError { kind: FaultKind::Internal, path, message });
    }
    let has = |v4: bool| parsed.iter().flatten().any(|range| range.addr().is_ipv4() == v4);
    if unread.is_some() || ranges.len() > 2 || !(has(true) && has(false)) {
        spec.invalid("podCIDRs", "may specify no more than one CIDR for each IP family", out);
    }
}

fn taints(node: &Value, out: &mut FieldErrors) {
    let mut seen = BTreeSet::new();
    for (i, taint) in node.at("spec").items("taints").iter().enumerate() {
        // Upstream's path names the metadata.
        let at = At { value: taint, path: FieldPath::new("metadata.taints").index(i) };
        at.faults("key", &names::qualified_name(at.text("key")), out);
        let value = names::label_value(at.text("value"));
        if !value.is_empty() {
            at.invalid("value", &value.join(";"), out);
        }
        at.one_of("effect", &["NoSchedule", "PreferNoSchedule", "NoExecute"], out);
        if !seen.insert((at.text("key"), at.text("effect"))) {
            let mut fault = FieldError::duplicate(&at.path, taint.clone());
            fault.message.push_str(": taints must be unique by key and effect pair");
            out.push(fault);
        }
    }
}

fn resources(node: &Value, out: &mut FieldErrors) {
    for list in ["capacity", "allocatable"] {
        for (name, amount) in node.at("status").entries(list) {
            let path = FieldPath::new("status").child(list).child(name);
            quantity(name, &At { value: amount, path }, out);
        }
    }
}

/// Features that a node's agent has: in order, each once, `MyFeature` or `MyFeature/part`.
fn features(node: &Value, out: &mut FieldErrors) {
    let mut before = None;
    for feature in At::member(node, "status").items("declaredFeatures") {
        let name = feature.value.as_str().unwrap_or_default();
        let wrong = |why: &str| format!("invalid feature name {name:?}: {why}");
        if name.len() > 253 {
            feature.wrong(&wrong("must be no more than 253 characters"), out);
        } else if !is_feature(name) {
            let why = "must start with an UpperCamelCase segment, with subsequent segments separated by '/' (e.g., \
                       MyFeature or MyFeature/mySubFeature), and contain only alphanumeric characters and slashes";
            feature.wrong(&wrong(why), out);
        }
        match before.map(|before| name.cmp(before)) {
            Some(Ordering::Equal) => out.push(FieldError::duplicate(&feature.path, name)),
            Some(Ordering::Less) => feature.wrong("list must be sorted alphabetically", out),
            _ => {}
        }
        before = Some(name);
    }
}

fn is_feature(name: &str) -> bool {
    let segment = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphabetic()) && part.bytes().all(|b| b.is_ascii_alphanumeric())
    };
    name.starts_with(|c: char| c.is_ascii_uppercase()) && name.split('/').all(segment)
}

fn addresses(node: &Value, out: &mut FieldErrors) {
    let mut seen = Vec::new();
    for address in At::member(node, "status").items("addresses") {
        if seen.contains(&address.value) {
            out.push(FieldError::duplicate(&address.path, address.value.clone()));
        }
        seen.push(address.value);
    }
}

fn validate_update(new: &Value, old: &Value, out: &mut FieldErrors) {
    let (spec, before) = (At::member(new, "spec"), old.get_or_null("spec"));
    if before.count("podCIDRs") > 0 && spec.value.get("podCIDRs") != before.get("podCIDRs") {
        let why = "node updates may not change podCIDR except from \"\" to valid";
        spec.forbidden("podCIDRs", why, out);
    }
    if !before.text("providerID").is_empty() && spec.text("providerID") != before.text("providerID") {
        let why = "node updates may not change providerID except from \"\" to valid";
        spec.forbidden("providerID", why, out);
    }
    if spec.text("externalID") != before.text("externalID") {
        spec.forbidden("externalID", "may not be updated", out);
    }
}

fn roles(node: &Value) -> String {
    let role = |(key, value): (&str, &Value)| match key.strip_prefix("node-role.kubernetes.io/") {
        Some(role) if !role.is_empty() => Some(role.to_owned()),
        _ if key == "kubernetes.io/role" => value.as_str().filter(|v| !v.is_empty()).map(str::to_owned),
        _ => None,
    };
    let roles: BTreeSet<String> = node.at("metadata").entries("labels").filter_map(role).collect();
    roles.into_iter().collect::<Vec<_>>().join(",")
}

fn cells(node: &Value, now: Timestamp) -> Vec<Value> {
    let mut status = match cells::condition(node, "Ready").map(|c| c.text("status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if node.at("spec").flag("unschedulable") {
        status.push_str(",SchedulingDisabled");
    }
    let info = node.at("status.nodeInfo");
    let known = |field: &str| match info.text(field) {
        "" => "<unknown>".to_owned(),
        text => text.to_owned(),
    };
    let address = |kind: &str| node.at("status").find("addresses", "type", kind).map_or(NONE, |a| a.text("address"));
    let mut kernel = known("kernelVersion");
    if !info.text("architecture").is_empty() {
        kernel.push_str(&format!(" ({})", info.text("architecture")));
    }
    vec![
        name_cell(node),
        status.into(),
        or_none(&roles(node)).into(),
        age::cell(node, now),
        info.text("kubeletVersion").into(),
        address("InternalIP").into(),
        address("ExternalIP").into(),
        known("osImage").into(),
        kernel.into(),
        known("containerRuntimeVersion").into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rules;
    use serde_json::json;

    #[test]
    fn a_node_registers_with_its_status() {
        let mut node = json!({"metadata": {"name": "n"}, "status": {"capacity": {"cpu": "2"}}});
        NODE.default(&mut node);
        NODE.prepare_create(&mut node);
        assert_eq!(node["status"]["allocatable"], json!({"cpu": "2"}));
        let mut new = node.clone();
        new["status"] = json!({});
        NODE.prepare_update(&mut new, &node, Part::Main);
        assert_eq!(new, node);
    }

    #[test]
    fn faults() {
        let node = json!({"metadata": {"name": "n"}, "spec": {"podCIDRs": ["x"],
            "taints": [{"key": "a", "effect": "Maybe"}, {"key": "a", "effect": "Maybe"}]}, "status": {"capacity": {"cpu": "-1"}}});
        let found: Vec<_> = NODE.validate_create(&node).iter().map(ToString::to_string).collect();
        assert_eq!(found.len(), 5, "{found:?}");
        assert!(found[0].starts_with("metadata.taints[0].effect: Unsupported value: \"Maybe\""));
        assert!(found[2].ends_with("taints must be unique by key and effect pair"));
        assert_eq!(found[3], "status.capacity.cpu: Invalid value: \"-1\": must be greater than or equal to 0");
        let mut new = node.clone();
        new["spec"]["podCIDRs"] = json!(["10.0.0.0/24"]);
        assert!(NODE.validate_update(&new, &node, Part::Main).iter().any(|f| f.path.as_str() == "spec.podCIDRs"));
    }

    #[test]
    fn features_are_named_sorted_and_single() {
        let found = |names: Value| -> Vec<String> {
            let node = json!({"metadata": {"name": "n"}, "status": {"declaredFeatures": names}});
            NODE.validate_create(&node).iter().map(ToString::to_string).collect()
        };
        assert_eq!(found(json!(["A", "B/part", "B2"])), [""; 0]);
        for name in ["", "a", "A/", "A/2", "A-b", "A//b"] {
            assert!(found(json!([name]))[0].contains("UpperCamelCase"), "{name}");
        }
        assert!(found(json!(["A".repeat(254)]))[0].ends_with("must be no more than 253 characters"));
        assert_eq!(
            found(json!(["B", "A", "A"])),
            [
                "status.declaredFeatures[1]: Invalid value: \"A\": list must be sorted alphabetically",
                "status.declaredFeatures[2]: Duplicate value: \"A\"",
            ]
        );
    }

    #[test]
    fn row() {
        let node = json!({"metadata": {"name": "n", "labels": {"node-role.kubernetes.io/control-plane": ""},
            "creationTimestamp": "1970-01-01T00:00:00Z"}, "spec": {"unschedulable": true},
            "status": {"conditions": [{"type": "Ready", "status": "True"}], "addresses": [{"type": "InternalIP", "address": "1.2.3.4"}],
            "nodeInfo": {"kubeletVersion": "v1.36.0", "kernelVersion": "6", "architecture": "amd64"}}});
        assert_eq!(
            NODE.cells(&node, Timestamp::from_second(300).unwrap()),
            [
                "n",
                "Ready,SchedulingDisabled",
                "control-plane",
                "5m",
                "v1.36.0",
                "1.2.3.4",
                "<none>",
                "<unknown>",
                "6 (amd64)",
                "<unknown>"
            ]
            .map(Value::from)
        );
    }
}
