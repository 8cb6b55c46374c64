//! `logs`: what a container wrote.

use clap::Args;
use http::Method;
use serde_json::Value;

use crate::error::CliError;
use crate::output::items;
use crate::session::Session;
use crate::targets::with_query;
use crate::verbs::get::print_all;

/// Print the logs of a container in a pod.
#[derive(Args)]
pub struct Logs {
    /// POD or TYPE/NAME [CONTAINER]
    words: Vec<String>,
    /// Container
    #[arg(short = 'c', long)]
    container: Option<String>,
    /// Go on as more is written
    #[arg(short = 'f', long)]
    follow: bool,
    /// Of the container before the last restart
    #[arg(short = 'p', long)]
    previous: bool,
    /// Last lines only (-1: all)
    #[arg(long, default_value_t = -1)]
    tail: i64,
    /// Only newer than this, such as 5m
    #[arg(long)]
    since: Option<String>,
    /// Only after this time (RFC 3339)
    #[arg(long)]
    since_time: Option<String>,
    /// With the time of each line
    #[arg(long)]
    timestamps: bool,
    /// At most so many bytes
    #[arg(long)]
    limit_bytes: Option<u64>,
    /// Of all containers
    #[arg(long)]
    all_containers: bool,
    /// Of the pods with these labels
    #[arg(short = 'l', long)]
    selector: Option<String>,
    /// Put the pod and container before each line
    #[arg(long)]
    prefix: bool,
}

impl Logs {
    /// Runs the verb.
    pub async fn run(&self, session: &mut Session) -> Result<(), CliError> {
        let pods = match (&self.selector, self.words.first()) {
            (Some(selector), _) => {
                let path = format!("/api/v1/namespaces/{}/pods", session.namespace);
                items(&session.wire.get(&with_query(&path, &[("labelSelector", selector)])).await?)
            }
            (None, Some(word)) => vec![pod_of(session, word).await?],
            (None, None) => return Err(CliError::usage("expected 'logs [-f] [-p] (POD | TYPE/NAME) [-c CONTAINER]'")),
        };
        let named = self.container.clone().or_else(|| self.words.get(1).cloned());
        for pod in pods {
            for container in self.containers(session, &pod, named.as_deref()) {
                self.one(session, &pod, &container).await?;
            }
        }
        Ok(())
    }

    fn containers(&self, session: &Session, pod: &Value, named: Option<&str>) -> Vec<String> {
        let names = |list: &str| {
            pod["spec"][list]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|c| c["name"].as_str().map(str::to_owned))
                .collect::<Vec<_>>()
        };
        if let Some(name) = named {
            return vec![name.to_owned()];
        }
        if self.all_containers {
            return [names("initContainers"), names("containers")].concat();
        }
        let annotated = pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"].as_str();
        let all = names("containers");
        let first = annotated.map(str::to_owned).or_else(|| all.first().cloned()).unwrap_or_default();
        if all.len() > 1 && annotated.is_none() {
            session.warn(&format!("Defaulted container \"{first}\" out of: {}", all.join(", ")));
        }
        vec![first]
    }

    async fn one(&self, session: &mut Session, pod: &Value, container: &str) -> Result<(), CliError> {
        let text = |name: &str| pod["metadata"][name].as_str().unwrap_or_default();
        let flag = |on: bool| if on { "true" } else { "" };
        let tail = if self.tail >= 0 { self.tail.to_string() } else { String::new() };
        let since = match &self.since {
            Some(text) => crate::verbs::wait::seconds(text)?.to_string(),
            None => String::new(),
        };
        let limit = self.limit_bytes.map(|n| n.to_string()).unwrap_or_default();
        let path = format!("/api/v1/namespaces/{}/pods/{}/log", text("namespace"), text("name"));
        let path = with_query(
            &path,
            &[
                ("container", container),
                ("follow", flag(self.follow)),
                ("previous", flag(self.previous)),
                ("timestamps", flag(self.timestamps)),
                ("tailLines", &tail),
                ("sinceSeconds", &since),
                ("sinceTime", self.since_time.as_deref().unwrap_or("")),
                ("limitBytes", &limit),
            ],
        );
        let (_, body) = session.wire.open(Method::GET, &path, "*/*", None).await?;
        if !self.prefix {
            return print_all(session, body).await;
        }
        use http_body_util::BodyExt;
        let bytes = body
            .collect()
            .await
            .map_err(|e| CliError::Client(skiff_client::ClientError::Transport(e.to_string())))?
            .to_bytes();
        for line in String::from_utf8_lossy(&bytes).lines() {
            session.line(format!("[pod/{}/{container}] {line}", text("name")))?;
        }
        Ok(())
    }
}

/// The pod that `word` names: itself, or the first pod of a workload.
pub async fn pod_of(session: &mut Session, word: &str) -> Result<Value, CliError> {
    let (kind, name) = word.split_once('/').unwrap_or(("pods", word));
    let kind = session.kinds().await?.find(kind)?.clone();
    let object = session.wire.get(&kind.object_path(&session.namespace, name)).await?;
    if kind.kind == "Pod" {
        return Ok(object);
    }
    let labels = match &object["spec"]["selector"] {
        selector if selector["matchLabels"].is_object() => selector["matchLabels"].clone(),
        selector => selector.clone(),
    };
    let selector = crate::output::table::labels(&labels);
    let path = format!("/api/v1/namespaces/{}/pods", session.namespace);
    let pods = items(&session.wire.get(&with_query(&path, &[("labelSelector", &selector)])).await?);
    let running = pods.iter().find(|p| p["status"]["phase"] == "Running").or(pods.first());
    running.cloned().ok_or_else(|| CliError::usage(format!("no pods of {word} found")))
}
