//! Leases: keys that die together unless someone keeps them alive.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;

use crate::contract::LeaseId;

/// One lease.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lease {
    pub(crate) ttl: Duration,
    /// When it ends, on the world's monotonic clock.
    pub(crate) ends: Duration,
    pub(crate) keys: BTreeSet<Bytes>,
}

/// All leases.
#[derive(Default)]
pub(crate) struct Leases {
    by_id: BTreeMap<LeaseId, Lease>,
    by_end: BTreeSet<(Duration, LeaseId)>,
}

impl Leases {
    pub(crate) fn get(&self, id: LeaseId) -> Option<&Lease> {
        self.by_id.get(&id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (LeaseId, &Lease)> {
        self.by_id.iter().map(|(id, lease)| (*id, lease))
    }

    /// Grants a lease, or gives an existing one a new end. Whether it is new.
    pub(crate) fn set(&mut self, id: LeaseId, ttl: Duration, ends: Duration) -> bool {
        let old = self.remove(id);
        let is_new = old.is_none();
        self.insert(id, Lease { ttl, ends, ..old.unwrap_or_default() });
        is_new
    }

    /// Puts a lease in place, keys and all.
    pub(crate) fn insert(&mut self, id: LeaseId, lease: Lease) {
        self.remove(id);
        self.by_end.insert((lease.ends, id));
        self.by_id.insert(id, lease);
    }

    pub(crate) fn remove(&mut self, id: LeaseId) -> Option<Lease> {
        let lease = self.by_id.remove(&id)?;
        self.by_end.remove(&(lease.ends, id));
        Some(lease)
    }

    pub(crate) fn attach(&mut self, id: LeaseId, key: &Bytes) {
        if let Some(lease) = self.by_id.get_mut(&id) {
            lease.keys.insert(key.clone());
        }
    }

    pub(crate) fn detach(&mut self, id: LeaseId, key: &Bytes) {
        if let Some(lease) = self.by_id.get_mut(&id) {
            lease.keys.remove(key);
        }
    }

    /// The end that comes first.
    pub(crate) fn first_end(&self) -> Option<Duration> {
        self.by_end.first().map(|(ends, _)| *ends)
    }

    /// The leases that have ended by `now`.
    pub(crate) fn ended(&self, now: Duration) -> Vec<LeaseId> {
        self.by_end.iter().take_while(|(ends, _)| *ends <= now).map(|(_, id)| *id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_follow_the_leases() {
        let second = Duration::from_secs;
        let mut leases = Leases::default();
        assert!(leases.set(1, second(5), second(5)));
        assert!(leases.set(2, second(3), second(3)));
        leases.attach(1, &Bytes::from_static(b"k"));
        assert!(!leases.set(2, second(3), second(9)));
        assert_eq!(leases.first_end(), Some(second(5)));
        assert_eq!(leases.ended(second(9)), [1, 2]);
        assert_eq!(leases.remove(1).map(|lease| lease.keys.len()), Some(1));
        assert_eq!(leases.ended(second(9)), [2]);
    }
}
