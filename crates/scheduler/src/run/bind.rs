//! A pod gets its node: assumed at once, written in the background, kept until it is seen there.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use skiff_client::{ClientError, involved};
use skiff_meta::Status;
use skiff_meta::world::WorldExt;

use super::Scheduler;
use super::devices::Reserved;
use super::prepare::Prepared;
use crate::cluster::{NodeIx, PodInfo};
use crate::events::{Change, Event};
use crate::extender::{Extender, ExtenderError};
use crate::plugins::{dynamic_resources, volume_binding};

/// How long a write may take before its outcome is taken for unknown, and the pod tried again.
pub(super) const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long after its binding a pod has to be seen on its node.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(30);

/// A pod that was given a node here and has not been seen there.
pub(super) struct Assumed {
    pub(super) pod: Arc<PodInfo>,
    pub(super) volumes: volume_binding::Plan,
    pub(super) devices: dynamic_resources::Plan,
    /// It was bound then.
    bound: Option<Duration>,
}

/// An extender that did not answer may have bound the pod.
fn not_by_extender(error: ExtenderError) -> ClientError {
    match error {
        ExtenderError::Unreached(_, error) => error,
        ExtenderError::Late(..) => ClientError::Transport(error.to_string()),
        _ => ClientError::Api(Status::internal(error)),
    }
}

/// A write's outcome.
pub(super) enum Done {
    /// A binding.
    Bound(Arc<PodInfo>, String, Result<(), ClientError>),
    /// What had to be written before a pod is bound; of its claims of devices those that were, each with its promise's key.
    Prepared(Arc<PodInfo>, String, Vec<Reserved>, Result<(), ClientError>),
    /// The pods that were to go for this one.
    Preempted(Arc<PodInfo>, Result<(), ClientError>),
    /// A status; nothing follows.
    Told,
}

impl Scheduler {
    /// Counts the pod as on the node, and has it bound.
    pub(super) fn assume(&mut self, pod: Arc<PodInfo>, ix: NodeIx) {
        let node = self.cluster.at(ix).name.clone();
        let (objects, at) = (&self.cluster.objects, self.cluster.at(ix));
        let volumes = volume_binding::plan(&pod, objects, at);
        let reserves = self.profile_of(&pod).is_some_and(|place| self.profiles[place].filters_with("DynamicResources"));
        let devices = match reserves {
            true => dynamic_resources::plan(&pod, objects, at, || self.world.uuid()),
            false => Ok(dynamic_resources::Plan::default()),
        };
        let (volumes, devices) = match (volumes, devices) {
            (Ok(volumes), Ok(devices)) => (volumes, devices),
            (Err(why), _) | (_, Err(why)) => return self.fail(&pod, &why),
        };
        self.cluster.objects.assumed.promise(&volumes, &node);
        for reservation in &devices.reservations {
            if let Some(allocation) = &reservation.allocation {
                self.cluster.objects.devices.promise(&reservation.key, allocation.clone());
            }
        }
        self.cluster.set_pod(pod.clone(), &node);
        if let Some(room) = self.nominated.node_of(&pod.uid).map(str::to_owned) {
            self.nominated.remove(&pod.uid);
            if room != node {
                self.wake(&Event::Pod(Change { old: Some(&pod), new: None }, &room));
            }
        }
        let nothing = volumes.is_empty() && devices.is_empty();
        let assumed = Assumed { pod: pod.clone(), volumes: volumes.clone(), devices: devices.clone(), bound: None };
        self.assumed.insert(pod.uid.clone(), assumed);
        match nothing {
            true => self.bind(pod, node),
            false => self.prepare(pod, node, volumes, devices),
        }
    }

    pub(super) fn bind(&mut self, pod: Arc<PodInfo>, node: String) {
        let (client, world) = (self.client.clone(), self.world.clone());
        let binds = |extender: &Extender| !extender.settings.bind.is_empty() && extender.is_interested(&pod);
        let extender = self.extenders.iter().find(|extender| binds(extender)).cloned();
        self.writes.push(Box::pin(async move {
            if let Some(extender) = extender {
                match extender.bind(&pod, &node).await {
                    Err(error) if extender.settings.is_ignorable => {
                        tracing::debug!(pod = pod.key, "an extender does not bind it: {error}");
                    }
                    bound => return Done::Bound(pod, node, bound.map_err(not_by_extender)),
                }
            }
            let api = client.namespaced::<Pod>(pod.namespace());
            let result = world.timeout(WRITE_TIMEOUT, api.bind(pod.name(), &pod.uid, &node)).await;
            Done::Bound(pod, node, result.unwrap_or_else(late))
        }));
    }

