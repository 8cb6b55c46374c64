//! A node with a private containerd: from nothing to a running pod, and what it costs to stand still.
//!
//! Images are imported by a first start; the measured one finds them there and everything else fresh.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Table;
use super::load::Target;
use super::server::{Server, binary, memory};
use super::steps::Steps;
use crate::run::{output, root, run, target};
use crate::{Failure, image, install};

/// Rollouts measured; the median is told.
const ROLLOUTS: usize = 5;
/// How long an idle cluster is looked at.
const IDLE: Duration = Duration::from_secs(30);
/// Nothing here takes longer.
const PATIENCE: &str = "120";
/// What a node takes.
pub(super) const PODS_OF_A_NODE: u32 = 110;
const PODS: &str = "/api/v1/namespaces/default/pods";

/// Fills the table.
pub(crate) fn measure(table: &mut Table) -> Result<(), Failure> {
    if !install::is_root() {
        return Err("this bench runs containers; run it as root (`bench api` does without)".to_owned());
    }
    install::ensure(install::NODE)?;
    let data = target().join(format!("bench-node-{}", std::process::id()));
    let images = data.join("images");
    std::fs::create_dir_all(&images).map_err(|e| format!("{}: {e}", images.display()))?;
    image::build("all", &images)?;
    let flags = ["--kubelet-port", "0", "--node-name", "bench"];

    let mut first = Server::start(&data, &flags)?;
    seen(&first.target, "/api/v1/nodes", |node| {
        is_ready(node) && ["busybox:1.35", "nginx:1.22"].iter().all(|name| has_image(node, name))
    })?;
    first.stop()?;
    run(Command::new(binary()).args(["cleanup", "--data-dir"]).arg(&data))?;
    for part in ["store", "pki"] {
        std::fs::remove_dir_all(data.join(part)).map_err(|e| format!("{part}: {e}"))?;
    }
    std::mem::forget(first);

    let server = Server::start(&data, &flags)?;
    let api = &server.target;
    table.row("exec to /readyz ok, with a node", ms(server.ready));
    let pod = std::thread::scope(|scope| -> Result<Instant, Failure> {
        let node = scope.spawn(|| seen(api, "/api/v1/nodes", is_ready));
        create_when_allowed(api, PODS, &pod("first"))?;
        let running = seen(api, PODS, |pod| pod["status"]["phase"] == "Running")?;
        let node = node.join().map_err(|_| "the watch of nodes failed")??;
        table.row("exec to first node Ready, private containerd", ms(node - server.begun));
        Ok(running)
    })?;
    table.row("exec to first pod Running, image present", ms(pod - server.begun));
    kubectl(&server, &["delete", "pod", "first", "--now"])?;

    let mut rollouts = Vec::new();
    for round in 0..ROLLOUTS {
        rollouts.push(rollout(&server)?);
        if round + 1 < ROLLOUTS {
            kubectl(&server, &["delete", "-f", "examples/hello.yaml"])?;
            kubectl(&server, &["wait", "--for=delete", "pod", "-l", "app=hello", "--timeout=60s"])?;
        }
    }
    rollouts.sort();
    let figure = format!("{} (median of {ROLLOUTS}, best {})", ms(rollouts[ROLLOUTS / 2]), ms(rollouts[0]));
    table.row("apply of a Deployment of 3 to 3 available", figure);

    std::thread::sleep(Duration::from_secs(15));
    table.row("idle memory of the process, with that Deployment", server.memory()?);
    let others = helpers(&data)?;
    let sum: f64 = others.iter().filter_map(|pid| memory(*pid).ok()).sum();
    table.row(
        format!("idle memory of containerd and {} shims", others.len().saturating_sub(1)),
        format!("{sum:.1} MiB"),
    );
    let (ours, theirs) = (ticks(server.pid())?, others.iter().filter_map(|pid| ticks(*pid).ok()).sum::<u64>());
    std::thread::sleep(IDLE);
    let ours = ticks(server.pid())? - ours;
    let theirs = others.iter().filter_map(|pid| ticks(*pid).ok()).sum::<u64>() - theirs;
    // The kernel counts in hundredths of a second.
    let share = |ticks: u64| format!("{:.2}% of a core", ticks as f64 / IDLE.as_secs_f64());
    table.row("idle CPU of the process", share(ours));
    table.row("idle CPU of containerd and shims", share(theirs));
    kubectl(&server, &["delete", "-f", "examples/hello.yaml"])?;
    kubectl(&server, &["wait", "--for=delete", "pod", "--all", "--timeout=60s"])?;
    full(table, &server)?;
    drop(server);
    super::worker::measure(table)
}

