//! Pods that wait for a node: at once, after a pause, or until something changes that can help them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::cluster::PodInfo;

/// The pause after the first failure; doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// Ready, at this position.
    Active((i32, u64)),
    /// Ready again at this time.
    Pausing(Duration),
    /// Waits for an event.
    Unschedulable,
}

#[derive(Clone, Debug)]
struct Waiting {
    pod: Arc<PodInfo>,
    failures: u32,
    /// When the last attempt ended.
    failed_at: Duration,
    place: Place,
}

/// The waiting pods, by UID. Higher priority first, then first come, first served.
#[derive(Debug, Default)]
pub struct Queue {
    waiting: BTreeMap<String, Waiting>,
    active: BTreeMap<(i32, u64), String>,
    pausing: BTreeSet<(Duration, String)>,
    next: u64,
}

impl Queue {
    /// A pod waits for a node, or has changed while it waited. A change can make it schedulable.
    pub fn set(&mut self, pod: Arc<PodInfo>) {
        let uid = pod.uid.clone();
        let failures = self.remove(&uid).map_or(0, |waiting| waiting.failures);
        self.waiting
            .insert(uid.clone(), Waiting { pod, failures, failed_at: Duration::ZERO, place: Place::Unschedulable });
        self.activate(&uid);
    }

    /// A pod waits no more.
    pub fn forget(&mut self, uid: &str) {
        self.remove(uid);
    }

    fn remove(&mut self, uid: &str) -> Option<Waiting> {
        let waiting = self.waiting.remove(uid)?;
        match &waiting.place {
            Place::Active(position) => drop(self.active.remove(position)),
            Place::Pausing(until) => drop(self.pausing.remove(&(*until, uid.to_owned()))),
            Place::Unschedulable => {}
        }
        Some(waiting)
    }

    fn activate(&mut self, uid: &str) {
        let Some(waiting) = self.waiting.get_mut(uid) else { return };
        let priority = waiting.pod.pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0);
        // Higher priorities sort first.
        let position = (priority.saturating_neg(), self.next);
        self.next += 1;
        waiting.place = Place::Active(position);
        self.active.insert(position, uid.to_owned());
    }

    /// The next pod to try, taken off the queue of ready ones; [`Queue::failed`] or [`Queue::forget`] must follow.
    pub fn pop(&mut self) -> Option<Arc<PodInfo>> {
        let (_, uid) = self.active.pop_first()?;
        let waiting = self.waiting.get_mut(&uid)?;
        waiting.place = Place::Unschedulable;
        Some(waiting.pod.clone())
    }

    /// The pod found no node (`retry` false: it waits for an event) or could not be bound (`retry`: it pauses).
    pub fn failed(&mut self, uid: &str, now: Duration, retry: bool) {
        let Some(waiting) = self.waiting.get_mut(uid) else { return };
        waiting.failures += 1;
        waiting.failed_at = now;
        if retry {
            self.pause(uid, now);
        }
    }

    fn pause(&mut self, uid: &str, now: Duration) {
        let Some(waiting) = self.waiting.get_mut(uid) else { return };
        let pause = FIRST_PAUSE.saturating_mul(1 << waiting.failures.saturating_sub(1).min(10)).min(LONGEST_PAUSE);
        let until = waiting.failed_at + pause;
        if until <= now {
            return self.activate(uid);
        }
        waiting.place = Place::Pausing(until);
        self.pausing.insert((until, uid.to_owned()));
    }

    /// Something happened that may help the pods for which `helps` holds.
    pub fn wake(&mut self, now: Duration, helps: impl Fn(&PodInfo) -> bool) {
        let woken: Vec<String> = self
            .waiting
            .iter()
            .filter(|(_, waiting)| waiting.place == Place::Unschedulable && helps(&waiting.pod))
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in woken {
            self.pause(&uid, now);
        }
    }

    /// Pods whose pause is over become ready; when the next pause ends.
    pub fn tick(&mut self, now: Duration) -> Option<Duration> {
        while let Some((until, uid)) = self.pausing.first().cloned() {
            if until > now {
                return Some(until);
            }
            self.pausing.remove(&(until, uid.clone()));
            self.activate(&uid);
        }
        None
    }

    /// Number of waiting pods.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }
    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::pod;

    fn info(name: &str, priority: i32) -> Arc<PodInfo> {
        let mut pod = pod(name, "0");
        pod.spec.as_mut().unwrap().priority = Some(priority);
        Arc::new(PodInfo::new(Arc::new(pod)))
    }

    #[test]
    fn order_is_by_priority_then_arrival() {
        let mut queue = Queue::default();
        for (name, priority) in [("a", 0), ("b", 5), ("c", 0)] {
            queue.set(info(name, priority));
        }
        let order: Vec<String> = std::iter::from_fn(|| queue.pop()).map(|p| p.uid.clone()).collect();
        assert_eq!(order, ["b", "a", "c"]);
    }

    #[test]
    fn what_fits_nowhere_waits_for_an_event_and_then_its_pause() {
        let mut queue = Queue::default();
        let second = Duration::from_secs(1);
        queue.set(info("a", 0));
        queue.pop().unwrap();
        queue.failed("a", second, false);
        assert_eq!(queue.tick(second * 100), None);
        assert!(queue.pop().is_none(), "no event, no attempt");
        queue.wake(second, |_| true);
        assert!(queue.pop().is_none(), "the pause is not over");
        assert_eq!(queue.tick(second), Some(second * 2));
        queue.tick(second * 2);
        assert!(queue.pop().is_some());
        queue.failed("a", second * 2, true);
        assert_eq!(queue.tick(second * 2), Some(second * 4), "the pause doubles");
        queue.forget("a");
        assert_eq!(queue.tick(second * 9), None);
        assert!(queue.is_empty());
    }
}
