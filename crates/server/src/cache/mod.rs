//! What the server knows of the store: every object of every served resource, and what just happened.
//!
//! Fed by the store's watch and by nothing else (see [`feed`]), so that there is one order of events and no write can
//! forget to tell somebody. GET, LIST and WATCH answer from here; the store is read only for the past.

mod entry;
mod event;
pub(crate) mod feed;
mod form;
mod labels;
mod ring;
mod sorted;
mod watchers;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use skiff_meta::selector::LabelSelector;
use skiff_meta::{Object, Status};
use skiff_store::{KeyValue, Revision};
use tokio::sync::mpsc;

pub(crate) use entry::{Entry, FieldReader};
pub(crate) use event::{Event, EventType, frame};
pub(crate) use form::{Form, Unreadable};
use labels::Labels;
use ring::Ring;
pub(crate) use ring::TooOld;
pub(crate) use sorted::{Keyed, Place, Sorted};
pub(crate) use watchers::Lane;
use watchers::Watchers;

/// All objects of one stored resource.
pub(crate) struct ResourceCache {
    prefix: Box<str>,
    form: Form,
    reader: FieldReader,
    trigger: Option<&'static str>,
    state: RwLock<State>,
    watchers: Mutex<Watchers>,
}

struct State {
    items: Sorted<Entry>,
    labels: Labels,
    changed: Revision,
    /// Of all objects.
    bytes: u64,
    ring: Ring,
    /// What is in the store but cannot be read, and why. Whoever asks for it is told so.
    unreadable: BTreeMap<Box<str>, Unreadable>,
    /// What the store holds in another form than it would be written in now.
    outdated: BTreeSet<Box<str>>,
}

/// What was read when a cache was filled.
#[derive(Default)]
struct Loaded {
    entries: Vec<Entry>,
    unreadable: BTreeMap<Box<str>, Unreadable>,
    outdated: BTreeSet<Box<str>>,
}

/// A change as the feed tells it: the tail of the key, the revision, and what the key holds now.
pub(crate) struct Update {
    key: Box<str>,
    revision: Revision,
    content: Content,
}

/// What a key holds.
pub(crate) enum Content {
    /// An object, and whether the store holds it in just this form.
    Object(Box<Object>, bool),
    Nothing,
    Unreadable(Unreadable),
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
    pub(crate) fn new(prefix: &str, form: Form, reader: FieldReader, trigger: Option<&'static str>) -> Self {
        let state = State {
            items: Sorted::default(),
            labels: Labels::default(),
            changed: 0,
            bytes: 0,
            ring: Ring::new(0),
            unreadable: BTreeMap::default(),
            outdated: BTreeSet::default(),
        };
        Self { prefix: prefix.into(), form, reader, trigger, state: RwLock::new(state), watchers: Mutex::default() }
    }

    /// The object that a pair of the store holds, and whether the store holds it in just this form.
    pub(crate) fn read(&self, pair: KeyValue) -> Result<(Object, bool), Unreadable> {
        self.form.read(pair)
    }

    /// Whether a write of the object with this key (its tail) that changes nothing changes how it is stored.
    pub(crate) fn is_outdated(&self, key: &str) -> bool {
        self.state.read().outdated.contains(key)
    }

    /// The entry with this key, if it still is of that revision.
    pub(crate) fn entry(&self, key: &str, revision: Revision) -> Option<Arc<Entry>> {
        self.state.read().items.get(key).filter(|entry| entry.object().revision() == revision).cloned()
    }

    /// 500 if the object with this key (its tail) cannot be read.
    pub(crate) fn check_readable(&self, key: &str) -> Result<(), Status> {
        self.state.read().unreadable.get(key).map_or(Ok(()), |why| Err(self.complain(key, why)))
    }

    /// 500 if an object whose key begins with `start` cannot be read: it must not be left out of a list in silence.
    pub(crate) fn check_all_readable(&self, start: &str) -> Result<(), Status> {
        let state = self.state.read();
        let first = state.unreadable.range(Box::<str>::from(start)..).next();
        first.filter(|(key, _)| key.starts_with(start)).map_or(Ok(()), |(key, why)| Err(self.complain(key, why)))
    }

    /// The same for somebody who reads the store's history; 500 if it cannot be read.
    pub(crate) fn recall(&self, pair: KeyValue) -> Result<Object, Status> {
        let key = pair.key.clone();
        let tail = String::from_utf8_lossy(&key[self.prefix.len().min(key.len())..]);
        self.read(pair).map(|(object, _)| object).map_err(|why| self.complain(&tail, &why))
    }

