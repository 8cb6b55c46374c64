//! What the node agent promises.

use std::process::Command;

use serde_json::{Value, json};

use crate::support::{Cluster, LONG, holds, soon};

fn pod(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": spec})
}

fn container(script: &str) -> Value {
    json!({"name": "c", "image": "busybox:1.35", "command": ["sh", "-c", script]})
}

pub(crate) fn logs_and_exec(cluster: &mut Cluster) -> Result<(), String> {
    cluster.apply(&pod(
        "talker",
        json!({"terminationGracePeriodSeconds": 0, "containers": [container("echo one; echo two; sleep 1000")]}),
    ))?;
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/talker", LONG])?;
    holds("both lines", cluster.kubectl(&["logs", "talker"])? == "one\ntwo\n")?;
    holds("the last line", cluster.kubectl(&["logs", "talker", "--tail=1"])? == "two\n")?;
    holds(
        "what a command says",
        cluster.kubectl(&["exec", "talker", "--", "echo", "hello there"])? == "hello there\n",
    )?;
    let failed = cluster.server.kubectl(&["exec", "talker", "--", "sh", "-c", "exit 7"]).err().unwrap_or_default();
    holds(&format!("the exit code: {failed}"), failed.contains("exit code 7") && failed.contains("exit status: 7"))?;
    cluster.kubectl(&["delete", "pod", "talker"]).map(drop)
}

pub(crate) fn volumes_and_environment(cluster: &mut Cluster) -> Result<(), String> {
    cluster.apply(
        &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"color": "blue"}}),
    )?;
    cluster.apply(
        &json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"}, "stringData": {"key": "s3cret"}}),
    )?;
    let mut one = container(
        "cat /settings/color /keys/key; echo; echo $COLOR $NODE $GREETING; ls /var/run/secrets/kubernetes.io/serviceaccount; echo x > /scratch/f && cat /scratch/f; sleep 1000",
    );
    one["env"] = json!([
        {"name": "COLOR", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "color"}}},
        {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        {"name": "GREETING", "value": "$(COLOR)-ish"},
    ]);
    one["volumeMounts"] = json!([{"name": "settings", "mountPath": "/settings"}, {"name": "keys", "mountPath": "/keys"}, {"name": "scratch", "mountPath": "/scratch"}]);
    one["resources"] = json!({"limits": {"memory": "32Mi"}});
    let volumes = json!([{"name": "settings", "configMap": {"name": "settings"}}, {"name": "keys", "secret": {"secretName": "keys"}}, {"name": "scratch", "emptyDir": {}}]);
    cluster
        .apply(&pod("reader", json!({"terminationGracePeriodSeconds": 0, "containers": [one], "volumes": volumes})))?;
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/reader", LONG])?;
    let mut text = String::new();
    soon("the whole log", || {
        text = cluster.kubectl(&["logs", "reader"]).unwrap_or_default();
        text.ends_with("x\n")
    })?;
    holds(&text, text == "blues3cret\nblue test blue-ish\nca.crt\nnamespace\ntoken\nx\n")?;
    let limit = cluster.kubectl(&[
        "exec",
        "reader",
        "--",
        "sh",
        "-c",
        "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null || true",
    ])?;
    holds(&format!("the memory limit: {limit}"), limit.trim() == "33554432")?;
    cluster.kubectl(&["delete", "pod", "reader"]).map(drop)
}

pub(crate) fn claims(cluster: &mut Cluster) -> Result<(), String> {
    let mut writer = container("echo begun >> /data/log; exec sleep 1000");
    writer["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
    let labels = json!({"app": "writer"});
    cluster.apply(&json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "writer"}, "spec": {
        "serviceName": "writer",
        "selector": {"matchLabels": labels},
        "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete", "whenScaled": "Retain"},
        "template": {"metadata": {"labels": labels},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [writer]}},
        "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "10Mi"}}}}],
    }}))?;
    cluster.kubectl(&["rollout", "status", "statefulset/writer", LONG])?;
    let volume = cluster.get(&["pvc", "data-writer-0"])?["spec"]["volumeName"].as_str().unwrap_or_default().to_owned();
    let directory = cluster.get(&["pv", &volume])?["spec"]["local"]["path"].as_str().unwrap_or_default().to_owned();
    cluster.kubectl(&["delete", "pod", "writer-0"])?;
    cluster.kubectl(&["wait", "--for=create", "pod/writer-0", LONG])?;
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/writer-0", LONG])?;
    let log = cluster.kubectl(&["exec", "writer-0", "--", "cat", "/data/log"])?;
    holds(&format!("a line of each of the two pods: {log}"), log == "begun\nbegun\n")?;
    cluster.kubectl(&["delete", "statefulset", "writer"])?;
    let gone = |what: &str| cluster.kubectl(&["get", "pv,pvc", "-o", "name"]).is_ok_and(|names| !names.contains(what));
    soon("the claim goes with its StatefulSet", || gone("data-writer-0"))?;
    soon("the volume goes with its claim", || gone(&volume))?;
    holds(&format!("{directory} is gone"), !directory.is_empty() && !std::path::Path::new(&directory).exists())
}

