//! Cluster addresses and address families of a Service: how their fields depend on one another.
//!
//! Which addresses there are, and which families the cluster has, only the server knows, who hands them out; it looks at
//! a Service with [`sync`] and [`faults`] before it does.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use skiff_meta::field::{FieldError, FieldErrors};

use super::service::{is_headless, kind};
use crate::addresses::ip;
use crate::at::At;
use crate::podspec::is_ip;
use crate::view::{Change, View};

const FAMILIES: &[&str] = &["IPv4", "IPv6"];
const POLICIES: &[&str] = &["PreferDualStack", "RequireDualStack", "SingleStack"];

fn same(field: &str, one: &Value, other: &Value) -> bool {
    one.items(field) == other.items(field)
}

/// Keeps `clusterIP` and the first of `clusterIPs` the same, whichever of them the client set. `old` is null for a new
/// Service: whoever names several addresses has to name the first one in both fields.
pub fn sync(service: &mut Value, old: &Value) {
    let (spec, before) = (service.child("spec"), old.get_or_null("spec"));
    let one = spec.text("clusterIP").to_owned();
    if before.is_null() {
        if !one.is_empty() && spec.count("clusterIPs") == 0 {
            spec.put("clusterIPs", json!([one]));
        }
        return;
    }
    if one == before.text("clusterIP") {
        if spec.count("clusterIPs") == 0 && before.count("clusterIPs") > 0 {
            spec.put("clusterIPs", before.get_or_null("clusterIPs").clone());
        }
    } else if same("clusterIPs", spec, before) {
        // The client knows only the old field, and has changed or emptied it.
        match one.as_str() {
            "" => spec.drop_member("clusterIPs"),
            one => spec.put("clusterIPs", json!([one])),
        }
    }
}

/// What is wrong with addresses and families, whatever the cluster has.
pub fn faults(service: &Value) -> FieldErrors {
    let (spec, mut out) = (At::member(service, "spec"), FieldErrors::new());
    if kind(spec.value) != "ExternalName" {
        find(&spec, &mut out);
    }
    out
}

fn find(spec: &At<'_>, out: &mut FieldErrors) {
    let (single, all) = (spec.text("clusterIP"), spec.get("clusterIPs"));
    let listed: Vec<&str> = spec.value.texts("clusterIPs").collect();
    match (single, listed.first()) {
        ("", Some(_)) => all.wrong("must be empty when `clusterIP` is not specified", out),
        ("", None) => {}
        (_, None) => spec.missing("clusterIPs", "", out),
        (single, Some(first)) if single != *first => all.wrong("first value must match `clusterIP`", out),
        _ => {}
    }
    let mut seen = BTreeSet::new();
    for family in spec.items("ipFamilies") {
        let text = family.value.as_str().unwrap_or_default();
        if !FAMILIES.contains(&text) {
            out.push(FieldError::not_supported(&family.path, text, FAMILIES));
        }
        if !seen.insert(text) {
            out.push(FieldError::duplicate(&family.path, text));
        }
    }
    spec.optional_one_of("ipFamilyPolicy", POLICIES, out);
    let before = out.len();
    for (i, address) in spec.items("clusterIPs").enumerate() {
        if i > 0 || address.value != "None" {
            ip(&address, out);
        } else if listed.len() > 1 {
            all.wrong("'None' must be the first and only value", out);
        }
    }
    let invalid = out.len() > before;
    if listed.len() > 2 {
        all.wrong("may only hold up to 2 values", out);
    }
    if invalid {
        return;
    }
    let is_v6: Vec<bool> = listed.iter().filter(|text| is_ip(text)).map(|text| text.contains(':')).collect();
    if is_v6.len() > 1 && (is_v6.iter().all(|v6| *v6) || is_v6.iter().all(|v6| !v6)) {
        all.wrong("may specify no more than one IP for each IP family", out);
    }
    let families = spec.value.texts("ipFamilies").collect::<Vec<_>>();
    for (i, ((address, family), v6)) in spec.items("clusterIPs").zip(families).zip(is_v6).enumerate() {
        if v6 != (family == "IPv6") {
            address.wrong(&format!("expected an {family} value as indicated by `ipFamilies[{i}]`"), out);
        }
    }
}

/// What may not change: the first address and the first family; the second ones come and go with the policy.
pub(super) fn update_faults(spec: &At<'_>, before: &Value, out: &mut FieldErrors) {
    if kind(spec.value) == "ExternalName" || kind(before) == "ExternalName" {
        return;
    }
    let (was, is) = (is_headless(before), is_headless(spec.value));
    if !(was && is) {
        unchanged(spec, before, "clusterIPs", "primary clusterIP can not be unset", "clusterIP", out);
    }
    if !was && !is {
        unchanged(spec, before, "ipFamilies", "primary ipFamily can not be unset", "ipFamily", out);
    }
}

