//! Who is told of which events.
//!
//! Thousands of node agents watch the pods of one node each, and single ConfigMaps and Secrets. An event must cost them
//! nothing unless it is theirs, so watchers stand in lanes, and an event is handed only to the lanes it belongs to.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::entry::{Entry, FieldReader};
use super::event::Event;

/// Events a watcher may lag behind before it is cut off.
const QUEUE: usize = 4_096;

/// Which events a watcher must see. It may be shown more and has to look at each itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Lane {
    /// All.
    All,
    /// Those of one namespace.
    Namespace(Box<str>),
    /// Those of one object, `NAMESPACE/NAME` or `NAME`.
    One(Box<str>),
    /// Those whose trigger field has, or had, this value.
    Trigger(Box<str>),
}

/// The watchers of one resource.
#[derive(Debug, Default)]
pub(crate) struct Watchers {
    lanes: HashMap<Lane, Vec<mpsc::Sender<Arc<Event>>>>,
    /// Lanes by trigger; without any, events are not even looked at for it.
    triggers: usize,
    /// Watchers added since lanes were last looked through.
    added: usize,
}

/// Lanes are looked through for watchers that have gone after this many new ones at least.
const SWEEP: usize = 64;

impl Watchers {
    /// A new watcher. Its stream ends when it falls too far behind.
    pub(crate) fn add(&mut self, lane: Lane) -> mpsc::Receiver<Arc<Event>> {
        self.added += 1;
        // As many as there are lanes, so that a new watcher pays for one lane.
        if self.added >= self.lanes.len().max(SWEEP) {
            self.sweep();
        }
        let (sender, receiver) = mpsc::channel(QUEUE);
        if matches!(lane, Lane::Trigger(_)) && !self.lanes.contains_key(&lane) {
            self.triggers += 1;
        }
        let lane = self.lanes.entry(lane).or_default();
        lane.retain(|s| !s.is_closed());
        lane.push(sender);
        receiver
    }

    /// Forgets watchers that have gone from lanes in which nothing happens.
    fn sweep(&mut self) {
        self.added = 0;
        self.lanes.retain(|_, senders| {
            senders.retain(|s| !s.is_closed());
            !senders.is_empty()
        });
        self.triggers = self.lanes.keys().filter(|l| matches!(l, Lane::Trigger(_))).count();
    }

    /// How many are told of the object with this key, without those of trigger lanes. Some may have gone.
    pub(crate) fn told_of(&self, namespace: &str, key: &str) -> usize {
        if self.lanes.is_empty() {
            return 0;
        }
        let count = |lane| self.lanes.get(&lane).map_or(0, Vec::len);
        let here = if namespace.is_empty() { 0 } else { count(Lane::Namespace(namespace.into())) };
        let one = if key.is_empty() { 0 } else { count(Lane::One(key.into())) };
        count(Lane::All) + here + one
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.lanes.values().flatten().filter(|s| !s.is_closed()).count()
    }

    /// How many lanes there are.
    #[cfg(test)]
    pub(crate) fn lanes(&self) -> usize {
        self.lanes.len()
    }

    /// Ends all streams.
    pub(crate) fn clear(&mut self) {
        self.lanes.clear();
        self.triggers = 0;
    }

    /// Hands an event to all it may concern.
    pub(crate) fn tell(&mut self, event: &Arc<Event>, trigger: Option<(&str, &FieldReader)>) {
        if self.lanes.is_empty() {
            return;
        }
        let Some(entry) = event.current().or(event.previous()) else { return };
        self.tell_lane(&Lane::All, event);
        let meta = entry.object().meta();
        if !meta.namespace.is_empty() {
            self.tell_lane(&Lane::Namespace(meta.namespace.as_str().into()), event);
        }
        self.tell_lane(&Lane::One(super::sorted::Keyed::key(&**entry).into()), event);
        if let Some((field, reader)) = trigger.filter(|_| self.triggers > 0) {
            let value = |e: Option<&Arc<Entry>>| e.map(|e| e.field(field, reader).to_owned());
            let (now, before) = (value(event.current()), value(event.previous()));
            if let Some(before) = before.as_deref().filter(|b| now.as_deref() != Some(*b)) {
                self.tell_lane(&Lane::Trigger(before.into()), event);
            }
            if let Some(now) = now {
                self.tell_lane(&Lane::Trigger(now.into()), event);
            }
        }
    }

    fn tell_lane(&mut self, lane: &Lane, event: &Arc<Event>) {
        let Some(senders) = self.lanes.get_mut(lane) else { return };
        // A full queue is a watcher that does not read, a closed one has gone; both are forgotten.
        senders.retain(|s| s.try_send(event.clone()).is_ok());
        if senders.is_empty() {
            self.lanes.remove(lane);
            self.triggers -= usize::from(matches!(lane, Lane::Trigger(_)));
        }
    }
}
