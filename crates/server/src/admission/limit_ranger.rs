//! LimitRanger: what a namespace's LimitRanges fill in, and what they refuse.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Container, LimitRange, LimitRangeItem, Pod, PodSpec};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use skiff_api::resources::{self, ResourceList};
use skiff_meta::{GroupResource, GroupVersionResource, Quantity, Status};

use super::{refuse, text};
use crate::chain::{Admission, AdmissionRequest, Extra, Operation};

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

/// The plug-in.
pub(super) struct LimitRanger;

/// The limits of a namespace, range by range.
fn limits(request: &AdmissionRequest<'_>) -> Vec<LimitRangeItem> {
    // Objects on their way out are left alone.
    if request.old.is_some_and(|old| !old["metadata"]["deletionTimestamp"].is_null()) {
        return Vec::new();
    }
    let ranges = request.view.list(&GroupResource::new("", "limitranges"), request.namespace);
    let typed = ranges.iter().filter_map(|range| range.typed::<LimitRange>().ok());
    typed.flat_map(|range| range.spec.as_ref().map(|spec| spec.limits.clone()).unwrap_or_default()).collect()
}

#[async_trait]
impl Admission for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }

    fn handles(&self, operation: Operation, resource: &GroupVersionResource, subresource: &str) -> bool {
        resource.group.is_empty()
            && matches!(
                (resource.resource.as_str(), operation, subresource),
                ("pods", Operation::Create, "")
                    | ("pods", Operation::Update, "resize")
                    | ("persistentvolumeclaims", Operation::Create | Operation::Update, "")
            )
    }

    fn changes_objects(&self) -> bool {
        true
    }

    async fn mutate(&self, request: &AdmissionRequest<'_>, object: &mut Value) -> Result<(), Status> {
        if request.resource.resource == "pods" {
            let limits = limits(request);
            fill_in(object, limits.iter().filter(|limit| limit.type_ == "Container"));
        }
        Ok(())
    }

    async fn validate(
        &self,
        request: &AdmissionRequest<'_>,
        object: Option<&Value>,
        _extra: &mut Extra,
    ) -> Result<(), Status> {
        let limits = limits(request);
        let Some(object) = object.filter(|_| !limits.is_empty()) else { return Ok(()) };
        let faults = match request.resource.resource.as_str() {
            "pods" => pod_faults(read::<Pod>(object)?.spec.as_ref(), &limits),
            _ => claim_faults(object, &limits),
        };
        match faults.as_slice() {
            [] => Ok(()),
            [one] => Err(refuse(request, Some(object), one)),
            many => Err(refuse(request, Some(object), &format!("[{}]", many.join(", ")))),
        }
    }
}

fn read<K: DeserializeOwned>(object: &Value) -> Result<K, Status> {
    serde_json::from_value(object.clone()).map_err(Status::internal)
}

/// Gives each container the defaults it does not say itself, and notes on the pod what was done.
fn fill_in<'a>(pod: &mut Value, limits: impl Iterator<Item = &'a LimitRangeItem>) {
    let (mut requests, mut caps) = (json!({}), json!({}));
    for limit in limits {
        for (defaults, all) in [(&limit.default_request, &mut requests), (&limit.default, &mut caps)] {
            for (name, amount) in defaults.iter().flatten() {
                all[name] = json!(amount);
            }
        }
    }
    let mut notes = Vec::new();
    for (field, sort) in [("containers", "container"), ("initContainers", "init container")] {
        for container in super::items_mut(&mut pod["spec"], field) {
            let name = text(container, "name").to_owned();
            for (list, defaults, what) in [("requests", &requests, "request"), ("limits", &caps, "limit")] {
                let set = fill_list(container, list, defaults);
                if !set.is_empty() {
                    notes.push(format!("{} {what} for {sort} {name}", set.join(", ")));
                }
            }
        }
    }
    if !notes.is_empty() {
        let note = format!("LimitRanger plugin set: {}", notes.join("; "));
        pod["metadata"]["annotations"][ANNOTATION] = json!(note);
    }
}

/// The names that were added, in order.
fn fill_list(container: &mut Value, list: &str, defaults: &Value) -> Vec<String> {
    let mut set = Vec::new();
    for (name, amount) in defaults.as_object().into_iter().flatten() {
        let said = container.get("resources").and_then(|resources| resources.get(list)?.get(name));
        if said.is_none() {
            container["resources"][list][name] = amount.clone();
            set.push(name.clone());
        }
    }
    set
}

