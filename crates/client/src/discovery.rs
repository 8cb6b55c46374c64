//! What a server serves, and how people call it: discovery with the lookups of kubectl.
//!
//! Asked in the aggregated form (`apidiscovery.k8s.io/v2`, two requests); servers that do not know it answer with the
//! old lists, which are then followed group by group.

use http::Method;
use serde::Deserialize;
use skiff_meta::{GroupVersion, GroupVersionKind, GroupVersionResource};

use crate::backend::ClientError;
use crate::client::{Call, Client};

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";

/// One resource at one version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApiResource {
    /// API group, empty for core.
    pub group: String,
    /// Version.
    pub version: String,
    /// Plural resource name.
    pub resource: String,
    /// Singular name.
    pub singular: String,
    /// Kind.
    pub kind: String,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// Verbs the server serves.
    pub verbs: Vec<String>,
    /// Short names, such as `po`.
    pub short_names: Vec<String>,
    /// Categories, such as `all`.
    pub categories: Vec<String>,
    /// Subresources, without the resource's name.
    pub subresources: Vec<Subresource>,
}

/// A subresource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subresource {
    /// Name, such as `status`.
    pub name: String,
    /// Kind of its body.
    pub kind: String,
    /// Verbs the server serves.
    pub verbs: Vec<String>,
}

impl ApiResource {
    /// Group, version, resource.
    pub fn gvr(&self) -> GroupVersionResource {
        GroupVersionResource::new(&*self.group, &*self.version, &*self.resource)
    }
    /// Group, version, kind.
    pub fn gvk(&self) -> GroupVersionKind {
        GroupVersionKind::new(&*self.group, &*self.version, &*self.kind)
    }
    /// `apps/v1`.
    pub fn api_version(&self) -> String {
        GroupVersion::new(&*self.group, &*self.version).to_string()
    }
    /// Whether the server serves `verb`.
    pub fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }
    /// Whether it has the subresource `name`.
    pub fn has(&self, name: &str) -> bool {
        self.subresources.iter().any(|s| s.name == name)
    }
    /// Whether people may mean this resource when they say `word`, in lower case.
    fn is_called(&self, word: &str) -> bool {
        self.resource == word
            || self.singular == word
            || self.kind.to_lowercase() == word
            || self.short_names.iter().any(|short| short == word)
    }
}

/// Everything a server serves: groups in its order of preference, versions within a group as well.
#[derive(Clone, Debug, Default)]
pub struct Discovery {
    resources: Vec<ApiResource>,
    stale: Vec<GroupVersion>,
}

impl Discovery {
    /// Asks the server.
    ///
    /// # Errors
    /// When neither the new nor the old form can be had.
    pub async fn fetch(client: &Client) -> Result<Self, ClientError> {
        let mut found = Self::default();
        for root in ["/api", "/apis"] {
            let call = Call { accept: AGGREGATED, ..Call::new(Method::GET, root) };
            let answer: Root = client.call(call).await?;
            found.add_groups(&answer);
            let old_groups = answer.groups.iter().flat_map(|group| &group.versions).map(|v| &v.group_version);
            for version in answer.versions.iter().chain(old_groups) {
                found.add_old(client, root, version).await?;
            }
        }
        Ok(found)
    }

    /// From resources, for tests and for servers that know themselves.
    pub fn from_resources(resources: Vec<ApiResource>) -> Self {
        Self { resources, stale: Vec::new() }
    }

    fn add_groups(&mut self, answer: &Root) {
        for group in &answer.items {
            for version in &group.versions {
                if version.freshness == "Stale" {
                    self.stale.push(GroupVersion::new(&*group.metadata.name, &*version.version));
                }
                let resources = version.resources.iter().map(|r| r.build(&group.metadata.name, &version.version));
                self.resources.extend(resources);
            }
        }
    }

