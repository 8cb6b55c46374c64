//! Writes pods' statuses to the API: one patch at a time per pod, always the newest, and none when nothing has changed.
//!
//! A status that only says that a pod is about to start is held back for a moment: most pods start faster than that, and
//! then the whole start costs one write. Everything else is written at once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::stream::{FuturesUnordered, StreamExt};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use parking_lot::Mutex;
use serde_json::{Value, json};
use skiff_client::{Client, ClientError, Patch, trace};
use skiff_meta::world::AbortOnDrop;
use skiff_meta::{TraceContext, WorldRef};
use tokio::sync::{Notify, watch};

use crate::metrics::{Measure, Metrics};
use crate::pod::facts;
use crate::pod::status::RESIZES;
use crate::static_pods::Statics;

/// How long a status that only says "not yet" is held back.
const PATIENCE: Duration = Duration::from_secs(1);
/// Pauses between attempts while the API does not answer.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// Writes under way at once.
const PARALLEL: usize = 16;

/// Writes statuses. Clones share it; its task ends with the last.
#[derive(Clone)]
pub(crate) struct StatusWriter {
    shared: Arc<Shared>,
    _task: Arc<Mutex<AbortOnDrop>>,
}

struct Shared {
    entries: Mutex<HashMap<String, Entry>>,
    news: Notify,
    world: WorldRef,
    metrics: Arc<Metrics>,
    statics: Arc<Statics>,
}

struct Entry {
    namespace: String,
    name: String,
    /// The mirror that was written to last.
    object: Option<String>,
    wanted: Arc<PodStatus>,
    cause: Option<TraceContext>,
    /// Counts the statuses wanted; the newest is wanted number `version`.
    version: u64,
    /// The newest that is written, or cannot be written any more because the pod is gone.
    written: watch::Sender<u64>,
    last: Option<Arc<PodStatus>>,
    /// When to write, by the world's monotonic clock.
    due: Duration,
    under_way: bool,
    failures: u32,
}

/// One write under way.
struct Job {
    uid: String,
    /// The object's own UID: that of a mirror is not its pod's.
    object: String,
    namespace: String,
    name: String,
    status: Arc<PodStatus>,
    last: Option<Arc<PodStatus>>,
    version: u64,
    cause: Option<TraceContext>,
}

impl StatusWriter {
    pub(crate) fn new(client: Client, world: WorldRef, metrics: Arc<Metrics>, statics: Arc<Statics>) -> Self {
        let shared = Shared { entries: Mutex::default(), news: Notify::new(), world: world.clone(), metrics, statics };
        let shared = Arc::new(shared);
        let task = AbortOnDrop(world.spawn("pod statuses", Box::pin(work(shared.clone(), client))));
        Self { shared, _task: Arc::new(Mutex::new(task)) }
    }

    /// This is the pod's status from now on.
    pub(crate) fn set(&self, pod: &Pod, status: PodStatus, cause: Option<TraceContext>) {
        let now = self.shared.world.elapsed();
        let mut entries = self.shared.entries.lock();
        let entry = entries.entry(facts::uid(pod).to_owned()).or_insert_with(|| Entry {
            namespace: facts::namespace(pod).to_owned(),
            name: facts::name(pod).to_owned(),
            object: None,
            wanted: Arc::default(),
            cause: None,
            version: 0,
            written: watch::Sender::new(0),
            last: pod.status.clone().filter(|status| status.container_statuses.is_some()).map(Arc::new),
            due: now + PATIENCE,
            under_way: false,
            failures: 0,
        });
        if entry.version > 0 && *entry.wanted == status {
            return;
        }
        if !is_patient(&status) {
            entry.due = entry.due.min(now);
        } else if *entry.written.borrow() == entry.version {
            entry.due = now + PATIENCE;
        }
        entry.version += 1;
        entry.wanted = Arc::new(status);
        entry.cause = cause;
        drop(entries);
        self.shared.news.notify_one();
    }

    /// What the API shows of a static pod may be new, and know nothing yet.
    pub(crate) fn again(&self, uid: &str) {
        let object = self.shared.statics.mirror_of(uid);
        if let Some(entry) = self.shared.entries.lock().get_mut(uid).filter(|entry| entry.object != object) {
            (entry.object, entry.last) = (object, None);
            entry.version += 1;
        }
        self.shared.news.notify_one();
    }

