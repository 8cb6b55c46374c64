//! containerd's process: our child, or one that outlived us and is adopted.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use skiff_meta::WorldRef;
use tokio::process::{Child, Command};

/// A running containerd.
pub(super) struct Process {
    pid: Pid,
    /// Present when it is our child, which has to be waited for.
    child: Option<Child>,
    world: WorldRef,
}

impl Process {
    /// Starts one in a process group of its own, so that a Ctrl-C meant for us leaves it alone: containers outlive us,
    /// and so may it.
    pub(super) fn start(binary: &Path, config: &Path, log: &Path, world: WorldRef) -> std::io::Result<Self> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(log)?;
        let child = Command::new(binary)
            .arg("--config")
            .arg(config)
            .env("PATH", super::programs::search_path())
            .stdin(Stdio::null())
            .stdout(log.as_fd().try_clone_to_owned()?)
            .stderr(log)
            .process_group(0)
            .spawn()?;
        let pid = Pid::from_raw(child.id().and_then(|id| i32::try_from(id).ok()).unwrap_or_default());
        Ok(Self { pid, child: Some(child), world })
    }

    /// Finds the one that runs with `config`, if any. The search goes by command line, which no number reused by the
    /// kernel can fake.
    pub(super) fn find(config: &Path, world: WorldRef) -> Option<Self> {
        let entries = std::fs::read_dir("/proc").ok()?;
        let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let pid = pids.map(Pid::from_raw).find(|pid| runs_with(*pid, config))?;
        Some(Self { pid, child: None, world })
    }

    pub(super) fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Completes when it has ended. The end of a process that is not our child is seen by looking, once a second; its
    /// broken connections tell earlier.
    pub(super) async fn ended(&mut self) {
        if let Some(child) = &mut self.child {
            let status = child.wait().await;
            tracing::warn!(?status, "containerd ended");
            return;
        }
        while self.alive() {
            self.world.sleep(Duration::from_secs(1)).await;
        }
    }

    fn alive(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        // The state follows the program's name, which is in parentheses and may hold anything.
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
    }

    /// Ends it, by force when it does not obey within five seconds. Containers and their shims are not affected.
    pub(super) async fn stop(mut self) {
        for (signal, patience) in [(Signal::SIGTERM, 5), (Signal::SIGKILL, 5)] {
            // A process that is gone cannot be signalled, and need not.
            let _ = kill(self.pid, signal);
            let world = self.world.clone();
            let limit = world.sleep(Duration::from_secs(patience));
            tokio::select! {
                () = self.gone() => return,
                () = limit => {}
            }
        }
    }

    async fn gone(&mut self) {
        if let Some(child) = &mut self.child {
            // Its status does not matter any more.
            let _ = child.wait().await;
            return;
        }
        while self.alive() {
            self.world.sleep(Duration::from_millis(10)).await;
        }
    }
}

fn runs_with(pid: Pid, config: &Path) -> bool {
    let Ok(line) = std::fs::read(format!("/proc/{pid}/cmdline")) else { return false };
    let mut words = line.split(|byte| *byte == 0);
    let program = words.next().map(|word| PathBuf::from(String::from_utf8_lossy(word).into_owned()));
    let is_containerd = program.and_then(|path| Some(path.file_name()? == "containerd")).unwrap_or(false);
    is_containerd && words.any(|word| word == config.as_os_str().as_encoded_bytes())
}
