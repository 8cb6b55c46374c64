//! What a scheduler has done, counted for benches and metrics.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Four buckets for each doubling, from a microsecond up.
const BUCKETS: usize = 128;

/// Counters that anybody may read at any time.
#[derive(Debug)]
pub struct Stats {
    placed: AtomicU64,
    refused: AtomicU64,
    latencies: [AtomicU64; BUCKETS],
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            placed: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            latencies: [const { AtomicU64::new(0) }; BUCKETS],
        }
    }
}

fn bucket(took: Duration) -> usize {
    let micros = took.as_nanos() as f64 / 1e3;
    ((micros.max(1.0).log2() * 4.0) as usize).min(BUCKETS - 1)
}

impl Stats {
    pub(crate) fn decided(&self, took: Duration, placed: bool) {
        let count = if placed { &self.placed } else { &self.refused };
        count.fetch_add(1, Ordering::Relaxed);
        self.latencies[bucket(took)].fetch_add(1, Ordering::Relaxed);
    }

    /// Decisions that gave a pod a node, and those that did not.
    pub fn decisions(&self) -> (u64, u64) {
        (self.placed.load(Ordering::Relaxed), self.refused.load(Ordering::Relaxed))
    }

    /// How long decisions took at most, for this share of them; within a fifth.
    pub fn latency(&self, share: f64) -> Duration {
        let counts: Vec<u64> = self.latencies.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        let wanted = counts.iter().sum::<u64>() as f64 * share;
        let mut seen = 0;
        let place = counts.iter().position(|count| {
            seen += count;
            seen as f64 >= wanted
        });
        Duration::from_nanos((2_f64.powf((place.unwrap_or(0) + 1) as f64 / 4.0) * 1e3) as u64)
    }

    /// Begins to count anew.
    pub fn reset(&self) {
        self.latencies.iter().chain([&self.placed, &self.refused]).for_each(|count| count.store(0, Ordering::Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_near() {
        let stats = Stats::default();
        (1..=100).for_each(|micros| stats.decided(Duration::from_micros(micros), micros % 2 == 0));
        assert_eq!(stats.decisions(), (50, 50));
        for (share, expected) in [(0.5, 50.0), (0.99, 99.0)] {
            let found = stats.latency(share).as_nanos() as f64 / 1e3;
            assert!(found >= expected && found < expected * 1.2, "{share}: {found}");
        }
    }
}
