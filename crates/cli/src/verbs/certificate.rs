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
    /// Even if it has been decided already
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
        let is_type =
            |word: &String| ["csr", "certificatesigningrequest", "certificatesigningrequests"].contains(&&**word);
        let bare = |word: &String| word.strip_prefix("csr/").unwrap_or(word).to_owned();
        let names = requests.names.iter().filter(|word| !is_type(word)).map(bare);
        let words = std::iter::once("certificatesigningrequests".to_owned()).chain(names).collect();
        let targets = Targets { words, selector: requests.selector.clone(), ..Targets::default() };
        for (target, mut request) in targets.fetch(session).await? {
            if decide(&mut request, ty, requests.force, &session.world.now().to_string()) {
                session.wire.replace(&format!("{}/approval", target.path()), &request).await?;
            }
            session.line(format!("{} {done}", target.shown()))?;
        }
        Ok(())
    }
}

/// Adds the condition; whether there is anything to send.
fn decide(request: &mut Value, ty: &str, force: bool, now: &str) -> bool {
    let other = if ty == "Approved" { "Denied" } else { "Approved" };
    let mut conditions = request["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let has = |conditions: &[Value], ty: &str| conditions.iter().any(|condition| condition["type"] == ty);
    if has(&conditions, ty) || has(&conditions, other) && !force {
        return false;
    }
    conditions.push(json!({"type": ty, "status": "True", "reason": format!("Kubectl{}", if ty == "Approved" { "Approve" } else { "Deny" }),
        "message": format!("This CSR was {} by kubectl certificate {}.", ty.to_lowercase(), if ty == "Approved" { "approve" } else { "deny" }),
        "lastUpdateTime": now}));
    request["status"]["conditions"] = json!(conditions);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decided_once() {
        let mut request = json!({});
        assert!(decide(&mut request, "Approved", false, "2026-01-31T12:00:00Z"));
        assert_eq!(request["status"]["conditions"][0]["reason"], "KubectlApprove");
        assert!(!decide(&mut request, "Approved", false, ""));
        assert!(!decide(&mut request, "Denied", false, ""));
    }
}
