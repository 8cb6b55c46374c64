//! `pods/resize`: processor time and memory of a pod that runs (KEP 1287, KEP 5419; upstream: `ValidatePodResize`).

use serde_json::{Map, Value};
use skiff_meta::field::{FieldError, FieldErrors, FieldPath};

use crate::at::At;
use crate::podspec::qos;
use crate::view::{Change, View};

const LISTS: [&str; 2] = ["containers", "initContainers"];
/// What may change.
const MUTABLE: [&str; 2] = ["cpu", "memory"];
const MIRROR: &str = "kubernetes.io/config.mirror";

/// Takes over resources and resize policies, and nothing else. Containers that came, went or have another name are left as
/// they were sent, for the validation to find.
pub(super) fn prepare(new: &mut Value, old: &Value) {
    let (sent, before) = (new.get_or_null("spec").clone(), old.get_or_null("spec"));
    if LISTS.iter().any(|list| sent.count(list) != before.count(list)) {
        return;
    }
    super::restore(new, old);
    let spec = new.child("spec");
    for list in LISTS {
        let alike = |(new, old): (&Value, &Value)| new.text("name") == old.text("name");
        if !sent.items(list).iter().zip(before.items(list)).all(alike) {
            spec.put(list, sent.get_or_null(list).clone());
            continue;
        }
        for (container, sent) in spec.items_mut(list).iter_mut().zip(sent.items(list)) {
            for field in ["resources", "resizePolicy"] {
                container.put(field, sent.get_or_null(field).clone());
            }
        }
    }
    spec.put("resources", sent.get_or_null("resources").clone());
}

/// Faults of a resize, beyond those of the pod as it would be.
pub(super) fn validate(new: &Value, old: &Value, out: &mut FieldErrors) {
    let refused = |why: &str| vec![FieldError::forbidden(&FieldPath::new(""), why)];
    if old.at("metadata.annotations").has(MIRROR) {
        *out = refused("static pods cannot be resized");
        return;
    }
    if old.at("spec.os").text("name") == "windows" {
        *out = refused("windows pods cannot be resized");
        return;
    }
    let (spec, before) = (At::member(new, "spec"), old.get_or_null("spec"));
    if qos::class(spec.value) != qos::class(before) {
        let class = new.at("status.qosClass").clone();
        out.push(FieldError::invalid(&spec.path, class, "Pod QOS Class may not change as a result of resizing"));
    }
    let statuses = old.at("status").items("containerStatuses");
    let running = statuses.iter().find(|status| status.get_or_null("state").has("running"));
    if running.is_some_and(|status| !status.has("resources")) {
        out.push(FieldError::forbidden(&spec.path, "Pod running on node without support for resize"));
    }
    of_pod(&spec, before, out);
    if other_containers(&spec, before, out) {
        return;
    }
    for list in ["initContainers", "containers"] {
        for (container, before) in spec.items(list).zip(before.items(list)) {
            let (at, before) = (container.get("resources"), before.get_or_null("resources"));
            nothing_removed(&at, before, "resource", out);
        }
    }
    for (container, before) in spec.items("containers").zip(before.items("containers")) {
        if !keeps_the_rest(container.value, before) {
            out.push(FieldError::forbidden(&spec.path, "only cpu and memory resources are mutable"));
        }
    }
    for (container, before) in spec.items("initContainers").zip(before.items("initContainers")) {
        init_container(&container, before, out);
    }
}

/// The pod's own resources.
fn of_pod(spec: &At<'_>, before: &Value, out: &mut FieldErrors) {
    let (at, before) = (spec.get("resources"), before.get_or_null("resources"));
    let set = |value: &Value| value.count("requests") + value.count("limits") > 0;
    if !set(at.value) && !set(before) {
        return;
    }
    if !before.is_null() && at.value.is_null() {
        return out.push(FieldError::forbidden(&at.path, "pod-level resources cannot be removed"));
    }
    nothing_removed(&at, before, "pod-level resource", out);
    if !same_but_mutables(at.value, before) {
        let why = "only cpu and memory resources are mutable at pod-level";
        out.push(FieldError::forbidden(&spec.path, why));
    }
}

/// Whether containers came, went or have other names.
fn other_containers(spec: &At<'_>, before: &Value, out: &mut FieldErrors) -> bool {
    let known = out.len();
    for list in LISTS {
        if spec.value.count(list) != before.count(list) {
            spec.forbidden(list, &format!("{list} may not be added or removed on resize"), out);
            continue;
        }
        for (container, before) in spec.items(list).zip(before.items(list)) {
            if container.text("name") != before.text("name") {
                container.forbidden("name", &format!("{list} may not be renamed or reordered on resize"), out);
            }
        }
    }
    out.len() > known
}

