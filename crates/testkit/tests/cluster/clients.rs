//! Clients that nobody here wrote.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::json;
use skiff_testkit::process;

use crate::support::{Cluster, LONG, examples, holds, soon};

fn clients() -> Result<PathBuf, String> {
    std::env::var_os("SKIFF_CLIENTS")
        .map(PathBuf::from)
        .ok_or_else(|| "SKIFF_CLIENTS is not set; run `cargo xtask test cluster`".to_owned())
}

/// Resources of a running container change, and the kernel says so.
pub(crate) fn resize(cluster: &mut Cluster) -> Result<(), String> {
    let program = clients()?.join("bin/kubectl");
    let amounts = |cpu: &str| json!({"requests": {"cpu": cpu}, "limits": {"cpu": cpu, "memory": "32Mi"}});
    let container = |cpu: &str| json!({"name": "c", "image": "busybox:1.35", "resources": amounts(cpu)});
    let mut one = container("100m");
    one["command"] = json!(["sleep", "1000"]);
    let spec = json!({"terminationGracePeriodSeconds": 0, "containers": [one]});
    cluster.apply(&json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "sized"}, "spec": spec}))?;
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/sized", LONG])?;
    let patch = json!({"spec": {"containers": [container("200m")]}}).to_string();
    cluster.server.client(&program, &["patch", "pod", "sized", "--subresource=resize", "--patch", &patch])?;
    let status = || cluster.get(&["pod", "sized"]).map(|pod| pod["status"]["containerStatuses"][0].clone());
    soon("the new limit in the status", || status().is_ok_and(|one| one["resources"]["limits"]["cpu"] == "200m"))?;
    let read = "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu.max 2>/dev/null || true";
    let quota = cluster.kubectl(&["exec", "sized", "--", "sh", "-c", read])?;
    holds(&format!("the kernel's limit: {quota}"), quota.split_whitespace().next() == Some("20000"))?;
    holds("it was not restarted", status()?["restartCount"] == 0)?;
    cluster.kubectl(&["delete", "pod", "sized"]).map(drop)
}

pub(crate) fn kubectl(cluster: &mut Cluster) -> Result<(), String> {
    let program = clients()?.join("bin/kubectl");
    let kubectl = |words: &[&str]| {
        cluster.server.client(&program, words).map_err(|e| format!("{e}\n{}", cluster.server.log_end()))
    };
    let file = examples().join("hello.yaml").display().to_string();
    kubectl(&["create", "namespace", "real"])?;
    soon("the default service account", || kubectl(&["-n", "real", "get", "serviceaccount", "default"]).is_ok())?;
    kubectl(&["-n", "real", "create", "deployment", "web", "--image=nginx:1.22", "--replicas=2"])?;
    kubectl(&["-n", "real", "rollout", "status", "deployment/web", LONG])?;
    kubectl(&["-n", "real", "expose", "deployment", "web", "--port=80"])?;
    let table = kubectl(&["-n", "real", "get", "deployments,pods,services", "-o", "wide"])?;
    holds(&table, table.contains("deployment.apps/web") && table.contains("2/2") && table.contains("1/1"))?;
    kubectl(&["-n", "real", "describe", "deployment", "web"])?;
    kubectl(&["-n", "real", "scale", "deployment", "web", "--replicas=1"])?;
    kubectl(&["-n", "real", "set", "image", "deployment/web", "nginx=nginx:1.22-next"])?;
    kubectl(&["-n", "real", "rollout", "status", "deployment/web", LONG])?;
    kubectl(&["-n", "real", "rollout", "undo", "deployment/web"])?;
    kubectl(&["-n", "real", "rollout", "status", "deployment/web", LONG])?;
    kubectl(&[
        "-n",
        "real",
        "run",
        "talker",
        "--image=busybox:1.35",
        "--restart=Never",
        "--",
        "sh",
        "-c",
        "echo hi; sleep 1000",
    ])?;
    kubectl(&["-n", "real", "wait", "--for=condition=Ready", "pod/talker", LONG])?;
    holds("logs", kubectl(&["-n", "real", "logs", "talker"])? == "hi\n")?;
    holds("exec", kubectl(&["-n", "real", "exec", "talker", "--", "echo", "there"])? == "there\n")?;
    kubectl(&["-n", "real", "label", "pod", "talker", "a=b"])?;
    kubectl(&["-n", "real", "annotate", "pod", "talker", "a=b"])?;
    there_and_back(cluster)?;
    forwarded(cluster)?;
    kubectl(&["apply", "-f", &file])?;
    let unchanged = kubectl(&["apply", "-f", &file])?;
    holds(&unchanged, unchanged.contains("deployment.apps/hello unchanged"))?;
    kubectl(&["apply", "--server-side", "--force-conflicts", "-f", &file])?;
    kubectl(&["auth", "can-i", "create", "pods"])?;
    kubectl(&["api-resources"])?;
    kubectl(&["explain", "deployment.spec.strategy"])?;
    kubectl(&["cordon", "test"])?;
    kubectl(&["uncordon", "test"])?;
    kubectl(&["delete", "namespace", "real", "--timeout=90s"]).map(drop)
}

