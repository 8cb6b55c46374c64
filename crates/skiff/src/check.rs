//! `skiff check`: is this machine fit to be a server or node? Looks and tells; changes nothing.
//!
//! [`look`] gathers facts, [`judge`] weighs them: pure, so that machines nobody has at hand can be tested too.

use std::net::TcpListener;
use std::path::{Path, PathBuf};

use skiff_cri::containerd::{PROGRAMS, is_installed};

use crate::error::StartError;
use crate::flags;

/// What a machine shows of itself. What could not be found out is `None`.
#[derive(Debug)]
struct Machine {
    root: bool,
    kernel: String,
    memory_mib: Option<u64>,
    /// Controllers of cgroups, of either version.
    cgroups: Vec<String>,
    /// Parts of the kernel that were asked for, and whether they are there.
    kernel_parts: Vec<(&'static str, Option<bool>)>,
    /// Programs that were asked for and are not in `PATH`.
    missing_programs: Vec<&'static str>,
    /// Flags of ports that are in use, with the port.
    ports_in_use: Vec<(&'static str, u16)>,
    data_dir: Result<u64, String>,
    own_runtime: bool,
}

/// How much something matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Good,
    Odd,
    Bad,
}

/// Something that was looked at, and what to do about it.
type Finding = (Verdict, String);

const MIB: u64 = 1 << 20;
const HANDY: &str = "conntrack";
const KERNEL: &[&str] = &["overlay", "nf_tables", "vxlan"];
const CONTROLLERS: &[&str] = &["cpu", "memory", "pids", "cpuset"];

/// Prints a line per finding.
///
/// # Errors
/// When the machine is not fit.
pub(crate) fn run(flags: &flags::Check) -> Result<(), StartError> {
    let findings = judge(&look(flags));
    for (verdict, words) in &findings {
        let mark = match verdict {
            Verdict::Good => "ok  ",
            Verdict::Odd => "odd ",
            Verdict::Bad => "bad ",
        };
        println!("{mark}  {words}");
    }
    let bad = findings.iter().filter(|(verdict, _)| *verdict == Verdict::Bad).count();
    if bad == 0 { Ok(()) } else { Err(StartError::Unfit(bad)) }
}

fn look(flags: &flags::Check) -> Machine {
    let text = |path: &str| std::fs::read_to_string(path).ok();
    let release = text("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned();
    let own_runtime = flags.container_runtime_endpoint.is_none();
    let meminfo = text("/proc/meminfo").unwrap_or_default();
    let memory = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    let wanted: &[&str] = if own_runtime { &PROGRAMS } else { &[] };
    let programs = wanted.iter().chain([&HANDY]).filter(|program| !is_installed(program)).copied();
    let ports = [("secure-port", flags.secure_port), ("kubelet-port", flags.kubelet_port)];
    let in_use = |(_, port): &(&str, u16)| *port != 0 && TcpListener::bind(("0.0.0.0", *port)).is_err();
    Machine {
        root: nix::unistd::geteuid().is_root(),
        memory_mib: memory.map(|kib| kib / 1024),
        cgroups: controllers(),
        kernel_parts: KERNEL.iter().map(|part| (*part, kernel_has(part, &release))).collect(),
        missing_programs: programs.collect(),
        ports_in_use: ports.into_iter().filter(in_use).collect(),
        data_dir: room(&flags.data_dir),
        own_runtime,
        kernel: release,
    }
}

/// The controllers of the unified hierarchy, or of the older ones.
fn controllers() -> Vec<String> {
    let names = |text: String| text.split_whitespace().map(str::to_owned).collect();
    if let Ok(text) = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers") {
        return names(text);
    }
    let folders = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
    folders.flat_map(|entry| names(entry.file_name().to_string_lossy().replace(',', " "))).collect()
}

/// Whether a part of the kernel is there, as a module or built in. Kernels without modules tell only some.
fn kernel_has(part: &str, release: &str) -> Option<bool> {
    let lists =
        |path: &str| std::fs::read_to_string(path).is_ok_and(|text| text.split_whitespace().any(|word| word == part));
    if lists("/proc/filesystems") || lists("/proc/modules") || Path::new("/sys/module").join(part).exists() {
        return Some(true);
    }
    let modules = Path::new("/lib/modules").join(release);
    let known = ["modules.builtin", "modules.dep"].map(|name| std::fs::read_to_string(modules.join(name)).ok());
    let known: Vec<String> = known.into_iter().flatten().collect();
    let file = format!("/{part}.ko");
    (!known.is_empty()).then(|| known.iter().any(|text| text.contains(&file)))
}

/// Free bytes where the data directory is or would be, if it can be written there.
fn room(data_dir: &Path) -> Result<u64, String> {
    let there = data_dir.ancestors().find(|path| path.exists()).map_or_else(|| PathBuf::from("/"), Path::to_path_buf);
    let shown = |error: nix::Error| format!("{}: {error}", there.display());
    nix::unistd::access(&there, nix::unistd::AccessFlags::W_OK).map_err(shown)?;
    let found = nix::sys::statvfs::statvfs(&there).map_err(shown)?;
    Ok(found.blocks_available() * found.fragment_size())
}

fn judge(machine: &Machine) -> Vec<Finding> {
    use Verdict::{Bad, Good, Odd};
    let mut all: Vec<Finding> = Vec::new();
    let mut say = |verdict, words: &str| all.push((verdict, words.to_owned()));
    if machine.root {
        say(Good, "runs as root");
    } else {
        say(Bad, "the node agent needs root; without it only the control plane runs (--disable agent,proxy,dns)");
    }
    let version: Vec<u32> = machine.kernel.split(['.', '-']).map_while(|part| part.parse().ok()).collect();
    let old = version < vec![5, 4];
    say(
        if old { Odd } else { Good },
        &format!("kernel {}{}", machine.kernel, if old { "; 5.4 or later is what is tested" } else { "" }),
    );
    match machine.memory_mib {
        Some(memory @ ..512) => {
            say(Odd, &format!("{memory} MiB of memory; 512 and what your pods need are comfortable"))
        }
        Some(memory) => say(Good, &format!("{memory} MiB of memory")),
        None => say(Odd, "how much memory there is could not be read"),
    }
    let lacking: Vec<&str> =
        CONTROLLERS.iter().filter(|name| !machine.cgroups.iter().any(|c| c == *name)).copied().collect();
    match &lacking[..] {
        [] => say(Good, "cgroups count cpu, memory and processes"),
        ["cpuset"] => say(Odd, "no cgroup controller cpuset: CPUs cannot be given to single pods"),
        some => {
            say(Bad, &format!("no cgroup controllers {}; switch them on at boot, or mount cgroups", some.join(", ")))
        }
    }
    for (part, found) in &machine.kernel_parts {
        let what = match *part {
            "overlay" => "layers of images",
            "nf_tables" => "Services and network policies",
            _ => "the network between nodes; --network routed does without",
        };
        match (found, *part) {
            (Some(true), _) => say(Good, &format!("the kernel has {part}")),
            (Some(false), "vxlan") => say(Odd, &format!("the kernel lacks {part}, for {what}")),
            (Some(false), _) => say(Bad, &format!("the kernel lacks {part}, for {what}")),
            (None, _) => say(Odd, &format!("whether the kernel has {part} is not told; it is for {what}")),
        }
    }
    for program in &machine.missing_programs {
        if *program == HANDY {
            say(Odd, "conntrack is not installed: flows of UDP may stay with pods that are gone");
        } else {
            say(
                Bad,
                &format!("{program} is not installed; install it, or name a runtime by --container-runtime-endpoint"),
            );
        }
    }
    if machine.own_runtime && !machine.missing_programs.iter().any(|program| *program != HANDY) {
        say(Good, "containerd and runc are installed");
    }
    for (flag, port) in &machine.ports_in_use {
        say(Bad, &format!("port {port} is in use; stop what listens there, or choose another with --{flag}"));
    }
    if machine.ports_in_use.is_empty() {
        say(Good, "the ports are free");
    }
    match &machine.data_dir {
        Ok(free) if *free < 2048 * MIB => {
            say(Odd, &format!("{} MiB free for the data directory; images soon need more", free / MIB))
        }
        Ok(free) => say(Good, &format!("{} MiB free for the data directory", free / MIB)),
        Err(why) => say(Bad, &format!("the data directory cannot be made: {why}; choose another with --data-dir")),
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fit() -> Machine {
        Machine {
            root: true,
            kernel: "6.1.0-13-amd64".to_owned(),
            memory_mib: Some(2048),
            cgroups: CONTROLLERS.iter().map(|name| (*name).to_owned()).collect(),
            kernel_parts: KERNEL.iter().map(|part| (*part, Some(true))).collect(),
            data_dir: Ok(10_000 * MIB),
            missing_programs: Vec::new(),
            ports_in_use: Vec::new(),
            own_runtime: true,
        }
    }

    fn worst(machine: &Machine) -> (Verdict, usize) {
        let findings = judge(machine);
        let of = |verdict| findings.iter().filter(|(found, _)| *found == verdict).count();
        match (of(Verdict::Bad), of(Verdict::Odd)) {
            (0, 0) => (Verdict::Good, 0),
            (0, odd) => (Verdict::Odd, odd),
            (bad, _) => (Verdict::Bad, bad),
        }
    }

    #[test]
    fn machines_are_judged() {
        use Verdict::{Bad, Good, Odd};
        let unknown = || vec![("overlay", None), ("nf_tables", Some(true))];
        for (machine, expected) in [
            (fit(), (Good, 0)),
            (Machine { root: false, ..fit() }, (Bad, 1)),
            (Machine { kernel: "4.19.0".to_owned(), ..fit() }, (Odd, 1)),
            (Machine { memory_mib: Some(256), ..fit() }, (Odd, 1)),
            (Machine { cgroups: vec!["cpu".to_owned(), "memory".to_owned()], ..fit() }, (Bad, 1)),
            (Machine { kernel_parts: unknown(), ..fit() }, (Odd, 1)),
            (Machine { kernel_parts: vec![("vxlan", Some(false))], ..fit() }, (Odd, 1)),
            (Machine { kernel_parts: vec![("overlay", Some(false))], ..fit() }, (Bad, 1)),
            (Machine { missing_programs: vec!["containerd", "runc", HANDY], ..fit() }, (Bad, 2)),
            (Machine { missing_programs: vec![HANDY], ..fit() }, (Odd, 1)),
            (Machine { ports_in_use: vec![("secure-port", 6443)], ..fit() }, (Bad, 1)),
            (Machine { data_dir: Err("/: read-only".to_owned()), ..fit() }, (Bad, 1)),
            (Machine { data_dir: Ok(MIB), ..fit() }, (Odd, 1)),
        ] {
            assert_eq!(worst(&machine), expected, "{machine:?}");
        }
    }

    #[test]
    fn a_port_in_use_is_found() {
        let taken = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let folder = tempfile::tempdir().unwrap();
        let flags = flags::Check {
            data_dir: folder.path().join("not/there"),
            secure_port: port,
            kubelet_port: 0,
            container_runtime_endpoint: Some("unix:///x".to_owned()),
        };
        let machine = look(&flags);
        assert_eq!(machine.ports_in_use, [("secure-port", port)]);
        assert!(machine.data_dir.is_ok() && !machine.kernel.is_empty());
    }
}