/// What something asks for, to be held against limits.
struct Asked<'a> {
    kind: &'a str,
    requests: ResourceList,
    limits: ResourceList,
}

fn pod_faults(spec: Option<&PodSpec>, limits: &[LimitRangeItem]) -> Vec<String> {
    let Some(spec) = spec else { return Vec::new() };
    let mut faults = Vec::new();
    for limit in limits {
        match limit.type_.as_str() {
            "Container" => {
                for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
                    check(&of_container(container), limit, &mut faults);
                }
            }
            "Pod" => check(&of_pod(spec), limit, &mut faults),
            _ => {}
        }
    }
    faults
}

fn of_container(container: &Container) -> Asked<'static> {
    let resources = container.resources.clone().unwrap_or_default();
    Asked {
        kind: "Container",
        requests: resources::parse(&resources.requests),
        limits: resources::parse(&resources.limits),
    }
}

fn of_pod(spec: &PodSpec) -> Asked<'static> {
    // Overhead is the node's, not what the author asks for.
    let spec = PodSpec { overhead: None, ..spec.clone() };
    Asked { kind: "Pod", requests: resources::requests(&spec, None), limits: resources::limits(&spec, None) }
}

fn claim_faults(claim: &Value, limits: &[LimitRangeItem]) -> Vec<String> {
    let requests: ResourceList = claim["spec"]["resources"]["requests"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, amount)| (name.clone(), Quantity::from_json(amount).unwrap_or_default()))
        .collect();
    let mut faults = Vec::new();
    for limit in limits.iter().filter(|limit| limit.type_ == "PersistentVolumeClaim") {
        let asked = Asked { kind: "PersistentVolumeClaim", requests: requests.clone(), limits: ResourceList::new() };
        faults.extend(resources::parse(&limit.min).iter().filter_map(|(name, least)| asked.below(name, *least)));
        faults.extend(resources::parse(&limit.max).iter().filter_map(|(name, most)| asked.request_above(name, *most)));
    }
    faults
}

fn check(asked: &Asked<'_>, limit: &LimitRangeItem, faults: &mut Vec<String>) {
    faults.extend(resources::parse(&limit.min).iter().filter_map(|(name, least)| asked.below(name, *least)));
    faults.extend(resources::parse(&limit.max).iter().filter_map(|(name, most)| asked.above(name, *most)));
    let ratios = resources::parse(&limit.max_limit_request_ratio);
    faults.extend(ratios.iter().filter_map(|(name, most)| asked.ratio_above(name, *most)));
}

