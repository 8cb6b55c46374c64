//! Every owner against every damage that the API allows: what is declared comes back, with no more pods than allowed on
//! the way, and whatever write the controllers die after.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{Either, select};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use serde_json::{Value, json};
use skiff_api::pods::{is_finished, is_ready};
use skiff_client::{DeleteOptions, Kind, Patch, Selection};
use skiff_testkit::cluster::Seen;
use skiff_testkit::{Cluster, Options};

use crate::support::{apply_in, cluster, namespace, run};

/// As many as there are nodes, so that a DaemonSet has as many.
const PODS: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Deployment,
    ReplicaSet,
    ReplicationController,
    StatefulSet,
    DaemonSet,
    Job,
}

use Owner::{
    DaemonSet as Daemon, Deployment as Web, Job as Work, ReplicaSet as Set, ReplicationController as Old,
    StatefulSet as Db,
};

const OWNERS: [Owner; 6] = [Web, Set, Old, Db, Daemon, Work];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Damage {
    /// A pod is deleted at once.
    Deleted,
    /// A pod no longer has the labels it is found by.
    LabelsStolen,
    /// A pod no longer names its owner.
    OwnerRemoved,
    /// A pod has failed.
    Failed,
    /// A pod's node has refused it.
    Refused,
    /// Two people ask for more and for fewer at once, and somebody turns what is in between.
    TornReplicas,
    /// A pod owns another one that owns it.
    Circle,
}

use Damage::{Circle, Deleted, Failed, LabelsStolen, OwnerRemoved, Refused, TornReplicas};

const DAMAGES: [Damage; 7] = [Deleted, LabelsStolen, OwnerRemoved, Failed, Refused, TornReplicas, Circle];

impl Owner {
    /// Declares it, called `a`.
    async fn declare(self, cluster: &Cluster, space: &str) {
        let policy = if self == Work { "Never" } else { "Always" };
        let template = json!({"metadata": {"labels": {"app": "a"}}, "spec": {"restartPolicy": policy,
            "terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": "i", "command": ["stay"]}]}});
        let selector = json!({"matchLabels": {"app": "a"}});
        let spec = json!({"replicas": PODS, "selector": selector, "template": template});
        match self {
            Web => apply_in::<Deployment>(cluster, space, "a", spec).await,
            Set => apply_in::<ReplicaSet>(cluster, space, "a", spec).await,
            Old => {
                let spec = json!({"replicas": PODS, "selector": {"app": "a"}, "template": template});
                apply_in::<ReplicationController>(cluster, space, "a", spec).await;
            }
            Db => {
                let spec = json!({"replicas": PODS, "selector": selector, "template": template, "serviceName": "a",
                    "podManagementPolicy": "Parallel"});
                apply_in::<StatefulSet>(cluster, space, "a", spec).await;
            }
            Daemon => {
                apply_in::<DaemonSet>(cluster, space, "a", json!({"selector": selector, "template": template})).await
            }
            Work => {
                apply_in::<Job>(
                    cluster,
                    space,
                    "a",
                    json!({"parallelism": PODS, "completions": PODS, "template": template}),
                )
                .await;
            }
        }
    }

    /// How many pods there may be beside those that end.
    fn most(self) -> usize {
        // A Deployment may have a quarter more, and keeps to the number it was last asked for.
        if self == Web { PODS + 1 } else { PODS }
    }

    async fn replicas(self, cluster: &Cluster, space: &str, count: usize) {
        let change =
            json!({"spec": if self == Work { json!({"parallelism": count}) } else { json!({"replicas": count}) }});
        match self {
            Web => patch::<Deployment>(cluster, space, "a", change).await,
            Set => patch::<ReplicaSet>(cluster, space, "a", change).await,
            Old => patch::<ReplicationController>(cluster, space, "a", change).await,
            Db => patch::<StatefulSet>(cluster, space, "a", change).await,
            Work => patch::<Job>(cluster, space, "a", change).await,
            Daemon => {}
        }
    }
}

async fn patch<K: Kind>(cluster: &Cluster, space: &str, name: &str, change: Value) {
    let api = cluster.admin().namespaced::<K>(space);
    api.patch(name, &Patch::Merge(change)).await.unwrap_or_else(|error| panic!("{space}/{name}: {error}"));
}

fn is_owned(pod: &Pod) -> bool {
    pod.metadata.owner_references.iter().flatten().any(|owner| owner.controller == Some(true))
}

fn is_meant(pod: &Pod) -> bool {
    let labelled = pod.metadata.labels.as_ref().and_then(|labels| labels.get("app")).is_some_and(|app| app == "a");
    labelled && is_owned(pod) && !pod.deleting() && !is_finished(pod)
}

/// All pods there are to be, at work.
async fn settled(cluster: &Cluster, space: &str) {
    let suits = |seen: &Seen<Pod>| {
        let meant: Vec<&Arc<Pod>> = seen.values().filter(|pod| is_meant(pod)).collect();
        meant.len() == PODS && meant.iter().all(|pod| is_ready(pod))
    };
    cluster.until(space, suits).await;
}

