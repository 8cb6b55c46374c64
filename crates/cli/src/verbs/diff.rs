//! `skiff diff`: what changed since a moment of the past.

use std::collections::BTreeMap;

use clap::Args;
use serde_json::Value;

use crate::error::CliError;
use crate::output::{items, lines, yaml};
use crate::session::Session;
use crate::targets::{Target, Targets, with_query};

/// Show what changed since a moment of the past.
#[derive(Args)]
pub struct Diff {
    /// Since when: how long ago (10m), a time (2026-01-31T12:00:00Z), or a revision
    #[arg(long)]
    from: String,
    /// Until when, in the same words [default: now]
    #[arg(long)]
    to: Option<String>,
    #[command(flatten)]
    targets: Targets,
    /// Compare managedFields as well
    #[arg(long)]
    show_managed_fields: bool,
}

/// Objects by namespace and name, as text.
type Texts = BTreeMap<(String, String), String>;

impl Diff {
    /// Runs the verb.
    pub async fn run(&self, session: &mut Session) -> Result<(), CliError> {
        let until = self.to.as_deref().unwrap_or("now");
        for target in self.targets.resolve(session).await? {
            let then = self.texts(session, &target, Some(&self.from)).await?;
            let now = self.texts(session, &target, self.to.as_deref()).await?;
            if then.is_empty() && now.is_empty() && target.name.is_some() {
                session.warn(&format!("{} existed neither at {} nor at {until}", target.shown(), self.from));
            }
            let mut names: Vec<_> = then.keys().chain(now.keys()).collect();
            names.sort();
            names.dedup();
            for key @ (namespace, name) in names {
                let hunks = lines::unified(text(&then, key), text(&now, key));
                if hunks.is_empty() {
                    continue;
                }
                let place = if namespace.is_empty() { String::new() } else { format!(" in {namespace}") };
                let named = format!("{}/{name}{place}", target.kind.named());
                let there = |texts: &Texts| if texts.contains_key(key) { "" } else { " (absent)" };
                session.print(&format!(
                    "--- {named} at {}{}\n+++ {named} at {until}{}\n{hunks}",
                    self.from,
                    there(&then),
                    there(&now)
                ))?;
            }
        }
        Ok(())
    }

    async fn texts(&self, session: &Session, target: &Target, at: Option<&str>) -> Result<Texts, CliError> {
        let selector = self.targets.selector.as_deref().unwrap_or("");
        let path = with_query(&target.path(), &[("labelSelector", selector), ("at", at.unwrap_or(""))]);
        let found = match session.wire.get(&path).await {
            Err(error) if error.is_not_found() && target.name.is_some() => return Ok(Texts::new()),
            found => found?,
        };
        Ok(items(&found).into_iter().map(|item| self.entry(item, target)).collect())
    }

    fn entry(&self, mut item: Value, target: &Target) -> ((String, String), String) {
        let metadata = &mut item["metadata"];
        let word = |name: &str| metadata[name].as_str().unwrap_or_default().to_owned();
        let key = (word("namespace"), word("name"));
        if let Some(metadata) = metadata.as_object_mut().filter(|_| !self.show_managed_fields) {
            metadata.remove("managedFields");
        }
        item["apiVersion"] = target.kind.group_version.to_string().into();
        item["kind"] = target.kind.kind.clone().into();
        (key, yaml::emit(&item))
    }
}

fn text<'a>(texts: &'a Texts, key: &(String, String)) -> &'a str {
    texts.get(key).map_or("", String::as_str)
}
