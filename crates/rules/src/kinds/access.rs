//! Roles and bindings.

use serde_json::{Value, json};
use skiff_meta::field::FieldErrors;

use crate::faults::At;
use skiff_meta::names::NameForm;

use crate::kind::{AGE, ColumnFacts, KindRules, NAME, PLAIN_COLUMNS};
use crate::show::{created, name};
use crate::tree::{fill, items, items_mut, text};

const BINDING_COLUMNS: &[ColumnFacts] = &[
    NAME,
    ("Role", "string", 0, "Role that is granted"),
    AGE,
    ("Users", "string", 1, "Users it is granted to"),
    ("Groups", "string", 1, "Groups it is granted to"),
    ("ServiceAccounts", "string", 1, "Service accounts it is granted to"),
];

pub(crate) static ROLE: KindRules = role("Role");
pub(crate) static CLUSTER_ROLE: KindRules = role("ClusterRole");
pub(crate) static ROLE_BINDING: KindRules = binding("RoleBinding");
pub(crate) static CLUSTER_ROLE_BINDING: KindRules = binding("ClusterRoleBinding");

const fn role(kind: &'static str) -> KindRules {
    KindRules {
        // Upstream writes the list even when there is nothing in it.
        default: |role| fill(role, "rules", json!([])),
        validate: |at, faults| {
            for rule in at.get("rules").items() {
                self::rule(&rule, at.value["metadata"]["namespace"].is_string(), faults);
            }
        },
        columns: PLAIN_COLUMNS,
        cells: |object, _| vec![name(object), object["metadata"]["creationTimestamp"].clone()],
        name: NameForm::PathSegment,
        ..KindRules::new("rbac.authorization.k8s.io", kind)
    }
}

fn rule(rule: &At<'_>, namespaced: bool, faults: &mut FieldErrors) {
    rule.get("verbs").required(faults, "verbs must contain at least one value");
    let urls = rule.get("nonResourceURLs");
    if !urls.is_empty() {
        if namespaced {
            urls.invalid(faults, "namespaced rules cannot apply to non-resource URLs");
        }
        if !rule.get("resources").is_empty()
            || !rule.get("apiGroups").is_empty()
            || !rule.get("resourceNames").is_empty()
        {
            urls.invalid(faults, "rules cannot apply to both regular resources and non-resource URLs");
        }
        return;
    }
    rule.get("apiGroups").required(faults, "resource rules must supply at least one api group");
    rule.get("resources").required(faults, "resource rules must supply at least one resource");
}

const fn binding(kind: &'static str) -> KindRules {
    KindRules {
        default: |binding| {
            const RBAC: &str = "rbac.authorization.k8s.io";
            if let Some(role) = binding.get_mut("roleRef") {
                fill(role, "apiGroup", RBAC);
            }
            for subject in binding.get_mut("subjects").into_iter().flat_map(items_mut) {
                if matches!(text(&subject["kind"]), "User" | "Group") {
                    fill(subject, "apiGroup", RBAC);
                }
            }
        },
        validate: |at, faults| {
            let role = at.get("roleRef");
            role.get("kind").one_of(
                faults,
                if at.value["metadata"]["namespace"].is_string() { &["Role", "ClusterRole"] } else { &["ClusterRole"] },
            );
            role.get("name").required(faults, "");
            for subject in at.get("subjects").items() {
                subject.get("name").required(faults, "");
                subject.get("kind").one_of(faults, &["ServiceAccount", "User", "Group"]);
                if subject.get("kind").text() == "ServiceAccount" {
                    subject.get("namespace").required(faults, "");
                }
            }
        },
        validate_change: |new, old, faults| {
            if new.get("roleRef").value != old.get("roleRef").value {
                new.get("roleRef").invalid(faults, "cannot change roleRef");
            }
        },
        columns: BINDING_COLUMNS,
        cells: |object, now| {
            let role = &object["roleRef"];
            let subjects = |kind: &str| {
                let all = items(&object["subjects"]).iter().filter(|s| s["kind"] == kind);
                let names: Vec<String> = all
                    .map(|s| {
                        if kind == "ServiceAccount" {
                            format!("{}/{}", text(&s["namespace"]), text(&s["name"]))
                        } else {
                            text(&s["name"]).to_owned()
                        }
                    })
                    .collect();
                Value::from(names.join(", "))
            };
            let shown = format!("{}/{}", text(&role["kind"]), text(&role["name"]));
            vec![
                name(object),
                shown.into(),
                created(object, now),
                subjects("User"),
                subjects("Group"),
                subjects("ServiceAccount"),
            ]
        },
        name: NameForm::PathSegment,
        ..KindRules::new("rbac.authorization.k8s.io", kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Part, Rules};

    #[test]
    fn roles_and_bindings() {
        let bad = json!({"metadata": {"namespace": "x"}, "rules": [{"verbs": []}, {"verbs": ["get"], "nonResourceURLs": ["/x"]}]});
        assert_eq!(ROLE.validate_create(&bad).len(), 4);
        let binding = json!({"roleRef": {"kind": "ClusterRole", "name": "a"}, "subjects": [{"kind": "ServiceAccount", "name": "s", "namespace": "n"}]});
        assert!(CLUSTER_ROLE_BINDING.validate_create(&binding).is_empty());
        let mut other = binding.clone();
        other["roleRef"]["name"] = json!("b");
        assert_eq!(CLUSTER_ROLE_BINDING.validate_update(&other, &binding, Part::Main).len(), 1);
        assert_eq!(CLUSTER_ROLE_BINDING.cells(&binding, jiff::Timestamp::UNIX_EPOCH)[5], "n/s");
        assert!(ROLE.name_faults("system:node", false).is_empty());
    }
}
