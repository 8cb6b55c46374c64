//! What the cluster is and can: `api-resources`, `api-versions`, `version`, `cluster-info`, `auth can-i`, `config view`.

use clap::{Args, Subcommand};
use serde_json::json;

use crate::error::CliError;
use crate::output::table;
use crate::session::Session;

/// Print the supported API resources on the server.
#[derive(Args)]
pub struct ApiResources {
    /// Only namespaced ones, or only others
    #[arg(long)]
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
        verb: String,
        /// TYPE, TYPE/NAME, or a path that begins with /
        what: String,
        /// A subresource
        #[arg(long, default_value = "")]
        subresource: String,
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
                session.print(&table::align(&rows))
            }
            AuthWhat::CanI { verb, what, subresource } => {
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
                session.line(if allowed { "yes" } else { "no" })?;
                if allowed { Ok(()) } else { Err(CliError::Exit(1)) }
            }
        }
    }
}
