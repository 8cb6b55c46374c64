//! How many requests are being answered: what `apiserver_current_inflight_requests` tells, and the limits that hold
//! where flow control is turned off.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

/// Reads and writes at work.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    reads: AtomicU32,
    writes: AtomicU32,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub(crate) struct Counted {
    all: Arc<InFlight>,
    writes: bool,
}

impl InFlight {
    /// One more; `None` when there are `most` already.
    pub(crate) fn count(self: &Arc<Self>, writes: bool, most: u32) -> Option<Counted> {
        let before = self.of(writes).fetch_add(1, Relaxed);
        let counted = Counted { all: self.clone(), writes };
        (before < most).then_some(counted)
    }

    /// Whether there is one.
    pub(crate) fn any(&self) -> bool {
        [true, false].into_iter().any(|writes| self.of(writes).load(Relaxed) > 0)
    }

    fn of(&self, writes: bool) -> &AtomicU32 {
        if writes { &self.writes } else { &self.reads }
    }

    /// Metrics, in their text form.
    pub(crate) fn write_metrics(&self, out: &mut String) {
        const NAME: &str = "apiserver_current_inflight_requests";
        let _ = writeln!(out, "# HELP {NAME} Requests being answered.\n# TYPE {NAME} gauge");
        for (kind, writes) in [("mutating", true), ("readOnly", false)] {
            let _ = writeln!(out, "{NAME}{{request_kind=\"{kind}\"}} {}", self.of(writes).load(Relaxed));
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.all.of(self.writes).fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_have_their_own_limits() {
        let all = Arc::new(InFlight::default());
        let first = all.count(true, 1);
        assert!(first.is_some() && all.count(true, 1).is_none() && all.count(false, 1).is_some());
        assert!(all.any());
        drop(first);
        assert!(!all.any());
        assert!(all.count(true, 1).is_some());
    }
}
