//! Where a pod may run: affinity, tolerations, spreading, gates.

use std::collections::BTreeSet;

use serde_json::Value;
use skiff_meta::field::{FieldError, FieldErrors};
use skiff_meta::names;

use crate::at::At;
use crate::view::View;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// Faults of `affinity`.
pub(super) fn affinity(at: &At<'_>, out: &mut FieldErrors) {
    let node = at.get("nodeAffinity");
    if node.has(REQUIRED) {
        node_selector(&node.get(REQUIRED), out);
    }
    for term in node.items(PREFERRED) {
        weight(&term, out);
        node_term(&term.get("preference"), false, out);
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let pods = at.get(kind);
        for term in pods.items(REQUIRED) {
            pod_term(&term, out);
        }
        for term in pods.items(PREFERRED) {
            weight(&term, out);
            pod_term(&term.get("podAffinityTerm"), out);
        }
    }
}

fn weight(term: &At<'_>, out: &mut FieldErrors) {
    let weight = term.int("weight").unwrap_or_default();
    if !(1..=100).contains(&weight) {
        out.push(FieldError::invalid(&term.path("weight"), weight, "must be in the range 1-100"));
    }
}

/// Faults of a selector of nodes.
pub(crate) fn node_selector(at: &At<'_>, out: &mut FieldErrors) {
    if at.value.count("nodeSelectorTerms") == 0 {
        return at.missing("nodeSelectorTerms", "must have at least one node selector term", out);
    }
    for term in at.items("nodeSelectorTerms") {
        node_term(&term, true, out);
    }
}

