//! A pod's devices: its claims are allocated and reserved in the API, and given back where the pod is not bound after all.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodExtendedResourceClaimStatus};
use k8s_openapi::api::resource::v1::{
    DeviceClass, ResourceClaim, ResourceClaimConsumerReference, ResourceClaimStatus, ResourceSlice,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;
use skiff_api::claims::{FINALIZER, is_allocated, is_reserved_for};
use skiff_client::{Api, Client, ClientError, DeleteOptions, Event as Told, Kind, Patch};
use skiff_meta::WorldRef;

use super::Scheduler;
use super::bind::Done;
use super::prepare::Progress;
use super::sources::{Source, take};
use crate::cluster::{Objects, PodInfo};
use crate::devices::{self, Readiness};
use crate::events::{Change, Event};
use crate::framework::GiveUp;
use crate::plugins::dynamic_resources::{Plan, Reservation};

/// How often a claim that others write at the same time is tried.
const TRIES: usize = 5;

/// A claim that was written for a pod.
pub(super) struct Reserved {
    key: String,
    pub(super) claim: Arc<ResourceClaim>,
    /// It was made for extended resources.
    special: bool,
}

fn revision(claim: &ResourceClaim) -> u64 {
    claim.metadata.resource_version.as_deref().and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn known<'a>(objects: &'a Objects, claim: &ResourceClaim) -> Option<&'a Arc<ResourceClaim>> {
    let known = objects.resource_claims.get(&(claim.namespace().to_owned(), claim.name().to_owned()))?;
    (known.metadata.uid == claim.metadata.uid).then_some(known)
}

/// Whether drivers have to make its devices ready.
pub(super) fn is_awaited(claim: &ResourceClaim) -> bool {
    devices::readiness(claim) == Readiness::Waits
}

/// How far drivers are with a pod's devices.
pub(super) fn progress(claims: &[Arc<ResourceClaim>], objects: &Objects) -> Progress {
    for written in claims {
        // What was written may be newer than what was seen.
        let newest = known(objects, written).filter(|known| revision(known) > revision(written)).unwrap_or(written);
        match devices::readiness(newest) {
            Readiness::Ready => {}
            Readiness::Waits => return Progress::Waiting,
            Readiness::Failed(why) => return Progress::Failed(why),
        }
    }
    Progress::Ready
}

impl Scheduler {
    /// Takes in what happens to claims, classes and devices.
    pub(super) fn devices_event(&mut self, source: Source, event: Told) {
        macro_rules! each {
            ($field:ident, $event:ident, |$old:ident, $new:ident| $set:expr) => {
                for ($old, $new) in take(&mut self.cluster.objects.$field, event) {
                    $set;
                    self.wake(&Event::$event(Change { old: $old.as_deref(), new: $new.as_deref() }));
                }
            };
        }
        match source {
            Source::DeviceClasses => each!(device_classes, DeviceClass, |old, new| {
                if let Some(name) = new.as_ref().or(old.as_ref()).map(|class: &Arc<DeviceClass>| class.name()) {
                    self.cluster.objects.devices.set_class(name, new.clone());
                }
            }),
            Source::ResourceSlices => each!(resource_slices, ResourceSlice, |old, new| {
                if let Some(name) = new.as_ref().or(old.as_ref()).map(|slice: &Arc<ResourceSlice>| slice.name()) {
                    self.cluster.objects.devices.set_slice(name, new.clone());
                }
            }),
            _ => {
                each!(resource_claims, ResourceClaim, |old, new| {
                    self.cluster.objects.devices.set_claim(old.as_deref(), new.as_deref());
                });
                self.look_at_prepared();
            }
        }
    }

    /// A claim was written for a pod: its promise lasts until the claim is seen so.
    pub(super) fn was_reserved(&mut self, reserved: &Reserved) {
        let Reserved { key, claim, .. } = reserved;
        let seen = known(&self.cluster.objects, claim).map_or(0, |known| revision(known));
        self.cluster.objects.devices.written(key, claim.uid(), revision(claim), seen);
    }

    /// The pod was not bound: its claims are not reserved for it any more.
    pub(super) fn unreserve(&mut self, pod: &Arc<PodInfo>, reserved: Vec<Reserved>, error: &ClientError) {
        // Whose outcome nobody knows may be bound; and keeps, if it is not, its claims for the next attempt.
        if matches!(error, ClientError::Transport(_)) {
            return;
        }
        for Reserved { claim, special, .. } in reserved {
            let (client, pod) = (self.client.clone(), pod.clone());
            self.writes.push(Box::pin(async move {
                let result = match special {
                    true => delete(&client, &claim).await,
                    false => {
                        let users = json!([{"$patch": "delete", "uid": pod.uid}]);
                        let patch = json!({"metadata": {"uid": claim.uid()}, "status": {"reservedFor": users}});
                        let api = client.namespaced::<ResourceClaim>(claim.namespace());
                        api.patch_status(claim.name(), &Patch::Strategic(patch)).await.map(drop)
                    }
                };
                told(&claim, result)
            }));
        }
    }

