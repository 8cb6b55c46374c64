//! Making connection tracking forget UDP flows that lead where they should not.

use std::collections::BTreeSet;
use std::process::Stdio;

use async_trait::async_trait;

use super::plan::UdpFlow;
use crate::Family;

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
    let port = flow.port.to_string();
    let family = match flow.family {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    };
    let mut arguments = vec!["-D", "-f", family, "-p", "udp", "--orig-port-dst", &port];
    let address = flow.address.map(|address| address.to_string());
    let endpoint = flow.endpoint.map(|endpoint| endpoint.to_string());
    if let Some(address) = &address {
        arguments.extend(["--orig-dst", address]);
    }
    match (&endpoint, &address) {
        (Some(endpoint), _) => arguments.extend(["--dst-nat", endpoint]),
        // Untranslated: the answer comes from where the question went.
        (None, Some(address)) => arguments.extend(["--reply-src", address]),
        (None, None) => arguments.extend(["--reply-port-src", &port]),
    }
    arguments.into_iter().map(str::to_owned).collect()
}
