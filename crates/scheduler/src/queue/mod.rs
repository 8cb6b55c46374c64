//! Pods that wait for a node: ready to be tried, pausing after a failure, or waiting for something to happen that can
//! help them.
//!
//! Which events can help is asked of the plugins that refused the pod, and only of those that hear of that kind of
//! event: pods are kept by who refused them, so that an event costs nothing for those whom it cannot help. After five
//! minutes a pod is tried again in any case.

mod nominator;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

pub use nominator::Nominator;

use crate::cluster::{ByUid, PodInfo};
use crate::profile::Plugins;

/// How long pods pause after failures, and how long they wait for an event at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pauses {
    /// After the first failure; doubles with each.
    pub first: Duration,
    /// The longest.
    pub longest: Duration,
    /// Without any event that helps.
    pub unschedulable: Duration,
}

impl Default for Pauses {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { first: seconds(1), longest: seconds(10), unschedulable: seconds(300) }
    }
}

/// Which profile's plugins refused a pod.
pub type RejectedBy = (usize, Plugins);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// Ready, at this position.
    Active((i32, u64)),
    /// Ready again at this time.
    Pausing(Duration),
    /// Waits for an event, since then, refused by these.
    Unschedulable(Duration, RejectedBy),
    /// Waits, since then, for others to go: no event helps before they have.
    Awaiting(Duration),
    /// Being tried, or held back by a gate.
    Out,
}

#[derive(Clone, Debug)]
struct Waiting {
    pod: Arc<PodInfo>,
    /// Attempts that found no node.
    refusals: u32,
    /// Attempts in a row that something else went wrong with.
    errors: u32,
    /// When the last attempt ended.
    failed_at: Duration,
    place: Place,
}

/// The waiting pods, by UID. Higher priority first, then first come, first served.
#[derive(Debug, Default)]
pub struct Queue {
    /// How long pods pause.
    pub pauses: Pauses,
    waiting: ByUid<Waiting>,
    active: BTreeMap<(i32, u64), String>,
    pausing: BTreeSet<(Duration, String)>,
    unschedulable: BTreeMap<RejectedBy, BTreeSet<String>>,
    since: BTreeSet<(Duration, String)>,
    next: u64,
}

impl Queue {
    /// A queue with these pauses.
    pub fn new(pauses: Pauses) -> Self {
        Self { pauses, ..Self::default() }
    }

    /// A pod waits for a node.
    pub fn add(&mut self, pod: Arc<PodInfo>) {
        let uid = pod.uid.clone();
        self.forget(&uid);
        let gated = pod.is_gated();
        let waiting = Waiting { pod, refusals: 0, errors: 0, failed_at: Duration::ZERO, place: Place::Out };
        self.waiting.insert(uid.clone(), waiting);
        if !gated {
            self.activate(&uid);
        }
    }

    /// A waiting pod has changed. `helps`: in a way that can make room for it.
    pub fn update(&mut self, pod: Arc<PodInfo>, now: Duration, helps: impl FnOnce(RejectedBy) -> bool) {
        let uid = pod.uid.clone();
        let Some(waiting) = self.waiting.get_mut(&uid) else { return };
        let (was_gated, is_gated) = (waiting.pod.is_gated(), pod.is_gated());
        waiting.pod = pod;
        match waiting.place.clone() {
            _ if is_gated => {
                self.take_out(&uid);
            }
            Place::Out if was_gated => self.activate(&uid),
            Place::Unschedulable(_, by) if helps(by) => self.pause(&uid, now),
            Place::Active((_, number)) => {
                // Its priority may be another; its turn stays.
                self.take_out(&uid);
                self.activate_at(&uid, number);
            }
            _ => {}
        }
    }

    /// A pod that waits, by its UID.
    pub fn get(&self, uid: &str) -> Option<&Arc<PodInfo>> {
        self.waiting.get(uid).map(|waiting| &waiting.pod)
    }

    /// A pod waits no more.
    pub fn forget(&mut self, uid: &str) {
        self.take_out(uid);
        self.waiting.remove(uid);
    }

    fn take_out(&mut self, uid: &str) {
        let Some(waiting) = self.waiting.get_mut(uid) else { return };
        match std::mem::replace(&mut waiting.place, Place::Out) {
            Place::Active(position) => drop(self.active.remove(&position)),
            Place::Pausing(until) => drop(self.pausing.remove(&(until, uid.to_owned()))),
            Place::Unschedulable(since, by) => {
                self.since.remove(&(since, uid.to_owned()));
                if let Some(pods) = self.unschedulable.get_mut(&by) {
                    pods.remove(uid);
                    if pods.is_empty() {
                        self.unschedulable.remove(&by);
                    }
                }
            }
            Place::Awaiting(since) => drop(self.since.remove(&(since, uid.to_owned()))),
            Place::Out => {}
        }
    }

