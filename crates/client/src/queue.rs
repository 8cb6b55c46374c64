//! The work queue: keys wait here to be reconciled, each at most once, and never twice at the same time.
//!
//! The semantics are those of upstream's `client-go/util/workqueue`: a key added while it waits is one key; a key added
//! while it is being worked on comes again afterwards; failed keys come back after 5 ms, doubled at every failure, up to
//! 1,000 s. A key carries the cause of its newest addition, nothing else: whoever works on it looks at the present.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use skiff_meta::{TraceContext, WorldRef};
use tokio::sync::Notify;

const FIRST_DELAY: Duration = Duration::from_millis(5);
const LONGEST_DELAY: Duration = Duration::from_secs(1000);

/// A queue of keys; clones share it.
pub struct WorkQueue<T> {
    inner: Arc<Inner<T>>,
}

impl<T> Clone for WorkQueue<T> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

struct Inner<T> {
    world: WorldRef,
    state: Mutex<State<T>>,
    wake: Notify,
}

struct State<T> {
    /// Waiting and not being worked on, first come first served.
    ready: VecDeque<T>,
    /// Everything that waits, also for the end of its present round, with the cause.
    dirty: BTreeMap<T, Option<TraceContext>>,
    processing: BTreeSet<T>,
    failures: BTreeMap<T, u32>,
    /// When to add what; `due` finds the entry of a key.
    delayed: BTreeMap<(Duration, u64), (T, Option<TraceContext>)>,
    due: BTreeMap<T, (Duration, u64)>,
    sequence: u64,
}

impl<T: Ord + Clone + Debug + Send + Sync + 'static> WorkQueue<T> {
    /// An empty queue.
    pub fn new(world: WorldRef) -> Self {
        let state = State {
            ready: VecDeque::new(),
            dirty: BTreeMap::new(),
            processing: BTreeSet::new(),
            failures: BTreeMap::new(),
            delayed: BTreeMap::new(),
            due: BTreeMap::new(),
            sequence: 0,
        };
        Self { inner: Arc::new(Inner { world, state: Mutex::new(state), wake: Notify::new() }) }
    }

    /// Adds a key, with the cause of what made it worth a look.
    pub fn add(&self, key: T, cause: Option<TraceContext>) {
        if self.inner.state.lock().add(key, cause) {
            self.inner.wake.notify_one();
        }
    }

    /// Adds a key after `delay`; of several delays of one key the earliest counts.
    pub fn add_after(&self, key: T, delay: Duration, cause: Option<TraceContext>) {
        if delay.is_zero() {
            return self.add(key, cause);
        }
        let at = self.inner.world.elapsed() + delay;
        if self.inner.state.lock().delay(key, at, cause) {
            self.inner.wake.notify_one();
        }
    }

    /// Adds a key that failed, later at every failure until [`WorkQueue::forget`].
    pub fn add_rate_limited(&self, key: T, cause: Option<TraceContext>) {
        let failures = {
            let mut state = self.inner.state.lock();
            let failures = state.failures.entry(key.clone()).or_default();
            *failures += 1;
            *failures - 1
        };
        self.add_after(key, backoff(failures), cause);
    }

    /// The key succeeded: its next failure is its first.
    pub fn forget(&self, key: &T) {
        self.inner.state.lock().failures.remove(key);
    }

    /// How often the key failed since it was last forgotten.
    pub fn failures(&self, key: &T) -> u32 {
        self.inner.state.lock().failures.get(key).copied().unwrap_or(0)
    }

    /// The next key and its cause; [`WorkQueue::done`] must follow.
    pub async fn next(&self) -> (T, Option<TraceContext>) {
        loop {
            let wait = {
                let mut state = self.inner.state.lock();
                let now = self.inner.world.elapsed();
                state.promote(now);
                if let Some(taken) = state.take() {
                    if !state.ready.is_empty() || !state.delayed.is_empty() {
                        // Somebody else takes the rest, and the watch over the clock.
                        self.inner.wake.notify_one();
                    }
                    return taken;
                }
                state.delayed.keys().next().map(|(at, _)| at.saturating_sub(now))
            };
            let woken = self.inner.wake.notified();
            match wait {
                None => woken.await,
                Some(wait) => {
                    futures::pin_mut!(woken);
                    futures::future::select(woken, self.inner.world.sleep(wait)).await;
                }
            }
        }
    }

    /// The key is no longer being worked on; if it was added meanwhile it waits again.
    pub fn done(&self, key: &T) {
        let mut state = self.inner.state.lock();
        state.processing.remove(key);
        if state.dirty.contains_key(key) {
            state.ready.push_back(key.clone());
            drop(state);
            self.inner.wake.notify_one();
        }
    }

    /// Number of keys that wait now, those with a delay not counted.
    pub fn len(&self) -> usize {
        self.inner.state.lock().dirty.len()
    }

    /// Whether no key waits, those with a delay not counted.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T: Ord + Clone> State<T> {
    /// Whether a worker should wake up.
    fn add(&mut self, key: T, cause: Option<TraceContext>) -> bool {
        if let Some(known) = self.dirty.get_mut(&key) {
            *known = cause.or(*known);
            return false;
        }
        self.dirty.insert(key.clone(), cause);
        if self.processing.contains(&key) {
            return false;
        }
        self.ready.push_back(key);
        true
    }

    /// Whether a worker should look at the clock again.
    fn delay(&mut self, key: T, at: Duration, cause: Option<TraceContext>) -> bool {
        if let Some(known) = self.due.get(&key) {
            if known.0 <= at {
                return false;
            }
            self.delayed.remove(known);
        }
        self.sequence += 1;
        let entry = (at, self.sequence);
        self.due.insert(key.clone(), entry);
        self.delayed.insert(entry, (key, cause));
        self.delayed.keys().next() == Some(&entry)
    }

    fn promote(&mut self, now: Duration) {
        while let Some(entry) = self.delayed.first_entry() {
            if entry.key().0 > now {
                return;
            }
            let (key, cause) = entry.remove();
            self.due.remove(&key);
            self.add(key, cause);
        }
    }

    fn take(&mut self) -> Option<(T, Option<TraceContext>)> {
        let key = self.ready.pop_front()?;
        let cause = self.dirty.remove(&key).flatten();
        self.processing.insert(key.clone());
        Some((key, cause))
    }
}

