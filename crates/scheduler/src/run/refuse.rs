//! A pod gets no node: it waits, people are told why, and pods of lower priority may have to make room.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use skiff_api::pods;
use skiff_client::{Client, ClientError, DeleteOptions, Patch, involved};

use super::Scheduler;
use super::bind::Done;
use crate::cluster::PodInfo;
use crate::decide::{Diagnosis, Preempted};
use crate::events::{Change, Event};
use crate::profile::Plugins;

/// The longest message of an event.
const LONGEST: usize = 1024;

impl Scheduler {
    /// There are no nodes at all.
    pub(super) fn no_nodes(&mut self, pod: &Arc<PodInfo>, place: usize) {
        self.queue.refused(&pod.uid, self.world.elapsed(), (place, Plugins::default()));
        self.tell(pod, "Unschedulable", "no nodes available to schedule pods", Some(""));
    }

    /// No node takes the pod.
    pub(super) fn refuse(&mut self, pod: &Arc<PodInfo>, place: usize, mut diagnosis: Diagnosis) {
        self.queue.refused(&pod.uid, self.world.elapsed(), (place, diagnosis.rejected_by));
        let preempted = diagnosis.preempted.take();
        if let Some(give_up) = diagnosis.give_up.take() {
            self.give_up(pod, give_up);
        }
        let message = diagnosis.to_string();
        match preempted {
            Some(Preempted::Room { node, victims }) => {
                self.nominated.set(pod.clone(), &node);
                self.make_way(pod, &node);
                self.evict(pod, &node, victims);
                // Trying again before the news of those that go has come would ask for others.
                if self.making_room.contains_key(&pod.uid) {
                    self.queue.hold(&pod.uid);
                }
                self.tell(pod, "Unschedulable", &message, Some(&node));
            }
            Some(Preempted::No { clear: false, .. }) => self.tell(pod, "Unschedulable", &message, None),
            Some(Preempted::No { .. }) | None => {
                if let Some(node) = self.nominated.node_of(&pod.uid).map(str::to_owned) {
                    self.nominated.remove(&pod.uid);
                    self.wake(&Event::Pod(Change { old: Some(pod), new: None }, &node));
                }
                self.tell(pod, "Unschedulable", &message, Some(""));
            }
        }
    }

    /// Something went wrong that is nobody's fault: the pod pauses and is tried again.
    pub(super) fn fail(&mut self, pod: &Arc<PodInfo>, why: &str) {
        self.queue.failed(&pod.uid, self.world.elapsed());
        self.tell(pod, "SchedulerError", why, Some(""));
    }

    /// Less important pods that wait for room on the same node look for another.
    fn make_way(&mut self, pod: &PodInfo, node: &str) {
        let less = |other: &&Arc<PodInfo>| other.priority < pod.priority;
        let others: Vec<Arc<PodInfo>> = self.nominated.on(node).filter(less).cloned().collect();
        for other in others {
            self.nominated.remove(&other.uid);
            self.write_status(&other, json!({"nominatedNodeName": null}));
            self.queue.activate(&other.uid);
        }
    }

    /// Asks pods to go.
    fn evict(&mut self, pod: &Arc<PodInfo>, node: &str, victims: Vec<Arc<PodInfo>>) {
        let now = self.now();
        for victim in victims.into_iter().filter(|victim| !victim.is_terminating()) {
            // Whoever else waits for it need not.
            self.leaves(&victim.uid);
            self.room_for.insert(victim.uid.clone(), pod.uid.clone());
            *self.making_room.entry(pod.uid.clone()).or_default() += 1;
            let text = format!("Preempted by pod {} on node {node}", pod.uid);
            self.recorder(pod).normal(&involved(&*victim.pod), "Preempted", text);
            let message = format!("{}: preempting to accommodate a higher priority pod", pod.scheduler_name());
            let condition = json!({
                "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": message,
                "lastTransitionTime": now, "observedGeneration": victim.pod.metadata.generation,
            });
            let (client, pod) = (self.client.clone(), pod.clone());
            self.writes.push(Box::pin(async move {
                let result = evict(&client, &victim, condition).await;
                Done::Preempted(pod, result)
            }));
        }
    }

    /// A pod that was to make room leaves, or is gone. With the last of them, the pod that they go for is tried again; not
    /// before, or it would look for room elsewhere as long as the news of some has not come back.
    pub(super) fn leaves(&mut self, victim: &str) {
        let Some(uid) = self.room_for.remove(victim) else { return };
        if let Some(others) = self.making_room.get_mut(&uid) {
            *others -= 1;
            if *others == 0 {
                self.making_room.remove(&uid);
                self.queue.activate(&uid);
            }
        }
    }

    /// Tells people, and other programs, why the pod has no node; `nominated`: the node it waits for room on, none if
    /// empty, as before if `None`.
    fn tell(&mut self, pod: &Arc<PodInfo>, reason: &str, message: &str, nominated: Option<&str>) {
        let known = pods::condition(&pod.pod, "PodScheduled");
        let told = known.filter(|c| c.status == "False" && c.reason.as_deref() == Some(reason));
        let told = told.is_some_and(|c| c.message.as_deref() == Some(message));
        if !told {
            self.recorder(pod).warning(&involved(&*pod.pod), "FailedScheduling", truncated(message));
        }
        let mut status = json!({});
        if !told {
            let since = known.filter(|c| c.status == "False").and_then(|c| c.last_transition_time.clone());
            let since = since.map_or_else(|| json!(self.now()), |time| json!(time));
            status["conditions"] = json!([{
                "type": "PodScheduled", "status": "False", "reason": reason, "message": message,
                "lastTransitionTime": since, "observedGeneration": pod.pod.metadata.generation,
            }]);
        }
        if let Some(node) = nominated.filter(|node| *node != pod.nominated_node()) {
            status["nominatedNodeName"] = if node.is_empty() { Value::Null } else { json!(node) };
        }
        if status.as_object().is_some_and(|fields| !fields.is_empty()) {
            self.write_status(pod, status);
        }
    }

    fn write_status(&mut self, pod: &Arc<PodInfo>, status: Value) {
        let patch = Patch::Strategic(json!({"metadata": {"uid": pod.uid}, "status": status}));
        let (client, pod) = (self.client.clone(), pod.clone());
        self.writes.push(Box::pin(async move {
            let api = client.namespaced::<Pod>(pod.namespace());
            if let Err(error) = api.patch_status(pod.name(), &patch).await
                && !error.is_not_found()
            {
                tracing::debug!(pod = pod.key, "its status was not written: {error}");
            }
            Done::Told
        }));
    }

    fn now(&self) -> String {
        self.world.now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    }
}

async fn evict(client: &Client, victim: &PodInfo, condition: Value) -> Result<(), ClientError> {
    let api = client.namespaced::<Pod>(victim.namespace());
    let patch = Patch::Strategic(json!({"metadata": {"uid": victim.uid}, "status": {"conditions": [condition]}}));
    let written = async {
        api.patch_status(victim.name(), &patch).await?;
        api.delete(victim.name(), &DeleteOptions::uid(&victim.uid)).await
    };
    match written.await {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

fn truncated(message: &str) -> String {
    if message.len() <= LONGEST {
        return message.to_owned();
    }
    let end = (0..=LONGEST - 4).rev().find(|end| message.is_char_boundary(*end)).unwrap_or(0);
    format!("{} ...", &message[..end])
}
