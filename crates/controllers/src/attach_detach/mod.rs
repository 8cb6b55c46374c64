//! Attaching and detaching: a volume that a pod needs is attached to the pod's node before the node uses it, and detached
//! when the node says that it is done.
//!
//! The work itself is the storage driver's: what is wanted is a VolumeAttachment, which the driver's attacher answers. The
//! node is told in its status (`volumesAttached`) and tells there what it uses (`volumesInUse`).

mod plan;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::{CSIDriver, VolumeAttachment};
use parking_lot::Mutex;
use serde_json::json;
use skiff_api::nodes::is_ready;
use skiff_api::pods::is_finished;
use skiff_api::volumes;
use skiff_client::{
    After, Change, Client, ClientError, DeleteOptions, Index, Key, Kind, Patch, Recorder, Store, WorkQueue, Workers,
    involved,
};
use skiff_meta::WorldRef;
use skiff_meta::world::Task;

use crate::Context;
use crate::shared::node_of;
use plan::{Disk, View, volume_of};

/// A node that is not ready and does not say that it is done with a volume loses it after this.
const PATIENCE: Duration = Duration::from_secs(360);

struct Controller {
    client: Client,
    recorder: Recorder,
    world: WorldRef,
    nodes: Store<Node>,
    pods: Index<Pod>,
    claims: Store<PersistentVolumeClaim>,
    volumes: Store<PersistentVolume>,
    drivers: Store<CSIDriver>,
    /// By node.
    of_node: Index<VolumeAttachment>,
    /// By PersistentVolume.
    of_volume: Index<VolumeAttachment>,
    memories: Mutex<BTreeMap<String, Memory>>,
}

/// What is remembered of a node that has or needs volumes.
#[derive(Default)]
struct Memory {
    /// Since when attachments have been waited for that nobody wants.
    lingering: BTreeMap<String, Duration>,
    /// What was told last of each volume, so that it is told once.
    told: BTreeMap<String, String>,
}

/// Starts the controller.
pub(crate) fn start(context: &Context, client: Client) -> Vec<Task> {
    let (nodes, pods) = (context.informers.all::<Node>(), context.informers.all::<Pod>());
    let (claims, volumes) =
        (context.informers.all::<PersistentVolumeClaim>(), context.informers.all::<PersistentVolume>());
    let (drivers, attachments) = (context.informers.all::<CSIDriver>(), context.informers.all::<VolumeAttachment>());
    let queue: WorkQueue<String> = WorkQueue::new(context.world.clone());
    let to_queue = queue.clone();
    pods.on(move |change: &Change<'_, Pod>| {
        let mut states = change.states().filter(|pod| !node_of(pod).is_empty() && claims_of(pod).next().is_some());
        // What a pod wants changes when it is bound and when it has ended.
        let same = change
            .old
            .zip(change.new)
            .is_some_and(|(old, new)| node_of(old) == node_of(new) && is_finished(old) == is_finished(new));
        if let Some(pod) = states.next().filter(|_| !same) {
            to_queue.add(node_of(pod).to_owned(), change.trace);
        }
    });
    let to_queue = queue.clone();
    nodes.on(move |change: &Change<'_, Node>| {
        if change.old.is_none() || change.new.is_none() || change.old.map(|n| facts(n)) != change.new.map(|n| facts(n))
        {
            to_queue.add(change.key().name, change.trace);
        }
    });
    let (of_node, of_volume) = (
        attachments.index(|attachment| vec![attachment.spec.node_name.clone()]),
        attachments.index(|attachment| volume_of(attachment).map(str::to_owned).into_iter().collect()),
    );
    let by_claim = pods.index(|pod| claims_of(pod).map(|key| key.to_string()).collect());
    // Whoever waits for a volume runs pods that claim it.
    let (to_queue, known, users) = (queue.clone(), volumes.store(), by_claim.clone());
    attachments.on(move |change: &Change<'_, VolumeAttachment>| {
        let Some(attachment) = change.object() else { return };
        to_queue.add(attachment.spec.node_name.clone(), change.trace);
        let volume = volume_of(attachment).filter(|_| change.new.is_none()).and_then(|name| known.get("", name));
        for key in volume.iter().filter_map(|volume| claim_key(volume)) {
            users.get(&key.to_string()).iter().for_each(|pod| to_queue.add(node_of(pod).to_owned(), change.trace));
        }
    });
    let (to_queue, users) = (queue.clone(), by_claim.clone());
    claims.on(move |change: &Change<'_, PersistentVolumeClaim>| {
        let bound = |claim: &Arc<PersistentVolumeClaim>| claim.spec.as_ref().and_then(|spec| spec.volume_name.clone());
        if change.old.and_then(bound) != change.new.and_then(bound) {
            let pods = users.get(&change.key().to_string());
            pods.iter().for_each(|pod| to_queue.add(node_of(pod).to_owned(), change.trace));
        }
    });
    let (to_queue, users) = (queue.clone(), by_claim);
    volumes.on(move |change: &Change<'_, PersistentVolume>| {
        let driven = change.object().filter(|volume| change.old.is_none() && csi_of(volume).is_some());
        if let Some(key) = driven.and_then(|volume| claim_key(volume)) {
            users.get(&key.to_string()).iter().for_each(|pod| to_queue.add(node_of(pod).to_owned(), change.trace));
        }
    });
    let (to_queue, known) = (queue.clone(), nodes.store());
    drivers.on(move |change: &Change<'_, CSIDriver>| {
        if change.old.map(|driver| volumes::must_attach(Some(driver)))
            != change.new.map(|d| volumes::must_attach(Some(d)))
        {
            known.list().iter().for_each(|node| to_queue.add(node.name().to_owned(), change.trace));
        }
    });
    let synced =
        vec![nodes.synced(), pods.synced(), claims.synced(), volumes.synced(), drivers.synced(), attachments.synced()];
    let workers = Workers { world: context.world.clone(), name: "attachdetach-controller", count: 2, synced };
    let controller = Arc::new(Controller {
        recorder: Recorder::new(client.clone(), context.world.clone(), "attachdetach-controller", ""),
        client,
        world: context.world.clone(),
        nodes: nodes.store(),
        pods: context.pods_by_node.clone(),
        claims: claims.store(),
        volumes: volumes.store(),
        drivers: drivers.store(),
        of_node,
        of_volume,
        memories: Mutex::default(),
    });
    workers.start(queue, move |node| {
        let controller = controller.clone();
        async move { controller.reconcile(&node).await }
    })
}

