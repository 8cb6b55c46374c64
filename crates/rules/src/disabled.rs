//! Fields of features that are off by default: they are dropped from what is written, unless the object has them
//! already (the `dropDisabledFields` of upstream's strategies).

use serde_json::{Map, Value};

use crate::view::{Change, View};

/// Fields below one place of an object.
pub(crate) struct Disabled {
    /// A dotted path; empty: the object itself.
    pub(crate) within: &'static str,
    /// Per feature its fields: dotted paths, `[]` after a list and `{}` after a map. One in use keeps all of the feature.
    pub(crate) features: &'static [&'static [&'static str]],
}

/// Of pods: GenericWorkload, ContainerStopSignals, ClusterTrustBundleProjection, PodCertificateRequest.
const OF_PODS: &[&[&str]] = &[
    &["schedulingGroup"],
    &[
        "containers[].lifecycle.stopSignal",
        "initContainers[].lifecycle.stopSignal",
        "ephemeralContainers[].lifecycle.stopSignal",
    ],
    &["volumes[].projected.sources[].clusterTrustBundle"],
    &["volumes[].projected.sources[].podCertificate"],
];

/// A pod's own: DRANodeAllocatableResources beside those of its spec.
pub(crate) const POD: &[Disabled] = &[
    Disabled { within: "spec", features: OF_PODS },
    Disabled { within: "status", features: &[&["nodeAllocatableResourceClaimStatuses"]] },
];
/// Of a kind with a template at `spec.template`.
pub(crate) const WORKLOAD: &[Disabled] = &[Disabled { within: "spec.template.spec", features: OF_PODS }];
/// The same, and MaxUnavailableStatefulSet.
pub(crate) const STATEFUL_SET: &[Disabled] = &[
    Disabled { within: "spec.template.spec", features: OF_PODS },
    Disabled { within: "spec.updateStrategy", features: &[&["rollingUpdate.maxUnavailable"]] },
];
/// DynamicKubeletConfig, which is gone.
pub(crate) const NODE: &[Disabled] = &[
    Disabled { within: "spec", features: &[&["configSource"]] },
    Disabled { within: "status", features: &[&["config"]] },
];
pub(crate) const CRON_JOB: &[Disabled] =
    &[Disabled { within: "spec.jobTemplate.spec.template.spec", features: OF_PODS }];
pub(crate) const POD_TEMPLATE: &[Disabled] = &[Disabled { within: "template.spec", features: OF_PODS }];
/// VolumeLimitScaling.
pub(crate) const CSI_DRIVER: &[Disabled] =
    &[Disabled { within: "spec", features: &[&["preventPodSchedulingIfMissing"]] }];
/// DRAListTypeAttributes, DRANodeAllocatableResources.
pub(crate) const RESOURCE_SLICE: &[Disabled] = &[Disabled {
    within: "spec",
    features: &[
        &[
            "devices[].attributes{}.bools",
            "devices[].attributes{}.ints",
            "devices[].attributes{}.strings",
            "devices[].attributes{}.versions",
        ],
        &["devices[].nodeAllocatableResourceMappings"],
    ],
}];

/// Drops from `new` what is off and not in `old`.
pub(crate) fn drop_fields(table: &[Disabled], new: &mut Value, old: Option<&Value>) {
    for place in table {
        let below = |object: &Value| object.at(place.within).clone();
        for feature in place.features {
            let used = old.is_some_and(|old| {
                let mut old = below(old);
                feature.iter().any(|path| remove(&mut old, path))
            });
            let Some(there) = place.within.split('.').try_fold(&mut *new, |here, name| here.existing(name)) else {
                continue;
            };
            for path in feature.iter().filter(|_| !used) {
                remove(there, path);
            }
        }
    }
}

/// Removes the fields at `path`; whether there were any.
fn remove(here: &mut Value, path: &str) -> bool {
    let Some(map) = here.as_object_mut() else { return false };
    let Some((step, rest)) = path.split_once('.') else {
        return map.remove(path).is_some_and(|value| !value.is_null());
    };
    if let Some(name) = step.strip_suffix("[]") {
        let items = map.get_mut(name).and_then(Value::as_array_mut);
        return items.into_iter().flatten().fold(false, |found, item| remove(item, rest) | found);
    }
    if let Some(name) = step.strip_suffix("{}") {
        let members = map.get_mut(name).and_then(Value::as_object_mut);
        return members.into_iter().flatten().fold(false, |found, (_, member)| remove(member, rest) | found);
    }
    let Some(member) = map.get_mut(step) else { return false };
    let found = remove(member, rest);
    // A lifecycle without anything is none.
    if found && step == "lifecycle" && member.as_object().is_some_and(Map::is_empty) {
        map.remove(step);
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_off_goes_unless_it_was_there() {
        let slice = |attribute: Value| json!({"spec": {"devices": [{"attributes": {"a": attribute}}]}});
        let stopping = json!({"spec": {"containers": [
            {"lifecycle": {"stopSignal": "SIGUSR1"}}, {"lifecycle": {"stopSignal": "SIGUSR1", "preStop": {}}}]}});
        for (table, new, old, expected) in [
            (POD, json!({"spec": {"schedulingGroup": {}}}), None, json!({"spec": {}})),
            (POD, stopping, None, json!({"spec": {"containers": [{}, {"lifecycle": {"preStop": {}}}]}})),
            (
                POD,
                json!({"spec": {"schedulingGroup": {}}}),
                Some(json!({"spec": {"schedulingGroup": {"a": 1}}})),
                json!({"spec": {"schedulingGroup": {}}}),
            ),
            (
                POD_TEMPLATE,
                json!({"template": {"spec": {"volumes": [{"projected": {"sources": [{"podCertificate": {}}]}}]}}}),
                None,
                json!({"template": {"spec": {"volumes": [{"projected": {"sources": [{}]}}]}}}),
            ),
            (RESOURCE_SLICE, slice(json!({"bools": [true], "string": "b"})), None, slice(json!({"string": "b"}))),
            (
                RESOURCE_SLICE,
                slice(json!({"bools": [true]})),
                Some(slice(json!({"ints": [1]}))),
                slice(json!({"bools": [true]})),
            ),
            (CSI_DRIVER, json!({}), None, json!({})),
        ] {
            let mut dropped = new.clone();
            drop_fields(table, &mut dropped, old.as_ref());
            assert_eq!(dropped, expected, "{new} after {old:?}");
        }
    }
}
