//! What Deployments promise.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::support::{Cluster, LONG, holds, page, soon};

pub(crate) fn deleted_pod_is_replaced(cluster: &mut Cluster) -> Result<(), String> {
    cluster.example()?;
    let before = cluster.pods("app=hello")?;
    cluster.kubectl(&["delete", "pod", &before[0], "--wait=false"])?;
    soon("three others", || cluster.pods("app=hello").is_ok_and(|now| now.len() == 3 && !now.contains(&before[0])))?;
    cluster.kubectl(&["rollout", "status", "deployment/hello", LONG]).map(drop)
}

pub(crate) fn cordon(cluster: &mut Cluster) -> Result<(), String> {
    cluster.example()?;
    let before = cluster.pods("app=hello")?;
    cluster.kubectl(&["cordon", "test"])?;
    cluster.kubectl(&["run", "late", "--image=busybox:1.35", "--", "sleep", "1000"])?;
    cluster.reads("pod/late", ".status.conditions[0].reason", "Unschedulable")?;
    let message = cluster.get(&["pod", "late"])?["status"]["conditions"][0]["message"].clone();
    holds(&format!("why: {message}"), message.as_str().is_some_and(|m| m.contains("1 node(s) were unschedulable")))?;
    holds("the others stay", cluster.pods("app=hello")? == before)?;
    cluster.kubectl(&["uncordon", "test"])?;
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/late", LONG])?;
    cluster.kubectl(&["delete", "pod", "late", "--now"]).map(drop)
}

pub(crate) fn scaling(cluster: &mut Cluster) -> Result<(), String> {
    cluster.example()?;
    for count in ["10", "0", "3"] {
        cluster.kubectl(&["scale", "deployment/hello", &format!("--replicas={count}")])?;
        cluster.kubectl(&["rollout", "status", "deployment/hello", LONG])?;
        let wanted: usize = count.parse().unwrap_or_default();
        soon(&format!("{count} pods and no more"), || {
            cluster
                .get(&["pods", "-l", "app=hello"])
                .is_ok_and(|list| list["items"].as_array().is_some_and(|pods| pods.len() == wanted))
        })?;
    }
    Ok(())
}

/// Fetches the page without pause until told to stop: fetched, and failed.
struct Visitor {
    stop: Arc<AtomicBool>,
    fetched: Arc<AtomicUsize>,
    thread: std::thread::JoinHandle<Vec<String>>,
}

impl Visitor {
    #[allow(clippy::disallowed_methods, reason = "a client of its own beside the cluster")]
    fn start(url: String) -> Self {
        let (stop, fetched) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, count) = (stop.clone(), fetched.clone());
        let thread = std::thread::spawn(move || {
            let mut failures = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                match page(&url) {
                    Ok(_) => drop(count.fetch_add(1, Ordering::Relaxed)),
                    Err(error) => failures.push(error),
                }
            }
            failures
        });
        Self { stop, fetched, thread }
    }

    fn end(self) -> Result<usize, String> {
        self.stop.store(true, Ordering::Relaxed);
        let failures = self.thread.join().map_err(|_| "the visitor panicked".to_owned())?;
        let fetched = self.fetched.load(Ordering::Relaxed);
        if failures.is_empty() {
            Ok(fetched)
        } else {
            Err(format!(
                "{} of {} fetches failed: {:?}",
                failures.len(),
                failures.len() + fetched,
                &failures[..failures.len().min(3)]
            ))
        }
    }
}

pub(crate) fn rolling_update(cluster: &mut Cluster) -> Result<(), String> {
    cluster.example()?;
    let ip = cluster.get(&["service", "hello"])?["spec"]["clusterIP"].as_str().unwrap_or_default().to_owned();
    soon("the page", || page(&format!("http://{ip}")).is_ok())?;
    let visitors = [Visitor::start(format!("http://{ip}")), Visitor::start("http://127.0.0.1:30080".to_owned())];
    let done = (|| {
        for image in ["web=nginx:1.22-next", "web=nginx:1.22"] {
            cluster.kubectl(&["set", "image", "deployment/hello", image])?;
            cluster.kubectl(&["rollout", "status", "deployment/hello", LONG])?;
        }
        soon("the old pods to be gone", || {
            cluster
                .get(&["pods", "-l", "app=hello"])
                .is_ok_and(|list| list["items"].as_array().is_some_and(|pods| pods.len() == 3))
        })
    })();
    for visitor in visitors {
        let fetched = visitor.end()?;
        holds("a visitor that fetched at all", fetched > 10)?;
    }
    done
}

