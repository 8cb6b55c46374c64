//! Roles and bindings, laid out by the question: which rules does this user have in this namespace?
//!
//! A request looks up its user's name and each of its groups, and finds the bindings of just that subject in just that
//! namespace; how many others there are does not matter.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::rbac::v1::PolicyRule;
use serde::Deserialize;
use skiff_meta::Object;

use crate::auth::authz::follow::Derived;
use crate::auth::names::account_user;
use crate::chain::User;

/// A role: its rules.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Role {
    rules: Option<Vec<PolicyRule>>,
}

/// What counts of a RoleBinding or ClusterRoleBinding.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Binding {
    #[serde(skip)]
    namespace: String,
    #[serde(skip)]
    name: String,
    pub(crate) role_ref: RoleRef,
    #[serde(default)]
    subjects: Option<Vec<Subject>>,
}

/// The role a binding grants.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct RoleRef {
    /// `rbac.authorization.k8s.io`.
    pub(crate) api_group: String,
    /// `Role` or `ClusterRole`.
    pub(crate) kind: String,
    /// Its name.
    pub(crate) name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Subject {
    kind: String,
    name: String,
    namespace: Option<String>,
}

/// One subject of one binding.
#[derive(Clone, Debug)]
struct Grant {
    binding: Arc<Binding>,
    subject: usize,
}

/// The grants of one subject.
#[derive(Debug, Default)]
struct Grants {
    everywhere: Vec<Grant>,
    namespaces: HashMap<String, Vec<Grant>>,
}

/// The index.
#[derive(Debug, Default)]
pub(crate) struct RbacIndex {
    /// By namespace (empty: cluster roles) and name.
    roles: HashMap<String, HashMap<String, Role>>,
    /// By namespace and name, to undo what a binding granted.
    bindings: HashMap<(String, String), Arc<Binding>>,
    users: HashMap<String, Grants>,
    groups: HashMap<String, Grants>,
}

/// Why a rule applies; prints as upstream's audit reason says it.
pub(crate) struct Source<'a>(&'a Grant);

impl RbacIndex {
    /// Calls `visit` with each rule `user` has in `namespace` (empty: across all) until it says stop, and with each
    /// role that is bound but not there.
    pub(crate) fn visit<'a>(
        &'a self,
        user: &User,
        namespace: &str,
        visit: &mut dyn FnMut(Result<(Source<'a>, &'a PolicyRule), String>) -> bool,
    ) {
        let of_groups = user.groups.iter().filter_map(|group| self.groups.get(group));
        let grants: Vec<&Grants> = self.users.get(&user.name).into_iter().chain(of_groups).collect();
        let everywhere = grants.iter().flat_map(|g| &g.everywhere);
        let here = grants.iter().filter_map(|g| g.namespaces.get(namespace)).flatten();
        for grant in everywhere.chain(here) {
            let binding = &grant.binding;
            match self.role_rules(&binding.role_ref, &binding.namespace) {
                Err(missing) => {
                    if !visit(Err(missing)) {
                        return;
                    }
                }
                Ok(rules) => {
                    for rule in rules {
                        if !visit(Ok((Source(grant), rule))) {
                            return;
                        }
                    }
                }
            }
        }
    }

    /// The rules of the role a binding in `namespace` (empty: a cluster role binding) refers to.
    ///
    /// # Errors
    /// The words for a role that is not there.
    pub(crate) fn role_rules(&self, role: &RoleRef, namespace: &str) -> Result<&[PolicyRule], String> {
        let place = match role.kind.as_str() {
            "ClusterRole" => "",
            "Role" => namespace,
            other => return Err(format!("unsupported role reference kind: {other:?}")),
        };
        let found = self.roles.get(place).and_then(|roles| roles.get(&role.name));
        let missing = || format!("{}.rbac.authorization.k8s.io {:?} not found", role.kind.to_lowercase(), role.name);
        found.map(|role| role.rules.as_deref().unwrap_or_default()).ok_or_else(missing)
    }

    fn grants_of<'a>(&'a mut self, binding: &Binding, subject: &Subject) -> Option<&'a mut Vec<Grant>> {
        let grants = match subject.kind.as_str() {
            "User" => self.users.entry(subject.name.clone()).or_default(),
            "Group" => self.groups.entry(subject.name.clone()).or_default(),
            "ServiceAccount" => {
                let namespace = subject.namespace.as_deref().filter(|n| !n.is_empty()).unwrap_or(&binding.namespace);
                if namespace.is_empty() {
                    return None;
                }
                self.users.entry(account_user(namespace, &subject.name)).or_default()
            }
            _ => return None,
        };
        Some(match binding.namespace.as_str() {
            "" => &mut grants.everywhere,
            namespace => grants.namespaces.entry(namespace.to_owned()).or_default(),
        })
    }

    fn bind(&mut self, binding: Arc<Binding>) {
        for (index, subject) in binding.subjects.iter().flatten().enumerate() {
            if let Some(grants) = self.grants_of(&binding, subject) {
                grants.push(Grant { binding: binding.clone(), subject: index });
            }
        }
        self.bindings.insert((binding.namespace.clone(), binding.name.clone()), binding);
    }

    fn unbind(&mut self, namespace: &str, name: &str) {
        let Some(binding) = self.bindings.remove(&(namespace.to_owned(), name.to_owned())) else { return };
        for subject in binding.subjects.iter().flatten() {
            if let Some(grants) = self.grants_of(&binding, subject) {
                grants.retain(|grant| !Arc::ptr_eq(&grant.binding, &binding));
            }
        }
        self.drop_empty(&binding);
    }

    /// Subjects without any grant are forgotten, or the index would remember every subject there ever was.
    fn drop_empty(&mut self, binding: &Binding) {
        for subject in binding.subjects.iter().flatten() {
            let account_namespace = subject.namespace.as_deref().unwrap_or(&binding.namespace);
            let (map, name) = match subject.kind.as_str() {
                "Group" => (&mut self.groups, subject.name.clone()),
                "ServiceAccount" => (&mut self.users, account_user(account_namespace, &subject.name)),
                _ => (&mut self.users, subject.name.clone()),
            };
            if let Some(grants) = map.get_mut(&name) {
                grants.namespaces.retain(|_, grants| !grants.is_empty());
                if grants.everywhere.is_empty() && grants.namespaces.is_empty() {
                    map.remove(&name);
                }
            }
        }
    }
}

