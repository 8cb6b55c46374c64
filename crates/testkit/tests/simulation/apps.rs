//! What upstream's conformance suite says about workloads, on a whole cluster in a simulated world.

use std::time::Duration;

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};
use skiff_client::{Kind, Patch, Selection};
use skiff_testkit::cluster::Seen;
use skiff_testkit::{Cluster, Options, Sim};

use crate::support::{apply_in, cluster, namespace, run};

fn template(command: &[&str], policy: &str) -> Value {
    json!({"metadata": {"labels": {"app": "a"}}, "spec": {"restartPolicy": policy, "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "c", "image": "i:1", "command": command}]}})
}

fn workload(replicas: i32, change: Value) -> Value {
    let base =
        json!({"replicas": replicas, "selector": {"matchLabels": {"app": "a"}}, "template": template(&[], "Always")});
    skiff_meta::patch::merge_patch(&base, &change)
}

async fn patch<K: Kind>(cluster: &Cluster, namespace: &str, name: &str, change: Value) {
    let api = cluster.admin().namespaced::<K>(namespace);
    api.patch(name, &Patch::Merge(change)).await.unwrap_or_else(|error| panic!("{namespace}/{name}: {error}"));
}

async fn pods(cluster: &Cluster, namespace: &str) -> Vec<Pod> {
    cluster.admin().namespaced::<Pod>(namespace).list(&Selection::default()).await.unwrap().items
}

/// Waits until the only object of a kind suits.
async fn until<K: Kind>(cluster: &Cluster, namespace: &str, suits: impl Fn(&K) -> bool) {
    cluster.until(namespace, |seen: &Seen<K>| seen.values().any(|object| suits(object))).await;
}

fn image(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.containers[0].image.as_deref()).unwrap_or_default()
}

fn new_image(image: &str) -> Value {
    json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}}})
}

/// How a Job ended: its conditions with their reasons, and the indexes that succeeded and failed.
async fn ended(cluster: &Cluster, namespace: &str) -> (String, String, String) {
    let last = |job: &Job| {
        let conditions = job.status.as_ref()?.conditions.as_ref()?;
        let last = conditions.iter().find(|c| matches!(&*c.type_, "Complete" | "Failed") && c.status == "True")?;
        Some(format!("{} {}", last.type_, last.reason.as_deref().unwrap_or_default()))
    };
    until::<Job>(cluster, namespace, |job| last(job).is_some()).await;
    let job = cluster.admin().namespaced::<Job>(namespace).get("work").await.unwrap();
    let status = job.status.clone().unwrap_or_default();
    let indexes = |text: Option<String>| text.unwrap_or_default();
    (last(&job).unwrap_or_default(), indexes(status.completed_indexes), indexes(status.failed_indexes))
}

