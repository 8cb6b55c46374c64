//! What is written down of which requests (audit.k8s.io/v1, `Policy`).

use serde::Deserialize;

use super::AuditError;
use crate::config_file;
use crate::flow::Digest;

/// How much is written down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum Level {
    /// Nothing.
    #[default]
    None,
    /// Who did what to which object, and what came of it; no bodies.
    Metadata,
    /// The same with the request's body.
    Request,
    /// The same with the answer's body.
    RequestResponse,
}

impl Level {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Metadata => "Metadata",
            Self::Request => "Request",
            Self::RequestResponse => "RequestResponse",
        }
    }
}

/// When something is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Stage {
    /// Before anything else happens.
    RequestReceived,
    /// The head of an endless answer is sent.
    ResponseStarted,
    /// The answer is complete.
    ResponseComplete,
    /// The server has a fault.
    Panic,
}

impl Stage {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::RequestReceived => "RequestReceived",
            Self::ResponseStarted => "ResponseStarted",
            Self::ResponseComplete => "ResponseComplete",
            Self::Panic => "Panic",
        }
    }
}

/// A policy: the first rule that fits a request decides.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Policy {
    #[serde(default, rename = "metadata")]
    _metadata: serde_json::Value,
    #[serde(default)]
    rules: Vec<Rule>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    #[serde(default)]
    omit_managed_fields: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Rule {
    level: Level,
    users: Vec<String>,
    user_groups: Vec<String>,
    verbs: Vec<String>,
    resources: Vec<Resources>,
    namespaces: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    urls: Vec<String>,
    omit_stages: Vec<Stage>,
    omit_managed_fields: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Resources {
    group: String,
    resources: Vec<String>,
    resource_names: Vec<String>,
}

/// What the policy says of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Decided {
    pub(super) level: Level,
    pub(super) omit_stages: Vec<Stage>,
    pub(super) omit_managed_fields: bool,
}

impl Policy {
    /// Reads a policy file.
    ///
    /// # Errors
    /// When it is no policy, or one of its rules can never mean anything.
    pub fn read(text: &str) -> Result<Self, AuditError> {
        let policy: Self = config_file::read(text, "Policy", &["audit.k8s.io/v1"]).map_err(AuditError::Policy)?;
        if policy.rules.is_empty() {
            return Err(AuditError::Policy("it has no rules, so that nothing would ever be written".to_owned()));
        }
        for (place, rule) in policy.rules.iter().enumerate() {
            rule.check().map_err(|why| AuditError::Policy(format!("rules[{place}]: {why}")))?;
        }
        Ok(policy)
    }

    /// What to write of a request.
    pub(super) fn decide(&self, digest: &Digest<'_>) -> Decided {
        let Some(rule) = self.rules.iter().find(|rule| rule.fits(digest)) else { return Decided::default() };
        let mut omit_stages = self.omit_stages.clone();
        omit_stages.extend(&rule.omit_stages);
        let omit_managed_fields = rule.omit_managed_fields.unwrap_or(self.omit_managed_fields);
        Decided { level: rule.level, omit_stages, omit_managed_fields }
    }
}

impl Rule {
    fn check(&self) -> Result<(), String> {
        let of_resources = !(self.resources.is_empty() && self.namespaces.is_empty());
        if of_resources && !self.urls.is_empty() {
            return Err("rules cannot apply to both regular resources and non-resource URLs".to_owned());
        }
        for url in &self.urls {
            if url != "*" && (!url.starts_with('/') || url.trim_end_matches('*').contains('*') || url.ends_with("**")) {
                return Err(format!(
                    "nonResourceURLs: {url:?} must be *, or begin with / and have its only * at the end"
                ));
            }
        }
        match self.resources.iter().find(|r| !r.resource_names.is_empty() && r.resources.is_empty()) {
            Some(_) => Err("using resourceNames requires at least one resource".to_owned()),
            None => Ok(()),
        }
    }

    fn fits(&self, digest: &Digest<'_>) -> bool {
        let has = |names: &[String], name: &str| names.is_empty() || names.iter().any(|n| n == name);
        let in_group = self.user_groups.is_empty() || self.user_groups.iter().any(|g| digest.user.is_in(g));
        if !has(&self.users, &digest.user.name) || !in_group || !has(&self.verbs, digest.verb) {
            return false;
        }
        match digest.target {
            Some(_) if !self.urls.is_empty() => false,
            Some(target) if !self.resources.is_empty() || !self.namespaces.is_empty() => {
                has(&self.namespaces, &target.namespace)
                    && (self.resources.is_empty() || self.resources.iter().any(|r| r.fit(target)))
            }
            None if !self.resources.is_empty() || !self.namespaces.is_empty() => false,
            None => {
                let covers = |url: &String| match url.strip_suffix('*') {
                    Some(start) => digest.path.starts_with(start),
                    None => url == digest.path,
                };
                self.urls.is_empty() || self.urls.iter().any(covers)
            }
            Some(_) => true,
        }
    }
}