/// Indexes into [`RbacIndex::RESOURCES`] that hold roles; the others hold bindings.
const ROLES: [usize; 2] = [0, 1];

impl Derived for RbacIndex {
    const RESOURCES: &'static [(&'static str, &'static str)] = &[
        ("rbac.authorization.k8s.io", "clusterroles"),
        ("rbac.authorization.k8s.io", "roles"),
        ("rbac.authorization.k8s.io", "clusterrolebindings"),
        ("rbac.authorization.k8s.io", "rolebindings"),
    ];

    fn put(&mut self, resource: usize, object: &Object) {
        let meta = object.meta();
        if ROLES.contains(&resource) {
            // Rules that cannot be read grant nothing.
            let role = serde_json::from_slice(object.canonical()).unwrap_or_default();
            self.roles.entry(meta.namespace.clone()).or_default().insert(meta.name.clone(), role);
            return;
        }
        self.unbind(&meta.namespace, &meta.name);
        if let Ok(mut binding) = serde_json::from_slice::<Binding>(object.canonical()) {
            (binding.namespace, binding.name) = (meta.namespace.clone(), meta.name.clone());
            self.bind(Arc::new(binding));
        }
    }

    fn remove(&mut self, resource: usize, object: &Object) {
        let meta = object.meta();
        if !ROLES.contains(&resource) {
            return self.unbind(&meta.namespace, &meta.name);
        }
        if let Some(roles) = self.roles.get_mut(&meta.namespace) {
            roles.remove(&meta.name);
            if roles.is_empty() {
                self.roles.remove(&meta.namespace);
            }
        }
    }

    fn clear(&mut self, resource: usize) {
        match resource {
            0 => drop(self.roles.remove("")),
            1 => self.roles.retain(|namespace, _| namespace.is_empty()),
            _ => {
                let cluster = resource == 2;
                let gone: Vec<_> = self.bindings.keys().filter(|(n, _)| n.is_empty() == cluster).cloned().collect();
                gone.iter().for_each(|(namespace, name)| self.unbind(namespace, name));
            }
        }
    }
}

impl fmt::Display for Source<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let binding = &*self.0.binding;
        let (kind, name) = match binding.namespace.as_str() {
            "" => ("ClusterRoleBinding", binding.name.clone()),
            namespace => ("RoleBinding", format!("{}/{namespace}", binding.name)),
        };
        write!(f, "{kind} {name:?} of {} {:?} to ", binding.role_ref.kind, binding.role_ref.name)?;
        let Some(subject) = binding.subjects.as_ref().and_then(|s| s.get(self.0.subject)) else { return Ok(()) };
        if subject.kind != "ServiceAccount" {
            return write!(f, "{} {:?}", subject.kind, subject.name);
        }
        let namespace = subject.namespace.as_deref().unwrap_or(&binding.namespace);
        write!(f, "ServiceAccount {:?}", format!("{}/{namespace}", subject.name))
    }
}
