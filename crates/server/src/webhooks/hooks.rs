//! Configurations of webhooks as they are worked with, and which requests they are for. Pure.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use skiff_meta::GroupVersionResource;
use skiff_meta::selector::LabelSelector;
use skiff_rules::policy::Conditions;

use crate::chain::Operation;

/// One webhook of one configuration.
#[derive(Debug)]
pub(super) struct Hook {
    /// Tells it from all others, as long as its configuration stays as it is.
    pub(super) id: String,
    pub(super) configuration: String,
    pub(super) name: String,
    pub(super) client: ClientConfig,
    pub(super) namespaces: LabelSelector,
    pub(super) objects: LabelSelector,
    pub(super) conditions: Conditions,
    /// Whether requests go on when it cannot be asked.
    pub(super) fails_open: bool,
    pub(super) timeout: Duration,
    /// Whether it may be asked about dry runs; `None`: it does not say.
    pub(super) dry_runs: Option<bool>,
    /// Versions of AdmissionReview that it knows, the best first.
    pub(super) versions: Vec<String>,
    /// Whether it also means the same objects under other names.
    pub(super) equivalent: bool,
    /// Whether it wants to be asked again.
    pub(super) again: bool,
    rules: Vec<Rule>,
}

/// Where a webhook is.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ClientConfig {
    /// `https://...`
    pub(crate) url: Option<String>,
    /// A Service of the cluster.
    pub(crate) service: Option<ServiceReference>,
    /// PEM in base64: who vouches for its certificate.
    pub(crate) ca_bundle: Option<String>,
}

/// A Service of the cluster.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ServiceReference {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) path: Option<String>,
    pub(crate) port: Option<u16>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Raw {
    name: String,
    client_config: ClientConfig,
    rules: Vec<Rule>,
    failure_policy: String,
    match_policy: String,
    namespace_selector: Value,
    object_selector: Value,
    side_effects: Option<String>,
    timeout_seconds: Option<u64>,
    admission_review_versions: Vec<String>,
    reinvocation_policy: String,
    match_conditions: Value,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Rule {
    operations: Vec<String>,
    api_groups: Vec<String>,
    api_versions: Vec<String>,
    resources: Vec<String>,
    scope: Option<String>,
}

/// The hooks of a configuration. One that cannot be understood has been refused when it was written.
pub(super) fn of(configuration: &Value) -> Vec<Hook> {
    let owner = configuration["metadata"]["name"].as_str().unwrap_or_default();
    let hooks = configuration["webhooks"].as_array().into_iter().flatten().enumerate();
    hooks.filter_map(|(index, hook)| read(owner, index, hook)).collect()
}

fn read(configuration: &str, index: usize, hook: &Value) -> Option<Hook> {
    let raw = Raw::deserialize(hook).ok()?;
    let selector = |value: &Value| match value {
        Value::Null => Some(LabelSelector::everything()),
        value => LabelSelector::from_json(value).ok(),
    };
    Some(Hook {
        id: format!("{configuration}/{}/{index}", raw.name),
        configuration: configuration.to_owned(),
        namespaces: selector(&raw.namespace_selector)?,
        objects: selector(&raw.object_selector)?,
        name: raw.name,
        client: raw.client_config,
        conditions: Conditions::of_webhook(&raw.match_conditions),
        fails_open: raw.failure_policy == "Ignore",
        timeout: Duration::from_secs(raw.timeout_seconds.unwrap_or(10)),
        dry_runs: raw.side_effects.map(|effects| effects == "None" || effects == "NoneOnDryRun"),
        versions: raw.admission_review_versions,
        equivalent: raw.match_policy != "Exact",
        again: raw.reinvocation_policy == "IfNeeded",
        rules: raw.rules,
    })
}

/// What a rule looks at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    pub(super) operation: Operation,
    pub(super) resource: &'a GroupVersionResource,
    pub(super) subresource: &'a str,
    pub(super) namespaced: bool,
}

impl Hook {
    /// Whether any rule is about the request.
    pub(super) fn is_about(&self, asked: &Asked<'_>) -> bool {
        self.rules.iter().any(|rule| rule.is_about(asked))
    }
}

impl Rule {
    fn is_about(&self, asked: &Asked<'_>) -> bool {
        let lists = |list: &[String], wanted: &str| list.iter().any(|item| item == "*" || item == wanted);
        let scope = match self.scope.as_deref() {
            None | Some("*") => true,
            Some("Namespaced") => asked.namespaced,
            Some("Cluster") => !asked.namespaced,
            Some(_) => false,
        };
        let resource = self.resources.iter().any(|listed| {
            let (resource, subresource) = listed.split_once('/').unwrap_or((listed, ""));
            (resource == "*" || resource == asked.resource.resource)
                && (subresource == "*" || subresource == asked.subresource)
        });
        scope
            && resource
            && lists(&self.operations, asked.operation.as_str())
            && lists(&self.api_groups, &asked.resource.group)
            && lists(&self.api_versions, &asked.resource.version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rules_choose_requests() {
        let rule = json!({"operations": ["CREATE", "CONNECT"], "apiGroups": ["", "apps"], "apiVersions": ["v1"],
            "resources": ["pods", "pods/exec", "*/scale", "namespaces"]});
        let with_scope = |scope: Value| {
            let mut rule = rule.clone();
            rule["scope"] = scope;
            of(&json!({"metadata": {"name": "c"}, "webhooks": [{"name": "h", "rules": [rule]}]})).remove(0)
        };
        let asked = |hook: &Hook, operation, group: &str, resource: &str, subresource: &str, namespaced| {
            let resource = GroupVersionResource::new(group, "v1", resource);
            hook.is_about(&Asked { operation, resource: &resource, subresource, namespaced })
        };
        let everywhere = with_scope(Value::Null);
        for (operation, group, resource, subresource, namespaced, expected) in [
            (Operation::Create, "", "pods", "", true, true),
            (Operation::Update, "", "pods", "", true, false),
            (Operation::Connect, "", "pods", "exec", true, true),
            (Operation::Create, "", "pods", "status", true, false),
            (Operation::Create, "apps", "deployments", "scale", true, true),
            (Operation::Create, "batch", "jobs", "", true, false),
            (Operation::Create, "", "namespaces", "", false, true),
        ] {
            let found = asked(&everywhere, operation, group, resource, subresource, namespaced);
            assert_eq!(found, expected, "{operation:?} {resource}/{subresource}");
        }
        let (inside, outside) = (with_scope(json!("Namespaced")), with_scope(json!("Cluster")));
        for (resource, namespaced) in [("pods", true), ("namespaces", false)] {
            let found = [&inside, &outside].map(|hook| asked(hook, Operation::Create, "", resource, "", namespaced));
            assert_eq!(found, [namespaced, !namespaced], "{resource}");
        }
    }
}
