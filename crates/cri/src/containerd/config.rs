//! What our private containerd is told, and what of it depends on the machine.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use super::pause;

/// Facts of the machine that change the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Machine {
    /// Whether layers can be stacked by the kernel here; else every layer is copied.
    pub(crate) overlay: bool,
    /// Whether a process may make itself less likely to be killed than its parent (needs CAP_SYS_RESOURCE).
    pub(crate) lower_oom_score: bool,
    /// Whether we are root of the whole machine, not only of a user namespace.
    pub(crate) initial_user_namespace: bool,
}

/// The bit of CAP_SYS_RESOURCE in `/proc/self/status`.
const SYS_RESOURCE: u32 = 24;

impl Machine {
    /// Looks; tries an overlay mount below `scratch`, where the layers will be.
    pub(crate) fn detect(scratch: &Path) -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let uid_map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        let initial_user_namespace = uid_map.split_whitespace().eq(["0", "0", "4294967295"]);
        Self {
            overlay: overlay_works(&scratch.join("overlay-check")),
            lower_oom_score: initial_user_namespace && has_capability(&status, SYS_RESOURCE),
            initial_user_namespace,
        }
    }
}

fn has_capability(status: &str, bit: u32) -> bool {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).is_some_and(|set| set >> bit & 1 == 1)
}

fn overlay_works(scratch: &Path) -> bool {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    let directory = |name: &str| {
        let path = scratch.join(name);
        std::fs::create_dir_all(&path).map(|()| path)
    };
    let attempt = || -> Result<(), Box<dyn std::error::Error>> {
        let (lower, upper, work) = (directory("lower")?, directory("upper")?, directory("work")?);
        let merged = directory("merged")?;
        let options = format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
        mount(Some("overlay"), &merged, Some("overlay"), MsFlags::empty(), Some(options.as_str()))?;
        Ok(umount2(&merged, MntFlags::MNT_DETACH)?)
    };
    let works = attempt().inspect_err(|error| tracing::warn!("no overlay file system here: {error}")).is_ok();
    // Left-overs do no harm and are found again by the next start.
    let _ = std::fs::remove_dir_all(scratch);
    works
}

/// Where things are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Paths {
    pub(crate) root: PathBuf,
    pub(crate) state: PathBuf,
    pub(crate) socket: PathBuf,
    pub(crate) registry: PathBuf,
    pub(crate) cni_conf: PathBuf,
    pub(crate) cni_bin: PathBuf,
    /// Whether nobody else has sandboxes in that network.
    pub(crate) own_network: bool,
}

/// Plugins that a node does not need: other file systems, tracing, and one that would
/// write to `/opt/containerd`, which belongs to the system's own containerd.
const DISABLED: &[&str] = &[
    "io.containerd.internal.v1.opt",
    "io.containerd.internal.v1.tracing",
    "io.containerd.internal.v1.restart",
    "io.containerd.tracing.processor.v1.otlp",
    "io.containerd.monitor.v1.cgroups",
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs",
];

/// The snapshotter that fits the machine.
pub(crate) fn snapshotter(machine: Machine) -> &'static str {
    if machine.overlay { "overlayfs" } else { "native" }
}

/// The configuration file, version 2 as containerd 1.6 to 1.7 read it.
pub(crate) fn file(paths: &Paths, machine: Machine, credentials: &str) -> String {
    let mut out = String::from("# Written at every start.\nversion = 2\n");
    let mut line = |text: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{text}");
    };
    let disabled: Vec<String> = DISABLED.iter().map(|plugin| format!("{plugin:?}")).collect();
    line(format!("root = {}\nstate = {}", quoted(&paths.root), quoted(&paths.state)));
    line(format!("disabled_plugins = [{}]", disabled.join(", ")));
    line(format!("[grpc]\naddress = {}", quoted(&paths.socket)));
    line("[plugins.\"io.containerd.grpc.v1.cri\"]".to_owned());
    line(format!("sandbox_image = {:?}", pause::IMAGE));
    line(format!("restrict_oom_score_adj = {}", !machine.lower_oom_score));
    // As upstream's own installers and newer versions of containerd have it: ports below 1024 and ping need no root.
    line(format!("enable_unprivileged_ports = {}", machine.initial_user_namespace));
    line(format!("enable_unprivileged_icmp = {}", machine.initial_user_namespace));
    // From 2.0 on that is so anyway, and 1.6 does not know it.
    line("enable_cdi = true".to_owned());
    // Network namespaces are ours, not the machine's: `ip netns` shall not list them.
    line("netns_mounts_under_state_dir = true".to_owned());
    line("stream_server_address = \"127.0.0.1\"\nstream_server_port = \"0\"".to_owned());
    line("[plugins.\"io.containerd.grpc.v1.cri\".cni]".to_owned());
    line(format!("bin_dir = {}\nconf_dir = {}", quoted(&paths.cni_bin), quoted(&paths.cni_conf)));
    line("[plugins.\"io.containerd.grpc.v1.cri\".registry]".to_owned());
    line(format!("config_path = {}\n{credentials}", quoted(&paths.registry)));
    line("[plugins.\"io.containerd.grpc.v1.cri\".containerd]".to_owned());
    line(format!("snapshotter = {:?}\ndefault_runtime_name = \"runc\"", snapshotter(machine)));
    line("[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]".to_owned());
    line("runtime_type = \"io.containerd.runc.v2\"".to_owned());
    line("[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc.options]".to_owned());
    line("SystemdCgroup = false".to_owned());
    out
}

pub(super) fn quoted(path: &Path) -> String {
    // TOML's basic strings escape quotes, backslashes and control characters as JSON does.
    serde_json::Value::from(path.to_string_lossy()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_from_the_effective_set() {
        let status = |set: &str| format!("CapPrm:\t000001ffffffffff\nCapEff:\t{set}\n");
        assert!(has_capability(&status("000001ffffffffff"), SYS_RESOURCE));
        assert!(!has_capability(&status("000001fffeffffff"), SYS_RESOURCE));
        assert!(!has_capability("", SYS_RESOURCE));
    }

    #[test]
    fn the_file_follows_the_machine() {
        let dir = PathBuf::from("/d \"x\"");
        let paths = Paths {
            root: dir.join("root"),
            state: dir.join("state"),
            socket: dir.join("s.sock"),
            registry: dir.join("certs.d"),
            cni_conf: dir.join("net.d"),
            cni_bin: dir.join("bin"),
            own_network: true,
        };
        let poor = Machine { overlay: false, lower_oom_score: false, initial_user_namespace: false };
        let file = file(&paths, poor, "");
        for expected in [
            "enable_cdi = true",
            "root = \"/d \\\"x\\\"/root\"",
            "snapshotter = \"native\"",
            "restrict_oom_score_adj = true",
            "enable_unprivileged_ports = false",
            "sandbox_image = \"skiff.local/pause:1\"",
        ] {
            assert!(file.lines().any(|line| line == expected), "{expected} is not in\n{file}");
        }
        let rich = Machine { overlay: true, lower_oom_score: true, initial_user_namespace: true };
        assert!(super::file(&paths, rich, "").contains("restrict_oom_score_adj = false"));
    }
}
