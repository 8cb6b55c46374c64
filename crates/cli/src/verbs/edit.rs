//! Small changes to objects that are there: `scale`, `set image`, `label`, `annotate`, `patch`, `cordon`, `uncordon`.

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use crate::error::CliError;
use crate::output::Format;
use crate::session::Session;
use crate::targets::{Files, Target, Targets};
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

/// Set specific features on objects.
#[derive(Args)]
pub struct Set {
    #[command(subcommand)]
    what: SetWhat,
}

#[derive(Subcommand)]
enum SetWhat {
    /// Update the image of a pod template: set image deployment/web web=nginx:1.22
    Image {
        /// TYPE/NAME (or TYPE NAME) and CONTAINER=IMAGE ...; `*` is every container
        words: Vec<String>,
    },
    /// Update environment variables of a pod template: set env deployment/web A=1 B-
    Env {
        /// TYPE/NAME (or TYPE NAME) and KEY=VALUE or KEY- ...
        words: Vec<String>,
    },
}

impl Set {
    /// Runs the verb.
    pub async fn run(&self, session: &mut Session) -> Result<(), CliError> {
        let (SetWhat::Image { words } | SetWhat::Env { words }) = &self.what;
        let is_change = |w: &&String| w.contains('=') || w.ends_with('-');
        let changes: Vec<&String> = words.iter().filter(is_change).collect();
        let targets = words.iter().filter(|w| !is_change(w)).cloned().collect();
        if changes.is_empty() {
            return Err(CliError::usage("at least one change is required, such as web=nginx:1.22"));
        }
        let targets = Targets { words: targets, ..Targets::default() };
        for (target, object) in targets.fetch(session).await? {
            let at = template_path(&target.kind.kind);
            let spec = object.pointer(at).cloned().unwrap_or_default();
            let (patch, done) = match &self.what {
                SetWhat::Image { .. } => (images(&spec, &changes)?, "image updated"),
                SetWhat::Env { .. } => (environment(&spec, &changes), "env updated"),
            };
            session.wire.patch(&target.path(), PatchType::Strategic, &wrap(at, patch)).await?;
            session.line(format!("{} {done}", target.shown()))?;
        }
        Ok(())
    }
}

/// Where the pod spec of a kind stands.
fn template_path(kind: &str) -> &'static str {
    match kind {
        "Pod" => "/spec",
        "CronJob" => "/spec/jobTemplate/spec/template/spec",
        _ => "/spec/template/spec",
    }
}

fn wrap(pointer: &str, inner: Value) -> Value {
    pointer.rsplit('/').filter(|p| !p.is_empty()).fold(inner, |value, name| json!({name: value}))
}

fn images(spec: &Value, changes: &[&String]) -> Result<Value, CliError> {
    let mut patch = Map::new();
    for change in changes {
        let (name, image) = change.split_once('=').unwrap_or((change, ""));
        let mut hit = false;
        for list in ["containers", "initContainers"] {
            for container in spec[list].as_array().into_iter().flatten().filter(|c| name == "*" || c["name"] == name) {
                hit = true;
                let entry = patch.entry(list).or_insert_with(|| json!([]));
                if let Some(entries) = entry.as_array_mut() {
                    entries.push(json!({"name": container["name"], "image": image}));
                }
            }
        }
        if !hit {
            return Err(CliError::usage(format!("unable to find container named \"{name}\"")));
        }
    }
    Ok(Value::Object(patch))
}

fn environment(spec: &Value, changes: &[&String]) -> Value {
    let env: Vec<Value> = changes
        .iter()
        .map(|change| match change.split_once('=') {
            Some((name, value)) => json!({"name": name, "value": value}),
            None => json!({"name": change.trim_end_matches('-'), "$patch": "delete"}),
        })
        .collect();
    let containers: Vec<Value> =
        spec["containers"].as_array().into_iter().flatten().map(|c| json!({"name": c["name"], "env": env})).collect();
    json!({"containers": containers})
}

/// Update the labels (or annotations) on a resource: KEY=VALUE sets, KEY- removes.
#[derive(Args)]
pub struct Label {
    #[command(flatten)]
    targets: Targets,
    /// Change values that are there already
    #[arg(long)]
    overwrite: bool,
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
            session.wire.patch(&target.path(), PatchType::Merge, &json!({"metadata": {field: patch}})).await?;
            let done = match (field, changes.iter().all(|c| !c.contains('='))) {
                ("labels", true) => "unlabeled",
                ("labels", false) => "labeled",
                _ => "annotated",
            };
            session.line(format!("{} {done}", target.shown()))?;
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
    #[arg(short = 'p', long)]
    patch: String,
    /// strategic, merge or json
    #[arg(long = "type", default_value = "strategic")]
    ty: String,
    /// A subresource, such as status
    #[arg(long)]
    subresource: Option<String>,
    /// yaml, json, name, ...
    #[arg(short = 'o', long, default_value = "")]
    output: String,
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
        let format = Format::parse(&self.output)?;
        let patch = crate::output::yaml::parse_all(&self.patch)
            .map_err(|e| CliError::usage(format!("unable to parse \"{}\": {e}", self.patch)))?;
        let patch = patch.into_iter().next().unwrap_or_default();
        for target in self.targets.resolve(session).await? {
            let path = match &self.subresource {
                Some(sub) => format!("{}/{sub}", target.path()),
                None => target.path(),
            };
            let (_, object) = session.wire.patch(&path, ty, &patch).await?;
            if format.is_table() {
                session.line(format!("{} patched", target.shown()))?;
            } else {
                session.print(&format.render(&target.kind, &object)?)?;
            }
        }
        Ok(())
    }
}

/// Replace a resource by file name or stdin.
#[derive(Args)]
pub struct Replace {
    #[command(flatten)]
    files: Files,
}

impl Replace {
    /// Runs the verb.
    pub async fn run(&self, session: &mut Session) -> Result<(), CliError> {
        let kinds = session.kinds().await?;
        for manifest in self.files.read()? {
            let kind = kinds.of_object(&manifest)?;
            let target = crate::targets::target_of(&manifest, kind, session);
            session.wire.replace(&target.path(), &manifest).await?;
            session.line(format!("{} replaced", target.shown()))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_by_name_and_star() {
        let spec = json!({"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]});
        assert_eq!(
            images(&spec, &[&"b=x:2".to_owned()]).unwrap(),
            json!({"containers": [{"name": "b", "image": "x:2"}]})
        );
        let all = images(&spec, &[&"*=x:2".to_owned()]).unwrap();
        assert_eq!(all["containers"].as_array().unwrap().len(), 2);
        assert_eq!(all["initContainers"].as_array().unwrap().len(), 1);
        assert!(images(&spec, &[&"c=x".to_owned()]).is_err());
        assert_eq!(wrap("/spec/template/spec", json!(1)), json!({"spec": {"template": {"spec": 1}}}));
    }
}