/// Returns when there are too many pods.
async fn too_many(cluster: &Cluster, space: &str, most: usize) -> usize {
    let look = |seen: &Seen<Pod>| match seen.values().filter(|pod| is_meant(pod)).count() {
        count if count > most => ControlFlow::Break(count),
        _ => ControlFlow::Continue(()),
    };
    cluster.follow(space, look).await.unwrap_or_default()
}

async fn inflict(damage: Damage, owner: Owner, cluster: &Cluster, space: &str) {
    let pods = cluster.admin().namespaced::<Pod>(space);
    let found = pods.list(&Selection::default()).await.unwrap().items;
    let (one, other) = (&found[0], &found[1]);
    let owns = |pod: &Pod| json!({"apiVersion": "v1", "kind": "Pod", "name": pod.name(), "uid": pod.uid()});
    match damage {
        Deleted => pods.delete(one.name(), &DeleteOptions::default().grace(0)).await.unwrap(),
        LabelsStolen => {
            let labels = json!({"app": "stolen", "controller-uid": null, "batch.kubernetes.io/controller-uid": null});
            patch::<Pod>(cluster, space, one.name(), json!({"metadata": {"labels": labels}})).await;
            if owner == Db {
                // Its name is taken until somebody clears it away.
                let alone = ("".to_owned() + space, one.name().to_owned());
                cluster.until::<Pod>(space, |seen| seen.get(&alone).is_some_and(|pod| !is_owned(pod))).await;
                pods.delete(one.name(), &DeleteOptions::default().grace(0)).await.unwrap();
            }
        }
        OwnerRemoved => patch::<Pod>(cluster, space, one.name(), json!({"metadata": {"ownerReferences": null}})).await,
        Failed | Refused => {
            let reason = (damage == Refused).then_some("OutOfcpu");
            let status = Patch::Merge(json!({"status": {"phase": "Failed", "reason": reason}}));
            pods.patch_status(one.name(), &status).await.unwrap();
        }
        TornReplicas => {
            owner.replicas(cluster, space, PODS - 2).await;
            if owner == Web {
                let sets = cluster.admin().namespaced::<ReplicaSet>(space);
                let set = sets.list(&Selection::default()).await.unwrap().items.remove(0);
                patch::<ReplicaSet>(cluster, space, set.name(), json!({"spec": {"replicas": 0}})).await;
            }
            owner.replicas(cluster, space, PODS).await;
        }
        Circle => {
            for (pod, by) in [(one, other), (other, one)] {
                let owners: Vec<Value> = pod
                    .metadata
                    .owner_references
                    .iter()
                    .flatten()
                    .map(|owner| json!(owner))
                    .chain([owns(by)])
                    .collect();
                patch::<Pod>(cluster, space, pod.name(), json!({"metadata": {"ownerReferences": owners}})).await;
            }
            pods.delete(one.name(), &DeleteOptions::default().propagation("Foreground")).await.unwrap();
        }
    }
}

/// Does `work` while there are never too many pods.
async fn bounded(cluster: &Cluster, space: &str, most: usize, work: impl Future<Output = ()>) {
    let broken = too_many(cluster, space, most);
    futures::pin_mut!(work, broken);
    if let Either::Right((count, _)) = select(work, broken).await {
        panic!("{space}: {count} pods, at most {most} are allowed");
    }
}

#[test]
fn every_owner_heals_of_every_damage() {
    let (sim, cluster) = cluster(31, &Options::default());
    for owner in OWNERS {
        for damage in DAMAGES {
            let space = format!("{owner:?}-{damage:?}").to_lowercase();
            run(&sim, 31, &space, async {
                namespace(&cluster, &space).await;
                owner.declare(&cluster, &space).await;
                settled(&cluster, &space).await;
                bounded(&cluster, &space, owner.most(), async {
                    inflict(damage, owner, &cluster, &space).await;
                    settled(&cluster, &space).await;
                })
                .await;
            });
            // Nothing is on its way that would change it again.
            run(&sim, 31, &space, bounded(&cluster, &space, owner.most(), sim.world().sleep(Duration::from_secs(30))));
            run(&sim, 31, &space, settled(&cluster, &space));
        }
    }
    assert_eq!(cluster.refused(), Vec::<String>::new());
}

/// From the first write of a life to the last.
#[test]
fn controllers_may_die_after_any_write() {
    const WRITES: u64 = 14;
    for owner in OWNERS {
        let (sim, mut cluster) = cluster(32, &Options::default());
        for write in 1..=WRITES {
            let space = format!("w-{write}");
            run(&sim, 32, &space, namespace(&cluster, &space));
            cluster.faults().die_after(write);
            let lives = async {
                owner.declare(&cluster, &space).await;
                settled(&cluster, &space).await;
            };
            // Whoever needs fewer writes settles before it dies.
            let dies = cluster.faults().death();
            run(&sim, 32, &space, async {
                bounded(&cluster, &space, owner.most(), async {
                    futures::pin_mut!(lives, dies);
                    select(lives, dies).await;
                })
                .await;
            });
            cluster.restart_controllers();
            run(&sim, 32, &space, bounded(&cluster, &space, owner.most(), settled(&cluster, &space)));
        }
        assert_eq!(cluster.refused(), Vec::<String>::new(), "{owner:?}");
    }
}
