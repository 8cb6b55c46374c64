//! The ways to ask a container something: a command in it, an HTTP or gRPC request, a connection. Lifecycle hooks use
//! the same ways.

use std::time::Duration;

use k8s_openapi::api::core::v1::{GRPCAction, LifecycleHandler};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use skiff_cri::RuntimeError;
use tokio::net::TcpStream;

use super::{Target, http};

/// How much of an answer is kept for people.
const KEPT: usize = 10 * 1024;

/// How a container answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Well.
    Success,
    /// Badly; what it said.
    Failure(String),
    /// It could not be asked.
    Error(String),
}

impl Answer {
    /// `failed` or `errored and resulted in failure state`, with the words.
    pub(super) fn complaint(&self) -> Option<(&'static str, &str)> {
        match self {
            Self::Success => None,
            Self::Failure(text) => Some(("failed", text)),
            Self::Error(text) => Some(("errored and resulted in failure state", text)),
        }
    }
}

/// Asks in the way the handler says. `limit` is for the runtime, which then kills the command.
pub(crate) async fn run(
    handler: &LifecycleHandler,
    grpc: Option<&GRPCAction>,
    target: &Target,
    limit: Duration,
) -> Answer {
    if let Some(exec) = &handler.exec {
        return command(target, exec.command.clone().unwrap_or_default(), limit).await;
    }
    if let Some(get) = &handler.http_get {
        let Some(port) = port(target, &get.port) else { return unknown_port(&get.port) };
        return http::get(get, port, &target.address).await;
    }
    if let Some(tcp) = &handler.tcp_socket {
        let Some(port) = port(target, &tcp.port) else { return unknown_port(&tcp.port) };
        let host = tcp.host.as_deref().filter(|host| !host.is_empty()).unwrap_or(&target.address);
        return match TcpStream::connect((host, port)).await {
            Ok(_) => Answer::Success,
            Err(error) => Answer::Failure(format!("dial tcp {host}:{port}: {error}")),
        };
    }
    if let Some(grpc) = grpc {
        return http::grpc(grpc, &target.address).await;
    }
    if let Some(sleep) = &handler.sleep {
        target.node.world.sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
        return Answer::Success;
    }
    Answer::Error("missing handler".to_owned())
}

fn unknown_port(port: &IntOrString) -> Answer {
    Answer::Error(match port {
        IntOrString::Int(number) => format!("invalid port number: {number}"),
        IntOrString::String(name) => format!("couldn't find port: {name}"),
    })
}

async fn command(target: &Target, command: Vec<String>, limit: Duration) -> Answer {
    let seconds = i64::try_from(limit.as_secs()).unwrap_or(i64::MAX);
    match target.node.runtime.exec_sync(&target.container_id, command, seconds).await {
        Ok(done) if done.exit_code == 0 => Answer::Success,
        Ok(done) => {
            let output: Vec<u8> = done.stdout.into_iter().chain(done.stderr).take(KEPT).collect();
            Answer::Failure(String::from_utf8_lossy(&output).into_owned())
        }
        Err(RuntimeError::Timeout(text)) => Answer::Failure(format!("command timed out: {text}")),
        Err(error) => Answer::Error(format!("rpc error: {error}")),
    }
}

/// The number of a port, which may be named.
fn port(target: &Target, port: &IntOrString) -> Option<u16> {
    match port {
        IntOrString::Int(number) => u16::try_from(*number).ok().filter(|number| *number > 0),
        IntOrString::String(name) => {
            let mut ports = target.container.ports.iter().flatten();
            let named = ports.find(|port| port.name.as_deref() == Some(name));
            named.and_then(|port| u16::try_from(port.container_port).ok()).or_else(|| name.parse().ok())
        }
    }
}
