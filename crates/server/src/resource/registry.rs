//! Which resources are served, found by path, by name and by kind. Immutable; replaced as a whole when a definition of
//! a custom kind comes or goes, so that every request sees one consistent state.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use skiff_meta::{GroupKind, GroupResource, GroupVersionKind, GroupVersionResource};

use super::{Resource, Served, Version};

type ByVersion = HashMap<String, HashMap<String, Served>>;

/// All that is served.
#[derive(Default)]
pub(crate) struct Registry {
    resources: Vec<Arc<Resource>>,
    by_path: HashMap<String, ByVersion>,
    by_kind: HashMap<GroupKind, Arc<Resource>>,
    groups: Vec<Group>,
    /// Discovery documents, made when first asked for.
    pub(super) documents: OnceLock<HashMap<String, Bytes>>,
}

/// One group and its versions, the preferred one first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    /// Empty for core.
    pub(crate) name: String,
    /// `v1`, ...
    pub(crate) versions: Vec<String>,
}

impl Registry {
    /// From all resources; groups keep the order of their first appearance.
    pub(crate) fn new(resources: Vec<Arc<Resource>>) -> Self {
        let mut registry = Self::default();
        for resource in &resources {
            registry.add(resource);
        }
        for group in &mut registry.groups {
            group.versions.sort_by(|a, b| compare_versions(b, a));
        }
        registry.resources = resources;
        registry
    }

    fn add(&mut self, resource: &Arc<Resource>) {
        let name = &resource.id.group;
        self.by_kind.insert(GroupKind::new(&**name, &*resource.names.kind), resource.clone());
        let at = self.groups.iter().position(|g| g.name == *name).unwrap_or_else(|| {
            self.groups.push(Group { name: name.clone(), versions: Vec::new() });
            self.groups.len() - 1
        });
        for version in &resource.versions {
            let name = &version.gvk.version;
            if !self.groups[at].versions.contains(name) {
                self.groups[at].versions.push(name.clone());
            }
            let served = Served { resource: resource.clone(), version: version.clone() };
            let group = self.by_path.entry(resource.id.group.clone()).or_default();
            group.entry(name.clone()).or_default().insert(resource.id.resource.clone(), served);
        }
    }

    /// The resource a path means.
    pub(crate) fn find(&self, path: &GroupVersionResource) -> Option<&Served> {
        self.by_path.get(&path.group)?.get(&path.version)?.get(&path.resource)
    }

    /// The resource with this group and plural, at its preferred version.
    pub(crate) fn preferred(&self, id: &GroupResource) -> Option<Served> {
        let versions = self.by_path.get(&id.group)?;
        let resource = &versions.values().find_map(|v| v.get(&id.resource))?.resource;
        Some(Served { resource: resource.clone(), version: resource.versions.first()?.clone() })
    }

    /// The resource whose objects are of this kind, at this version.
    pub(crate) fn by_kind(&self, gvk: &GroupVersionKind) -> Option<Served> {
        let resource = self.by_kind.get(&gvk.group_kind())?;
        let version: &Arc<Version> = resource.versions.iter().find(|v| v.gvk.version == gvk.version)?;
        Some(Served { resource: resource.clone(), version: version.clone() })
    }

    /// All resources.
    pub(crate) fn resources(&self) -> &[Arc<Resource>] {
        &self.resources
    }

    /// All groups, core first.
    pub(crate) fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// The resources of a group version, by plural.
    pub(crate) fn in_version(&self, group: &str, version: &str) -> Vec<&Served> {
        let found = self.by_path.get(group).and_then(|g| g.get(version));
        let mut all: Vec<&Served> = found.into_iter().flat_map(HashMap::values).collect();
        all.sort_by(|a, b| a.resource.id.resource.cmp(&b.resource.id.resource));
        all
    }
}

/// Kubernetes' order of versions: `v2` over `v1` over `v2beta1` over `v1beta2` over `v1alpha1` over anything else, the
/// latter by name (upstream: `k8s.io/apimachinery/pkg/version`).
pub(crate) fn compare_versions(a: &str, b: &str) -> std::cmp::Ordering {
    match (parse_version(a), parse_version(b)) {
        (Some(a), Some(b)) => a.cmp(&b),
        (Some(_), None) => std::cmp::Ordering::Greater,
        (None, Some(_)) => std::cmp::Ordering::Less,
        (None, None) => b.cmp(a),
    }
}

/// (stability, major, minor)
fn parse_version(text: &str) -> Option<(u8, u64, u64)> {
    let rest = text.strip_prefix('v')?;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let major = rest.get(..digits)?.parse().ok()?;
    let tail = rest.get(digits..)?;
    if tail.is_empty() {
        return Some((2, major, 0));
    }
    let (stability, minor) = match (tail.strip_prefix("beta"), tail.strip_prefix("alpha")) {
        (Some(minor), _) => (1, minor),
        (_, Some(minor)) => (0, minor),
        _ => return None,
    };
    Some((stability, major, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_kubernetes_orders_them() {
        let expected =
            ["v10", "v2", "v1", "v11beta2", "v10beta3", "v3beta1", "v12alpha1", "v11alpha2", "foo1", "foo10"];
        let mut sorted = expected;
        sorted.reverse();
        sorted.sort_by(|a, b| compare_versions(b, a));
        assert_eq!(sorted, expected);
    }
}
