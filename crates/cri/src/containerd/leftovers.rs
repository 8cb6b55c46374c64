//! What a killed containerd leaves half-made.
//!
//! containerd makes a sandbox in steps: a network namespace, the network in it, a record, a shim, a process. It takes
//! the steps back when one of them fails, but not when it is killed in between, and the next containerd knows of a
//! sandbox only once its record is whole. Whatever was there before the next one starts, and is not known to it once it
//! answers, is nobody's and has to go: processes, namespaces (and with them their devices), booked addresses.
//!
//! No sandbox may be made meanwhile; see [`GrpcRuntime::pause_making`].

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use skiff_meta::WorldRef;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::config::Paths;
use crate::grpc::GrpcRuntime;
use crate::runtime::RuntimeError;

/// Where containerd's CRI part keeps network namespaces, below its state directory.
const NAMESPACES: &str = "io.containerd.grpc.v1.cri/netns";
const SHIM: &str = "containerd-shim-runc-v2";
/// The interface that the CRI part has plugins make in every sandbox.
const INTERFACE: &str = "eth0";
/// The first version of the CNI specification in which a plugin can be told what is still in use.
const COLLECTING: &str = "1.1.0";

/// How often the shims of before are looked at again, and how long it is until each time.
const LOOKS: u32 = 30;
const BETWEEN_LOOKS: Duration = Duration::from_secs(10);

/// What is there before containerd starts.
#[derive(Debug, Default)]
pub(super) struct Leftovers {
    shims: Vec<Shim>,
    namespaces: Vec<PathBuf>,
}

/// The parent of a sandbox's processes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Shim {
    pid: i32,
    /// The sandbox, or the container where each has a shim of its own.
    id: String,
}

impl Leftovers {
    /// Looks for shims and network namespaces of the containerd with these paths.
    pub(super) fn find(paths: &Paths) -> Self {
        let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let shims = pids.filter_map(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            Some(Shim { pid, id: shim_of(&line, &paths.socket)? })
        });
        let namespaces = std::fs::read_dir(paths.state.join(NAMESPACES)).into_iter().flatten().flatten();
        Self { shims: shims.collect(), namespaces: namespaces.map(|entry| entry.path()).collect() }
    }

    /// Ends and removes what of it `runtime`, which answers by now, does not know; what is left are the shims it does know.
    ///
    /// # Errors
    /// When the runtime does not say what it knows; then everything stays as it is.
    pub(super) async fn clear(&mut self, runtime: &GrpcRuntime, paths: &Paths) -> Result<(), RuntimeError> {
        let known = runtime.known().await?;
        self.end_unknown(&known, &paths.socket);
        for namespace in self.namespaces.iter().filter(|path| !known.namespaces.contains(*path)) {
            tracing::info!(namespace = %namespace.display(), "removes a network namespace that no sandbox has");
            // Not mounted any more after a reboot, or half-made: an ordinary file.
            let _ = nix::mount::umount2(namespace, nix::mount::MntFlags::MNT_DETACH);
            if let Err(error) = std::fs::remove_file(namespace) {
                tracing::warn!(namespace = %namespace.display(), "was not removed: {error}");
            }
        }
        if paths.own_network {
            collect(paths, &known.sandboxes).await;
        }
        Ok(())
    }

    /// A shim that the new containerd failed to reach stays when its sandbox is removed: looks again for a while, until no
    /// shim of before is left. The runtime tells nobody when it forgets a sandbox, so it is asked.
    pub(super) async fn watch(mut self, runtime: Arc<GrpcRuntime>, paths: Paths, world: WorldRef) {
        for _ in 0..LOOKS {
            if self.shims.is_empty() {
                return;
            }
            world.sleep(BETWEEN_LOOKS).await;
            // One that does not answer is being started anew, and then all is looked for again.
            if let Ok(known) = runtime.known().await {
                self.end_unknown(&known, &paths.socket);
            }
        }
    }

    fn end_unknown(&mut self, known: &Known, socket: &Path) {
        let (kept, unknown) = std::mem::take(&mut self.shims).into_iter().partition(|s| known.ids.contains(&s.id));
        self.shims = kept;
        for shim in unknown {
            end(&shim, socket);
        }
    }
}

/// What a runtime knows.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// The ids of its sandboxes.
    pub(crate) sandboxes: HashSet<String>,
    /// Those and the ids of its containers.
    pub(crate) ids: HashSet<String>,
    /// The network namespaces of its sandboxes.
    pub(crate) namespaces: HashSet<PathBuf>,
}

/// The id that a shim of the containerd behind `socket` was started for.
fn shim_of(command_line: &[u8], socket: &Path) -> Option<String> {
    let words: Vec<&str> =
        command_line.split(|byte| *byte == 0).map(std::str::from_utf8).collect::<Result<_, _>>().ok()?;
    let after = |flag: &str| words.iter().position(|word| *word == flag).and_then(|at| words.get(at + 1)).copied();
    let is_shim = Path::new(words.first()?).file_name()? == SHIM;
    let ours = after("-address").is_some_and(|address| Path::new(address) == socket);
    (is_shim && ours).then(|| after("-id").map(str::to_owned)).flatten()
}

