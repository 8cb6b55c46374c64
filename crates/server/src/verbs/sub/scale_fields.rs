//! Who owns `spec.replicas`, told in terms of an object's scale and back (upstream: `managedfields/scalehandler.go`).

use serde_json::{Value, json};

/// Version of scales.
pub(super) const SCALE: &str = "autoscaling/v1";
/// Where a scale has its replicas, as fields are written.
const REPLICAS: &str = "/f:spec/f:replicas";

/// What tells managers apart.
fn manager(entry: &Value) -> [&Value; 3] {
    ["manager", "operation", "subresource"].map(|name| &entry[name])
}

fn pointer(path: &[String]) -> String {
    path.iter().map(|name| format!("/f:{name}")).collect()
}

/// The entries of an object that own its replicas, as those of its scale.
pub(super) fn to_scale(entries: &[Value], path: &[String]) -> Vec<Value> {
    let pointer = pointer(path);
    let owns = |entry: &&Value| entry["fieldsV1"].pointer(&pointer).is_some();
    let shown = entries.iter().filter(owns).map(|entry| {
        let mut shown = entry.clone();
        shown["apiVersion"] = json!(SCALE);
        shown["fieldsV1"] = json!({"f:spec": {"f:replicas": {}}});
        shown
    });
    shown.collect()
}

/// The entries of the object after those of its scale have become `scale`; `version` is the object's.
pub(super) fn to_object(entries: &[Value], scale: &[Value], path: &[String], version: &str) -> Vec<Value> {
    let pointer = pointer(path);
    let mut left: Vec<&Value> = scale.iter().filter(|entry| entry["fieldsV1"].pointer(REPLICAS).is_some()).collect();
    let mut result = Vec::new();
    for entry in entries {
        if entry["fieldsV1"].pointer(&pointer).is_none() {
            result.push(entry.clone());
        } else if let Some(at) = left.iter().position(|other| manager(other) == manager(entry)) {
            left.remove(at);
            result.push(entry.clone());
        } else {
            // Stolen.
            let mut rest = entry.clone();
            take(&mut rest["fieldsV1"], path);
            if rest["fieldsV1"].as_object().is_some_and(|fields| !fields.is_empty()) {
                result.push(rest);
            }
        }
    }
    for entry in left {
        let mut own = entry.clone();
        own["apiVersion"] = json!(version);
        // Who comes to own the replicas by scaling is told without a time.
        own.as_object_mut().map(|own| own.remove("time"));
        own["fieldsV1"] = path.iter().rev().fold(json!({}), |inner, name| json!({(format!("f:{name}")): inner}));
        // A manager's fields stand in one entry.
        match result.iter_mut().find(|other| manager(other) == manager(&own)) {
            Some(other) => *other = own,
            None => result.push(own),
        }
    }
    let text = |entry: &Value, name: &str| entry[name].as_str().unwrap_or_default().to_owned();
    result.sort_by_cached_key(|entry| {
        ["operation", "time", "manager", "apiVersion", "subresource"].map(|name| text(entry, name))
    });
    result
}

/// Removes the field at `path`, and what is empty without it.
fn take(fields: &mut Value, path: &[String]) {
    let (Some(members), Some((first, rest))) = (fields.as_object_mut(), path.split_first()) else { return };
    let name = format!("f:{first}");
    if let Some(below) = members.get_mut(&name).filter(|_| !rest.is_empty()) {
        take(below, rest);
        if below.as_object().is_some_and(|below| !below.is_empty()) {
            return;
        }
    }
    members.remove(&name);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(manager: &str, operation: &str, version: &str, fields: Value) -> Value {
        json!({"manager": manager, "operation": operation, "apiVersion": version, "fieldsV1": fields})
    }

    #[test]
    fn replicas_are_kept_stolen_and_taken_over() {
        let path = ["spec".to_owned(), "replicas".to_owned()];
        let both = json!({"f:spec": {"f:replicas": {}, "f:selector": {}}});
        let only = json!({"f:spec": {"f:replicas": {}}});
        let entries = [
            entry("one", "Apply", "apps/v1", both.clone()),
            entry("two", "Update", "apps/v1", both.clone()),
            entry("three", "Update", "apps/v1", only.clone()),
            entry("four", "Update", "apps/v1", json!({"f:status": {}})),
        ];
        let scale = to_scale(&entries, &path);
        let managers: Vec<&Value> = scale.iter().map(|entry| &entry["manager"]).collect();
        assert_eq!(managers, ["one", "two", "three"]);
        assert!(scale.iter().all(|entry| entry["apiVersion"] == SCALE && entry["fieldsV1"] == only));
        let after = [scale[0].clone(), entry("five", "Apply", SCALE, only.clone())];
        assert_eq!(
            to_object(&entries, &after, &path, "apps/v1"),
            [
                entry("five", "Apply", "apps/v1", only),
                entries[0].clone(),
                entries[3].clone(),
                entry("two", "Update", "apps/v1", json!({"f:spec": {"f:selector": {}}})),
            ]
        );
    }
}