    /// Writes without further patience; returns when the status last set is written, or the pod is gone.
    pub(crate) async fn flush(&self, uid: &str) {
        let (version, mut written) = {
            let mut entries = self.shared.entries.lock();
            let Some(entry) = entries.get_mut(uid) else { return };
            entry.due = Duration::ZERO;
            (entry.version, entry.written.subscribe())
        };
        self.shared.news.notify_one();
        // An error means that the entry was forgotten: nothing is left to wait for.
        let _ = written.wait_for(|written| *written >= version).await;
    }

    /// Nothing more will be said about this pod.
    pub(crate) fn forget(&self, uid: &str) {
        self.shared.entries.lock().remove(uid);
    }
}

/// Whether a status only says that the pod is about to start.
fn is_patient(status: &PodStatus) -> bool {
    let statuses = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    let in_trouble = statuses.filter_map(|s| s.state.as_ref()?.waiting.as_ref()?.reason.as_deref());
    status.phase.as_deref() == Some("Pending")
        && in_trouble.into_iter().all(|reason| matches!(reason, "ContainerCreating" | "PodInitializing"))
}

async fn work(shared: Arc<Shared>, client: Client) {
    let mut running = FuturesUnordered::new();
    loop {
        let (jobs, next) = shared.due(PARALLEL.saturating_sub(running.len()));
        for job in jobs {
            let (shared, client) = (shared.clone(), client.clone());
            running.push(async move {
                let begun = shared.world.elapsed();
                let result = trace::within(job.cause, write(&client, &job)).await;
                shared.metrics.observe(Measure::StatusSync, shared.world.elapsed() - begun);
                shared.done(&job, result);
            });
        }
        let sleep = match next {
            Some(pause) => shared.world.sleep(pause),
            None => futures::future::pending().boxed(),
        };
        tokio::select! {
            () = shared.news.notified() => {}
            () = sleep => {}
            Some(()) = running.next() => {}
        }
    }
}

impl Shared {
    /// Up to `limit` writes that are due, and how long until the next will be.
    fn due(&self, limit: usize) -> (Vec<Job>, Option<Duration>) {
        let now = self.world.elapsed();
        let (mut jobs, mut next) = (Vec::new(), None::<Duration>);
        for (uid, entry) in self.entries.lock().iter_mut() {
            if entry.under_way || *entry.written.borrow() >= entry.version {
                continue;
            }
            let object = if self.statics.contains(uid) { self.statics.mirror_of(uid) } else { Some(uid.clone()) };
            let Some(object) = object else { continue };
            if entry.due > now {
                next = Some(next.unwrap_or(Duration::MAX).min(entry.due - now));
            } else if entry.last.as_ref() == Some(&entry.wanted) {
                entry.written.send_replace(entry.version);
            } else if jobs.len() < limit {
                entry.under_way = true;
                jobs.push(Job {
                    uid: uid.clone(),
                    object,
                    namespace: entry.namespace.clone(),
                    name: entry.name.clone(),
                    status: entry.wanted.clone(),
                    last: entry.last.clone(),
                    version: entry.version,
                    cause: entry.cause,
                });
            }
        }
        (jobs, next)
    }

    fn done(&self, job: &Job, result: Result<(), ClientError>) {
        let mut entries = self.entries.lock();
        let Some(entry) = entries.get_mut(&job.uid) else { return };
        entry.under_way = false;
        match result {
            Ok(()) => {
                entry.failures = 0;
                entry.last = Some(job.status.clone());
                entry.written.send_replace(job.version);
            }
            // It is gone, or another pod has taken its name: there is nobody left to write about.
            Err(error) if (error.is_not_found() || error.is_conflict()) && !self.statics.contains(&job.uid) => {
                entry.written.send_replace(u64::MAX);
            }
            Err(error) => {
                tracing::warn!(pod = job.name, namespace = job.namespace, "status was not written: {error}");
                entry.failures += 1;
                let pause = RETRY.0 * 2u32.saturating_pow(entry.failures.min(8));
                entry.due = self.world.elapsed() + pause.min(RETRY.1);
            }
        }
    }
}

