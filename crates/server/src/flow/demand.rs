//! How many seats a priority level could use, over time.

use std::time::Duration;

/// How slowly the envelope of demand falls from one period to the next.
const SMOOTHING: f64 = 0.977;

/// Integrates demand over the running period.
#[derive(Debug, Default)]
pub(super) struct Integrator {
    level: f64,
    highest: f64,
    since: Duration,
    time: f64,
    sum: f64,
    squares: f64,
}

/// What a period was like, and the smoothed envelope of all before it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Demand {
    /// Time-weighted average.
    pub(super) average: f64,
    /// Time-weighted standard deviation.
    pub(super) deviation: f64,
    /// The highest ever in the period.
    pub(super) highest: u32,
    /// What is expected of the next one.
    pub(super) smoothed: f64,
}

impl Integrator {
    /// From now on it is `level`.
    pub(super) fn set(&mut self, now: Duration, level: u32) {
        self.pass(now);
        self.level = f64::from(level);
        self.highest = self.highest.max(self.level);
    }

    fn pass(&mut self, now: Duration) {
        let spent = now.saturating_sub(self.since).as_secs_f64();
        self.since = self.since.max(now);
        self.time += spent;
        self.sum += spent * self.level;
        self.squares += spent * self.level * self.level;
    }

    /// Ends the period and begins the next; tells what it was like.
    pub(super) fn turn(&mut self, now: Duration, before: Demand) -> Demand {
        self.pass(now);
        let mut demand = Demand { highest: self.highest.round() as u32, ..before };
        if self.time > 0.0 {
            demand.average = self.sum / self.time;
            demand.deviation = (self.squares / self.time - demand.average * demand.average).max(0.0).sqrt();
            let envelope = demand.average + demand.deviation;
            demand.smoothed = envelope.max(SMOOTHING * before.smoothed + (1.0 - SMOOTHING) * envelope);
        }
        *self = Self { level: self.level, highest: self.level, since: self.since, ..Self::default() };
        demand
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn demand_rises_at_once_and_falls_slowly() {
        let seconds = Duration::from_secs;
        let mut integrator = Integrator::default();
        integrator.set(seconds(0), 10);
        integrator.set(seconds(5), 30);
        let demand = integrator.turn(seconds(10), Demand::default());
        assert_eq!((demand.average, demand.deviation, demand.highest), (20.0, 10.0, 30));
        assert_eq!(demand.smoothed, 30.0);
        integrator.set(seconds(10), 0);
        let after = integrator.turn(seconds(20), demand);
        assert_eq!((after.average, after.highest), (0.0, 30), "it was 30 at the beginning");
        assert!(after.smoothed > 29.0 && after.smoothed < 30.0);
    }
}
