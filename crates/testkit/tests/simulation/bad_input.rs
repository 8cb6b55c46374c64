//! What nobody should declare, and somebody does: it is refused or comes to rest, and costs next to nothing.

use std::time::Duration;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{Pod, ResourceQuota};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde_json::{Value, json};
use skiff_api::pods::is_ready;
use skiff_client::{DeleteOptions, Kind, Selection};
use skiff_testkit::cluster::Seen;
use skiff_testkit::writes::Writes;
use skiff_testkit::{Cluster, Options, Sim};

use crate::support::{apply_in, cluster, namespace, run};

const HOUR: Duration = Duration::from_secs(3_600);

fn template(change: Value) -> Value {
    let base = json!({"metadata": {"labels": {"app": "a"}}, "spec": {"terminationGracePeriodSeconds": 1,
        "containers": [{"name": "c", "image": "i"}]}});
    skiff_meta::patch::merge_patch(&base, &json!({ "spec": change }))
}

fn workload(replicas: u32, change: Value) -> Value {
    json!({"replicas": replicas, "selector": {"matchLabels": {"app": "a"}}, "template": template(change)})
}

fn count(sim: &Sim, cluster: &Cluster, space: &str) -> usize {
    run(sim, 41, space, cluster.admin().namespaced::<Pod>(space).list(&Selection::default())).unwrap().items.len()
}

/// How much is written in an hour, beside events; the store forgets what is older than a few minutes.
fn writes(sim: &Sim, cluster: &Cluster) -> usize {
    const STEP: Duration = Duration::from_secs(200);
    let step = |_| {
        let before = run(sim, 41, "revision", cluster.store().revision()).unwrap();
        sim.run_for(STEP);
        run(sim, 41, "writes", Writes::since(&**cluster.store(), before)).unwrap().total()
    };
    (0..HOUR.as_secs() / STEP.as_secs()).map(step).sum()
}

#[test]
fn what_cannot_be_had_is_not_asked_for_all_the_time() {
    let (sim, cluster) = cluster(41, &Options::default());
    run(&sim, 41, "declare", async {
        namespace(&cluster, "huge").await;
        apply_in::<ResourceQuota>(&cluster, "huge", "few", json!({"hard": {"pods": "5"}})).await;
        cluster
            .until::<ResourceQuota>("huge", |seen: &Seen<ResourceQuota>| {
                seen.values().any(|quota| quota.status.as_ref().is_some_and(|status| status.hard.is_some()))
            })
            .await;
        apply_in::<Deployment>(&cluster, "huge", "a", workload(2_000_000_000, json!({}))).await;
        cluster.until::<Pod>("huge", |seen| seen.len() == 5).await;
        let parallel = json!({"serviceName": "b", "podManagementPolicy": "Parallel", "replicas": 2_000_000_000,
            "selector": {"matchLabels": {"app": "a"}}, "template": template(json!({})), "ordinals": {"start": 1_000_000_000}});
        apply_in::<StatefulSet>(&cluster, "huge", "b", parallel).await;
        namespace(&cluster, "none").await;
        apply_in::<Deployment>(&cluster, "none", "a", workload(0, json!({}))).await;
        let nowhere = json!({"nodeSelector": {"no": "where"}});
        let daemon = json!({"selector": {"matchLabels": {"app": "a"}}, "template": template(nowhere)});
        apply_in::<DaemonSet>(&cluster, "none", "a", daemon).await;
        let nothing = json!({"selector": {"matchLabels": {"no": "pod"}}, "minAvailable": 1});
        apply_in::<PodDisruptionBudget>(&cluster, "none", "a", nothing).await;
        let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "missing"});
        let autoscaler = json!({"maxReplicas": 3, "scaleTargetRef": target});
        apply_in::<HorizontalPodAutoscaler>(&cluster, "none", "a", autoscaler).await;
        let never = json!({"schedule": "0 0 30 2 *", "jobTemplate": {"spec": {"template": template(json!({"restartPolicy": "Never"}))}}});
        apply_in::<CronJob>(&cluster, "none", "a", never).await;
    });
    sim.run_for(Duration::from_secs(120));
    let before = cluster.refused().len();
    let written = writes(&sim, &cluster);
    let asked = cluster.refused().len() - before;
    assert!(asked <= 30, "{asked} times an hour a quota is asked for what it has not");
    assert!(written <= 2 * asked, "{written} writes for {asked} refusals");
    assert_eq!((count(&sim, &cluster, "huge"), count(&sim, &cluster, "none")), (5, 0));
}

#[test]
fn pods_that_nobody_takes_cost_nothing() {
    const PODS: usize = 300;
    let (sim, cluster) = cluster(41, &Options::default());
    run(&sim, 41, "declare", async {
        let nowhere = json!({"nodeSelector": {"no": "where"}});
        apply_in::<Deployment>(&cluster, "default", "a", workload(PODS as u32, nowhere)).await;
        let told = |seen: &Seen<Pod>| {
            let refused = |pod: &Pod| {
                pod.status.as_ref().is_some_and(|s| s.conditions.iter().flatten().any(|c| c.type_ == "PodScheduled"))
            };
            seen.len() == PODS && seen.values().all(|pod| refused(pod))
        };
        cluster.until("default", told).await;
    });
    // The Deployment says once that it does not get on.
    sim.run_for(Duration::from_secs(700));
    assert_eq!(writes(&sim, &cluster), 0);
    assert_eq!(cluster.refused(), Vec::<String>::new());
}

fn failing(pods: usize, limit: i32) -> Value {
    let ends = json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "i", "command": ["exit", "1"]}]});
    json!({"parallelism": pods, "completions": pods, "backoffLimit": limit, "template": template(ends)})
}

