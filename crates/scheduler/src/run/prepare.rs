//! What has to be there before a pod is bound: its volumes bound, its claims of devices reserved for it, these devices
//! ready. It is written in one go, and then waited for.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::api::resource::v1::ResourceClaim;
use skiff_client::{ClientError, involved};
use skiff_meta::world::WorldExt;

use super::Scheduler;
use super::bind::{Done, WRITE_TIMEOUT, late};
use super::devices::{self, Reserved};
use super::volumes;
use crate::cluster::PodInfo;
use crate::plugins::{dynamic_resources, volume_binding};

/// A pod of which everything is written, and something has yet to happen.
pub(super) struct Prepared {
    pub(super) pod: Arc<PodInfo>,
    pub(super) node: String,
    pub(super) claims: Vec<Arc<PersistentVolumeClaim>>,
    /// As they were written.
    pub(super) devices: Vec<Arc<ResourceClaim>>,
    pub(super) until: Duration,
}

/// How far that is.
pub(super) enum Progress {
    Waiting,
    Ready,
    Failed(String),
}

impl Scheduler {
    pub(super) fn prepare(
        &mut self,
        pod: Arc<PodInfo>,
        node: String,
        volumes: volume_binding::Plan,
        devices: dynamic_resources::Plan,
    ) {
        let (client, world) = (self.client.clone(), self.world.clone());
        self.writes.push(Box::pin(async move {
            let mut reserved = Vec::new();
            let write = async {
                volumes::write(&client, &volumes, &node).await?;
                devices::reserve(&client, &world, &pod, &devices, &mut reserved).await
            };
            let written = world.timeout(WRITE_TIMEOUT, write).await.unwrap_or_else(late);
            Done::Prepared(pod, node, reserved, written)
        }));
    }

    pub(super) fn was_prepared(
        &mut self,
        pod: Arc<PodInfo>,
        node: String,
        reserved: Vec<Reserved>,
        outcome: Result<(), ClientError>,
    ) {
        reserved.iter().for_each(|reserved| self.was_reserved(reserved));
        if let Err(error) = outcome {
            self.not_bound(&pod, &error);
            return self.unreserve(&pod, reserved, &error);
        }
        let Some(assumed) = self.assumed.get(&pod.uid) else { return };
        let claims = assumed.volumes.claims().cloned().collect();
        let written = reserved.into_iter().map(|reserved| reserved.claim);
        let devices: Vec<_> = assumed.devices.reserved.iter().cloned().chain(written).collect();
        if devices.iter().any(|claim| devices::is_awaited(claim)) {
            let note = format!("waiting for binding conditions for device on node {node}");
            self.recorder(&pod).normal(&involved(&*pod.pod), "BindingConditionsPending", note);
        }
        let timeout = if devices.is_empty() { self.volume_timeout } else { dynamic_resources::BINDING_TIMEOUT };
        let until = self.world.elapsed() + timeout;
        self.prepared.push(Prepared { pod, node, claims, devices, until });
        self.look_at_prepared();
    }

    /// Binds pods that have everything.
    pub(super) fn look_at_prepared(&mut self) {
        for prepared in std::mem::take(&mut self.prepared) {
            let Prepared { pod, node, claims, devices, .. } = &prepared;
            let volumes = volumes::progress(claims, node, &self.cluster.objects);
            let progress = match volumes {
                Progress::Ready => devices::progress(devices, &self.cluster.objects),
                other => other,
            };
            match progress {
                Progress::Waiting => self.prepared.push(prepared),
                Progress::Ready if self.assumed.contains_key(&pod.uid) => self.bind(pod.clone(), node.clone()),
                Progress::Ready => {}
                Progress::Failed(why) => self.not_bound(pod, &ClientError::BadAnswer(why)),
            }
        }
    }
}
