//! Roles and their bindings.

use jiff::Timestamp;
use serde_json::Value;
use skiff_meta::LabelSelector;
use skiff_meta::field::{FieldError, FieldErrors, FieldPath};
use skiff_meta::names::{self, NameForm};

use crate::age;
use crate::at::At;
use crate::row::{Row, name_cell};
use crate::view::{Change, View};

const GROUP: &str = "rbac.authorization.k8s.io";
const BINDING_COLUMNS: &str = "Name,Role,Age,+Users,+Groups,+ServiceAccounts";

pub(crate) const ROLE: Row =
    Row { name: NameForm::PathSegment, validate: |role, out| rules(role, true, out), ..Row::new(GROUP, "Role") };

pub(crate) const CLUSTER_ROLE: Row = Row {
    name: NameForm::PathSegment,
    validate: |role, out| {
        rules(role, false, out);
        aggregation(role, out);
    },
    ..Row::new(GROUP, "ClusterRole")
};

pub(crate) const ROLE_BINDING: Row = Row {
    name: NameForm::PathSegment,
    default: default_binding,
    validate: |binding, out| validate_binding(binding, true, out),
    validate_update: same_role,
    columns: BINDING_COLUMNS,
    cells: binding_cells,
    ..Row::new(GROUP, "RoleBinding")
};

pub(crate) const CLUSTER_ROLE_BINDING: Row = Row {
    name: NameForm::PathSegment,
    default: default_binding,
    validate: |binding, out| validate_binding(binding, false, out),
    validate_update: same_role,
    columns: BINDING_COLUMNS,
    cells: binding_cells,
    ..Row::new(GROUP, "ClusterRoleBinding")
};

fn rules(role: &Value, namespaced: bool, out: &mut FieldErrors) {
    for (i, rule) in role.items("rules").iter().enumerate() {
        let rule = At { value: rule, path: FieldPath::new("rules").index(i) };
        let count = |list: &str| rule.value.count(list);
        if count("verbs") == 0 {
            rule.missing("verbs", "verbs must contain at least one value", out);
        }
        if count("nonResourceURLs") > 0 {
            if namespaced {
                rule.invalid("nonResourceURLs", "namespaced rules cannot apply to non-resource URLs", out);
            }
            if count("apiGroups") + count("resources") + count("resourceNames") > 0 {
                let why = "rules cannot apply to both regular resources and non-resource URLs";
                rule.invalid("nonResourceURLs", why, out);
            }
            continue;
        }
        if count("apiGroups") == 0 {
            rule.missing("apiGroups", "resource rules must supply at least one api group", out);
        }
        if count("resources") == 0 {
            rule.missing("resources", "resource rules must supply at least one resource", out);
        }
    }
}

fn aggregation(role: &Value, out: &mut FieldErrors) {
    let rule = At::member(role, "aggregationRule");
    if rule.is_set() && rule.value.count("clusterRoleSelectors") == 0 {
        let why = "at least one clusterRoleSelector required if aggregationRule is non-nil";
        rule.missing("clusterRoleSelectors", why, out);
    }
    for selector in rule.items("clusterRoleSelectors") {
        selector.label_selector(out);
        if LabelSelector::from_json(selector.value).is_err() {
            selector.wrong("invalid label selector.", out);
        }
    }
}

fn default_binding(binding: &mut Value) {
    if let Some(role) = binding.existing("roleRef") {
        role.default_text("apiGroup", GROUP);
    }
    for subject in binding.items_mut("subjects") {
        if matches!(subject.text("kind"), "User" | "Group") {
            subject.default_text("apiGroup", GROUP);
        }
    }
}

fn supported(at: &At<'_>, name: &str, values: &[&str], out: &mut FieldErrors) {
    if !values.contains(&at.text(name)) {
        out.push(FieldError::not_supported(&at.path(name), at.text(name), values));
    }
}