/// Kills a shim and all its descendants, children first: a shim that lost its containers would only wait for orders.
fn end(shim: &Shim, socket: &Path) {
    let line = std::fs::read(format!("/proc/{}/cmdline", shim.pid)).unwrap_or_default();
    if shim_of(&line, socket).as_ref() != Some(&shim.id) {
        return;
    }
    tracing::warn!(sandbox = shim.id, pid = shim.pid, "ends the processes of a sandbox that containerd forgot");
    let parents = parents();
    let mut family = vec![shim.pid];
    let mut at = 0;
    while let Some(&parent) = family.get(at) {
        family.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        at += 1;
    }
    for pid in family.into_iter().rev() {
        // One that has ended meanwhile need not be killed.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

/// All processes, each with its parent.
fn parents() -> Vec<(i32, i32)> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let parent = |pid: i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The state and the parent follow the program's name, which is in parentheses and may hold anything.
        stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
    };
    pids.filter_map(|pid| Some((pid, parent(pid)?))).collect()
}

/// Tells the network's plugins which sandboxes there are, so that they give back what others had. That is a runtime's
/// duty by the specification, but containerd's only from version 2 on.
async fn collect(paths: &Paths, sandboxes: &HashSet<String>) {
    let Some(network) = first_network(&paths.cni_conf) else { return };
    let attachments: Vec<Value> = sandboxes.iter().map(|id| json!({"containerID": id, "ifname": INTERFACE})).collect();
    for plugin in network["plugins"].as_array().into_iter().flatten() {
        let Some(kind) = plugin["type"].as_str().filter(|kind| !kind.contains('/')) else { continue };
        let mut config = plugin.clone();
        config["cniVersion"] = json!(COLLECTING);
        config["name"] = network["name"].clone();
        config["cni.dev/valid-attachments"] = json!(attachments);
        if let Err(error) = call(&paths.cni_bin, kind, &config).await {
            tracing::warn!(plugin = kind, "addresses that no sandbox has were not given back: {error}");
        }
    }
}

/// The network that containerd takes: that of the first configuration by name.
fn first_network(directory: &Path) -> Option<Value> {
    let entries = std::fs::read_dir(directory).ok()?.flatten().map(|entry| entry.path());
    let mut lists: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|kind| kind == "conflist")).collect();
    lists.sort();
    serde_json::from_slice(&std::fs::read(lists.first()?).ok()?).ok()
}

async fn call(directory: &Path, plugin: &str, config: &Value) -> std::io::Result<()> {
    let mut child = Command::new(directory.join(plugin))
        .env_clear()
        .env("PATH", super::programs::search_path())
        .env("CNI_COMMAND", "GC")
        .env("CNI_PATH", directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(config.to_string().as_bytes()).await?;
    }
    let output = child.wait_with_output().await?;
    if output.status.success() {
        return Ok(());
    }
    Err(std::io::Error::other(String::from_utf8_lossy(&output.stdout).trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shims_are_told_by_their_command_line() {
        let line = |words: &[&str]| words.join("\0").into_bytes();
        let shim = "/usr/bin/containerd-shim-runc-v2";
        for (words, expected) in [
            (&[shim, "-namespace", "k8s.io", "-id", "abc", "-address", "/d/s.sock", ""][..], Some("abc")),
            (&[shim, "-namespace", "k8s.io", "-id", "abc", "-address", "/other.sock", ""], None),
            (&["/usr/bin/containerd", "-id", "abc", "-address", "/d/s.sock"], None),
            (&[shim, "-address", "/d/s.sock"], None),
            (&[""], None),
        ] {
            assert_eq!(shim_of(&line(words), Path::new("/d/s.sock")).as_deref(), expected, "{words:?}");
        }
    }

    #[test]
    fn parents_include_our_own() {
        let own = i32::try_from(std::process::id()).expect("a pid");
        assert!(parents().contains(&(own, nix::unistd::getppid().as_raw())));
    }

    #[tokio::test]
    async fn plugins_are_told_what_is_in_use() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("a directory");
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("10-a.conflist"), r#"{"name": "n", "plugins": [{"type": "plug", "x": 1}]}"#)
            .expect("written");
        std::fs::write(path("20-b.conflist"), "{}").expect("written");
        std::fs::write(path("plug"), format!("#!/bin/sh\nexec cat > {}.$CNI_COMMAND\n", path("seen").display()))
            .expect("written");
        std::fs::set_permissions(path("plug"), std::fs::Permissions::from_mode(0o755)).expect("set");
        let paths = Paths { cni_conf: dir.path().into(), cni_bin: dir.path().into(), ..Paths::default() };
        collect(&paths, &["s1".to_owned()].into()).await;
        let seen: Value = serde_json::from_slice(&std::fs::read(path("seen.GC")).expect("called")).expect("JSON");
        let in_use = json!([{"containerID": "s1", "ifname": "eth0"}]);
        assert_eq!((&seen["name"], &seen["x"], &seen["cni.dev/valid-attachments"]), (&json!("n"), &json!(1), &in_use));
    }
}
