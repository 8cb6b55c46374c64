//! What is counted of webhooks, by upstream's names.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use parking_lot::Mutex;

use crate::metrics::histogram::Histogram;

/// Upper bounds of the duration buckets, in seconds.
const BUCKETS: [f64; 7] = [0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0];

const DURATION: &str = "apiserver_admission_webhook_admission_duration_seconds";
const REQUESTS: &str = "apiserver_admission_webhook_request_total";
const REJECTIONS: &str = "apiserver_admission_webhook_rejection_count";
const OPEN: &str = "apiserver_admission_webhook_fail_open_count";

#[derive(Default)]
struct All {
    counts: BTreeMap<(&'static str, String), u64>,
    durations: BTreeMap<String, Histogram<7>>,
}

/// The counters of one plug-in. Names come from configurations, so that only those who may write these can add any.
#[derive(Default)]
pub(super) struct Counters(Mutex<All>);

/// How a call ended.
pub(super) struct Ended<'a> {
    pub(super) name: &'a str,
    /// `admit` or `validating`.
    pub(super) ty: &'static str,
    pub(super) operation: &'static str,
    pub(super) code: u16,
    /// `calling_webhook_error`, `apiserver_internal_error` or `no_error`, when the request was refused.
    pub(super) refused: Option<&'static str>,
    pub(super) failed_open: bool,
    pub(super) took: Duration,
}

impl Counters {
    pub(super) fn add(&self, ended: &Ended<'_>) {
        let Ended { name, ty, operation, code, .. } = ended;
        let rejected = ended.refused.is_some();
        let of = format!("name=\"{name}\",operation=\"{operation}\",type=\"{ty}\"");
        let mut all = self.0.lock();
        *all.counts.entry((REQUESTS, format!("code=\"{code}\",{of},rejected=\"{rejected}\""))).or_default() += 1;
        if let Some(error) = ended.refused {
            let labels = format!("error_type=\"{error}\",{of},rejection_code=\"{code}\"");
            *all.counts.entry((REJECTIONS, labels)).or_default() += 1;
        }
        if ended.failed_open {
            *all.counts.entry((OPEN, format!("name=\"{name}\",type=\"{ty}\""))).or_default() += 1;
        }
        let durations = all.durations.entry(format!("{of},rejected=\"{rejected}\""));
        durations.or_insert_with(|| Histogram::new(&BUCKETS)).observe(ended.took.as_secs_f64());
    }

    /// The text form.
    pub(super) fn write(&self, out: &mut String) {
        let all = self.0.lock();
        for ((metric, labels), count) in &all.counts {
            let _ = writeln!(out, "{metric}{{{labels}}} {count}");
        }
        all.durations.iter().for_each(|(labels, histogram)| histogram.write(out, DURATION, labels));
    }
}
