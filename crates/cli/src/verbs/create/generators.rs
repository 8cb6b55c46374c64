//! Manifests of kinds that a few words suffice for.

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::network::{Ingress, ServiceKind};
use super::rights::{self, Rights, Subjects};
use super::secrets::{Data, SecretKind};
use crate::error::CliError;
use crate::session::Session;

/// Kinds that a few words suffice for.
#[derive(Subcommand)]
pub(super) enum Generator {
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
        #[command(flatten)]
        data: Data,
    },
    /// Create a Secret
    Secret {
        #[command(subcommand)]
        kind: SecretKind,
    },
    /// Create a Deployment
    #[command(visible_alias = "deploy")]
    Deployment(Deployment),
    /// Create a Job
    Job {
        name: String,
        /// Image of the container
        #[arg(long, required_unless_present = "from")]
        image: Option<String>,
        /// Take everything from a CronJob: cronjob/NAME
        #[arg(long, conflicts_with = "image")]
        from: Option<String>,
        /// Command of the container
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// Create a CronJob
    #[command(visible_alias = "cj")]
    Cronjob {
        name: String,
        /// Image of the container
        #[arg(long)]
        image: String,
        /// When, such as "*/5 * * * *"
        #[arg(long)]
        schedule: String,
        /// OnFailure or Never
        #[arg(long, default_value = "OnFailure")]
        restart: String,
        /// Command of the container
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// Create a Service
    #[command(visible_alias = "svc")]
    Service {
        #[command(subcommand)]
        kind: ServiceKind,
    },
    /// Create an Ingress
    #[command(visible_alias = "ing")]
    Ingress(Ingress),
    /// Create a Role
    Role {
        name: String,
        #[command(flatten)]
        rights: Rights,
    },
    /// Create a ClusterRole
    Clusterrole {
        name: String,
        #[command(flatten)]
        rights: Rights,
        /// Paths that are no resources
        #[arg(long, value_delimiter = ',')]
        non_resource_url: Vec<String>,
        /// Labels of ClusterRoles to put it together from, KEY=VALUE,...
        #[arg(long, value_delimiter = ',', conflicts_with_all = ["verb", "resource", "non_resource_url"])]
        aggregation_rule: Vec<String>,
    },
    /// Create a RoleBinding
    Rolebinding {
        name: String,
        /// The Role
        #[arg(long, required_unless_present = "clusterrole", conflicts_with = "clusterrole")]
        role: Option<String>,
        /// The ClusterRole
        #[arg(long)]
        clusterrole: Option<String>,
        #[command(flatten)]
        subjects: Subjects,
    },
    /// Create a ClusterRoleBinding
    Clusterrolebinding {
        name: String,
        /// The ClusterRole
        #[arg(long)]
        clusterrole: String,
        #[command(flatten)]
        subjects: Subjects,
    },
    /// Create a ResourceQuota
    #[command(visible_alias = "resourcequota")]
    Quota {
        name: String,
        /// RESOURCE=QUANTITY,...
        #[arg(long, value_delimiter = ',')]
        hard: Vec<String>,
        /// Which objects are counted
        #[arg(long, value_delimiter = ',')]
        scopes: Vec<String>,
    },
    /// Create a PodDisruptionBudget
    #[command(visible_alias = "pdb")]
    Poddisruptionbudget {
        name: String,
        /// Labels of the pods, KEY=VALUE,...
        #[arg(long, value_delimiter = ',', required = true)]
        selector: Vec<String>,
        /// How many must be there
        #[arg(long, required_unless_present = "max_unavailable", conflicts_with = "max_unavailable")]
        min_available: Option<String>,
        /// How many may be missing
        #[arg(long)]
        max_unavailable: Option<String>,
    },
    /// Create a PriorityClass
    #[command(visible_alias = "pc")]
    Priorityclass {
        name: String,
        /// The priority
        #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
        value: i32,
        /// For pods that name no class
        #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
        global_default: String,
        /// When to use it
        #[arg(long, default_value = "")]
        description: String,
        /// PreemptLowerPriority or Never
        #[arg(long, default_value = "PreemptLowerPriority")]
        preemption_policy: String,
    },
    /// Request a token of a service account
    Token(Token),
}

/// What a Deployment is made of.
#[derive(Args)]
pub(super) struct Deployment {
    name: String,
    /// Image of the container; several make several containers
    #[arg(long, required = true, value_delimiter = ',')]
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
}

/// What a token is to be like.
#[derive(Args)]
pub(super) struct Token {
    name: String,
    /// How long it is good, such as 10m
    #[arg(long)]
    duration: Option<String>,
    /// For whom
    #[arg(long)]
    audience: Vec<String>,
    /// Kind of an object that it ends with: Pod, Secret or Node
    #[arg(long, requires = "bound_object_name")]
    bound_object_kind: Option<String>,
    /// Name of that object
    #[arg(long, requires = "bound_object_kind")]
    bound_object_name: Option<String>,
    /// UID of that object
    #[arg(long, requires = "bound_object_kind")]
    bound_object_uid: Option<String>,
}

impl Generator {
    /// How a refusal of this kind begins; refusals of others are told as they are.
    pub(super) fn failed_at(&self) -> Option<String> {
        let what = match self {
            Self::Namespace { .. } | Self::Role { .. } | Self::Clusterrole { .. } => return None,
            Self::Serviceaccount { .. } => "serviceaccount:",
            Self::Configmap { .. } => "configmap:",
            // There is no colon.
            Self::Secret { .. } => "secret",
            Self::Deployment(_) => "deployment:",
            Self::Job { .. } => "job:",
            Self::Cronjob { .. } => "cronjob:",
            Self::Service { kind } => return Some(format!("{} service:", kind.name())),
            Self::Ingress(_) => "ingress:",
            Self::Rolebinding { .. } => "rolebinding:",
            Self::Clusterrolebinding { .. } => "clusterrolebinding:",
            Self::Quota { .. } => "quota:",
            Self::Poddisruptionbudget { .. } => "poddisruptionbudgets:",
            Self::Priorityclass { .. } => "priorityclass:",
            Self::Token(_) => "token:",
        };
        Some(what.to_owned())
    }

    pub(super) async fn manifest(&self, session: &mut Session) -> Result<Value, CliError> {
        let named = |api_version: &str, kind: &str, name: &str| json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name}});
        let with = |mut object: Value, more: Value| {
            if let (Value::Object(object), Value::Object(more)) = (&mut object, more) {
                object.extend(more);
            }
            object
        };
        Ok(match self {
            Self::Namespace { name } => named("v1", "Namespace", name),
            Self::Serviceaccount { name } => named("v1", "ServiceAccount", name),
            Self::Configmap { name, data } => with(named("v1", "ConfigMap", name), data.of_config_map()?),
            Self::Secret { kind } => kind.manifest()?,
            Self::Deployment(deployment) => deployment.manifest()?,
            Self::Job { name, from: Some(from), .. } => job_from(session, name, from).await?,
            Self::Job { name, image, command, .. } => {
                let container = container(name, image.as_deref().unwrap_or_default(), command);
                let template = json!({"spec": {"restartPolicy": "Never", "containers": [container]}});
                with(named("batch/v1", "Job", name), json!({"spec": {"template": template}}))
            }
            Self::Cronjob { name, image, schedule, restart, command } => {
                let template =
                    json!({"spec": {"restartPolicy": restart, "containers": [container(name, image, command)]}});
                let job = json!({"metadata": {"name": name}, "spec": {"template": template}});
                with(named("batch/v1", "CronJob", name), json!({"spec": {"schedule": schedule, "jobTemplate": job}}))
            }
            Self::Service { kind } => kind.manifest()?,
            Self::Ingress(ingress) => ingress.manifest()?,
            Self::Role { name, rights } => {
                let rules = rights.rules(&session.kinds().await?)?;
                with(named(rights::VERSION, "Role", name), json!({"rules": rules}))
            }
            Self::Clusterrole { name, aggregation_rule, .. } if !aggregation_rule.is_empty() => {
                let selector = json!({"matchLabels": pairs(aggregation_rule)?});
                let rule = json!({"aggregationRule": {"clusterRoleSelectors": [selector]}, "rules": []});
                with(named(rights::VERSION, "ClusterRole", name), rule)
            }
            Self::Clusterrole { name, rights, non_resource_url, .. } => {
                let mut rules = if rights.resource.is_empty() && !non_resource_url.is_empty() {
                    Vec::new()
                } else {
                    rights.rules(&session.kinds().await?)?
                };
                if !non_resource_url.is_empty() {
                    rules.push(json!({"verbs": rights.verbs(), "nonResourceURLs": non_resource_url}));
                }
                with(named(rights::VERSION, "ClusterRole", name), json!({"rules": rules}))
            }
            Self::Rolebinding { name, role, clusterrole, subjects } => {
                let role = role.as_deref().map(|role| ("Role", role));
                let (kind, role) = role.unwrap_or(("ClusterRole", clusterrole.as_deref().unwrap_or_default()));
                with(named(rights::VERSION, "RoleBinding", name), rights::binding(kind, role, subjects)?)
            }
            Self::Clusterrolebinding { name, clusterrole, subjects } => {
                let binding = rights::binding("ClusterRole", clusterrole, subjects)?;
                with(named(rights::VERSION, "ClusterRoleBinding", name), binding)
            }
            Self::Quota { name, hard, scopes } => {
                let mut spec = json!({});
                if !hard.is_empty() {
                    spec["hard"] = pairs(hard)?;
                }
                if !scopes.is_empty() {
                    spec["scopes"] = json!(scopes);
                }
                with(named("v1", "ResourceQuota", name), json!({"spec": spec}))
            }
            Self::Poddisruptionbudget { name, selector, min_available, max_unavailable } => {
                let mut spec = json!({"selector": {"matchLabels": pairs(selector)?}});
                for (field, value) in [("minAvailable", min_available), ("maxUnavailable", max_unavailable)] {
                    if let Some(value) = value {
                        spec[field] = int_or_text(value);
                    }
                }
                with(named("policy/v1", "PodDisruptionBudget", name), json!({"spec": spec}))
            }
            Self::Priorityclass { name, value, global_default, description, preemption_policy } => {
                let class = json!({"value": value, "globalDefault": global_default == "true", "description": description,
                    "preemptionPolicy": preemption_policy});
                with(named("scheduling.k8s.io/v1", "PriorityClass", name), class)
            }
            Self::Token(token) => token.request()?,
        })
    }
}