/// The built-in kubectl where it needs a node: a directory goes into a container and comes back, and use is told.
fn there_and_back(cluster: &Cluster) -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let at = |name: &str| folder.path().join(name).display().to_string();
    let big = "0123456789abcdef\n".repeat(20_000);
    std::fs::create_dir_all(at("from/inner")).map_err(|e| e.to_string())?;
    std::fs::write(at("from/inner/file"), &big).map_err(|e| e.to_string())?;
    cluster.kubectl(&["-n", "real", "cp", &at("from"), "talker:/tmp"])?;
    cluster.kubectl(&["cp", "real/talker:/tmp/from/inner", &at("back")])?;
    holds("what came back", std::fs::read_to_string(at("back/file")).is_ok_and(|text| text == big))?;
    soon("use of nodes", || cluster.kubectl(&["top", "node"]).is_ok_and(|told| told.contains('%')))?;
    soon("use of pods", || cluster.kubectl(&["-n", "real", "top", "pod"]).is_ok_and(|told| told.contains("talker")))
}

/// A local port leads to the pod of a Service, as long as the built-in kubectl runs.
fn forwarded(cluster: &Cluster) -> Result<(), String> {
    let mut command = Command::new(process::binary());
    command.args(["kubectl", "--kubeconfig"]).arg(cluster.server.kubeconfig());
    command.args(["-n", "real", "port-forward", "service/web", ":80", "--address=127.0.0.1"]);
    let mut child = command.stdout(Stdio::piped()).spawn().map_err(|e| e.to_string())?;
    let mut asked = || {
        // Kept until the end: it goes on talking.
        let mut out = BufReader::new(child.stdout.take().ok_or("no output")?);
        let mut line = String::new();
        out.read_line(&mut line).map_err(|e| e.to_string())?;
        let place =
            line.strip_prefix("Forwarding from ").and_then(|rest| rest.split(' ').next()).ok_or(line.clone())?;
        let mut answers = String::new();
        for _ in 0..2 {
            let mut stream = TcpStream::connect(place).map_err(|e| format!("{place}: {e}"))?;
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n").map_err(|e| e.to_string())?;
            stream.read_to_string(&mut answers).map_err(|e| e.to_string())?;
        }
        holds(&answers, answers.matches(" 200 OK").count() == 2)
    };
    let done = asked();
    let killed = child.kill().and_then(|()| child.wait());
    done.and(killed.map(drop).map_err(|e| e.to_string()))
}

pub(crate) fn python(cluster: &mut Cluster) -> Result<(), String> {
    let program = clients()?.join("bin/python");
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/cluster/client.py").display().to_string();
    let said = cluster.server.client(&program, &[&script]).map_err(|e| format!("{e}\n{}", cluster.server.log_end()))?;
    holds(&said, said.trim_end().ends_with("all done"))
}
