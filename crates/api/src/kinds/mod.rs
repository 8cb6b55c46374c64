//! Every built-in kind, once: names, scope, verbs, versions, subresources, where it is stored.
//!
//! A new kind is one row in [`KINDS`] (and a set of rules elsewhere); paths, discovery, OpenAPI, storage keys and the
//! mapping from names to kinds are all read from it. Rows tell what Kubernetes 1.36 serves when nobody switched an
//! alpha or a beta on. Custom kinds are rows of the same shape, made at run time from their definitions.

mod table;

use std::collections::HashMap;
use std::sync::OnceLock;

use skiff_meta::{GroupVersion, GroupVersionKind, GroupVersionResource};

pub use table::KINDS;

/// The verbs of an ordinary resource, in discovery's order.
pub const ALL_VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// One built-in kind.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    /// API group, empty for core.
    pub group: &'static str,
    /// Served versions, most preferred first.
    pub versions: &'static [&'static str],
    /// Group and version of what is stored; another group's where two groups show the same objects (`Event`).
    pub storage: (&'static str, &'static str),
    /// `Deployment`.
    pub kind: &'static str,
    /// `deployments`, as in paths.
    pub plural: &'static str,
    /// `deployment`.
    pub singular: &'static str,
    /// `deploy`.
    pub short_names: &'static [&'static str],
    /// `all`, `api-extensions`.
    pub categories: &'static [&'static str],
    /// Whether objects lie in namespaces.
    pub namespaced: bool,
    /// Verbs in discovery's order. Kinds without `watch` are not stored: they are questions (reviews), commands
    /// (bindings) or computed (component statuses).
    pub verbs: &'static [&'static str],
    /// Subresources by name.
    pub subresources: &'static [Subresource],
    /// Field selectors beside `metadata.name` and `metadata.namespace`.
    pub selectable: &'static [&'static str],
    stored_at: &'static str,
}

/// One subresource of a kind.
#[derive(Debug, PartialEq, Eq)]
pub struct Subresource {
    /// `status`, `scale`, ...
    pub name: &'static str,
    /// Verbs in discovery's order.
    pub verbs: &'static [&'static str],
    /// Group, version and kind of its body where that is not the parent's (`autoscaling`, `v1`, `Scale`).
    pub body: Option<(&'static str, &'static str, &'static str)>,
}

impl Kind {
    /// The kind of lists of this kind.
    pub fn list_kind(&self) -> String {
        format!("{}List", self.kind)
    }
    /// Whether objects of this kind are kept in the store.
    pub fn is_stored(&self) -> bool {
        self.verbs.contains(&"watch")
    }
    /// The start of every storage key of this kind, with a final slash; `NAMESPACE/NAME` or `NAME` follow. The same
    /// layout as upstream's, so that a store can change hands.
    pub fn key_prefix(&self) -> String {
        format!("/registry/{}/", self.stored_at)
    }
    /// Group, version and kind as stored. Discovery's storage version hash is made of it.
    pub fn storage_gvk(&self) -> GroupVersionKind {
        GroupVersionKind::new(self.storage.0, self.storage.1, self.kind)
    }
    /// Group, version and kind at the most preferred version.
    pub fn gvk(&self) -> GroupVersionKind {
        self.gvk_at(self.preferred_version())
    }
    /// Group, version and kind at `version`.
    pub fn gvk_at(&self, version: &str) -> GroupVersionKind {
        GroupVersionKind::new(self.group, version, self.kind)
    }
    /// Group, version and resource at the most preferred version.
    pub fn gvr(&self) -> GroupVersionResource {
        GroupVersionResource::new(self.group, self.preferred_version(), self.plural)
    }
    /// The most preferred version.
    pub fn preferred_version(&self) -> &'static str {
        self.versions.first().copied().unwrap_or_default()
    }
    /// Whether `version` is served.
    pub fn serves(&self, version: &str) -> bool {
        self.versions.contains(&version)
    }
    /// The subresource with this name.
    pub fn subresource(&self, name: &str) -> Option<&'static Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }
}

impl Subresource {
    /// Group, version and kind of its body, for a parent served at `version`.
    pub fn gvk(&self, parent: &Kind, version: &str) -> GroupVersionKind {
        match self.body {
            Some((group, version, kind)) => GroupVersionKind::new(group, version, kind),
            None => parent.gvk_at(version),
        }
    }
}

/// One API group and its versions.
#[derive(Debug, PartialEq, Eq)]
pub struct Group {
    /// Name, never empty: core is not a group in `/apis`.
    pub name: &'static str,
    /// Versions, the preferred one first.
    pub versions: Vec<&'static str>,
}

/// All named groups in the order of `/apis`, which is the order of their first rows in [`KINDS`].
pub fn groups() -> &'static [Group] {
    static GROUPS: OnceLock<Vec<Group>> = OnceLock::new();
    GROUPS.get_or_init(|| {
        let mut groups: Vec<Group> = Vec::new();
        for kind in KINDS.iter().filter(|k| !k.group.is_empty()) {
            if groups.last().is_none_or(|g| g.name != kind.group) {
                groups.push(Group { name: kind.group, versions: Vec::new() });
            }
            if let Some(group) = groups.last_mut() {
                let new = kind.versions.iter().filter(|v| !group.versions.contains(v));
                group.versions.extend(new.copied().collect::<Vec<_>>());
            }
        }
        groups
    })
}