#[test]
fn jobs_end_as_they_say() {
    let (sim, cluster) = cluster(21, &Options::default());
    let rule = |action: &str, code: i32| json!({"rules": [{"action": action, "onExitCodes": {"operator": "In", "values": [code]}}]});
    let success = |rule: Value| json!({"rules": [rule]});
    let per_index = json!({"completionMode": "Indexed", "backoffLimitPerIndex": 0});
    let merged = |one: &Value, other: Value| skiff_meta::patch::merge_patch(one, &other);
    let indexed = json!({"completionMode": "Indexed"});
    let fails = |command: &[&str]| json!({"template": template(command, "Never")});
    let table: [(&str, Value, (&str, &str, &str)); 10] = [
        ("to completion", json!({"completions": 4}), ("Complete CompletionsReached", "", "")),
        ("indexed", indexed.clone(), ("Complete CompletionsReached", "0-3", "")),
        ("some indexes fail", merged(&per_index, fails(&["exit", "1", "2"])), ("Failed FailedIndexes", "0,1,3", "2")),
        (
            "too many indexes fail",
            merged(&merged(&per_index, json!({"maxFailedIndexes": 1, "parallelism": 1})), fails(&["exit", "1"])),
            ("Failed MaxFailedIndexesExceeded", "", "0,1"),
        ),
        (
            "an index fails for good",
            merged(
                &json!({"completionMode": "Indexed", "backoffLimitPerIndex": 6, "podFailurePolicy": rule("FailIndex", 7)}),
                fails(&["exit", "7", "1"]),
            ),
            ("Failed FailedIndexes", "0,2,3", "1"),
        ),
        (
            "a failure ends all",
            merged(&json!({"podFailurePolicy": rule("FailJob", 42)}), fails(&["exit", "42"])),
            ("Failed PodFailurePolicy", "", ""),
        ),
        (
            "too many failures",
            merged(&json!({"backoffLimit": 1}), fails(&["exit", "1"])),
            ("Failed BackoffLimitExceeded", "", ""),
        ),
        (
            "one index is enough",
            merged(&indexed, json!({"parallelism": 1, "successPolicy": success(json!({"succeededIndexes": "0"}))})),
            ("Complete SuccessPolicy", "0", ""),
        ),
        (
            "any two are enough",
            merged(&indexed, json!({"parallelism": 1, "successPolicy": success(json!({"succeededCount": 2}))})),
            ("Complete SuccessPolicy", "0,1", ""),
        ),
        (
            "too long",
            merged(&json!({"activeDeadlineSeconds": 20}), fails(&["stay"])),
            ("Failed DeadlineExceeded", "", ""),
        ),
    ];
    for (number, (name, change, expected)) in table.into_iter().enumerate() {
        let space = format!("job-{number}");
        let base = json!({"completions": 4, "parallelism": 2, "template": template(&[], "Never")});
        let found = run(&sim, 21, name, async {
            namespace(&cluster, &space).await;
            apply_in::<Job>(&cluster, &space, "work", merged(&base, change)).await;
            ended(&cluster, &space).await
        });
        assert_eq!((&*found.0, &*found.1, &*found.2), expected, "{name}");
        let left = run(&sim, 21, name, pods(&cluster, &space));
        let held = left.iter().filter(|pod| pod.metadata.finalizers.is_some()).count();
        assert_eq!(held, 0, "{name}: no pod is kept back once it is counted");
    }
    assert_eq!(cluster.refused(), Vec::<String>::new());
}

#[test]
fn jobs_adopt_release_and_pause() {
    let (sim, cluster) = cluster(22, &Options::default());
    run(&sim, 22, "job", async {
        namespace(&cluster, "j").await;
        let spec = json!({"completions": 2, "parallelism": 2, "template": template(&["stay"], "Never")});
        apply_in::<Job>(&cluster, "j", "work", spec).await;
        let active = |count: i32| {
            move |job: &Job| {
                let status = job.status.clone().unwrap_or_default();
                status.active.unwrap_or(0) == count && status.ready.unwrap_or(0) == count
            }
        };
        until::<Job>(&cluster, "j", active(2)).await;
        let all = pods(&cluster, "j").await;
        // An orphan is taken in again, with what keeps it until it is counted.
        let bare = json!({"metadata": {"ownerReferences": null, "finalizers": null}});
        patch::<Pod>(&cluster, "j", all[0].name(), bare).await;
        let owned = |seen: &Seen<Pod>| {
            let meta = |pod: &Pod| pod.metadata.owner_references.is_some() && pod.metadata.finalizers.is_some();
            seen.len() == 2 && seen.values().all(|pod| meta(pod))
        };
        cluster.until("j", owned).await;
        // One that is no longer meant is let go, and replaced.
        let labels =
            json!({"metadata": {"labels": {"batch.kubernetes.io/controller-uid": null, "controller-uid": null}}});
        patch::<Pod>(&cluster, "j", all[1].name(), labels).await;
        let name = all[1].name().to_owned();
        let released = |seen: &Seen<Pod>| {
            let alone = |pod: &Pod| pod.metadata.owner_references.is_none() && pod.metadata.finalizers.is_none();
            seen.len() == 3 && seen.get(&("j".to_owned(), name.clone())).is_some_and(|pod| alone(pod))
        };
        cluster.until("j", released).await;
        patch::<Job>(&cluster, "j", "work", json!({"spec": {"suspend": true}})).await;
        until::<Job>(&cluster, "j", active(0)).await;
        patch::<Job>(&cluster, "j", "work", json!({"spec": {"suspend": false}})).await;
        until::<Job>(&cluster, "j", active(2)).await;
    });
    assert_eq!(cluster.refused(), Vec::<String>::new());
}

