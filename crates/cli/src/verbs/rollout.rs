//! `rollout status|history|undo|restart|pause|resume` of Deployments (status also of DaemonSets and StatefulSets).

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::error::CliError;
use crate::output::{items, table, yaml};
use crate::session::Session;
use crate::targets::{Target, Targets, with_query};
use crate::wire::PatchType;

const REVISION: &str = "deployment.kubernetes.io/revision";

/// Manage the rollout of one or many resources.
#[derive(Args)]
pub struct Rollout {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Show the status of the rollout, until it is done
    Status {
        #[command(flatten)]
        targets: Targets,
        /// Do not wait until it is done
        #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
        watch: bool,
        /// Give up after this time, such as 60s (0: never)
        #[arg(long, default_value = "0")]
        timeout: String,
    },
    /// View rollout history
    History {
        #[command(flatten)]
        targets: Targets,
        /// Show the pod template of this revision
        #[arg(long)]
        revision: Option<u64>,
    },
    /// Undo a previous rollout
    Undo {
        #[command(flatten)]
        targets: Targets,
        /// To this revision (0: the one before)
        #[arg(long, default_value_t = 0)]
        to_revision: u64,
    },
    /// Restart: all pods anew, by the rollout strategy
    Restart {
        #[command(flatten)]
        targets: Targets,
    },
    /// Changes to the template wait
    Pause {
        #[command(flatten)]
        targets: Targets,
    },
    /// Changes to the template go on
    Resume {
        #[command(flatten)]
        targets: Targets,
    },
}

impl Rollout {
    /// Runs the verb.
    pub async fn run(&self, session: &mut Session) -> Result<(), CliError> {
        let (What::Status { targets, .. }
        | What::History { targets, .. }
        | What::Undo { targets, .. }
        | What::Restart { targets }
        | What::Pause { targets }
        | What::Resume { targets }) = &self.what;
        for (target, object) in targets.fetch(session).await? {
            match &self.what {
                What::Status { watch, timeout, .. } => {
                    let seconds = crate::verbs::wait::seconds(timeout)?;
                    let world = session.world.clone();
                    let status = status(session, &target, object, *watch);
                    if seconds == 0 {
                        status.await?;
                    } else {
                        let limit = world.sleep(std::time::Duration::from_secs(seconds));
                        futures::pin_mut!(status);
                        match futures::future::select(status, limit).await {
                            futures::future::Either::Left((done, _)) => done?,
                            futures::future::Either::Right(_) => {
                                return Err(CliError::usage("timed out waiting for the condition"));
                            }
                        }
                    }
                }
                What::History { revision, .. } => history(session, &target, &object, *revision).await?,
                What::Undo { to_revision, .. } => undo(session, &target, &object, *to_revision).await?,
                What::Restart { .. } => {
                    let now = session.world.now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
                    let annotations = json!({"kubectl.kubernetes.io/restartedAt": now});
                    let patch = json!({"spec": {"template": {"metadata": {"annotations": annotations}}}});
                    session.wire.patch(&target.path(), PatchType::Strategic, &patch).await?;
                    session.line(format!("{} restarted", target.shown()))?;
                }
                What::Pause { .. } | What::Resume { .. } => {
                    let pause = matches!(self.what, What::Pause { .. });
                    session
                        .wire
                        .patch(&target.path(), PatchType::Strategic, &json!({"spec": {"paused": pause}}))
                        .await?;
                    session.line(format!("{} {}", target.shown(), if pause { "paused" } else { "resumed" }))?;
                }
            }
        }
        Ok(())
    }
}