/// A pod is created, bound, told to run, perhaps stopped, told to have failed, let go, and perhaps deleted.
const WRITES_OF_A_FAILURE: usize = 7;

#[test]
fn a_job_whose_pods_all_fail_costs_what_they_cost() {
    for pods in [100, 400] {
        let (sim, cluster) = cluster(44, &Options { pods_per_node: 200, ..Options::default() });
        sim.run_for(Duration::from_secs(10));
        let before = run(&sim, 44, "revision", cluster.store().revision()).unwrap();
        let job = run(&sim, 44, "the job's end", async {
            apply_in::<Job>(&cluster, "default", "a", failing(pods, 6)).await;
            let is_over = |job: &Job| {
                let conditions = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
                conditions.into_iter().any(|condition| condition.type_ == "Failed")
            };
            cluster.until::<Job>("default", |seen| seen.values().any(|job| is_over(job))).await;
            cluster.admin().namespaced::<Job>("default").get("a").await.unwrap()
        });
        let written = run(&sim, 44, "writes", Writes::since(&**cluster.store(), before)).unwrap();
        let status = job.status.unwrap_or_default();
        let reasons: Vec<_> =
            status.conditions.into_iter().flatten().filter_map(|condition| condition.reason).collect();
        assert_eq!(reasons, ["BackoffLimitExceeded", "BackoffLimitExceeded"]);
        assert_eq!((status.failed, status.active.unwrap_or(0)), (Some(pods as i32), 0));
        assert_eq!(written.of("pods", "create"), pods, "none is made after the limit was passed");
        let of_job = written.of("jobs", "update");
        assert!(of_job <= 30, "{of_job} writes of the Job, whose status names all that is not counted yet");
        assert!(written.total() <= WRITES_OF_A_FAILURE * pods + 30, "{} writes:\n{written}", written.total());
        assert_eq!(cluster.refused(), Vec::<String>::new());
    }
}

#[test]
fn what_fails_for_ever_is_tried_ever_less_often() {
    let (sim, cluster) = cluster(45, &Options::default());
    let hour_of = |sim: &Sim, cluster: &Cluster| {
        sim.run_for(Duration::from_secs(60));
        writes(sim, cluster)
    };
    // After so many failures in a row a Job waits ten minutes.
    run(&sim, 45, "declare", apply_in::<Job>(&cluster, "default", "a", failing(100, i32::MAX)));
    let written = hour_of(&sim, &cluster);
    assert!((100..=7 * 100 * WRITES_OF_A_FAILURE).contains(&written), "{written} writes for a Job");
    run(&sim, 45, "delete", cluster.admin().namespaced::<Job>("default").delete("a", &DeleteOptions::default()))
        .unwrap();
    // A pod of each of three nodes is replaced after one second, two, four, and at last fifteen minutes.
    let containers = json!([{"name": "c", "image": "i", "command": ["refused"]}]);
    let daemon =
        json!({"selector": {"matchLabels": {"app": "a"}}, "template": template(json!({"containers": containers}))});
    run(&sim, 45, "declare", apply_in::<DaemonSet>(&cluster, "default", "a", daemon));
    let written = hour_of(&sim, &cluster);
    assert!((3..=3 * 12 * WRITES_OF_A_FAILURE).contains(&written), "{written} writes for a DaemonSet");
    assert_eq!(cluster.refused(), Vec::<String>::new());
}

#[test]
fn a_clock_that_jumps_starts_one_run_and_not_all_that_were_missed() {
    let (sim, mut cluster) = cluster(42, &Options::default());
    run(&sim, 42, "declare", async {
        let job = json!({"spec": {"template": template(json!({"restartPolicy": "Never"}))}});
        let spec = json!({"schedule": "* * * * *", "successfulJobsHistoryLimit": 1_000, "jobTemplate": job});
        apply_in::<CronJob>(&cluster, "default", "tick", spec).await;
    });
    let jobs = |cluster: &Cluster| {
        run(&sim, 42, "jobs", cluster.admin().namespaced::<Job>("default").list(&Selection::default()))
            .unwrap()
            .items
            .len()
    };
    sim.run_for(Duration::from_secs(70));
    assert!(jobs(&cluster) >= 1);
    // Nobody is there for two hours: more than a hundred runs are missed.
    cluster.faults().die_after(1);
    run(&sim, 42, "last write", cluster.faults().death());
    let before = jobs(&cluster);
    sim.run_for(2 * HOUR);
    assert_eq!(jobs(&cluster), before);
    cluster.restart_controllers();
    sim.run_for(Duration::from_secs(150));
    let started = jobs(&cluster) - before;
    assert!((1..=4).contains(&started), "{started} runs are started");
}

#[test]
fn what_belongs_to_nobody_goes() {
    let (sim, cluster) = cluster(43, &Options::default());
    run(&sim, 43, "orphans", async {
        apply_in::<StatefulSet>(&cluster, "default", "a", workload(1, json!({}))).await;
        cluster.until::<Pod>("default", |seen| seen.values().any(|pod| is_ready(pod))).await;
        let pods = cluster.admin().namespaced::<Pod>("default");
        let lost = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "lost", "ownerReferences": [
            {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "gone", "uid": "00000000-0000-0000-0000-000000000000"}]},
            "spec": {"containers": [{"name": "c", "image": "i"}]}});
        pods.create(&serde_json::from_value(lost).unwrap()).await.unwrap();
        cluster.until::<Pod>("default", |seen| seen.len() == 1 && seen.values().all(|pod| pod.name() == "a-0")).await;
    });
    assert_eq!(cluster.refused(), Vec::<String>::new());
}
