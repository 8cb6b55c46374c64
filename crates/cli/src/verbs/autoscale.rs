//! `autoscale`: a HorizontalPodAutoscaler from words.

use clap::Args;
use serde_json::{Value, json};

use super::create::How;
use crate::error::CliError;
use crate::session::Session;
use crate::targets::Targets;

/// Create an autoscaler for a deployment, replica set, stateful set, or replication controller.
#[derive(Args)]
pub struct Autoscale {
    #[command(flatten)]
    targets: Targets,
    /// Fewest pods
    #[arg(long)]
    min: Option<i32>,
    /// Most pods
    #[arg(long)]
    max: i32,
    /// Wanted CPU of a pod: 80% of its requests, or an amount such as 500m
    #[arg(long)]
    cpu: Option<String>,
    /// Wanted memory of a pod: 80% of its requests, or an amount such as 200Mi
    #[arg(long)]
    memory: Option<String>,
    /// The older form of --cpu
    #[arg(long, conflicts_with = "cpu")]
    cpu_percent: Option<i32>,
    /// Name of the autoscaler
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    how: How,
}

impl Autoscale {
    /// Runs the verb.
    pub async fn run(&self, session: &mut Session) -> Result<(), CliError> {
        let cpu = self.cpu.clone().or_else(|| self.cpu_percent.map(|percent| format!("{percent}%")));
        let wanted = [("cpu", cpu), ("memory", self.memory.clone())];
        let metrics = wanted.into_iter().filter_map(|(name, text)| text.map(|text| metric(name, &text)));
        let metrics = metrics.collect::<Result<Vec<_>, _>>()?;
        for (target, object) in self.targets.fetch(session).await? {
            // Asking for its scale tells whether there is anything to scale.
            session.wire.get(&format!("{}/scale", target.path())).await?;
            let mut spec = json!({
                "maxReplicas": self.max,
                "scaleTargetRef": {"apiVersion": target.kind.group_version.to_string(), "kind": target.kind.kind,
                    "name": object["metadata"]["name"]},
            });
            if let Some(min) = self.min {
                spec["minReplicas"] = json!(min);
            }
            if !metrics.is_empty() {
                spec["metrics"] = json!(metrics);
            }
            let name = self.name.clone().or(target.name.clone());
            let autoscaler = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
                "metadata": {"name": name}, "spec": spec});
            self.how.create_saying(session, autoscaler, "autoscaled").await?;
        }
        Ok(())
    }
}

fn metric(name: &str, text: &str) -> Result<Value, CliError> {
    let target = match text.strip_suffix('%') {
        Some(percent) => {
            let percent = percent.parse::<u32>();
            let percent = percent.map_err(|_| CliError::usage(format!("invalid value for --{name}: {text}")))?;
            json!({"type": "Utilization", "averageUtilization": percent})
        }
        None => json!({"type": "AverageValue", "averageValue": text}),
    };
    Ok(json!({"type": "Resource", "resource": {"name": name, "target": target}}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_of_metrics() {
        let target = |text| metric("cpu", text).unwrap()["resource"]["target"].clone();
        assert_eq!(target("50%"), json!({"type": "Utilization", "averageUtilization": 50}));
        assert_eq!(target("500m"), json!({"type": "AverageValue", "averageValue": "500m"}));
        assert!(metric("cpu", "x%").is_err());
    }
}