impl Asked<'_> {
    fn below(&self, name: &str, least: Quantity) -> Option<String> {
        let words = format!("minimum {name} usage per {} is {least}", self.kind);
        match (self.requests.get(name), self.limits.get(name)) {
            (None, _) => Some(format!("{words}.  No request is specified")),
            (Some(request), _) if *request < least => Some(format!("{words}, but request is {request}")),
            (_, Some(limit)) if *limit < least => Some(format!("{words}, but limit is {limit}")),
            _ => None,
        }
    }

    fn above(&self, name: &str, most: Quantity) -> Option<String> {
        let words = format!("maximum {name} usage per {} is {most}", self.kind);
        match (self.requests.get(name), self.limits.get(name)) {
            (_, None) => Some(format!("{words}.  No limit is specified")),
            (_, Some(limit)) if *limit > most => Some(format!("{words}, but limit is {limit}")),
            (Some(request), _) if *request > most => Some(format!("{words}, but request is {request}")),
            _ => None,
        }
    }

    fn request_above(&self, name: &str, most: Quantity) -> Option<String> {
        let words = format!("maximum {name} usage per {} is {most}", self.kind);
        match self.requests.get(name) {
            None => Some(format!("{words}.  No request is specified")),
            Some(request) if *request > most => Some(format!("{words}, but request is {request}")),
            _ => None,
        }
    }

    fn ratio_above(&self, name: &str, most: Quantity) -> Option<String> {
        let words = format!("{name} max limit to request ratio per {} is {most}", self.kind);
        let said =
            |list: &ResourceList| list.get(name).filter(|amount| !amount.is_zero()).map(|amount| amount.as_f64());
        let Some(request) = said(&self.requests) else {
            return Some(format!("{words}, but no request is specified or request is 0"));
        };
        let Some(limit) = said(&self.limits) else {
            return Some(format!("{words}, but no limit is specified or limit is 0"));
        };
        let ratio = limit / request;
        (ratio > most.as_f64()).then(|| format!("{words}, but provided ratio is {ratio:.6}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::Trial;

    fn trial(limit: Value) -> Trial<LimitRanger> {
        let trial = Trial::new(LimitRanger);
        let range = json!({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "l", "namespace": "a"}, "spec": {"limits": [limit]}});
        trial.view.put("limitranges", range);
        trial
    }

    fn pod(resources: Value) -> Value {
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "resources": resources}]}})
    }

    #[test]
    fn defaults_are_filled_in_and_noted() {
        let trial = trial(
            json!({"type": "Container", "default": {"cpu": "1", "memory": "1Gi"}, "defaultRequest": {"cpu": "100m"}}),
        );
        let admitted = trial.create("pods").namespace("a").mutate(pod(json!({"limits": {"cpu": "2"}}))).unwrap();
        let expected = json!({"limits": {"cpu": "2", "memory": "1Gi"}, "requests": {"cpu": "100m"}});
        assert_eq!(admitted["spec"]["containers"][0]["resources"], expected);
        let note = "LimitRanger plugin set: cpu request for container c; memory limit for container c";
        assert_eq!(admitted["metadata"]["annotations"][ANNOTATION], note);
        let elsewhere = trial.create("pods").namespace("b").mutate(pod(json!({}))).unwrap();
        assert_eq!(elsewhere, pod(json!({})));
    }

    #[test]
    fn bounds_are_kept() {
        let bounds = json!({"min": {"cpu": "200m"}, "max": {"cpu": "2"}, "maxLimitRequestRatio": {"cpu": "4"}});
        let cases = [
            (json!({"requests": {"cpu": "0.5"}, "limits": {"cpu": "2000m"}}), ""),
            (
                json!({}),
                "[minimum cpu usage per Container is 200m.  No request is specified, maximum cpu usage per Container is 2.  No limit is specified, cpu max limit to request ratio per Container is 4, but no request is specified or request is 0]",
            ),
            (
                json!({"requests": {"cpu": "300m"}, "limits": {"cpu": "2"}}),
                "cpu max limit to request ratio per Container is 4, but provided ratio is 6.666667",
            ),
            (
                json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "400m"}}),
                "minimum cpu usage per Container is 200m, but request is 100m",
            ),
            (
                json!({"requests": {"cpu": "1"}, "limits": {"cpu": "3"}}),
                "maximum cpu usage per Container is 2, but limit is 3",
            ),
        ];
        let mut limit = bounds;
        limit["type"] = json!("Container");
        let trial = trial(limit);
        for (resources, expected) in cases {
            let outcome = trial.create("pods").namespace("a").validate(&pod(resources));
            let told = outcome.err().map(|status| status.message).unwrap_or_default();
            assert_eq!(told.strip_prefix("pods \"p\" is forbidden: ").unwrap_or(&told), expected);
        }
    }

    #[test]
    fn pods_are_summed_up_and_claims_only_request() {
        let sum = trial(json!({"type": "Pod", "max": {"memory": "1Gi"}}));
        let container = json!({"name": "c", "resources": {"limits": {"memory": "600Mi"}}});
        let two = json!({"metadata": {"name": "p"}, "spec": {"containers": [container, container]}});
        let told = sum.create("pods").namespace("a").validate(&two).unwrap_err().message;
        assert!(told.ends_with("maximum memory usage per Pod is 1Gi, but limit is 1200Mi"), "{told}");

        let claims = trial(json!({"type": "PersistentVolumeClaim", "max": {"storage": "1Gi"}}));
        let claim =
            |size: &str| json!({"metadata": {"name": "d"}, "spec": {"resources": {"requests": {"storage": size}}}});
        let ask = |size: &str| claims.create("persistentvolumeclaims").namespace("a").validate(&claim(size));
        assert!(ask("1Gi").is_ok());
        let told = ask("2Gi").unwrap_err().message;
        assert!(told.ends_with("maximum storage usage per PersistentVolumeClaim is 1Gi, but request is 2Gi"), "{told}");
        let old = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
        assert!(claims.update("persistentvolumeclaims", old).namespace("a").validate(&claim("2Gi")).is_ok());
    }
}
