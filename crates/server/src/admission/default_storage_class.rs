//! DefaultStorageClass: a claim that names no class gets the newest one marked as default.

use async_trait::async_trait;
use serde_json::{Value, json};
use skiff_meta::{GroupResource, GroupVersionResource, Status};

use super::default_ingress_class::newest_marked;
use crate::chain::{Admission, AdmissionRequest, Operation};

const MARKS: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

/// The plug-in.
pub(super) struct DefaultStorageClass;

#[async_trait]
impl Admission for DefaultStorageClass {
    fn name(&self) -> &'static str {
        "DefaultStorageClass"
    }

    fn handles(&self, operation: Operation, resource: &GroupVersionResource, subresource: &str) -> bool {
        operation == Operation::Create
            && resource.group.is_empty()
            && resource.resource == "persistentvolumeclaims"
            && subresource.is_empty()
    }

    fn changes_objects(&self) -> bool {
        true
    }

    async fn mutate(&self, request: &AdmissionRequest<'_>, object: &mut Value) -> Result<(), Status> {
        let annotated = object["metadata"]["annotations"].get("volume.beta.kubernetes.io/storage-class").is_some();
        // An empty name is a wish too: no class at all.
        if annotated || !object["spec"]["storageClassName"].is_null() {
            return Ok(());
        }
        if let Some(name) = newest_marked(request.view, &GroupResource::new("storage.k8s.io", "storageclasses"), &MARKS)
        {
            object["spec"]["storageClassName"] = json!(name);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::Trial;

    #[test]
    fn only_claims_without_a_wish_get_the_default() {
        let trial = Trial::new(DefaultStorageClass);
        let metadata = json!({"name": "fast", "annotations": {MARKS[0]: "true"}});
        trial.view.put("storageclasses.storage.k8s.io", json!({"metadata": metadata}));
        for (spec, expected) in
            [(json!({}), "fast"), (json!({"storageClassName": ""}), ""), (json!({"storageClassName": "slow"}), "slow")]
        {
            let claim = trial.create("persistentvolumeclaims").mutate(json!({"spec": spec})).unwrap();
            assert_eq!(claim["spec"]["storageClassName"], expected);
        }
    }
}