impl Deployment {
    fn manifest(&self) -> Result<Value, CliError> {
        let Self { name, .. } = self;
        if self.image.len() > 1 && !self.command.is_empty() {
            return Err(CliError::usage("cannot specify multiple --image options and command"));
        }
        let short = |image: &str| {
            let base = image.rsplit('/').next().unwrap_or(image);
            base.split([':', '@']).next().unwrap_or(base).replace('_', "-")
        };
        let container = |image: &String| {
            let mut container = container(&short(image), image, &self.command);
            if let Some(port) = self.port {
                container["ports"] = json!([{"containerPort": port}]);
            }
            container
        };
        let containers: Vec<Value> = self.image.iter().map(container).collect();
        Ok(json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "labels": {"app": name}},
            "spec": {"replicas": self.replicas, "selector": {"matchLabels": {"app": name}},
                "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": containers}}},
        }))
    }
}

impl Token {
    /// The path below `serviceaccounts/`.
    pub(super) fn path(&self, namespace: &str) -> String {
        format!("/api/v1/namespaces/{namespace}/serviceaccounts/{}/token", self.name)
    }

    fn request(&self) -> Result<Value, CliError> {
        let mut spec = json!({"audiences": self.audience});
        if let Some(text) = &self.duration {
            spec["expirationSeconds"] = json!(crate::verbs::wait::seconds(text)?);
        }
        if let Some(kind) = &self.bound_object_kind {
            let mut bound = json!({"kind": kind, "apiVersion": "v1", "name": self.bound_object_name});
            if let Some(uid) = &self.bound_object_uid {
                bound["uid"] = json!(uid);
            }
            spec["boundObjectRef"] = bound;
        }
        Ok(json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}))
    }
}

