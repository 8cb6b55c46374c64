//! What starts of pods are made of: the agent's own metrics say how long each step took, the kernel how long its process ran
//! and how long it waited for a processor.

use std::path::PathBuf;

use super::Table;
use crate::Failure;

/// The whole, and the calls to the runtime that a start waits for, once each; what is left is the agent itself.
const ALL: [(&str, &str); 8] = [
    ("whole start", "kubelet_pod_start_duration_seconds"),
    ("sandbox", "run_podsandbox"),
    ("sandbox looked at", "podsandbox_status"),
    ("image", "image_status"),
    ("container made", "create_container"),
    ("container started", "start_container"),
    ("container looked at", "container_status"),
    ("status written, afterwards", "kubelet_pod_status_sync_duration_seconds"),
];
const CALLS: std::ops::Range<usize> = 1..7;

/// How often each was done, and seconds in all.
pub(super) struct Steps([(f64, f64); ALL.len()]);

impl Steps {
    /// From the text of an agent's `/metrics`.
    pub(super) fn read(text: &str) -> Result<Self, Failure> {
        if !text.contains("kubelet_runtime_operations_duration_seconds") {
            return Err(format!("the node's metrics cannot be read: {text:.100}"));
        }
        let value = |name: &str, part: &str| {
            let line = match name.starts_with("kubelet_") {
                true => format!("{name}_{part} "),
                false => format!("kubelet_runtime_operations_duration_seconds_{part}{{operation_type={name:?}}} "),
            };
            text.lines().find_map(|told| told.strip_prefix(&line)?.parse::<f64>().ok()).unwrap_or(0.0)
        };
        Ok(Self(ALL.map(|(_, name)| (value(name, "count"), value(name, "sum")))))
    }

    /// A row for each, of what was done since then.
    pub(super) fn tell(&self, before: &Self, of: &str, table: &mut Table) {
        let mean = |step: usize| {
            let ((count, sum), (then, so_far)) = (self.0[step], before.0[step]);
            1000.0 * (sum - so_far) / (count - then).max(1.0)
        };
        for (step, (what, _)) in ALL.iter().enumerate() {
            table.row(format!("  {of}, mean: {what}"), format!("{:.1} ms", mean(step)));
        }
        let own = mean(0) - CALLS.map(mean).sum::<f64>();
        table.row(format!("  {of}, mean: the agent itself"), format!("{own:.1} ms"));
    }

    /// How many pods have started since then.
    pub(super) fn started(&self, before: &Self) -> f64 {
        self.0[0].0 - before.0[0].0
    }
}

/// Seconds that the threads of a process had a processor, and that they waited for one.
#[derive(Clone, Copy, Default)]
pub(super) struct Turns {
    pub(super) ran: f64,
    pub(super) waited: f64,
}

impl Turns {
    pub(super) fn read(pid: u32) -> Result<Self, Failure> {
        let tasks = PathBuf::from(format!("/proc/{pid}/task"));
        let mut turns = Self::default();
        for task in std::fs::read_dir(&tasks).map_err(|e| format!("{}: {e}", tasks.display()))?.flatten() {
            // A thread may have ended since it was listed.
            let text = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            let mut seconds = text.split(' ').filter_map(|part| part.parse::<f64>().ok()).map(|nanos| nanos / 1e9);
            turns.ran += seconds.next().unwrap_or_default();
            turns.waited += seconds.next().unwrap_or_default();
        }
        Ok(turns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_read() {
        let told = |count: u32| {
            let mut text = format!(
                "kubelet_pod_start_duration_seconds_count {count}\nkubelet_pod_start_duration_seconds_sum {count}\n"
            );
            for (_, name) in &ALL[CALLS] {
                let family = "kubelet_runtime_operations_duration_seconds";
                text += &format!("{family}_count{{operation_type={name:?}}} {count}\n");
                text += &format!("{family}_sum{{operation_type={name:?}}} {}\n", f64::from(count) / 10.0);
            }
            Steps::read(&text).expect("metrics")
        };
        let mut table = Table::default();
        told(5).tell(&told(3), "start", &mut table);
        assert_eq!(told(5).started(&told(3)), 2.0);
        for row in [
            ("  start, mean: whole start", "1000.0 ms"),
            ("  start, mean: image", "100.0 ms"),
            ("  start, mean: the agent itself", "400.0 ms"),
        ] {
            assert!(table.0.iter().any(|(what, figure)| (what.as_str(), figure.as_str()) == row), "{row:?}");
        }
        assert!(Steps::read("nothing").is_err());
    }
}
