//! What a pod takes of a node (`k8s.io/component-helpers/resource` upstream).
//!
//! Containers run side by side, so theirs add up. Init containers run before them and one after the other, so the
//! largest counts, except that sidecars (init containers that restart always) stay: each counts among the containers
//! and during the init containers after it. Requests of the pod as a whole replace sums; overhead comes on top. While
//! a resize is under way, the larger of old and new is taken.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, ContainerStatus, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use skiff_meta::Quantity;

/// Amounts by resource name.
pub type ResourceList = BTreeMap<String, Quantity>;

type Texts = Option<BTreeMap<String, Text>>;

/// What of a container is summed up.
#[derive(Clone, Copy)]
enum Side<'a> {
    /// Requests, with what to assume for resources that a container does not mention.
    Requests(&'a ResourceList),
    Limits,
}

/// The amounts of a typed resource list. Text that is no quantity counts as zero: validation has refused it before.
pub fn parse(list: &Texts) -> ResourceList {
    list.iter().flatten().map(|(name, text)| (name.clone(), text.0.parse().unwrap_or_default())).collect()
}

/// What the pod requests. With a status, resizes under way count; without one, the spec alone does.
pub fn requests(spec: &PodSpec, status: Option<&PodStatus>) -> ResourceList {
    requests_or(spec, status, &ResourceList::new())
}

/// Like [`requests`], assuming `missing` for each container that does not mention these resources: the scheduler
/// spreads pods without requests too.
pub fn requests_or(spec: &PodSpec, status: Option<&PodStatus>, missing: &ResourceList) -> ResourceList {
    let mut sum = containers(spec, status, Side::Requests(missing));
    sum.extend(of_pod(spec.resources.as_ref().map(|r| &r.requests)));
    add(&mut sum, &parse(&spec.overhead));
    sum
}

/// What the pod is limited to; overhead is added to the limits there are.
pub fn limits(spec: &PodSpec, status: Option<&PodStatus>) -> ResourceList {
    let mut sum = containers(spec, status, Side::Limits);
    sum.extend(of_pod(spec.resources.as_ref().map(|r| &r.limits)));
    for (name, amount) in parse(&spec.overhead) {
        if let Some(limit) = sum.get_mut(&name).filter(|limit| !limit.is_zero()) {
            *limit = limit.plus(amount);
        }
    }
    sum
}

/// Adds every amount of `more`.
pub fn add(sum: &mut ResourceList, more: &ResourceList) {
    for (name, amount) in more {
        let entry = sum.entry(name.clone()).or_default();
        *entry = if entry.is_zero() { *amount } else { entry.plus(*amount) };
    }
}

/// Raises every amount to at least that of `other`.
pub fn raise(list: &mut ResourceList, other: &ResourceList) {
    for (name, amount) in other {
        let entry = list.entry(name.clone()).or_insert(*amount);
        *entry = (*entry).max(*amount);
    }
}

/// Whether a resource can be given to the pod as a whole.
pub fn is_pod_level(name: &str) -> bool {
    name == "cpu" || name == "memory" || name.starts_with("hugepages-")
}

/// Whether an init container is a sidecar: started in turn, then kept running.
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

fn of_pod(list: Option<&Texts>) -> impl Iterator<Item = (String, Quantity)> {
    list.map(parse).unwrap_or_default().into_iter().filter(|(name, _)| is_pod_level(name))
}

fn containers(spec: &PodSpec, status: Option<&PodStatus>, side: Side<'_>) -> ResourceList {
    let mut sum = ResourceList::new();
    for container in &spec.containers {
        add(&mut sum, &of_container(container, status, side));
    }
    let (mut sidecars, mut peak) = (ResourceList::new(), ResourceList::new());
    for container in spec.init_containers.iter().flatten() {
        let status = status.filter(|_| is_sidecar(container));
        let mut own = of_container(container, status, side);
        if is_sidecar(container) {
            add(&mut sum, &own);
            add(&mut sidecars, &own);
            raise(&mut peak, &sidecars);
        } else {
            add(&mut own, &sidecars);
            raise(&mut peak, &own);
        }
    }
    raise(&mut sum, &peak);
    sum
}

