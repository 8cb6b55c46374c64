//! The roles and bindings that every cluster has, from the table in `defaults.txt`.

use serde_json::{Value, json};

const TABLE: &str = include_str!("defaults.txt");
const GROUP: &str = "rbac.authorization.k8s.io";
const CONTROLLER: &str = "system:controller:";

/// All default roles and bindings as objects, aggregated cluster roles with the rules they will aggregate.
pub(crate) fn default_objects() -> Vec<Value> {
    let mut objects = Vec::new();
    for line in TABLE.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(rule) = line.strip_prefix("  ") {
            if let Some(rules) = objects.last_mut().and_then(|role: &mut Value| role["rules"].as_array_mut()) {
                rules.push(rule_object(rule));
            }
            continue;
        }
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "bind" => objects.push(binding_object(rest)),
            "controller" => {
                let name = format!("{CONTROLLER}{rest}");
                objects.push(binding(&name, &name, vec![subject(&format!("account={rest}"))]));
                objects.push(role_object(&name, false));
            }
            _ => objects.push(role_object(rest, word == "aggregate")),
        }
    }
    aggregate(&mut objects);
    objects
}

/// `[NAMESPACE/]NAME [into AGGREGATE]`
fn role_object(text: &str, aggregates: bool) -> Value {
    let (full, into) = text.split_once(" into ").map_or((text, None), |(name, into)| (name, Some(into)));
    let mut role = object("Role", full);
    role["rules"] = json!([]);
    if let Some(into) = into {
        role["metadata"]["labels"][aggregation_label(into)] = json!("true");
    }
    if aggregates {
        role["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {aggregation_label(full): "true"}}]});
    }
    role
}

fn aggregation_label(into: &str) -> String {
    format!("{GROUP}/aggregate-to-{into}")
}

/// `VERBS | GROUPS | RESOURCES [| NAMES]` or `VERBS | paths | PATHS`
fn rule_object(text: &str) -> Value {
    let columns: Vec<Vec<&str>> = text.split('|').map(|column| column.split_whitespace().collect()).collect();
    let column = |index: usize| columns.get(index).map(Vec::as_slice).unwrap_or_default();
    let verbs: Vec<&str> = column(0).iter().flat_map(|verb| verbs_of(verb)).collect();
    if column(1) == ["paths"] {
        return json!({"nonResourceURLs": column(2), "verbs": verbs});
    }
    let groups: Vec<&str> = column(1).iter().map(|&group| if group == "core" { "" } else { group }).collect();
    let mut rule = json!({"apiGroups": groups, "resources": column(2), "verbs": verbs});
    if columns.len() > 3 {
        rule["resourceNames"] = json!(column(3));
    }
    rule
}

fn verbs_of<'a>(word: &'a &str) -> Vec<&'a str> {
    match *word {
        "read" => vec!["get", "list", "watch"],
        "write" => vec!["create", "update", "patch", "delete", "deletecollection"],
        verb => vec![verb],
    }
}

/// `[NAMESPACE/]NAME | ROLE | SUBJECTS`
fn binding_object(text: &str) -> Value {
    let mut columns = text.split('|').map(str::trim);
    let (name, role) = (columns.next().unwrap_or_default(), columns.next().unwrap_or_default());
    let subjects = columns.next().unwrap_or_default().split_whitespace().map(subject).collect();
    binding(name, role, subjects)
}

fn binding(full: &str, role: &str, subjects: Vec<Value>) -> Value {
    let mut binding = object("RoleBinding", full);
    let kind = if full.contains('/') { "Role" } else { "ClusterRole" };
    binding["roleRef"] = json!({"apiGroup": GROUP, "kind": kind, "name": role});
    if !subjects.is_empty() {
        binding["subjects"] = json!(subjects);
    }
    binding
}

/// `user=NAME`, `group=NAME`, `account=NAME`
fn subject(text: &str) -> Value {
    match text.split_once('=') {
        Some(("account", name)) => json!({"kind": "ServiceAccount", "name": name, "namespace": "kube-system"}),
        Some(("group", name)) => json!({"apiGroup": GROUP, "kind": "Group", "name": name}),
        _ => json!({"apiGroup": GROUP, "kind": "User", "name": text.trim_start_matches("user=")}),
    }
}

