//! A pod's volumes are bound before the pod is: promised volumes and wanted ones are written, and then waited for.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use serde_json::json;
use skiff_client::{Client, ClientError, Kind, Patch};
use skiff_meta::world::WorldExt;

use super::Scheduler;
use super::bind::{Done, late};
use crate::cluster::PodInfo;
use crate::plugins::volume_binding::Plan;
use crate::plugins::volumes::{SELECTED_NODE, is_bound, selected_node};

/// A pod whose claims are being bound.
pub(super) struct Binding {
    pub(super) pod: Arc<PodInfo>,
    pub(super) node: String,
    pub(super) claims: Vec<Arc<PersistentVolumeClaim>>,
    pub(super) until: Duration,
}

/// How far a pod's claims are.
enum Progress {
    Waiting,
    Bound,
    Failed(String),
}

impl Scheduler {
    pub(super) fn write_volumes(&mut self, pod: Arc<PodInfo>, node: String, plan: Plan) {
        let (client, world) = (self.client.clone(), self.world.clone());
        self.writes.push(Box::pin(async move {
            let written = world.timeout(Duration::from_secs(30), write(&client, &plan, &node)).await;
            Done::Volumes(pod, node, written.unwrap_or_else(late))
        }));
    }

    /// Binds pods whose claims are all bound.
    pub(super) fn volumes_changed(&mut self) {
        for binding in std::mem::take(&mut self.binding_volumes) {
            match self.progress(&binding) {
                Progress::Waiting => self.binding_volumes.push(binding),
                Progress::Bound if self.assumed.contains_key(&binding.pod.uid) => self.bind(binding.pod, binding.node),
                Progress::Bound => {}
                Progress::Failed(why) => self.not_bound(&binding.pod, &ClientError::BadAnswer(why)),
            }
        }
    }

    fn progress(&self, binding: &Binding) -> Progress {
        for claim in &binding.claims {
            let name = claim.name();
            let Some(now) = self.cluster.objects.claim(claim.namespace(), name) else {
                return Progress::Failed(format!("claim {name} is gone"));
            };
            if is_bound(now) {
                continue;
            }
            let wanted = selected_node(now);
            // A provisioner that cannot do it takes the annotation away again.
            if wanted.is_some_and(|node| node != binding.node) {
                return Progress::Failed(format!("provisioning failed for PVC \"{name}\""));
            }
            return Progress::Waiting;
        }
        Progress::Bound
    }
}

async fn write(client: &Client, plan: &Plan, node: &str) -> Result<(), ClientError> {
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