/// As many pods as a node takes.
fn full(table: &mut Table, server: &Server) -> Result<(), Failure> {
    let before = steps(server);
    let one = json!({"name": "c", "image": "busybox:1.35", "command": ["sleep", "10000"]});
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "full"}, "spec": {
        "replicas": PODS_OF_A_NODE, "selector": {"matchLabels": {"app": "full"}},
        "template": {"metadata": {"labels": {"app": "full"}},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [one]}}}});
    let path = "/apis/apps/v1/namespaces/default/deployments";
    let begun = std::thread::scope(|scope| -> Result<(Instant, Instant), Failure> {
        let all = scope.spawn(|| seen(&server.target, path, |d| d["status"]["availableReplicas"] == PODS_OF_A_NODE));
        let begun = Instant::now();
        create_when_allowed(&server.target, path, &deployment)?;
        Ok((begun, all.join().map_err(|_| "the watch of Deployments failed")??))
    })?;
    table.row(format!("{PODS_OF_A_NODE} pods on one node: all available"), ms(begun.1 - begun.0));
    match (before, steps(server)) {
        (Ok(before), Ok(after)) => after.tell(&before, "start of a pod among them", table),
        (Err(why), _) | (_, Err(why)) => table.row("  what a start is made of", why),
    }
    std::thread::sleep(Duration::from_secs(15));
    table.row(format!("memory of the process, with {PODS_OF_A_NODE} pods"), server.memory()?);
    let ours = ticks(server.pid())?;
    std::thread::sleep(IDLE);
    let ours = ticks(server.pid())? - ours;
    table.row(
        format!("CPU of the process, {PODS_OF_A_NODE} pods standing still"),
        format!("{:.2}% of a core", ours as f64 / IDLE.as_secs_f64()),
    );
    let begun = Instant::now();
    kubectl(server, &["delete", "deployment", "full"])?;
    kubectl(server, &["wait", "--for=delete", "pod", "-l", "app=full", "--timeout=300s"])?;
    // Without a grace period they are gone from the API before their containers are.
    table.row(format!("{PODS_OF_A_NODE} pods on one node: all gone from the API"), ms(begun.elapsed()));
    Ok(())
}

/// Not through the API server, which leads nobody to a node on loopback.
fn steps(server: &Server) -> Result<Steps, Failure> {
    let node: Value = serde_json::from_str(&server.target.fetch("/api/v1/nodes/bench")?).map_err(|e| e.to_string())?;
    let port = &node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"];
    let mut curl = Command::new("curl");
    curl.args(["-sk", "--cert"]).arg(server.data().join("pki/apiserver-kubelet-client.pem"));
    Steps::read(&output(curl.arg(format!("https://127.0.0.1:{port}/metrics")))?)
}

fn ms(duration: Duration) -> String {
    format!("{} ms", duration.as_millis())
}

fn is_ready(node: &Value) -> bool {
    let conditions = node["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

fn has_image(node: &Value, name: &str) -> bool {
    let images = node["status"]["images"].as_array();
    let mut names = images.into_iter().flatten().flat_map(|image| image["names"].as_array().into_iter().flatten());
    names.any(|found| found.as_str().is_some_and(|found| found.ends_with(name)))
}

fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": "busybox:1.35", "command": ["sleep", "1000"]}]},
    })
}

/// Creates an object, again and again while the namespace's service account is not there yet.
fn create_when_allowed(api: &Target, path: &str, object: &Value) -> Result<(), Failure> {
    let body = object.to_string();
    let begun = Instant::now();
    loop {
        let flags = ["-H", "Content-Type: application/json", "--data", &body, "-o", "/dev/null", "-w", "%{http_code}"];
        let out = api.curl(path, &flags).output().map_err(|e| e.to_string())?;
        match &out.stdout[..] {
            b"201" => return Ok(()),
            code if begun.elapsed() > Duration::from_secs(30) => {
                return Err(format!("{path} was refused: {}", String::from_utf8_lossy(code)));
            }
            _ => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// When an object below `path` first was as wanted, told by a watch.
fn seen(api: &Target, path: &str, wanted: impl Fn(&Value) -> bool) -> Result<Instant, Failure> {
    let mut watch = api
        .curl(&format!("{path}?watch=true"), &["-N", "--max-time", PATIENCE])
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| format!("curl: {e}"))?;
    let lines = watch.stdout.take().into_iter().flat_map(|out| BufReader::new(out).lines().map_while(Result::ok));
    let found = lines
        .filter_map(|line| serde_json::from_str::<Value>(&line).ok())
        .find(|event| wanted(&event["object"]))
        .map(|_| Instant::now());
    let _ = watch.kill();
    let _ = watch.wait();
    found.ok_or_else(|| format!("{path} was not as wanted in {PATIENCE} seconds"))
}

fn kubectl(server: &Server, words: &[&str]) -> Result<(), Failure> {
    let mut kubectl = Command::new(binary());
    kubectl.arg("kubectl").args(words).arg("--kubeconfig").arg(server.kubeconfig());
    run(kubectl.current_dir(root()).stdout(Stdio::null()))
}

/// From the start of `kubectl apply` to all replicas available.
fn rollout(server: &Server) -> Result<Duration, Failure> {
    std::thread::scope(|scope| {
        let path = "/apis/apps/v1/namespaces/default/deployments";
        let available = scope.spawn(|| seen(&server.target, path, |d| d["status"]["availableReplicas"] == 3));
        let begun = Instant::now();
        kubectl(server, &["apply", "-f", "examples/hello.yaml"])?;
        let available = available.join().map_err(|_| "the watch of Deployments failed")??;
        Ok(available - begun)
    })
}

/// containerd and the shims that work for this directory.
fn helpers(data: &Path) -> Result<Vec<u32>, Failure> {
    let data = data.display().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").map_err(|e| format!("/proc: {e}"))?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        let program = line.split('\0').next().unwrap_or_default();
        if program.contains("containerd") && line.contains(&data) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// CPU time a process has used, in hundredths of a second.
pub(super) fn ticks(pid: u32) -> Result<u64, Failure> {
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let field = |n: usize| fields.get(n).and_then(|f| f.parse::<u64>().ok());
    field(11).zip(field(12)).map(|(user, system)| user + system).ok_or_else(|| format!("{path} cannot be read"))
}
