//! Resource groups of pods, in either version of the kernel's interface.
//!
//! The runtime makes a container's own group below its pod's; here are the pods' groups and the two classes above them,
//! with the weights and limits that hold for all containers of a pod together.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use super::usage::{self, Traffic, Usage};
use crate::make::resources::{Limits, PERIOD};

/// Makes and removes groups. Paths are relative to the root of all pods, such as `burstable/podUID`.
pub trait Cgroups: Send + Sync + 'static {
    /// The root of all pods as the runtime names it, such as `/kubepods`; empty: the runtime shall decide.
    fn root(&self) -> String;
    /// Makes a group where it is missing and sets its limits.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn set(&self, path: &str, limits: Limits) -> io::Result<()>;
    /// Removes a group and all below it; fine when it is not there.
    ///
    /// # Errors
    /// When a process is still in it.
    fn remove(&self, path: &str) -> io::Result<()>;
    /// Kills whatever still runs in a group or below; fine when it is not there. The processes end a moment later.
    ///
    /// # Errors
    /// When the tree cannot be read.
    fn kill(&self, path: &str) -> io::Result<()>;
    /// What the processes of a group and below use.
    ///
    /// # Errors
    /// When there is no such group.
    fn usage(&self, path: &str) -> io::Result<Usage>;
    /// What went through the network of a pod's group; `None` where none of its processes can be asked.
    fn traffic(&self, path: &str) -> Option<Traffic>;
    /// The groups of all pods there are.
    ///
    /// # Errors
    /// When the tree cannot be read.
    fn pods(&self) -> io::Result<Vec<String>>;
}

/// The kernel's groups.
pub struct RealCgroups {
    root: String,
    version: Version,
}

enum Version {
    /// One tree for all controllers.
    Unified(PathBuf),
    /// A tree for each: the mount points, with the controllers each has.
    Split(Vec<(PathBuf, Vec<String>)>),
}

/// Controllers that are handed down the unified tree.
const CONTROLLERS: &[&str] = &["cpu", "memory", "pids", "cpuset", "io"];

impl RealCgroups {
    /// Finds out which version is mounted, and where. `root` is the group of all pods, such as `/kubepods`.
    ///
    /// # Errors
    /// When the mount table cannot be read or has no groups in it.
    pub fn detect(root: &str) -> io::Result<Self> {
        let table = std::fs::read_to_string("/proc/self/mountinfo")?;
        let version = version(&table).ok_or_else(|| io::Error::other("no cgroup file system is mounted"))?;
        Ok(Self { root: format!("/{}", root.trim_matches('/')), version })
    }

    fn inner(&self, path: &str) -> PathBuf {
        Path::new(self.root.trim_start_matches('/')).join(path)
    }

    /// The tree that has this controller.
    fn tree(&self, controller: &str) -> Option<&Path> {
        match &self.version {
            Version::Unified(mount) => Some(mount),
            Version::Split(mounts) => {
                let found = mounts.iter().find(|(_, has)| has.iter().any(|c| c == controller));
                found.map(|(mount, _)| mount.as_path())
            }
        }
    }

    /// All trees: the roots below which a group may exist.
    fn trees(&self) -> Vec<&Path> {
        match &self.version {
            Version::Unified(mount) => vec![mount],
            Version::Split(mounts) => mounts.iter().map(|(mount, _)| mount.as_path()).collect(),
        }
    }
}

fn version(table: &str) -> Option<Version> {
    let (mut unified, mut split) = (None, Vec::new());
    for line in table.lines() {
        let Some((front, back)) = line.split_once(" - ") else { continue };
        let Some(mount) = front.split(' ').nth(4).map(PathBuf::from) else { continue };
        let mut back = back.split(' ');
        match back.next() {
            Some("cgroup2") => unified = unified.or(Some(mount)),
            Some("cgroup") => {
                let options = back.nth(1).unwrap_or_default().split(',').map(str::to_owned).collect();
                split.push((mount, options));
            }
            _ => {}
        }
    }
    if split.is_empty() {
        return unified.map(Version::Unified);
    }
    // Where both are mounted, the controllers are in the old trees, but the runtime makes groups in the new one too.
    split.extend(unified.map(|mount| (mount, Vec::new())));
    Some(Version::Split(split))
}

impl Cgroups for RealCgroups {
    fn root(&self) -> String {
        self.root.clone()
    }

