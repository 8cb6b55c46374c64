//! `delete`: asks for deletion, and waits until it is done.

use clap::Args;
use serde_json::{Value, json};

use crate::error::CliError;
use crate::session::Session;
use crate::targets::{Target, Targets, with_query};

/// Delete resources by file names, resources and names, or by resources and label selector.
#[derive(Args)]
pub struct Delete {
    #[command(flatten)]
    targets: Targets,
    /// Seconds for a graceful end; negative: what the object says
    #[arg(long, default_value_t = -1)]
    grace_period: i64,
    /// With --grace-period=0: do not wait for confirmation from the node
    #[arg(long)]
    force: bool,
    /// End at once, waiting one second
    #[arg(long)]
    now: bool,
    /// background, foreground or orphan
    #[arg(long, default_value = "background")]
    cascade: String,
    /// Wait until the objects are gone
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    wait: bool,
    /// Do not fail when an object is missing
    #[arg(long)]
    ignore_not_found: bool,
    /// none, client or server
    #[arg(long, default_value = "none")]
    dry_run: String,
    /// Print only names
    #[arg(short = 'o', long, default_value = "")]
    output: String,
}

impl Delete {
    /// Runs the verb.
    pub async fn run(&self, session: &mut Session) -> Result<(), CliError> {
        if self.force {
            session.warn("Warning: Immediate deletion does not wait for confirmation that the running resource has been terminated. The resource may continue to run on the cluster indefinitely.");
        }
        let options = self.options()?;
        let found = match self.targets.words.as_slice() {
            // Names need no look first: deleting says whether they were there.
            _ if self.targets.selector.is_none() && !self.targets.all => {
                let targets = self.targets.resolve(session).await?;
                if targets.iter().any(|t| t.name.is_none()) {
                    return Err(CliError::usage("resource(s) were provided, but no name was specified"));
                }
                targets
            }
            _ => self.targets.fetch(session).await?.into_iter().map(|(target, _)| target).collect(),
        };
        if found.is_empty() {
            return session.line("No resources found");
        }
        let (mut waits, mut failed) = (Vec::new(), false);
        for target in found {
            if self.dry_run == "client" {
                self.say(session, &target)?;
                continue;
            }
            match session.wire.delete(&target.path(), &options).await {
                Ok(answer) => {
                    self.say(session, &target)?;
                    if self.dry_run == "server" {
                        continue;
                    }
                    waits.push((uid(&answer), target));
                }
                Err(error) if error.is_not_found() && (self.ignore_not_found || self.targets.all) => {}
                Err(error) => {
                    session.warn(&error.to_string());
                    failed = true;
                }
            }
        }
        if self.wait && !(self.force && self.grace_period == 0) {
            for (uid, target) in waits {
                wait_gone(session, &target, &uid).await?;
            }
        }
        if failed { Err(CliError::Reported) } else { Ok(()) }
    }

    fn options(&self) -> Result<Value, CliError> {
        let policy = match &*self.cascade {
            "background" | "true" => "Background",
            "foreground" => "Foreground",
            "orphan" | "false" => "Orphan",
            other => {
                return Err(CliError::usage(format!(
                    "invalid cascade value ({other}). Must be \"background\", \"foreground\", or \"orphan\""
                )));
            }
        };
        let mut options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": policy});
        if self.dry_run == "server" {
            options["dryRun"] = json!(["All"]);
        }
        let grace = if self.now { 1 } else { self.grace_period };
        if grace == 0 && !self.force {
            // As kubectl: zero is for --force; without it, as short as can be.
            options["gracePeriodSeconds"] = json!(1);
        } else if grace >= 0 || self.force {
            options["gracePeriodSeconds"] = json!(grace.max(0));
        }
        Ok(options)
    }

    fn say(&self, session: &mut Session, target: &Target) -> Result<(), CliError> {
        if self.output == "name" {
            return session.line(target.shown());
        }
        let how = if self.force { "force deleted" } else { "deleted" };
        let place =
            if target.namespace.is_empty() { String::new() } else { format!(" from {} namespace", target.namespace) };
        let dry = match &*self.dry_run {
            "client" => " (dry run)",
            "server" => " (server dry run)",
            _ => "",
        };
        let name = target.name.as_deref().unwrap_or_default();
        session.line(format!("{} \"{name}\" {how}{place}{dry}", target.kind.named()))
    }
}

fn uid(answer: &Value) -> String {
    let uid = answer["metadata"]["uid"].as_str().or(answer["details"]["uid"].as_str());
    uid.unwrap_or_default().to_owned()
}

/// Returns when the object, or at least this incarnation of it, is gone.
async fn wait_gone(session: &Session, target: &Target, uid: &str) -> Result<(), CliError> {
    loop {
        let current = match session.wire.get(&target.path()).await {
            Err(error) if error.is_not_found() => return Ok(()),
            other => other?,
        };
        if !uid.is_empty() && current["metadata"]["uid"] != uid {
            return Ok(());
        }
        let version = current["metadata"]["resourceVersion"].as_str().unwrap_or_default();
        let fields = format!("metadata.name={}", target.name.as_deref().unwrap_or_default());
        let path = with_query(
            &target.kind.path(&target.namespace),
            &[("watch", "true"), ("resourceVersion", version), ("fieldSelector", &fields)],
        );
        let mut lines = session.wire.watch(&path, "application/json").await?;
        while let Some(event) = lines.next().await? {
            match event["type"].as_str() {
                Some("DELETED") => return Ok(()),
                Some("ERROR") => break,
                _ => {}
            }
        }
    }
}