/// All group versions, core's first, then in the order of `/apis`.
pub fn group_versions() -> impl Iterator<Item = GroupVersion> {
    let named = groups().iter().flat_map(|g| g.versions.iter().map(|v| GroupVersion::new(g.name, *v)));
    std::iter::once(GroupVersion::new("", "v1")).chain(named)
}

/// The kinds of one group version, by plural name.
pub fn in_group_version<'a>(group: &'a str, version: &'a str) -> impl Iterator<Item = &'static Kind> + 'a {
    KINDS.iter().filter(move |k| k.group == group && k.serves(version))
}

type Index = HashMap<(&'static str, &'static str), &'static Kind>;

/// The kind with this plural in this group.
pub fn by_group_resource(group: &str, plural: &str) -> Option<&'static Kind> {
    static INDEX: OnceLock<Index> = OnceLock::new();
    INDEX.get_or_init(|| KINDS.iter().map(|k| ((k.group, k.plural), k)).collect()).get(&(group, plural)).copied()
}

/// The kind with this name in this group.
pub fn by_group_kind(group: &str, kind: &str) -> Option<&'static Kind> {
    static INDEX: OnceLock<Index> = OnceLock::new();
    INDEX.get_or_init(|| KINDS.iter().map(|k| ((k.group, k.kind), k)).collect()).get(&(group, kind)).copied()
}

/// The kind a path means, when this version is served.
pub fn by_resource(gvr: &GroupVersionResource) -> Option<&'static Kind> {
    by_group_resource(&gvr.group, &gvr.resource).filter(|k| k.serves(&gvr.version))
}

/// The kind a body means, when this version is served.
pub fn by_kind(gvk: &GroupVersionKind) -> Option<&'static Kind> {
    by_group_kind(&gvk.group, &gvk.kind).filter(|k| k.serves(&gvk.version))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_row_is_found_by_its_names() {
        for kind in KINDS {
            assert_eq!(by_resource(&kind.gvr()), Some(kind));
            assert_eq!(by_kind(&kind.gvk()), Some(kind));
            assert!(kind.verbs.is_sorted() && kind.subresources.is_sorted_by_key(|s| s.name), "{}", kind.plural);
            let owner = by_group_kind(kind.storage.0, kind.kind).unwrap();
            assert!(owner.serves(kind.storage.1), "{} is stored in a form nobody serves", kind.plural);
        }
        assert_eq!(by_resource(&GroupVersionResource::new("apps", "v2", "deployments")), None);
        assert_eq!(by_kind(&GroupVersionKind::new("", "v1", "Deployment")), None);
    }

    #[test]
    fn rows_of_a_group_stand_together_in_order() {
        let names: Vec<_> = groups().iter().map(|g| g.name).collect();
        assert_eq!(names.iter().collect::<HashSet<_>>().len(), names.len());
        assert_eq!(names[..3], ["apiregistration.k8s.io", "apps", "events.k8s.io"]);
        for group in groups() {
            assert!(in_group_version(group.name, group.versions[0]).map(|k| k.plural).is_sorted(), "{}", group.name);
        }
        let scaling = groups().iter().find(|g| g.name == "autoscaling").unwrap();
        assert_eq!(scaling.versions, ["v2", "v1"]);
    }

    #[test]
    fn keys_are_laid_out_as_upstream_does() {
        let prefix = |group, plural| by_group_resource(group, plural).unwrap().key_prefix();
        assert_eq!(prefix("", "pods"), "/registry/pods/");
        assert_eq!(prefix("", "services"), "/registry/services/specs/");
        assert_eq!(prefix("", "endpoints"), "/registry/services/endpoints/");
        assert_eq!(prefix("", "nodes"), "/registry/minions/");
        assert_eq!(prefix("", "replicationcontrollers"), "/registry/controllers/");
        assert_eq!(prefix("networking.k8s.io", "ingresses"), "/registry/ingress/");
        assert_eq!(
            prefix("apiextensions.k8s.io", "customresourcedefinitions"),
            "/registry/apiextensions.k8s.io/customresourcedefinitions/"
        );
        assert_eq!(prefix("apiregistration.k8s.io", "apiservices"), "/registry/apiregistration.k8s.io/apiservices/");
        assert_eq!(prefix("events.k8s.io", "events"), prefix("", "events"));
    }

    #[test]
    fn subresources_know_their_bodies() {
        let gvk = |group, plural, sub| {
            let kind = by_group_resource(group, plural).unwrap();
            kind.subresource(sub).unwrap().gvk(kind, kind.preferred_version())
        };
        assert_eq!(gvk("apps", "deployments", "scale"), GroupVersionKind::new("autoscaling", "v1", "Scale"));
        assert_eq!(gvk("apps", "deployments", "status"), GroupVersionKind::new("apps", "v1", "Deployment"));
        assert_eq!(gvk("", "pods", "eviction"), GroupVersionKind::new("policy", "v1", "Eviction"));
        assert_eq!(gvk("", "pods", "binding"), GroupVersionKind::new("", "v1", "Binding"));
        let token = GroupVersionKind::new("authentication.k8s.io", "v1", "TokenRequest");
        assert_eq!(gvk("", "serviceaccounts", "token"), token);
    }
}
