//! The status of a quota, from what there is in its namespace. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota, ResourceQuotaStatus, Service};
use k8s_openapi::apimachinery::pkg::api::resource;
use skiff_api::quota;
use skiff_api::resources::{ResourceList, add, parse};
use skiff_meta::GroupResource;

/// What is known of a namespace.
pub(super) struct Snapshot<'a> {
    pub(super) quota: &'a ResourceQuota,
    pub(super) pods: &'a [Arc<Pod>],
    pub(super) services: &'a [Arc<Service>],
    pub(super) claims: &'a [Arc<PersistentVolumeClaim>],
    /// How many objects there are of resources that are simply counted, as far as they are known.
    pub(super) counts: &'a BTreeMap<GroupResource, i64>,
    pub(super) now: Timestamp,
}

/// The resources whose objects a quota counts.
pub(super) fn counted(quota: &ResourceQuota) -> impl Iterator<Item = GroupResource> {
    let hard = quota.spec.iter().flat_map(|spec| spec.hard.iter().flatten());
    hard.filter_map(|(name, _)| quota::counted(name))
}

/// The status to be: limits as they are wanted, and what is used of them. What cannot be counted now stays as it was.
pub(super) fn status(snapshot: &Snapshot<'_>) -> ResourceQuotaStatus {
    let spec = snapshot.quota.spec.clone().unwrap_or_default();
    let mut used = ResourceList::new();
    for pod in snapshot.pods.iter().filter(|pod| quota::covers_pod(&spec, pod)) {
        add(&mut used, &quota::of_pod(pod, snapshot.now));
    }
    let scoped = quota::has_scopes(&spec);
    if !scoped {
        snapshot.services.iter().for_each(|service| add(&mut used, &quota::of_service(service)));
    }
    for claim in snapshot.claims.iter().filter(|claim| quota::covers_claim(&spec, claim)) {
        add(&mut used, &quota::of_claim(claim));
    }
    let known = snapshot.quota.status.as_ref().and_then(|status| status.used.as_ref());
    let quantity = |name: &str| -> resource::Quantity {
        let text = |amount: skiff_meta::Quantity| resource::Quantity(amount.to_string());
        let zero = || resource::Quantity("0".to_owned());
        let counts = |resource: &GroupResource| snapshot.counts.get(resource).map(i64::to_string);
        match quota::counted(name) {
            Some(_) if scoped => zero(),
            Some(resource) => match counts(&resource) {
                Some(count) => resource::Quantity(count),
                None => known.and_then(|known| known.get(name).cloned()).unwrap_or_else(zero),
            },
            None => used.get(name).copied().map_or_else(zero, text),
        }
    };
    let used = spec.hard.iter().flatten().map(|(name, _)| (name.clone(), quantity(name)));
    ResourceQuotaStatus { used: Some(used.collect()), hard: spec.hard }
}

/// Whether less of anything is used than was thought.
pub(super) fn shrinks(new: &ResourceQuotaStatus, old: Option<&ResourceQuotaStatus>) -> bool {
    let new = parse(&new.used);
    let old = old.map(|old| parse(&old.used)).unwrap_or_default();
    new.iter().any(|(name, amount)| old.get(name).is_some_and(|old| amount < old))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn counted_as(quota: Value, counts: &[(&str, i64)]) -> Value {
        let quota: ResourceQuota = serde_json::from_value(quota).unwrap();
        let pod = |phase: &str| {
            let value = json!({"metadata": {"namespace": "ns"}, "status": {"phase": phase},
                "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "250m"}}}]}});
            Arc::new(serde_json::from_value(value).unwrap())
        };
        let counts = counts.iter().map(|(name, count)| (GroupResource::new("", *name), *count)).collect();
        let pods = [pod("Running"), pod("Pending"), pod("Failed")];
        let services = [Arc::new(Service::default())];
        let now = Timestamp::UNIX_EPOCH;
        let snapshot = Snapshot { quota: &quota, pods: &pods, services: &services, claims: &[], counts: &counts, now };
        serde_json::to_value(status(&snapshot)).unwrap()["used"].clone()
    }

    #[test]
    fn use_is_counted_for_what_is_limited() {
        let hard = json!({"pods": "5", "requests.cpu": "2", "services": "2", "secrets": "9", "count/boats": "3"});
        let quota = json!({"metadata": {}, "spec": {"hard": hard}, "status": {"used": {"count/boats": "2"}}});
        let used = counted_as(quota, &[("secrets", 4)]);
        let expected =
            json!({"pods": "2", "requests.cpu": "500m", "services": "1", "secrets": "4", "count/boats": "2"});
        assert_eq!(used, expected, "boats are not known yet");
        let scoped =
            json!({"metadata": {}, "spec": {"hard": {"pods": "5", "services": "2"}, "scopes": ["BestEffort"]}});
        assert_eq!(counted_as(scoped, &[]), json!({"pods": "0", "services": "0"}));
    }

    #[test]
    fn less_is_told_from_more() {
        let of = |used: Value| -> ResourceQuotaStatus { serde_json::from_value(json!({"used": used})).unwrap() };
        let old = of(json!({"pods": "2", "memory": "1Gi"}));
        for (new, less) in
            [(json!({"pods": "3", "memory": "1Gi"}), false), (json!({"pods": "2", "memory": "1000Mi"}), true)]
        {
            assert_eq!(shrinks(&of(new.clone()), Some(&old)), less, "{new}");
        }
        assert!(!shrinks(&old, None));
    }
}
