//! An agent in a process of its own, as workers have it: a local cluster of two nodes, with all pods on the second.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::Table;
use super::node::{PODS_OF_A_NODE, ticks};
use super::server::{binary, memory};
use crate::Failure;
use crate::run::{run, target};

/// How long it stands still before it is measured, and while it is.
const IDLE: Duration = Duration::from_secs(20);

/// The cluster; gone with its data when dropped.
struct Cluster(PathBuf);

impl Cluster {
    fn create() -> Result<Self, Failure> {
        let data = target().join(format!("bench-worker-{}", std::process::id()));
        let images = data.join("images");
        std::fs::create_dir_all(&images).map_err(|e| format!("{}: {e}", images.display()))?;
        let archive = "busybox.tar";
        std::fs::copy(target().join("images").join(archive), images.join(archive))
            .map_err(|e| format!("{archive}: {e}"))?;
        let cluster = Self(data);
        let create = ["cluster", "create", "--nodes", "2", "--data-dir"];
        run(Command::new(binary()).args(create).arg(&cluster.0).stdout(Stdio::null()))?;
        Ok(cluster)
    }

    fn kubectl(&self, words: &[&str]) -> Result<(), Failure> {
        let mut kubectl = Command::new(binary());
        kubectl.arg("kubectl").args(words).arg("--kubeconfig").arg(self.0.join("admin.kubeconfig"));
        run(kubectl.stdout(Stdio::null()))
    }

    fn agent(&self) -> Result<u32, Failure> {
        let path = self.0.join("node-2/pid");
        let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        text.trim().parse().map_err(|e| format!("{}: {e}", path.display()))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = Command::new(binary()).args(["cluster", "delete", "--data-dir"]).arg(&self.0).output();
        let _ = std::fs::remove_dir_all(Path::new(&self.0));
    }
}

/// Fills the table.
pub(super) fn measure(table: &mut Table) -> Result<(), Failure> {
    let cluster = Cluster::create()?;
    cluster.kubectl(&["cordon", "node-1"])?;
    let count = PODS_OF_A_NODE.to_string();
    let many =
        ["create", "deployment", "full", "--image", "busybox:1.35", "--replicas", &count, "--", "sleep", "10000"];
    cluster.kubectl(&many)?;
    cluster.kubectl(&["rollout", "status", "deployment/full", "--timeout=300s"])?;
    std::thread::sleep(IDLE);
    let pid = cluster.agent()?;
    table.row(format!("memory of an agent alone, with {count} pods"), format!("{:.1} MiB", memory(pid)?));
    let used = ticks(pid)?;
    std::thread::sleep(IDLE);
    let share = (ticks(pid)? - used) as f64 / IDLE.as_secs_f64();
    table.row(format!("CPU of an agent alone, {count} pods standing still"), format!("{share:.2}% of a core"));
    Ok(())
}
