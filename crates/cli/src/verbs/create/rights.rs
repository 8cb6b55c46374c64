//! Roles and bindings from words.

use std::collections::BTreeMap;

use clap::Args;
use serde_json::{Value, json};

use crate::error::CliError;
use crate::kinds::Kinds;

pub(super) const GROUP: &str = "rbac.authorization.k8s.io";
pub(super) const VERSION: &str = "rbac.authorization.k8s.io/v1";

/// What a role allows.
#[derive(Args)]
pub(super) struct Rights {
    /// get, list, watch, create, ... or *
    #[arg(long, value_delimiter = ',')]
    pub(super) verb: Vec<String>,
    /// RESOURCE, RESOURCE.GROUP, RESOURCE/SUBRESOURCE
    #[arg(long, value_delimiter = ',')]
    pub(super) resource: Vec<String>,
    /// Names that the right is limited to
    #[arg(long)]
    pub(super) resource_name: Vec<String>,
}

/// Who gets the rights.
#[derive(Args)]
pub(super) struct Subjects {
    /// Names of users
    #[arg(long)]
    user: Vec<String>,
    /// Names of groups
    #[arg(long)]
    group: Vec<String>,
    /// NAMESPACE:NAME of service accounts
    #[arg(long)]
    serviceaccount: Vec<String>,
}

impl Rights {
    pub(super) fn verbs(&self) -> Vec<&str> {
        let mut verbs: Vec<&str> = Vec::new();
        for verb in &self.verb {
            if verb == "*" {
                return vec!["*"];
            }
            if !verbs.contains(&verb.as_str()) {
                verbs.push(verb);
            }
        }
        verbs
    }

    /// A rule per group.
    pub(super) fn rules(&self, kinds: &Kinds) -> Result<Vec<Value>, CliError> {
        if self.verb.is_empty() {
            return Err(CliError::usage("at least one verb must be specified"));
        }
        if self.resource.is_empty() {
            return Err(CliError::usage("at least one resource must be specified"));
        }
        let mut groups = BTreeMap::<String, Vec<String>>::new();
        for word in &self.resource {
            let (resource, sub) = word.split_once('/').map_or((word.as_str(), None), |(r, s)| (r, Some(s)));
            let (group, plural) = if resource == "*" {
                (String::new(), "*".to_owned())
            } else {
                let kind = kinds.find(resource)?;
                (kind.group_version.group.clone(), kind.plural.clone())
            };
            let name = sub.map_or(plural.clone(), |sub| format!("{plural}/{sub}"));
            let of_group = groups.entry(group).or_default();
            if !of_group.contains(&name) {
                of_group.push(name);
            }
        }
        let rule = |(group, resources): (String, Vec<String>)| {
            let mut rule = json!({"apiGroups": [group], "resources": resources, "verbs": self.verbs()});
            if !self.resource_name.is_empty() {
                rule["resourceNames"] = json!(self.resource_name);
            }
            rule
        };
        Ok(groups.into_iter().map(rule).collect())
    }
}

/// The members of a binding beside its name.
pub(super) fn binding(kind: &str, role: &str, subjects: &Subjects) -> Result<Value, CliError> {
    let of = |kind: &str, names: &[String]| -> Vec<Value> {
        names.iter().map(|name| json!({"kind": kind, "apiGroup": GROUP, "name": name})).collect()
    };
    let mut all = of("User", &subjects.user);
    all.extend(of("Group", &subjects.group));
    for account in &subjects.serviceaccount {
        let (namespace, name) = account
            .split_once(':')
            .filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty())
            .ok_or_else(|| CliError::usage("serviceaccount must be <namespace>:<name>"))?;
        all.push(json!({"kind": "ServiceAccount", "name": name, "namespace": namespace}));
    }
    Ok(json!({"roleRef": {"apiGroup": GROUP, "kind": kind, "name": role}, "subjects": all}))
}
