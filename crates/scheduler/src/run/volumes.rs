//! A pod's volumes: promised ones and wanted ones are written, and then waited for.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use serde_json::json;
use skiff_client::{Client, ClientError, Kind, Patch};

use super::prepare::Progress;
use crate::cluster::Objects;
use crate::plugins::volume_binding::Plan;
use crate::plugins::volumes::{SELECTED_NODE, is_bound, selected_node};

/// How far the claims of a pod on this node are.
pub(super) fn progress(claims: &[Arc<PersistentVolumeClaim>], node: &str, objects: &Objects) -> Progress {
    for claim in claims {
        let name = claim.name();
        let Some(now) = objects.claim(claim.namespace(), name) else {
            return Progress::Failed(format!("claim {name} is gone"));
        };
        if is_bound(now) {
            continue;
        }
        // A provisioner that cannot do it takes the annotation away again.
        if selected_node(now).is_some_and(|wanted| wanted != node) {
            return Progress::Failed(format!("provisioning failed for PVC \"{name}\""));
        }
        return Progress::Waiting;
    }
    Progress::Ready
}

pub(super) async fn write(client: &Client, plan: &Plan, node: &str) -> Result<(), ClientError> {
    for (volume, claim) in &plan.promises {
        let reference = json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "name": claim.name(),
            "namespace": claim.namespace(), "uid": claim.uid(), "resourceVersion": claim.metadata.resource_version,
        });
        let patch = json!({
            "metadata": {"annotations": {"pv.kubernetes.io/bound-by-controller": "yes"}},
            "spec": {"claimRef": reference},
        });
        client.all::<PersistentVolume>().patch(volume, &Patch::Merge(patch)).await?;
    }
    for claim in &plan.provisions {
        let patch = json!({"metadata": {"annotations": {SELECTED_NODE: node}}});
        client.namespaced::<PersistentVolumeClaim>(claim.namespace()).patch(claim.name(), &Patch::Merge(patch)).await?;
    }
    Ok(())
}