    fn set(&self, path: &str, limits: Limits) -> io::Result<()> {
        let inner = self.inner(path);
        match &self.version {
            Version::Unified(mount) => {
                hand_down(mount, &inner)?;
                let group = mount.join(&inner);
                // From 2..262144 to 1..10000, as the runtimes convert.
                let weight = 1 + (limits.cpu_shares.max(2) - 2) * 9999 / 262_142;
                let max = |limit: i64| if limit > 0 { limit.to_string() } else { "max".to_owned() };
                write(&group.join("cpu.weight"), &weight.to_string())?;
                write(&group.join("cpu.max"), &format!("{} {PERIOD}", max(limits.cpu_quota)))?;
                write(&group.join("memory.max"), &max(limits.memory))
            }
            Version::Split(_) => {
                let tree = |controller: &str| self.tree(controller).map(|tree| tree.join(&inner));
                let none_is_minus = |limit: i64| if limit > 0 { limit } else { -1 };
                if let Some(group) = tree("cpu") {
                    std::fs::create_dir_all(&group)?;
                    write(&group.join("cpu.shares"), &limits.cpu_shares.max(2).to_string())?;
                    write(&group.join("cpu.cfs_period_us"), &PERIOD.to_string())?;
                    write(&group.join("cpu.cfs_quota_us"), &none_is_minus(limits.cpu_quota).to_string())?;
                }
                if let Some(group) = tree("memory") {
                    std::fs::create_dir_all(&group)?;
                    write(&group.join("memory.limit_in_bytes"), &none_is_minus(limits.memory).to_string())?;
                }
                Ok(())
            }
        }
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let inner = self.inner(path);
        self.trees().into_iter().try_for_each(|tree| remove_tree(&tree.join(&inner)))
    }

