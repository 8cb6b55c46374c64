//! Making connection tracking forget UDP flows to endpoints that are gone.

use std::collections::BTreeSet;
use std::process::Stdio;

use async_trait::async_trait;

use super::plan::UdpFlow;

/// Connection tracking.
#[async_trait]
pub trait Conntrack: Send + Sync + 'static {
    /// Forgets `flows`; one that is not there is fine.
    async fn forget(&self, flows: &BTreeSet<UdpFlow>);
}

/// The `conntrack` program. Where it is missing, flows end by their own timeout (30 s without an answer).
pub struct Program;

#[async_trait]
impl Conntrack for Program {
    async fn forget(&self, flows: &BTreeSet<UdpFlow>) {
        for flow in flows {
            let mut command = tokio::process::Command::new("conntrack");
            command.args(arguments(flow)).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            // Exit code 1 says that there was no such flow.
            if let Err(error) = command.status().await {
                tracing::warn!("cannot run conntrack, old UDP flows end by timeout: {error}");
                return;
            }
        }
    }
}

fn arguments(flow: &UdpFlow) -> Vec<String> {
    let mut arguments: Vec<String> = ["-D", "-p", "udp", "--orig-port-dst"].map(str::to_owned).into();
    arguments.push(flow.port.to_string());
    if let Some(address) = flow.address {
        arguments.extend(["--orig-dst".to_owned(), address.to_string()]);
    }
    arguments.extend(["--dst-nat".to_owned(), flow.endpoint.to_string()]);
    arguments
}