    pub(super) fn done(&mut self, done: Done) {
        match done {
            Done::Bound(pod, node, Ok(())) => {
                if let Some(assumed) = self.assumed.get_mut(&pod.uid) {
                    assumed.bound = Some(self.world.elapsed());
                }
                let message = format!("Successfully assigned {} to {node}", pod.key);
                self.recorder(&pod).normal(&involved(&*pod.pod), "Scheduled", message);
            }
            Done::Prepared(pod, node, reserved, outcome) => self.was_prepared(pod, node, reserved, outcome),
            Done::Bound(pod, _, Err(error)) => self.not_bound(&pod, &error),
            Done::Preempted(pod, Err(error)) => {
                tracing::debug!(pod = pod.key, "preemption failed: {error}");
                self.room_for.retain(|_, waits| *waits != pod.uid);
                self.making_room.remove(&pod.uid);
                self.queue.activate(&pod.uid);
            }
            Done::Preempted(_, Ok(())) | Done::Told => {}
        }
    }

    /// The pod was not bound, or nobody knows: it gives its place back. Whether it was seen on a node meanwhile, or is
    /// gone, the watch has told or will tell.
    pub(super) fn not_bound(&mut self, pod: &Arc<PodInfo>, error: &ClientError) {
        tracing::debug!(pod = pod.key, "binding failed: {error}");
        if !self.give_back(&pod.uid) {
            return;
        }
        match error {
            _ if error.is_not_found() => self.queue.forget(&pod.uid),
            // It may be bound, here or elsewhere: nothing is said of it that could be wrong.
            ClientError::Transport(_) => self.queue.failed(&pod.uid, self.world.elapsed()),
            _ if error.is_conflict() => self.queue.failed(&pod.uid, self.world.elapsed()),
            _ => self.fail(pod, &error.to_string()),
        }
    }

    /// A pod needs no promise any more: it is where it was to be, or gone. Whether there was one.
    pub(super) fn confirmed(&mut self, uid: &str) -> bool {
        let assumed = self.assumed.remove(uid);
        if let Some(assumed) = &assumed {
            self.cluster.objects.assumed.withdraw(&assumed.volumes);
            let keys = assumed.devices.reservations.iter().map(|reservation| &reservation.key);
            keys.for_each(|key| self.cluster.objects.devices.withdraw(key));
        }
        assumed.is_some()
    }

    /// Takes the promise of a node back, as if the pod had gone from it. Whether there was one.
    pub(super) fn give_back(&mut self, uid: &str) -> bool {
        if !self.confirmed(uid) {
            return false;
        }
        let node = self.cluster.place(uid).unwrap_or_default().to_owned();
        if let Some(pod) = self.cluster.remove_pod(uid) {
            self.wake(&Event::Pod(Change { old: Some(&pod), new: None }, &node));
        }
        true
    }

    /// When the next promise expires.
    pub(super) fn next_expiry(&self) -> Option<Duration> {
        let bound = self.assumed.values().filter_map(|assumed| Some(assumed.bound? + CONFIRM_TIMEOUT)).min();
        let prepared = self.prepared.iter().map(|prepared| prepared.until).min();
        bound.into_iter().chain(prepared).min()
    }

    /// Pods that were bound and never seen on their node, or whose volumes were not bound in time, are tried again: if
    /// they are there after all, a second binding is refused.
    pub(super) fn expire(&mut self, now: Duration) {
        if self.next_expiry().is_none_or(|at| at > now) {
            return;
        }
        let late = |assumed: &&Assumed| assumed.bound.is_some_and(|bound| bound + CONFIRM_TIMEOUT <= now);
        let expired: Vec<Arc<PodInfo>> =
            self.assumed.values().filter(late).map(|assumed| assumed.pod.clone()).collect();
        for pod in expired {
            tracing::warn!(pod = pod.key, "bound, but not seen on its node");
            self.give_back(&pod.uid);
            self.queue.failed(&pod.uid, now);
        }
        let late: Vec<Prepared> = self.prepared.extract_if(.., |prepared| prepared.until <= now).collect();
        for Prepared { pod, devices, .. } in late {
            if self.give_back(&pod.uid) {
                let what = if devices.is_empty() { "binding volumes" } else { "device binding timeout" };
                self.fail(&pod, &format!("{what}: context deadline exceeded"));
            }
        }
    }

    pub(super) fn recorder(&self, pod: &PodInfo) -> &skiff_client::Recorder {
        &self.recorders[self.profile_of(pod).unwrap_or(0)]
    }
}

/// What is not answered in time.
pub(super) fn late<T>() -> Result<T, ClientError> {
    Err(ClientError::Transport("no answer in time".to_owned()))
}