fn of_container(container: &Container, status: Option<&PodStatus>, side: Side<'_>) -> ResourceList {
    let wanted = container.resources.as_ref();
    let mut list = match side {
        Side::Requests(_) => wanted.map(|r| parse(&r.requests)),
        Side::Limits => wanted.map(|r| parse(&r.limits)),
    }
    .unwrap_or_default();
    if let Some(status) = status
        && let Some(seen) = status_of(&container.name, status)
        && let Some(actual) = &seen.resources
    {
        let infeasible = is_infeasible(status);
        if infeasible {
            list.clear();
        }
        match side {
            Side::Requests(_) => {
                raise(&mut list, &parse(&actual.requests));
                raise(&mut list, &parse(&seen.allocated_resources));
            }
            Side::Limits => raise(&mut list, &parse(&actual.limits)),
        }
    }
    if let Side::Requests(missing) = side {
        for (name, amount) in missing {
            list.entry(name.clone()).or_insert(*amount);
        }
    }
    list
}

fn status_of<'a>(name: &str, status: &'a PodStatus) -> Option<&'a ContainerStatus> {
    let (running, init) = (&status.container_statuses, &status.init_container_statuses);
    running.iter().flatten().chain(init.iter().flatten()).find(|s| s.name == name)
}

/// A resize that this node can never grant does not count.
fn is_infeasible(status: &PodStatus) -> bool {
    let pending = status.conditions.iter().flatten().find(|c| c.type_ == "PodResizePending");
    pending.is_some_and(|c| c.reason.as_deref() == Some("Infeasible"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec(value: Value) -> PodSpec {
        serde_json::from_value(value).unwrap()
    }

    fn container(name: &str, cpu: &str, memory: &str) -> Value {
        json!({"name": name, "resources": {"requests": {"cpu": cpu, "memory": memory}, "limits": {"cpu": cpu}}})
    }

    fn sidecar(name: &str, cpu: &str, memory: &str) -> Value {
        let mut sidecar = container(name, cpu, memory);
        sidecar["restartPolicy"] = json!("Always");
        sidecar
    }

    fn shown(list: &ResourceList) -> String {
        list.iter().map(|(name, amount)| format!("{name}={amount}")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn sums() {
        let two = json!([container("a", "100m", "1Gi"), container("b", "1", "512Mi")]);
        for (what, value, expected) in [
            ("containers add up", json!({"containers": two}), "cpu=1100m memory=1536Mi"),
            (
                "the largest init container counts",
                json!({"containers": two, "initContainers": [
                    container("i", "2", "1Mi"), container("j", "1", "2Gi")]}),
                "cpu=2 memory=2Gi",
            ),
            (
                "sidecars add up with both",
                json!({"containers": two, "initContainers": [
                    container("i", "1", "1Gi"), sidecar("s", "500m", "256Mi"), container("j", "2", "1Gi")]}),
                "cpu=2500m memory=1792Mi",
            ),
            (
                "overhead comes on top",
                json!({"containers": two, "overhead": {"cpu": "10m"}}),
                "cpu=1110m memory=1536Mi",
            ),
            (
                "the pod's own replace sums",
                json!({"containers": two, "overhead": {"cpu": "1"},
                    "resources": {"requests": {"cpu": "4", "example.com/gpu": "1"}}}),
                "cpu=5 memory=1536Mi",
            ),
            ("nothing", json!({"containers": [{"name": "a"}]}), ""),
        ] {
            assert_eq!(shown(&requests(&spec(value), None)), expected, "{what}");
        }
    }

    #[test]
    fn limits_get_overhead_where_there_are_any() {
        let value = json!({"containers": [container("a", "1", "1Gi")], "overhead": {"cpu": "100m", "memory": "1Mi"}});
        assert_eq!(shown(&limits(&spec(value), None)), "cpu=1100m");
    }

    #[test]
    fn what_is_missing_is_assumed_per_container() {
        let missing = ResourceList::from([("cpu".to_owned(), "100m".parse().unwrap())]);
        let value = json!({"containers": [{"name": "a"}, {"name": "b"}, container("c", "0", "1")]});
        assert_eq!(shown(&requests_or(&spec(value), None, &missing)), "cpu=200m memory=1");
    }

    #[test]
    fn a_resize_under_way_counts_at_its_larger_end() {
        let spec = spec(json!({"containers": [container("a", "2", "1Gi")]}));
        let status = |conditions: Value| -> PodStatus {
            serde_json::from_value(json!({"conditions": conditions, "containerStatuses": [{
                "name": "a", "image": "i", "imageID": "i", "ready": true, "restartCount": 0,
                "resources": {"requests": {"cpu": "1", "memory": "2Gi"}}, "allocatedResources": {"cpu": "1500m"}}]}))
            .unwrap()
        };
        assert_eq!(shown(&requests(&spec, Some(&status(json!([]))))), "cpu=2 memory=2Gi");
        let refused = json!([{"type": "PodResizePending", "status": "True", "reason": "Infeasible"}]);
        assert_eq!(shown(&requests(&spec, Some(&status(refused)))), "cpu=1500m memory=2Gi");
    }
}