impl Resources {
    fn fit(&self, target: &crate::request::Target) -> bool {
        let (resource, part) = (&target.resource.resource, &target.subresource);
        let fits = |pattern: &String| match pattern.split_once('/') {
            None => pattern == "*" || (pattern == resource && part.is_empty()),
            Some(("*", sub)) => sub == part,
            Some((name, "*")) => name == resource,
            Some((name, sub)) => name == resource && sub == part,
        };
        let named = self.resource_names.is_empty() || self.resource_names.contains(&target.name);
        self.group == target.resource.group && (self.resources.is_empty() || (named && self.resources.iter().any(fits)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::User;
    use crate::request::{Query, target};
    use http::Method;

    #[test]
    fn the_first_rule_that_fits_decides() {
        let policy = Policy::read(
            r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
omitManagedFields: true
rules:
- level: None
  users: ["system:kube-proxy"]
  verbs: ["watch"]
  resources: [{group: "", resources: ["endpoints", "services"]}]
- level: None
  userGroups: ["system:authenticated"]
  nonResourceURLs: ["/api*", "/version"]
- level: Request
  resources: [{group: "", resources: ["configmaps"], resourceNames: ["special"]}]
  namespaces: ["kube-system"]
  omitManagedFields: false
- level: Metadata
  resources: [{group: "", resources: ["secrets", "configmaps"]}]
- level: Request
  resources: [{group: "", resources: ["pods/*"]}, {group: "extensions"}]
- level: RequestResponse
  resources: [{group: "", resources: ["*/status"]}]
- level: Metadata
  omitStages: [ResponseStarted]
"#,
        )
        .unwrap();
        let level = |user: &str, uri: &str| {
            let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
            let user = User::new(user, &["system:authenticated"]);
            let target = target::parse(&Method::GET, path, &Query::parse(query));
            let verb = target.as_ref().map_or("get", |t| t.verb);
            policy.decide(&Digest { user: &user, verb, target: target.as_ref(), path })
        };
        let cases = [
            ("system:kube-proxy", "/api/v1/services?watch=1", Level::None),
            ("system:kube-proxy", "/api/v1/services", Level::Metadata),
            ("alice", "/api", Level::None),
            ("alice", "/apis/apps", Level::None),
            ("alice", "/versions", Level::Metadata),
            ("alice", "/api/v1/namespaces/kube-system/configmaps/special", Level::Request),
            ("alice", "/api/v1/namespaces/default/configmaps/special", Level::Metadata),
            ("alice", "/api/v1/namespaces/default/pods/a/log", Level::Request),
            ("alice", "/apis/extensions/v1/things", Level::Request),
            ("alice", "/api/v1/nodes/a/status", Level::RequestResponse),
        ];
        for (user, uri, expected) in cases {
            assert_eq!(level(user, uri).level, expected, "{user} {uri}");
        }
        let last = level("alice", "/healthz");
        assert_eq!(last.omit_stages, [Stage::RequestReceived, Stage::ResponseStarted]);
        assert!(last.omit_managed_fields);
        assert!(!level("a", "/api/v1/namespaces/kube-system/configmaps/special").omit_managed_fields);
    }

    #[test]
    fn policies_that_mean_nothing_are_refused() {
        let head = "apiVersion: audit.k8s.io/v1\nkind: Policy\n";
        let cases = [
            ("kind: Policy\napiVersion: audit.k8s.io/v9\nrules: [{level: None}]", "is not Policy of audit.k8s.io/v1"),
            (&format!("{head}rules: []"), "no rules"),
            (&format!("{head}rules: [{{level: Loud}}]"), "unknown variant"),
            (&format!("{head}rules: [{{level: None, namespaces: [a], nonResourceURLs: [/a]}}]"), "both"),
            (&format!("{head}rules: [{{level: None, nonResourceURLs: ['/a*b']}}]"), "nonResourceURLs"),
            (&format!("{head}rules: [{{level: None, resources: [{{resourceNames: [a]}}]}}]"), "at least one resource"),
        ];
        for (text, why) in cases {
            let error = Policy::read(text).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
