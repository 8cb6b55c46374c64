//! Which kinds the cluster serves, and how people name them.

use serde_json::Value;
use skiff_meta::GroupVersion;

use crate::error::CliError;
use crate::wire::Wire;

const DISCOVERY: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";

/// One resource as the cluster serves it.
#[derive(Clone, Debug, Default)]
pub struct Kind {
    /// Group and version.
    pub group_version: GroupVersion,
    /// `Deployment`.
    pub kind: String,
    /// `deployments`.
    pub plural: String,
    /// `deployment`.
    pub singular: String,
    /// `deploy`.
    pub short: Vec<String>,
    /// `all`.
    pub categories: Vec<String>,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    /// What can be done with it.
    pub verbs: Vec<String>,
}

impl Kind {
    /// The path of the collection (in `namespace`, when namespaced and not empty).
    pub fn path(&self, namespace: &str) -> String {
        let root = if self.group_version.group.is_empty() { "/api" } else { "/apis" };
        let place =
            if self.namespaced && !namespace.is_empty() { format!("/namespaces/{namespace}") } else { String::new() };
        format!("{root}/{}{place}/{}", self.group_version, self.plural)
    }
    /// The path of one object.
    pub fn object_path(&self, namespace: &str, name: &str) -> String {
        format!("{}/{name}", self.path(namespace))
    }
    /// `deployment.apps`, as messages name it.
    pub fn named(&self) -> String {
        let singular = if self.singular.is_empty() { self.kind.to_lowercase() } else { self.singular.clone() };
        match &*self.group_version.group {
            "" => singular,
            group => format!("{singular}.{group}"),
        }
    }
    fn answers_to(&self, word: &str) -> bool {
        word == self.plural
            || word == self.singular
            || self.short.iter().any(|s| s == word)
            || word.eq_ignore_ascii_case(&self.kind)
    }
}

/// All kinds of a cluster, in the server's order of preference.
#[derive(Clone, Debug, Default)]
pub struct Kinds(pub Vec<Kind>);

impl Kinds {
    /// Asks the cluster: two requests, by aggregated discovery.
    pub async fn discover(wire: &Wire) -> Result<Self, CliError> {
        let mut kinds = Vec::new();
        for root in ["/api", "/apis"] {
            read_groups(&wire.get_as(root, DISCOVERY).await?, &mut kinds);
        }
        Ok(Self(kinds))
    }

    /// The kind a person means by `word`: `po`, `pods`, `Pod`, `deployments.apps`, `deployments.v1.apps`.
    pub fn find(&self, word: &str) -> Result<&Kind, CliError> {
        let unknown = || CliError::usage(format!("the server doesn't have a resource type \"{word}\""));
        if let Some(found) = self.0.iter().find(|k| k.answers_to(word)) {
            return Ok(found);
        }
        let (resource, rest) = word.split_once('.').ok_or_else(unknown)?;
        let fits = |kind: &&Kind| {
            let GroupVersion { group, version } = &kind.group_version;
            kind.answers_to(resource)
                && (rest == group
                    || rest.strip_prefix(version.as_str()).is_some_and(|r| r.strip_prefix('.').unwrap_or(r) == group))
        };
        self.0.iter().find(fits).ok_or_else(unknown)
    }

    /// The kinds behind a word that may be a category (`all`).
    pub fn expand(&self, word: &str) -> Result<Vec<&Kind>, CliError> {
        let members: Vec<&Kind> = self.0.iter().filter(|k| k.categories.iter().any(|c| c == word)).collect();
        if members.is_empty() { Ok(vec![self.find(word)?]) } else { Ok(members) }
    }

