//! Disruption budgets: how many pods may be evicted right now. The eviction itself is the API server's decision, which
//! reads what is written here.

mod plan;

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use skiff_client::{
    After, Change, Client, ClientError, Informer, Key, Kind, Recorder, Store, WorkQueue, Workers, involved,
};
use skiff_meta::WorldRef;
use skiff_meta::world::Task;

use crate::Context;
use crate::shared::{controller_of, selector, selects};

struct Controller {
    client: Client,
    world: WorldRef,
    recorder: Recorder,
    budgets: Store<PodDisruptionBudget>,
    pods: Store<Pod>,
    deployments: Store<Deployment>,
    sets: Store<ReplicaSet>,
    stateful_sets: Store<StatefulSet>,
    controllers: Store<ReplicationController>,
}

/// Starts the disruption controller.
pub(crate) fn start(context: &Context, client: Client) -> Vec<Task> {
    let budgets = context.informers.all::<PodDisruptionBudget>();
    let pods = context.informers.all::<Pod>();
    let (deployments, sets) = (context.informers.all::<Deployment>(), context.informers.all::<ReplicaSet>());
    let (stateful_sets, controllers) =
        (context.informers.all::<StatefulSet>(), context.informers.all::<ReplicationController>());
    let queue = WorkQueue::new(context.world.clone());
    let to_queue = queue.clone();
    budgets.on(move |change: &Change<'_, PodDisruptionBudget>| to_queue.add(change.key(), change.trace));
    let (to_queue, known) = (queue.clone(), budgets.store());
    pods.on(move |change: &Change<'_, Pod>| {
        let Some(pod) = change.object() else { return };
        for budget in known.in_namespace(pod.namespace()) {
            let wanted = selector(budget.spec.as_ref().and_then(|spec| spec.selector.as_ref()));
            if change.states().any(|state| selects(&wanted, state.metadata.labels.as_ref())) {
                to_queue.add(Key::of(&*budget), change.trace);
            }
        }
    });
    enqueue_on_scale(&deployments, &budgets, &queue, |d| d.spec.as_ref()?.replicas);
    enqueue_on_scale(&sets, &budgets, &queue, |s| s.spec.as_ref()?.replicas);
    enqueue_on_scale(&stateful_sets, &budgets, &queue, |s| s.spec.as_ref()?.replicas);
    enqueue_on_scale(&controllers, &budgets, &queue, |c| c.spec.as_ref()?.replicas);
    let synced = vec![
        budgets.synced(),
        pods.synced(),
        deployments.synced(),
        sets.synced(),
        stateful_sets.synced(),
        controllers.synced(),
    ];
    let controller = Arc::new(Controller {
        recorder: Recorder::new(client.clone(), context.world.clone(), "controllermanager", ""),
        client,
        world: context.world.clone(),
        budgets: budgets.store(),
        pods: pods.store(),
        deployments: deployments.store(),
        sets: sets.store(),
        stateful_sets: stateful_sets.store(),
        controllers: controllers.store(),
    });
    let workers = Workers { world: context.world.clone(), name: "disruption-controller", count: 1, synced };
    workers.start(queue, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    })
}

