//! Clients that nobody here wrote.

use std::path::PathBuf;

use crate::support::{Cluster, LONG, examples, holds, soon};

fn clients() -> Result<PathBuf, String> {
    std::env::var_os("SKIFF_CLIENTS")
        .map(PathBuf::from)
        .ok_or_else(|| "SKIFF_CLIENTS is not set; run `cargo xtask test cluster`".to_owned())
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

pub(crate) fn python(cluster: &mut Cluster) -> Result<(), String> {
    let program = clients()?.join("bin/python");
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/cluster/client.py").display().to_string();
    let said = cluster.server.client(&program, &[&script]).map_err(|e| format!("{e}\n{}", cluster.server.log_end()))?;
    holds(&said, said.trim_end().ends_with("all done"))
}