fn node_term(term: &At<'_>, check_values: bool, out: &mut FieldErrors) {
    for expression in term.items("matchExpressions") {
        let count = expression.value.count("values");
        match expression.text("operator") {
            "In" | "NotIn" if count == 0 => {
                expression.missing("values", "must be specified when `operator` is 'In' or 'NotIn'", out);
            }
            "Exists" | "DoesNotExist" if count > 0 => {
                let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                expression.forbidden("values", why, out);
            }
            "Gt" | "Lt" if count != 1 => {
                expression.missing("values", "must be specified single value when `operator` is 'Lt' or 'Gt'", out);
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
            _ => expression.invalid("operator", "not a valid selector operator", out),
        }
        expression.faults("key", &names::qualified_name(expression.text("key")), out);
        for value in expression.items("values").filter(|_| check_values) {
            for why in names::label_value(value.value.as_str().unwrap_or_default()) {
                value.wrong(&why, out);
            }
        }
    }
    for field in term.items("matchFields") {
        match field.text("operator") {
            "In" | "NotIn" if field.value.count("values") != 1 => {
                let why = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
                field.missing("values", why, out);
            }
            "In" | "NotIn" => {}
            _ => field.invalid("operator", "not a valid selector operator", out),
        }
        if field.text("key") != "metadata.name" {
            field.invalid("key", "not a valid field selector key", out);
            continue;
        }
        for value in field.items("values") {
            for why in names::dns1123_subdomain(value.value.as_str().unwrap_or_default()) {
                value.wrong(&why, out);
            }
        }
    }
}

fn pod_term(term: &At<'_>, out: &mut FieldErrors) {
    term.get("labelSelector").label_selector(out);
    term.get("namespaceSelector").label_selector(out);
    for namespace in term.value.texts("namespaces") {
        for why in names::dns1123_label(namespace) {
            out.push(FieldError::invalid(&term.path("namespace"), namespace, &why));
        }
    }
    label_keys(term, out);
    if term.text("topologyKey").is_empty() {
        term.missing("topologyKey", "can not be empty", out);
    }
    term.faults("topologyKey", &names::qualified_name(term.text("topologyKey")), out);
}

/// Faults of the keys whose values a selector takes over from the pod. They may be part of the selector by now, once.
fn label_keys(holder: &At<'_>, out: &mut FieldErrors) {
    let selector = holder.value.get_or_null("labelSelector");
    for list in ["matchLabelKeys", "mismatchLabelKeys"] {
        if holder.value.count(list) > 0 && selector.is_null() {
            holder.forbidden(list, "must not be specified when labelSelector is not set", out);
            continue;
        }
        for key in holder.items(list) {
            key.own_faults(names::qualified_name, out);
        }
    }
    let mut seen: BTreeSet<&str> = selector.entries("matchLabels").map(|(key, _)| key).collect();
    for expression in selector.items("matchExpressions") {
        let key = expression.text("key");
        let place = holder.items("matchLabelKeys").position(|listed| listed.value == key);
        if let Some(place) = place.filter(|_| seen.contains(key)) {
            // Upstream leaves the list's name out of the path.
            let path = holder.path.index(place);
            out.push(FieldError::invalid(&path, key, "exists in both matchLabelKeys and labelSelector"));
        }
        seen.insert(key);
    }
    for key in holder.items("matchLabelKeys") {
        if holder.value.items("mismatchLabelKeys").contains(key.value) {
            key.wrong("exists in both matchLabelKeys and mismatchLabelKeys", out);
        }
    }
}

/// Faults of the tolerations in a spec.
pub(crate) fn tolerations(spec: &At<'_>, out: &mut FieldErrors) {
    for toleration in spec.items("tolerations") {
        let (key, value) = (toleration.text("key"), toleration.text("value"));
        toleration.form("key", names::qualified_name, out);
        let operator = toleration.text("operator");
        let path = toleration.path("operator");
        if key.is_empty() && operator != "Exists" {
            let why = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            out.push(FieldError::invalid(&path, operator, why));
        }
        if toleration.has("tolerationSeconds") && toleration.text("effect") != "NoExecute" {
            let why = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            out.push(FieldError::invalid(&toleration.path("effect"), toleration.text("effect"), why));
        }
        match operator {
            "" | "Equal" => {
                let faults = names::label_value(value);
                if !faults.is_empty() {
                    out.push(FieldError::invalid(&path, value, &faults.join(";")));
                }
            }
            "Exists" if !value.is_empty() => {
                out.push(FieldError::invalid(&path, value, "value must be empty when `operator` is 'Exists'"));
            }
            "Exists" => {}
            other => out.push(FieldError::not_supported(&path, other, &["Equal", "Exists"])),
        }
        if !toleration.text("effect").is_empty() {
            toleration.optional_one_of("effect", &["NoSchedule", "PreferNoSchedule", "NoExecute"], out);
        }
    }
}

/// Faults of scheduling gates.
pub(super) fn gates(spec: &At<'_>, out: &mut FieldErrors) {
    let mut seen = BTreeSet::new();
    for gate in spec.items("schedulingGates") {
        let name = gate.text("name");
        for why in names::qualified_name(name) {
            out.push(FieldError::invalid(&gate.path, name, &why));
        }
        if !seen.insert(name) {
            out.push(FieldError::duplicate(&gate.path, name));
        }
    }
}

/// Faults of constraints on spreading.
pub(super) fn spread_constraints(spec: &At<'_>, out: &mut FieldErrors) {
    let all = spec.value.items("topologySpreadConstraints");
    for (i, constraint) in spec.items("topologySpreadConstraints").enumerate() {
        let (key, action) = (constraint.text("topologyKey"), constraint.text("whenUnsatisfiable"));
        if constraint.int("maxSkew").unwrap_or_default() <= 0 {
            constraint.invalid("maxSkew", "must be greater than zero", out);
        }
        if key.is_empty() {
            constraint.missing("topologyKey", "can not be empty", out);
        }
        if !["DoNotSchedule", "ScheduleAnyway"].contains(&action) {
            let path = constraint.path("whenUnsatisfiable");
            out.push(FieldError::not_supported(&path, action, &["DoNotSchedule", "ScheduleAnyway"]));
        }
        // The first of them is told to be another's double.
        let same = |other: &Value| other.text("topologyKey") == key && other.text("whenUnsatisfiable") == action;
        if all.iter().skip(i + 1).any(same) {
            let path = constraint.path("{topologyKey, whenUnsatisfiable}");
            out.push(FieldError::duplicate(&path, format!("{{{key}, {action}}}")));
        }
        if let Some(domains) = constraint.int("minDomains") {
            if domains <= 0 {
                constraint.invalid("minDomains", "must be greater than zero", out);
            }
            if action != "DoNotSchedule" {
                let why = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
                constraint.invalid("minDomains", &why, out);
            }
        }
        for policy in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            constraint.optional_one_of(policy, &["Honor", "Ignore"], out);
        }
        label_keys(&constraint, out);
        constraint.get("labelSelector").label_selector(out);
    }
}
