//! What the cluster is and can: `api-resources`, `api-versions`, `version`, `cluster-info`, `auth can-i`, `config view`.

use std::collections::{BTreeMap, HashSet};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::error::CliError;
use crate::output::{items, table};
use crate::session::Session;

/// Print the supported API resources on the server.
#[derive(Args)]
pub struct ApiResources {
    /// Only namespaced ones, or only others
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    namespaced: Option<bool>,
    /// Only of this group
    #[arg(long)]
    api_group: Option<String>,
    /// Only with these verbs
    #[arg(long, value_delimiter = ',')]
    verbs: Vec<String>,
    /// name or wide
    #[arg(short = 'o', long, default_value = "")]
    output: String,
    /// Leave out the heading
    #[arg(long)]
    no_headers: bool,
}

impl ApiResources {
    /// Runs the verb.
    pub async fn run(&self, session: &mut Session) -> Result<(), CliError> {
        let mut kinds = session.kinds().await?.0;
        kinds.retain(|k| {
            self.namespaced.is_none_or(|wanted| wanted == k.namespaced)
                && self.api_group.as_ref().is_none_or(|group| *group == k.group_version.group)
                && self.verbs.iter().all(|verb| k.verbs.contains(verb))
        });
        // Of several versions the preferred one, which comes first.
        let mut seen = HashSet::new();
        kinds.retain(|k| seen.insert((k.group_version.group.clone(), k.plural.clone())));
        kinds.sort_by(|a, b| (&a.group_version.group, &a.plural).cmp(&(&b.group_version.group, &b.plural)));
        if self.output == "name" {
            for kind in kinds {
                let group = &kind.group_version.group;
                session.line(if group.is_empty() { kind.plural } else { format!("{}.{group}", kind.plural) })?;
            }
            return Ok(());
        }
        let mut rows = Vec::new();
        if !self.no_headers {
            let mut names = vec!["NAME", "SHORTNAMES", "APIVERSION", "NAMESPACED", "KIND"];
            if self.output == "wide" {
                names.extend(["VERBS", "CATEGORIES"]);
            }
            rows.push(names.into_iter().map(str::to_owned).collect());
        }
        for kind in kinds {
            let mut row = vec![
                kind.plural,
                kind.short.join(","),
                kind.group_version.to_string(),
                kind.namespaced.to_string(),
                kind.kind,
            ];
            if self.output == "wide" {
                row.extend([kind.verbs.join(","), kind.categories.join(",")]);
            }
            rows.push(row);
        }
        session.print(&table::align(&rows))
    }
}

/// Print the supported API versions, `group/version` each.
pub async fn api_versions(session: &mut Session) -> Result<(), CliError> {
    let mut versions: Vec<String> = session.kinds().await?.0.iter().map(|k| k.group_version.to_string()).collect();
    versions.sort();
    versions.dedup();
    session.line(versions.join("\n"))
}

/// Print the client and server versions.
pub async fn version(session: &mut Session) -> Result<(), CliError> {
    session.line(format!("Client Version: v1.36.0+skiff-{}", env!("CARGO_PKG_VERSION")))?;
    let server = session.wire.get("/version").await?;
    session.line(format!("Server Version: {}", server["gitVersion"].as_str().unwrap_or_default()))
}

/// Where the control plane is, and Services that call themselves part of the cluster.
pub async fn cluster_info(session: &mut Session) -> Result<(), CliError> {
    let server = session.wire.backend().remote().map(|remote| remote.server.clone()).unwrap_or_default();
    session.line(format!("Kubernetes control plane is running at {server}"))?;
    let path = "/api/v1/namespaces/kube-system/services?labelSelector=kubernetes.io%2Fcluster-service%3Dtrue";
    for service in items(&session.wire.get(path).await?) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (name, port) = (text(&service["metadata"]["name"]), &service["spec"]["ports"][0]);
        let label = &service["metadata"]["labels"]["kubernetes.io/name"];
        let shown = if label.is_string() { text(label) } else { name.clone() };
        let port = if port["name"].is_string() { format!(":{}", text(&port["name"])) } else { String::new() };
        session.line(format!(
            "{shown} is running at {server}/api/v1/namespaces/kube-system/services/{name}{port}/proxy"
        ))?;
    }
    session.line("\nTo further debug and diagnose cluster problems, look at the server's log.")
}

