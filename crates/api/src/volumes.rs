//! What pods claim, and the names under which the control plane and a node speak of attached volumes.

use k8s_openapi::api::core::v1::{Pod, Volume};
use k8s_openapi::api::storage::v1::CSIDriver;
use sha2::{Digest, Sha256};

/// On a Node: volumes are attached to it by the control plane.
pub const CONTROLLED: &str = "volumes.kubernetes.io/controller-managed-attach-detach";

/// The name of the claim that a volume of the pod names, or that is made for it.
pub fn claim(pod: &Pod, volume: &Volume) -> Option<String> {
    if let Some(named) = &volume.persistent_volume_claim {
        return Some(named.claim_name.clone());
    }
    volume.ephemeral.as_ref()?;
    Some(format!("{}-{}", pod.metadata.name.as_deref().unwrap_or_default(), volume.name))
}

/// Hexadecimal digits of the SHA-256 of texts in a row.
pub fn digest(parts: &[&str]) -> String {
    let digest = parts.iter().fold(Sha256::new(), |sum, part| sum.chain_update(part)).finalize();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The name of the VolumeAttachment of a driver's volume to a node.
pub fn attachment(handle: &str, driver: &str, node: &str) -> String {
    format!("csi-{}", digest(&[handle, driver, node]))
}

/// The name of a driver's volume in a Node's status.
pub fn unique_name(driver: &str, handle: &str) -> String {
    format!("kubernetes.io/csi/{driver}^{handle}")
}

/// Whether a driver's volumes have to be attached before a node can use them; yes, where nothing is said.
pub fn must_attach(driver: Option<&CSIDriver>) -> bool {
    driver.is_none_or(|driver| driver.spec.attach_required != Some(false))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn claims_by_name_and_by_pod() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}})).unwrap();
        let of = |volume: Value| claim(&pod, &serde_json::from_value(volume).unwrap());
        assert_eq!(of(json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}})).as_deref(), Some("c"));
        assert_eq!(of(json!({"name": "v", "ephemeral": {}})).as_deref(), Some("p-v"));
        assert_eq!(of(json!({"name": "v", "emptyDir": {}})), None);
    }

    #[test]
    fn names_are_upstreams() {
        let expected = "csi-fdef298eb16db6fa42906ef1ff09a93a7f3028f8290cc9d71628ff91c237bfa7";
        assert_eq!(attachment("handle", "driver", "node"), expected);
        assert_eq!(unique_name("d", "h"), "kubernetes.io/csi/d^h");
    }
}