async fn rolled_out(cluster: &Cluster, namespace: &str, replicas: i32) {
    let done = move |web: &Deployment| {
        let status = web.status.clone().unwrap_or_default();
        let all = [status.replicas, status.updated_replicas, status.available_replicas];
        status.observed_generation == web.metadata.generation && all.iter().all(|n| n.unwrap_or(0) == replicas)
    };
    until(cluster, namespace, done).await;
}

#[test]
fn deployments_roll_over_recreate_and_give_up() {
    let (sim, cluster) = cluster(23, &Options::default());
    run(&sim, 23, "rollover", async {
        namespace(&cluster, "over").await;
        apply_in::<Deployment>(&cluster, "over", "web", workload(4, json!({"revisionHistoryLimit": 0}))).await;
        // The second template comes before the first is out, the third before the second.
        patch::<Deployment>(&cluster, "over", "web", new_image("i:2")).await;
        until::<Deployment>(&cluster, "over", |web| web.status.as_ref().is_some_and(|s| s.updated_replicas.is_some()))
            .await;
        patch::<Deployment>(&cluster, "over", "web", new_image("i:3")).await;
        rolled_out(&cluster, "over", 4).await;
        cluster.until::<ReplicaSet>("over", |seen| seen.len() == 1).await;
        let running = |pod: &&Pod| !pod.deleting();
        assert!(pods(&cluster, "over").await.iter().filter(running).all(|pod| image(pod) == "i:3"));
        // Another spelling of the same quantity means the same.
        let cpu = |text: &str| {
            json!({"spec": {"template": {"spec": {"containers":
                [{"name": "c", "image": "i:3", "resources": {"requests": {"cpu": text}}}]}}}})
        };
        patch::<Deployment>(&cluster, "over", "web", cpu("1")).await;
        rolled_out(&cluster, "over", 4).await;
        let names = |sets: Vec<ReplicaSet>| sets.iter().map(|set| set.name().to_owned()).collect::<Vec<_>>();
        let sets = cluster.admin().namespaced::<ReplicaSet>("over");
        cluster.until::<ReplicaSet>("over", |seen| seen.len() == 1).await;
        let before = names(sets.list(&Selection::default()).await.unwrap().items);
        patch::<Deployment>(&cluster, "over", "web", cpu("1000m")).await;
        rolled_out(&cluster, "over", 4).await;
        assert_eq!(names(sets.list(&Selection::default()).await.unwrap().items), before);
    });
    run(&sim, 23, "recreate", async {
        namespace(&cluster, "anew").await;
        let spec = workload(3, json!({"strategy": {"type": "Recreate"}}));
        apply_in::<Deployment>(&cluster, "anew", "web", spec).await;
        rolled_out(&cluster, "anew", 3).await;
        patch::<Deployment>(&cluster, "anew", "web", new_image("i:2")).await;
        let seen_apart = cluster.until("anew", |seen: &Seen<Pod>| {
            let has = |wanted: &str| seen.values().any(|pod| image(pod) == wanted);
            assert!(!(has("i:1") && has("i:2")), "old and new at once");
            has("i:2")
        });
        seen_apart.await;
        rolled_out(&cluster, "anew", 3).await;
    });
    run(&sim, 23, "deadline", async {
        namespace(&cluster, "late").await;
        let stuck = json!({"progressDeadlineSeconds": 30, "template": template(&["unready"], "Always")});
        apply_in::<Deployment>(&cluster, "late", "web", workload(2, stuck)).await;
        until::<Deployment>(&cluster, "late", |web| {
            let mut conditions = web.status.iter().flat_map(|status| status.conditions.iter().flatten());
            conditions.any(|c| c.type_ == "Progressing" && c.reason.as_deref() == Some("ProgressDeadlineExceeded"))
        })
        .await;
    });
    assert_eq!(cluster.refused(), Vec::<String>::new());
}

