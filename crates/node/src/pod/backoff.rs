//! How long to wait before a container that keeps failing, or an image that cannot be had, is tried again.
//!
//! The first repetition is at once, then 10 s, 20 s, and so on up to 5 minutes; ten quiet minutes make it start over.
//! These are upstream's figures (`flowcontrol.Backoff` as its node agent sets it up).

use std::collections::HashMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// The first pause.
const FIRST: Duration = Duration::from_secs(10);
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(300);
/// A failure this long after the last attempt is a new story.
const FORGOTTEN: SignedDuration = SignedDuration::from_secs(600);

/// Pauses by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct BackOff {
    entries: HashMap<String, Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    pause: Duration,
    attempt: Timestamp,
}

impl BackOff {
    /// The pause that is still running at `now` for something that failed at `failed`, and when it ends.
    pub(crate) fn waiting(&self, name: &str, failed: Timestamp, now: Timestamp) -> Option<(Duration, Timestamp)> {
        let entry = self.entries.get(name)?;
        let end = failed.checked_add(entry.pause).ok()?;
        (!entry.is_forgotten(failed) && now < end).then_some((entry.pause, end))
    }

    /// Another attempt is made at `now`, after a failure at `failed`: the next pause will be longer.
    pub(crate) fn attempt(&mut self, name: &str, failed: Timestamp, now: Timestamp) {
        let pause = match self.entries.get(name) {
            Some(entry) if !entry.is_forgotten(failed) => (entry.pause * 2).min(LONGEST),
            _ => FIRST,
        };
        self.entries.insert(name.to_owned(), Entry { pause, attempt: now });
    }

    /// It worked: the story is over.
    pub(crate) fn succeeded(&mut self, name: &str) {
        self.entries.remove(name);
    }
}

impl Entry {
    fn is_forgotten(&self, failed: Timestamp) -> bool {
        failed.duration_since(self.attempt) > FORGOTTEN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    #[test]
    fn pauses_double_up_to_five_minutes_and_are_forgotten() {
        let mut backoff = BackOff::default();
        assert_eq!(backoff.waiting("a", at(0), at(0)), None, "the first repetition is at once");
        let mut now = 0;
        for expected in [10, 20, 40, 80, 160, 300, 300] {
            backoff.attempt("a", at(now), at(now));
            let (pause, end) = backoff.waiting("a", at(now), at(now)).expect("a pause");
            assert_eq!((pause.as_secs(), end), (expected, at(now + expected as i64)));
            assert_eq!(backoff.waiting("a", at(now), end), None, "over at its end");
            now += expected as i64;
        }
        assert_eq!(backoff.waiting("a", at(now + 601), at(now + 601)), None, "ran for over ten minutes");
        backoff.attempt("a", at(now + 601), at(now + 601));
        assert_eq!(backoff.waiting("a", at(now + 601), at(now + 602)).map(|(pause, _)| pause.as_secs()), Some(10));
        assert_eq!(backoff.waiting("b", at(0), at(0)), None, "others are not affected");
    }
}