    /// A pod is to be tried as soon as its turn comes.
    pub fn activate(&mut self, uid: &str) {
        self.next += 1;
        self.activate_at(uid, self.next);
    }

    fn activate_at(&mut self, uid: &str, number: u64) {
        self.take_out(uid);
        let Some(waiting) = self.waiting.get_mut(uid) else { return };
        // Higher priorities sort first.
        let position = (waiting.pod.priority.saturating_neg(), number);
        waiting.place = Place::Active(position);
        self.active.insert(position, uid.to_owned());
    }

    /// The next pod to try; [`Queue::refused`], [`Queue::failed`] or [`Queue::forget`] must follow. When none is ready,
    /// one that pauses because it fit nowhere, and was helped since, is tried early: there is nothing else to do.
    pub fn pop(&mut self) -> Option<Arc<PodInfo>> {
        let uid = match self.active.first_key_value() {
            Some((_, uid)) => uid.clone(),
            None => self.pausing.iter().map(|(_, uid)| uid).find(|uid| self.waiting[*uid].errors == 0)?.clone(),
        };
        self.take_out(&uid);
        self.get(&uid).cloned()
    }

    /// The pod found no node: it waits for an event.
    pub fn refused(&mut self, uid: &str, now: Duration, by: RejectedBy) {
        let Some(waiting) = self.waiting.get_mut(uid) else { return };
        (waiting.refusals, waiting.errors, waiting.failed_at) = (waiting.refusals + 1, 0, now);
        waiting.place = Place::Unschedulable(now, by);
        self.unschedulable.entry(by).or_default().insert(uid.to_owned());
        self.since.insert((now, uid.to_owned()));
    }

    /// A pod that found no node waits for others to go: [`Queue::activate`] says that they have.
    pub fn hold(&mut self, uid: &str) {
        let Some(Place::Unschedulable(since, _)) = self.waiting.get(uid).map(|waiting| waiting.place.clone()) else {
            return;
        };
        self.take_out(uid);
        if let Some(waiting) = self.waiting.get_mut(uid) {
            waiting.place = Place::Awaiting(since);
            self.since.insert((since, uid.to_owned()));
        }
    }

    /// Something else went wrong: the pod pauses and is tried again.
    pub fn failed(&mut self, uid: &str, now: Duration) {
        let Some(waiting) = self.waiting.get_mut(uid) else { return };
        (waiting.errors, waiting.failed_at) = (waiting.errors + 1, now);
        self.pause(uid, now);
    }

    fn pause(&mut self, uid: &str, now: Duration) {
        self.take_out(uid);
        let Some(waiting) = self.waiting.get_mut(uid) else { return };
        let count = if waiting.errors > 0 { waiting.errors } else { waiting.refusals };
        let pause = self.pauses.first.saturating_mul(1 << count.saturating_sub(1).min(20)).min(self.pauses.longest);
        let until = waiting.failed_at + pause;
        if count == 0 || until <= now {
            return self.activate(uid);
        }
        waiting.place = Place::Pausing(until);
        self.pausing.insert((until, uid.to_owned()));
    }

    /// Something happened. Of the pods refused by any of `hearing` (of each profile), those that `helps` holds for are
    /// tried again, and so are those that nobody in particular refused.
    pub fn wake(&mut self, now: Duration, hearing: &[Plugins], helps: impl Fn(&PodInfo, RejectedBy) -> bool) {
        let heard = |(profile, by): RejectedBy| {
            by.is_empty() || hearing.get(profile).is_some_and(|hearing| by.iter().any(|place| hearing.has(place)))
        };
        let groups = self.unschedulable.iter().filter(|(by, _)| heard(**by));
        let woken: Vec<String> = groups
            .flat_map(|(by, pods)| pods.iter().map(move |uid| (*by, uid)))
            .filter(|(by, uid)| by.1.is_empty() || self.waiting.get(*uid).is_some_and(|w| helps(&w.pod, *by)))
            .map(|(_, uid)| uid.clone())
            .collect();
        woken.iter().for_each(|uid| self.pause(uid, now));
    }

    /// Pods whose pause is over become ready, and so do those that have waited for an event for too long. When that
    /// happens next.
    pub fn tick(&mut self, now: Duration) -> Option<Duration> {
        while let Some((_, uid)) = self.pausing.first().filter(|(until, _)| *until <= now).cloned() {
            self.activate(&uid);
        }
        let longest = self.pauses.unschedulable;
        while let Some((_, uid)) = self.since.first().filter(|(since, _)| *since + longest <= now).cloned() {
            self.pause(&uid, now);
        }
        let pause = self.pausing.first().map(|(until, _)| *until);
        let event = self.since.first().map(|(since, _)| *since + longest);
        pause.into_iter().chain(event).min()
    }

    /// Number of waiting pods.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }
    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
    /// UIDs of all waiting pods.
    pub fn uids(&self) -> impl Iterator<Item = &String> {
        self.waiting.keys()
    }
}
