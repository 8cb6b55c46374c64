//! What the agent measures of its own work, under upstream's names: how long calls to the runtime take, pods to start, and
//! statuses to be written. Served as `/metrics`; `cargo xtask bench node` reads what a pod's start is made of from it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::future::Future;
use std::time::Duration;

use parking_lot::Mutex;
use skiff_meta::WorldRef;

/// Upper bounds of the buckets, in seconds.
const BOUNDS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0];

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Measure {
    /// A call to the runtime, by upstream's word for it.
    Runtime(&'static str),
    /// From when the agent first saw a pod to when it ran, image pulls included.
    PodStart,
    /// From a changed status to its being written.
    StatusSync,
}

impl Measure {
    fn family(self) -> (&'static str, &'static str) {
        match self {
            Self::Runtime(_) => {
                ("kubelet_runtime_operations_duration_seconds", "Duration in seconds of runtime operations.")
            }
            Self::PodStart => (
                "kubelet_pod_start_duration_seconds",
                "Duration in seconds from kubelet seeing a pod for the first time to the pod starting to run",
            ),
            Self::StatusSync => {
                ("kubelet_pod_status_sync_duration_seconds", "Duration in seconds to sync a pod status update.")
            }
        }
    }

    fn label(self) -> String {
        match self {
            Self::Runtime(operation) => format!("operation_type={operation:?}"),
            Self::PodStart | Self::StatusSync => String::new(),
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Histogram {
    buckets: [u64; BOUNDS.len()],
    count: u64,
    sum: f64,
}

/// All measurements so far.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    histograms: Mutex<BTreeMap<Measure, Histogram>>,
    /// Calls to the runtime that failed, by upstream's word for them.
    failures: Mutex<BTreeMap<&'static str, u64>>,
    /// By signal.
    evictions: Mutex<BTreeMap<&'static str, u64>>,
}

impl Metrics {
    /// It took this long once more.
    pub(crate) fn observe(&self, what: Measure, took: Duration) {
        let seconds = took.as_secs_f64();
        let mut histograms = self.histograms.lock();
        let histogram = histograms.entry(what).or_default();
        for (bucket, bound) in histogram.buckets.iter_mut().zip(BOUNDS) {
            *bucket += u64::from(seconds <= bound);
        }
        histogram.count += 1;
        histogram.sum += seconds;
    }

    /// A pod was evicted for the sake of this signal.
    pub(crate) fn count_eviction(&self, signal: &'static str) {
        *self.evictions.lock().entry(signal).or_default() += 1;
    }

    /// Waits for a call to the runtime and notes how long it took.
    pub(crate) async fn time<T, E>(
        &self,
        world: &WorldRef,
        operation: &'static str,
        call: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let begun = world.elapsed();
        let answer = call.await;
        self.observe(Measure::Runtime(operation), world.elapsed() - begun);
        if answer.is_err() {
            *self.failures.lock().entry(operation).or_default() += 1;
        }
        answer
    }

    /// In Prometheus' text form.
    pub(crate) fn text(&self) -> String {
        let (mut out, mut told) = (String::new(), "");
        for (measure, histogram) in &*self.histograms.lock() {
            let ((name, help), label) = (measure.family(), measure.label());
            // Writing to a string cannot fail.
            if name != told {
                let _ = writeln!(out, "# HELP {name} [ALPHA] {help}\n# TYPE {name} histogram");
                told = name;
            }
            let comma = if label.is_empty() { "" } else { "," };
            for (bound, count) in BOUNDS.iter().zip(histogram.buckets) {
                let _ = writeln!(out, "{name}_bucket{{{label}{comma}le=\"{bound}\"}} {count}");
            }
            let braced = if label.is_empty() { String::new() } else { format!("{{{label}}}") };
            let (count, sum) = (histogram.count, histogram.sum);
            let _ = writeln!(out, "{name}_bucket{{{label}{comma}le=\"+Inf\"}} {count}");
            let _ = writeln!(out, "{name}_sum{braced} {sum}\n{name}_count{braced} {count}");
        }
        let calls: BTreeMap<&str, u64> = self.histograms.lock().iter().filter_map(called).collect();
        for (name, help, label, counts) in [
            (
                "kubelet_runtime_operations_total",
                "Cumulative number of runtime operations by operation type.",
                "operation_type",
                &calls,
            ),
            (
                "kubelet_runtime_operations_errors_total",
                "Cumulative number of runtime operation errors by operation type.",
                "operation_type",
                &*self.failures.lock(),
            ),
            (
                "kubelet_evictions",
                "Cumulative number of pod evictions by eviction signal",
                "eviction_signal",
                &*self.evictions.lock(),
            ),
        ] {
            if !counts.is_empty() {
                let _ = writeln!(out, "# HELP {name} [ALPHA] {help}\n# TYPE {name} counter");
            }
            for (of, count) in counts {
                let _ = writeln!(out, "{name}{{{label}={of:?}}} {count}");
            }
        }
        out
    }
}

/// How often a call to the runtime was made.
fn called((measure, histogram): (&Measure, &Histogram)) -> Option<(&'static str, u64)> {
    match measure {
        Measure::Runtime(operation) => Some((operation, histogram.count)),
        Measure::PodStart | Measure::StatusSync => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_in_prometheus_form() {
        let metrics = Metrics::default();
        metrics.observe(Measure::Runtime("run_podsandbox"), Duration::from_millis(20));
        metrics.observe(Measure::Runtime("run_podsandbox"), Duration::from_secs(3));
        metrics.observe(Measure::PodStart, Duration::from_millis(1));
        metrics.failures.lock().insert("run_podsandbox", 1);
        let told = metrics.text();
        for line in [
            "# TYPE kubelet_runtime_operations_duration_seconds histogram",
            "kubelet_runtime_operations_duration_seconds_bucket{operation_type=\"run_podsandbox\",le=\"0.01\"} 0",
            "kubelet_runtime_operations_duration_seconds_bucket{operation_type=\"run_podsandbox\",le=\"0.025\"} 1",
            "kubelet_runtime_operations_duration_seconds_bucket{operation_type=\"run_podsandbox\",le=\"+Inf\"} 2",
            "kubelet_runtime_operations_duration_seconds_sum{operation_type=\"run_podsandbox\"} 3.02",
            "kubelet_pod_start_duration_seconds_bucket{le=\"0.005\"} 1",
            "kubelet_pod_start_duration_seconds_count 1",
            "kubelet_runtime_operations_total{operation_type=\"run_podsandbox\"} 2",
            "kubelet_runtime_operations_errors_total{operation_type=\"run_podsandbox\"} 1",
        ] {
            assert!(told.lines().any(|told| told == line), "{line} is not in\n{told}");
        }
        assert_eq!(told.matches("# HELP").count(), 4);
    }
}
