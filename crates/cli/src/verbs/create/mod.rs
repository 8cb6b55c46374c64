//! `create`: objects from files, or small ones from a few words.

mod generators;
mod network;
mod rights;
mod secrets;
#[cfg(test)]
mod tests;

use clap::Args;
use serde_json::Value;

use super::change::Change;
use crate::apply::annotate;
use crate::error::CliError;
use crate::session::Session;
use crate::targets::{Files, target_of, with_query};
use generators::Generator;
pub(super) use generators::pairs;

/// Create a resource from a file, from stdin, or from words.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Create {
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    how: How,
    #[command(subcommand)]
    generator: Option<Generator>,
}

/// How something is created.
#[derive(Args, Clone, Debug, Default)]
pub struct How {
    #[command(flatten)]
    change: Change,
    /// Keep the manifest for a later apply
    #[arg(long, global = true)]
    pub save_config: bool,
}

impl Create {
    /// Runs the verb.
    pub async fn run(&self, session: &mut Session) -> Result<(), CliError> {
        if let Some(generator) = &self.generator {
            let manifest = generator.manifest(session).await?;
            let done = match generator {
                Generator::Token(token) => self.token(session, &token.path(&session.namespace), &manifest).await,
                _ => self.how.create(session, manifest).await,
            };
            return done.map_err(|error| match (error, generator.failed_at()) {
                (CliError::Api(status), Some(what)) => CliError::usage(format!("failed to create {what} {status}")),
                (error, _) => error,
            });
        }
        if self.files.filename.is_empty() {
            return Err(CliError::usage("must specify one of -f and -k"));
        }
        for (source, manifest) in self.files.read_named()? {
            self.how.create(session, manifest).await.map_err(|error| error.at("creating", &source))?;
        }
        Ok(())
    }

    async fn token(&self, session: &mut Session, path: &str, request: &Value) -> Result<(), CliError> {
        let answer = session.wire.create(path, request).await?;
        let token = answer["status"]["token"].as_str();
        session.line(token.ok_or_else(|| CliError::usage("failed to create token: no token in server response"))?)
    }
}

impl How {
    /// Creates one object and says so.
    pub async fn create(&self, session: &mut Session, manifest: Value) -> Result<(), CliError> {
        self.create_saying(session, manifest, "created").await
    }

    /// Creates one object and says in another word what was done.
    pub async fn create_saying(&self, session: &mut Session, mut manifest: Value, done: &str) -> Result<(), CliError> {
        let kind = session.kinds().await?.of_object(&manifest)?.clone();
        let mut target = target_of(&manifest, &kind, session);
        if self.save_config {
            annotate(&mut manifest)?;
        }
        let object = if self.change.dry_run == "client" {
            manifest
        } else {
            let query =
                [self.change.dry_parameter(), ("fieldManager", "kubectl-create"), ("fieldValidation", "Strict")];
            session.wire.create(&with_query(&kind.path(&target.namespace), &query), &manifest).await?
        };
        target.name = object["metadata"]["name"].as_str().map(str::to_owned);
        self.change.tell(session, &target, &object, done)
    }
}