    async fn add_old(&mut self, client: &Client, root: &str, version: &str) -> Result<(), ClientError> {
        let gv: GroupVersion = version.parse().unwrap_or_default();
        let list: OldList = match client.call(Call::get(format!("{root}/{version}"))).await {
            Ok(list) => list,
            Err(ClientError::Api(_)) => {
                self.stale.push(gv);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        for old in list.resources {
            match old.name.split_once('/') {
                None => self.resources.push(old.build(&gv)),
                Some((parent, sub)) => {
                    let same =
                        |r: &&mut ApiResource| r.group == gv.group && r.version == gv.version && r.resource == parent;
                    if let Some(parent) = self.resources.iter_mut().find(same) {
                        let sub =
                            Subresource { name: sub.to_owned(), kind: old.kind.clone(), verbs: old.verbs.clone() };
                        parent.subresources.push(sub);
                    }
                }
            }
        }
        Ok(())
    }

    /// All resources at all versions.
    pub fn resources(&self) -> &[ApiResource] {
        &self.resources
    }

    /// Group versions whose resources are not known now (an aggregated server is down).
    pub fn stale(&self) -> &[GroupVersion] {
        &self.stale
    }

    /// Each resource once, at its preferred version.
    pub fn preferred(&self) -> impl Iterator<Item = &ApiResource> {
        let mut seen = std::collections::BTreeSet::new();
        self.resources.iter().filter(move |r| seen.insert((&r.group, &r.resource)))
    }

    /// The resource at exactly this place.
    pub fn resource(&self, gvr: &GroupVersionResource) -> Option<&ApiResource> {
        self.resources.iter().find(|r| r.group == gvr.group && r.version == gvr.version && r.resource == gvr.resource)
    }

    /// The resource that serves a kind: at the version asked for, else (`version` empty) the preferred one.
    pub fn kind(&self, group: &str, version: &str, kind: &str) -> Option<&ApiResource> {
        let same =
            |r: &&ApiResource| r.group == group && r.kind == kind && (version.is_empty() || r.version == version);
        self.resources.iter().find(same)
    }

    /// What people mean: `pods`, `pod`, `po`, `Pod`, `deployments.apps`, `deployments.v1.apps`; case does not count.
    pub fn lookup(&self, text: &str) -> Option<&ApiResource> {
        let text = text.to_lowercase();
        let (word, rest) = text.split_once('.').map_or((&*text, None), |(word, rest)| (word, Some(rest)));
        let fits = |r: &&ApiResource| match rest {
            None => true,
            Some(rest) => match rest.split_once('.') {
                Some((version, group)) if r.version == version && r.group == group => true,
                _ => {
                    r.group == rest
                        || (r.group.is_empty() && r.version == rest)
                        || r.group.starts_with(&format!("{rest}."))
                }
            },
        };
        let mut candidates = self.resources.iter().filter(|r| r.is_called(word)).filter(fits);
        // A full name beats a short name of an earlier group.
        let first =
            candidates.clone().find(|r| r.resource == word || r.singular == word || r.kind.to_lowercase() == word);
        first.or_else(|| candidates.next())
    }

    /// The resources of a category such as `all`, each at its preferred version.
    pub fn category<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a ApiResource> {
        self.preferred().filter(move |r| r.categories.iter().any(|c| c == name))
    }
}

#[derive(Deserialize)]
struct Root {
    #[serde(default)]
    items: Vec<NewGroup>,
    /// The old form of `/api`.
    #[serde(default)]
    versions: Vec<String>,
    /// The old form of `/apis`.
    #[serde(default)]
    groups: Vec<OldGroup>,
}

#[derive(Deserialize)]
struct OldGroup {
    #[serde(default)]
    versions: Vec<OldVersion>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OldVersion {
    group_version: String,
}

#[derive(Deserialize, Default)]
struct GroupMeta {
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
struct NewGroup {
    #[serde(default)]
    metadata: GroupMeta,
    #[serde(default)]
    versions: Vec<NewVersion>,
}

#[derive(Deserialize)]
struct NewVersion {
    version: String,
    #[serde(default)]
    freshness: String,
    #[serde(default)]
    resources: Vec<NewResource>,
}

#[derive(Deserialize)]
struct KindOnly {
    #[serde(default)]
    kind: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NewResource {
    resource: String,
    #[serde(default)]
    response_kind: Option<KindOnly>,
    #[serde(default)]
    scope: String,
    #[serde(default)]
    singular_resource: String,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    short_names: Vec<String>,
    #[serde(default)]
    categories: Vec<String>,
    #[serde(default)]
    subresources: Vec<NewSubresource>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NewSubresource {
    subresource: String,
    #[serde(default)]
    response_kind: Option<KindOnly>,
    #[serde(default)]
    verbs: Vec<String>,
}

impl NewResource {
    fn build(&self, group: &str, version: &str) -> ApiResource {
        let kind_of = |kind: &Option<KindOnly>| kind.as_ref().map(|k| k.kind.clone()).unwrap_or_default();
        let subresource = |s: &NewSubresource| Subresource {
            name: s.subresource.clone(),
            kind: kind_of(&s.response_kind),
            verbs: s.verbs.clone(),
        };
        ApiResource {
            group: group.to_owned(),
            version: version.to_owned(),
            resource: self.resource.clone(),
            singular: self.singular_resource.clone(),
            kind: kind_of(&self.response_kind),
            namespaced: self.scope == "Namespaced",
            verbs: self.verbs.clone(),
            short_names: self.short_names.clone(),
            categories: self.categories.clone(),
            subresources: self.subresources.iter().map(subresource).collect(),
        }
    }
}

#[derive(Deserialize)]
struct OldList {
    #[serde(default)]
    resources: Vec<OldResource>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct OldResource {
    name: String,
    singular_name: String,
    namespaced: bool,
    kind: String,
    verbs: Vec<String>,
    short_names: Vec<String>,
    categories: Vec<String>,
}

impl OldResource {
    fn build(&self, gv: &GroupVersion) -> ApiResource {
        ApiResource {
            group: gv.group.clone(),
            version: gv.version.clone(),
            resource: self.name.clone(),
            singular: self.singular_name.clone(),
            kind: self.kind.clone(),
            namespaced: self.namespaced,
            verbs: self.verbs.clone(),
            short_names: self.short_names.clone(),
            categories: self.categories.clone(),
            subresources: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn discovery() -> Discovery {
        let answer: Root = serde_json::from_value(serde_json::json!({"items": [
            {"versions": [{"version": "v1", "resources": [
                {"resource": "pods", "responseKind": {"kind": "Pod"}, "scope": "Namespaced", "singularResource": "pod",
                 "verbs": ["get", "list"], "shortNames": ["po"], "categories": ["all"],
                 "subresources": [{"subresource": "log", "responseKind": {"kind": "Pod"}, "verbs": ["get"]}]},
                {"resource": "events", "responseKind": {"kind": "Event"}, "scope": "Namespaced", "shortNames": ["ev"]}]}]},
            {"metadata": {"name": "autoscaling"}, "versions": [
                {"version": "v2", "resources": [{"resource": "hpas", "responseKind": {"kind": "HPA"}, "scope": "Namespaced"}]},
                {"version": "v1", "resources": [{"resource": "hpas", "responseKind": {"kind": "HPA"}, "scope": "Namespaced"}]}]},
            {"metadata": {"name": "events.k8s.io"}, "versions": [{"version": "v1", "freshness": "Stale", "resources": [
                {"resource": "events", "responseKind": {"kind": "Event"}, "scope": "Namespaced"}]}]},
        ]}))
        .unwrap();
        let mut found = Discovery::default();
        found.add_groups(&answer);
        found
    }

    #[test]
    fn people_find_resources_by_many_names() {
        let found = discovery();
        let table = [
            ("pods", Some("/v1/pods")),
            ("PO", Some("/v1/pods")),
            ("Pod", Some("/v1/pods")),
            ("pods.v1", Some("/v1/pods")),
            ("events", Some("/v1/events")),
            ("events.events.k8s.io", Some("events.k8s.io/v1/events")),
            ("events.v1.events.k8s.io", Some("events.k8s.io/v1/events")),
            ("hpa", Some("autoscaling/v2/hpas")),
            ("hpas.v1.autoscaling", Some("autoscaling/v1/hpas")),
            ("pods.apps", None),
            ("nothing", None),
        ];
        for (text, expected) in table {
            let got = found.lookup(text).map(|r| format!("{}/{}/{}", r.group, r.version, r.resource));
            assert_eq!(got.as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn preferred_categories_subresources_and_staleness() {
        let found = discovery();
        assert_eq!(found.preferred().count(), 4);
        assert_eq!(found.category("all").map(|r| &*r.kind).collect::<Vec<_>>(), ["Pod"]);
        assert!(found.lookup("pod").is_some_and(|r| r.has("log") && r.can("get") && !r.can("delete")));
        assert_eq!(found.stale(), [GroupVersion::new("events.k8s.io", "v1")]);
    }
}
