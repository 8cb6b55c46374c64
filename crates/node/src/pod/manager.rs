//! All pods of this node: a worker for each UID, from when the API or the runtime first names it until nothing is left.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use parking_lot::Mutex;
use skiff_client::{Change, Informer};
use skiff_cri::RuntimeError;
use skiff_cri::v1::{ContainerFilter, PodSandboxFilter};
use skiff_meta::TraceContext;
use skiff_meta::world::AbortOnDrop;

use super::facts::{self, key};
use super::mailbox::Mailbox;
use super::status::Ending;
use super::stop::clear_cgroup;
use super::worker::Worker;
use crate::node::Node;

/// Pauses between attempts to remove a cgroup whose processes have just been killed.
const CLEAR: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(5));

/// All workers. Dropping it stops them where they are; pods run on.
pub(crate) struct Manager {
    node: Arc<Node>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    workers: HashMap<String, Entry>,
    /// UIDs that nothing is left of here, while the API still has them (finalizers).
    done: HashSet<String>,
    /// Whatever the runtime has of pods that nobody told of before has a worker: others are new to it.
    adopted: bool,
}

struct Entry {
    mailbox: Arc<Mailbox>,
    _task: AbortOnDrop,
}

impl Manager {
    pub(crate) fn new(node: Arc<Node>) -> Arc<Self> {
        Arc::new(Self { node, state: Arc::default() })
    }

