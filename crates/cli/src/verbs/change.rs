//! What verbs have in common that change objects: `--dry-run`, `-o`, and what is said afterwards.

use clap::Args;
use serde_json::Value;

use crate::error::CliError;
use crate::output::Format;
use crate::session::Session;
use crate::targets::{Target, with_query};
use crate::wire::PatchType;

/// How objects are changed.
#[derive(Args, Clone, Debug, Default)]
pub struct Change {
    /// none, client or server
    #[arg(long, default_value = "none", global = true)]
    pub dry_run: String,
    /// yaml, json, name, ...
    #[arg(short = 'o', long, default_value = "", global = true)]
    pub output: String,
}

impl Change {
    /// What is said after what was done.
    pub fn dry_words(&self) -> &'static str {
        match &*self.dry_run {
            "client" => " (dry run)",
            "server" => " (server dry run)",
            _ => "",
        }
    }

    /// The parameter that keeps the server from doing it.
    pub fn dry_parameter(&self) -> (&'static str, &'static str) {
        ("dryRun", if self.dry_run == "server" { "All" } else { "" })
    }

    /// Patches an object, which now is as `now` says, and tells what was done.
    pub async fn patch(
        &self,
        session: &mut Session,
        target: &Target,
        now: &Value,
        (ty, patch): (PatchType, &Value),
        done: &str,
    ) -> Result<(), CliError> {
        let object = if self.dry_run == "client" {
            now.clone()
        } else {
            session.wire.patch(&with_query(&target.path(), &[self.dry_parameter()]), ty, patch).await?.1
        };
        self.tell(session, target, &object, done)
    }

    /// Shows an object that was changed, or says what was done to it.
    pub fn tell(&self, session: &mut Session, target: &Target, object: &Value, done: &str) -> Result<(), CliError> {
        let format = Format::parse(&self.output)?;
        if format.is_table() {
            return session.line(format!("{} {done}{}", target.shown(), self.dry_words()));
        }
        session.print(&format.render(&target.kind, object)?)
    }
}
