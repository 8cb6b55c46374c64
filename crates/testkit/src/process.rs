//! A real server process of its own: data directory, ports, address ranges, containers; all gone when dropped.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

/// Where the binary under test is: `SKIFF_BIN`, set by `cargo xtask test`.
///
/// # Panics
/// When it is not set: these tests run by `cargo xtask test cluster`.
pub fn binary() -> PathBuf {
    std::env::var_os("SKIFF_BIN")
        .map(PathBuf::from)
        .unwrap_or_else(|| panic!("SKIFF_BIN is not set; run `cargo xtask test cluster`"))
}

/// A server that was started for a test.
pub struct Process {
    child: Option<Child>,
    data: tempfile::TempDir,
    flags: Vec<String>,
    log: PathBuf,
}

/// Which parts run, and where.
pub struct Setup {
    /// Second octet of pod and service ranges, so that clusters stand side by side.
    pub number: u8,
    /// More flags.
    pub flags: Vec<String>,
    /// Image archives to offer.
    pub images: Vec<PathBuf>,
}

impl Process {
    /// Starts a server and waits until its API is ready.
    ///
    /// # Errors
    /// With the end of the log when it does not come up within half a minute.
    pub fn start(setup: &Setup) -> Result<Self, String> {
        Self::start_with(setup, None)
    }

    /// Starts a further server of the cluster of `other`, on the same store: it gets the same keys and certificates.
    ///
    /// # Errors
    /// As [`Process::start`].
    pub fn start_beside(other: &Self, setup: &Setup) -> Result<Self, String> {
        Self::start_with(setup, Some(&other.data_dir().join("pki")))
    }

    fn start_with(setup: &Setup, pki: Option<&Path>) -> Result<Self, String> {
        let data = tempfile::Builder::new().prefix("skiff-").tempdir().map_err(|e| e.to_string())?;
        if let Some(pki) = pki {
            let mut copy = Command::new("cp");
            said(copy.arg("-a").arg(pki).arg(data.path()).output(), &["cp"])?;
        }
        let images = data.path().join("images");
        std::fs::create_dir_all(&images).map_err(|e| e.to_string())?;
        for archive in &setup.images {
            let name = archive.file_name().unwrap_or_default();
            std::fs::copy(archive, images.join(name)).map_err(|e| format!("{}: {e}", archive.display()))?;
        }
        let n = setup.number;
        let mut flags: Vec<String> = [
            "--secure-port",
            "0",
            "--kubelet-port",
            "0",
            "--bind-address",
            "127.0.0.1",
            "--cluster-cidr",
            &format!("10.{n}.0.0/16"),
            "--service-cidr",
            &format!("10.{}.0.0/16", n + 1),
            "--cluster-dns",
            &format!("10.{}.0.10", n + 1),
            "--log-level",
            "info",
        ]
        .map(str::to_owned)
        .to_vec();
        // What the setup says of the same is meant instead.
        flags = flags.chunks(2).filter(|pair| !setup.flags.contains(&pair[0])).flatten().cloned().collect();
        flags.extend(setup.flags.clone());
        let log = data.path().join("server.log");
        let mut process = Self { child: None, data, flags, log };
        process.launch()?;
        Ok(process)
    }

    /// Starts the server, again if need be, on the same data.
    ///
    /// # Errors
    /// As [`Process::start`].
    pub fn launch(&mut self) -> Result<(), String> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&self.log).map_err(|e| e.to_string())?;
        let _ = std::fs::remove_file(self.kubeconfig());
        let mut command = Command::new(binary());
        command.arg("server").arg("--data-dir").arg(self.data_dir()).args(&self.flags);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().map_err(|e| format!("{}: {e}", binary().display()))?);
        let ready = eventually(Duration::from_secs(30), || {
            self.kubeconfig().exists() && self.kubectl(&["get", "--raw", "/readyz"]).is_ok_and(|text| text == "ok")
        });
        if ready { Ok(()) } else { Err(format!("the server is not ready:\n{}", self.log_end())) }
    }

    /// Ends the server as a power cut would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Ends the server's containerd as a power cut would; nobody to kill is fine.
    ///
    /// # Errors
    /// When the processes of this machine cannot be listed.
    pub fn kill_containerd(&self) -> Result<(), String> {
        let config = self.data_dir().join("containerd/config.toml");
        for entry in std::fs::read_dir("/proc").map_err(|e| e.to_string())?.flatten() {
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let mut words = line.split(|byte| *byte == 0);
            let is_containerd = words.next().is_some_and(|program| program.ends_with(b"/containerd"));
            if is_containerd && words.any(|word| word == config.as_os_str().as_encoded_bytes()) {
                let _ = Command::new("kill").arg("-9").arg(entry.file_name()).status();
            }
        }
        Ok(())
    }

    /// Asks the server to end, and waits; how long it took is the caller's to judge.
    ///
    /// # Errors
    /// When it has not ended after ten seconds.
    pub fn stop(&mut self) -> Result<(), String> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let _ = Command::new("kill").arg(child.id().to_string()).status();
        let ended = eventually(Duration::from_secs(10), || child.try_wait().is_ok_and(|status| status.is_some()));
        if ended {
            return Ok(());
        }
        let _ = child.kill();
        let _ = child.wait();
        Err(format!("the server did not stop:\n{}", self.log_end()))
    }

    /// The server's process id.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Its data directory.
    pub fn data_dir(&self) -> &Path {
        self.data.path()
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.data_dir().join("admin.kubeconfig")
    }

    /// The end of its log.
    pub fn log_end(&self) -> String {
        let mut text = String::new();
        let _ = std::fs::File::open(&self.log).and_then(|mut file| file.read_to_string(&mut text));
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// `skiff kubectl` with the administrator's rights: what it printed.
    ///
    /// # Errors
    /// What it printed on stderr, when it failed.
    pub fn kubectl(&self, words: &[&str]) -> Result<String, String> {
        let mut command = Command::new(binary());
        command.arg("kubectl").arg("--kubeconfig").arg(self.kubeconfig()).args(words);
        said(command.output(), words)
    }

    /// Another program with `KUBECONFIG` set: what it printed.
    ///
    /// # Errors
    /// What it printed on stderr, when it failed.
    pub fn client(&self, program: &Path, words: &[&str]) -> Result<String, String> {
        let mut command = Command::new(program);
        command.args(words).env("KUBECONFIG", self.kubeconfig()).env("HOME", self.data_dir());
        said(command.output(), words)
    }
}

pub(crate) fn said(output: std::io::Result<Output>, words: &[&str]) -> Result<String, String> {
    let output = output.map_err(|e| format!("{words:?}: {e}"))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(stdout);
    }
    Err(format!("{words:?}: {}\n{stdout}{}", output.status, String::from_utf8_lossy(&output.stderr)))
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        let mut command = Command::new(binary());
        command.arg("cleanup").arg("--purge").arg("--data-dir").arg(self.data_dir());
        if let Err(error) = said(command.output(), &["cleanup"]) {
            eprintln!("{error}");
        }
    }
}

/// Looks again and again until `done` holds, for what only another process can tell (processes, mounts, a page); false
/// when `limit` passes first. What the API tells is waited for by watch.
#[allow(clippy::disallowed_methods, reason = "the process under test has its own clock")]
pub fn eventually(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let begin = std::time::Instant::now();
    loop {
        if done() {
            return true;
        }
        if begin.elapsed() > limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
