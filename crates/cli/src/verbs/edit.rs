//! Small changes to objects that are there: `scale`, `label`, `annotate`, `patch`, `replace`, `cordon`, `uncordon`.

use clap::Args;
use serde_json::{Map, Value, json};

use super::change::Change;
use crate::error::CliError;
use crate::session::Session;
use crate::targets::{Files, Target, Targets, with_query};
use crate::wire::PatchType;

/// Set a new size for a deployment, replica set, replication controller, or stateful set.
#[derive(Args)]
pub struct Scale {
    #[command(flatten)]
    targets: Targets,
    /// How many
    #[arg(long)]
    replicas: i64,
    /// Only when there are that many now
    #[arg(long)]
    current_replicas: Option<i64>,
}

impl Scale {
    /// Runs the verb.
    pub async fn run(&self, session: &mut Session) -> Result<(), CliError> {
        for (target, _) in self.targets.fetch(session).await? {
            let path = format!("{}/scale", target.path());
            if let Some(wanted) = self.current_replicas {
                let now = session.wire.get(&path).await?["spec"]["replicas"].as_i64().unwrap_or(0);
                if now != wanted {
                    return Err(CliError::usage(format!("Expected replicas to be {wanted}, was {now}")));
                }
            }
            session.wire.patch(&path, PatchType::Merge, &json!({"spec": {"replicas": self.replicas}})).await?;
            session.line(format!("{} scaled", target.shown()))?;
        }
        Ok(())
    }
}

/// Update the labels (or annotations) on a resource: KEY=VALUE sets, KEY- removes.
#[derive(Args)]
pub struct Label {
    #[command(flatten)]
    targets: Targets,
    /// Change values that are there already
    #[arg(long)]
    overwrite: bool,
    #[command(flatten)]
    change: Change,
}

impl Label {
    /// Runs the verb on `labels` or `annotations`.
    pub async fn run(&self, session: &mut Session, field: &str) -> Result<(), CliError> {
        let is_change = |w: &&String| w.contains('=') || w.ends_with('-');
        let mut targets = self.targets.clone();
        targets.words.retain(|w| !is_change(&w));
        let changes: Vec<&String> = self.targets.words.iter().filter(is_change).collect();
        if changes.is_empty() {
            return Err(CliError::usage(format!("at least one {} update is required", field.trim_end_matches('s'))));
        }
        for (target, object) in targets.fetch(session).await? {
            let mut patch = Map::new();
            for change in &changes {
                match change.split_once('=') {
                    Some((key, value)) => {
                        let now = object["metadata"][field][key].as_str();
                        if !self.overwrite && now.is_some_and(|now| now != value) {
                            return Err(CliError::usage(format!(
                                "'{key}' already has a value ({}), and --overwrite is false",
                                now.unwrap_or_default()
                            )));
                        }
                        patch.insert(key.to_owned(), json!(value));
                    }
                    None => {
                        patch.insert(change.trim_end_matches('-').to_owned(), Value::Null);
                    }
                }
            }
            let done = match (field, changes.iter().all(|c| !c.contains('='))) {
                ("labels", true) => "unlabeled",
                ("labels", false) => "labeled",
                _ => "annotated",
            };
            let patch = json!({"metadata": {field: patch}});
            self.change.patch(session, &target, &object, (PatchType::Merge, &patch), done).await?;
        }
        Ok(())
    }
}

/// Update fields of a resource.
#[derive(Args)]
pub struct Patch {
    #[command(flatten)]
    targets: Targets,
    /// The patch, JSON or YAML
    #[arg(short = 'p', long, required_unless_present = "patch_file", default_value = "")]
    patch: String,
    /// File with the patch
    #[arg(long, conflicts_with = "patch")]
    patch_file: Option<String>,
    /// strategic, merge or json
    #[arg(long = "type", default_value = "strategic")]
    ty: String,
    /// A subresource, such as status
    #[arg(long)]
    subresource: Option<String>,
    #[command(flatten)]
    change: Change,
}

impl Patch {
    /// Runs the verb.
    pub async fn run(&self, session: &mut Session) -> Result<(), CliError> {
        let ty = match &*self.ty {
            "strategic" => PatchType::Strategic,
            "merge" => PatchType::Merge,
            "json" => PatchType::Json,
            other => {
                return Err(CliError::usage(format!("--type must be one of [json merge strategic], not \"{other}\"")));
            }
        };
        let text = match &self.patch_file {
            Some(file) => std::fs::read_to_string(file).map_err(|e| CliError::Io(file.clone(), e))?,
            None => self.patch.clone(),
        };
        let patch = crate::output::yaml::parse_all(&text)
            .map_err(|e| CliError::usage(format!("unable to parse \"{text}\": {e}")))?;
        let patch = patch.into_iter().next().unwrap_or_default();
        for target in self.targets.resolve(session).await? {
            let path = match &self.subresource {
                Some(sub) => format!("{}/{sub}", target.path()),
                None => target.path(),
            };
            let now = session.wire.get(&path).await?;
            let object = if self.change.dry_run == "client" {
                now.clone()
            } else {
                session.wire.patch(&with_query(&path, &[self.change.dry_parameter()]), ty, &patch).await?.1
            };
            let done = if object == now { "patched (no change)" } else { "patched" };
            self.change.tell(session, &target, &object, done)?;
        }
        Ok(())
    }
}

/// Replace a resource by file name or stdin.
#[derive(Args)]
pub struct Replace {
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    change: Change,
}

impl Replace {
    /// Runs the verb.
    pub async fn run(&self, session: &mut Session) -> Result<(), CliError> {
        let kinds = session.kinds().await?;
        for (source, manifest) in self.files.read_named()? {
            let kind = kinds.of_object(&manifest)?;
            let target = crate::targets::target_of(&manifest, kind, session);
            let path = with_query(&target.path(), &[self.change.dry_parameter(), ("fieldValidation", "Strict")]);
            let object = session.wire.replace(&path, &manifest).await;
            let object = object.map_err(|error| error.at("replacing", &source))?;
            self.change.tell(session, &target, &object, "replaced")?;
        }
        Ok(())
    }
}

/// Mark nodes (un)schedulable.
#[derive(Args)]
pub struct Cordon {
    /// Names of nodes
    nodes: Vec<String>,
    /// Selector (label query) to filter on
    #[arg(short = 'l', long)]
    selector: Option<String>,
}

impl Cordon {
    /// Runs `cordon` or `uncordon`.
    pub async fn run(&self, session: &mut Session, unschedulable: bool) -> Result<(), CliError> {
        let mut words = vec!["nodes".to_owned()];
        words.extend(self.nodes.clone());
        let targets = Targets { words, selector: self.selector.clone(), ..Targets::default() };
        for (target, node) in targets.fetch(session).await? {
            cordon(session, &target, &node, unschedulable).await?;
        }
        Ok(())
    }
}

/// Cordons or uncordons one node and says so.
pub async fn cordon(session: &mut Session, target: &Target, node: &Value, unschedulable: bool) -> Result<(), CliError> {
    let word = if unschedulable { "cordoned" } else { "uncordoned" };
    if node["spec"]["unschedulable"].as_bool().unwrap_or(false) == unschedulable {
        return session.line(format!("{} already {word}", target.shown()));
    }
    let value = if unschedulable { json!(true) } else { Value::Null };
    session.wire.patch(&target.path(), PatchType::Strategic, &json!({"spec": {"unschedulable": value}})).await?;
    session.line(format!("{} {word}", target.shown()))
}
