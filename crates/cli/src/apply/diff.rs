//! `diff`: what `apply` would change.

use clap::Args;
use serde_json::Value;

use super::{Apply, Done};
use crate::error::CliError;
use crate::output::{lines, yaml};
use crate::session::Session;

/// Show what applying a configuration would change. Ends with 1 where it would change something.
#[derive(Args)]
pub struct Diff {
    #[command(flatten)]
    apply: Apply,
    /// Compare managedFields as well
    #[arg(long)]
    show_managed_fields: bool,
}

impl Diff {
    /// Runs the verb.
    pub async fn run(&self, session: &mut Session) -> Result<(), CliError> {
        let apply = Apply { dry_run: "server".to_owned(), ..self.apply.clone() };
        if apply.files.filename.is_empty() {
            return Err(CliError::usage("must specify one of -f and -k"));
        }
        let mut differs = false;
        for manifest in apply.files.read()? {
            let kinds = session.kinds().await?;
            let live = crate::targets::target_of(&manifest, kinds.of_object(&manifest)?, session);
            let before = match session.wire.get(&live.path()).await {
                Err(error) if error.is_not_found() => Value::Null,
                other => other?,
            };
            let Some((target, done)) = apply.one(session, manifest).await? else { continue };
            let (Done::Created(after) | Done::Configured(after) | Done::Unchanged(after) | Done::ServerSide(after)) =
                done;
            let hunks = lines::unified(&self.text(&before), &self.text(&after));
            if !hunks.is_empty() {
                differs = true;
                session.print(&format!("--- live {0}\n+++ merged {0}\n{hunks}", target.shown()))?;
            }
        }
        if differs { Err(CliError::Reported) } else { Ok(()) }
    }

    fn text(&self, object: &Value) -> String {
        let mut object = object.clone();
        if object.is_null() {
            return String::new();
        }
        if !self.show_managed_fields {
            object["metadata"].as_object_mut().map(|metadata| metadata.remove("managedFields"));
        }
        yaml::emit(&object)
    }
}
