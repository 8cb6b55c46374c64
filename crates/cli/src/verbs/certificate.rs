//! `certificate approve` and `deny`.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::error::CliError;
use crate::session::Session;
use crate::targets::Targets;

/// Modify certificate resources.
#[derive(Args)]
pub struct Certificate {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Approve a certificate signing request
    Approve(Requests),
    /// Deny a certificate signing request
    Deny(Requests),
}

#[derive(Args)]
struct Requests {
    /// Names of requests
    names: Vec<String>,
    /// Selector (label query) to filter on
    #[arg(short = 'l', long)]
    selector: Option<String>,
    /// Write even what has been written already
    #[arg(long)]
    force: bool,
}

impl Certificate {
    /// Runs the verb.
    pub async fn run(&self, session: &mut Session) -> Result<(), CliError> {
        let (requests, ty, done) = match &self.what {
            What::Approve(requests) => (requests, "Approved", "approved"),
            What::Deny(requests) => (requests, "Denied", "denied"),
        };
        // Either `csr NAME` or `NAME`.
        if requests.names.is_empty() && requests.selector.is_none() {
            return Err(CliError::usage("one or more CSRs must be specified as <name>, or with -l"));
        }
        let is_type =
            |word: &String| ["csr", "certificatesigningrequest", "certificatesigningrequests"].contains(&&**word);
        let bare = |word: &String| word.strip_prefix("csr/").unwrap_or(word).to_owned();
        let names = requests.names.iter().filter(|word| !is_type(word)).map(bare);
        let words = std::iter::once("certificatesigningrequests".to_owned()).chain(names).collect();
        let targets = Targets { words, selector: requests.selector.clone(), ..Targets::default() };
        let mut failed = false;
        for (target, mut request) in targets.fetch(session).await? {
            let news = match decide(&mut request, ty, &session.world.now().to_string()) {
                Ok(news) => news,
                Err(error) => {
                    session.warn(&error.to_string());
                    failed = true;
                    continue;
                }
            };
            if news || requests.force {
                session.wire.replace(&format!("{}/approval", target.path()), &request).await?;
            }
            session.line(format!("{} {done}", target.shown()))?;
        }
        if failed { Err(CliError::Reported) } else { Ok(()) }
    }
}

/// Adds the condition; whether it is new.
fn decide(request: &mut Value, ty: &str, now: &str) -> Result<bool, CliError> {
    let other = if ty == "Approved" { "Denied" } else { "Approved" };
    let mut conditions = request["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let has = |ty: &str| conditions.iter().any(|condition| condition["type"] == ty);
    if has(other) {
        let name = &request["metadata"]["name"];
        return Err(CliError::usage(format!("certificate signing request {name} is already {other}")));
    }
    if has(ty) {
        return Ok(false);
    }
    conditions.push(json!({"type": ty, "status": "True", "reason": format!("Kubectl{}", if ty == "Approved" { "Approve" } else { "Deny" }),
        "message": format!("This CSR was {} by kubectl certificate {}.", ty.to_lowercase(), if ty == "Approved" { "approve" } else { "deny" }),
        "lastUpdateTime": now}));
    request["status"]["conditions"] = json!(conditions);
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decided_once() {
        let mut request = json!({"metadata": {"name": "r"}});
        assert!(decide(&mut request, "Approved", "2026-01-31T12:00:00Z").expect("decided"));
        assert_eq!(request["status"]["conditions"][0]["reason"], "KubectlApprove");
        assert!(!decide(&mut request, "Approved", "").expect("the same"));
        let refused = decide(&mut request, "Denied", "").expect_err("it is too late");
        assert_eq!(refused.to_string(), "error: certificate signing request \"r\" is already Approved");
    }
}
