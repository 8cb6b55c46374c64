//! `drain`: cordons nodes and evicts their pods, as budgets allow.

use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use crate::error::CliError;
use crate::output::items;
use crate::session::Session;
use crate::targets::{Targets, with_query};
use crate::verbs::edit::cordon;

/// Drain nodes in preparation for maintenance.
#[derive(Args)]
pub struct Drain {
    /// Names of nodes
    nodes: Vec<String>,
    /// Selector (label query) to filter on
    #[arg(short = 'l', long)]
    selector: Option<String>,
    /// Leave pods of DaemonSets
    #[arg(long)]
    ignore_daemonsets: bool,
    /// Also pods that lose an emptyDir
    #[arg(long)]
    delete_emptydir_data: bool,
    /// Also pods without a controller
    #[arg(long)]
    force: bool,
    /// Seconds for a graceful end; negative: what the pods say
    #[arg(long, default_value_t = -1)]
    grace_period: i64,
    /// Give up after this time (0: never)
    #[arg(long, default_value = "0")]
    timeout: String,
}

impl Drain {
    /// Runs the verb.
    pub async fn run(&self, session: &mut Session) -> Result<(), CliError> {
        let limit = crate::verbs::wait::seconds(&self.timeout)?;
        let began = session.world.elapsed();
        let mut words = vec!["nodes".to_owned()];
        words.extend(self.nodes.clone());
        let targets = Targets { words, selector: self.selector.clone(), ..Targets::default() };
        for (target, node) in targets.fetch(session).await? {
            cordon(session, &target, &node, true).await?;
            let fields = format!("spec.nodeName={}", target.name.as_deref().unwrap_or_default());
            let pods = items(&session.wire.get(&with_query("/api/v1/pods", &[("fieldSelector", &fields)])).await?);
            let leaving = self.choose(&pods)?;
            for pod in &leaving {
                session.line(format!("evicting pod {}", name(pod)))?;
                self.evict(session, pod, began, limit).await?;
            }
            for pod in &leaving {
                gone(session, pod).await?;
                session.line(format!("pod/{} evicted", pod["metadata"]["name"].as_str().unwrap_or_default()))?;
            }
            session.line(format!("{} drained", target.shown()))?;
        }
        Ok(())
    }

    /// The pods that go; an error that lists those that keep the node from being drained.
    fn choose<'a>(&self, pods: &'a [Value]) -> Result<Vec<&'a Value>, CliError> {
        let (mut leaving, mut faults) = (Vec::new(), Vec::new());
        for pod in pods {
            let owner =
                pod["metadata"]["ownerReferences"].as_array().into_iter().flatten().find(|o| o["controller"] == true);
            let finished = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
            if pod["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_string() {
                continue;
            }
            match owner.and_then(|o| o["kind"].as_str()) {
                Some("DaemonSet") if !finished => {
                    if !self.ignore_daemonsets {
                        faults.push(format!(
                            "cannot delete DaemonSet-managed Pods (use --ignore-daemonsets to ignore): {}",
                            name(pod)
                        ));
                    }
                    continue;
                }
                None if !self.force && !finished => {
                    faults.push(format!(
                        "cannot delete Pods that declare no controller (use --force to override): {}",
                        name(pod)
                    ));
                    continue;
                }
                _ => {}
            }
            let local = pod["spec"]["volumes"].as_array().into_iter().flatten().any(|v| v["emptyDir"].is_object());
            if local && !self.delete_emptydir_data && !finished {
                faults.push(format!(
                    "cannot delete Pods with local storage (use --delete-emptydir-data to override): {}",
                    name(pod)
                ));
                continue;
            }
            leaving.push(pod);
        }
        if faults.is_empty() {
            Ok(leaving)
        } else {
            Err(CliError::usage(format!("unable to drain node: {}", faults.join(", "))))
        }
    }

    async fn evict(&self, session: &Session, pod: &Value, began: Duration, limit: u64) -> Result<(), CliError> {
        let text = |field: &str| pod["metadata"][field].as_str().unwrap_or_default();
        let path = format!("/api/v1/namespaces/{}/pods/{}/eviction", text("namespace"), text("name"));
        let mut eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": text("name"), "namespace": text("namespace")}});
        if self.grace_period >= 0 {
            eviction["deleteOptions"] = json!({"gracePeriodSeconds": self.grace_period});
        }
        loop {
            match session.wire.create(&path, &eviction).await {
                Err(error) if error.is_not_found() => return Ok(()),
                Err(CliError::Api(status)) if status.is("TooManyRequests") => {
                    session.warn(&format!("error when evicting pods/{} (will retry after 5s): {status}", name(pod)));
                    if limit > 0 && session.world.elapsed() - began > Duration::from_secs(limit) {
                        return Err(CliError::usage("global timeout reached"));
                    }
                    session.world.sleep(Duration::from_secs(5)).await;
                }
                other => return other.map(|_| ()),
            }
        }
    }
}

async fn gone(session: &Session, pod: &Value) -> Result<(), CliError> {
    let text = |field: &str| pod["metadata"][field].as_str().unwrap_or_default();
    let collection = format!("/api/v1/namespaces/{}/pods", text("namespace"));
    let fields = format!("metadata.name={}", text("name"));
    loop {
        let list = session.wire.get(&with_query(&collection, &[("fieldSelector", &fields)])).await?;
        if list["items"][0]["metadata"]["uid"] != pod["metadata"]["uid"] {
            return Ok(());
        }
        let version = list["metadata"]["resourceVersion"].as_str().unwrap_or_default();
        let path =
            with_query(&collection, &[("watch", "true"), ("fieldSelector", &fields), ("resourceVersion", version)]);
        let mut lines = session.wire.watch(&path, "application/json").await?;
        while let Some(event) = lines.next().await? {
            match event["type"].as_str() {
                Some("DELETED") => return Ok(()),
                Some("ERROR") => break,
                _ => {}
            }
        }
    }
}

fn name(pod: &Value) -> String {
    let text = |field: &str| pod["metadata"][field].as_str().unwrap_or_default();
    format!("{}/{}", text("namespace"), text("name"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(ignore_daemonsets: bool, force: bool) -> Drain {
        Drain {
            nodes: vec![],
            selector: None,
            ignore_daemonsets,
            delete_emptydir_data: false,
            force,
            grace_period: -1,
            timeout: "0".into(),
        }
    }

    #[test]
    fn which_pods_leave() {
        let owned = |kind: &str| json!({"metadata": {"name": kind, "ownerReferences": [{"kind": kind, "controller": true}]}, "spec": {}});
        let pods = [owned("ReplicaSet"), owned("DaemonSet")];
        assert!(drain(false, false).choose(&pods).is_err());
        assert_eq!(drain(true, false).choose(&pods).unwrap().len(), 1);
        let bare = [json!({"metadata": {"name": "bare"}, "spec": {}})];
        assert!(drain(true, false).choose(&bare).is_err());
        assert_eq!(drain(true, true).choose(&bare).unwrap().len(), 1);
        let local = [
            json!({"metadata": {"name": "x", "ownerReferences": [{"kind": "ReplicaSet", "controller": true}]}, "spec": {"volumes": [{"emptyDir": {}}]}}),
        ];
        assert!(drain(true, true).choose(&local).is_err());
    }
}