    fn kill(&self, path: &str) -> io::Result<()> {
        let inner = self.inner(path);
        let mut processes = BTreeSet::new();
        self.trees().into_iter().try_for_each(|tree| collect_processes(&tree.join(&inner), &mut processes))?;
        for pid in processes {
            // One that has ended by itself meanwhile cannot be signalled, and need not.
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
        Ok(())
    }

    fn usage(&self, path: &str) -> io::Result<Usage> {
        let inner = self.inner(path);
        let read = |controller: &str, file: &str| {
            let group = self.tree(controller).map(|tree| tree.join(&inner).join(file));
            group.map_or(Ok(String::new()), std::fs::read_to_string)
        };
        let number = |text: String| text.trim().parse::<u64>().unwrap_or(0);
        let unified = matches!(self.version, Version::Unified(_));
        let (cpu, memory) = if unified {
            (usage::entry(&read("cpu", "cpu.stat")?, "usage_usec") * 1000, number(read("memory", "memory.current")?))
        } else {
            (number(read("cpuacct", "cpuacct.usage")?), number(read("memory", "memory.usage_in_bytes")?))
        };
        // The first version counts a group's own pages and, under these names, those below as well.
        let (prefix, anonymous) = if unified { ("", "anon") } else { ("total_", "rss") };
        let stat = read("memory", "memory.stat")?;
        let entry = |key: &str| usage::entry(&stat, &format!("{prefix}{key}"));
        Ok(Usage {
            cpu,
            memory,
            working_set: memory.saturating_sub(entry("inactive_file")),
            rss: entry(anonymous),
            page_faults: entry("pgfault"),
            major_page_faults: entry("pgmajfault"),
            processes: read("pids", "pids.current").map(number).unwrap_or(0),
        })
    }

    fn traffic(&self, path: &str) -> Option<Traffic> {
        let mut processes = BTreeSet::new();
        collect_processes(&self.tree("pids")?.join(self.inner(path)), &mut processes).ok()?;
        let table = std::fs::read_to_string(format!("/proc/{}/net/dev", processes.first()?)).ok()?;
        usage::traffic(&table, &["eth0"])
    }

    fn pods(&self) -> io::Result<Vec<String>> {
        let mut pods = BTreeSet::new();
        for tree in self.trees() {
            for class in ["", "burstable/", "besteffort/"] {
                let Ok(entries) = std::fs::read_dir(tree.join(self.inner(class))) else { continue };
                let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
                pods.extend(names.filter(|name| name.starts_with("pod")).map(|name| format!("{class}{name}")));
            }
        }
        Ok(pods.into_iter().collect())
    }
}

/// Makes the groups from the root of the unified tree down to `inner`, each with the controllers its parent can give.
fn hand_down(mount: &Path, inner: &Path) -> io::Result<()> {
    let mut group = mount.to_owned();
    for part in inner.components() {
        let available = std::fs::read_to_string(group.join("cgroup.controllers"))?;
        for controller in CONTROLLERS.iter().filter(|c| available.split_whitespace().any(|has| has == **c)) {
            write(&group.join("cgroup.subtree_control"), &format!("+{controller}"))?;
        }
        group.push(part);
        std::fs::create_dir_all(&group)?;
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    match std::fs::write(path, text) {
        // A kernel without this controller has no such file.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
        Ok(()) => Ok(()),
    }
}

/// Groups are directories whose files go with them; children go first.
fn remove_tree(group: &Path) -> io::Result<()> {
    let entries = match std::fs::read_dir(group) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    match std::fs::remove_dir(group) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The processes of a group and of those below it.
fn collect_processes(group: &Path, processes: &mut BTreeSet<i32>) -> io::Result<()> {
    let entries = match std::fs::read_dir(group) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    // A group that goes away meanwhile has none. Zero stands for a process that this namespace cannot name.
    let listed = std::fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    processes.extend(listed.lines().filter_map(|line| line.parse().ok()).filter(|pid: &i32| *pid > 0));
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect_processes(&entry.path(), processes)?;
        }
    }
    Ok(())
}

/// No groups.
pub struct NoCgroups;

impl Cgroups for NoCgroups {
    fn root(&self) -> String {
        String::new()
    }
    fn set(&self, _: &str, _: Limits) -> io::Result<()> {
        Ok(())
    }
    fn remove(&self, _: &str) -> io::Result<()> {
        Ok(())
    }
    fn kill(&self, _: &str) -> io::Result<()> {
        Ok(())
    }
    fn usage(&self, _: &str) -> io::Result<Usage> {
        Ok(Usage::default())
    }
    fn traffic(&self, _: &str) -> Option<Traffic> {
        None
    }
    fn pods(&self) -> io::Result<Vec<String>> {
        Ok(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mounted_version_is_found() {
        let unified = "1 0 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert!(matches!(version(unified), Some(Version::Unified(path)) if path == Path::new("/sys/fs/cgroup")));
        let hybrid = "2 1 0:2 / /sys/fs/cgroup/unified rw - cgroup2 c rw\n\
                      3 1 0:3 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n";
        let Some(Version::Split(mounts)) = version(hybrid) else { panic!("split trees expected") };
        assert_eq!(mounts[0].0, Path::new("/sys/fs/cgroup/cpu"));
        assert_eq!(mounts[0].1, ["rw", "cpu", "cpuacct"]);
        assert_eq!(mounts[1].0, Path::new("/sys/fs/cgroup/unified"), "groups have to be removed there as well");
        assert!(version("1 0 0:1 / / rw - ext4 d rw\n").is_none());
    }

    #[test]
    fn processes_are_found_at_every_depth() {
        let dir = tempfile::tempdir().expect("a directory");
        let below = dir.path().join("podu/container");
        std::fs::create_dir_all(&below).expect("made");
        std::fs::write(dir.path().join("podu/cgroup.procs"), "12\n0\n").expect("written");
        std::fs::write(below.join("cgroup.procs"), "34\n12\n").expect("written");
        let mut found = BTreeSet::new();
        collect_processes(&dir.path().join("podu"), &mut found).expect("read");
        assert_eq!(found, [12, 34].into());
        collect_processes(&dir.path().join("none"), &mut found).expect("nothing there");
    }

    /// In a directory that only looks like a tree of groups: what is written where, and that children go first.
    #[test]
    fn groups_are_made_listed_and_removed() {
        let dir = tempfile::tempdir().expect("a directory");
        let mount = |name: &str| (dir.path().join(name), vec![name.to_owned()]);
        let cgroups =
            RealCgroups { root: "/kubepods".into(), version: Version::Split(vec![mount("cpu"), mount("memory")]) };
        std::fs::create_dir_all(dir.path().join("memory/kubepods/podm")).expect("made");
        std::fs::write(dir.path().join("memory/kubepods/podm/memory.usage_in_bytes"), "5000\n").expect("written");
        let stat = "rss 1\ntotal_rss 1000\ntotal_inactive_file 2000\ntotal_pgfault 3\n";
        std::fs::write(dir.path().join("memory/kubepods/podm/memory.stat"), stat).expect("written");
        let used = cgroups.usage("podm").expect("usage");
        assert_eq!((used.memory, used.working_set, used.rss, used.page_faults), (5000, 3000, 1000, 3));
        assert!(cgroups.usage("podnone").is_err());
        std::fs::remove_dir_all(dir.path().join("memory/kubepods/podm")).expect("removed");
        let limits = Limits { cpu_shares: 102, cpu_quota: 0, memory: 1 << 20 };
        cgroups.set("burstable/podu", limits).expect("set");
        let read = |path: &str| std::fs::read_to_string(dir.path().join(path)).expect("written");
        assert_eq!(read("cpu/kubepods/burstable/podu/cpu.shares"), "102");
        assert_eq!(read("cpu/kubepods/burstable/podu/cpu.cfs_quota_us"), "-1");
        assert_eq!(read("memory/kubepods/burstable/podu/memory.limit_in_bytes"), "1048576");
        assert_eq!(cgroups.pods().expect("listed"), ["burstable/podu"]);
        // Ordinary files do not vanish with their directory as a group's do.
        for (tree, files) in [
            ("cpu", &["cpu.shares", "cpu.cfs_period_us", "cpu.cfs_quota_us"][..]),
            ("memory", &["memory.limit_in_bytes"]),
        ] {
            let group = dir.path().join(tree).join("kubepods/burstable/podu");
            files.iter().for_each(|file| std::fs::remove_file(group.join(file)).expect("removed"));
            std::fs::create_dir(group.join("container")).expect("made");
        }
        cgroups.remove("burstable/podu").expect("removed");
        assert!(cgroups.pods().expect("listed").is_empty());
    }
}
