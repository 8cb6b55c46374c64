//! What becomes of a ServiceCIDR. Pure.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use jiff::Timestamp;
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use skiff_client::Kind;

/// Keeps the object until nothing depends on it.
pub(super) const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
/// How long a range is left that nothing depends on: servers hear of its end a moment later, and may have given an
/// address out until then.
const GRACE: Duration = Duration::from_secs(10);

/// What to write, or to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// It stays: protect it, and say that it is ready.
    Keep { protect: bool, ready: bool },
    /// It is to go, but addresses would be left without any range; whether that is still to be said.
    Blocked { tell: bool },
    /// It may go later.
    Wait(Duration),
    /// It may go.
    Release,
    /// There is nothing to do.
    Nothing,
}

/// What is said about a range.
pub(super) const READY: (&str, &str, &str) = ("True", "", "Kubernetes Service CIDR is ready");
pub(super) const TERMINATING: (&str, &str, &str) = (
    "False",
    "Terminating",
    "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR",
);

/// The plan for one range among all, given the addresses that Services hold.
pub(super) fn plan(cidr: &ServiceCIDR, all: &[impl AsRef<ServiceCIDR>], held: &[IpAddr], now: Timestamp) -> Plan {
    let protected = cidr.metadata.finalizers.iter().flatten().any(|name| name == FINALIZER);
    let Some(deleted) = &cidr.metadata.deletion_timestamp else {
        let (protect, ready) = (!protected, !says(cidr, READY));
        return if protect || ready { Plan::Keep { protect, ready } } else { Plan::Nothing };
    };
    if !may_go(cidr, all, held) {
        return Plan::Blocked { tell: !says(cidr, TERMINATING) };
    }
    let since = Duration::try_from(now.duration_since(deleted.0)).unwrap_or_default();
    match GRACE.checked_sub(since).filter(|left| !left.is_zero()) {
        Some(left) => Plan::Wait(left),
        None if protected => Plan::Release,
        None => Plan::Nothing,
    }
}

fn says(cidr: &ServiceCIDR, (status, reason, message): (&str, &str, &str)) -> bool {
    let conditions = cidr.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let ready = conditions.into_iter().find(|condition| condition.type_ == "Ready");
    ready.is_some_and(|ready| (&*ready.status, &*ready.reason, &*ready.message) == (status, reason, message))
}

/// The ranges of an object.
pub(super) fn ranges(cidr: &ServiceCIDR) -> impl Iterator<Item = IpNet> {
    cidr.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten()).filter_map(|range| range.parse().ok())
}

/// Whether a range gives an address out.
pub(super) fn contains(range: IpNet, address: IpAddr) -> bool {
    range.contains(&address) && address != range.network() && (address.is_ipv6() || address != range.broadcast())
}

/// The address of an object that the server made for a Service.
pub(super) fn held(address: &IPAddress) -> Option<IpAddr> {
    let managed = address.metadata.labels.as_ref()?.get("ipaddress.kubernetes.io/managed-by")?;
    address.name().parse().ok().filter(|_| managed == "ipallocator.k8s.io")
}

/// Whether every range of it lies in another object's, or no address would be left without one.
fn may_go(cidr: &ServiceCIDR, all: &[impl AsRef<ServiceCIDR>], held: &[IpAddr]) -> bool {
    let others = || all.iter().map(AsRef::as_ref).filter(|other| other.name() != cidr.name()).flat_map(ranges);
    if ranges(cidr).all(|range| others().any(|other| other.contains(&range))) {
        return true;
    }
    let within = |address: &&IpAddr| ranges(cidr).any(|range| contains(range, **address));
    held.iter().filter(within).all(|address| others().any(|other| contains(other, *address)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

    fn cidr(
        name: &str,
        ranges: &[&str],
        deleted: bool,
        protected: bool,
        ready: (&str, &str, &str),
    ) -> Arc<ServiceCIDR> {
        let condition = json!({"type": "Ready", "status": ready.0, "reason": ready.1, "message": ready.2,
            "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let metadata = json!({"name": name, "finalizers": if protected { json!([FINALIZER]) } else { json!([]) },
            "deletionTimestamp": deleted.then_some("2026-01-01T00:00:00Z")});
        let value = json!({"metadata": metadata, "spec": {"cidrs": ranges}, "status": {"conditions": [condition]}});
        Arc::new(serde_json::from_value(value).unwrap())
    }

    #[test]
    fn ranges_come_stay_and_go() {
        let other = |range: &str| cidr("other", &[range], false, true, READY);
        let default = ("True", "", "Kubernetes default Service CIDR is ready");
        for (own, others, held, seconds, expected) in [
            (
                cidr("a", &["10.0.0.0/24"], false, false, default),
                vec![],
                vec![],
                0,
                Plan::Keep { protect: true, ready: true },
            ),
            (
                cidr("a", &["10.0.0.0/24"], false, true, TERMINATING),
                vec![],
                vec![],
                0,
                Plan::Keep { protect: false, ready: true },
            ),
            (cidr("a", &["10.0.0.0/24"], false, true, READY), vec![], vec!["10.0.0.1"], 0, Plan::Nothing),
            (
                cidr("a", &["10.0.0.0/24"], true, true, READY),
                vec![],
                vec!["10.0.0.1"],
                60,
                Plan::Blocked { tell: true },
            ),
            (
                cidr("a", &["10.0.0.0/24"], true, true, TERMINATING),
                vec![],
                vec!["10.0.0.1"],
                60,
                Plan::Blocked { tell: false },
            ),
            (
                cidr("a", &["10.0.0.0/24", "fd00::/112"], true, true, READY),
                vec![],
                vec!["fd00::1"],
                60,
                Plan::Blocked { tell: true },
            ),
            (cidr("a", &["10.0.0.0/24"], true, true, READY), vec![], vec!["10.0.1.1"], 60, Plan::Release),
            (cidr("a", &["10.0.0.0/24"], true, true, READY), vec![], vec![], 4, Plan::Wait(Duration::from_secs(6))),
            (
                cidr("a", &["10.0.0.0/24"], true, true, READY),
                vec![other("10.0.0.0/16")],
                vec!["10.0.0.1"],
                60,
                Plan::Release,
            ),
            (
                cidr("a", &["10.0.0.0/24"], true, true, READY),
                vec![other("10.0.0.0/28")],
                vec!["10.0.0.1"],
                60,
                Plan::Release,
            ),
            // The other one's broadcast address is nothing that it would give out.
            (
                cidr("a", &["10.0.0.0/24"], true, true, READY),
                vec![other("10.0.0.0/28")],
                vec!["10.0.0.15"],
                60,
                Plan::Blocked { tell: true },
            ),
            (cidr("a", &["10.0.0.0/24"], true, false, READY), vec![], vec![], 60, Plan::Nothing),
        ] {
            let all: Vec<_> = others.into_iter().chain([own.clone()]).collect();
            let held: Vec<IpAddr> = held.into_iter().map(|address: &str| address.parse().unwrap()).collect();
            let now = "2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap() + Duration::from_secs(seconds);
            assert_eq!(plan(&own, &all, &held, now), expected, "{own:?} {held:?}");
        }
    }
}