async fn write(client: &Client, job: &Job) -> Result<(), ClientError> {
    let body = patch(&job.object, job.last.as_deref(), &job.status);
    client.namespaced::<Pod>(&job.namespace).patch_status(&job.name, &Patch::Strategic(body)).await.map(drop)
}

/// The whole status as a strategic merge patch: conditions of others stay, lists of ours are replaced, and what was
/// said before and no longer holds is taken back. The UID makes it fail if another pod has taken the name.
fn patch(uid: &str, last: Option<&PodStatus>, status: &PodStatus) -> Value {
    let tree = |status: &PodStatus| serde_json::to_value(status).unwrap_or_default();
    let mut body = tree(status);
    for (key, _) in last.map(tree).as_ref().and_then(Value::as_object).into_iter().flatten() {
        if body.get(key).is_none() {
            body[key] = Value::Null;
        }
    }
    // Conditions are merged by their type: so would be why they did not hold before.
    for condition in body["conditions"].as_array_mut().into_iter().flatten() {
        for part in ["reason", "message"] {
            if condition.get(part).is_none() {
                condition[part] = Value::Null;
            }
        }
    }
    // And one that is over would stay.
    let told = |status: &PodStatus, type_: &str| status.conditions.iter().flatten().any(|c| c.type_ == type_);
    for over in RESIZES.iter().filter(|over| last.is_some_and(|last| told(last, over)) && !told(status, over)) {
        if let Some(list) = body["conditions"].as_array_mut() {
            list.push(json!({"$patch": "delete", "type": over}));
        }
    }
    // Addresses are merged by their text, so old ones would stay beside new ones.
    for (key, old) in [("podIPs", last.map(|l| json!(l.pod_ips))), ("hostIPs", last.map(|l| json!(l.host_ips)))] {
        let changed = old.is_some_and(|old| !old.is_null() && old != body[key]);
        if changed && let Some(list) = body[key].as_array_mut() {
            list.push(json!({"$patch": "replace"}));
        }
    }
    json!({"metadata": {"uid": uid}, "status": body})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(value: Value) -> PodStatus {
        serde_json::from_value(value).expect("a status")
    }

    #[test]
    fn a_patch_takes_back_what_no_longer_holds() {
        let old = status(json!({"phase": "Running", "reason": "R", "podIP": "1", "podIPs": [{"ip": "1"}]}));
        let new = status(json!({"phase": "Running", "podIP": "2", "podIPs": [{"ip": "2"}]}));
        let pending = json!({"type": "PodResizePending", "status": "True"});
        let resizing = status(json!({"conditions": [pending, {"type": "Other", "status": "True"}]}));
        let over = json!([{"$patch": "delete", "type": "PodResizePending"}]);
        assert_eq!(patch("u", Some(&resizing), &status(json!({"conditions": []})))["status"]["conditions"], over);
        let ready = status(json!({"conditions": [{"type": "Ready", "status": "True"}]}));
        let why = json!([{"type": "Ready", "status": "True", "reason": null, "message": null}]);
        assert_eq!(patch("u", None, &ready)["status"]["conditions"], why);
        let body = patch("u", Some(&old), &new);
        assert_eq!(body["metadata"]["uid"], "u");
        assert_eq!(body["status"]["reason"], Value::Null);
        assert_eq!(body["status"]["podIPs"], json!([{"ip": "2"}, {"$patch": "replace"}]));
        assert_eq!(patch("u", Some(&new), &new)["status"]["podIPs"], json!([{"ip": "2"}]));
    }

    #[test]
    fn only_a_pod_about_to_start_can_wait() {
        let waiting = |phase: &str, reason: &str| {
            let container = json!({"name": "a", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"waiting": {"reason": reason}}});
            is_patient(&status(json!({"phase": phase, "containerStatuses": [container]})))
        };
        assert!(waiting("Pending", "ContainerCreating"));
        assert!(!waiting("Pending", "ErrImagePull"));
        assert!(!waiting("Running", "ContainerCreating"));
    }
}