/// What of a node matters here: what it has, what it uses, and whether it is there to say so.
fn facts(node: &Node) -> impl PartialEq + use<> {
    let (spec, status) = (node.spec.clone().unwrap_or_default(), node.status.clone().unwrap_or_default());
    (spec.taints, status.volumes_attached, status.volumes_in_use, is_ready(node))
}

fn claims_of(pod: &Pod) -> impl Iterator<Item = Key> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume| Some(Key::new(pod.namespace(), volumes::claim(pod, volume)?)))
}

fn claim_key(volume: &PersistentVolume) -> Option<Key> {
    let claim = volume.spec.as_ref()?.claim_ref.as_ref()?;
    Some(Key::new(claim.namespace.clone()?, claim.name.clone()?))
}

/// The driver's volume behind a PersistentVolume.
fn csi_of(volume: &PersistentVolume) -> Option<Disk> {
    let spec = volume.spec.as_ref()?;
    let source = spec.csi.as_ref()?;
    let shared =
        spec.access_modes.iter().flatten().any(|mode| matches!(mode.as_str(), "ReadWriteMany" | "ReadOnlyMany"));
    Some(Disk { driver: source.driver.clone(), handle: source.volume_handle.clone(), shared })
}

impl Controller {
    async fn reconcile(&self, name: &str) -> Result<After, ClientError> {
        let node = self.nodes.get("", name);
        let pods: Vec<Arc<Pod>> = self.pods.get(name).into_iter().filter(|pod| !is_finished(pod)).collect();
        let mut users: BTreeMap<String, Vec<Arc<Pod>>> = BTreeMap::new();
        let mut wanted = BTreeMap::new();
        for pod in &pods {
            for (volume, disk) in claims_of(pod).filter_map(|key| self.disk(&key)) {
                users.entry(volume.clone()).or_default().push(pod.clone());
                wanted.insert(volume, disk);
            }
        }
        let held = self.of_node.get(name);
        let ours = |attachment: &VolumeAttachment| {
            let disk = csi_of(&*self.volumes.get("", volume_of(attachment)?)?)?;
            (volumes::attachment(&disk.handle, &disk.driver, name) == attachment.name()).then_some(disk)
        };
        let attachments: Vec<_> = held.iter().filter_map(|held| Some((&**held, ours(held)?))).collect();
        let (now, ready) = (self.world.elapsed(), node.as_ref().is_some_and(|node| is_ready(node)));
        // No other worker looks at this node meanwhile.
        let mut memory = self.memories.lock().remove(name).unwrap_or_default();
        let waited = |since: &Duration| now.saturating_sub(*since);
        let plan = plan::plan(&View {
            name,
            node: node.as_deref(),
            wanted: &wanted,
            attachments: &attachments,
            elsewhere: &|volume| {
                let others = self.of_volume.get(volume).into_iter().map(|other| other.spec.node_name.clone());
                others.filter(|other| other != name).collect()
            },
            overdue: &|attachment| !ready && memory.lingering.get(attachment).map(waited) >= Some(PATIENCE),
        });
        memory.note(&plan.lingering, now);
        self.tell(&mut memory.told, &plan, &users);
        if !memory.lingering.is_empty() || !memory.told.is_empty() {
            self.memories.lock().insert(name.to_owned(), memory);
        }
        if let Some(report) = &plan.report {
            let patch = Patch::Merge(json!({"status": {"volumesAttached": report}}));
            self.client.all::<Node>().patch_status(name, &patch).await?;
        }
        let api = self.client.all::<VolumeAttachment>();
        for attachment in &plan.detach {
            match api.delete(attachment, &DeleteOptions::default()).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        for attachment in &plan.attach {
            match api.create(attachment).await {
                Err(error) if !error.is_already_exists() => return Err(error),
                _ => {}
            }
        }
        Ok(if plan.lingering.is_empty() || ready { After::Change } else { After::Delay(PATIENCE) })
    }

    /// The disk behind a claim that is bound, if it has to be attached.
    fn disk(&self, claim: &Key) -> Option<(String, Disk)> {
        let claim = self.claims.get_key(claim)?;
        let name = claim.spec.as_ref()?.volume_name.clone()?;
        let volume = self.volumes.get("", &name)?;
        let owner = volume.spec.as_ref()?.claim_ref.as_ref()?;
        if owner.uid.as_deref() != Some(claim.uid()) {
            return None;
        }
        let disk = csi_of(&volume)?;
        volumes::must_attach(self.drivers.get("", &disk.driver).as_deref()).then_some((name, disk))
    }

    /// Tells the pods that wait for a volume what became of it.
    fn tell(&self, told: &mut BTreeMap<String, String>, plan: &plan::Plan, users: &BTreeMap<String, Vec<Arc<Pod>>>) {
        let attached = plan.report.iter().flatten().map(|told| told.name.as_str());
        let attached: Vec<&str> = attached.collect();
        let mut news = BTreeMap::new();
        for (volume, why) in &plan.failed {
            let message = format!("AttachVolume.Attach failed for volume {volume:?} : {why}");
            news.insert(volume.clone(), ("FailedAttachVolume", message));
        }
        for (volume, others) in &plan.taken {
            let message = format!(
                "Multi-Attach error for volume {volume:?} Volume is already exclusively attached to one node and can't be \
                 attached to another ({})",
                others.join(", ")
            );
            news.insert(volume.clone(), ("FailedAttachVolume", message));
        }
        for volume in users.keys() {
            let disk = self.volumes.get("", volume).and_then(|volume| csi_of(&volume));
            let name = disk.map(|disk| volumes::unique_name(&disk.driver, &disk.handle)).unwrap_or_default();
            if attached.contains(&name.as_str()) {
                let message = format!("AttachVolume.Attach succeeded for volume {volume:?} ");
                news.insert(volume.clone(), ("SuccessfulAttachVolume", message));
            }
        }
        told.retain(|volume, _| users.contains_key(volume));
        for (volume, (reason, message)) in news {
            let before = told.insert(volume.clone(), message.clone());
            if before.as_ref() == Some(&message) {
                continue;
            }
            for pod in users.get(&volume).into_iter().flatten() {
                match reason {
                    "SuccessfulAttachVolume" => self.recorder.normal(&involved(&**pod), reason, message.clone()),
                    _ => self.recorder.warning(&involved(&**pod), reason, message.clone()),
                }
            }
        }
    }
}

impl Memory {
    /// Remembers since when attachments linger.
    fn note(&mut self, lingering: &[String], now: Duration) {
        let since = |name: &String| (name.clone(), self.lingering.get(name).copied().unwrap_or(now));
        self.lingering = lingering.iter().map(since).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Fake;
    use serde_json::Value;

    fn node(in_use: Value) -> Value {
        json!({"apiVersion": "v1", "kind": "Node",
            "metadata": {"name": "n", "annotations": {volumes::CONTROLLED: "true"}},
            "status": {"volumesInUse": in_use, "conditions": [{"type": "Ready", "status": "True"}]}})
    }

    fn volume() -> Value {
        json!({"kind": "PersistentVolume", "metadata": {"name": "pv"}, "spec": {
            "csi": {"driver": "d", "volumeHandle": "h"}, "accessModes": ["ReadWriteOnce"],
            "claimRef": {"namespace": "ns", "name": "c", "uid": "cu"}}})
    }

    /// What nobody wants any more, on a node that neither is ready nor says that it is done.
    #[tokio::test]
    async fn a_node_that_does_not_answer_loses_its_volumes_in_the_end() {
        let fake = Fake::new();
        let mut lost = node(json!(["kubernetes.io/csi/d^h"]));
        lost["status"]["conditions"][0]["status"] = json!("Unknown");
        lost["status"]["volumesAttached"] = json!([{"name": "kubernetes.io/csi/d^h", "devicePath": ""}]);
        fake.put(lost.clone());
        fake.put(volume());
        let attachment = json!({"kind": "VolumeAttachment", "metadata": {"name": volumes::attachment("h", "d", "n")},
            "spec": {"attacher": "d", "nodeName": "n", "source": {"persistentVolumeName": "pv"}},
            "status": {"attached": true}});
        fake.put(attachment.clone());
        let context = fake.context();
        let tasks = start(&context, fake.client());
        let gone = || fake.names("volumeattachments").is_empty();
        fake.eventually(gone).await;
        assert!(context.world.elapsed() >= PATIENCE);
        // Another of the same name is waited for as long.
        let before = context.world.elapsed();
        fake.put(lost);
        fake.put(attachment);
        fake.eventually(gone).await;
        assert!(context.world.elapsed() >= before + PATIENCE);
        tasks.iter().for_each(Task::abort);
    }

    #[tokio::test]
    async fn from_a_pod_to_an_attached_volume_and_back() {
        let fake = Fake::new();
        fake.put(node(json!([])));
        fake.put(volume());
        fake.put(json!({"kind": "PersistentVolumeClaim", "metadata": {"namespace": "ns", "name": "c", "uid": "cu"},
            "spec": {"volumeName": "pv"}}));
        let pod = json!({"kind": "Pod", "metadata": {"namespace": "ns", "name": "p"}, "spec": {"nodeName": "n",
            "containers": [], "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]}});
        fake.put(pod);
        let tasks = start(&fake.context(), fake.client());
        let name = volumes::attachment("h", "d", "n");
        fake.eventually(|| fake.names("volumeattachments") == [name.clone()]).await;
        let mut attachment = fake.objects("volumeattachments").remove(0);
        attachment["kind"] = json!("VolumeAttachment");
        attachment["status"] = json!({"attached": true});
        fake.put(attachment);
        let told = || fake.objects("nodes")[0]["status"]["volumesAttached"][0]["name"].clone();
        fake.eventually(|| told() == "kubernetes.io/csi/d^h").await;
        // The node mounts it; the pod goes, and the volume stays until the node is done.
        let mut using = fake.objects("nodes").remove(0);
        using["kind"] = json!("Node");
        using["status"]["volumesInUse"] = json!(["kubernetes.io/csi/d^h"]);
        fake.put(using.clone());
        fake.remove("pods", "ns", "p");
        fake.settle().await;
        assert_eq!(fake.names("volumeattachments"), [name]);
        using["status"]["volumesInUse"] = json!([]);
        fake.put(using);
        fake.eventually(|| fake.names("volumeattachments").is_empty()).await;
        assert!(told().is_null());
        tasks.iter().for_each(Task::abort);
    }
}