fn validate_binding(binding: &Value, namespaced: bool, out: &mut FieldErrors) {
    let role = At::member(binding, "roleRef");
    supported(&role, "apiGroup", &[GROUP], out);
    supported(&role, "kind", if namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] }, out);
    role.require_form("name", |name| names::path_segment(name, false), out);
    for (i, subject) in binding.items("subjects").iter().enumerate() {
        let subject = At { value: subject, path: FieldPath::new("subjects").index(i) };
        subject.require("name", out);
        match subject.text("kind") {
            "ServiceAccount" => {
                subject.form("name", names::dns1123_subdomain, out);
                supported(&subject, "apiGroup", &[""], out);
                if !namespaced && subject.text("namespace").is_empty() {
                    subject.missing("namespace", "", out);
                }
            }
            "User" | "Group" => supported(&subject, "apiGroup", &[GROUP], out),
            _ => supported(&subject, "kind", &["ServiceAccount", "User", "Group"], out),
        }
    }
}

fn same_role(new: &Value, old: &Value, out: &mut FieldErrors) {
    let role = At::member(new, "roleRef");
    if *role.value != old["roleRef"] {
        role.wrong("cannot change roleRef", out);
    }
}

fn binding_cells(binding: &Value, now: Timestamp) -> Vec<Value> {
    let role = binding.get_or_null("roleRef");
    let of = |kind: &str| -> Value {
        let subjects = binding.items("subjects").iter().filter(|s| s.text("kind") == kind);
        let shown = |subject: &Value| match kind {
            "ServiceAccount" => format!("{}/{}", subject.text("namespace"), subject.text("name")),
            _ => subject.text("name").to_owned(),
        };
        subjects.map(shown).collect::<Vec<_>>().join(", ").into()
    };
    vec![
        name_cell(binding),
        format!("{}/{}", role.text("kind"), role.text("name")).into(),
        age::cell(binding, now),
        of("User"),
        of("Group"),
        of("ServiceAccount"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Part, Rules};
    use serde_json::json;

    #[test]
    fn roles() {
        let role = json!({"metadata": {"name": "system:x"}, "rules": [{}, {"verbs": ["get"], "nonResourceURLs": ["/x"], "resources": ["y"]}]});
        let found: Vec<_> = ROLE.validate_create(&role).iter().map(ToString::to_string).collect();
        assert_eq!(found.len(), 5, "{found:?}");
        assert_eq!(found[0], "rules[0].verbs: Required value: verbs must contain at least one value");
        assert_eq!(CLUSTER_ROLE.validate_create(&role).len(), 4);
        assert!(ROLE.name_faults("system:a b", false).is_empty());
        assert_eq!(ROLE.name_faults("a/b", false), ["may not contain '/'"]);
    }

    #[test]
    fn bindings() {
        let mut binding = json!({"metadata": {"name": "b"}, "roleRef": {"kind": "ClusterRole", "name": "view"},
            "subjects": [{"kind": "User", "name": "u"}, {"kind": "ServiceAccount", "name": "a", "namespace": "n"}]});
        CLUSTER_ROLE_BINDING.default(&mut binding);
        assert_eq!(CLUSTER_ROLE_BINDING.validate_create(&binding), []);
        assert_eq!(
            CLUSTER_ROLE_BINDING.cells(&binding, Timestamp::UNIX_EPOCH),
            ["b", "ClusterRole/view", "<unknown>", "u", "", "n/a"].map(Value::from)
        );
        let mut new = binding.clone();
        new["roleRef"]["name"] = json!("edit");
        new["subjects"] = json!([{"kind": "Robot", "name": ""}]);
        let found: Vec<_> =
            CLUSTER_ROLE_BINDING.validate_update(&new, &binding, Part::Main).iter().map(ToString::to_string).collect();
        assert_eq!(found[0], "subjects[0].name: Required value");
        assert_eq!(
            found[1],
            "subjects[0].kind: Unsupported value: \"Robot\": supported values: \"Group\", \"ServiceAccount\", \"User\""
        );
        assert!(found[2].ends_with("cannot change roleRef"));
    }
}
