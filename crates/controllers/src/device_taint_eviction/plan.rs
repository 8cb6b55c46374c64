//! When a pod has to leave because of taints of its devices. Pure.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{DeviceTaint, DeviceToleration, ResourceClaim, ResourceSlice};
use skiff_api::claims::{allocated, is_reserved_for, tolerates};
use skiff_client::Kind;

use crate::shared::node_of;

const NO_EXECUTE: &str = "NoExecute";

/// A pool's name among all.
pub(super) fn pool(driver: &str, name: &str) -> String {
    format!("{driver}/{name}")
}

/// Whether taints of the slice's devices make pods leave.
pub(super) fn evicts(slice: &ResourceSlice) -> bool {
    let taints = slice.spec.devices.iter().flatten().flat_map(|device| device.taints.iter().flatten());
    taints.into_iter().any(|taint| taint.effect == NO_EXECUTE)
}

/// When a pod has to leave; `None`: it may stay. `slices` knows those of a pool.
pub(super) fn eviction<S: std::ops::Deref<Target = ResourceSlice>>(
    pod: &Pod,
    claims: impl Iterator<Item = impl std::ops::Deref<Target = ResourceClaim>>,
    slices: impl Fn(&str) -> Vec<S>,
) -> Option<Timestamp> {
    if node_of(pod).is_empty() {
        return None;
    }
    let mut when: Option<Timestamp> = None;
    for claim in claims {
        if !is_reserved_for(&claim, pod.uid()) {
            continue;
        }
        for result in allocated(&claim) {
            let slices = slices(&pool(&result.driver, &result.pool));
            for taint in taints(&slices, &result.device) {
                let leaves = leaves(taint, result.tolerations.as_deref().unwrap_or_default());
                when = when.into_iter().chain(leaves).min();
            }
        }
    }
    when
}

/// The taints of a device in its pool's newest generation that make pods leave.
fn taints<'a, S: std::ops::Deref<Target = ResourceSlice>>(
    slices: &'a [S],
    device: &'a str,
) -> impl Iterator<Item = &'a DeviceTaint> {
    let newest = slices.iter().map(|slice| slice.spec.pool.generation).max();
    let slices = slices.iter().filter(move |slice| Some(slice.spec.pool.generation) == newest);
    let devices =
        slices.flat_map(|slice| slice.spec.devices.iter().flatten()).filter(move |known| known.name == device);
    devices.flat_map(|device| device.taints.iter().flatten()).filter(|taint| taint.effect == NO_EXECUTE)
}

/// When a taint makes a user leave: never if it is tolerated for ever, and otherwise after the shortest time that it is
/// tolerated for.
fn leaves(taint: &DeviceTaint, tolerations: &[DeviceToleration]) -> Option<Timestamp> {
    let since = taint.time_added.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    let mut shortest: Option<i64> = None;
    let tolerating = |t: &&DeviceToleration| t.effect.as_deref() == Some(NO_EXECUTE) && tolerates(t, taint);
    for toleration in tolerations.iter().filter(tolerating) {
        let seconds = toleration.toleration_seconds?.max(0);
        shortest = Some(shortest.map_or(seconds, |known| known.min(seconds)));
    }
    Some(since.checked_add(SignedDuration::from_secs(shortest.unwrap_or(0))).unwrap_or(Timestamp::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn from<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).expect("a well-formed object")
    }

    #[test]
    fn when_pods_leave() {
        let slice = |generation: i64, taints: Value| -> ResourceSlice {
            let pool = json!({"name": "p", "generation": generation, "resourceSliceCount": 1});
            from(
                json!({"metadata": {}, "spec": {"driver": "d", "pool": pool, "devices": [{"name": "a", "taints": taints}]}}),
            )
        };
        let taint =
            |effect: &str| json!({"key": "k", "value": "v", "effect": effect, "timeAdded": "2026-01-01T00:00:00Z"});
        let bears = |seconds: Value| json!([{"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds}]);
        let at = |seconds: &str| Some(format!("2026-01-01T00:00:{seconds}Z"));
        let both =
            json!([taint("NoExecute"), {"key": "l", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:09Z"}]);
        for (what, slices, tolerations, node, user, expected) in [
            ("no taint", vec![slice(1, json!([]))], json!([]), "n", "u", None),
            ("it makes nobody leave", vec![slice(1, json!([taint("NoSchedule")]))], json!([]), "n", "u", None),
            ("at once", vec![slice(1, json!([taint("NoExecute")]))], json!([]), "n", "u", at("00")),
            ("for ever", vec![slice(1, json!([taint("NoExecute")]))], bears(Value::Null), "n", "u", None),
            ("for a time", vec![slice(1, json!([taint("NoExecute")]))], bears(json!(30)), "n", "u", at("30")),
            ("one of two", vec![slice(1, both)], bears(json!(30)), "n", "u", at("09")),
            (
                "an old slice",
                vec![slice(1, json!([taint("NoExecute")])), slice(2, json!([]))],
                json!([]),
                "n",
                "u",
                None,
            ),
            ("no node yet", vec![slice(1, json!([taint("NoExecute")]))], json!([]), "", "u", None),
            ("another's claim", vec![slice(1, json!([taint("NoExecute")]))], json!([]), "n", "other", None),
        ] {
            let pod: Pod =
                from(json!({"metadata": {"name": "p", "uid": "u"}, "spec": {"containers": [], "nodeName": node}}));
            let result = json!({"driver": "d", "pool": "p", "device": "a", "request": "r", "tolerations": tolerations});
            let claim: ResourceClaim = from(json!({"metadata": {}, "spec": {}, "status": {
                "allocation": {"devices": {"results": [result]}},
                "reservedFor": [{"resource": "pods", "name": "p", "uid": user}]}}));
            let of_pool = |pool: &str| if pool == "d/p" { slices.iter().collect() } else { Vec::new() };
            let found = eviction(&pod, std::iter::once(&claim), of_pool);
            assert_eq!(found.map(|at| at.to_string()), expected, "{what}");
        }
    }
}