fn nothing_removed(at: &At<'_>, before: &Value, what: &str, out: &mut FieldErrors) {
    for kind in ["requests", "limits"] {
        let now = at.value.get_or_null(kind);
        if before.entries(kind).any(|(name, _)| !now.has(name)) {
            at.forbidden(kind, &format!("{what} {kind} cannot be removed"), out);
        }
    }
}

fn init_container(container: &At<'_>, before: &Value, out: &mut FieldErrors) {
    if !keeps_the_rest(container.value, before) {
        let why = "only cpu and memory resources for init or sidecar containers are mutable";
        out.push(FieldError::forbidden(&container.path, why));
    }
    let is_sidecar = container.text("restartPolicy") == "Always";
    let restarts = |policy: &&Value| policy.text("restartPolicy") == "RestartContainer";
    if !is_sidecar && container.value != before {
        for _ in container.value.items("resizePolicy").iter().filter(restarts) {
            let why = "non-sidecar init containers with a resize policy of RestartContainer cannot be resized";
            out.push(FieldError::forbidden(&container.path, why));
        }
    }
}

/// Whether nothing but amounts that may change differ.
fn keeps_the_rest(now: &Value, before: &Value) -> bool {
    let rest = |container: &Value| {
        let mut rest = container.clone();
        rest.drop_member("resources");
        rest
    };
    // Upstream drops the claims of what it compares.
    let claims = before.get_or_null("resources").count("claims") > 0;
    !claims
        && rest(now) == rest(before)
        && same_but_mutables(now.get_or_null("resources"), before.get_or_null("resources"))
}

fn same_but_mutables(now: &Value, before: &Value) -> bool {
    let others = |resources: &Value, kind: &str| -> Map<String, Value> {
        let all = resources.entries(kind).filter(|(name, _)| !MUTABLE.contains(name));
        all.map(|(name, amount)| (name.to_owned(), amount.clone())).collect()
    };
    ["requests", "limits"].iter().all(|kind| others(now, kind) == others(before, kind))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::POD;
    use super::*;
    use crate::{Part, Rules};

    fn pod() -> Value {
        let mut pod = json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {
            "resources": {"requests": {"cpu": "3"}, "limits": {"cpu": "4"}},
            "containers": [
                {"name": "a", "image": "i", "resources": {"requests": {"cpu": "1", "ephemeral-storage": "1Gi"}}},
                {"name": "b", "image": "i"}],
            "initContainers": [{"name": "i", "image": "i", "resizePolicy": [{"resourceName": "cpu", "restartPolicy": "RestartContainer"}],
                "resources": {"requests": {"cpu": "1"}}}]},
            "status": {"qosClass": "Burstable"}});
        POD.default(&mut pod);
        pod
    }

    #[test]
    fn only_processor_time_and_memory_change() {
        for (path, value, expected) in [
            ("/spec/containers/0/resources/requests/cpu", json!("2"), None),
            ("/spec/containers/0/image", json!("other"), None),
            (
                "/spec/containers/0/name",
                json!("z"),
                Some("spec.containers[0].name: Forbidden: containers may not be renamed"),
            ),
            (
                "/spec/containers/1",
                Value::Null,
                Some("spec.containers: Forbidden: containers may not be added or removed"),
            ),
            (
                "/spec/containers/0/resources/requests/ephemeral-storage",
                json!("2Gi"),
                Some("spec: Forbidden: only cpu and memory resources are mutable"),
            ),
            (
                "/spec/containers/0/resources/requests",
                json!({"ephemeral-storage": "1Gi"}),
                Some("spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed"),
            ),
            ("/spec/resources", Value::Null, Some("spec.resources: Forbidden: pod-level resources cannot be removed")),
            ("/spec/resources/limits/cpu", json!("5"), None),
            (
                "/spec/initContainers/0/resources/requests/cpu",
                json!("2"),
                Some("spec.initContainers[0]: Forbidden: non-sidecar init containers"),
            ),
        ] {
            let (old, mut new) = (pod(), pod());
            match path {
                "/spec/containers/1" => drop(new["spec"]["containers"].as_array_mut().unwrap().pop()),
                path => *new.pointer_mut(path).unwrap() = value,
            }
            POD.prepare_update(&mut new, &old, Part::Other("resize"));
            let found: Vec<_> =
                POD.validate_update(&new, &old, Part::Other("resize")).iter().map(ToString::to_string).collect();
            match expected {
                None => assert_eq!(found, [""; 0], "{path}"),
                Some(expected) => assert!(found.iter().any(|f| f.starts_with(expected)), "{path}: {found:?}"),
            }
        }
    }
}
