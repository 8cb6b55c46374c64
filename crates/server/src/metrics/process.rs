//! What the kernel knows of this process, under the names that Prometheus' clients use, and what the process is.

use std::fmt::Write as _;
use std::fs;

/// In which the kernel tells times to programs, on every machine that Linux runs us on.
const TICKS: f64 = 100.0;

/// Writes what can be read; elsewhere than on Linux nothing.
pub(super) fn write(out: &mut String) {
    if let Some(figures) = figures() {
        for (name, ty, help, value) in figures {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {ty}\n{name} {value}");
        }
    }
    let name = "kubernetes_build_info";
    let version = crate::paths::GIT_VERSION;
    let _ = writeln!(out, "# HELP {name} What this is.\n# TYPE {name} gauge");
    let _ = writeln!(out, "{name}{{major=\"1\",minor=\"36\",git_version=\"{version}\"}} 1");
}

type Figure = (&'static str, &'static str, &'static str, f64);

/// From `/proc/self/stat` (proc_pid_stat(5)) and its neighbours.
fn figures() -> Option<[Figure; 6]> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name of the program, which may hold anything, ends with the last parenthesis.
    let fields: Vec<f64> = stat.rsplit_once(')')?.1.split_whitespace().map(|f| f.parse().unwrap_or(0.0)).collect();
    let field = |number: usize| fields.get(number - 3).copied().unwrap_or_default();
    let named = |file: &str, name: &str| {
        let text = fs::read_to_string(file).ok()?;
        let rest = text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.to_owned();
        Some(rest.parse().unwrap_or(f64::INFINITY))
    };
    let resident = named("/proc/self/status", "VmRSS:")? * 1024.0;
    let boot = named("/proc/stat", "btime ")?;
    let most = named("/proc/self/limits", "Max open files")?;
    let open = fs::read_dir("/proc/self/fd").ok()?.count() as f64;
    Some([
        ("process_cpu_seconds_total", "counter", "CPU time spent, in seconds.", (field(14) + field(15)) / TICKS),
        ("process_resident_memory_bytes", "gauge", "Memory in use, in bytes.", resident),
        ("process_virtual_memory_bytes", "gauge", "Address space, in bytes.", field(23)),
        ("process_start_time_seconds", "gauge", "Start, in seconds since 1970.", boot + field(22) / TICKS),
        ("process_open_fds", "gauge", "Open files.", open),
        ("process_max_fds", "gauge", "Most files that may be open.", most),
    ])
}
