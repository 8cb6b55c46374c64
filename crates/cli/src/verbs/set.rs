//! `set`: parts of pod templates, in a few words.

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::change::Change;
use crate::error::CliError;
use crate::session::Session;
use crate::targets::Targets;
use crate::wire::PatchType;

/// Set specific features on objects.
#[derive(Args)]
pub struct Set {
    #[command(subcommand)]
    what: SetWhat,
    #[command(flatten)]
    change: Change,
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
    /// Update requests and limits of a pod template: set resources deployment/web --limits=cpu=1
    Resources {
        #[command(flatten)]
        targets: Targets,
        /// RESOURCE=QUANTITY,...
        #[arg(long, value_delimiter = ',')]
        limits: Vec<String>,
        /// RESOURCE=QUANTITY,...
        #[arg(long, value_delimiter = ',')]
        requests: Vec<String>,
        /// Name of the container; `*` is every container
        #[arg(short = 'c', long, default_value = "*")]
        containers: String,
    },
    /// Update the service account of a pod template: set serviceaccount deployment/web robot
    #[command(visible_alias = "sa")]
    Serviceaccount {
        /// TYPE/NAME (or TYPE NAME) and the name of the account
        words: Vec<String>,
    },
}

impl Set {
    /// Runs the verb.
    pub async fn run(&self, session: &mut Session) -> Result<(), CliError> {
        let named = |words: Vec<String>| Targets { words, ..Targets::default() };
        let (targets, done) = match &self.what {
            SetWhat::Image { words } => (named(split(words)?.0), "image updated"),
            SetWhat::Env { words } => (named(split(words)?.0), "env updated"),
            SetWhat::Resources { targets, limits, requests, .. } => {
                if limits.is_empty() && requests.is_empty() {
                    return Err(CliError::usage(
                        "you must specify an update to requests or limits (in the form of --requests/--limits)",
                    ));
                }
                (targets.clone(), "resource requirements updated")
            }
            SetWhat::Serviceaccount { words } => {
                let Some((_, targets)) = words.split_last() else {
                    return Err(CliError::usage("serviceaccount is required"));
                };
                (named(targets.to_vec()), "serviceaccount updated")
            }
        };
        for (target, object) in targets.fetch(session).await? {
            let at = template_path(&target.kind.kind);
            let spec = object.pointer(at).cloned().unwrap_or_default();
            let patch = wrap(at, self.patch(&spec)?);
            self.change.patch(session, &target, &object, (PatchType::Strategic, &patch), done).await?;
        }
        Ok(())
    }

    fn patch(&self, spec: &Value) -> Result<Value, CliError> {
        match &self.what {
            SetWhat::Image { words } => images(spec, &split(words)?.1),
            SetWhat::Env { words } => Ok(environment(spec, &split(words)?.1)),
            SetWhat::Resources { limits, requests, containers, .. } => resources(spec, limits, requests, containers),
            SetWhat::Serviceaccount { words } => {
                Ok(json!({"serviceAccountName": words.last(), "serviceAccount": words.last()}))
            }
        }
    }
}

/// Words of targets, and words of changes.
fn split(words: &[String]) -> Result<(Vec<String>, Vec<&String>), CliError> {
    let (changes, targets): (Vec<&String>, Vec<&String>) =
        words.iter().partition(|word| word.contains('=') || word.ends_with('-'));
    if changes.is_empty() {
        return Err(CliError::usage("at least one change is required, such as web=nginx:1.22"));
    }
    Ok((targets.into_iter().cloned().collect(), changes))
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

/// Adds what is said of a container to the patch of its list.
fn push(patch: &mut Map<String, Value>, list: &str, entry: Value) {
    if let Some(entries) = patch.entry(list).or_insert_with(|| json!([])).as_array_mut() {
        entries.push(entry);
    }
}

fn images(spec: &Value, changes: &[&String]) -> Result<Value, CliError> {
    let mut patch = Map::new();
    for change in changes {
        let (name, image) = change.split_once('=').unwrap_or((change, ""));
        let mut hit = false;
        for list in ["containers", "initContainers"] {
            for container in spec[list].as_array().into_iter().flatten().filter(|c| name == "*" || c["name"] == name) {
                hit = true;
                push(&mut patch, list, json!({"name": container["name"], "image": image}));
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

fn resources(spec: &Value, limits: &[String], requests: &[String], name: &str) -> Result<Value, CliError> {
    let mut wanted = json!({});
    for (field, amounts) in [("limits", limits), ("requests", requests)] {
        if !amounts.is_empty() {
            wanted[field] = super::create::pairs(amounts)?;
        }
    }
    let mut patch = Map::new();
    let containers = spec["containers"].as_array().into_iter().flatten();
    for container in containers.filter(|c| name == "*" || c["name"] == name) {
        push(&mut patch, "containers", json!({"name": container["name"], "resources": wanted}));
    }
    if patch.is_empty() {
        return Err(CliError::usage(format!("unable to find container named {name}")));
    }
    Ok(Value::Object(patch))
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
        assert_eq!(
            resources(&spec, &["cpu=1".to_owned()], &[], "a").unwrap(),
            json!({"containers": [{"name": "a", "resources": {"limits": {"cpu": "1"}}}]})
        );
    }
}