fn texts(values: &Value) -> Vec<&str> {
    values.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// What one may do in the namespace, a line per resource or path.
async fn list_rights(session: &mut Session) -> Result<(), CliError> {
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": session.namespace}});
    let answer = session.wire.create("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", &review).await?;
    let status = &answer["status"];
    if status["incomplete"] == true {
        let why = status["evaluationError"].as_str().unwrap_or_default();
        session.warn(&format!("warning: the list may be incomplete: {why}"));
    }
    let lines = rights(status).into_iter().map(|([what, paths, names], verbs)| {
        vec![what, format!("[{paths}]"), format!("[{names}]"), format!("[{}]", verbs.join(" "))]
    });
    let head = ["Resources", "Non-Resource URLs", "Resource Names", "Verbs"].map(str::to_owned).to_vec();
    session.print(&table::align(&std::iter::once(head).chain(lines).collect::<Vec<_>>()))
}

/// Verbs by resource, paths and names.
fn rights(status: &Value) -> BTreeMap<[String; 3], Vec<String>> {
    let mut rights = BTreeMap::<_, Vec<String>>::new();
    let mut add = |key: [String; 3], rule: &Value| {
        let verbs = rights.entry(key).or_default();
        verbs.extend(texts(&rule["verbs"]).into_iter().map(str::to_owned));
        verbs.sort();
        verbs.dedup();
    };
    for rule in status["resourceRules"].as_array().into_iter().flatten() {
        let names = texts(&rule["resourceNames"]).join(" ");
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]) {
                let (name, below) =
                    resource.split_once('/').map_or((resource, String::new()), |(r, s)| (r, format!("/{s}")));
                let group = if group.is_empty() { String::new() } else { format!(".{group}") };
                add([format!("{name}{group}{below}"), String::new(), names.clone()], rule);
            }
        }
    }
    for rule in status["nonResourceRules"].as_array().into_iter().flatten() {
        texts(&rule["nonResourceURLs"])
            .into_iter()
            .for_each(|path| add([String::new(), path.to_owned(), String::new()], rule));
    }
    rights
}

/// Inspect authorization.
#[derive(Args)]
pub struct Auth {
    #[command(subcommand)]
    what: AuthWhat,
}

#[derive(Subcommand)]
enum AuthWhat {
    /// Check whether an action is allowed
    #[command(name = "can-i")]
    CanI {
        /// get, list, create, ...
        #[arg(required_unless_present = "list")]
        verb: Option<String>,
        /// TYPE, TYPE/NAME, or a path that begins with /
        #[arg(required_unless_present = "list")]
        what: Option<String>,
        /// A subresource
        #[arg(long, default_value = "")]
        subresource: String,
        /// Print all that is allowed in the namespace
        #[arg(long, conflicts_with = "verb")]
        list: bool,
        /// Only the exit code tells
        #[arg(short, long)]
        quiet: bool,
    },
    /// Who the server thinks we are
    Whoami,
}

impl Auth {
    /// Runs the verb.
    pub async fn run(&self, session: &mut Session) -> Result<(), CliError> {
        match &self.what {
            AuthWhat::Whoami => {
                let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
                let answer = session.wire.create("/apis/authentication.k8s.io/v1/selfsubjectreviews", &review).await?;
                let user = &answer["status"]["userInfo"];
                let groups: Vec<&str> =
                    user["groups"].as_array().into_iter().flatten().filter_map(|g| g.as_str()).collect();
                let row = |name: &str, value: String| vec![name.to_owned(), value];
                let rows = [
                    row("ATTRIBUTE", "VALUE".to_owned()),
                    row("Username", user["username"].as_str().unwrap_or_default().to_owned()),
                    row("Groups", format!("[{}]", groups.join(" "))),
                ];
                let uid = user["uid"].as_str().filter(|uid| !uid.is_empty()).map(|uid| row("UID", uid.to_owned()));
                let extra = user["extra"]
                    .as_object()
                    .into_iter()
                    .flatten()
                    .map(|(key, values)| row(&format!("Extra: {key}"), format!("[{}]", texts(values).join(" "))));
                let [head, name, groups] = rows;
                let rows: Vec<_> = [head, name].into_iter().chain(uid).chain([groups]).chain(extra).collect();
                session.print(&table::align(&rows))
            }
            AuthWhat::CanI { list: true, .. } => list_rights(session).await,
            AuthWhat::CanI { verb, what, subresource, quiet, .. } => {
                let (verb, what) = (verb.as_deref().unwrap_or_default(), what.as_deref().unwrap_or_default());
                let spec = if what.starts_with('/') {
                    json!({"nonResourceAttributes": {"verb": verb, "path": what}})
                } else {
                    let (kind, name) = what.split_once('/').unwrap_or((what, ""));
                    let found = session.kinds().await?.find(kind).cloned();
                    let (group, resource) =
                        found.map_or_else(|_| (String::new(), kind.to_owned()), |k| (k.group_version.group, k.plural));
                    json!({"resourceAttributes": {"verb": verb, "group": group, "resource": resource, "subresource": subresource, "name": name, "namespace": session.list_namespace()}})
                };
                let review =
                    json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": spec});
                let answer =
                    session.wire.create("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &review).await?;
                let allowed = answer["status"]["allowed"] == true;
                if !quiet {
                    session.line(if allowed { "yes" } else { "no" })?;
                }
                if allowed { Ok(()) } else { Err(CliError::Reported) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_brought_together() {
        let status = json!({
            "resourceRules": [
                {"verbs": ["get"], "apiGroups": [""], "resources": ["pods", "pods/log"]},
                {"verbs": ["list", "get"], "apiGroups": ["", "apps"], "resources": ["pods"]},
                {"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "resourceNames": ["a"]}],
            "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/healthz"]}],
        });
        let shown: Vec<String> =
            rights(&status).into_iter().map(|(key, verbs)| format!("{} {}", key.join("|"), verbs.join(","))).collect();
        assert_eq!(
            shown,
            ["|/healthz| get", "pods|| get,list", "pods||a get", "pods.apps|| get,list", "pods/log|| get"]
        );
    }
}
