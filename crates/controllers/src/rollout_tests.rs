//! Deployments and ReplicaSets together, on the small fake server: how many writes a rollout takes.

use serde_json::{Value, json};
use skiff_client::Client;
use skiff_meta::patch::merge_patch;

use crate::testing::Fake;
use crate::{deployment, replicaset};

fn web(image: &str, replicas: i32) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "ns", "uid": "web", "generation": 1},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "progressDeadlineSeconds": 600,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
            "template": {"metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "image": image}]}}},
    })
}

/// What node and scheduler do: every pod that is not ready becomes ready.
fn run_pods(fake: &Fake) {
    for pod in fake.objects("pods").iter().filter(|pod| pod.pointer("/status/phase").is_none()) {
        let running = json!({"kind": "Pod", "spec": {"nodeName": "n"}, "status": {"phase": "Running",
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
        fake.put(merge_patch(pod, &running));
    }
}

fn available(fake: &Fake) -> i64 {
    let deployments = fake.objects("deployments");
    let status = deployments[0].pointer("/status").cloned().unwrap_or_default();
    let updated = status["updatedReplicas"].as_i64().unwrap_or(0);
    if status["replicas"] == status["updatedReplicas"] {
        updated.min(status["availableReplicas"].as_i64().unwrap_or(0))
    } else {
        0
    }
}

fn started(fake: &Fake) -> Vec<skiff_meta::world::Task> {
    let context = fake.context();
    let client: Client = fake.client();
    let mut tasks = deployment::start(&context, client.clone());
    tasks.extend(replicaset::start_replicasets(&context, client));
    tasks
}

#[tokio::test]
async fn a_rollout_takes_few_writes() {
    let fake = Fake::new();
    let _tasks = started(&fake);
    fake.put(web("v1", 20));
    fake.eventually(|| fake.names("pods").len() == 20).await;
    run_pods(&fake);
    fake.eventually(|| available(&fake) == 20).await;
    let written = fake.written();
    let count = |what: &str| written.iter().filter(|line| line.starts_with(what)).count();
    assert_eq!(count("POST pods"), 20);
    assert_eq!(count("POST replicasets"), 1);
    assert_eq!(count("PUT replicasets/status"), 1, "{written:?}");
    assert_eq!(count("PUT deployments/status"), 2, "the beginning and the end: {written:?}");
    assert_eq!(written.len(), 24, "{written:?}");
}

#[tokio::test]
async fn a_rolling_update_keeps_its_bounds() {
    let fake = Fake::new();
    let _tasks = started(&fake);
    fake.put(web("v1", 8));
    fake.eventually(|| {
        run_pods(&fake);
        available(&fake) == 8
    })
    .await;
    let mut deployment = fake.objects("deployments").remove(0);
    deployment = merge_patch(&deployment, &json!({"metadata": {"generation": 2}}));
    deployment["spec"]["template"]["spec"]["containers"][0]["image"] = json!("v2");
    fake.put(deployment);
    let mut seen = (usize::MAX, 0);
    fake.eventually(|| {
        let pods = fake.objects("pods");
        let ready = pods.iter().filter(|pod| pod.pointer("/status/phase").is_some()).count();
        seen = (seen.0.min(ready), seen.1.max(pods.len()));
        run_pods(&fake);
        available(&fake) == 8 && fake.objects("deployments")[0]["status"]["observedGeneration"] == 2
    })
    .await;
    assert!(seen.0 >= 6, "never fewer than 8 less 25% were ready, but {}", seen.0);
    assert!(seen.1 <= 10, "never more than 8 and 25%, but {}", seen.1);
    assert_eq!(fake.names("replicasets").len(), 2);
}
