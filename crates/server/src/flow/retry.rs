//! When to come back: `Retry-After` grows while requests go on being refused, and shrinks when they no longer are.

use std::collections::VecDeque;

/// The longest pause told, in seconds.
const LONGEST: u64 = 32;

/// Refusals of one priority level, by the second.
#[derive(Debug)]
pub(super) struct RetryAfter {
    seconds: u64,
    changed: u64,
    current: (u64, u64),
    history: VecDeque<(u64, u64)>,
}

impl Default for RetryAfter {
    fn default() -> Self {
        Self { seconds: 1, changed: 0, current: (0, 0), history: VecDeque::new() }
    }
}

impl RetryAfter {
    /// A request was refused in second `now`; how many seconds to wait.
    pub(super) fn refused(&mut self, now: u64) -> u64 {
        if self.current.0 == now {
            self.current.1 += 1;
            return self.seconds;
        }
        self.history.push_back(self.current);
        let kept = (2 * self.seconds).min(LONGEST);
        while self.history.front().is_some_and(|(second, _)| now.saturating_sub(*second) > kept) {
            self.history.pop_front();
        }
        self.current = (now, 1);
        self.adapt(now);
        self.seconds
    }

    fn adapt(&mut self, now: u64) {
        let recent = self.history.iter().filter(|(second, _)| now.saturating_sub(*second) <= self.seconds);
        let refused: u64 = recent.map(|(_, count)| count).sum();
        if now.saturating_sub(self.changed) >= self.seconds && refused >= 3 * self.seconds {
            self.seconds = (2 * self.seconds).min(LONGEST);
            self.changed = now;
        } else if refused < self.seconds && self.seconds > 1 {
            self.seconds -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_under_load_and_shrinks_after_it() {
        let mut retry = RetryAfter::default();
        let mut told = Vec::new();
        for second in 100..200 {
            told = (0..200).map(|_| retry.refused(second)).collect();
        }
        assert_eq!(told.last(), Some(&LONGEST));
        for second in (300..3_000).step_by(50) {
            retry.refused(second);
        }
        assert_eq!(retry.refused(4_000), 1);
    }
}