fn unchanged(spec: &At<'_>, before: &Value, field: &str, unset: &str, what: &str, out: &mut FieldErrors) {
    let (old, new) = (before.items(field), spec.value.items(field));
    let fault = |at: usize, why: &str| FieldError::invalid(&spec.path(field).index(at), Value::from(new.to_vec()), why);
    let compared = if old.len() == new.len() { old.len() } else { old.len().min(new.len()).min(1) };
    for at in (0..compared).filter(|at| old[*at] != new[*at]) {
        // Upstream names the first family whichever it is.
        out.push(fault(if field == "ipFamilies" { 0 } else { at }, "may not change once set"));
    }
    if old.len() <= new.len() {
        return;
    }
    if new.is_empty() {
        out.push(fault(0, unset));
    }
    if new.len() == 1 && spec.text("ipFamilyPolicy") != "SingleStack" {
        spec.invalid(
            "ipFamilyPolicy",
            &format!("must be set to 'SingleStack' when releasing the secondary {what}"),
            out,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(spec: Value) -> Value {
        json!({"metadata": {"name": "s"}, "spec": spec})
    }

    #[test]
    fn both_fields_say_the_same() {
        let old = json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1"]});
        for (spec, before, expected) in [
            (json!({"clusterIP": "10.0.0.1"}), Value::Null, json!(["10.0.0.1"])),
            (json!({"clusterIPs": ["10.0.0.1"]}), Value::Null, json!(["10.0.0.1"])),
            (json!({"clusterIP": "10.0.0.1"}), old.clone(), old["clusterIPs"].clone()),
            (json!({"clusterIP": "10.0.0.2", "clusterIPs": old["clusterIPs"]}), old.clone(), json!(["10.0.0.2"])),
            (json!({"clusterIPs": old["clusterIPs"]}), old.clone(), Value::Null),
            (json!({"clusterIP": "10.0.0.2", "clusterIPs": ["10.0.0.3"]}), old, json!(["10.0.0.3"])),
        ] {
            let mut new = service(spec.clone());
            sync(&mut new, &if before.is_null() { Value::Null } else { service(before) });
            assert_eq!(*new["spec"].get_or_null("clusterIPs"), expected, "{spec}");
        }
    }

    #[test]
    fn what_does_not_fit_together() {
        let bad_ip = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
        for (spec, expected) in [
            (json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ipFamilies": ["IPv4"]}), vec![]),
            (json!({"clusterIP": "None", "clusterIPs": ["None"], "ipFamilies": ["IPv6", "IPv4"]}), vec![]),
            (json!({"type": "ExternalName", "clusterIPs": ["x"]}), vec![]),
            (
                json!({"clusterIPs": ["None"]}),
                vec![r#"spec.clusterIPs: Invalid value: ["None"]: must be empty when `clusterIP` is not specified"#.to_owned()],
            ),
            (
                json!({"clusterIP": "a", "clusterIPs": ["a"]}),
                vec![format!(r#"spec.clusterIPs[0]: Invalid value: "a": {bad_ip}"#)],
            ),
            (
                json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ipFamilies": ["IPv6", "IPv6"]}),
                vec![
                    r#"spec.ipFamilies[1]: Duplicate value: "IPv6""#.to_owned(),
                    r#"spec.clusterIPs[0]: Invalid value: "10.0.0.1": expected an IPv6 value as indicated by `ipFamilies[0]`"#.to_owned(),
                ],
            ),
            (
                json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "10.0.0.2"]}),
                vec![r#"spec.clusterIPs: Invalid value: ["10.0.0.1","10.0.0.2"]: may specify no more than one IP for each IP family"#.to_owned()],
            ),
            (
                json!({"ipFamilyPolicy": "Both"}),
                vec![r#"spec.ipFamilyPolicy: Unsupported value: "Both": supported values: "PreferDualStack", "RequireDualStack", "SingleStack""#.to_owned()],
            ),
        ] {
            let found: Vec<String> = faults(&service(spec.clone())).iter().map(ToString::to_string).collect();
            assert_eq!(found, expected, "{spec}");
        }
    }

    #[test]
    fn first_ones_stay() {
        let dual = json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1"], "ipFamilies": ["IPv4", "IPv6"],
            "ipFamilyPolicy": "PreferDualStack"});
        let single = json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack"});
        let other = json!({"clusterIP": "10.0.0.2", "clusterIPs": ["10.0.0.2"], "ipFamilies": ["IPv6"],
            "ipFamilyPolicy": "SingleStack"});
        let mut unasked = single.clone();
        unasked["ipFamilyPolicy"] = json!("PreferDualStack");
        for (old, new, count) in [
            (&dual, &single, 0),
            (&single, &dual, 0),
            (&single, &other, 2),
            (&dual, &other, 2),
            (&dual, &unasked, 2),
            (&dual, &json!({"type": "ExternalName"}), 0),
        ] {
            let (new, mut out) = (service(new.clone()), FieldErrors::new());
            update_faults(&At::member(&new, "spec"), old, &mut out);
            assert_eq!(out.len(), count, "{old} to {new}: {out:?}");
        }
    }
}
