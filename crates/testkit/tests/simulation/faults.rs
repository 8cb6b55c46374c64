//! Every owner comes back to what is declared, whatever happens to it on the way: lost answers, conflicts, watches that
//! lag, and controllers that die between any two writes.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{Either, select};
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use skiff_client::{DeleteOptions, Kind, Patch, Selection};
use skiff_testkit::cluster::Seen;
use skiff_testkit::faults::Rates;
use skiff_testkit::writes::Writes;
use skiff_testkit::{Cluster, Options, Sim};

use crate::support::{LIMIT, apply_in, cluster, run, under_every_seed};

const SEEDS: u64 = 12;
const REPLICAS: i32 = 4;
const COMPLETIONS: i32 = 6;

fn template(app: &str, image: &str, policy: &str) -> Value {
    json!({"metadata": {"labels": {"app": app}},
        "spec": {"restartPolicy": policy, "containers": [{"name": app, "image": image}]}})
}

/// Declares one of each; `image` tells the rounds apart.
async fn declare(cluster: &Cluster, image: &str) {
    let spec =
        |app: &str| json!({"selector": {"matchLabels": {"app": app}}, "template": template(app, image, "Always")});
    let mut web = spec("web");
    web["replicas"] = json!(REPLICAS);
    web["strategy"] = json!({"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 1}});
    apply_in::<Deployment>(cluster, "default", "web", web).await;
    let mut db = spec("db");
    db["replicas"] = json!(3);
    db["serviceName"] = json!("db");
    apply_in::<StatefulSet>(cluster, "default", "db", db).await;
    apply_in::<DaemonSet>(cluster, "default", "agent", spec("agent")).await;
}

async fn start_job(cluster: &Cluster) {
    let spec = json!({"completions": COMPLETIONS, "parallelism": 2, "template": template("work", "work:1", "Never")});
    apply_in::<Job>(cluster, "default", "work", spec).await;
}

fn all_of(count: Option<i32>, wanted: i32) -> bool {
    count.unwrap_or(0) == wanted
}

async fn settled(cluster: &Cluster) {
    let web = |seen: &Seen<Deployment>| {
        seen.values().any(|web| {
            let Some(status) = &web.status else { return false };
            status.observed_generation == web.metadata.generation
                && all_of(status.updated_replicas, REPLICAS)
                && all_of(status.replicas, REPLICAS)
                && all_of(status.available_replicas, REPLICAS)
        })
    };
    let db = |seen: &Seen<StatefulSet>| {
        seen.values().any(|db| {
            let Some(status) = &db.status else { return false };
            status.observed_generation == db.metadata.generation
                && status.current_revision == status.update_revision
                && all_of(status.available_replicas, 3)
        })
    };
    let agent = |seen: &Seen<DaemonSet>| {
        seen.values().any(|agent| {
            let Some(status) = &agent.status else { return false };
            status.observed_generation == agent.metadata.generation
                && all_of(status.updated_number_scheduled, 3)
                && all_of(status.number_available, 3)
        })
    };
    cluster.until("default", web).await;
    cluster.until("default", db).await;
    cluster.until("default", agent).await;
}

/// Looks at every change, and returns what is wrong as soon as something is.
async fn broken(cluster: &Cluster) -> String {
    let surge = cluster.follow("default", |seen: &Seen<ReplicaSet>| {
        let asked = seen.values().filter_map(|set| set.spec.as_ref()?.replicas).sum::<i32>();
        if asked > REPLICAS + 1 {
            ControlFlow::Break(format!("{asked} pods are asked for"))
        } else {
            ControlFlow::Continue(())
        }
    });
    let mut succeeded = BTreeSet::new();
    let pods = cluster.follow("default", move |seen: &Seen<Pod>| {
        let of = |app: &str| {
            let labelled = move |pod: &&Arc<Pod>| {
                pod.metadata.labels.as_ref().and_then(|labels| labels.get("app")).is_some_and(|label| label == app)
            };
            seen.values().filter(labelled).filter(|pod| !pod.deleting()).collect::<Vec<_>>()
        };
        let phase = |pod: &&&Arc<Pod>| pod.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Succeeded");
        succeeded.extend(of("work").iter().filter(phase).map(|pod| pod.uid().to_owned()));
        let working = of("work").iter().filter(|pod| !phase(pod)).count();
        if working > 2 {
            return ControlFlow::Break(format!("{working} pods of the Job run at a time"));
        }
        let (web, db) = (of("web").len(), of("db").len());
        // Each set of the Deployment is told its size in turn, so both may be at their larger one for a moment.
        if web > 2 * REPLICAS as usize || db > 3 {
            return ControlFlow::Break(format!("{web} pods of the Deployment, {db} of the StatefulSet"));
        }
        ControlFlow::Continue(())
    });
    let counted = cluster.follow("default", |seen: &Seen<Job>| {
        let count = seen.values().filter_map(|job| job.status.as_ref()?.succeeded).max().unwrap_or(0);
        if count > COMPLETIONS {
            ControlFlow::Break(format!("{count} successes are counted"))
        } else {
            ControlFlow::Continue(())
        }
    });
    futures::pin_mut!(surge, pods, counted);
    let first = select(surge, select(pods, counted)).await;
    let what = match first {
        Either::Left((what, _)) => what,
        Either::Right((Either::Left((what, _)) | Either::Right((what, _)), _)) => what,
    };
    what.unwrap_or_default()
}

/// Does `work` while nothing may break.
async fn unbroken(seed: u64, cluster: &Cluster, work: impl Future<Output = ()>) {
    let broken = broken(cluster);
    futures::pin_mut!(work, broken);
    if let Either::Right((what, _)) = select(work, broken).await {
        panic!("seed {seed}: {what}");
    }
}

/// Damages what is there in ways that the API allows.
async fn damage(cluster: &Cluster, seed: u64) {
    let pods = cluster.admin().namespaced::<Pod>("default");
    let mine = |app: &str| Selection { labels: format!("app={app}"), ..Selection::default() };
    let first = async |app: &str| pods.list(&mine(app)).await.unwrap().items.into_iter().find(|pod| !pod.deleting());
    let now = DeleteOptions::default().grace(0);
    for app in ["db", "agent", "web"] {
        if let Some(pod) = first(app).await.filter(|_| seed % 3 != 1) {
            let _ = pods.delete(pod.name(), &now).await;
        }
    }
    // Labels are stolen from one, the owner from another.
    if let Some(pod) = first("web").await {
        let stolen = Patch::Merge(json!({"metadata": {"labels": {"app": "stolen"}}}));
        let _ = pods.patch(pod.name(), &stolen).await;
    }
    if let Some(pod) = first("web").await {
        let _ = pods.patch(pod.name(), &Patch::Merge(json!({"metadata": {"ownerReferences": null}}))).await;
    }
}

fn heal(seed: u64) {
    let options = Options { faults: Rates::STORM, ..Options::default() };
    let (sim, mut cluster) = cluster(seed, &options);
    run(&sim, seed, "declare", declare(&cluster, "app:1"));
    for round in 0..3 {
        cluster.faults().die_after(3 + (seed * 7 + round * 11) % 40);
        let dies = async {
            let settles = async {
                settled(&cluster).await;
                futures::future::pending::<()>().await;
            };
            let dead = cluster.faults().death();
            futures::pin_mut!(settles, dead);
            select(settles, dead).await;
        };
        // Whoever has nothing left to write does not die of it.
        let _ = sim.run_until(unbroken(seed, &cluster, dies), Duration::from_secs(60));
        cluster.restart_controllers();
        match round {
            0 => run(&sim, seed, "job", start_job(&cluster)),
            1 => run(&sim, seed, "damage", damage(&cluster, seed)),
            _ => run(&sim, seed, "update", declare(&cluster, "app:2")),
        }
    }
    run(&sim, seed, "healing", async {
        unbroken(seed, &cluster, async {
            settled(&cluster).await;
            let complete = |seen: &Seen<Job>| seen.values().any(|job| has_succeeded(job));
            cluster.until("default", complete).await;
        })
        .await;
    });
    leave_nothing(&sim, seed, &cluster);
}

fn has_succeeded(job: &Job) -> bool {
    let Some(status) = &job.status else { return false };
    let complete = status.conditions.iter().flatten().any(|c| c.type_ == "Complete" && c.status == "True");
    assert!(!complete || status.succeeded == Some(COMPLETIONS), "a Job is complete with {:?}", status.succeeded);
    complete
}

fn leave_nothing(sim: &Sim, seed: u64, cluster: &Cluster) {
    cluster.faults().stop();
    run(sim, seed, "deletion", async {
        let (client, background) = (cluster.admin(), DeleteOptions::default().propagation("Background"));
        let stolen = Selection { labels: "app=stolen".to_owned(), ..Selection::default() };
        client.namespaced::<Pod>("default").delete_all(&stolen, &background).await.unwrap();
        client.namespaced::<Deployment>("default").delete("web", &background).await.unwrap();
        client.namespaced::<StatefulSet>("default").delete("db", &background).await.unwrap();
        client.namespaced::<DaemonSet>("default").delete("agent", &background).await.unwrap();
        client.namespaced::<Job>("default").delete("work", &background).await.unwrap();
        cluster.until::<ReplicaSet>("default", Seen::is_empty).await;
        cluster.until::<ControllerRevision>("default", Seen::is_empty).await;
        cluster.until::<Pod>("default", Seen::is_empty).await;
    });
    sim.run_for(Duration::from_secs(10));
    let before = run(sim, seed, "revision", cluster.store().revision()).unwrap();
    sim.run_for(Duration::from_secs(60));
    let writes = run(sim, seed, "writes", Writes::since(&**cluster.store(), before)).unwrap();
    assert_eq!(writes.total(), 0, "seed {seed}: an idle cluster writes nothing:\n{writes}");
    assert_eq!(cluster.refused(), Vec::<String>::new(), "seed {seed}");
}

#[test]
fn everything_heals_under_every_seed() {
    under_every_seed(SEEDS, heal);
}

/// The harness itself: nothing is asked for in vain for longer than it takes.
#[test]
fn a_dead_process_does_nothing_more() {
    let (sim, cluster) = cluster(1, &Options::default());
    cluster.faults().die_after(1);
    run(&sim, 1, "declare", declare(&cluster, "app:1"));
    run(&sim, 1, "death", cluster.faults().death());
    sim.run_for(LIMIT / 10);
    let pods = cluster.admin().namespaced::<Pod>("default");
    let found = run(&sim, 1, "list", pods.list(&Selection::default())).unwrap().items;
    assert!(found.is_empty(), "one write makes no pod run");
}