pub(crate) fn recreate(cluster: &mut Cluster) -> Result<(), String> {
    let deployment = |version: &str| {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "alone"}, "spec": {"replicas": 2, "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": {"app": "alone"}}, "template": {"metadata": {"labels": {"app": "alone", "version": version}},
            "spec": {"terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": "busybox:1.35", "command": ["sleep", "1000"]}]}}}})
    };
    cluster.apply(&deployment("one"))?;
    cluster.kubectl(&["rollout", "status", "deployment/alone", LONG])?;
    let before = cluster.kubectl(&["get", "--raw", "/api/v1/namespaces/default/pods?limit=1"])?;
    let before: Value = serde_json::from_str(&before).map_err(|e| e.to_string())?;
    let version = before["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
    let mut running: BTreeSet<String> = cluster.pods("app=alone,version=one")?.into_iter().collect();
    holds("two old pods", running.len() == 2)?;
    cluster.apply(&deployment("two"))?;
    cluster.kubectl(&["rollout", "status", "deployment/alone", LONG])?;
    // What happened meanwhile, told once more by a watch from before.
    let path = format!(
        "/api/v1/namespaces/default/pods?labelSelector=app%3Dalone&watch=true&timeoutSeconds=1&resourceVersion={version}"
    );
    let mut born = 0;
    for line in cluster.kubectl(&["get", "--raw", &path])?.lines() {
        let event: Value = serde_json::from_str(line).map_err(|e| format!("{line}: {e}"))?;
        let pod = &event["object"];
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        match pod["metadata"]["labels"]["version"].as_str() {
            Some("one")
                if event["type"] == "DELETED"
                    || ["Succeeded", "Failed"].iter().any(|p| pod["status"]["phase"] == *p) =>
            {
                running.remove(name);
            }
            Some("two") if event["type"] == "ADDED" => {
                holds(&format!("{name} came while {running:?} ran"), running.is_empty())?;
                born += 1;
            }
            _ => {}
        }
    }
    holds("two new pods", born == 2)?;
    cluster.kubectl(&["delete", "deployment", "alone"]).map(drop)
}

pub(crate) fn undo(cluster: &mut Cluster) -> Result<(), String> {
    cluster.example()?;
    cluster.kubectl(&["set", "image", "deployment/hello", "web=nginx:1.22-next"])?;
    cluster.kubectl(&["rollout", "status", "deployment/hello", LONG])?;
    let history = cluster.kubectl(&["rollout", "history", "deployment/hello"])?;
    holds(&history, history.lines().count() >= 4)?;
    cluster.kubectl(&["rollout", "undo", "deployment/hello"])?;
    cluster.kubectl(&["rollout", "status", "deployment/hello", LONG])?;
    let image = cluster.get(&["deployment", "hello"])?["spec"]["template"]["spec"]["containers"][0]["image"].clone();
    holds("the old image", image == "nginx:1.22")?;
    cluster.kubectl(&["rollout", "restart", "deployment/hello"])?;
    cluster.kubectl(&["rollout", "status", "deployment/hello", LONG]).map(drop)
}

fn count(shell: &str) -> usize {
    let out = Command::new("sh").args(["-c", shell]).output();
    out.ok().and_then(|o| String::from_utf8_lossy(&o.stdout).trim().parse().ok()).unwrap_or(usize::MAX)
}

pub(crate) fn nothing_is_left(cluster: &mut Cluster) -> Result<(), String> {
    cluster.kubectl(&["delete", "deployment,service", "hello", "--ignore-not-found"])?;
    cluster.kubectl(&["delete", "pods", "--all", "--now"])?;
    soon("no pod", || cluster.get(&["pods"]).is_ok_and(|list| list["items"].as_array().is_some_and(Vec::is_empty)))?;
    let data = cluster.server.data_dir().display().to_string();
    let socket = format!("{data}/containerd/containerd.sock");
    let cgroups = format!("kubepods{}", data.replace(['/', '.', '_'], "-"));
    let instance = format!("$(grep -ho '\"instance\": *\"[^\"]*' {data}/cni/net.d/* | head -1 | sed 's/.*\"//')");
    for (what, shell) in [
        ("containers", format!("ctr -a {socket} -n k8s.io containers ls -q | wc -l")),
        ("mounts of pods", format!("grep -c '{data}/.*pods/' /proc/mounts")),
        ("rootfs mounts", format!("grep -c '{data}/.*/rootfs' /proc/mounts")),
        ("pod cgroups", format!("find /sys/fs/cgroup -type d -path '*/{cgroups}/*' -name 'pod*-*-*-*-*' | wc -l")),
        ("shims", format!("ps axww | grep -c '[-]address {socket}'")),
        ("network namespaces", format!("ls {data}/containerd/state/io.containerd.grpc.v1.cri/netns | wc -l")),
        ("addresses", format!("find {data} -path '*/addresses/*' | wc -l")),
        ("veths", format!("ip -br link show type veth | grep -c \"^sk{instance}\"")),
        ("rules", format!("nft list table ip skiff-{instance} | grep -c 30080")),
    ] {
        soon(&format!("no {what} left ({})", count(&shell)), || count(&shell) == 0)?;
    }
    Ok(())
}