async fn status(session: &mut Session, target: &Target, mut object: Value, watch: bool) -> Result<(), CliError> {
    let mut said = String::new();
    loop {
        let (text, done) = progress(&target.kind.kind, &object)?;
        if text != said {
            session.line(&text)?;
            said = text;
        }
        if done || !watch {
            return Ok(());
        }
        let version = object["metadata"]["resourceVersion"].as_str().unwrap_or_default();
        let fields = format!("metadata.name={}", target.name.as_deref().unwrap_or_default());
        let path = with_query(
            &target.kind.path(&target.namespace),
            &[("watch", "true"), ("resourceVersion", version), ("fieldSelector", &fields)],
        );
        let mut lines = session.wire.watch(&path, "application/json").await?;
        object = match lines.next().await? {
            Some(event) if event["type"] == "DELETED" => return Err(CliError::usage("object has been deleted")),
            Some(event) if event["type"] == "ADDED" || event["type"] == "MODIFIED" => event["object"].clone(),
            _ => session.wire.get(&target.path()).await?,
        };
    }
}

/// What there is to say of a rollout, and whether it is done.
fn progress(kind: &str, object: &Value) -> Result<(String, bool), CliError> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let number = |path: &str| object.pointer(path).and_then(Value::as_i64);
    let status = |field: &str| number(&format!("/status/{field}")).unwrap_or(0);
    if number("/metadata/generation").unwrap_or(0) > status("observedGeneration") {
        return Ok((format!("Waiting for {} spec update to be observed...", words(kind)), false));
    }
    match kind {
        "Deployment" => {
            let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
            if conditions.iter().any(|c| c["type"] == "Progressing" && c["reason"] == "ProgressDeadlineExceeded") {
                return Err(CliError::usage(format!("deployment \"{name}\" exceeded its progress deadline")));
            }
            let wanted = number("/spec/replicas").unwrap_or(1);
            let (updated, all, available) =
                (status("updatedReplicas"), status("replicas"), status("availableReplicas"));
            let waiting = format!("Waiting for deployment \"{name}\" rollout to finish:");
            if updated < wanted {
                return Ok((format!("{waiting} {updated} out of {wanted} new replicas have been updated..."), false));
            }
            if all > updated {
                return Ok((format!("{waiting} {} old replicas are pending termination...", all - updated), false));
            }
            if available < updated {
                return Ok((format!("{waiting} {available} of {updated} updated replicas are available..."), false));
            }
            Ok((format!("deployment \"{name}\" successfully rolled out"), true))
        }
        "DaemonSet" => {
            let (wanted, updated, available) =
                (status("desiredNumberScheduled"), status("updatedNumberScheduled"), status("numberAvailable"));
            let waiting = format!("Waiting for daemon set \"{name}\" rollout to finish:");
            if updated < wanted {
                return Ok((format!("{waiting} {updated} out of {wanted} new pods have been updated..."), false));
            }
            if available < wanted {
                return Ok((format!("{waiting} {available} of {wanted} updated pods are available..."), false));
            }
            Ok((format!("daemon set \"{name}\" successfully rolled out"), true))
        }
        "StatefulSet" => {
            let wanted = number("/spec/replicas").unwrap_or(1);
            let (ready, updated) = (status("readyReplicas"), status("updatedReplicas"));
            if ready < wanted {
                return Ok((format!("Waiting for {} pods to be ready...", wanted - ready), false));
            }
            if object["status"]["updateRevision"] != object["status"]["currentRevision"] {
                return Ok((
                    format!(
                        "waiting for statefulset rolling update to complete {updated} pods at revision {}...",
                        object["status"]["updateRevision"].as_str().unwrap_or_default()
                    ),
                    false,
                ));
            }
            Ok((
                format!(
                    "statefulset rolling update complete {wanted} pods at revision {}...",
                    object["status"]["currentRevision"].as_str().unwrap_or_default()
                ),
                true,
            ))
        }
        other => Err(CliError::usage(format!("no status viewer has been implemented for {other}"))),
    }
}

fn words(kind: &str) -> &'static str {
    match kind {
        "DaemonSet" => "daemon set",
        "StatefulSet" => "statefulset",
        _ => "deployment",
    }
}

