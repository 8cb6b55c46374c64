//! Histograms in Prometheus' text form.

use std::fmt::Write as _;

/// A histogram.
#[derive(Clone, Debug)]
pub(crate) struct Histogram<const N: usize> {
    bounds: &'static [f64; N],
    counts: [u64; N],
    count: u64,
    sum: f64,
}

impl<const N: usize> Histogram<N> {
    pub(crate) const fn new(bounds: &'static [f64; N]) -> Self {
        Self { bounds, counts: [0; N], count: 0, sum: 0.0 }
    }

    /// Counts an observation.
    pub(crate) fn observe(&mut self, value: f64) {
        if let Some(place) = self.bounds.iter().position(|bound| value <= *bound) {
            self.counts[place] += 1;
        }
        self.count += 1;
        self.sum += value;
    }

    /// How many observations there were.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// The lines of a metric; none before the first observation.
    pub(crate) fn write(&self, out: &mut String, name: &str, labels: &str) {
        if self.count == 0 {
            return;
        }
        let mut below = 0;
        for (bound, count) in self.bounds.iter().zip(&self.counts) {
            below += count;
            let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{}\"}} {below}", written(*bound));
        }
        let (count, sum) = (self.count, self.sum);
        let _ = writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {count}");
        let _ = writeln!(out, "{name}_sum{{{labels}}} {sum}\n{name}_count{{{labels}}} {count}");
    }
}

/// As Go writes it: what is very small with an exponent of two digits.
fn written(bound: f64) -> String {
    let text = format!("{bound:e}");
    match text.split_once("e-").filter(|_| bound > 0.0 && bound < 0.000_1) {
        Some((digits, power)) => format!("{digits}e-{power:0>2}"),
        None => bound.to_string(),
    }
}
