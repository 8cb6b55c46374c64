//! Who the API servers of a cluster are: each keeps a Lease of its own in `kube-system`, named after its host, and takes
//! out those of servers that are no more (upstream: `apiserver.kubernetes.io/identity`, `apiserverleasegc`).

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use jiff::{SignedDuration, Timestamp};
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use skiff_meta::world::{Task, WorldExt};
use skiff_meta::{GroupResource, Status};

use crate::api::Api;
use crate::bootstrap::send;

const LABEL: &str = "apiserver.kubernetes.io/identity";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";
/// How long a server is taken for alive after its last sign of life.
const ALIVE_SECONDS: i64 = 3_600;
/// How often it gives one. Upstream does so every ten seconds, which an hour's time does not need.
const RENEWAL: Duration = Duration::from_secs(600);
/// Pause after a sign that could not be given.
const BACKOFF: Duration = Duration::from_secs(10);

/// Starts keeping the Lease. A simulation, which has no port, is no server that somebody could look for.
pub(crate) fn start(api: &Arc<Api>) -> Option<Task> {
    if api.address().port() == 0 {
        return None;
    }
    let (world, api) = (api.world.clone(), Arc::downgrade(api));
    let clock = world.clone();
    let keeping = async move {
        let mut holder = None;
        while let Some(api) = api.upgrade() {
            let holder =
                holder.get_or_insert_with(|| format!("{}_{}", name(&api.config.host), api.world.uuid())).clone();
            let kept = keep(&api, &holder).await;
            drop(api);
            if let Err(status) = &kept {
                tracing::warn!("the Lease of this server was not renewed: {status}");
            }
            clock.sleep(if kept.is_ok() { RENEWAL } else { BACKOFF }).await;
        }
    };
    Some(world.spawn("server-identity", Box::pin(keeping)))
}

/// `apiserver-` and a hash of the host's name, as upstream writes it.
fn name(host: &str) -> String {
    const DIGITS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let hash = digest(&SHA256, host.as_bytes());
    let bits = hash.as_ref()[..16].iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1));
    let bits: Vec<u8> = bits.collect();
    let digit = |bits: &[u8]| {
        let value = (0..5).fold(0, |value, place| value << 1 | bits.get(place).copied().unwrap_or(0));
        char::from(DIGITS[usize::from(value)])
    };
    let digits: String = bits.chunks(5).map(digit).collect();
    format!("apiserver-{digits}")
}

async fn keep(api: &Arc<Api>, holder: &str) -> Result<(), Status> {
    let (host, now) = (&api.config.host, api.world.now());
    let name = name(host);
    let id = GroupResource::new("coordination.k8s.io", "leases");
    let known = match api.view.get(&id, "kube-system", &name) {
        Some(lease) => lease.to_value().map_err(Status::internal)?,
        None => Value::Null,
    };
    let lease = renewed(known, &name, host, holder, now);
    let exists = lease["metadata"]["uid"].is_string();
    let (method, uri) =
        if exists { (Method::PUT, format!("{LEASES}/{name}")) } else { (Method::POST, LEASES.to_owned()) };
    send(api, method, &uri, &lease).await?;
    let leases = api.view.list(&id, "kube-system");
    let leases = leases.iter().filter_map(|lease| lease.to_value().ok());
    for gone in leases.filter(|lease| is_over(lease, now)) {
        let name = gone["metadata"]["name"].as_str().unwrap_or_default();
        match send(api, Method::DELETE, &format!("{LEASES}/{name}"), &Value::Null).await {
            Err(status) if !status.is("NotFound") => return Err(status),
            _ => {}
        }
    }
    Ok(())
}

/// The server's Lease with a new sign of life.
fn renewed(mut lease: Value, name: &str, host: &str, holder: &str, now: Timestamp) -> Value {
    let time = json!(format!("{now:.6}"));
    if lease.is_null() {
        lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": name, "namespace": "kube-system"}, "spec": {}});
    }
    lease["metadata"]["labels"] = json!({LABEL: "kube-apiserver", "kubernetes.io/hostname": host});
    if lease["spec"]["holderIdentity"] != holder {
        lease["spec"]["acquireTime"] = time.clone();
    }
    lease["spec"]["holderIdentity"] = json!(holder);
    lease["spec"]["leaseDurationSeconds"] = json!(ALIVE_SECONDS);
    lease["spec"]["renewTime"] = time;
    lease
}

/// Whether it is the Lease of a server that is no more.
fn is_over(lease: &Value, now: Timestamp) -> bool {
    let own = lease["metadata"]["labels"][LABEL] == "kube-apiserver";
    let renewed = lease["spec"]["renewTime"].as_str().and_then(|time| time.parse::<Timestamp>().ok());
    let alive = SignedDuration::from_secs(lease["spec"]["leaseDurationSeconds"].as_i64().unwrap_or_default());
    own && renewed.and_then(|renewed| renewed.checked_add(alive).ok()).is_none_or(|end| end < now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_tell_who_is_alive() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let start = at("2026-01-01T00:00:00Z");
        let lease = renewed(Value::Null, "n", "host", "n_1", start);
        assert_eq!(lease["spec"]["renewTime"], "2026-01-01T00:00:00.000000Z");
        assert!(!is_over(&lease, at("2026-01-01T00:59:59Z")));
        assert!(is_over(&lease, at("2026-01-01T01:00:01Z")));
        let again = renewed(lease.clone(), "n", "host", "n_1", at("2026-01-01T00:30:00Z"));
        assert_eq!(again["spec"]["acquireTime"], lease["spec"]["acquireTime"]);
        assert!(!is_over(&again, at("2026-01-01T01:00:01Z")));
        let taken = renewed(again, "n", "host", "n_2", at("2026-01-01T00:40:00Z"));
        assert_eq!(taken["spec"]["acquireTime"], "2026-01-01T00:40:00.000000Z");
        let mut other = lease;
        other["metadata"]["labels"] = json!({"kubernetes.io/hostname": "host"});
        assert!(!is_over(&other, at("2027-01-01T00:00:00Z")), "somebody else's");
        // What upstream calls the server of a host of this name.
        assert_eq!(name("kind-control-plane"), "apiserver-c4vwjftbvpc5os2vvzle4qg27a");
    }
}
