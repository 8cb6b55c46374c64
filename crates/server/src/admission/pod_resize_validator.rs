//! PodResizeValidator: a running pod is not made larger than its node.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::Value;
use skiff_api::resources;
use skiff_meta::status::Cause;
use skiff_meta::{GroupResource, GroupVersionResource, Status};

use super::{find, refuse, text};
use crate::chain::{Admission, AdmissionRequest, Extra, Operation};

/// The plug-in.
pub(super) struct PodResizeValidator;

#[async_trait]
impl Admission for PodResizeValidator {
    fn name(&self) -> &'static str {
        "PodResizeValidator"
    }

    fn handles(&self, operation: Operation, resource: &GroupVersionResource, subresource: &str) -> bool {
        let pods = resource.group.is_empty() && resource.resource == "pods";
        operation == Operation::Update && pods && subresource == "resize"
    }

    async fn validate(
        &self,
        request: &AdmissionRequest<'_>,
        object: Option<&Value>,
        _extra: &mut Extra,
    ) -> Result<(), Status> {
        let (Some(object), Some(old)) = (object, request.old) else { return Ok(()) };
        let name = text(&object["spec"], "nodeName");
        if name.is_empty() || object["metadata"]["generation"] == old["metadata"]["generation"] {
            return Ok(());
        }
        let node = find(request.view, &GroupResource::new("", "nodes"), "", name).await?;
        let node = node.ok_or_else(|| refuse(request, Some(object), &format!("node {name:?} not found")))?;
        let pod: Pod = serde_json::from_value(object.clone()).map_err(Status::internal)?;
        match verdict(&pod, &*node.typed::<Node>().map_err(Status::internal)?) {
            None => Ok(()),
            Some((reason, why)) => {
                let mut status = refuse(request, Some(object), &why);
                if let Some(details) = &mut status.details {
                    details.causes.push(Cause { reason: reason.to_owned(), ..Cause::default() });
                }
                Err(status)
            }
        }
    }
}

/// Why the pod may not be as large on this node: a reason, and words.
fn verdict(pod: &Pod, node: &Node) -> Option<(&'static str, String)> {
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let os = node.metadata.labels.as_ref().and_then(|labels| labels.get("kubernetes.io/os"));
    if let Some(os) = os.filter(|os| *os != "linux") {
        let why = format!("pod resize is only supported on linux nodes, node {name:?} is {os:?}");
        return Some(("UnsupportedPlatform", why));
    }
    let requests = pod.spec.as_ref().map(|spec| resources::requests(spec, None)).unwrap_or_default();
    let allocatable = node.status.as_ref().map(|status| resources::parse(&status.allocatable)).unwrap_or_default();
    let amount = |list: &resources::ResourceList, name: &str| {
        let amount = list.get(name).copied().unwrap_or_default();
        if name == "cpu" { amount.milli() } else { amount.value() }
    };
    let beyond = ["cpu", "memory"].into_iter().filter_map(|name| {
        let (requested, there) = (amount(&requests, name), amount(&allocatable, name));
        (requested > there).then(|| format!("{name}, requested: {requested}, allocatable: {there}"))
    });
    let beyond: Vec<String> = beyond.collect();
    let why = || format!("node didn't have enough allocatable resources: {}", beyond.join("; "));
    if beyond.is_empty() { None } else { Some(("NodeCapacity", why())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::Trial;
    use serde_json::json;

    #[test]
    fn no_pod_outgrows_its_node() {
        let trial = Trial::new(PodResizeValidator);
        let allocatable = json!({"cpu": "2", "memory": "1Gi"});
        trial.view.put("nodes", json!({"metadata": {"name": "n"}, "status": {"allocatable": allocatable}}));
        let labels = json!({"kubernetes.io/os": "windows"});
        trial.view.put("nodes", json!({"metadata": {"name": "w", "labels": labels}}));
        let pod = |node: &str, cpu: &str, generation: i64| {
            json!({"metadata": {"name": "p", "generation": generation}, "spec": {"nodeName": node, "containers": [
                {"name": "c", "resources": {"requests": {"cpu": cpu}}}]}})
        };
        let capacity = "node didn't have enough allocatable resources: cpu, requested: 3000, allocatable: 2000";
        let windows = "pod resize is only supported on linux nodes, node \"w\" is \"windows\"";
        for (node, cpu, generation, expected) in [
            ("n", "2", 2, None),
            ("n", "3", 1, None),
            ("", "3", 2, None),
            ("n", "3", 2, Some((capacity, "NodeCapacity"))),
            ("w", "1", 2, Some((windows, "UnsupportedPlatform"))),
            ("gone", "1", 2, Some(("node \"gone\" not found", ""))),
        ] {
            let update = trial.update("pods", pod(node, "1", 1)).subresource("resize").name("p");
            let refusal = update.validate(&pod(node, cpu, generation)).err().map(|status| {
                let causes = status.details.map(|details| details.causes).unwrap_or_default();
                (status.message, causes.into_iter().map(|cause| cause.reason).collect::<String>())
            });
            let expected = expected.map(|(why, reason)| (format!("pods \"p\" is forbidden: {why}"), reason.to_owned()));
            assert_eq!(refusal, expected, "{node} {cpu}");
        }
    }
}
