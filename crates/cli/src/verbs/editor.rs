//! `edit`: an object in one's editor.

use std::io::{Read, Seek, Write};
use std::process::Command;

use clap::Args;
use serde_json::{Map, Value};

use crate::error::CliError;
use crate::output::{Format, list_of, yaml};
use crate::session::Session;
use crate::targets::{Targets, with_query};
use crate::wire::PatchType;

/// Edit a resource on the server.
#[derive(Args)]
pub struct Edit {
    #[command(flatten)]
    targets: Targets,
    /// yaml or json
    #[arg(short = 'o', long, default_value = "yaml")]
    output: String,
    /// A subresource, such as status
    #[arg(long)]
    subresource: Option<String>,
    /// Show managedFields too
    #[arg(long)]
    show_managed_fields: bool,
}

const HEAD: &str = "\
# Edit the object below. Lines that begin with '#' are ignored, and an empty file ends the edit.
# What is saved here is sent to the server; if that refuses it, the file is kept.
#
";

impl Edit {
    /// Runs the verb.
    pub async fn run(&self, session: &mut Session) -> Result<(), CliError> {
        let format = Format::parse(&self.output)?;
        let mut found = self.targets.fetch(session).await?;
        if !self.show_managed_fields {
            for (_, object) in &mut found {
                object["metadata"].as_object_mut().map(|metadata| metadata.remove("managedFields"));
            }
        }
        let Some((first, _)) = found.first() else {
            return Err(CliError::usage("edit cancelled, no objects found"));
        };
        let mut before: Vec<Value> = found.iter().map(|(_, object)| object.clone()).collect();
        let shown = if before.len() == 1 { before[0].clone() } else { list_of(before.clone()) };
        // JSON has no comments.
        let head = if matches!(format, Format::Yaml) { HEAD } else { "" };
        let text = format!("{head}{}", format.render(&first.kind, &shown)?);
        let edited = in_editor(&text, &self.output)?;
        let mut documents = yaml::parse_all(&edited)
            .map_err(|e| CliError::usage(format!("the edited file is no {}: {e}", self.output)))?;
        if edited == text {
            session.warn("Edit cancelled, no changes made.");
            return Ok(());
        }
        if documents.is_empty() || documents[0].is_null() {
            session.warn("Edit cancelled, saved file was empty.");
            return Ok(());
        }
        let document = documents.swap_remove(0);
        let mut after = crate::output::items(&document);
        let id = |object: &Value| {
            (object["metadata"]["namespace"].clone(), object["metadata"]["name"].clone(), object["kind"].clone())
        };
        if after.len() != before.len() || before.iter().zip(&after).any(|(before, after)| id(before) != id(after)) {
            return Err(CliError::usage("At least one of apiVersion, kind and name was changed"));
        }
        for (((target, _), before), after) in found.iter().zip(&mut before).zip(&mut after) {
            let patch = difference(before, after);
            if patch.as_object().is_some_and(Map::is_empty) {
                session.line(format!("{} skipped", target.shown()))?;
                continue;
            }
            let path = match &self.subresource {
                Some(sub) => format!("{}/{sub}", target.path()),
                None => target.path(),
            };
            let path = with_query(&path, &[("fieldManager", "kubectl-edit"), ("fieldValidation", "Strict")]);
            if let Err(error) = session.wire.patch(&path, PatchType::Merge, &patch).await {
                let kept = keep(&edited, &self.output)?;
                session.warn(&format!("A copy of your changes has been stored to \"{kept}\""));
                return Err(error);
            }
            session.line(format!("{} edited", target.shown()))?;
        }
        Ok(())
    }
}

fn failed(error: std::io::Error) -> CliError {
    CliError::Io("the file to edit".to_owned(), error)
}

/// Text as a person leaves it in the editor.
fn in_editor(text: &str, extension: &str) -> Result<String, CliError> {
    let mut file =
        tempfile::Builder::new().prefix("kubectl-edit-").suffix(&format!(".{extension}")).tempfile().map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    let editor = ["KUBE_EDITOR", "EDITOR"].iter().find_map(|name| std::env::var(name).ok().filter(|e| !e.is_empty()));
    let editor = editor.unwrap_or_else(|| "vi".to_owned());
    // As a shell reads it: editors have flags, and names with spaces.
    let status = Command::new("sh").arg("-c").arg(format!("{editor} \"$1\"")).arg("sh").arg(file.path()).status();
    let status = status.map_err(|e| CliError::Io(editor.clone(), e))?;
    if !status.success() {
        return Err(CliError::usage(format!("there was a problem with the editor {editor:?}")));
    }
    // Editors may write a new file in place of ours.
    let mut edited = String::new();
    file.rewind()
        .and_then(|()| std::fs::File::open(file.path()))
        .and_then(|mut f| f.read_to_string(&mut edited))
        .map_err(failed)?;
    Ok(edited)
}

fn keep(text: &str, extension: &str) -> Result<String, CliError> {
    let mut file =
        tempfile::Builder::new().prefix("kubectl-edit-").suffix(&format!(".{extension}")).tempfile().map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    let (_, path) = file.keep().map_err(|e| failed(e.error))?;
    Ok(path.display().to_string())
}

/// The merge patch from one value to another.
fn difference(before: &Value, after: &Value) -> Value {
    let (Value::Object(old), Value::Object(new)) = (before, after) else { return after.clone() };
    let mut patch = Map::new();
    for (name, value) in new.iter().filter(|(name, value)| old.get(*name) != Some(value)) {
        patch.insert(name.clone(), old.get(name).map_or_else(|| value.clone(), |old| difference(old, value)));
    }
    patch.extend(old.keys().filter(|name| !new.contains_key(*name)).map(|name| (name.clone(), Value::Null)));
    Value::Object(patch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn differences_as_merge_patches() {
        for (before, after, patch) in [
            (json!({"a": 1, "b": {"c": 1, "d": 2}}), json!({"a": 1, "b": {"c": 2}}), json!({"b": {"c": 2, "d": null}})),
            (json!({"l": [1, 2]}), json!({"l": [2]}), json!({"l": [2]})),
            (json!({}), json!({"x": {"y": 1}}), json!({"x": {"y": 1}})),
            (json!({"x": {"y": 1}}), json!({"x": {"y": 1}}), json!({})),
        ] {
            assert_eq!(difference(&before, &after), patch);
        }
    }
}