/// The ReplicaSets of a Deployment by revision, oldest first.
async fn revisions(session: &Session, target: &Target, deployment: &Value) -> Result<Vec<(u64, Value)>, CliError> {
    if target.kind.kind != "Deployment" {
        return Err(CliError::usage(format!("no history viewer has been implemented for {}", target.kind.kind)));
    }
    let path = format!("/apis/apps/v1/namespaces/{}/replicasets", target.namespace);
    let mut found: Vec<(u64, Value)> = items(&session.wire.get(&path).await?)
        .into_iter()
        .filter(|set| {
            set["metadata"]["ownerReferences"]
                .as_array()
                .into_iter()
                .flatten()
                .any(|o| o["uid"] == deployment["metadata"]["uid"])
        })
        .filter_map(|set| Some((set["metadata"]["annotations"][REVISION].as_str()?.parse().ok()?, set)))
        .collect();
    found.sort_by_key(|(revision, _)| *revision);
    Ok(found)
}

async fn history(
    session: &mut Session,
    target: &Target,
    deployment: &Value,
    revision: Option<u64>,
) -> Result<(), CliError> {
    let sets = revisions(session, target, deployment).await?;
    if let Some(wanted) = revision {
        let (_, set) = sets
            .iter()
            .find(|(r, _)| *r == wanted)
            .ok_or_else(|| CliError::usage("unable to find the specified revision"))?;
        session.line(format!("{} with revision #{wanted}", target.shown()))?;
        return session.print(&yaml::emit(&json!({"Pod Template": set["spec"]["template"]})));
    }
    let mut rows = vec![vec!["REVISION".to_owned(), "CHANGE-CAUSE".to_owned()]];
    for (revision, set) in &sets {
        let cause = set["metadata"]["annotations"]["kubernetes.io/change-cause"].as_str().unwrap_or("<none>");
        rows.push(vec![revision.to_string(), cause.to_owned()]);
    }
    session.line(format!("{} ", target.shown()))?;
    session.print(&table::align(&rows))?;
    session.line("")
}

async fn undo(session: &mut Session, target: &Target, deployment: &Value, to: u64) -> Result<(), CliError> {
    if deployment["spec"]["paused"] == true {
        return Err(CliError::usage(format!(
            "cannot rollback a paused deployment; resume it first with 'kubectl rollout resume {}' and try again",
            target.shown()
        )));
    }
    let sets = revisions(session, target, deployment).await?;
    let found = match to {
        0 => sets.iter().rev().nth(1),
        wanted => sets.iter().find(|(revision, _)| *revision == wanted),
    };
    let Some((_, set)) = found else {
        let why = if to == 0 {
            format!("no rollout history found for deployment \"{}\"", target.name.as_deref().unwrap_or_default())
        } else {
            "unable to find the specified revision".to_owned()
        };
        return Err(CliError::usage(why));
    };
    let mut template = set["spec"]["template"].clone();
    if let Some(labels) = template["metadata"]["labels"].as_object_mut() {
        labels.remove("pod-template-hash");
    }
    if template == deployment["spec"]["template"] {
        return session
            .line(format!("{} skipped rollback (current template already matches revision {to})", target.shown()));
    }
    let patch = json!([{"op": "replace", "path": "/spec/template", "value": template}]);
    session.wire.patch(&target.path(), PatchType::Json, &patch).await?;
    session.line(format!("{} rolled back", target.shown()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_of_a_deployment() {
        let at = |updated: i64, all: i64, available: i64| {
            json!({"metadata": {"name": "w", "generation": 2}, "spec": {"replicas": 3},
            "status": {"observedGeneration": 2, "updatedReplicas": updated, "replicas": all, "availableReplicas": available}})
        };
        for (object, part, done) in [
            (at(1, 3, 3), "1 out of 3 new", false),
            (at(3, 4, 3), "1 old replicas", false),
            (at(3, 3, 2), "2 of 3 updated", false),
            (at(3, 3, 3), "successfully", true),
            (json!({"metadata": {"generation": 2}}), "to be observed", false),
        ] {
            let (text, is_done) = progress("Deployment", &object).unwrap();
            assert!(text.contains(part) && is_done == done, "{text}");
        }
    }
}
