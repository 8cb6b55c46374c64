//! What the server knows of the store: every object of every served resource, and what just happened.
//!
//! Fed by the store's watch and by nothing else (see [`feed`]), so that there is one order of events and no write can
//! forget to tell somebody. GET, LIST and WATCH answer from here; the store is read only for the past.

mod entry;
mod event;
pub(crate) mod feed;
mod ring;
mod sorted;
mod watchers;

use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use skiff_meta::Object;
use skiff_store::Revision;
use tokio::sync::mpsc;

pub(crate) use entry::{Entry, FieldReader};
pub(crate) use event::{Event, EventType, frame};
use ring::Ring;
pub(crate) use ring::TooOld;
pub(crate) use sorted::{Keyed, Place, Sorted};
pub(crate) use watchers::Lane;
use watchers::Watchers;

/// All objects of one stored resource.
pub(crate) struct ResourceCache {
    prefix: Box<str>,
    reader: FieldReader,
    trigger: Option<&'static str>,
    state: RwLock<State>,
    watchers: Mutex<Watchers>,
}

struct State {
    items: Sorted<Entry>,
    changed: Revision,
    ring: Ring,
}

/// A change as the feed tells it: the tail of the key, the revision, and the object unless it was removed.
pub(crate) struct Update {
    key: Box<str>,
    revision: Revision,
    object: Option<Object>,
}

/// Where a watch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// With what is there.
    State,
    /// With the events after this revision.
    After(Revision),
}

/// A watch: what is there or has happened already, and what will.
pub(crate) struct Subscription {
    /// What is there, for [`Start::State`].
    pub(crate) state: Option<Sorted<Entry>>,
    /// What happened after the revision asked for.
    pub(crate) backlog: Vec<Arc<Event>>,
    /// The newest revision of this resource that state and backlog contain.
    pub(crate) revision: Revision,
    /// What will happen; ends when the watcher is cut off.
    pub(crate) events: mpsc::Receiver<Arc<Event>>,
}

impl ResourceCache {
    /// Empty. `prefix` is the start of the resource's keys in the store, with its final slash.
    pub(crate) fn new(prefix: &str, reader: FieldReader, trigger: Option<&'static str>) -> Self {
        let state = State { items: Sorted::default(), changed: 0, ring: Ring::new(0) };
        Self { prefix: prefix.into(), reader, trigger, state: RwLock::new(state), watchers: Mutex::default() }
    }

    /// The start of the resource's keys in the store.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// How selectable fields are read.
    pub(crate) fn reader(&self) -> &FieldReader {
        &self.reader
    }

    /// The field whose value has a lane of its own.
    pub(crate) fn trigger(&self) -> Option<&'static str> {
        self.trigger
    }

    /// One object, by the tail of its key.
    pub(crate) fn get(&self, key: &str) -> Option<Arc<Object>> {
        self.state.read().items.get(key).map(|e| e.object().clone())
    }

    /// All objects at one moment, and the newest revision among them (or of a removal).
    pub(crate) fn snapshot(&self) -> (Sorted<Entry>, Revision) {
        let state = self.state.read();
        (state.items.clone(), state.changed)
    }

    /// The events after a revision.
    pub(crate) fn events_after(&self, revision: Revision) -> Result<Vec<Arc<Event>>, TooOld> {
        self.state.read().ring.after(revision)
    }

    /// Revision of the newest change.
    pub(crate) fn changed(&self) -> Revision {
        self.state.read().changed
    }

    /// Number of objects.
    pub(crate) fn len(&self) -> usize {
        self.state.read().items.len()
    }

    /// Number of watchers.
    pub(crate) fn watcher_count(&self) -> usize {
        self.watchers.lock().len()
    }

    /// Begins a watch, gapless with what it returns.
    pub(crate) fn watch(&self, start: Start, lane: Lane) -> Result<Subscription, TooOld> {
        // The feed holds this lock from changing the state to telling the watchers.
        let mut watchers = self.watchers.lock();
        let state = self.state.read();
        let (items, backlog) = match start {
            Start::State => (Some(state.items.clone()), Vec::new()),
            Start::After(revision) => (None, state.ring.after(revision)?),
        };
        Ok(Subscription { state: items, backlog, revision: state.changed, events: watchers.add(lane) })
    }

    /// Ends all watches, for a resource that is no longer served.
    pub(crate) fn end_watches(&self) {
        self.watchers.lock().clear();
    }

    /// Starts anew from what the store holds at `revision`. Watches end, since what happened in between is not known.
    fn load(&self, entries: Vec<Entry>, revision: Revision) {
        let mut watchers = self.watchers.lock();
        let mut state = self.state.write();
        let newest = entries.iter().map(|e| e.object().revision()).max().unwrap_or(0);
        state.changed = state.changed.max(newest);
        state.items = Sorted::from_sorted(entries.into_iter().map(Arc::new));
        state.ring = Ring::new(revision);
        watchers.clear();
    }

    /// Takes in changes, in order.
    fn apply(&self, updates: Vec<Update>) {
        let mut watchers = self.watchers.lock();
        let mut events = Vec::with_capacity(updates.len());
        {
            let mut state = self.state.write();
            for Update { key, revision, object } in updates {
                let current = object.map(|o| Arc::new(Entry::new(&key, o)));
                let previous = match &current {
                    Some(entry) => state.items.insert(entry.clone()),
                    None => state.items.remove(&key),
                };
                state.changed = revision;
                if current.is_some() || previous.is_some() {
                    let event = Arc::new(Event::new(revision, current, previous));
                    state.ring.push(event.clone());
                    events.push(event);
                }
            }
        }
        let trigger = self.trigger.map(|field| (field, &self.reader));
        for event in &events {
            watchers.tell(event, trigger);
        }
    }
}

/// The places of one namespace's entries, or (empty) of all.
pub(crate) fn namespace_range(items: &Sorted<Entry>, namespaced: bool, namespace: &str) -> (Place, Place) {
    if !namespaced || namespace.is_empty() {
        return (items.place(""), items.end());
    }
    // '0' follows '/' in ASCII.
    (items.place(&format!("{namespace}/")), items.place(&format!("{namespace}0")))
}
