//! A cluster of several nodes on one machine, as `skiff cluster create` makes it; all of it gone when dropped.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::process::{binary, said};

/// A running cluster.
pub struct Nodes {
    data: tempfile::TempDir,
}

impl Nodes {
    /// Starts a cluster of so many nodes, with flags for its server, and waits until all are ready.
    ///
    /// # Errors
    /// With what it printed when it does not come up.
    pub fn start(count: u8, images: &[PathBuf], flags: &[&str]) -> Result<Self, String> {
        let data = tempfile::Builder::new().prefix("skiff-").tempdir().map_err(|e| e.to_string())?;
        let place = data.path().join("images");
        std::fs::create_dir_all(&place).map_err(|e| e.to_string())?;
        for archive in images {
            std::fs::copy(archive, place.join(archive.file_name().unwrap_or_default()))
                .map_err(|e| format!("{}: {e}", archive.display()))?;
        }
        let nodes = Self { data };
        let mut command = Command::new(binary());
        command.args(["cluster", "create", "--nodes", &count.to_string(), "--data-dir"]).arg(nodes.data.path());
        said(command.arg("--").args(flags).output(), &["cluster", "create"])?;
        Ok(nodes)
    }

    /// Its directory.
    pub fn data_dir(&self) -> &Path {
        self.data.path()
    }

    /// `skiff kubectl` with the administrator's rights: what it printed.
    ///
    /// # Errors
    /// What it printed on stderr, when it failed.
    pub fn kubectl(&self, words: &[&str]) -> Result<String, String> {
        let mut command = Command::new(binary());
        command.arg("kubectl").arg("--kubeconfig").arg(self.data.path().join("admin.kubeconfig")).args(words);
        said(command.output(), words)
    }

    /// An object, or several, as JSON.
    ///
    /// # Errors
    /// As [`Nodes::kubectl`].
    pub fn get(&self, words: &[&str]) -> Result<Value, String> {
        let text = self.kubectl(&[&["get"], words, &["-o", "json"]].concat())?;
        serde_json::from_str(&text).map_err(|e| e.to_string())
    }

    /// Applies a manifest.
    ///
    /// # Errors
    /// As [`Nodes::kubectl`].
    pub fn apply(&self, manifest: &Value) -> Result<(), String> {
        let file = self.data.path().join("manifest.json");
        std::fs::write(&file, manifest.to_string()).map_err(|e| e.to_string())?;
        self.kubectl(&["apply", "-f", &file.display().to_string()]).map(drop)
    }

    /// Ends the process of a node as a power cut would; returns how it was called.
    ///
    /// # Errors
    /// When there is none.
    pub fn kill(&self, node: u8) -> Result<Vec<String>, String> {
        let pid = self.directory(node).join("pid");
        let pid = std::fs::read_to_string(pid).map_err(|e| e.to_string())?;
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).map_err(|e| e.to_string())?;
        let words = words.split(|byte| *byte == 0).filter(|word| !word.is_empty());
        let words = words.map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        said(Command::new("kill").args(["-9", &pid]).output(), &["kill"])?;
        Ok(words)
    }

    /// Starts the process of a node again.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn launch(&self, node: u8, words: &[String]) -> Result<(), String> {
        let directory = self.directory(node);
        let log = std::fs::OpenOptions::new().append(true).open(directory.join("skiff.log"));
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.namespace(node).display())).args(words);
        command.stdin(std::process::Stdio::null()).stderr(log.map_err(|e| e.to_string())?);
        let child = command.spawn().map_err(|e| e.to_string())?;
        std::fs::write(directory.join("pid"), child.id().to_string()).map_err(|e| e.to_string())
    }

    /// The end of a node's log.
    pub fn log_end(&self, node: u8) -> String {
        let text = std::fs::read_to_string(self.directory(node).join("skiff.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// Runs a program as a node's host would.
    ///
    /// # Errors
    /// What it printed, when it failed.
    pub fn on_host(&self, node: u8, words: &[&str]) -> Result<String, String> {
        let mut command = Command::new("nsenter");
        said(command.arg(format!("--net={}", self.namespace(node).display())).args(words).output(), words)
    }

    fn directory(&self, node: u8) -> PathBuf {
        self.data.path().join(format!("node-{node}"))
    }

    fn namespace(&self, node: u8) -> PathBuf {
        self.data.path().join(format!("netns/node-{node}"))
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        let mut command = Command::new(binary());
        command.args(["cluster", "delete", "--data-dir"]).arg(self.data.path());
        if let Err(error) = said(command.output(), &["cluster", "delete"]) {
            eprintln!("{error}");
        }
    }
}
