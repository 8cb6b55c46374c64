//! `run` and `expose`: a pod or a Service from a few words.

use clap::Args;
use serde_json::{Value, json};

use crate::error::CliError;
use crate::session::Session;
use crate::targets::Targets;
use crate::verbs::create::How;

/// Create and run a particular image in a pod.
#[derive(Args)]
pub struct Run {
    /// Name of the pod
    name: String,
    /// Image of the container
    #[arg(long)]
    image: String,
    /// Environment, KEY=VALUE
    #[arg(long)]
    env: Vec<String>,
    /// Labels, KEY=VALUE,...
    #[arg(short = 'l', long, value_delimiter = ',')]
    labels: Vec<String>,
    /// Port that the container listens on
    #[arg(long)]
    port: Option<u16>,
    /// Always, OnFailure or Never
    #[arg(long, default_value = "Always")]
    restart: String,
    /// Always, IfNotPresent or Never
    #[arg(long)]
    image_pull_policy: Option<String>,
    /// The words after -- replace the image's entry point, not its arguments
    #[arg(long)]
    command: bool,
    #[command(flatten)]
    how: How,
    /// Arguments (or with --command: command) of the container
    #[arg(last = true)]
    words: Vec<String>,
}

impl Run {
    /// Runs the verb.
    pub async fn run(&self, session: &mut Session) -> Result<(), CliError> {
        let pair = |text: &String| {
            let (key, value) =
                text.split_once('=').ok_or_else(|| CliError::usage(format!("{text} is not of the form KEY=VALUE")))?;
            Ok::<_, CliError>((key.to_owned(), value.to_owned()))
        };
        let mut container = json!({"name": self.name, "image": self.image});
        if !self.words.is_empty() {
            container[if self.command { "command" } else { "args" }] = json!(self.words);
        }
        if !self.env.is_empty() {
            let env: Vec<Value> = self
                .env
                .iter()
                .map(|e| pair(e).map(|(name, value)| json!({"name": name, "value": value})))
                .collect::<Result<_, _>>()?;
            container["env"] = json!(env);
        }
        if let Some(port) = self.port {
            container["ports"] = json!([{"containerPort": port}]);
        }
        if let Some(policy) = &self.image_pull_policy {
            container["imagePullPolicy"] = json!(policy);
        }
        let mut labels = serde_json::Map::new();
        for label in &self.labels {
            let (key, value) = pair(label)?;
            labels.insert(key, json!(value));
        }
        if labels.is_empty() {
            labels.insert("run".to_owned(), json!(self.name));
        }
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": self.name, "labels": labels},
            "spec": {"containers": [container], "restartPolicy": self.restart},
        });
        self.how.create(session, pod).await
    }
}

/// Expose a workload or a pod as a new Service.
#[derive(Args)]
pub struct Expose {
    #[command(flatten)]
    targets: Targets,
    /// Port of the Service
    #[arg(long)]
    port: Option<u16>,
    /// Port, or name of the port, of the pods
    #[arg(long)]
    target_port: Option<String>,
    /// ClusterIP, NodePort, LoadBalancer
    #[arg(long = "type", default_value = "ClusterIP")]
    ty: String,
    /// Name of the Service
    #[arg(long)]
    name: Option<String>,
    /// TCP, UDP or SCTP
    #[arg(long, default_value = "TCP")]
    protocol: String,
    #[command(flatten)]
    how: How,
}

impl Expose {
    /// Runs the verb.
    pub async fn run(&self, session: &mut Session) -> Result<(), CliError> {
        for (target, object) in self.targets.fetch(session).await? {
            let (selector, spec) = match &*target.kind.kind {
                "Pod" => (&object["metadata"]["labels"], &object["spec"]),
                "Service" | "ReplicationController" => {
                    (&object["spec"]["selector"], &object["spec"]["template"]["spec"])
                }
                _ => (&object["spec"]["selector"]["matchLabels"], &object["spec"]["template"]["spec"]),
            };
            let declared = spec["containers"][0]["ports"][0]["containerPort"].as_u64();
            let port = self
                .port
                .map(u64::from)
                .or(declared)
                .ok_or_else(|| CliError::usage("couldn't find port via --port flag or introspection"))?;
            let mut entry = json!({"port": port, "protocol": self.protocol});
            if let Some(to) = &self.target_port {
                entry["targetPort"] = to.parse::<u16>().map_or_else(|_| json!(to), |n| json!(n));
            } else {
                entry["targetPort"] = json!(port);
            }
            let name = self.name.clone().or(target.name.clone()).unwrap_or_default();
            let service = json!({
                "apiVersion": "v1", "kind": "Service",
                "metadata": {"name": name, "labels": object["metadata"]["labels"]},
                "spec": {"selector": selector, "type": self.ty, "ports": [entry]},
            });
            self.how.create_saying(session, service, "exposed").await?;
        }
        Ok(())
    }
}
