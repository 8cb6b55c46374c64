//! kubectl: the CLI that people know, in the same binary.
//!
//! A file per verb. The CLI knows no kind by name where it can help it: kinds come from discovery, table cells over the
//! wire, schemas from the shared facts. Verbs print through [`session::Session`], so that tests see what people see.

pub mod apply;
pub mod error;
pub mod kinds;
pub mod output;
pub mod session;
pub mod targets;
pub mod verbs;
pub mod wire;

use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Parser, Subcommand};
use skiff_client::config::{Kubeconfig, Remote};
use skiff_client::http::HttpBackend;
use skiff_client::{Backend, ClientError};
use skiff_meta::WorldRef;

use error::CliError;
use session::Session;
use verbs::{
    about, autoscale, certificate, cp, create, delete, describe, diff, drain, edit, editor, events, exec, explain, get,
    logs, port_forward, rollout, run, set, taint, top, wait, why,
};

/// The server names field managers after the part before the slash.
const AGENT: &str = concat!("kubectl/", env!("CARGO_PKG_VERSION"));

/// kubectl controls the Kubernetes cluster.
#[derive(Parser)]
#[command(name = "kubectl", disable_help_subcommand = true)]
struct Kubectl {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

/// Flags of every verb.
#[derive(Args)]
struct Global {
    /// Path to the kubeconfig file
    #[arg(long, global = true)]
    kubeconfig: Option<PathBuf>,
    /// Name of the kubeconfig context
    #[arg(long, global = true)]
    context: Option<String>,
    /// Namespace
    #[arg(short, long, global = true)]
    namespace: Option<String>,
    /// All namespaces
    #[arg(short = 'A', long, global = true)]
    all_namespaces: bool,
    /// Address of the API server
    #[arg(short, long, global = true)]
    server: Option<String>,
    /// Bearer token
    #[arg(long, global = true)]
    token: Option<String>,
    /// Name to act in
    #[arg(long = "as", global = true, default_value = "")]
    as_user: String,
    /// Group to act in; may be repeated
    #[arg(long, global = true, requires = "as_user")]
    as_group: Vec<String>,
    /// UID to act in
    #[arg(long, global = true, requires = "as_user", default_value = "")]
    as_uid: String,
    /// Do not verify the server's certificate
    #[arg(long, global = true)]
    insecure_skip_tls_verify: bool,
}

#[derive(Subcommand)]
enum Verb {
    /// Display one or many resources
    Get(get::Get),
    /// Show details of a specific resource or group of resources
    Describe(describe::Describe),
    /// Apply a configuration to a resource by file name or stdin
    Apply(apply::ApplyOrView),
    /// Show what applying a configuration would change
    Diff(apply::diff::Diff),
    /// Create a resource from a file, from stdin, or from words
    Create(create::Create),
    /// Edit a resource in an editor
    Edit(editor::Edit),
    /// Replace a resource by file name or stdin
    Replace(edit::Replace),
    /// Create and run a particular image in a pod
    Run(run::Run),
    /// Expose a workload or a pod as a new Service
    Expose(run::Expose),
    /// Delete resources
    Delete(delete::Delete),
    /// Set a new size
    Scale(edit::Scale),
    /// Create an autoscaler for a workload
    Autoscale(autoscale::Autoscale),
    /// Set specific features on objects
    Set(set::Set),
    /// Manage the rollout of a resource
    Rollout(rollout::Rollout),
    /// Update fields of a resource
    Patch(edit::Patch),
    /// Update the labels on a resource
    Label(edit::Label),
    /// Update the annotations on a resource
    Annotate(edit::Label),
    /// Print the logs of a container
    Logs(logs::Logs),
    /// Execute a command in a container
    Exec(exec::Exec),
    /// Attach to a running container
    Attach(exec::Attach),
    /// Forward local ports to a pod
    PortForward(port_forward::PortForward),
    /// Copy files and directories to and from containers
    Cp(cp::Cp),
    /// Display resource (CPU/memory) usage
    Top(top::Top),
    /// List events
    Events(events::Events),
    /// Approve or deny certificate requests
    Certificate(certificate::Certificate),
    /// Update the taints on nodes
    Taint(taint::Taint),
    /// Mark nodes as unschedulable
    Cordon(edit::Cordon),
    /// Mark nodes as schedulable
    Uncordon(edit::Cordon),
    /// Drain nodes in preparation for maintenance
    Drain(drain::Drain),
    /// Wait for a specific condition
    Wait(wait::Wait),
    /// Ask the scheduler why a pod is on its node, or on none
    Why(why::Why),
    /// Inspect authorization
    Auth(about::Auth),
    /// Get documentation for a resource
    Explain(explain::Explain),
    /// Display where the cluster is
    ClusterInfo,
    /// Print the supported API resources
    ApiResources(about::ApiResources),
    /// Print the supported API versions
    ApiVersions,
    /// Print the client and server versions
    Version,
}

/// `skiff diff`, which is no verb of kubectl.
#[derive(Parser)]
#[command(name = "skiff diff")]
struct SkiffDiff {
    #[command(flatten)]
    global: Global,
    #[command(flatten)]
    diff: diff::Diff,
}

/// Runs the CLI with `words` (without the program's name) and returns its exit code.
pub async fn main(words: Vec<String>, world: WorldRef) -> i32 {
    parse_and_run(
        "kubectl",
        words,
        |parsed: Kubectl| async move { run(parsed.verb, parsed.global.session(world)?).await },
    )
    .await
}

/// `skiff diff` with `words`; returns its exit code.
pub async fn diff(words: Vec<String>, world: WorldRef) -> i32 {
    parse_and_run("skiff diff", words, |parsed: SkiffDiff| async move {
        parsed.diff.run(&mut parsed.global.session(world)?).await
    })
    .await
}

async fn parse_and_run<P: Parser, F: Future<Output = Result<(), CliError>>>(
    name: &str,
    words: Vec<String>,
    run: impl FnOnce(P) -> F,
) -> i32 {
    let arguments = std::iter::once(name.to_owned()).chain(words);
    let parsed = match P::try_parse_from(arguments) {
        Ok(parsed) => parsed,
        Err(error) => {
            let _ = error.print();
            return i32::from(error.use_stderr());
        }
    };
    match run(parsed).await {
        Ok(()) => 0,
        Err(error) => {
            let text = error.to_string();
            if !text.is_empty() {
                eprintln!("{text}");
            }
            error.code()
        }
    }
}

/// Runs `words` on any backend, printing to `out`: what tests and embedders use.
///
/// # Errors
/// As the verb fails; also when the words make no sense.
pub async fn run_on(
    words: &[&str],
    backend: Arc<dyn Backend>,
    world: WorldRef,
    out: Box<dyn std::io::Write + Send>,
) -> Result<(), CliError> {
    let parsed = Kubectl::try_parse_from(std::iter::once("kubectl").chain(words.iter().copied()))
        .map_err(|e| CliError::usage(e.to_string()))?;
    let namespace = parsed.global.namespace.clone().unwrap_or_else(|| "default".to_owned());
    let wire = parsed.global.wire(backend)?;
    run(parsed.verb, Session::new(wire, namespace, parsed.global.all_namespaces, world, out)).await
}

async fn run(verb: Verb, mut session: Session) -> Result<(), CliError> {
    let session = &mut session;
    match verb {
        Verb::Get(verb) => verb.run(session).await,
        Verb::Describe(verb) => verb.run(session).await,
        Verb::Apply(verb) => verb.run(session).await,
        Verb::Diff(verb) => verb.run(session).await,
        Verb::Create(verb) => verb.run(session).await,
        Verb::Edit(verb) => verb.run(session).await,
        Verb::Replace(verb) => verb.run(session).await,
        Verb::Run(verb) => verb.run(session).await,
        Verb::Expose(verb) => verb.run(session).await,
        Verb::Delete(verb) => verb.run(session).await,
        Verb::Scale(verb) => verb.run(session).await,
        Verb::Autoscale(verb) => verb.run(session).await,
        Verb::Set(verb) => verb.run(session).await,
        Verb::Rollout(verb) => verb.run(session).await,
        Verb::Patch(verb) => verb.run(session).await,
        Verb::Label(verb) => verb.run(session, "labels").await,
        Verb::Annotate(verb) => verb.run(session, "annotations").await,
        Verb::Logs(verb) => verb.run(session).await,
        Verb::Exec(verb) => verb.run(session).await,
        Verb::Attach(verb) => verb.run(session).await,
        Verb::PortForward(verb) => verb.run(session).await,
        Verb::Cp(verb) => verb.run(session).await,
        Verb::Top(verb) => verb.run(session).await,
        Verb::Events(verb) => verb.run(session).await,
        Verb::Certificate(verb) => verb.run(session).await,
        Verb::Taint(verb) => verb.run(session).await,
        Verb::Cordon(verb) => verb.run(session, true).await,
        Verb::Uncordon(verb) => verb.run(session, false).await,
        Verb::Drain(verb) => verb.run(session).await,
        Verb::Wait(verb) => verb.run(session).await,
        Verb::Why(verb) => verb.run(session).await,
        Verb::Auth(verb) => verb.run(session).await,
        Verb::Explain(verb) => verb.run(session).await,
        Verb::ClusterInfo => about::cluster_info(session).await,
        Verb::ApiResources(verb) => verb.run(session).await,
        Verb::ApiVersions => about::api_versions(session).await,
        Verb::Version => about::version(session).await,
    }
}

impl Global {
    fn session(&self, world: WorldRef) -> Result<Session, CliError> {
        let remote = self.remote()?;
        let namespace = if remote.namespace.is_empty() { "default".to_owned() } else { remote.namespace.clone() };
        let backend: Arc<dyn Backend> = Arc::new(HttpBackend::new(remote, world.clone(), AGENT)?);
        let out = Box::new(std::io::stdout());
        Ok(Session::new(self.wire(backend)?, namespace, self.all_namespaces, world, out))
    }

