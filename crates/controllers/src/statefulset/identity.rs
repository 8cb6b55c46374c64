//! Who a pod of a StatefulSet is: its ordinal, and with it its name, host name and volumes. Pure.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume,
};
use skiff_client::Kind;

use crate::shared::history::REVISION_LABEL;
use crate::shared::pod_from_template;

const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

/// The first ordinal.
pub(crate) fn start(set: &StatefulSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.ordinals.as_ref()?.start).unwrap_or(0)
}

/// The ordinal in the name of a pod of this set.
pub(crate) fn ordinal(set: &StatefulSet, pod: &Pod) -> Option<i32> {
    let (parent, number) = pod.name().rsplit_once('-')?;
    number.parse().ok().filter(|_| parent == set.name())
}

/// The name of the pod with this ordinal.
pub(crate) fn pod_name(set: &StatefulSet, ordinal: i32) -> String {
    format!("{}-{ordinal}", set.name())
}

/// The pod with this ordinal, from the template of `revision`.
pub(crate) fn pod(set: &StatefulSet, template: &PodTemplateSpec, revision: &str, ordinal: i32) -> Pod {
    let mut pod = pod_from_template(template, set);
    let name = pod_name(set, ordinal);
    pod.metadata.generate_name = None;
    pod.metadata.name = Some(name.clone());
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(POD_NAME.to_owned(), name.clone());
    labels.insert(POD_INDEX.to_owned(), ordinal.to_string());
    labels.insert(REVISION_LABEL.to_owned(), revision.to_owned());
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(name);
    spec.subdomain = set.spec.as_ref().and_then(|spec| spec.service_name.clone()).filter(|name| !name.is_empty());
    let claims = claims(set, ordinal);
    let kept = spec.volumes.take().unwrap_or_default();
    let kept = kept.into_iter().filter(|volume| !claims.iter().any(|(name, _)| *name == volume.name));
    let volumes = claims.iter().map(|(name, claim)| Volume {
        name: name.clone(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: claim.name().to_owned(),
            read_only: None,
        }),
        ..Volume::default()
    });
    let volumes: Vec<Volume> = volumes.chain(kept).collect();
    spec.volumes = (!volumes.is_empty()).then_some(volumes);
    pod
}

/// The volume claims of the pod with this ordinal, by the name of their volume.
pub(crate) fn claims(set: &StatefulSet, ordinal: i32) -> Vec<(String, PersistentVolumeClaim)> {
    let spec = set.spec.as_ref();
    let templates = spec.and_then(|spec| spec.volume_claim_templates.as_deref()).unwrap_or_default();
    let selected = spec.and_then(|spec| spec.selector.match_labels.clone()).unwrap_or_default();
    let claim = |template: &PersistentVolumeClaim| {
        let mut claim = template.clone();
        let volume = template.name().to_owned();
        claim.metadata.name = Some(format!("{volume}-{}", pod_name(set, ordinal)));
        claim.metadata.namespace = set.metadata.namespace.clone();
        claim.metadata.labels.get_or_insert_default().extend(selected.clone());
        claim.status = None;
        (volume, claim)
    };
    templates.iter().map(claim).collect()
}

/// The revision a pod has.
pub(crate) fn revision_of(pod: &Pod) -> &str {
    let labels = pod.metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(REVISION_LABEL)).map(String::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pods_know_who_they_are() {
        let set: StatefulSet = serde_json::from_value(json!({
            "metadata": {"name": "db", "namespace": "ns", "uid": "u"},
            "spec": {"serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
                "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [],
                    "volumes": [{"name": "data", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}]}},
                "volumeClaimTemplates": [{"metadata": {"name": "data"}}]},
        }))
        .unwrap();
        let template = &set.spec.as_ref().unwrap().template;
        let pod = pod(&set, template, "db-x", 2);
        let value = serde_json::to_value(&pod).unwrap();
        assert_eq!(value["metadata"]["name"], "db-2");
        assert_eq!(
            value["metadata"]["labels"],
            json!({"app": "db", POD_NAME: "db-2", POD_INDEX: "2", REVISION_LABEL: "db-x"})
        );
        assert_eq!((&value["spec"]["hostname"], &value["spec"]["subdomain"]), (&json!("db-2"), &json!("db")));
        assert_eq!(
            value["spec"]["volumes"],
            json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data-db-2"}}, {"name": "tmp", "emptyDir": {}}])
        );
        assert_eq!(ordinal(&set, &pod), Some(2));
        let (_, claim) = &claims(&set, 2)[0];
        assert_eq!((claim.name(), &*claim.metadata.labels.as_ref().unwrap()["app"]), ("data-db-2", "db"));
    }
}