    /// Follows the API's pods of this node.
    pub(crate) fn follow(self: &Arc<Self>, pods: &Informer<Pod>) {
        let manager = Arc::downgrade(self);
        pods.on(move |change: &Change<'_, Pod>| {
            let Some(manager) = manager.upgrade() else { return };
            let statics = &manager.node.statics;
            match (change.new, change.old) {
                (Some(pod), _) if facts::mirrored(pod).is_some() => {
                    statics.saw(pod);
                    return manager.node.writer.again(facts::uid(pod));
                }
                (None, Some(old)) if facts::mirrored(old).is_some() => return statics.lost(old),
                _ => {}
            }
            match (change.new, change.old) {
                (Some(pod), _) => manager.has(pod, change.trace),
                (None, Some(old)) => manager.removed(facts::uid(old), change.trace),
                (None, None) => {}
            }
        });
    }

    fn has(&self, pod: &Arc<Pod>, cause: Option<TraceContext>) {
        let uid = facts::uid(pod);
        let mut state = self.state.lock();
        if let Some(entry) = state.workers.get(uid) {
            self.node.changed(pod);
            entry.mailbox.update(pod.clone(), cause);
        } else if !state.done.contains(uid) {
            let fresh = state.adopted && !facts::has_begun(pod);
            self.begin(&mut state, Mailbox::new(pod.clone(), false, cause), fresh);
        }
    }

    /// A file describes this pod; it begins when no other of its name runs any more.
    pub(crate) fn has_static(&self, pod: &Arc<Pod>) {
        let mut state = self.state.lock();
        let place = (facts::namespace(pod), facts::name(pod));
        let taken = state.workers.values().any(|entry| {
            let (other, _) = entry.mailbox.pod();
            (facts::namespace(&other), facts::name(&other)) == place
        });
        if !taken && !state.done.contains(facts::uid(pod)) {
            self.begin(&mut state, Mailbox::new(pod.clone(), false, None), false);
        }
    }

    /// No file describes this pod any more.
    pub(crate) fn ends_static(&self, uid: &str) {
        self.removed(uid, None);
    }

    fn removed(&self, uid: &str, cause: Option<TraceContext>) {
        let mut state = self.state.lock();
        state.done.remove(uid);
        if let Some(entry) = state.workers.get(uid) {
            entry.mailbox.removed(cause);
        }
    }

    /// `fresh`: the runtime has nothing of the pod.
    fn begin(&self, state: &mut State, mailbox: Arc<Mailbox>, fresh: bool) {
        let (pod, _) = mailbox.pod();
        let uid = facts::uid(&pod).to_owned();
        let worker = Worker::new(self.node.clone(), mailbox.clone(), fresh);
        let (all, own, statics) = (Arc::downgrade(&self.state), uid.clone(), self.node.statics.clone());
        let task = async move {
            worker.run().await;
            let Some(all) = all.upgrade() else { return };
            let mut state = all.lock();
            let ended = state.workers.remove(&own);
            if ended.is_some_and(|entry| !entry.mailbox.pod().1) {
                state.done.insert(own);
            }
            drop(state);
            statics.look();
        };
        let task = AbortOnDrop(self.node.world.spawn("pod", Box::pin(task)));
        state.workers.insert(uid, Entry { mailbox, _task: task });
    }

    /// Ends pods that the runtime has and the API, which is known in full by now, does not; and removes what pods left
    /// behind that nobody has any more.
    ///
    /// # Errors
    /// When the runtime does not answer.
    pub(crate) async fn adopt_orphans(&self) -> Result<(), RuntimeError> {
        let orphans = self.in_runtime().await?;
        let mut state = self.state.lock();
        for (uid, pod) in orphans {
            if !state.workers.contains_key(&uid) {
                tracing::info!(pod = facts::described(&pod), "ends a pod that the API does not have any more");
                self.begin(&mut state, Mailbox::new(Arc::new(pod), true, None), false);
            }
        }
        state.adopted = true;
        self.sweep(&state);
        Ok(())
    }

    /// The pods that the runtime has, by UID, with as much of each as its labels tell.
    async fn in_runtime(&self) -> Result<BTreeMap<String, Pod>, RuntimeError> {
        let sandboxes = self.node.runtime.list_pod_sandboxes(PodSandboxFilter::default()).await?;
        let containers = self.node.runtime.list_containers(ContainerFilter::default()).await?;
        let labels = sandboxes.into_iter().map(|sandbox| (sandbox.labels, sandbox.annotations));
        let labels = labels.chain(containers.into_iter().map(|container| (container.labels, container.annotations)));
        let mut pods = BTreeMap::new();
        for (labels, annotations) in labels {
            let Some(uid) = labels.get(key::POD_UID) else { continue };
            pods.entry(uid.clone()).or_insert_with(|| Pod {
                metadata: ObjectMeta {
                    name: labels.get(key::POD_NAME).cloned(),
                    namespace: labels.get(key::POD_NAMESPACE).cloned(),
                    uid: Some(uid.clone()),
                    ..ObjectMeta::default()
                },
                spec: Some(PodSpec {
                    termination_grace_period_seconds: annotations.get(key::GRACE).and_then(|text| text.parse().ok()),
                    ..PodSpec::default()
                }),
                status: None,
            });
        }
        Ok(pods)
    }

    /// Directories and cgroups of pods that have no worker.
    fn sweep(&self, state: &State) {
        let os = &self.node.config.os;
        let unknown = |uid: &str| !state.workers.contains_key(uid);
        self.node.devices.keep_only(&*os.files, |uid| state.workers.contains_key(uid));
        self.node.pinning.keep_only(&*os.files, |uid| state.workers.contains_key(uid));
        let directories = [self.node.config.directory.join("pods"), self.node.memory_root()];
        let left = directories.iter().flat_map(|directory| os.files.list(directory).unwrap_or_default());
        let left: BTreeSet<String> = left.chain(self.node.claims.users()).filter(|uid| unknown(uid)).collect();
        left.into_iter().for_each(|uid| self.remove_files(uid));
        for cgroup in os.cgroups.pods().unwrap_or_default() {
            let uid = cgroup.rsplit('/').next().and_then(|name| name.strip_prefix("pod")).unwrap_or_default();
            if unknown(uid) {
                self.clear(cgroup);
            }
        }
    }

    /// Removes the files of a pod that nobody has any more; its volumes of drivers and its claims first, until drivers agree.
    fn remove_files(&self, uid: String) {
        let node = self.node.clone();
        let task = async move {
            let mut pause = CLEAR.0;
            while let Err(error) = crate::csi::release(&node, &uid).await {
                tracing::warn!(uid, "left-over volumes were not given back: {error}");
                pause = (pause * 2).min(CLEAR.1);
                node.world.sleep(pause).await;
            }
            while let Err(error) = node.claims.release(&node, &uid).await {
                tracing::warn!(uid, "left-over claims were not given back: {error}");
                pause = (pause * 2).min(CLEAR.1);
                node.world.sleep(pause).await;
            }
            if let Err(error) = crate::volumes::remove(&node, &uid) {
                tracing::warn!(uid, "left-over files were not removed: {error}");
            }
        };
        drop(self.node.world.spawn("left-over files", Box::pin(task)));
    }

    /// Ends what still runs in the cgroup of a pod that nobody has any more, and removes it; tries a few times.
    fn clear(&self, cgroup: String) {
        let (cgroups, world) = (self.node.config.os.cgroups.clone(), self.node.world.clone());
        let task = async move {
            let mut pause = CLEAR.0;
            while let Err(error) = clear_cgroup(&*cgroups, &cgroup) {
                if pause > CLEAR.1 {
                    return tracing::warn!(cgroup, "a left-over cgroup was not removed: {error}");
                }
                world.sleep(pause).await;
                pause *= 2;
            }
        };
        drop(self.node.world.spawn("left-over cgroup", Box::pin(task)));
    }

    /// An image has come, or another thing that pods may be waiting for.
    pub(crate) fn retry_all(&self) {
        let mailboxes: Vec<_> = self.state.lock().workers.values().map(|entry| entry.mailbox.clone()).collect();
        mailboxes.iter().for_each(|mailbox| mailbox.retry());
    }

    /// Ends a pod for the node's sake; whether that was not decided before.
    pub(crate) fn end(&self, pod: &Pod, verdict: Ending) -> bool {
        let mailbox = self.mailbox(facts::uid(pod)).filter(|mailbox| !mailbox.is_condemned());
        if let Some(mailbox) = &mailbox {
            mailbox.condemn(verdict);
        }
        mailbox.is_some()
    }

    /// Completes when nothing of this pod runs or is mounted any more.
    pub(crate) async fn until_down(&self, uid: &str) {
        let mailbox = self.mailbox(uid);
        if let Some(mailbox) = mailbox {
            mailbox.until_down().await;
        }
    }

    fn mailbox(&self, uid: &str) -> Option<Arc<Mailbox>> {
        self.state.lock().workers.get(uid).map(|entry| entry.mailbox.clone())
    }

    /// How many pods there are.
    pub(crate) fn count(&self) -> usize {
        self.state.lock().workers.len()
    }

    /// The pod of this name as the API last had it.
    pub(crate) fn find(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        self.pods().into_iter().find(|pod| facts::namespace(pod) == namespace && facts::name(pod) == name)
    }

    /// The pods as the API last had them.
    pub(crate) fn pods(&self) -> Vec<Arc<Pod>> {
        self.state.lock().workers.values().map(|entry| entry.mailbox.pod().0).collect()
    }
}
