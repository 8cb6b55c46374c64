//! What plug-ins are told at start (apiserver.config.k8s.io, `AdmissionConfiguration`).

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::ScopedResourceSelectorRequirement;
use serde::Deserialize;
use serde_json::Value;
use skiff_rules::pod_security::Policy;

use crate::config_file::{self, of_kind};
use crate::webhooks::Identities;

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the admission configuration is not good: {0}")]
pub struct AdmissionError(String);

/// The file, read with all it refers to.
#[derive(Clone, Debug, Default)]
pub struct AdmissionConfig {
    pub(super) pod_security: PodSecurityConfig,
    pub(super) limited: Vec<LimitedResource>,
    /// As whom the server shows itself to mutating and to validating webhooks.
    pub(super) webhooks: [Identities; 2],
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    plugins: Vec<Plugin>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Plugin {
    name: String,
    #[serde(default)]
    path: String,
    configuration: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WebhookFile {
    #[serde(default)]
    kube_config_file: String,
}

/// What namespaces without labels are held to, and who is held to nothing.
#[derive(Clone, Debug, Default)]
pub(super) struct PodSecurityConfig {
    pub(super) defaults: Policy,
    pub(super) exempt: Exemptions,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(super) struct Exemptions {
    pub(super) usernames: BTreeSet<String>,
    pub(super) runtime_classes: BTreeSet<String>,
    pub(super) namespaces: BTreeSet<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PodSecurityFile {
    #[serde(default)]
    defaults: BTreeMap<String, String>,
    #[serde(default)]
    exemptions: Exemptions,
}

/// Of which nothing may be used without a quota that covers it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(super) struct LimitedResource {
    pub(super) api_group: String,
    pub(super) resource: String,
    /// Parts of names of what is used.
    pub(super) match_contains: Vec<String>,
    pub(super) match_scopes: Vec<ScopedResourceSelectorRequirement>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct QuotaFile {
    #[serde(default)]
    limited_resources: Vec<LimitedResource>,
}

impl AdmissionConfig {
    /// Reads the file; `other` reads those that it refers to.
    ///
    /// # Errors
    /// When one is none, or says something that cannot be.
    pub fn read(text: &str, other: &dyn Fn(&str) -> Result<String, String>) -> Result<Self, AdmissionError> {
        Self::parse(text, other).map_err(AdmissionError)
    }

    fn parse(text: &str, other: &dyn Fn(&str) -> Result<String, String>) -> Result<Self, String> {
        let versions = ["apiserver.config.k8s.io/v1", "apiserver.k8s.io/v1alpha1"];
        let file: File = config_file::read(text, "AdmissionConfiguration", &versions)?;
        let mut config = Self::default();
        for Plugin { name, path, configuration } in file.plugins {
            let told = match configuration {
                Some(told) => told,
                None if path.is_empty() => continue,
                None => config_file::tree(&other(&path)?)?,
            };
            let wrong = |why: String| format!("{name}: {why}");
            match &*name {
                "PodSecurity" => config.pod_security = PodSecurityConfig::parse(told).map_err(wrong)?,
                "ResourceQuota" => config.limited = limited(told).map_err(wrong)?,
                "MutatingAdmissionWebhook" => config.webhooks[0] = identities(told).map_err(wrong)?,
                "ValidatingAdmissionWebhook" => config.webhooks[1] = identities(told).map_err(wrong)?,
                _ => return Err(wrong("nothing can be told to this plug-in".to_owned())),
            }
        }
        Ok(config)
    }
}

impl PodSecurityConfig {
    fn parse(told: Value) -> Result<Self, String> {
        let versions = [
            "pod-security.admission.config.k8s.io/v1",
            "pod-security.admission.config.k8s.io/v1beta1",
            "pod-security.admission.config.k8s.io/v1alpha1",
        ];
        let file: PodSecurityFile = of_kind(told, "PodSecurityConfiguration", &versions)?;
        let defaults = Policy::by_default(&file.defaults).map_err(|why| format!("defaults.{why}"))?;
        Ok(Self { defaults, exempt: file.exemptions })
    }
}

fn identities(told: Value) -> Result<Identities, String> {
    let older = ["apiserver.config.k8s.io/v1alpha1"];
    let file: WebhookFile = match told["apiVersion"] == older[0] {
        true => of_kind(told, "WebhookAdmission", &older)?,
        false => of_kind(told, "WebhookAdmissionConfiguration", &["apiserver.config.k8s.io/v1"])?,
    };
    if file.kube_config_file.is_empty() { Ok(Identities::default()) } else { Identities::load(&file.kube_config_file) }
}

fn limited(told: Value) -> Result<Vec<LimitedResource>, String> {
    let older = ["resourcequota.admission.k8s.io/v1beta1", "resourcequota.admission.k8s.io/v1alpha1"];
    let file: QuotaFile = match older.iter().any(|version| told["apiVersion"] == **version) {
        true => of_kind(told, "Configuration", &older)?,
        false => of_kind(told, "ResourceQuotaConfiguration", &["apiserver.config.k8s.io/v1"])?,
    };
    let nameless = file.limited_resources.iter().position(|limited| limited.resource.is_empty());
    match nameless {
        Some(place) => Err(format!("limitedResources[{place}].resource: Required value")),
        None => Ok(file.limited_resources),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_with_what_they_refer_to() {
        let read = |plugins: &str| {
            let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\n";
            let quota = "apiVersion: apiserver.config.k8s.io/v1\nkind: ResourceQuotaConfiguration\n\
                limitedResources: [{resource: pods, matchContains: [requests.cpu]}]\n";
            let other = |path: &str| if path == "quota" { Ok(quota.to_owned()) } else { Err("no file".to_owned()) };
            AdmissionConfig::read(&format!("{head}plugins: [{plugins}]\n"), &other)
        };
        let security = |more: &str| {
            format!(
                "{{name: PodSecurity, configuration: {{apiVersion: pod-security.admission.config.k8s.io/v1, \
                kind: PodSecurityConfiguration, {more}}}}}"
            )
        };
        let good = format!(
            "{}, {{name: ResourceQuota, path: quota}}",
            security("defaults: {enforce: baseline, enforce-version: v1.30}, exemptions: {namespaces: [kube-system]}")
        );
        let config = read(&good).unwrap();
        assert_eq!(config.pod_security.defaults.enforce.to_string(), "baseline:v1.30");
        assert_eq!(config.pod_security.defaults.warn.to_string(), "privileged:latest");
        assert!(config.pod_security.exempt.namespaces.contains("kube-system"));
        assert_eq!(config.limited[0].match_contains, ["requests.cpu"]);
        for (bad, why) in [
            (security("defaults: {enforce: odd}"), "PodSecurity: defaults.enforce: must be one of"),
            (security("defaults: {enforce-version: odd}"), "defaults.enforce-version: must be"),
            (security("defaults: {other: baseline}"), "defaults.other: is not known"),
            (security("exemptions: {users: [a]}"), "unknown field `users`"),
            ("{name: ResourceQuota, path: elsewhere}".to_owned(), "no file"),
            ("{name: Other, configuration: {}}".to_owned(), "Other: nothing can be told"),
            (
                "{name: ValidatingAdmissionWebhook, configuration: {apiVersion: apiserver.config.k8s.io/v1, \
                kind: WebhookAdmissionConfiguration, kubeConfigFile: hooks}}"
                    .to_owned(),
                "ValidatingAdmissionWebhook: kubeConfigFile must be an absolute path",
            ),
        ] {
            let error = read(&bad).unwrap_err().to_string();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }
}