fn container(name: &str, image: &str, command: &[String]) -> Value {
    let mut container = json!({"name": name, "image": image});
    if !command.is_empty() {
        container["command"] = json!(command);
    }
    container
}

/// The Job that a CronJob would make now.
async fn job_from(session: &mut Session, name: &str, from: &str) -> Result<Value, CliError> {
    let kinds = session.kinds().await?;
    let (word, cron_name) = from.split_once('/').unwrap_or(("", from));
    let kind = kinds.find(word).ok().filter(|kind| kind.kind == "CronJob");
    let kind = kind.ok_or_else(|| CliError::usage("from must be an existing cronjob"))?;
    let cron = session.wire.get(&kind.object_path(&session.namespace, cron_name)).await?;
    let template = &cron["spec"]["jobTemplate"];
    let mut annotations = Map::from_iter([("cronjob.kubernetes.io/instantiate".to_owned(), json!("manual"))]);
    annotations.extend(template["metadata"]["annotations"].as_object().cloned().unwrap_or_default());
    let owner = json!({"apiVersion": "batch/v1", "kind": "CronJob", "name": cron["metadata"]["name"],
        "uid": cron["metadata"]["uid"], "controller": true});
    Ok(json!({
        "apiVersion": "batch/v1", "kind": "Job", "spec": template["spec"],
        "metadata": {"name": name, "annotations": annotations, "labels": template["metadata"]["labels"],
            "ownerReferences": [owner]},
    }))
}

/// `KEY=VALUE` texts as an object.
pub(in crate::verbs) fn pairs(texts: &[String]) -> Result<Value, CliError> {
    let pair = |text: &String| match text.split_once('=') {
        Some((key, value)) => Ok((key.to_owned(), json!(value.trim_start_matches('=')))),
        None => Err(CliError::usage(format!("invalid argument {text:?}, expected key=value"))),
    };
    Ok(Value::Object(texts.iter().map(pair).collect::<Result<_, _>>()?))
}

/// A number, or a text such as a percentage or a name.
pub(super) fn int_or_text(text: &str) -> Value {
    text.parse::<i64>().map_or_else(|_| json!(text), |number| json!(number))
}
