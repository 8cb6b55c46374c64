//! Claims of devices: what a pod's are called, who uses one, what it was given, and who bears that devices are tainted.

use k8s_openapi::api::core::v1::{Pod, PodResourceClaim};
use k8s_openapi::api::resource::v1::{
    DeviceRequestAllocationResult, DeviceTaint, DeviceToleration, ResourceClaim, ResourceClaimConsumerReference,
};

/// Keeps claims until their devices are given back.
pub const FINALIZER: &str = "resource.kubernetes.io/delete-protection";

/// The name in the API of a claim that a pod names; `None`: it has not been made from its template yet. A template may
/// ask for nothing: then there is no name.
pub fn name<'a>(pod: &'a Pod, claim: &'a PodResourceClaim) -> Option<Option<&'a str>> {
    if let Some(name) = &claim.resource_claim_name {
        return Some(Some(name));
    }
    let mut made = pod.status.iter().flat_map(|status| status.resource_claim_statuses.iter().flatten());
    Some(made.find(|made| made.name == claim.name)?.resource_claim_name.as_deref())
}

/// Whether a claim has got what it asks for.
pub fn is_allocated(claim: &ResourceClaim) -> bool {
    claim.status.as_ref().is_some_and(|status| status.allocation.is_some())
}

/// The devices that a claim was given.
pub fn allocated(claim: &ResourceClaim) -> &[DeviceRequestAllocationResult] {
    let allocation = claim.status.as_ref().and_then(|status| status.allocation.as_ref());
    allocation.and_then(|all| all.devices.as_ref()?.results.as_deref()).unwrap_or_default()
}

/// Who uses a claim.
pub fn users(claim: &ResourceClaim) -> &[ResourceClaimConsumerReference] {
    claim.status.as_ref().and_then(|status| status.reserved_for.as_deref()).unwrap_or_default()
}

/// Whether the one with this UID is among a claim's users.
pub fn is_reserved_for(claim: &ResourceClaim, uid: &str) -> bool {
    users(claim).iter().any(|user| user.uid == uid)
}

/// Whether a user of claims is a pod.
pub fn is_pod(user: &ResourceClaimConsumerReference) -> bool {
    user.api_group.as_deref().unwrap_or_default().is_empty() && user.resource == "pods"
}

/// Whether a toleration is for a taint of a device; which effects count is the caller's to know.
pub fn tolerates(toleration: &DeviceToleration, taint: &DeviceTaint) -> bool {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let any_or = |wanted: &Option<String>, has: &str| text(wanted).is_empty() || text(wanted) == has;
    any_or(&toleration.effect, &taint.effect)
        && any_or(&toleration.key, &taint.key)
        && match &*text(&toleration.operator) {
            "" | "Equal" => text(&toleration.value) == text(&taint.value),
            operator => operator == "Exists",
        }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn from<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn names_are_given_or_made() {
        let pod: Pod = from(json!({"metadata": {}, "status": {"resourceClaimStatuses": [
            {"name": "made", "resourceClaimName": "p-made-x"}, {"name": "empty"}]}}));
        let of = |claim: Value| name(&pod, &from(claim)).map(|name| name.map(str::to_owned));
        let template = |name: &str| json!({"name": name, "resourceClaimTemplateName": "t"});
        assert_eq!(of(json!({"name": "own", "resourceClaimName": "c"})), Some(Some("c".to_owned())));
        assert_eq!(of(template("made")), Some(Some("p-made-x".to_owned())));
        assert_eq!(of(template("empty")), Some(None));
        assert_eq!(of(template("coming")), None);
    }

    #[test]
    fn what_a_claim_has_and_who_uses_it() {
        let fresh: ResourceClaim = from(json!({"metadata": {}, "spec": {}}));
        assert!(!is_allocated(&fresh) && allocated(&fresh).is_empty() && users(&fresh).is_empty());
        let result = json!({"driver": "d", "pool": "p", "device": "a", "request": "r"});
        let users_ = json!([{"resource": "pods", "name": "p", "uid": "u"}, {"apiGroup": "g", "resource": "pods", "name": "q", "uid": "v"}]);
        let claim: ResourceClaim = from(json!({"metadata": {}, "spec": {}, "status": {
            "allocation": {"devices": {"results": [result]}}, "reservedFor": users_}}));
        assert!(is_allocated(&claim) && allocated(&claim)[0].device == "a");
        assert!(is_reserved_for(&claim, "u") && !is_reserved_for(&claim, "p"));
        assert_eq!(users(&claim).iter().map(is_pod).collect::<Vec<_>>(), [true, false]);
    }

    #[test]
    fn who_bears_a_taint() {
        let taint: DeviceTaint = from(json!({"key": "k", "value": "v", "effect": "NoExecute"}));
        for (toleration, expected) in [
            (json!({"operator": "Exists"}), true),
            (json!({"key": "k", "operator": "Exists", "effect": "NoExecute"}), true),
            (json!({"key": "k", "value": "v"}), true),
            (json!({"key": "k", "operator": "Equal", "value": "w"}), false),
            (json!({"key": "l", "operator": "Exists"}), false),
            (json!({"operator": "Exists", "effect": "NoSchedule"}), false),
            (json!({"key": "k", "operator": "Other", "value": "v"}), false),
        ] {
            assert_eq!(tolerates(&from(toleration.clone()), &taint), expected, "{toleration}");
        }
    }
}
