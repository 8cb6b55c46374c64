//! `diff`: what `apply` would change.

use clap::Args;
use serde_json::{Map, Value};

use super::{Apply, Done, LAST_APPLIED};
use crate::error::CliError;
use crate::output::{lines, yaml};
use crate::session::Session;

/// Show what applying a configuration would change. Ends with 1 where it would change something, with more on errors.
#[derive(Args)]
pub struct Diff {
    #[command(flatten)]
    apply: Apply,
    /// Compare managedFields as well
    #[arg(long)]
    show_managed_fields: bool,
    /// Show the data of Secrets
    #[arg(long)]
    show_secrets: bool,
}

impl Diff {
    /// Runs the verb.
    pub async fn run(&self, session: &mut Session) -> Result<(), CliError> {
        match self.differs(session).await {
            Ok(false) => Ok(()),
            Ok(true) => Err(CliError::Reported),
            Err(error) => Err(CliError::Trouble(Box::new(error))),
        }
    }

    async fn differs(&self, session: &mut Session) -> Result<bool, CliError> {
        let apply = Apply { dry_run: "server".to_owned(), ..self.apply.clone() };
        if apply.files.filename.is_empty() {
            return Err(CliError::usage("must specify one of -f and -k"));
        }
        let mut differs = false;
        for manifest in apply.files.read()? {
            let kinds = session.kinds().await?;
            let live = crate::targets::target_of(&manifest, kinds.of_object(&manifest)?, session);
            let mut before = match session.wire.get(&live.path()).await {
                Err(error) if error.is_not_found() => Value::Null,
                other => other?,
            };
            let Some((target, done)) = apply.one(session, manifest).await? else { continue };
            let (Done::Created(mut after)
            | Done::Configured(mut after)
            | Done::Unchanged(mut after)
            | Done::ServerSide(mut after)) = done;
            if !self.show_secrets && after["apiVersion"] == "v1" && after["kind"] == "Secret" {
                // What was applied last is told only in so far as it changes, and then it would tell the data.
                for object in [&mut before, &mut after] {
                    let annotations = object.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut);
                    annotations.map(|all| all.remove(LAST_APPLIED));
                }
                mask(&mut before, &mut after);
            }
            let hunks = lines::unified(&self.text(&before), &self.text(&after));
            if !hunks.is_empty() {
                differs = true;
                session.print(&format!("--- live {0}\n+++ merged {0}\n{hunks}", target.shown()))?;
            }
        }
        Ok(differs)
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

/// Hides the data of a Secret, but not whether they change.
fn mask(before: &mut Value, after: &mut Value) {
    let mut none = (Map::new(), Map::new());
    let before = before.get_mut("data").and_then(Value::as_object_mut).unwrap_or(&mut none.0);
    let after = after.get_mut("data").and_then(Value::as_object_mut).unwrap_or(&mut none.1);
    for (key, old) in before.iter_mut() {
        let new = after.get_mut(key);
        let changes = new.as_ref().is_some_and(|new| **new != *old);
        *old = if changes { "*** (before)" } else { "***" }.into();
        if let Some(new) = new {
            *new = if changes { "*** (after)" } else { "***" }.into();
        }
    }
    after.iter_mut().filter(|(key, _)| !before.contains_key(*key)).for_each(|(_, new)| *new = "***".into());
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_are_compared_and_not_shown() {
        let mut before = json!({"data": {"same": "YQ==", "changed": "YQ==", "gone": "YQ=="}});
        let mut after = json!({"data": {"same": "YQ==", "changed": "Yg==", "new": "YQ=="}});
        mask(&mut before, &mut after);
        assert_eq!(before["data"], json!({"same": "***", "changed": "*** (before)", "gone": "***"}));
        assert_eq!(after["data"], json!({"same": "***", "changed": "*** (after)", "new": "***"}));
        let (mut absent, mut created) = (Value::Null, json!({"data": {"new": "YQ=="}}));
        mask(&mut absent, &mut created);
        assert_eq!((absent, &created["data"]), (Value::Null, &json!({"new": "***"})));
    }
}