/// A change of what an owner wants may change every budget of its namespace that counts in parts.
fn enqueue_on_scale<K: Kind>(
    owners: &Informer<K>,
    budgets: &Informer<PodDisruptionBudget>,
    queue: &WorkQueue<Key>,
    replicas: fn(&K) -> Option<i32>,
) {
    let (queue, budgets) = (queue.clone(), budgets.store());
    owners.on(move |change: &Change<'_, K>| {
        let size = |owner: Option<&Arc<K>>| owner.and_then(|owner| replicas(owner));
        if change.old.is_some() && size(change.old) == size(change.new) {
            return;
        }
        let namespace = change.key().namespace;
        for budget in budgets.in_namespace(&namespace).iter().filter(|budget| plan::needs_scale(budget)) {
            queue.add(Key::of(&**budget), change.trace);
        }
    });
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<After, ClientError> {
        let Some(budget) = self.budgets.get_key(key) else { return Ok(After::Change) };
        let wanted = selector(budget.spec.as_ref().and_then(|spec| spec.selector.as_ref()));
        let mut pods = self.pods.in_namespace(&key.namespace);
        pods.retain(|pod| selects(&wanted, pod.metadata.labels.as_ref()));
        let now = self.world.now();
        let scale = if plan::needs_scale(&budget) { self.scale(&budget, &pods).await } else { Ok(0) };
        let status = match scale {
            Ok(scale) => plan::status(&budget, &pods, scale, now),
            Err(error) => {
                let message = format!("Failed to calculate the number of expected pods: {error}");
                self.recorder.warning(&involved(&*budget), "CalculateExpectedPodCountFailed", message);
                plan::failed(&budget, &error.to_string(), now)
            }
        };
        let again = plan::look_again(&status, now);
        if budget.status.as_ref() != Some(&status) {
            let updated = PodDisruptionBudget { status: Some(status), ..(*budget).clone() };
            self.client.namespaced::<PodDisruptionBudget>(&key.namespace).update_status(&updated).await?;
        }
        Ok(again.map_or(After::Change, After::Delay))
    }

    /// How many pods the owners of these pods want together. Pods without an owner are told and not counted.
    async fn scale(&self, budget: &PodDisruptionBudget, pods: &[Arc<Pod>]) -> Result<i32, ClientError> {
        let mut scales: BTreeMap<String, i32> = BTreeMap::new();
        let mut unmanaged = false;
        for pod in pods {
            let Some(owner) = controller_of(&**pod) else {
                unmanaged = true;
                continue;
            };
            if !scales.contains_key(&owner.uid) {
                let (uid, scale) = self.owner_scale(pod.namespace(), owner).await?;
                scales.insert(owner.uid.clone(), 0);
                scales.insert(uid, scale);
            }
        }
        if unmanaged {
            let message = "Pods selected by this PodDisruptionBudget were found to be unmanaged. To account for these \
                           pods please set \".spec.minAvailable\" field of the PDB to an integer value.";
            self.recorder.warning(&involved(budget), "UnmanagedPods", message);
        }
        Ok(scales.values().sum())
    }

    /// Who decides about the number of pods, and what they want: behind a ReplicaSet, its Deployment.
    async fn owner_scale(&self, namespace: &str, owner: &OwnerReference) -> Result<(String, i32), ClientError> {
        fn of<K: Kind>(found: Option<Arc<K>>, uid: &str, replicas: fn(&K) -> Option<i32>) -> Option<(String, i32)> {
            let found = found.filter(|found| found.uid() == uid)?;
            Some((uid.to_owned(), replicas(&found).unwrap_or(1)))
        }
        let (name, uid) = (&*owner.name, &*owner.uid);
        let known = match &*owner.kind {
            "ReplicaSet" => {
                let set = self.sets.get(namespace, name);
                let above =
                    set.as_ref().and_then(|set| controller_of(&**set)).filter(|above| above.kind == "Deployment");
                match above {
                    Some(above) => {
                        let deployment = self.deployments.get(namespace, &above.name);
                        of(deployment, &above.uid, |d| d.spec.as_ref()?.replicas)
                    }
                    None => of(set, uid, |s| s.spec.as_ref()?.replicas),
                }
            }
            "StatefulSet" => of(self.stateful_sets.get(namespace, name), uid, |s| s.spec.as_ref()?.replicas),
            "ReplicationController" => of(self.controllers.get(namespace, name), uid, |c| c.spec.as_ref()?.replicas),
            _ => None,
        };
        match known {
            Some(known) => Ok(known),
            None => self.scale_subresource(namespace, owner).await,
        }
    }

    /// Any other owner must say it through its `scale` subresource.
    async fn scale_subresource(&self, namespace: &str, owner: &OwnerReference) -> Result<(String, i32), ClientError> {
        let discovery = self.client.discovery().await?;
        let (group, version) = owner.api_version.split_once('/').unwrap_or(("", &owner.api_version));
        let Some(resource) = discovery.kind(group, version, &owner.kind).filter(|resource| resource.has("scale"))
        else {
            let what = format!("{} {} does not implement the scale subresource", owner.kind, owner.name);
            return Err(ClientError::BadAnswer(what));
        };
        let scale = self.client.dynamic(&resource.gvr(), namespace).scale(&owner.name).await?;
        Ok((owner.uid.clone(), scale.spec.and_then(|spec| spec.replicas).unwrap_or(0)))
    }
}