/// A bare object; a name with a namespace makes it namespaced, one without puts `Cluster` before its kind.
fn object(kind: &str, full: &str) -> Value {
    let mut metadata = json!({
        "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"},
        "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
    });
    let kind = match full.split_once('/') {
        Some((namespace, name)) => {
            (metadata["namespace"], metadata["name"]) = (json!(namespace), json!(name));
            kind.to_owned()
        }
        None => {
            metadata["name"] = json!(full);
            format!("Cluster{kind}")
        }
    };
    json!({"apiVersion": format!("{GROUP}/v1"), "kind": kind, "metadata": metadata})
}

/// Fills in the rules of aggregated roles, so that they work before any controller has run. `view` flows into `edit`
/// and `edit` into `admin`, so this is repeated until nothing moves.
fn aggregate(objects: &mut [Value]) {
    for _ in 0..3 {
        for index in 0..objects.len() {
            let selector = &objects[index]["aggregationRule"]["clusterRoleSelectors"][0]["matchLabels"];
            let Some(label) = selector.as_object().and_then(|s| s.keys().next().cloned()) else { continue };
            let parts = objects.iter().filter(|object| object["metadata"]["labels"].get(&label).is_some());
            let mut rules: Vec<Value> = Vec::new();
            for rule in parts.filter_map(|part| part["rules"].as_array()).flatten() {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
            objects[index]["rules"] = json!(rules);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find<'a>(objects: &'a [Value], kind: &str, namespace: Option<&str>, name: &str) -> &'a Value {
        let fits = |o: &&Value| {
            o["kind"] == kind && o["metadata"]["name"] == name && o["metadata"]["namespace"].as_str() == namespace
        };
        objects.iter().find(fits).unwrap_or_else(|| panic!("no {kind} {name}"))
    }

    #[test]
    fn the_table_is_whole() {
        let objects = default_objects();
        let count = |kind: &str| objects.iter().filter(|o| o["kind"] == kind).count();
        // 31 roles and 12 bindings for people and components, one of each for 38 controllers and for what is our own: the
        // cluster's DNS, network policies, disks for claims; a role for those who read metrics; five more bindings for
        // nodes that join.
        assert_eq!((count("ClusterRole"), count("ClusterRoleBinding")), (31 + 38 + 3 + 1, 12 + 38 + 3 + 5));
        assert_eq!((count("Role"), count("RoleBinding")), (7 + 2, 7 + 2));
        for role in objects.iter().filter(|o| o["kind"].as_str().is_some_and(|k| k.ends_with("Role"))) {
            let rules = role["rules"].as_array().unwrap();
            assert!(!rules.is_empty(), "{role}");
            for rule in rules {
                assert!(!rule["verbs"].as_array().unwrap().is_empty(), "{rule}");
                let what = rule["resources"].as_array().or(rule["nonResourceURLs"].as_array()).unwrap();
                assert!(!what.is_empty(), "{rule}");
            }
        }
        for binding in objects.iter().filter(|o| o["roleRef"].is_object()) {
            let kind = binding["roleRef"]["kind"].as_str().unwrap();
            let namespace = binding["metadata"]["namespace"].as_str();
            find(&objects, kind, namespace, binding["roleRef"]["name"].as_str().unwrap());
        }
    }

    #[test]
    fn rules_names_paths_and_subjects_are_read() {
        let objects = default_objects();
        let leases = json!({
            "apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "resourceNames": ["kube-controller-manager"],
            "verbs": ["get", "update"],
        });
        let manager = find(&objects, "ClusterRole", None, "system:kube-controller-manager");
        assert!(manager["rules"].as_array().unwrap().contains(&leases));
        let viewer = find(&objects, "ClusterRole", None, "system:public-info-viewer");
        let paths = json!(["/healthz", "/livez", "/readyz", "/version", "/version/"]);
        assert_eq!(viewer["rules"], json!([{"nonResourceURLs": paths, "verbs": ["get"]}]));
        let binding = find(&objects, "ClusterRoleBinding", None, "system:controller:job-controller");
        let account = json!([{"kind": "ServiceAccount", "name": "job-controller", "namespace": "kube-system"}]);
        assert_eq!(binding["subjects"], account);
    }

    #[test]
    fn admin_has_what_edit_and_view_have() {
        let objects = default_objects();
        let rules = |name: &str| find(&objects, "ClusterRole", None, name)["rules"].as_array().unwrap().clone();
        let (view, edit, admin) = (rules("view"), rules("edit"), rules("admin"));
        assert_eq!(view, [rules("system:aggregate-to-view"), rules("system:aggregated-metrics-reader")].concat());
        assert!(view.iter().all(|rule| edit.contains(rule)) && edit.len() > view.len());
        assert!(edit.iter().all(|rule| admin.contains(rule)) && admin.len() > edit.len());
    }
}