    /// The kind of a manifest.
    pub fn of_object(&self, object: &Value) -> Result<&Kind, CliError> {
        let text = |name: &str| object[name].as_str().unwrap_or_default();
        let (api_version, kind) = (text("apiVersion"), text("kind"));
        if kind.is_empty() || api_version.is_empty() {
            let missing = if kind.is_empty() { "kind" } else { "apiVersion" };
            return Err(CliError::usage(format!(
                "the manifest has no {missing}; every object needs apiVersion and kind"
            )));
        }
        let found = self.0.iter().find(|k| k.kind == kind && k.group_version.to_string() == api_version);
        found.ok_or_else(|| {
            CliError::usage(format!(
                "resource mapping not found: no matches for kind \"{kind}\" in version \"{api_version}\"\nensure CRDs are installed first"
            ))
        })
    }
}

fn read_groups(list: &Value, kinds: &mut Vec<Kind>) {
    let items = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let texts = |value: &Value| items(value).iter().map(text).collect::<Vec<_>>();
    for group in items(&list["items"]) {
        let name = text(&group["metadata"]["name"]);
        for version in items(&group["versions"]) {
            for resource in items(&version["resources"]) {
                kinds.push(Kind {
                    group_version: GroupVersion::new(&*name, text(&version["version"])),
                    kind: text(&resource["responseKind"]["kind"]),
                    plural: text(&resource["resource"]),
                    singular: text(&resource["singularResource"]),
                    short: texts(&resource["shortNames"]),
                    categories: texts(&resource["categories"]),
                    namespaced: resource["scope"] == "Namespaced",
                    verbs: texts(&resource["verbs"]),
                });
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::json;

    pub(crate) fn sample() -> Kinds {
        let resource = |plural: &str, kind: &str, short: &[&str], categories: &[&str], scope: &str| {
            json!({"resource": plural, "responseKind": {"kind": kind}, "singularResource": kind.to_lowercase(),
                "shortNames": short, "categories": categories, "scope": scope, "verbs": ["get", "list"]})
        };
        let core = json!({"items": [{"metadata": {}, "versions": [{"version": "v1", "resources": [
            resource("pods", "Pod", &["po"], &["all"], "Namespaced"), resource("nodes", "Node", &["no"], &[], "Cluster"),
            resource("events", "Event", &["ev"], &[], "Namespaced")]}]}]});
        let apps = json!({"items": [
            {"metadata": {"name": "apps"}, "versions": [{"version": "v1", "resources": [
                resource("deployments", "Deployment", &["deploy"], &["all"], "Namespaced")]}]},
            {"metadata": {"name": "events.k8s.io"}, "versions": [{"version": "v1", "resources": [
                resource("events", "Event", &["ev"], &[], "Namespaced")]}]}]});
        let mut kinds = Vec::new();
        read_groups(&core, &mut kinds);
        read_groups(&apps, &mut kinds);
        Kinds(kinds)
    }

    #[test]
    fn people_name_kinds_in_many_ways() {
        let kinds = sample();
        for word in ["deployments", "deployment", "deploy", "Deployment", "deployments.apps", "deploy.v1.apps"] {
            assert_eq!(kinds.find(word).unwrap().kind, "Deployment", "{word}");
        }
        assert_eq!(kinds.find("ev").unwrap().group_version.group, "");
        assert_eq!(kinds.find("events.events.k8s.io").unwrap().group_version.group, "events.k8s.io");
        assert_eq!(kinds.find("pods.v1.").unwrap().kind, "Pod");
        assert!(kinds.find("nothing").is_err());
        assert_eq!(kinds.expand("all").unwrap().len(), 2);
    }

    #[test]
    fn paths() {
        let kinds = sample();
        let deploy = kinds.find("deploy").unwrap();
        assert_eq!(deploy.object_path("x", "y"), "/apis/apps/v1/namespaces/x/deployments/y");
        assert_eq!(deploy.path(""), "/apis/apps/v1/deployments");
        assert_eq!(kinds.find("no").unwrap().object_path("x", "y"), "/api/v1/nodes/y");
        assert_eq!(deploy.named(), "deployment.apps");
    }
}
