//! Discovery: what is served, for clients to read (`/api`, `/apis`, `/apis/GROUP`, `/apis/GROUP/VERSION`, and all of it
//! at once in the aggregated form).

use std::collections::HashMap;

use base64::Engine as _;
use bytes::Bytes;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::registry::{Group, Registry};
use super::{Served, Subresource};

/// What asks for the aggregated form in `Accept`.
const AGGREGATED: [&str; 3] = ["g=apidiscovery.k8s.io", "v=v2", "as=APIGroupDiscoveryList"];

/// Content type of the aggregated form.
pub(crate) const AGGREGATED_TYPE: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// Whether the first clause of `accept` that we can answer asks for the aggregated form.
pub(crate) fn wants_aggregated(accept: &str) -> bool {
    accept
        .split(',')
        .map(|clause| clause.split(';').map(str::trim).collect::<Vec<_>>())
        .find(|parts| matches!(parts.first(), Some(&("application/json" | "*/*"))) && !asks_other(parts))
        .is_some_and(|parts| AGGREGATED.iter().all(|p| parts.contains(p)))
}

/// A form of discovery we do not serve (`v2beta1`).
fn asks_other(parts: &[&str]) -> bool {
    parts.contains(&AGGREGATED[0]) && !AGGREGATED.iter().all(|p| parts.contains(p))
}

impl Registry {
    /// The document at `path` (without trailing slash), plain or aggregated. `address` is `HOST:PORT`.
    pub(crate) fn document(&self, path: &str, aggregated: bool, address: &str) -> Option<Bytes> {
        if path == "/api" && !aggregated {
            return Some(core_versions(address));
        }
        let documents = self.documents.get_or_init(|| self.build());
        let key = if aggregated && matches!(path, "/api" | "/apis") { format!("{path}#") } else { path.to_owned() };
        documents.get(&key).cloned()
    }

    fn build(&self) -> HashMap<String, Bytes> {
        let mut all = HashMap::new();
        let mut put = |path: String, document: Value| all.insert(path, Bytes::from(document.to_string()));
        let (core, named): (Vec<&Group>, Vec<&Group>) = self.groups().iter().partition(|g| g.name.is_empty());
        let groups: Vec<Value> = named.iter().map(|g| group(g)).collect();
        put("/apis".to_owned(), json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}));
        put("/api#".to_owned(), self.aggregate(&core));
        put("/apis#".to_owned(), self.aggregate(&named));
        for each in &core {
            for version in &each.versions {
                put(format!("/api/{version}"), self.version_document("", version));
            }
        }
        for each in &named {
            let mut document = group(each);
            document["kind"] = json!("APIGroup");
            document["apiVersion"] = json!("v1");
            put(format!("/apis/{}", each.name), document);
            for version in &each.versions {
                put(format!("/apis/{}/{version}", each.name), self.version_document(&each.name, version));
            }
        }
        all
    }

    fn version_document(&self, group: &str, version: &str) -> Value {
        let gv = group_version(group, version);
        let mut resources = Vec::new();
        for served in self.in_version(group, version) {
            resources.push(resource(served));
            resources.extend(served.version.subresources.iter().map(|s| subresource(served, s)));
        }
        let mut document = json!({"kind": "APIResourceList", "groupVersion": gv, "resources": resources});
        if !group.is_empty() {
            document["apiVersion"] = json!("v1");
        }
        document
    }

    fn aggregate(&self, groups: &[&Group]) -> Value {
        let items: Vec<Value> = groups.iter().map(|g| self.aggregate_group(g)).collect();
        json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
    }

    fn aggregate_group(&self, group: &Group) -> Value {
        let versions = group.versions.iter().map(|version| {
            let resources: Vec<Value> =
                self.in_version(&group.name, version).into_iter().map(aggregate_resource).collect();
            json!({"version": version, "resources": resources, "freshness": "Current"})
        });
        let metadata = if group.name.is_empty() { json!({}) } else { json!({"name": group.name}) };
        json!({"metadata": metadata, "versions": versions.collect::<Vec<_>>()})
    }
}

fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

fn core_versions(address: &str) -> Bytes {
    let document = json!({
        "kind": "APIVersions", "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    });
    Bytes::from(document.to_string())
}

fn group(group: &Group) -> Value {
    let version = |v: &String| json!({"groupVersion": group_version(&group.name, v), "version": v});
    let versions: Vec<Value> = group.versions.iter().map(version).collect();
    json!({"name": group.name, "preferredVersion": versions.first(), "versions": versions})
}

fn resource(served: &Served) -> Value {
    let (resource, version) = (&served.resource, &served.version);
    let names = &resource.names;
    let mut entry = Map::new();
    entry.insert("name".into(), json!(names.plural));
    entry.insert("singularName".into(), json!(names.singular));
    entry.insert("namespaced".into(), json!(resource.namespaced));
    entry.insert("kind".into(), json!(names.kind));
    entry.insert("verbs".into(), json!(version.verbs));
    if !names.short.is_empty() {
        entry.insert("shortNames".into(), json!(names.short));
    }
    if !names.categories.is_empty() {
        entry.insert("categories".into(), json!(names.categories));
    }
    if resource.cache.is_some() {
        let storage = &resource.storage;
        let text = format!("{}/{}/{}", storage.group, storage.version, storage.kind);
        let hash = base64::engine::general_purpose::STANDARD.encode(&Sha256::digest(text)[..8]);
        entry.insert("storageVersionHash".into(), json!(hash));
    }
    Value::Object(entry)
}

fn subresource(served: &Served, sub: &Subresource) -> Value {
    let (resource, version) = (&served.resource, &served.version);
    let mut entry = json!({
        "name": format!("{}/{}", resource.names.plural, sub.name), "singularName": "",
        "namespaced": resource.namespaced, "kind": sub.body.kind, "verbs": sub.verbs,
    });
    if sub.body.group_version() != version.gvk.group_version() {
        entry["group"] = json!(sub.body.group);
        entry["version"] = json!(sub.body.version);
    }
    entry
}

fn aggregate_resource(served: &Served) -> Value {
    let (resource, version) = (&served.resource, &served.version);
    let names = &resource.names;
    // Built-in kinds leave out what the path says already, custom ones say it all.
    let kind = |gvk: &skiff_meta::GroupVersionKind| {
        if !resource.custom && gvk.group_version() == version.gvk.group_version() {
            json!({"group": "", "version": "", "kind": gvk.kind})
        } else {
            json!({"group": gvk.group, "version": gvk.version, "kind": gvk.kind})
        }
    };
    let scope = if resource.namespaced { "Namespaced" } else { "Cluster" };
    let mut entry = json!({
        "resource": names.plural, "responseKind": kind(&version.gvk), "scope": scope,
        "singularResource": names.singular, "verbs": version.verbs,
    });
    if !names.short.is_empty() {
        entry["shortNames"] = json!(names.short);
    }
    if !names.categories.is_empty() {
        entry["categories"] = json!(names.categories);
    }
    if !version.subresources.is_empty() {
        let subs = version
            .subresources
            .iter()
            .map(|s| json!({"subresource": s.name, "responseKind": kind(&s.body), "verbs": s.verbs}));
        entry["subresources"] = Value::Array(subs.collect());
    }
    entry
}