fn backoff(failures: u32) -> Duration {
    FIRST_DELAY.checked_mul(1 << failures.min(20)).unwrap_or(LONGEST_DELAY).min(LONGEST_DELAY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_meta::world::RealWorld;

    fn queue() -> WorkQueue<u32> {
        WorkQueue::new(RealWorld::shared())
    }

    #[tokio::test]
    async fn a_key_waits_once_and_is_worked_on_once() {
        let queue = queue();
        queue.add(1, None);
        queue.add(2, None);
        queue.add(1, None);
        assert_eq!(queue.next().await.0, 1);
        queue.add(1, None);
        assert_eq!(queue.next().await.0, 2);
        assert_eq!(queue.len(), 1, "1 waits for the end of its round");
        queue.done(&1);
        assert_eq!(queue.next().await.0, 1);
        queue.done(&1);
        queue.done(&2);
        assert!(queue.is_empty());
    }

    #[test]
    fn the_earliest_delay_counts() {
        let queue = queue();
        let mut state = queue.inner.state.lock();
        let ms = Duration::from_millis;
        assert!(state.delay(1, ms(50), None));
        assert!(!state.delay(1, ms(60), None));
        assert!(state.delay(1, ms(40), None));
        assert!(!state.delay(2, ms(45), None));
        state.promote(ms(44));
        assert_eq!(state.ready, [1]);
        state.promote(ms(45));
        assert_eq!(state.ready, [1, 2]);
    }

    #[test]
    fn failures_double_the_delay() {
        let delays = [0, 1, 2, 10, 17, 18, 40].map(|n| backoff(n).as_millis());
        assert_eq!(delays, [5, 10, 20, 5120, 655_360, 1_000_000, 1_000_000]);
    }

    #[tokio::test]
    async fn delayed_keys_come_by_themselves() {
        let queue = queue();
        queue.add_rate_limited(7, None);
        assert_eq!(queue.next().await.0, 7);
        assert_eq!(queue.failures(&7), 1);
        queue.forget(&7);
        assert_eq!(queue.failures(&7), 0);
    }
}
