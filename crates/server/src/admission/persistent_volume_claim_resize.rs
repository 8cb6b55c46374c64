//! PersistentVolumeClaimResize: claims grow only where their class says that volumes can.

use async_trait::async_trait;
use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::Value;
use skiff_meta::{GroupResource, GroupVersionResource, Quantity, Status};

use super::{find, refuse, text};
use crate::chain::{Admission, AdmissionRequest, Extra, Operation};

/// The plug-in.
pub(super) struct PersistentVolumeClaimResize;

#[async_trait]
impl Admission for PersistentVolumeClaimResize {
    fn name(&self) -> &'static str {
        "PersistentVolumeClaimResize"
    }

    fn handles(&self, operation: Operation, resource: &GroupVersionResource, subresource: &str) -> bool {
        let claims = resource.group.is_empty() && resource.resource == "persistentvolumeclaims";
        operation == Operation::Update && claims && subresource.is_empty()
    }

    async fn validate(
        &self,
        request: &AdmissionRequest<'_>,
        object: Option<&Value>,
        _extra: &mut Extra,
    ) -> Result<(), Status> {
        let (Some(new), Some(old)) = (object, request.old) else { return Ok(()) };
        if size(new) <= size(old) {
            return Ok(());
        }
        if text(&old["status"], "phase") != "Bound" {
            return Err(refuse(request, object, "Only bound persistent volume claims can be expanded"));
        }
        let class = class(new);
        let can_grow = !class.is_empty() && class == self::class(old) && {
            let found = find(request.view, &GroupResource::new("storage.k8s.io", "storageclasses"), "", class).await?;
            let typed = found.as_ref().and_then(|found| found.typed::<StorageClass>().ok());
            typed.is_some_and(|class| class.allow_volume_expansion == Some(true))
        };
        if can_grow {
            return Ok(());
        }
        let why = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must \
                   support resize";
        Err(refuse(request, object, why))
    }
}

fn size(claim: &Value) -> Quantity {
    Quantity::from_json(&claim["spec"]["resources"]["requests"]["storage"]).unwrap_or_default()
}

fn class(claim: &Value) -> &str {
    let annotated = text(&claim["metadata"]["annotations"], "volume.beta.kubernetes.io/storage-class");
    if annotated.is_empty() { text(&claim["spec"], "storageClassName") } else { annotated }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::Trial;
    use serde_json::json;

    #[test]
    fn claims_grow_where_their_class_can() {
        let trial = Trial::new(PersistentVolumeClaimResize);
        let classes = "storageclasses.storage.k8s.io";
        trial
            .view
            .put(classes, json!({"metadata": {"name": "grows"}, "provisioner": "p", "allowVolumeExpansion": true}));
        trial.view.put(classes, json!({"metadata": {"name": "stays"}, "provisioner": "p"}));
        let claim = |size: &str, class: &str, phase: &str| {
            json!({"metadata": {"name": "c"}, "status": {"phase": phase},
                "spec": {"storageClassName": class, "resources": {"requests": {"storage": size}}}})
        };
        let cases = [
            ("1Gi", "2Gi", "grows", "Bound", ""),
            ("2Gi", "1Gi", "stays", "Bound", ""),
            ("1Gi", "2Gi", "grows", "Pending", "Only bound persistent volume claims can be expanded"),
            ("1Gi", "2Gi", "stays", "Bound", "only dynamically provisioned pvc can be resized"),
            ("1Gi", "2Gi", "", "Bound", "only dynamically provisioned pvc can be resized"),
        ];
        for (old, new, class, phase, why) in cases {
            let update = trial.update("persistentvolumeclaims", claim(old, class, phase));
            let outcome = update.validate(&claim(new, class, phase)).err().map(|status| status.message);
            assert_eq!(outcome.is_none(), why.is_empty(), "{class} {phase}");
            assert!(outcome.unwrap_or_default().contains(why), "{class} {phase}");
        }
    }
}
