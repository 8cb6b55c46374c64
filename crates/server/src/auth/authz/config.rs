//! Who is asked, and in which order (apiserver.config.k8s.io, `AuthorizationConfiguration`).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use skiff_cel::{Env, Program, Type};
use skiff_client::Backend;
use skiff_meta::names;

use crate::config_file;

/// How long a webhook may take at most.
const LONGEST: Duration = Duration::from_secs(30);

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the authorization configuration is not good: {0}")]
pub struct AuthorizationError(String);

/// Who is asked, in this order; the first that has an opinion decides.
#[derive(Clone, Debug)]
pub struct AuthorizationConfig(pub(super) Vec<Asked>);

impl Default for AuthorizationConfig {
    fn default() -> Self {
        Self(vec![Asked::Node, Asked::Roles])
    }
}

/// Somebody who is asked.
#[derive(Clone, Debug)]
pub(super) enum Asked {
    /// The node authorizer.
    Node,
    /// RBAC.
    Roles,
    /// Says always the same.
    Always(bool),
    /// A server.
    Webhook(Hook),
}

/// A server that is asked, and how.
#[derive(Clone)]
pub(super) struct Hook {
    pub(super) name: String,
    pub(super) server: Arc<dyn Backend>,
    pub(super) timeout: Duration,
    /// How long answers count.
    pub(super) allowed_for: Duration,
    pub(super) refused_for: Duration,
    /// Whether no answer is a no; otherwise the next is asked.
    pub(super) denies_when_failing: bool,
    /// It is asked about requests for which all of these hold.
    pub(super) conditions: Arc<[Program]>,
}

