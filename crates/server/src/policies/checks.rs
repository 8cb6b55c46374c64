//! What is counted of policies, by upstream's names.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use parking_lot::Mutex;

use crate::metrics::histogram::Histogram;

/// Upper bounds of the duration buckets, in seconds.
const BUCKETS: [f64; 5] = [0.000_000_5, 0.001, 0.01, 0.1, 1.0];

/// How the evaluation of an expression ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Ended {
    Fine,
    NotCompiled,
    OutOfBudget,
    Invalid,
}

impl Ended {
    /// By what went wrong, if anything did.
    pub(super) fn of(why: Option<&str>) -> Self {
        match why {
            None => Self::Fine,
            Some(why) if why.starts_with("compilation") => Self::NotCompiled,
            Some(why) if why.starts_with("validation failed due to running out of cost budget") => Self::OutOfBudget,
            Some(_) => Self::Invalid,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Fine => "no_error",
            Self::NotCompiled => "compile_error",
            Self::OutOfBudget => "out_of_budget",
            Self::Invalid => "invalid_error",
        }
    }
}

/// The counters of one sort of policies. Names are those of policies, so that only those who may write these can add any.
pub(super) struct Checks {
    /// `validating` or `mutating`.
    sort: &'static str,
    all: Mutex<BTreeMap<String, Histogram<5>>>,
}

impl Checks {
    pub(super) fn new(sort: &'static str) -> Self {
        Self { sort, all: Mutex::default() }
    }

    pub(super) fn add(&self, policy: &str, binding: &str, ended: Ended, action: Option<&str>, took: Duration) {
        let action = action.map_or(String::new(), |action| format!("enforcement_action=\"{action}\","));
        let error = ended.name();
        let labels = format!("{action}error_type=\"{error}\",policy=\"{policy}\",policy_binding=\"{binding}\"");
        let mut all = self.all.lock();
        all.entry(labels).or_insert_with(|| Histogram::new(&BUCKETS)).observe(took.as_secs_f64());
    }

    /// The text form.
    pub(super) fn write(&self, out: &mut String) {
        let all = self.all.lock();
        let name = format!("apiserver_{}_admission_policy_check", self.sort);
        for (labels, histogram) in &*all {
            let _ = writeln!(out, "{name}_total{{{labels}}} {}", histogram.count());
        }
        let name = format!("{name}_duration_seconds");
        all.iter().for_each(|(labels, histogram)| histogram.write(out, &name, labels));
    }
}
