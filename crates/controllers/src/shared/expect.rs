//! Expectations: a controller does not count pods again before it has seen what it did itself.
//!
//! A cache lags behind the writes of its reader. Planning again from a cache that has not yet seen the pods just created
//! would create them twice. Upstream counts events; here the revision says it exactly: a cache that has reached the
//! revision of our last create has seen it. Deletions are watched pod by pod, since a pod asked to go stays for a while.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use skiff_client::{Key, Kind, Store};

/// Upstream's limit (`ExpectationsTimeout`): after it the cache is believed, whatever it shows.
const LIMIT: Duration = Duration::from_secs(300);

#[derive(Debug, Default)]
struct Expected {
    revision: u64,
    leaving: BTreeMap<Key, String>,
    since: Duration,
}

/// What the owners of one controller expect to see. Owned by one queue: a key is not worked on twice at a time.
#[derive(Debug, Default)]
pub(crate) struct Expectations(Mutex<BTreeMap<Key, Expected>>);

impl Expectations {
    fn with<R>(&self, read: impl FnOnce(&mut BTreeMap<Key, Expected>) -> R) -> R {
        read(&mut self.0.lock())
    }

    /// `owner` wrote something at `revision`.
    pub(crate) fn wrote(&self, owner: &Key, revision: u64, now: Duration) {
        self.with(|all| {
            let expected = all.entry(owner.clone()).or_default();
            expected.revision = expected.revision.max(revision);
            expected.since = now;
        });
    }

    /// `owner` is about to delete these objects.
    pub(crate) fn deletes<'a, K: Kind>(&self, owner: &Key, objects: impl Iterator<Item = &'a K>, now: Duration) {
        self.with(|all| {
            let expected = all.entry(owner.clone()).or_default();
            expected.leaving.extend(objects.map(|object| (Key::of(object), object.uid().to_owned())));
            expected.since = now;
        });
    }

    /// The deletion did not happen.
    pub(crate) fn kept(&self, owner: &Key, object: &Key) {
        self.with(|all| {
            if let Some(expected) = all.get_mut(owner) {
                expected.leaving.remove(object);
            }
        });
    }

    /// The owner is gone.
    pub(crate) fn forget(&self, owner: &Key) {
        self.with(|all| all.remove(owner));
    }

    /// Whether `store` has seen everything `owner` did.
    pub(crate) fn met<K: Kind>(&self, owner: &Key, store: &Store<K>, now: Duration) -> bool {
        self.with(|all| {
            let Some(expected) = all.get_mut(owner) else { return true };
            expected.leaving.retain(|key, uid| store.get_key(key).is_some_and(|o| o.uid() == uid && !o.deleting()));
            let met = store.revision() >= expected.revision && expected.leaving.is_empty();
            if met || now >= expected.since + LIMIT {
                all.remove(owner);
                return true;
            }
            false
        })
    }

    /// How long at most until [`Expectations::met`] says yes, whatever happens.
    pub(crate) const fn limit() -> Duration {
        LIMIT
    }
}
