//! The claims of a pod's ephemeral volumes. Pure.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use skiff_client::Kind;

use crate::shared::controller_ref;

/// The claims that the pod brings templates of, as they are to be.
pub(super) fn claims(pod: &Pod) -> impl Iterator<Item = PersistentVolumeClaim> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume| {
        let template = volume.ephemeral.as_ref()?.volume_claim_template.as_ref()?;
        let given = template.metadata.clone().unwrap_or_default();
        Some(PersistentVolumeClaim {
            metadata: ObjectMeta {
                name: Some(format!("{}-{}", pod.name(), volume.name)),
                namespace: pod.metadata.namespace.clone(),
                labels: given.labels,
                annotations: given.annotations,
                owner_references: Some(vec![controller_ref(pod)]),
                ..ObjectMeta::default()
            },
            spec: Some(template.spec.clone()),
            status: None,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_claim_for_each_template() {
        let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"storageClassName": "fast"}});
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"},
            "spec": {"containers": [], "volumes": [
                {"name": "scratch", "ephemeral": {"volumeClaimTemplate": template}}, {"name": "tmp", "emptyDir": {}}]}}))
        .unwrap();
        let made: Vec<_> = claims(&pod).collect();
        assert_eq!(made.len(), 1);
        let value = serde_json::to_value(&made[0]).unwrap();
        assert_eq!((&value["metadata"]["name"], &value["metadata"]["labels"]["a"]), (&json!("p-scratch"), &json!("b")));
        assert_eq!(value["metadata"]["ownerReferences"][0]["uid"], "u");
        assert_eq!(value["spec"]["storageClassName"], "fast");
    }
}
