//! Servers of the benches' own; gone with their data when dropped.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::load::Target;
use crate::Failure;
use crate::run::target;

const TOKEN: &str = "bench";

/// A running server.
pub(crate) struct Server {
    child: Child,
    data: PathBuf,
    pub(crate) target: Target,
    /// When it was executed.
    pub(crate) begun: Instant,
    /// From exec to `/readyz` ok.
    pub(crate) ready: Duration,
}

impl Server {
    /// Without a node agent, on a fresh directory.
    pub(crate) fn alone(disabled: &str) -> Result<Self, Failure> {
        let data = target().join(format!("bench-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&data);
        std::fs::create_dir_all(&data).map_err(|e| format!("{}: {e}", data.display()))?;
        Self::start(&data, &["--disable", disabled])
    }

    /// On this directory, with these flags.
    pub(crate) fn start(data: &Path, flags: &[&str]) -> Result<Self, Failure> {
        let log = std::fs::File::create(data.join("server.log")).map_err(|e| e.to_string())?;
        let port = free_port()?;
        let begun = Instant::now();
        let child = Command::new(binary())
            .args(["server", "--bind-address", "127.0.0.1", "--token", TOKEN])
            .arg("--secure-port")
            .arg(port.to_string())
            .arg("--data-dir")
            .arg(data)
            .args(flags)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(|e| format!("cannot start the server: {e}"))?;
        let target = Target { url: format!("https://127.0.0.1:{port}"), token: TOKEN.to_owned() };
        let mut server = Self { child, data: data.to_owned(), target, begun, ready: Duration::ZERO };
        while !server.is_ready() {
            if begun.elapsed() > Duration::from_secs(30) {
                return Err(format!("the server is not ready; see {}", data.join("server.log").display()));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        server.ready = begun.elapsed();
        Ok(server)
    }

    fn is_ready(&self) -> bool {
        self.target.curl("/readyz", &["--max-time", "5"]).output().is_ok_and(|answer| answer.stdout == b"ok")
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.data.join("admin.kubeconfig")
    }

    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory, for a table.
    pub(crate) fn memory(&self) -> Result<String, Failure> {
        memory(self.pid()).map(|mib| format!("{mib:.1} MiB"))
    }

    /// Asks it to end and waits until it has.
    pub(crate) fn stop(&mut self) -> Result<(), Failure> {
        crate::run::run(Command::new("kill").arg(self.pid().to_string()))?;
        self.child.wait().map(drop).map_err(|e| e.to_string())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = Command::new(binary()).args(["cleanup", "--purge", "--data-dir"]).arg(&self.data).output();
    }
}

pub(crate) fn binary() -> PathBuf {
    target().join("release/skiff")
}

/// Resident memory of a process, in MiB.
pub(crate) fn memory(pid: u32) -> Result<f64, Failure> {
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
    let kib =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse::<f64>().ok());
    Ok(kib.ok_or("no VmRSS in /proc")? / 1024.0)
}

fn free_port() -> Result<u16, Failure> {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").map_err(|e| e.to_string())?;
    socket.local_addr().map(|address| address.port()).map_err(|e| e.to_string())
}