    /// Gives back what keeps the pod from finding a node.
    pub(super) fn give_up(&mut self, pod: &Arc<PodInfo>, what: GiveUp) {
        let client = self.client.clone();
        match what {
            GiveUp::Nothing => {}
            GiveUp::Deallocate(claim) => {
                tracing::debug!(pod = pod.key, claim = claim.name(), "its devices are given back");
                self.writes.push(Box::pin(async move {
                    let mut free = (*claim).clone();
                    free.status = Some(ResourceClaimStatus::default());
                    let api = client.namespaced::<ResourceClaim>(claim.namespace());
                    told(&claim, api.update_status(&free).await.map(drop))
                }));
            }
            GiveUp::Delete(claim) => self.writes.push(Box::pin(async move {
                let result = delete(&client, &claim).await;
                told(&claim, result)
            })),
        }
    }
}

fn told(claim: &ResourceClaim, result: Result<(), ClientError>) -> Done {
    if let Err(error) = result
        && !error.is_not_found()
    {
        tracing::debug!(claim = devices::shown(claim), "it was not given back: {error}");
    }
    Done::Told
}

/// Deletes a claim that nobody waits for.
async fn delete(client: &Client, claim: &ResourceClaim) -> Result<(), ClientError> {
    let api = client.namespaced::<ResourceClaim>(claim.namespace());
    let mut claim = claim.clone();
    for _ in 0..TRIES {
        claim.metadata.finalizers.get_or_insert_default().retain(|finalizer| finalizer != FINALIZER);
        match api.update(&claim).await {
            Err(error) if error.is_conflict() => claim = api.get(claim.name()).await?,
            other => {
                other?;
                break;
            }
        }
    }
    api.delete(claim.name(), &DeleteOptions::uid(claim.uid())).await
}

/// Writes what a pod's claims get, and that they are its.
pub(super) async fn reserve(
    client: &Client,
    world: &WorldRef,
    pod: &PodInfo,
    plan: &Plan,
    reserved: &mut Vec<Reserved>,
) -> Result<(), ClientError> {
    let api = client.namespaced::<ResourceClaim>(pod.namespace());
    for Reservation { key, claim, allocation, mappings } in &plan.reservations {
        let special = claim.metadata.name.is_none();
        let mut claim = (**claim).clone();
        if special {
            claim = api.create(&claim).await?;
        }
        let mut tries = 0;
        let written = loop {
            tries += 1;
            match reserve_one(&api, world, pod, claim.clone(), allocation.as_deref()).await {
                Err(error) if error.is_conflict() && tries < TRIES => claim = api.get(claim.name()).await?,
                Err(error) => {
                    // Nobody else knows of it.
                    if special {
                        drop(delete(client, &claim).await);
                    }
                    return Err(error);
                }
                Ok(written) => break written,
            }
        };
        let name = written.name().to_owned();
        reserved.push(Reserved { key: key.clone(), claim: Arc::new(written), special });
        if special {
            let status =
                PodExtendedResourceClaimStatus { request_mappings: mappings.clone(), resource_claim_name: name };
            let patch = json!({"metadata": {"uid": pod.uid}, "status": {"extendedResourceClaimStatus": status}});
            client.namespaced::<Pod>(pod.namespace()).patch_status(pod.name(), &Patch::Strategic(patch)).await?;
        }
    }
    Ok(())
}

async fn reserve_one(
    api: &Api<ResourceClaim>,
    world: &WorldRef,
    pod: &PodInfo,
    mut claim: ResourceClaim,
    allocation: Option<&k8s_openapi::api::resource::v1::AllocationResult>,
) -> Result<ResourceClaim, ClientError> {
    let changed =
        |what: &str| ClientError::BadAnswer(format!("claim {} got {what} in the meantime", devices::shown(&claim)));
    if claim.metadata.deletion_timestamp.is_some() {
        return Err(changed("deleted"));
    }
    match allocation {
        Some(_) if is_allocated(&claim) => return Err(changed("allocated elsewhere")),
        None if !is_allocated(&claim) => return Err(changed("deallocated elsewhere")),
        _ => {}
    }
    if allocation.is_some() && !claim.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER) {
        claim.metadata.finalizers.get_or_insert_default().push(FINALIZER.to_owned());
        claim = api.update(&claim).await?;
    }
    let reserved = is_reserved_for(&claim, &pod.uid);
    let status = claim.status.get_or_insert_default();
    if let Some(allocation) = allocation {
        status.allocation = Some(allocation.clone());
    }
    if let Some(allocation) = &mut status.allocation {
        allocation.allocation_timestamp.get_or_insert_with(|| Time(world.now()));
    }
    if !reserved {
        status.reserved_for.get_or_insert_default().push(ResourceClaimConsumerReference {
            api_group: None,
            resource: "pods".to_owned(),
            name: pod.name().to_owned(),
            uid: pod.uid.clone(),
        });
    }
    api.update_status(&claim).await
}
