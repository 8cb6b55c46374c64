//! `create`: objects from files, or small ones from a few words.

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use crate::apply::annotate;
use crate::error::CliError;
use crate::output::Format;
use crate::session::Session;
use crate::targets::{Files, target_of, with_query};

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
    /// none, client or server
    #[arg(long, default_value = "none", global = true)]
    pub dry_run: String,
    /// yaml, json, name, ...
    #[arg(short = 'o', long, default_value = "", global = true)]
    pub output: String,
    /// Keep the manifest for a later apply
    #[arg(long, global = true)]
    pub save_config: bool,
}

/// Kinds that a few words suffice for.
#[derive(Subcommand)]
enum Generator {
    /// Create a namespace
    #[command(visible_alias = "ns")]
    Namespace { name: String },
    /// Create a service account
    #[command(visible_alias = "sa")]
    Serviceaccount { name: String },
    /// Create a ConfigMap from literals and files
    #[command(visible_alias = "cm")]
    Configmap {
        name: String,
        /// KEY=VALUE
        #[arg(long)]
        from_literal: Vec<String>,
        /// [KEY=]FILE
        #[arg(long)]
        from_file: Vec<String>,
    },
    /// Create a Secret
    Secret {
        #[command(subcommand)]
        kind: SecretKind,
    },
    /// Create a Deployment
    #[command(visible_alias = "deploy")]
    Deployment {
        name: String,
        /// Image of the container; several make several containers
        #[arg(long, required = true)]
        image: Vec<String>,
        /// How many pods
        #[arg(short, long, default_value_t = 1)]
        replicas: i32,
        /// Port that the container listens on
        #[arg(long)]
        port: Option<u16>,
        /// Command of the container
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// Create a Job
    Job {
        name: String,
        /// Image of the container
        #[arg(long)]
        image: String,
        /// Command of the container
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// Request a token of a service account
    Token {
        name: String,
        /// How long it is good, such as 10m
        #[arg(long)]
        duration: Option<String>,
        /// For whom
        #[arg(long)]
        audience: Vec<String>,
    },
}

/// Kinds of Secrets.
#[derive(Subcommand)]
enum SecretKind {
    /// From literals and files
    Generic {
        name: String,
        /// KEY=VALUE
        #[arg(long)]
        from_literal: Vec<String>,
        /// [KEY=]FILE
        #[arg(long)]
        from_file: Vec<String>,
        /// The type
        #[arg(long = "type", default_value = "Opaque")]
        ty: String,
    },
}

impl Create {
    /// Runs the verb.
    pub async fn run(&self, session: &mut Session) -> Result<(), CliError> {
        let manifests = match &self.generator {
            Some(Generator::Token { name, duration, audience }) => {
                return token(session, name, duration.as_deref(), audience).await;
            }
            Some(generator) => vec![generator.manifest()?],
            None if self.files.filename.is_empty() => return Err(CliError::usage("must specify one of -f and -k")),
            None => self.files.read()?,
        };
        for manifest in manifests {
            self.how.create(session, manifest).await?;
        }
        Ok(())
    }
}

impl How {
    /// Creates one object and says so.
    pub async fn create(&self, session: &mut Session, mut manifest: Value) -> Result<(), CliError> {
        let format = Format::parse(&self.output)?;
        let kind = session.kinds().await?.of_object(&manifest)?.clone();
        let target = target_of(&manifest, &kind, session);
        if self.save_config {
            annotate(&mut manifest)?;
        }
        let object = if self.dry_run == "client" {
            manifest
        } else {
            let dry_run = if self.dry_run == "server" { "All" } else { "" };
            let path = with_query(
                &kind.path(&target.namespace),
                &[("dryRun", dry_run), ("fieldManager", "kubectl-create"), ("fieldValidation", "Strict")],
            );
            session.wire.create(&path, &manifest).await?
        };
        if !format.is_table() {
            return session.print(&format.render(&kind, &object)?);
        }
        let words = match &*self.dry_run {
            "client" => " (dry run)",
            "server" => " (server dry run)",
            _ => "",
        };
        session.line(format!(
            "{}/{} created{words}",
            kind.named(),
            object["metadata"]["name"].as_str().unwrap_or_default()
        ))
    }
}

impl Generator {
    fn manifest(&self) -> Result<Value, CliError> {
        Ok(match self {
            Self::Namespace { name } => json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}),
            Self::Serviceaccount { name } => {
                json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}})
            }
            Self::Configmap { name, from_literal, from_file } => {
                json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data(from_literal, from_file)?})
            }
            Self::Secret { kind: SecretKind::Generic { name, from_literal, from_file, ty } } => {
                json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": ty, "stringData": data(from_literal, from_file)?})
            }
            Self::Deployment { name, image, replicas, port, command } => {
                deployment(name, image, *replicas, *port, command)
            }
            Self::Job { name, image, command } => json!({
                "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name},
                "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [container(name, image, command)]}}},
            }),
            Self::Token { .. } => Value::Null,
        })
    }
}

fn container(name: &str, image: &str, command: &[String]) -> Value {
    let mut container = json!({"name": name, "image": image});
    if !command.is_empty() {
        container["command"] = json!(command);
    }
    container
}

fn deployment(name: &str, images: &[String], replicas: i32, port: Option<u16>, command: &[String]) -> Value {
    let short = |image: &str| {
        image.rsplit('/').next().unwrap_or(image).split([':', '@']).next().unwrap_or(image).replace('_', "-")
    };
    let containers: Vec<Value> = images
        .iter()
        .map(|image| {
            let mut container = container(&short(image), image, command);
            if let Some(port) = port {
                container["ports"] = json!([{"containerPort": port}]);
            }
            container
        })
        .collect();
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": containers}}},
    })
}

fn data(literals: &[String], files: &[String]) -> Result<Value, CliError> {
    let mut data = Map::new();
    for literal in literals {
        let (key, value) = literal
            .split_once('=')
            .ok_or_else(|| CliError::usage(format!("invalid literal source {literal}, expected key=value")))?;
        data.insert(key.to_owned(), json!(value));
    }
    for file in files {
        let base = |path: &str| path.rsplit('/').next().unwrap_or(path).to_owned();
        let (key, path) = file.split_once('=').map_or_else(|| (base(file), file.as_str()), |(k, p)| (k.to_owned(), p));
        let text = std::fs::read_to_string(path).map_err(|e| CliError::Io(path.to_owned(), e))?;
        data.insert(key, json!(text));
    }
    Ok(Value::Object(data))
}

async fn token(
    session: &mut Session,
    name: &str,
    duration: Option<&str>,
    audiences: &[String],
) -> Result<(), CliError> {
    let mut request =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": audiences}});
    if let Some(text) = duration {
        let seconds = crate::verbs::wait::seconds(text)?;
        request["spec"]["expirationSeconds"] = json!(seconds);
    }
    let path = format!("/api/v1/namespaces/{}/serviceaccounts/{name}/token", session.namespace);
    let answer = session.wire.create(&path, &request).await?;
    session.line(answer["status"]["token"].as_str().unwrap_or_default())
}
