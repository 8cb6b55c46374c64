//! What the cases share.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use skiff_testkit::process::{Process, Setup, eventually};

/// The server under test.
pub(crate) struct Cluster {
    pub(crate) server: Process,
}

/// How long anything may take on a busy machine; nothing is judged by its speed here.
pub(crate) const LONG: &str = "--timeout=90s";

impl Cluster {
    pub(crate) fn start() -> Result<Self, String> {
        let images = std::env::var_os("SKIFF_IMAGES")
            .map(PathBuf::from)
            .ok_or("SKIFF_IMAGES is not set; run `cargo xtask test cluster`")?;
        let images = ["busybox.tar", "nginx.tar"].map(|name| images.join(name)).to_vec();
        let server = Process::start(&Setup { number: 52, flags: vec!["--node-name".into(), "test".into()], images })?;
        let cluster = Self { server };
        cluster.kubectl(&["wait", "--for=create", "node/test", LONG])?;
        cluster.kubectl(&["wait", "--for=condition=Ready", "node/test", LONG])?;
        Ok(cluster)
    }

    pub(crate) fn kubectl(&self, words: &[&str]) -> Result<String, String> {
        self.server.kubectl(words).map_err(|error| format!("{error}\nserver log:\n{}", self.server.log_end()))
    }

    pub(crate) fn get(&self, words: &[&str]) -> Result<Value, String> {
        let mut all = vec!["get"];
        all.extend(words);
        all.extend(["-o", "json"]);
        serde_json::from_str(&self.kubectl(&all)?).map_err(|e| e.to_string())
    }

    /// Applies a manifest.
    pub(crate) fn apply(&self, manifest: &Value) -> Result<(), String> {
        let file = tempfile::NamedTempFile::with_suffix(".json").map_err(|e| e.to_string())?;
        std::fs::write(file.path(), manifest.to_string()).map_err(|e| e.to_string())?;
        self.kubectl(&["apply", "-f", &file.path().display().to_string()]).map(drop)
    }

    /// Applies a file of `examples/`, and waits until its Deployment is there.
    pub(crate) fn example(&self) -> Result<(), String> {
        self.kubectl(&["apply", "-f", &examples().join("hello.yaml").display().to_string()])?;
        self.kubectl(&["rollout", "status", "deployment/hello", LONG]).map(drop)
    }

    /// Waits until `path` of an object reads `value`.
    pub(crate) fn reads(&self, object: &str, path: &str, value: &str) -> Result<(), String> {
        self.kubectl(&["wait", object, &format!("--for=jsonpath={{{path}}}={value}"), LONG]).map(drop)
    }

    /// The names of the pods with a label, those that are going left out.
    pub(crate) fn pods(&self, selector: &str) -> Result<Vec<String>, String> {
        let list = self.get(&["pods", "-l", selector])?;
        let staying =
            list["items"].as_array().into_iter().flatten().filter(|p| p["metadata"]["deletionTimestamp"].is_null());
        Ok(staying.filter_map(|p| p["metadata"]["name"].as_str().map(str::to_owned)).collect())
    }

    /// A pod to look around from.
    pub(crate) fn shell(&self) -> Result<(), String> {
        self.kubectl(&["apply", "-f", &examples().join("shell.yaml").display().to_string()])?;
        self.kubectl(&["wait", "--for=condition=Ready", "pod/shell", LONG]).map(drop)
    }
}

pub(crate) fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples")
}

/// What a page says, fetched from this machine.
pub(crate) fn page(url: &str) -> Result<String, String> {
    let out = Command::new("curl")
        .args(["-sS", "--noproxy", "*", "--max-time", "5", url])
        .output()
        .map_err(|e| e.to_string())?;
    if out.status.success() {
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    } else {
        Err(String::from_utf8_lossy(&out.stderr).into_owned())
    }
}

/// Fails with `what` when `done` does not hold in time.
pub(crate) fn soon(what: &str, done: impl FnMut() -> bool) -> Result<(), String> {
    if eventually(Duration::from_secs(60), done) { Ok(()) } else { Err(format!("not in time: {what}")) }
}

/// Fails with `what` when it does not hold.
pub(crate) fn holds(what: &str, it: bool) -> Result<(), String> {
    if it { Ok(()) } else { Err(what.to_owned()) }
}