async fn ordinals(cluster: &Cluster, namespace: &str) -> Vec<String> {
    let mut names: Vec<_> = pods(cluster, namespace).await.iter().map(|pod| pod.name().to_owned()).collect();
    names.sort();
    names
}

async fn stateful(cluster: &Cluster, namespace: &str, suits: impl Fn(i32, i32, i32) -> bool) {
    until::<StatefulSet>(cluster, namespace, |set| {
        let status = set.status.clone().unwrap_or_default();
        status.observed_generation == set.metadata.generation
            && suits(status.replicas, status.available_replicas.unwrap_or(0), status.updated_replicas.unwrap_or(0))
    })
    .await;
}

#[test]
fn stateful_sets_keep_their_order_and_their_claims() {
    let (sim, cluster) = cluster(24, &Options::default());
    let claims = json!([{"metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "", "resources": {"requests": {"storage": "1Gi"}}}}]);
    run(&sim, 24, "partition", async {
        namespace(&cluster, "db").await;
        apply_in::<StatefulSet>(&cluster, "db", "db", workload(3, json!({"serviceName": "db"}))).await;
        stateful(&cluster, "db", |_, available, _| available == 3).await;
        let rolling = json!({"spec": {"updateStrategy": {"rollingUpdate": {"partition": 2}}}});
        patch::<StatefulSet>(&cluster, "db", "db", rolling).await;
        patch::<StatefulSet>(&cluster, "db", "db", new_image("i:2")).await;
        stateful(&cluster, "db", |_, available, updated| available == 3 && updated == 1).await;
        let images: Vec<_> =
            pods(&cluster, "db").await.iter().map(|pod| (pod.name().to_owned(), image(pod).to_owned())).collect();
        let of = |name: &str| images.iter().find(|(known, _)| known == name).map(|(_, image)| image.clone());
        assert_eq!((of("db-1").as_deref(), of("db-2").as_deref()), (Some("i:1"), Some("i:2")));
        // Back to where it came from, revision and all.
        patch::<StatefulSet>(&cluster, "db", "db", new_image("i:1")).await;
        stateful(&cluster, "db", |_, available, updated| available == 3 && updated == 3).await;
        cluster.until::<ControllerRevision>("db", |seen| seen.len() == 2).await;
    });
    run(&sim, 24, "order", async {
        namespace(&cluster, "ord").await;
        let stuck =
            json!({"serviceName": "db", "template": template(&["unready"], "Always"), "ordinals": {"start": 5}});
        apply_in::<StatefulSet>(&cluster, "ord", "db", workload(3, stuck)).await;
        stateful(&cluster, "ord", |replicas, _, _| replicas == 1).await;
        cluster
            .until::<Pod>("ord", |seen| {
                seen.values().any(|pod| pod.status.as_ref().is_some_and(|s| s.start_time.is_some()))
            })
            .await;
    });
    sim.run_for(Duration::from_secs(30));
    assert_eq!(run(&sim, 24, "halted", ordinals(&cluster, "ord")), ["db-5"]);
    run(&sim, 24, "claims", async {
        for number in 0..3 {
            let volume = json!({"metadata": {"name": format!("v{number}")}, "spec": {"capacity": {"storage": "2Gi"},
                "accessModes": ["ReadWriteOnce"], "persistentVolumeReclaimPolicy": "Retain",
                "hostPath": {"path": "/var/lib/data"}}});
            let volume = serde_json::from_value(volume).unwrap();
            cluster.admin().all::<k8s_openapi::api::core::v1::PersistentVolume>().create(&volume).await.unwrap();
        }
        namespace(&cluster, "vol").await;
        let policy = json!({"whenDeleted": "Delete", "whenScaled": "Delete"});
        let spec = json!({"serviceName": "db", "podManagementPolicy": "Parallel", "volumeClaimTemplates": claims,
            "persistentVolumeClaimRetentionPolicy": policy});
        apply_in::<StatefulSet>(&cluster, "vol", "db", workload(3, spec)).await;
        stateful(&cluster, "vol", |_, available, _| available == 3).await;
        type Claims = Seen<k8s_openapi::api::core::v1::PersistentVolumeClaim>;
        let bound = |count: usize| {
            move |seen: &Claims| {
                let phase = |c: &k8s_openapi::api::core::v1::PersistentVolumeClaim| {
                    c.status.as_ref().and_then(|s| s.phase.clone())
                };
                seen.len() == count && seen.values().all(|claim| phase(claim).as_deref() == Some("Bound"))
            }
        };
        cluster.until("vol", bound(3)).await;
        patch::<StatefulSet>(&cluster, "vol", "db", json!({"spec": {"replicas": 1}})).await;
        cluster.until("vol", bound(1)).await;
        let sets = cluster.admin().namespaced::<StatefulSet>("vol");
        sets.delete("db", &skiff_client::DeleteOptions::default().propagation("Background")).await.unwrap();
        cluster.until("vol", |seen: &Claims| seen.is_empty()).await;
        let released = |seen: &Seen<k8s_openapi::api::core::v1::PersistentVolume>| {
            let phase =
                |v: &k8s_openapi::api::core::v1::PersistentVolume| v.status.as_ref().and_then(|s| s.phase.clone());
            seen.values().all(|volume| phase(volume).as_deref() == Some("Released"))
        };
        cluster.until("", released).await;
    });
    assert_eq!(cluster.refused(), Vec::<String>::new());
}

async fn daemons(cluster: &Cluster, namespace: &str, count: i32) {
    until::<DaemonSet>(cluster, namespace, |set| {
        let status = set.status.clone().unwrap_or_default();
        status.observed_generation == set.metadata.generation
            && (status.desired_number_scheduled, status.updated_number_scheduled.unwrap_or(0)) == (count, count)
            && status.number_available.unwrap_or(0) == count
    })
    .await;
}

#[test]
fn daemon_sets_follow_nodes_and_go_back() {
    let (sim, cluster) = cluster(25, &Options::default());
    let spec = |change: Value| {
        let base = json!({"selector": {"matchLabels": {"app": "a"}}, "template": template(&[], "Always")});
        skiff_meta::patch::merge_patch(&base, &change)
    };
    run(&sim, 25, "follow", async {
        namespace(&cluster, "ds").await;
        let chosen = json!({"template": {"spec": {"nodeSelector": {"colour": "blue"}}}});
        apply_in::<DaemonSet>(&cluster, "ds", "agent", spec(chosen)).await;
        let colour = async |colour: Value| {
            let labels = Patch::Merge(json!({"metadata": {"labels": {"colour": colour}}}));
            cluster.admin().all::<Node>().patch("node-1", &labels).await.unwrap();
        };
        colour(json!("blue")).await;
        daemons(&cluster, "ds", 1).await;
        colour(json!("red")).await;
        cluster.until::<Pod>("ds", Seen::is_empty).await;
    });
    run(&sim, 25, "failed pods are replaced", async {
        namespace(&cluster, "fail").await;
        apply_in::<DaemonSet>(&cluster, "fail", "agent", spec(json!({}))).await;
        daemons(&cluster, "fail", 3).await;
        let victim = pods(&cluster, "fail").await.remove(0);
        let failed = Patch::Merge(json!({"status": {"phase": "Failed"}}));
        cluster.admin().namespaced::<Pod>("fail").patch_status(victim.name(), &failed).await.unwrap();
        let gone = ("fail".to_owned(), victim.name().to_owned());
        cluster.until::<Pod>("fail", |seen| !seen.contains_key(&gone)).await;
        daemons(&cluster, "fail", 3).await;
    });
    run(&sim, 25, "rollback", async {
        // One pod gets the bad template and does not become ready; going back leaves the others alone.
        let uids =
            |pods: Vec<Pod>| pods.iter().map(|pod| pod.uid().to_owned()).collect::<std::collections::BTreeSet<_>>();
        let before = uids(pods(&cluster, "fail").await);
        let bad = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "i:1", "command": ["unready"]}]}}}});
        patch::<DaemonSet>(&cluster, "fail", "agent", bad).await;
        until::<DaemonSet>(&cluster, "fail", |set| {
            set.status.as_ref().is_some_and(|s| s.updated_number_scheduled == Some(1))
        })
        .await;
        let good =
            json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "i:1", "command": null}]}}}});
        patch::<DaemonSet>(&cluster, "fail", "agent", good).await;
        daemons(&cluster, "fail", 3).await;
        let after = uids(pods(&cluster, "fail").await);
        assert_eq!(before.intersection(&after).count(), 2, "two pods were never restarted");
    });
    run(&sim, 25, "surge", async {
        namespace(&cluster, "surge").await;
        let rolling = json!({"updateStrategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}});
        apply_in::<DaemonSet>(&cluster, "surge", "agent", spec(rolling)).await;
        daemons(&cluster, "surge", 3).await;
        patch::<DaemonSet>(&cluster, "surge", "agent", new_image("i:2")).await;
        let all_new = |seen: &Seen<Pod>| {
            let serving = |pod: &&std::sync::Arc<Pod>| !pod.deleting() && skiff_api::pods::is_ready(pod);
            assert!(seen.values().filter(serving).count() >= 3, "never fewer than one a node");
            seen.len() == 3 && seen.values().all(|pod| image(pod) == "i:2")
        };
        cluster.until("surge", all_new).await;
    });
    assert_eq!(cluster.refused(), Vec::<String>::new());
}

fn cron(sim: &Sim, cluster: &Cluster, space: &str, change: Value, command: &[&str], minutes: u64) -> usize {
    run(sim, 26, space, async {
        namespace(cluster, space).await;
        let job = json!({"spec": {"template": template(command, "Never")}});
        let base = json!({"schedule": "* * * * *", "jobTemplate": job, "successfulJobsHistoryLimit": 100});
        apply_in::<CronJob>(cluster, space, "tick", skiff_meta::patch::merge_patch(&base, &change)).await;
    });
    // A little more than the minutes, so that none falls on the edge.
    sim.run_for(Duration::from_secs(60 * minutes + 20));
    let jobs = cluster.admin().namespaced::<Job>(space);
    run(sim, 26, space, jobs.list(&Selection::default())).unwrap().items.iter().filter(|job| !job.deleting()).count()
}

#[test]
fn cron_jobs_keep_time() {
    let (sim, cluster) = cluster(26, &Options::default());
    // The world begins at midnight in Greenwich.
    let zone = json!({"schedule": "35 5 * * *", "timeZone": "Asia/Kolkata"});
    assert_eq!(cron(&sim, &cluster, "zone", zone, &[], 10), 1);
    let policy = |policy: &str| json!({"concurrencyPolicy": policy});
    assert_eq!(cron(&sim, &cluster, "allow", policy("Allow"), &["stay"], 3), 3);
    assert_eq!(cron(&sim, &cluster, "forbid", policy("Forbid"), &["stay"], 3), 1);
    assert_eq!(cron(&sim, &cluster, "replace", policy("Replace"), &["stay"], 3), 1);
    assert_eq!(cron(&sim, &cluster, "suspended", json!({"suspend": true}), &[], 3), 0);
    assert_eq!(cron(&sim, &cluster, "history", json!({"successfulJobsHistoryLimit": 2}), &[], 5), 2);
    assert_eq!(cluster.refused(), Vec::<String>::new());
}
