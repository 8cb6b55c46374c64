//! Resources of a running pod change: they are granted when there is room, then given to its containers.
//!
//! Conditions and events are upstream's (`pkg/kubelet/allocation`, `doPodResizeAction`): `PodResizePending` while there is
//! no room, `PodResizeInProgress` from the grant until every container has what it was granted.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use serde::Serialize;
use skiff_client::involved;

use super::facts;
use super::granted::Granted;
use super::plan::resize_is_under_way;
use super::state::RuntimeState;
use super::status::Note;
use super::worker::Worker;
use crate::make::resources;
use crate::os::Limits;

/// What is paused when resources could not be changed.
const RESIZE: &str = "resize:";

/// A pod's resources in an event, in upstream's words and order.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Told<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    init_containers: Vec<Named<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    containers: Vec<Named<'a>>,
    generation: i64,
    #[serde(skip_serializing_if = "str::is_empty")]
    error: &'a str,
}

#[derive(Serialize)]
struct Named<'a> {
    name: &'a str,
    resources: ResourceRequirements,
}

fn told(pod: &Pod, generation: i64, error: &str) -> String {
    fn named(containers: &[Container]) -> Vec<Named<'_>> {
        let named = |c: &'_ Container| c.resources.clone().unwrap_or_default();
        containers.iter().map(|c| Named { name: &c.name, resources: named(c) }).collect()
    }
    let (init_containers, containers) = (named(facts::init_containers(pod)), named(facts::main_containers(pod)));
    serde_json::to_string(&Told { init_containers, containers, generation, error }).unwrap_or_default()
}

fn generation(pod: &Pod) -> i64 {
    pod.metadata.generation.unwrap_or_default()
}

impl Worker {
    /// The pod as it is to run: with what it was granted, which may become what it asks for.
    pub(super) fn settle(&mut self, asked: &Arc<Pod>) -> Arc<Pod> {
        let (pod, refusal) = self.node.settle(asked);
        let granted = Granted::of(&pod);
        if !granted.is_same(&self.record.granted) {
            self.record.granted = granted;
            self.save_record();
            self.node.weigh();
            self.worked(RESIZE);
            let generation = generation(&pod);
            self.resizes.under_way = Some(Note { generation, message: String::new() });
            let message = format!("Pod resize started: {}", told(&pod, generation, ""));
            self.node.recorder.normal(&involved(&*pod), "ResizeStarted", message);
        }
        let generation = generation(asked);
        let known = self.resizes.deferred.as_ref().is_some_and(|note| note.generation == generation);
        if let Some(why) = refusal.as_ref().filter(|_| !known) {
            let message = format!("Pod resize Deferred: {}", told(asked, generation, why));
            self.node.warn(asked, "ResizeDeferred", message);
        }
        self.resizes.deferred = refusal.map(|message| Note { generation, message });
        pod
    }

    /// What the pod was granted is on record before anything is done about it.
    pub(super) fn save_record(&self) {
        let directory = self.node.pod_directory(&self.uid);
        if let Err(error) = self.record.save(&*self.node.config.os.files, &directory) {
            tracing::warn!(uid = self.uid, "what the pod was granted is not on record: {error}");
        }
    }

    /// Gives containers and the pod's group what the pod was granted. Whether that went well.
    pub(super) async fn resize(&mut self, pod: &Arc<Pod>, state: &RuntimeState, ids: &[String]) -> bool {
        if self.is_paused(RESIZE) {
            return false;
        }
        let Err(why) = self.try_resize(pod, state, ids).await else {
            self.worked(RESIZE);
            return true;
        };
        self.failed(RESIZE);
        let note = self.resizes.under_way.get_or_insert(Note { generation: generation(pod), message: String::new() });
        if note.message != why {
            let message = format!("Pod resize error: {}", told(pod, note.generation, &why));
            note.message = why;
            self.node.warn(pod, "ResizeError", message);
        }
        false
    }

    /// No container may have more than its pod has, so the pod's limits are widened before, and narrowed after.
    async fn try_resize(&mut self, pod: &Arc<Pod>, state: &RuntimeState, ids: &[String]) -> Result<(), String> {
        let after = resources::pod(pod);
        let before = self.limits.unwrap_or(after);
        self.check_memory(pod, state, ids, before, after)?;
        let (cgroups, group) = (self.node.config.os.cgroups.clone(), resources::pod_cgroup(pod));
        let set = |limits| cgroups.set(&group, limits).map_err(|error| error.to_string());
        set(before.widest(after))?;
        self.limits = Some(before.widest(after));
        for id in ids {
            let Some(record) = state.containers.iter().find(|record| record.id == *id) else { continue };
            let Some((_, container)) = facts::container(pod, &record.name) else { continue };
            let wanted = resources::container(pod, &container, self.node.facts.memory);
            let changed = self.node.runtime.update_container_resources(id, wanted).await;
            changed.map_err(|error| error.to_string())?;
            self.record.changed.insert(id.clone(), container.resources.clone().unwrap_or_default());
            self.record.changed.retain(|id, _| state.containers.iter().any(|record| record.id == *id));
            self.save_record();
        }
        set(after)?;
        self.limits = Some(after);
        Ok(())
    }

    /// A limit below what is used would make the kernel kill somebody.
    fn check_memory(
        &self,
        pod: &Pod,
        state: &RuntimeState,
        ids: &[String],
        before: Limits,
        after: Limits,
    ) -> Result<(), String> {
        let group = resources::pod_cgroup(pod);
        let used = |group: &str| {
            let usage = self.node.config.os.cgroups.usage(group);
            usage.map(|usage| i64::try_from(usage.memory).unwrap_or(i64::MAX)).unwrap_or_default()
        };
        let shrinks = |before: i64, after: i64| after > 0 && (before == 0 || after < before);
        let mut faults = Vec::new();
        if shrinks(before.memory, after.memory) && used(&group) >= after.memory {
            let (limit, used) = (after.memory, used(&group));
            faults.push(format!("attempting to set pod memory limit ({limit}) below current usage ({used})"));
        }
        for record in state.containers.iter().filter(|record| ids.contains(&record.id)) {
            let Some((_, container)) = facts::container(pod, &record.name) else { continue };
            let limit = resources::container(pod, &container, 0).memory_limit_in_bytes;
            let actual = Container { resources: record.resources.clone(), ..Container::default() };
            let actual = resources::container(pod, &actual, 0).memory_limit_in_bytes;
            let used = used(&format!("{group}/{}", record.id));
            if shrinks(actual, limit) && used >= limit {
                let name = &record.name;
                faults.push(format!(
                    "attempting to set container {name:?} memory limit ({limit}) below current usage ({used})"
                ));
            }
        }
        match &faults[..] {
            [] => Ok(()),
            [fault] => Err(format!("cannot decrease memory limits: {fault}")),
            faults => Err(format!("cannot decrease memory limits: [{}]", faults.join(", "))),
        }
    }

    /// Notices that a resize has come to its end, or that one is under way of which a former agent knew.
    pub(super) fn follow_resize(&mut self, pod: &Pod, state: &RuntimeState) {
        let generation = generation(pod);
        match (resize_is_under_way(pod, state), &self.resizes.under_way) {
            (true, None) => self.resizes.under_way = Some(Note { generation, message: String::new() }),
            (false, Some(note)) => {
                let message = format!("Pod resize completed: {}", told(pod, note.generation, ""));
                self.node.recorder.normal(&involved(pod), "ResizeCompleted", message);
                self.resizes.under_way = None;
            }
            (true, Some(_)) | (false, None) => {}
        }
    }
}