/// The first process of a container, as this machine sees it.
/// A file becomes a pod, whose mirror anybody may delete to no effect.
pub(crate) fn static_pods(cluster: &mut Cluster) -> Result<(), String> {
    let file = cluster.server.data_dir().join("static-pods/web.yaml");
    let spec = json!({"terminationGracePeriodSeconds": 0, "containers": [container("sleep 1000")]});
    std::fs::write(&file, pod("web", spec).to_string()).map_err(|error| error.to_string())?;
    let shown = |cluster: &Cluster| {
        let pod = cluster.get(&["pod", "web-test"]).unwrap_or_default();
        let id = pod["status"]["containerStatuses"][0]["containerID"].as_str().map(str::to_owned);
        Some((pod["metadata"]["uid"].as_str()?.to_owned(), id?))
    };
    soon("a mirror", || shown(cluster).is_some())?;
    let (mirror, container) = shown(cluster).ok_or("no mirror")?;
    cluster.kubectl(&["delete", "pod", "web-test", "--wait=false"])?;
    let again = |(uid, id): (String, String)| uid != mirror && id == container;
    soon("another mirror of the same container", || shown(cluster).is_some_and(again))?;
    std::fs::remove_file(&file).map_err(|error| error.to_string())?;
    soon("no mirror", || cluster.get(&["pod", "web-test"]).is_err())
}

fn process_of(cluster: &Cluster, pod: &str) -> Result<String, String> {
    let marker = cluster.get(&["pod", pod])?["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
    let found = Command::new("sh")
        .args([
            "-c",
            &format!("grep -l 'pod{marker}\\|pod{}' /proc/[0-9]*/cgroup 2>/dev/null", marker.replace('-', "_")),
        ])
        .output()
        .map_err(|e| e.to_string())?;
    for path in String::from_utf8_lossy(&found.stdout).lines() {
        let pid = path.trim_start_matches("/proc/").trim_end_matches("/cgroup");
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&command).contains("sleep\u{0}") {
            return Ok(pid.to_owned());
        }
    }
    Err(format!("no process of {pod}"))
}

