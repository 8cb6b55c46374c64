//! Settling: statuses of things in motion are written seldom, final ones at once.
//!
//! A rollout of N pods would otherwise write the status of its owner at every step of every pod, and each of these
//! writes wakes up every reader. While things move, one status per [`MOVING`] is enough for people; the state in which
//! they come to rest is written without delay.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use skiff_client::Key;

/// Statuses of things in motion are written at most this often.
const MOVING: Duration = Duration::from_millis(200);

/// When the objects of one controller began to move, or were last written.
#[derive(Debug, Default)]
pub(crate) struct Settling(Mutex<BTreeMap<Key, Duration>>);

impl Settling {
    /// A status differs from the one stored: `None`: write it now; else wait this long and look again.
    pub(crate) fn wait(&self, key: &Key, at_rest: bool, now: Duration) -> Option<Duration> {
        let mut since = self.0.lock();
        if at_rest {
            since.remove(key);
            return None;
        }
        let begun = *since.entry(key.clone()).or_insert(now);
        let left = (begun + MOVING).saturating_sub(now);
        if left.is_zero() {
            since.insert(key.clone(), now);
            return None;
        }
        Some(left)
    }

    /// The object is gone.
    pub(crate) fn forget(&self, key: &Key) {
        self.0.lock().remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn motion_waits_and_rest_does_not() {
        let settling = Settling::default();
        let key = Key::new("ns", "a");
        let ms = Duration::from_millis;
        assert_eq!(settling.wait(&key, false, ms(1000)), Some(ms(200)));
        assert_eq!(settling.wait(&key, false, ms(1150)), Some(ms(50)));
        assert_eq!(settling.wait(&key, false, ms(1200)), None);
        assert_eq!(settling.wait(&key, false, ms(1300)), Some(ms(100)));
        assert_eq!(settling.wait(&key, true, ms(1310)), None);
        assert_eq!(settling.wait(&key, false, ms(5000)), Some(ms(200)));
    }
}