impl std::fmt::Debug for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hook").field("name", &self.name).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    authorizers: Vec<Written>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(rename = "type")]
    ty: String,
    #[serde(default)]
    name: String,
    webhook: Option<WrittenHook>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct WrittenHook {
    timeout: String,
    #[serde(rename = "authorizedTTL")]
    authorized_ttl: String,
    cache_authorized_requests: Option<bool>,
    #[serde(rename = "unauthorizedTTL")]
    unauthorized_ttl: String,
    cache_unauthorized_requests: Option<bool>,
    subject_access_review_version: String,
    match_condition_subject_access_review_version: String,
    failure_policy: String,
    connection_info: Connection,
    match_conditions: Vec<Condition>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Connection {
    #[serde(rename = "type")]
    ty: String,
    kube_config_file: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Condition {
    expression: String,
}

/// Makes the way to the server that a kubeconfig file names.
type Connect<'a> = &'a dyn Fn(&str) -> Result<Arc<dyn Backend>, String>;

impl AuthorizationConfig {
    /// Reads the file; `connect` makes the way to the server that a kubeconfig file names.
    ///
    /// # Errors
    /// When it is none, or says something that cannot be (upstream: `pkg/apis/apiserver/validation`).
    pub fn read(text: &str, connect: Connect<'_>) -> Result<Self, AuthorizationError> {
        Self::parse(text, connect).map_err(AuthorizationError)
    }

    /// Reads what the file says by now. Whom no other server asks is asked from the start on, or not at all.
    ///
    /// # Errors
    /// As [`Self::read`], and when the kinds of authorizers beside webhooks are not those of `first`.
    pub fn read_again(text: &str, connect: Connect<'_>, first: &Self) -> Result<Self, AuthorizationError> {
        let config = Self::read(text, connect)?;
        let kinds = |config: &Self| {
            let kind = |asked: &Asked| match asked {
                Asked::Node => Some("Node"),
                Asked::Roles => Some("RBAC"),
                Asked::Always(true) => Some("AlwaysAllow"),
                Asked::Always(false) => Some("AlwaysDeny"),
                Asked::Webhook(_) => None,
            };
            config.0.iter().filter_map(kind).collect::<BTreeSet<_>>()
        };
        match kinds(&config) == kinds(first) {
            true => Ok(config),
            false => {
                Err(AuthorizationError("authorizers: types other than Webhook cannot change while it runs".to_owned()))
            }
        }
    }

    fn parse(text: &str, connect: Connect<'_>) -> Result<Self, String> {
        let versions = ["apiserver.config.k8s.io/v1", "apiserver.config.k8s.io/v1beta1"];
        let file: File = config_file::read(text, "AuthorizationConfiguration", &versions)?;
        if file.authorizers.is_empty() {
            return Err("authorizers: at least one authorization mode must be defined".to_owned());
        }
        let (mut asked, mut seen) = (Vec::new(), BTreeSet::new());
        for (place, written) in file.authorizers.into_iter().enumerate() {
            let wrong = |why: String| format!("authorizers[{place}].{why}");
            let is_hook = written.ty == "Webhook";
            // Webhooks are told apart by their names, all others are there once.
            if !seen.insert((written.ty.clone(), if is_hook { written.name.clone() } else { String::new() })) {
                let (field, value) = if is_hook { ("name", &written.name) } else { ("type", &written.ty) };
                return Err(wrong(format!("{field}: Duplicate value: {value:?}")));
            }
            if is_hook != written.webhook.is_some() {
                return Err(wrong("webhook: must be there for type Webhook, and for no other".to_owned()));
            }
            asked.push(match (&*written.ty, written.webhook) {
                ("Node", _) => Asked::Node,
                ("RBAC", _) => Asked::Roles,
                ("AlwaysAllow", _) => Asked::Always(true),
                ("AlwaysDeny", _) => Asked::Always(false),
                ("Webhook", Some(hook)) => Asked::Webhook(hook.read(written.name, connect).map_err(wrong)?),
                (other, _) => {
                    let known = "AlwaysAllow, AlwaysDeny, Node, RBAC or Webhook";
                    return Err(wrong(format!("type: {other:?} is none of {known}")));
                }
            });
        }
        Ok(Self(asked))
    }
}

impl WrittenHook {
    fn read(self, name: String, connect: Connect<'_>) -> Result<Hook, String> {
        if !names::dns1123_subdomain(&name).is_empty() {
            return Err(format!("name: {name:?} must be a DNS subdomain"));
        }
        let one_of = |field: &str, value: &str, known: &[&str]| match known.contains(&value) {
            true => Ok(()),
            false => Err(format!("webhook.{field}: {value:?} must be {}", known.join(" or "))),
        };
        one_of("subjectAccessReviewVersion", &self.subject_access_review_version, &["v1"])?;
        one_of("failurePolicy", &self.failure_policy, &["NoOpinion", "Deny"])?;
        one_of("connectionInfo.type", &self.connection_info.ty, &["KubeConfigFile"])?;
        if !self.match_conditions.is_empty() {
            let version = &self.match_condition_subject_access_review_version;
            one_of("matchConditionSubjectAccessReviewVersion", version, &["v1"])?;
        }
        let time = |field: &str, text: &str, otherwise: Duration| match text {
            "" => Ok(otherwise),
            text => skiff_meta::duration::parse(text)
                .filter(|time| !time.is_zero())
                .ok_or_else(|| format!("webhook.{field}: {text:?} must be a length of time such as 3s")),
        };
        let timeout = match &*self.timeout {
            "" => return Err("webhook.timeout: must be given".to_owned()),
            text => time("timeout", text, LONGEST)?,
        };
        if timeout > LONGEST {
            return Err("webhook.timeout: must be at most 30s".to_owned());
        }
        let kept = |wanted: Option<bool>, time: Duration| if wanted == Some(false) { Duration::ZERO } else { time };
        let allowed = time("authorizedTTL", &self.authorized_ttl, Duration::from_secs(300))?;
        let refused = time("unauthorizedTTL", &self.unauthorized_ttl, Duration::from_secs(30))?;
        let path = &self.connection_info.kube_config_file;
        let server = connect(path).map_err(|why| format!("webhook.connectionInfo.kubeConfigFile: {path:?}: {why}"))?;
        Ok(Hook {
            name,
            server,
            timeout,
            allowed_for: kept(self.cache_authorized_requests, allowed),
            refused_for: kept(self.cache_unauthorized_requests, refused),
            denies_when_failing: self.failure_policy == "Deny",
            conditions: conditions(&self.match_conditions)?.into(),
        })
    }
}

/// The expressions, over the spec of the review that would be sent.
fn conditions(written: &[Condition]) -> Result<Vec<Program>, String> {
    let text = |name: &str| (name.to_owned(), Type::String);
    let texts = || Type::list(Type::String);
    let resource = ["namespace", "verb", "group", "version", "resource", "subresource", "name"].map(text);
    let fields = [
        ("resourceAttributes".to_owned(), Type::object("kubernetes.ResourceAttributes", resource)),
        (
            "nonResourceAttributes".to_owned(),
            Type::object("kubernetes.NonResourceAttributes", ["path", "verb"].map(text)),
        ),
        text("user"),
        text("uid"),
        ("groups".to_owned(), texts()),
        ("extra".to_owned(), Type::map(Type::String, texts())),
    ];
    let env = Env::new().with("request", Type::object("kubernetes.SubjectAccessReviewSpec", fields));
    let mut programs = Vec::new();
    for (place, Condition { expression }) in written.iter().enumerate() {
        let wrong = |why: String| format!("webhook.matchConditions[{place}].expression: {why}");
        let program = env.compile(expression).map_err(|issues| wrong(issues.failure()))?;
        if *program.output() != Type::Bool {
            return Err(wrong("must evaluate to bool".to_owned()));
        }
        programs.push(program);
    }
    Ok(programs)
}