    /// Requests in whose name the flags say.
    fn wire(&self, backend: Arc<dyn Backend>) -> Result<wire::Wire, CliError> {
        wire::Wire::new(backend).impersonating(&self.as_user, &self.as_group, &self.as_uid)
    }

    /// Where the cluster is: flags over the kubeconfig, which may be missing when the flags say enough.
    fn remote(&self) -> Result<Remote, ClientError> {
        let mut remote = match Kubeconfig::discover(self.kubeconfig.as_deref())
            .and_then(|config| config.remote(self.context.as_deref()))
        {
            Err(_) if self.server.is_some() && self.kubeconfig.is_none() => Remote::default(),
            other => other?,
        };
        if let Some(server) = &self.server {
            remote.server.clone_from(server);
        }
        if let Some(token) = &self.token {
            remote.token = Some(token.clone());
        }
        if let Some(namespace) = &self.namespace {
            remote.namespace.clone_from(namespace);
        }
        remote.insecure |= self.insecure_skip_tls_verify;
        Ok(remote)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn flags_are_consistent() {
        Kubectl::command().debug_assert();
    }

    #[test]
    fn words_as_people_write_them() {
        for words in [
            "get pods -A -o wide",
            "-n kube-system get po",
            "get deploy/x pod/y -o yaml",
            "logs -f x -c y --previous",
            "apply -f a.yaml -f b.yaml",
            "create deployment x --image=nginx --replicas=3 -- sleep 1",
            "run x --image=busybox --restart=Never -- echo hi",
            "scale deployment x --replicas=3",
            "rollout status deployment/x --timeout=60s",
            "rollout undo deployment x --to-revision=2",
            "exec -it x -- sh -c ls",
            "delete pod x --now",
            "delete pods --all",
            "set image deployment/x web=nginx:2",
            "label pod x a=b c-",
            "wait --for=condition=Ready pod/x",
            "drain n --ignore-daemonsets --force",
            "create ns x",
            "create secret generic x --from-literal=a=b",
            "api-resources -o wide",
            "auth can-i list pods",
            "delete pod x --wait=false",
            "why x -n y -o json",
            "create -f x.yaml --dry-run=server",
            "get pods --at 10m",
        ] {
            assert!(Kubectl::try_parse_from(std::iter::once("kubectl").chain(words.split(' '))).is_ok(), "{words}");
        }
    }
}
