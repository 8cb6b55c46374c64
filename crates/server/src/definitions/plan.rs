//! What there is to do for definitions, as a plain value.

use serde_json::{Value, json};

use super::names::judge;
use crate::tree;
use crate::write::remove::CLEANUP;

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// Write this definition's status.
    Status(Value),
    /// Remove the objects of this definition, which is going.
    Cleanup(Value),
    /// Say in an APIService that this group version is served.
    Announce(Value),
    /// Take the APIService with this name back.
    Withdraw(String),
}

/// Marks APIServices that follow definitions.
const AUTOMANAGED: (&str, &str) = ("kube-aggregator.kubernetes.io/automanaged", "true");

/// What there is to do so that APIServices tell the group versions that definitions serve.
pub(super) fn plan_services(definitions: &[Value], services: &[Value]) -> Vec<Step> {
    let mut wanted: Vec<(String, &str, &str)> = Vec::new();
    for definition in definitions {
        let group = tree::text(definition, &["spec", "group"]);
        let versions = tree::at(definition, &["spec", "versions"]).and_then(Value::as_array);
        for version in versions.into_iter().flatten().filter(|v| v["served"] == true) {
            let version = tree::text(version, &["name"]);
            wanted.push((format!("{version}.{group}"), group, version));
        }
    }
    wanted.sort_unstable();
    wanted.dedup();
    let name = |service: &Value| tree::text(service, &["metadata", "name"]).to_owned();
    let ours = |service: &&Value| tree::text(service, &["metadata", "labels", AUTOMANAGED.0]) == AUTOMANAGED.1;
    let gone = services.iter().filter(ours).map(name).filter(|n| !wanted.iter().any(|(w, ..)| w == n));
    let mut steps: Vec<Step> = gone.map(Step::Withdraw).collect();
    let missing = wanted.iter().filter(|(w, ..)| !services.iter().any(|s| name(s) == *w));
    steps.extend(missing.map(|(name, group, version)| {
        Step::Announce(json!({
            "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
            "metadata": {"name": name, "labels": {AUTOMANAGED.0: AUTOMANAGED.1}},
            "spec": {"group": group, "version": version, "groupPriorityMinimum": 1000, "versionPriority": 100},
        }))
    }));
    steps
}

/// What there is to do for all definitions.
pub(super) fn plan(definitions: &[Value], now: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    for definition in definitions {
        if tree::at(definition, &["metadata", "deletionTimestamp"]).is_some() {
            if tree::texts(definition, &["metadata", "finalizers"]).contains(&CLEANUP) {
                steps.push(Step::Cleanup(definition.clone()));
            }
            continue;
        }
        let mut new = definition.clone();
        judged(&mut new, definitions, now);
        if new.get("status") != definition.get("status") {
            steps.push(Step::Status(new));
        }
    }
    steps
}

/// Writes the verdict into a definition's status.
fn judged(definition: &mut Value, all: &[Value], now: &str) {
    let verdict = judge(definition, all);
    let stored: Vec<Value> = tree::at(definition, &["spec", "versions"])
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter(|v| v.get("storage") == Some(&Value::Bool(true)))
        .map(|v| v["name"].clone())
        .collect();
    let established = verdict.fault.is_none() || condition(definition, "Established") == Some("True");
    let status = tree::child(definition, "status");
    status.insert("acceptedNames".to_owned(), verdict.names);
    let versions = status.entry("storedVersions").or_insert_with(|| json!([]));
    if let Some(list) = versions.as_array_mut() {
        for version in stored {
            if !list.contains(&version) {
                list.push(version);
            }
        }
    }
    let conditions = status.entry("conditions").or_insert(Value::Null);
    if conditions.is_null() {
        *conditions = json!([]);
    }
    match verdict.fault {
        None => set(conditions, "NamesAccepted", "True", "NoConflicts", "no conflicts found", now),
        Some((reason, message)) => set(conditions, "NamesAccepted", "False", reason, &message, now),
    }
    if established {
        set(conditions, "Established", "True", "InitialNamesAccepted", "the initial names have been accepted", now);
    } else {
        set(conditions, "Established", "False", "NotAccepted", "not all names are accepted", now);
    }
}

fn condition<'a>(definition: &'a Value, ty: &str) -> Option<&'a str> {
    let conditions = tree::at(definition, &["status", "conditions"])?.as_array()?;
    conditions.iter().find(|c| c["type"] == ty)?.get("status")?.as_str()
}

fn set(conditions: &mut Value, ty: &str, status: &str, reason: &str, message: &str, now: &str) {
    let Some(list) = conditions.as_array_mut() else { return };
    let new = json!({
        "type": ty, "status": status, "reason": reason, "message": message, "lastTransitionTime": now,
    });
    match list.iter_mut().find(|c| c["type"] == ty) {
        Some(old) if old["status"] == status => {
            old["reason"] = json!(reason);
            old["message"] = json!(message);
        }
        Some(old) => *old = new,
        None => list.push(new),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(name: &str, kind: &str) -> Value {
        json!({
            "metadata": {"name": format!("{name}.x.io"), "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"group": "x.io", "names": {"plural": name, "singular": name, "kind": kind, "listKind": format!("{kind}List")},
                "versions": [{"name": "v1", "served": true, "storage": true}]},
        })
    }

    #[test]
    fn new_definitions_are_judged_and_old_ones_left_alone() {
        let steps = plan(&[definition("as", "A")], "now");
        let [Step::Status(judged)] = &steps[..] else { panic!("{steps:?}") };
        assert_eq!(condition(judged, "Established"), Some("True"));
        assert_eq!(judged["status"]["storedVersions"], json!(["v1"]));
        assert_eq!(judged["status"]["acceptedNames"]["kind"], "A");
        assert!(plan(std::slice::from_ref(judged), "later").is_empty(), "a verdict once written stays");
    }

    #[test]
    fn going_definitions_are_emptied() {
        let mut going = definition("as", "A");
        going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert!(plan(std::slice::from_ref(&going), "now").is_empty(), "held by others");
        going["metadata"]["finalizers"] = json!([CLEANUP]);
        assert_eq!(plan(std::slice::from_ref(&going), "now"), [Step::Cleanup(going.clone())]);
    }

    #[test]
    fn services_follow_definitions() {
        let definitions = [definition("as", "A"), definition("bs", "B")];
        let steps = plan_services(&definitions, &[]);
        let [Step::Announce(service)] = &steps[..] else { panic!("one group version: {steps:?}") };
        assert_eq!(service["metadata"]["name"], "v1.x.io");
        assert!(plan_services(&definitions, std::slice::from_ref(service)).is_empty());
        let others = json!({"metadata": {"name": "v1.apps"}});
        let steps = plan_services(&[], &[service.clone(), others]);
        assert_eq!(steps, [Step::Withdraw("v1.x.io".into())]);
    }

    #[test]
    fn the_second_of_a_name_waits() {
        let Step::Status(first) = plan(&[definition("as", "A")], "now").remove(0) else { panic!("judged") };
        let steps = plan(&[first, definition("bs", "A")], "now");
        let [Step::Status(second)] = &steps[..] else { panic!("{steps:?}") };
        assert_eq!(condition(second, "NamesAccepted"), Some("False"));
        assert_eq!(condition(second, "Established"), Some("False"));
    }
}
