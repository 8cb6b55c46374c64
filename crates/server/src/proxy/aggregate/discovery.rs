//! What extension servers serve, beside what we serve ourselves.

use serde_json::{Value, json};

use super::Extension;

/// Adds the extensions to a document of discovery; makes one for a group that only they have.
pub(super) fn merged(
    path: &str,
    aggregated: bool,
    document: Option<Value>,
    extensions: &[&Extension],
) -> Option<Value> {
    let mut groups: Vec<&str> = extensions.iter().map(|e| e.group.as_str()).collect();
    groups.sort_by_key(|group| std::cmp::Reverse(priority(group, extensions)));
    groups.dedup();
    match path {
        "/apis" if aggregated => {
            let mut list = document?;
            let items = list.get_mut("items")?.as_array_mut()?;
            for group in groups {
                let versions = of_group(group, extensions).into_iter().map(|e| e.resources.clone());
                match items.iter_mut().find(|item| item["metadata"]["name"] == group) {
                    Some(item) => extend(item, "version", versions),
                    None => {
                        let versions: Vec<Value> = versions.collect();
                        items.push(json!({"metadata": {"name": group}, "versions": versions}));
                    }
                }
            }
            Some(list)
        }
        "/apis" => {
            let mut list = document?;
            let items = list.get_mut("groups")?.as_array_mut()?;
            for group in groups {
                match items.iter_mut().find(|item| item["name"] == group) {
                    Some(item) => extend(item, "version", of_group(group, extensions).into_iter().map(version)),
                    None => items.push(plain(group, extensions)),
                }
            }
            Some(list)
        }
        _ => {
            let group = path.strip_prefix("/apis/").filter(|group| groups.contains(group));
            let Some(group) = group else { return document };
            let mut document = document.unwrap_or_else(|| {
                let mut made = plain(group, &[]);
                made["kind"] = json!("APIGroup");
                made["apiVersion"] = json!("v1");
                made
            });
            extend(&mut document, "version", of_group(group, extensions).into_iter().map(version));
            if document["preferredVersion"].is_null() {
                document["preferredVersion"] = document["versions"][0].clone();
            }
            Some(document)
        }
    }
}

/// Versions of the owner's own come first, and are replaced by an extension's of the same name.
fn extend(item: &mut Value, name: &str, versions: impl Iterator<Item = Value>) {
    let Some(all) = item.get_mut("versions").and_then(Value::as_array_mut) else { return };
    for version in versions {
        match all.iter_mut().find(|known| known[name] == version[name]) {
            Some(known) => *known = version,
            None => all.push(version),
        }
    }
}

fn priority(group: &str, extensions: &[&Extension]) -> i32 {
    extensions.iter().filter(|e| e.group == group).map(|e| e.priority.0).max().unwrap_or(0)
}

fn of_group<'a>(group: &str, extensions: &[&'a Extension]) -> Vec<&'a Extension> {
    let mut all: Vec<&Extension> = extensions.iter().copied().filter(|e| e.group == group).collect();
    all.sort_by(|a, b| {
        let newer = || crate::resource::registry::compare_versions(&b.version, &a.version);
        b.priority.1.cmp(&a.priority.1).then_with(newer)
    });
    all
}

fn version(extension: &Extension) -> Value {
    let (group, version) = (&extension.group, &extension.version);
    json!({"groupVersion": format!("{group}/{version}"), "version": version})
}

fn plain(group: &str, extensions: &[&Extension]) -> Value {
    let versions: Vec<Value> = of_group(group, extensions).into_iter().map(version).collect();
    json!({"name": group, "versions": versions, "preferredVersion": versions.first()})
}

/// The aggregated form of a plain list of resources, for servers that know only that.
pub(super) fn aggregate(version: &str, list: &Value) -> Value {
    let all: Vec<&Value> = list.get("resources").and_then(Value::as_array).into_iter().flatten().collect();
    let kind = |r: &Value| {
        let text = |name: &str| r.get(name).and_then(Value::as_str).unwrap_or_default();
        json!({"group": text("group"), "version": text("version"), "kind": text("kind")})
    };
    let name = |r: &Value| r.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    let entry = |r: &&Value| {
        let (plural, namespaced) = (name(r), r.get("namespaced") == Some(&Value::Bool(true)));
        let mut entry = json!({
            "resource": plural, "responseKind": kind(r), "scope": if namespaced { "Namespaced" } else { "Cluster" },
            "singularResource": r.get("singularName").cloned().unwrap_or_default(), "verbs": r["verbs"],
        });
        for list in ["shortNames", "categories"] {
            if let Some(names) = r.get(list) {
                entry[list] = names.clone();
            }
        }
        let parts: Vec<Value> = all
            .iter()
            .filter_map(|sub| {
                let part = name(sub).strip_prefix(&format!("{plural}/"))?.to_owned();
                Some(json!({"subresource": part, "responseKind": kind(sub), "verbs": sub["verbs"]}))
            })
            .collect();
        if !parts.is_empty() {
            entry["subresources"] = Value::Array(parts);
        }
        entry
    };
    let resources: Vec<Value> = all.iter().filter(|r| !name(r).contains('/')).map(entry).collect();
    json!({"version": version, "resources": resources, "freshness": "Current"})
}
