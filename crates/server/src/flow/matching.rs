//! Which flow schema a request belongs to (upstream: `k8s.io/apiserver/pkg/util/flowcontrol/rule.go`).

use k8s_openapi::api::flowcontrol::v1 as api;

use crate::chain::User;
use crate::request::Target;

/// What schemas look at.
#[derive(Clone, Copy)]
pub(crate) struct Digest<'a> {
    /// Who.
    pub(crate) user: &'a User,
    /// `get`, `list`, ... or the lower-case HTTP method.
    pub(crate) verb: &'a str,
    /// The resource, for those that ask for one.
    pub(crate) target: Option<&'a Target>,
    /// The URL's path.
    pub(crate) path: &'a str,
}

/// How flows of one schema are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    Nothing,
    User,
    Namespace,
}

/// A list of names, or all.
#[derive(Debug)]
enum Names {
    All,
    These(Vec<String>),
}

impl Names {
    fn new(names: Vec<String>) -> Self {
        if names.len() == 1 && names[0] == "*" { Self::All } else { Self::These(names) }
    }
    fn has(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::These(names) => names.iter().any(|n| n == name),
        }
    }
    fn has_part(&self, name: &str, part: &str) -> bool {
        match self {
            Self::All => true,
            Self::These(names) if part.is_empty() => names.iter().any(|n| n == name),
            Self::These(names) => names.iter().any(|n| n.split_once('/') == Some((name, part))),
        }
    }
}

#[derive(Debug)]
enum Subject {
    AnyUser,
    User(String),
    AnyGroup,
    Group(String),
    /// Namespace and name, `*` for all of the namespace.
    Account(String, String),
}

impl Subject {
    fn new(subject: api::Subject) -> Option<Self> {
        let api::Subject { group, kind, service_account, user } = subject;
        Some(match &*kind {
            "User" => match user?.name {
                name if name == "*" => Self::AnyUser,
                name => Self::User(name),
            },
            "Group" => match group?.name {
                name if name == "*" => Self::AnyGroup,
                name => Self::Group(name),
            },
            "ServiceAccount" => service_account.map(|account| Self::Account(account.namespace, account.name))?,
            _ => return None,
        })
    }

    fn is(&self, user: &User) -> bool {
        match self {
            Self::AnyUser | Self::AnyGroup => true,
            Self::User(name) => user.name == *name,
            Self::Group(name) => user.is_in(name),
            Self::Account(namespace, name) => {
                let of = user.name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
                of.is_some_and(|(ns, account)| ns == namespace && (name == "*" || name == account))
            }
        }
    }
}

#[derive(Debug)]
struct Resources {
    verbs: Names,
    groups: Names,
    resources: Names,
    namespaces: Names,
    cluster: bool,
}

impl Resources {
    fn is(&self, verb: &str, target: &Target) -> bool {
        self.verbs.has(verb)
            && self.resources.has_part(&target.resource.resource, &target.subresource)
            && self.groups.has(&target.resource.group)
            && if target.namespace.is_empty() { self.cluster } else { self.namespaces.has(&target.namespace) }
    }
}

#[derive(Debug)]
struct Rule {
    subjects: Vec<Subject>,
    resources: Vec<Resources>,
    paths: Vec<(Names, Vec<String>)>,
}

/// The rules of a schema.
#[derive(Debug)]
pub(super) struct Rules(Vec<Rule>);

impl Rules {
    /// Of a schema's rules.
    pub(super) fn new(rules: Vec<api::PolicyRulesWithSubjects>) -> Self {
        let resources = |rule: api::ResourcePolicyRule| Resources {
            verbs: Names::new(rule.verbs),
            groups: Names::new(rule.api_groups),
            resources: Names::new(rule.resources),
            namespaces: Names::new(rule.namespaces.unwrap_or_default()),
            cluster: rule.cluster_scope.unwrap_or_default(),
        };
        let rule = |rule: api::PolicyRulesWithSubjects| Rule {
            subjects: rule.subjects.into_iter().filter_map(Subject::new).collect(),
            resources: rule.resource_rules.unwrap_or_default().into_iter().map(resources).collect(),
            paths: rule
                .non_resource_rules
                .unwrap_or_default()
                .into_iter()
                .map(|rule| (Names::new(rule.verbs), rule.non_resource_urls))
                .collect(),
        };
        Self(rules.into_iter().map(rule).collect())
    }

    /// Whether one of them is about the request.
    pub(super) fn match_request(&self, digest: &Digest<'_>) -> bool {
        self.0.iter().any(|rule| {
            rule.subjects.iter().any(|subject| subject.is(digest.user))
                && match digest.target {
                    Some(target) => rule.resources.iter().any(|r| r.is(digest.verb, target)),
                    None => rule
                        .paths
                        .iter()
                        .any(|(verbs, paths)| verbs.has(digest.verb) && paths.iter().any(|p| covers(p, digest.path))),
                }
        })
    }
}

/// `/healthz` covers itself and what lies below it, as `/healthz/*` does.
fn covers(rule: &str, path: &str) -> bool {
    if rule == "*" || rule == path {
        return true;
    }
    let start = rule.strip_suffix('*').unwrap_or(rule);
    path.strip_prefix(start.trim_end_matches('/')).is_some_and(|rest| rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::super::{defaults, plan::Config};
    use super::*;
    use crate::request::{Query, target};
    use http::Method;

    #[test]
    fn requests_find_the_default_schemas() {
        let config = Config::read(&defaults::levels(), &defaults::schemas());
        let node = User::new("system:node:a", &["system:nodes", "system:authenticated"]);
        let dns =
            User::new("system:serviceaccount:kube-system:dns", &["system:serviceaccounts", "system:authenticated"]);
        let app = User::new("system:serviceaccount:a:b", &["system:serviceaccounts", "system:authenticated"]);
        let alice = User::new("alice", &["system:authenticated"]);
        let admin = User::new("root", &["system:masters", "system:authenticated"]);
        let manager = User::new("system:kube-controller-manager", &["system:authenticated"]);
        let cases = [
            (&admin, Method::GET, "/api/v1/pods", "exempt"),
            (&alice, Method::GET, "/readyz/etcd", "probes"),
            (&alice, Method::GET, "/readyzz", "global-default"),
            (&User::anonymous(), Method::GET, "/livez", "probes"),
            (&node, Method::PATCH, "/api/v1/nodes/a/status", "system-node-high"),
            (&node, Method::GET, "/api/v1/nodes/a/proxy", "system-nodes"),
            (
                &node,
                Method::PUT,
                "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/a",
                "system-node-high",
            ),
            (&node, Method::GET, "/api/v1/namespaces/a/pods/b", "system-nodes"),
            (&manager, Method::PUT, "/apis/coordination.k8s.io/v1/namespaces/a/leases/a", "system-leader-election"),
            (&manager, Method::PATCH, "/apis/coordination.k8s.io/v1/namespaces/a/leases/a", "kube-controller-manager"),
            (&dns, Method::GET, "/api/v1/services", "kube-system-service-accounts"),
            (&app, Method::GET, "/api/v1/services", "service-accounts"),
            (&alice, Method::GET, "/api/v1/services", "global-default"),
            (&User::new("x", &[]), Method::GET, "/api/v1/services", "catch-all"),
        ];
        for (user, method, path, schema) in cases {
            let target = target::parse(&method, path, &Query::default());
            let verb = target.as_ref().map_or("get", |t| t.verb);
            let digest = Digest { user, verb, target: target.as_ref(), path };
            assert_eq!(config.schema_of(&digest).name, schema, "{} {path}", user.name);
        }
    }
}
