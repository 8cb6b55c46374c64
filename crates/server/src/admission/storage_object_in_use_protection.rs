//! StorageObjectInUseProtection: volumes, claims and classes of attributes are held from their first moment on, so that
//! none goes while something uses it. The protection controllers let go.

use async_trait::async_trait;
use serde_json::{Value, json};
use skiff_meta::{GroupVersionResource, Status};

use super::{items, list_mut};
use crate::chain::{Admission, AdmissionRequest, Operation};

/// The plug-in.
pub(super) struct StorageObjectInUseProtection;

fn finalizer(resource: &GroupVersionResource) -> Option<&'static str> {
    match (resource.group.as_str(), resource.resource.as_str()) {
        ("", "persistentvolumes") => Some("kubernetes.io/pv-protection"),
        ("", "persistentvolumeclaims") => Some("kubernetes.io/pvc-protection"),
        ("storage.k8s.io", "volumeattributesclasses") => Some("kubernetes.io/vac-protection"),
        _ => None,
    }
}

#[async_trait]
impl Admission for StorageObjectInUseProtection {
    fn name(&self) -> &'static str {
        "StorageObjectInUseProtection"
    }

    fn handles(&self, operation: Operation, resource: &GroupVersionResource, subresource: &str) -> bool {
        operation == Operation::Create && subresource.is_empty() && finalizer(resource).is_some()
    }

    async fn mutate(&self, request: &AdmissionRequest<'_>, object: &mut Value) -> Result<(), Status> {
        let Some(finalizer) = finalizer(request.resource) else { return Ok(()) };
        if !items(&object["metadata"]["finalizers"]).iter().any(|known| known == finalizer)
            && let Some(finalizers) = list_mut(&mut object["metadata"], "finalizers")
        {
            finalizers.push(json!(finalizer));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::Trial;

    #[test]
    fn storage_is_held_once() {
        let trial = Trial::new(StorageObjectInUseProtection);
        for (resource, given, expected) in [
            ("persistentvolumeclaims", json!([]), json!(["kubernetes.io/pvc-protection"])),
            ("persistentvolumes", json!(["a/b"]), json!(["a/b", "kubernetes.io/pv-protection"])),
            ("persistentvolumes", json!(["kubernetes.io/pv-protection"]), json!(["kubernetes.io/pv-protection"])),
            ("volumeattributesclasses.storage.k8s.io", Value::Null, json!(["kubernetes.io/vac-protection"])),
        ] {
            let object = trial.create(resource).mutate(json!({"metadata": {"finalizers": given}})).unwrap();
            assert_eq!(object["metadata"]["finalizers"], expected, "{resource}");
        }
    }
}