    fn complain(&self, key: &str, why: &Unreadable) -> Status {
        Status::internal(format!("what the store holds at {}{key} cannot be read: {why}", self.prefix))
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

    /// The same, less some that `selector` does not select, where there is a way around them.
    pub(crate) fn candidates(&self, selector: Option<&LabelSelector>) -> (Sorted<Entry>, Revision) {
        let exact = |selector: &LabelSelector| {
            let mut exact = selector.requirements().iter().filter_map(|r| Some((&r.key, selector.exact(&r.key)?)));
            exact.next().map(|(name, value)| (name.clone(), value.to_owned()))
        };
        let Some((name, value)) = selector.and_then(exact) else { return self.snapshot() };
        {
            let state = self.state.read();
            let few = (state.items.len() < labels::FEW).then(|| state.items.clone());
            if let Some(found) = few.or_else(|| state.labels.find(&name, &value)) {
                return (found, state.changed);
            }
        }
        let mut state = self.state.write();
        let State { labels, items, changed, .. } = &mut *state;
        labels.ask(&name, items);
        (labels.find(&name, &value).unwrap_or_else(|| items.clone()), *changed)
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

    /// Number of objects, and their average size in bytes.
    pub(crate) fn size(&self) -> (u64, u64) {
        let state = self.state.read();
        let objects = state.items.len() as u64;
        (objects, state.bytes / objects.max(1))
    }

    /// How many are told of a change of an object, those aside that watch by a field.
    pub(crate) fn watchers_of(&self, namespace: &str, key: &str) -> usize {
        self.watchers.lock().told_of(namespace, key)
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
    fn load(&self, loaded: Loaded, revision: Revision) {
        let Loaded { entries, unreadable, outdated } = loaded;
        let mut watchers = self.watchers.lock();
        let mut state = self.state.write();
        let newest = entries.iter().map(|e| e.object().revision()).max().unwrap_or(0);
        state.changed = state.changed.max(newest);
        state.bytes = entries.iter().map(bytes).sum();
        state.items = Sorted::from_sorted(entries.into_iter().map(Arc::new));
        state.labels.clear();
        state.ring = Ring::new(revision);
        state.unreadable = unreadable;
        state.outdated = outdated;
        watchers.clear();
    }

    /// Takes in changes, in order.
    fn apply(&self, updates: Vec<Update>) {
        let mut watchers = self.watchers.lock();
        let mut events = Vec::with_capacity(updates.len());
        let mut blind = false;
        {
            let mut state = self.state.write();
            for Update { key, revision, content } in updates {
                if !state.unreadable.is_empty() {
                    state.unreadable.remove(&key);
                }
                if !state.outdated.is_empty() {
                    state.outdated.remove(&key);
                }
                let current = match content {
                    Content::Object(object, as_stored) => {
                        let entry = Arc::new(Entry::new(&key, *object));
                        if !as_stored {
                            state.outdated.insert(key.clone());
                        }
                        Some(entry)
                    }
                    Content::Nothing => None,
                    Content::Unreadable(why) => {
                        // Nobody can be told of it, so all must ask anew, and will hear why.
                        blind = true;
                        let gone = state.items.remove(&key);
                        state.bytes -= gone.as_deref().map_or(0, bytes);
                        state.labels.change(gone.as_ref(), None);
                        state.ring = Ring::new(revision);
                        state.unreadable.insert(key, why);
                        state.changed = revision;
                        continue;
                    }
                };
                let previous = match &current {
                    Some(entry) => state.items.insert(entry.clone()),
                    None => state.items.remove(&key),
                };
                state.bytes += current.as_deref().map_or(0, bytes);
                state.bytes -= previous.as_deref().map_or(0, bytes);
                state.labels.change(previous.as_ref(), current.as_ref());
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
        if blind {
            watchers.clear();
        }
    }
}

/// What an object takes in an answer, nearly.
fn bytes(entry: &Entry) -> u64 {
    entry.object().canonical().len() as u64
}

/// The places of one namespace's entries, or (empty) of all.
pub(crate) fn namespace_range(items: &Sorted<Entry>, namespaced: bool, namespace: &str) -> (Place, Place) {
    if !namespaced || namespace.is_empty() {
        return (items.place(""), items.end());
    }
    // '0' follows '/' in ASCII.
    (items.place(&format!("{namespace}/")), items.place(&format!("{namespace}0")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_meta::GroupVersionKind;

    fn cache() -> ResourceCache {
        let form = Form::new(GroupVersionKind::new("", "v1", "Thing"), []);
        ResourceCache::new("/registry/things/", form, Arc::new(|_| Box::default()), None)
    }

    fn put(name: &str, revision: Revision) -> Update {
        let bytes = format!("{{\"metadata\":{{\"name\":\"{name}\",\"namespace\":\"n\",\"uid\":\"u-{name}\"}}}}");
        let object = Object::from_canonical(bytes.into(), revision, None).unwrap();
        Update { key: format!("n/{name}").into(), revision, content: Content::Object(Box::new(object), true) }
    }

    fn gone(key: &str, revision: Revision) -> Update {
        Update { key: key.into(), revision, content: Content::Nothing }
    }

    fn labelled(name: &str, value: &str, revision: Revision) -> Update {
        let labels = format!("{{\"app\":\"{value}\",\"all\":\"yes\"}}");
        let bytes =
            format!("{{\"metadata\":{{\"labels\":{labels},\"name\":\"{name}\",\"namespace\":\"n\",\"uid\":\"u\"}}}}");
        let object = Object::from_canonical(bytes.into(), revision, None).unwrap();
        Update { key: format!("n/{name}").into(), revision, content: Content::Object(Box::new(object), true) }
    }

    #[test]
    fn labels_asked_for_again_lead_to_their_objects() {
        let cache = cache();
        let value = |i: u64| ["x", "y", "z"][i as usize % 3];
        cache.apply((1..=3_000).map(|i| labelled(&format!("{i:04}"), value(i), i)).collect());
        let found = |selector: &str| {
            let selector = LabelSelector::parse(selector).unwrap();
            let (items, changed) = cache.candidates(Some(&selector));
            let matching = items.iter().filter(|entry| selector.matches(&entry.object().meta().labels)).count();
            (items.len(), matching, changed)
        };
        assert_eq!(found("app=x"), (3_000, 1_000, 3_000), "the first time all are looked at");
        assert_eq!(found("app=x"), (1_000, 1_000, 3_000));
        assert_eq!(found("app in (y)"), (1_000, 1_000, 3_000));
        assert_eq!(found("app=x,all=no"), (3_000, 0, 3_000), "asked for the first time: all");
        assert_eq!(found("app=none"), (0, 0, 3_000));
        assert_eq!((found("app!=x").0, found("app in (x,y)").0, found("app").0), (3_000, 3_000, 3_000));
        // x to y, gone, new, without labels.
        cache.apply(vec![labelled("0003", "y", 3_001), gone("n/0006", 3_002), labelled("new", "x", 3_003)]);
        cache.apply(vec![put("0009", 3_004), put("0010", 3_005)]);
        assert_eq!((found("app=x"), found("app=y")), ((998, 998, 3_005), (1_000, 1_000, 3_005)));
        for other in 0..8 {
            found(&format!("other{other}=x"));
        }
        assert_eq!(found("app=x").0, 3_000, "others were asked for since");
    }

    #[test]
    fn what_cannot_be_read_is_not_left_out_in_silence() {
        let cache = cache();
        let mut watch = cache.watch(Start::State, Lane::All).unwrap();
        cache.apply(vec![put("a", 1)]);
        let content = Content::Unreadable(Unreadable::Encrypted);
        cache.apply(vec![Update { key: "n/b".into(), revision: 2, content }]);
        assert!(watch.events.try_recv().is_ok() && watch.events.is_closed(), "told of the first, and then to ask anew");
        let readable = |start: &str| cache.check_all_readable(start).is_ok();
        assert_eq!((readable(""), readable("n/"), readable("m/"), readable("o/")), (false, false, true, true));
        assert!(cache.check_readable("n/a").is_ok() && cache.check_readable("n/b").is_err());
        assert!(cache.events_after(1).is_err(), "nobody goes on past it");
        cache.apply(vec![gone("n/b", 3)]);
        assert!(readable("") && cache.check_readable("n/b").is_ok());
    }

    #[test]
    fn events_reach_the_lanes_they_concern() {
        let cache = cache();
        let lane = |lane| cache.watch(Start::After(0), lane).unwrap().events;
        let (mut all, mut here) = (lane(Lane::All), lane(Lane::Namespace("n".into())));
        let (mut one, mut other) = (lane(Lane::One("n/a".into())), lane(Lane::One("n/b".into())));
        cache.apply(vec![put("a", 1), put("a", 2), gone("n/a", 3)]);
        for events in [&mut all, &mut here, &mut one] {
            let told: Vec<_> = std::iter::from_fn(|| events.try_recv().ok()).map(|e| e.revision()).collect();
            assert_eq!(told, [1, 2, 3]);
        }
        assert!(other.try_recv().is_err());
        assert_eq!((cache.len(), cache.changed()), (0, 3));
    }

    #[test]
    fn a_watcher_that_does_not_read_is_cut_off() {
        let cache = cache();
        let mut watch = cache.watch(Start::State, Lane::All).unwrap();
        for revision in 1..=5_000 {
            cache.apply(vec![put("a", revision)]);
        }
        let mut told = 0;
        while watch.events.try_recv().is_ok() {
            told += 1;
        }
        assert!(told < 5_000 && watch.events.is_closed(), "{told}");
        assert_eq!(cache.watcher_count(), 0);
    }

    #[test]
    fn watchers_that_have_gone_leave_nothing_behind() {
        let cache = cache();
        for i in 0..1_000 {
            drop(cache.watch(Start::State, Lane::One(format!("n/{i}").into())).unwrap());
        }
        assert!(cache.watchers.lock().lanes() < 200);
    }

    #[test]
    fn an_event_is_encoded_once_for_all() {
        let cache = cache();
        let mut watches: Vec<_> = (0..3).map(|_| cache.watch(Start::State, Lane::All).unwrap()).collect();
        cache.apply(vec![put("a", 1)]);
        let frames: Vec<_> = watches.iter_mut().map(|w| w.events.try_recv().unwrap().json(EventType::Added)).collect();
        assert!(frames.iter().all(|f| f.as_ptr() == frames[0].as_ptr()));
        assert!(frames[0].starts_with(b"{\"type\":\"ADDED\",\"object\":{") && frames[0].ends_with(b"}\n"));
    }
}