pub(crate) fn killed_process_is_restarted(cluster: &mut Cluster) -> Result<(), String> {
    cluster.apply(&pod("phoenix", json!({"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "busybox:1.35", "command": ["sleep", "1000"]}]})))?;
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/phoenix", LONG])?;
    let pid = process_of(cluster, "phoenix")?;
    Command::new("kill").args(["-9", &pid]).status().map_err(|e| e.to_string())?;
    cluster.reads("pod/phoenix", ".status.containerStatuses[0].restartCount", "1")?;
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/phoenix", LONG])?;
    let state =
        cluster.get(&["pod", "phoenix"])?["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"]
            .clone();
    holds(&format!("the code of a killed process: {state}"), state == 137)?;
    cluster.kubectl(&["delete", "pod", "phoenix"]).map(drop)
}

pub(crate) fn init_and_job(cluster: &mut Cluster) -> Result<(), String> {
    let mut init = container("echo first > /shared/f");
    init["name"] = json!("init");
    init["volumeMounts"] = json!([{"name": "shared", "mountPath": "/shared"}]);
    let mut main = container("cat /shared/f");
    main["volumeMounts"] = init["volumeMounts"].clone();
    let spec = json!({"restartPolicy": "Never", "initContainers": [init], "containers": [main], "volumes": [{"name": "shared", "emptyDir": {}}]});
    cluster.apply(&pod("once", spec))?;
    cluster.reads("pod/once", ".status.phase", "Succeeded")?;
    holds("what the init container left", cluster.kubectl(&["logs", "once"])? == "first\n")?;
    cluster.kubectl(&["delete", "pod", "once"]).map(drop)
}

pub(crate) fn failing_probe(cluster: &mut Cluster) -> Result<(), String> {
    let mut one = container("sleep 1000");
    one["livenessProbe"] = json!({"exec": {"command": ["false"]}, "periodSeconds": 1, "failureThreshold": 2});
    one["readinessProbe"] = json!({"tcpSocket": {"port": 81}, "periodSeconds": 1});
    cluster.apply(&pod("sick", json!({"terminationGracePeriodSeconds": 0, "containers": [one]})))?;
    cluster.reads("pod/sick", ".status.containerStatuses[0].restartCount", "1")?;
    let events = cluster.kubectl(&["describe", "pod", "sick"])?;
    holds(&events, events.contains("Unhealthy") && events.contains("Killing"))?;
    let ready = cluster.get(&["pod", "sick"])?["status"]["containerStatuses"][0]["ready"].clone();
    holds("never ready", ready == false)?;
    cluster.kubectl(&["delete", "pod", "sick"]).map(drop)
}

pub(crate) fn server_killed(cluster: &mut Cluster) -> Result<(), String> {
    cluster.example()?;
    let containers = |cluster: &Cluster| -> Result<Vec<(String, Value)>, String> {
        let list = cluster.get(&["pods", "-l", "app=hello"])?;
        let mut all: Vec<(String, Value)> = list["items"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|p| p["metadata"]["deletionTimestamp"].is_null())
            .map(|p| {
                (
                    p["status"]["containerStatuses"][0]["containerID"].to_string(),
                    p["status"]["containerStatuses"][0]["restartCount"].clone(),
                )
            })
            .collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(all)
    };
    let before = containers(cluster)?;
    holds("three containers", before.len() == 3)?;
    for round in 0..3 {
        let name = format!("acknowledged-{round}");
        cluster.kubectl(&["create", "configmap", &name, "--from-literal=a=b"])?;
        cluster.server.kill();
        cluster.server.launch()?;
        cluster.kubectl(&["get", "configmap", &name])?;
    }
    cluster.kubectl(&["wait", "--for=condition=Ready", "node/test", LONG])?;
    cluster.kubectl(&["scale", "deployment", "hello", "--replicas=4"])?;
    cluster.kubectl(&["rollout", "status", "deployment/hello", LONG])?;
    let after = containers(cluster)?;
    holds(&format!("{before:?} still there in {after:?}"), before.iter().all(|c| after.contains(c)))
}

/// Pods come and go while containerd is killed, and every other time the server with it. What either leaves half-made
/// is found by the last case, which finds nothing. `SKIFF_KILLS` says how often, for long runs.
#[allow(clippy::disallowed_methods, reason = "when a kill strikes is chance; nothing is waited for")]
pub(crate) fn kills_amid_churn(cluster: &mut Cluster) -> Result<(), String> {
    let rounds = std::env::var("SKIFF_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(4_u64);
    let one = json!({"name": "c", "image": "busybox:1.35", "command": ["sleep", "1000"]});
    let template = json!({"metadata": {"labels": {"app": "churn"}}, "spec": {"terminationGracePeriodSeconds": 1, "containers": [one]}});
    cluster.apply(&json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "churn"},
        "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "churn"}}, "template": template}}))?;
    for round in 0..rounds {
        let replicas = [3, 6, 2, 5][round as usize % 4];
        cluster.kubectl(&["scale", "deployment", "churn", &format!("--replicas={replicas}")])?;
        std::thread::sleep(std::time::Duration::from_millis(60 + round * 167 % 700));
        cluster.server.kill_containerd()?;
        if round % 2 == 1 {
            cluster.server.kill();
            cluster.server.launch()?;
        }
        cluster.kubectl(&["rollout", "status", "deployment/churn", LONG])?;
        if round % 3 == 2 {
            cluster.kubectl(&["scale", "deployment", "churn", "--replicas=0"])?;
        }
    }
    cluster.kubectl(&["delete", "deployment", "churn"])?;
    soon("no pod of it", || cluster.get(&["pods", "-l", "app=churn"]).is_ok_and(|l| l["items"] == json!([])))
}
