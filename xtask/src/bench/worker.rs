//! An agent in a process of its own, as workers have it: a local cluster of two nodes, with all pods on the second.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::Table;
use super::node::{PODS_OF_A_NODE, ticks};
use super::server::{binary, memory};
use super::steps::{Steps, Turns};
use crate::Failure;
use crate::run::{output, run, target};

/// How long it stands still before it is measured, and while it is.
const IDLE: Duration = Duration::from_secs(20);

/// Pods that are started one after the other.
const ONES: u32 = 20;

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

    fn kubectl(&self, words: &[&str]) -> Result<String, Failure> {
        let mut kubectl = Command::new(binary());
        output(kubectl.arg("kubectl").arg("--kubeconfig").arg(self.0.join("admin.kubeconfig")).args(words))
    }

    fn steps(&self) -> Result<Steps, Failure> {
        Steps::read(&self.kubectl(&["get", "--raw", "/api/v1/nodes/node-2/proxy/metrics"])?)
    }

    /// Has pods started, and tells what each start was made of.
    fn starts(&self, of: &str, table: &mut Table, start: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
        let pid = self.agent()?;
        let (steps, turns) = (self.steps()?, Turns::read(pid)?);
        start()?;
        // Statuses are written and events told a moment later.
        std::thread::sleep(Duration::from_secs(2));
        let (now, done) = (self.steps()?, Turns::read(pid)?);
        now.tell(&steps, of, table);
        let each = |seconds: f64| format!("{:.1} ms", 1000.0 * seconds / now.started(&steps).max(1.0));
        table.row(format!("  {of}: the agent's time on a processor, all told"), each(done.ran - turns.ran));
        table.row(format!("  {of}: its threads' time waiting for one"), each(done.waited - turns.waited));
        Ok(())
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
    std::thread::sleep(IDLE);
    cluster.starts("agent alone, pods one at a time", table, || {
        for number in 0..ONES {
            let name = format!("one-{number}");
            cluster.kubectl(&["run", &name, "--image=busybox:1.35", "--command", "--", "sleep", "10000"])?;
            cluster.kubectl(&["wait", "--for=condition=Ready", &format!("pod/{name}"), "--timeout=60s"])?;
        }
        Ok(())
    })?;
    cluster.kubectl(&["delete", "pods", "--all", "--now"])?;
    std::thread::sleep(IDLE);
    let count = PODS_OF_A_NODE.to_string();
    cluster.starts(&format!("agent alone, {count} pods at once"), table, || {
        let many =
            ["create", "deployment", "full", "--image=busybox:1.35", "--replicas", &count, "--", "sleep", "10000"];
        cluster.kubectl(&many)?;
        cluster.kubectl(&["rollout", "status", "deployment/full", "--timeout=300s"]).map(drop)
    })?;
    std::thread::sleep(IDLE);
    let pid = cluster.agent()?;
    table.row(format!("memory of an agent alone, with {count} pods"), format!("{:.1} MiB", memory(pid)?));
    let used = ticks(pid)?;
    std::thread::sleep(IDLE);
    let share = (ticks(pid)? - used) as f64 / IDLE.as_secs_f64();
    table.row(format!("CPU of an agent alone, {count} pods standing still"), format!("{share:.2}% of a core"));
    Ok(())
}
