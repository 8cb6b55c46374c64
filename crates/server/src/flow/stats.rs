//! What is counted of each flow schema at each priority level, under upstream's names
//! (`k8s.io/apiserver/pkg/util/flowcontrol/metrics`).

use std::fmt::Write as _;

use crate::metrics::histogram::Histogram;

/// Seconds.
pub(super) const DURATIONS: [f64; 13] = [0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0];
const LENGTHS: [f64; 8] = [0.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0];
const SEATS: [f64; 8] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 100.0];
const WATCHES: [f64; 6] = [0.0, 1.0, 10.0, 100.0, 1000.0, 10000.0];

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// All queues of its hand are full.
    QueueFull,
    /// The level does not queue and has no seat.
    ConcurrencyLimit,
    /// It waited too long, or its client has gone.
    TimeOut,
}

const REFUSALS: [&str; 3] = ["queue-full", "concurrency-limit", "time-out"];

/// The requests of one flow schema at one priority level.
#[derive(Clone, Debug)]
pub(super) struct FlowStats {
    /// The schema's name.
    pub(super) schema: Box<str>,
    /// In queues.
    pub(super) waiting: u32,
    /// Their seats.
    pub(super) seats_waiting: u32,
    /// At work.
    pub(super) executing: u32,
    /// Their seats.
    pub(super) seats: u32,
    /// That have begun.
    pub(super) dispatched: u64,
    /// Refused, by reason.
    pub(super) refused: [u64; 3],
    /// Time in queues of those that ran.
    pub(super) waited: Histogram<13>,
    /// Time in queues of those that did not.
    pub(super) waited_in_vain: Histogram<13>,
    /// Time at work.
    pub(super) ran: Histogram<13>,
    /// The same for watches, until they have begun.
    pub(super) watches: Histogram<13>,
    /// Length of a request's queue with it.
    pub(super) lengths: Histogram<8>,
    /// Seats thought to be needed.
    pub(super) estimates: Histogram<8>,
    /// Who watches what is written.
    pub(super) watchers: Histogram<6>,
}

impl FlowStats {
    /// Nothing yet.
    pub(super) fn new(schema: &str) -> Self {
        Self {
            schema: schema.into(),
            waiting: 0,
            seats_waiting: 0,
            executing: 0,
            seats: 0,
            dispatched: 0,
            refused: [0; 3],
            waited: Histogram::new(&DURATIONS),
            waited_in_vain: Histogram::new(&DURATIONS),
            ran: Histogram::new(&DURATIONS),
            watches: Histogram::new(&DURATIONS),
            lengths: Histogram::new(&LENGTHS),
            estimates: Histogram::new(&SEATS),
            watchers: Histogram::new(&WATCHES),
        }
    }
}

/// One metric per priority level.
pub(super) struct LevelFigures {
    /// The level's name.
    pub(super) level: String,
    /// Names and values, such as `nominal_limit_seats`.
    pub(super) gauges: Vec<(&'static str, f64)>,
    /// Its flows.
    pub(super) flows: Vec<FlowStats>,
}

const PREFIX: &str = "apiserver_flowcontrol_";

/// Reads one number.
type Count = fn(&FlowStats) -> u64;

/// The text form of all levels.
pub(super) fn text(levels: &[LevelFigures], fair: f64, out: &mut String) {
    let names = levels.first().map(|l| l.gauges.iter().map(|(name, _)| *name).collect::<Vec<_>>()).unwrap_or_default();
    for (place, name) in names.iter().enumerate() {
        let _ = writeln!(out, "# TYPE {PREFIX}{name} gauge");
        for figures in levels {
            let value = figures.gauges.get(place).map_or(0.0, |(_, value)| *value);
            let _ = writeln!(out, "{PREFIX}{name}{{priority_level=\"{}\"}} {value}", figures.level);
        }
    }
    let _ = writeln!(out, "# TYPE {PREFIX}seat_fair_frac gauge\n{PREFIX}seat_fair_frac {fair}");
    let counts: [(&str, &str, Count); 5] = [
        ("current_inqueue_requests", "gauge", |f| f.waiting.into()),
        ("current_inqueue_seats", "gauge", |f| f.seats_waiting.into()),
        ("current_executing_requests", "gauge", |f| f.executing.into()),
        ("current_executing_seats", "gauge", |f| f.seats.into()),
        ("dispatched_requests_total", "counter", |f| f.dispatched),
    ];
    let flows = || levels.iter().flat_map(|l| l.flows.iter().map(move |f| (labels(&l.level, f), f)));
    for (name, kind, read) in counts {
        let _ = writeln!(out, "# TYPE {PREFIX}{name} {kind}");
        for (labels, flow) in flows() {
            let _ = writeln!(out, "{PREFIX}{name}{{{labels}}} {}", read(flow));
        }
    }
    let _ = writeln!(out, "# TYPE {PREFIX}rejected_requests_total counter");
    for (labels, flow) in flows() {
        for (reason, count) in REFUSALS.iter().zip(flow.refused).filter(|(_, count)| *count > 0) {
            let _ = writeln!(out, "{PREFIX}rejected_requests_total{{{labels},reason=\"{reason}\"}} {count}");
        }
    }
    let kind = |out: &mut String, name: &str| out.push_str(&format!("# TYPE {PREFIX}{name} histogram\n"));
    let full = |name: &str| format!("{PREFIX}{name}");
    let name = full("request_wait_duration_seconds");
    kind(out, "request_wait_duration_seconds");
    for (labels, flow) in flows() {
        flow.waited.write(out, &name, &format!("{labels},execute=\"true\""));
        flow.waited_in_vain.write(out, &name, &format!("{labels},execute=\"false\""));
    }
    let name = full("request_execution_seconds");
    kind(out, "request_execution_seconds");
    for (labels, flow) in flows() {
        flow.ran.write(out, &name, &format!("{labels},type=\"regular\""));
        flow.watches.write(out, &name, &format!("{labels},type=\"watch\""));
    }
    kind(out, "request_queue_length_after_enqueue");
    flows().for_each(|(labels, flow)| flow.lengths.write(out, &full("request_queue_length_after_enqueue"), &labels));
    kind(out, "work_estimated_seats");
    flows().for_each(|(labels, flow)| flow.estimates.write(out, &full("work_estimated_seats"), &labels));
    kind(out, "watch_count_samples");
    flows().for_each(|(labels, flow)| flow.watchers.write(out, &full("watch_count_samples"), &labels));
}

fn labels(level: &str, flow: &FlowStats) -> String {
    format!("priority_level=\"{level}\",flow_schema=\"{}\"", flow.schema)
}
