//! The store as a plain value: what both engines hold under one lock. No I/O, no tasks, no clock of its own.
//!
//! A mutation is decided against the newest state ([`Core::transact`] and its sisters), which yields [`Entry`]s, and
//! applied at once. It becomes visible only when it is published, which the embedded engine does once the entry is
//! durable: until then readers, who read at the published revision, do not see it, and it can be taken back.

use std::sync::Arc;
use std::time::Duration;

use crate::contract::{
    Compare, KeyRange, KeyValue, LeaseId, MAX_KEY, MAX_TRANSACTION, Outcome, Revision, StoreError, Transaction, Write,
};
use crate::entry::Entry;
use crate::history::{Event, History, Page, Times};
use crate::index::Index;
use crate::lease::{Lease, Leases};

/// The revision of a new store.
pub(crate) const FIRST: Revision = 1;

/// Most changes forgotten in one go. After a long silence a whole busy time falls due at once; nobody waits for that.
const FORGET: usize = 16_384;

/// How much history stays in memory.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// History older than this is forgotten as new writes come; Kubernetes' clients expect five minutes.
    pub time: Duration,
    /// Roughly, the most bytes of replaced values kept, however young.
    pub bytes: usize,
}

impl Default for Retention {
    fn default() -> Self {
        Self { time: Duration::from_secs(300), bytes: 128 << 20 }
    }
}

/// What time it is, read once per mutation.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Clock {
    /// Milliseconds since 1970.
    pub(crate) unix: i64,
    /// The world's monotonic clock.
    pub(crate) elapsed: Duration,
}

impl Clock {
    pub(crate) fn second(self) -> i64 {
        self.unix.div_euclid(1000)
    }
}

/// How to take back what an entry did to the leases.
pub(crate) enum Undo {
    Granted(LeaseId),
    Revoked(LeaseId, Lease),
}

/// An answer, and what has to happen before it is given.
pub(crate) type Decision<T> = Result<(T, Vec<Entry>), StoreError>;

/// The whole state.
pub(crate) struct Core {
    index: Index,
    history: History,
    times: Times,
    leases: Leases,
    /// The newest revision applied.
    head: Revision,
    /// The newest revision anyone may see.
    published: Revision,
    /// The oldest revision anyone may ask for.
    compacted: Revision,
    /// Background readers need what is visible at these revisions, compacted or not.
    pins: Vec<Revision>,
    /// Bytes of live keys and values.
    bytes: u64,
    retention: Retention,
}

impl Core {
    pub(crate) fn new(retention: Retention) -> Self {
        Self {
            index: Index::default(),
            history: History::default(),
            times: Times::default(),
            leases: Leases::default(),
            head: FIRST,
            published: FIRST,
            compacted: 0,
            pins: Vec::new(),
            bytes: 0,
            retention,
        }
    }

    // Deciding.

    /// Checks a transaction against the newest state.
    pub(crate) fn transact(&self, transaction: Transaction, clock: Clock) -> Decision<Outcome> {
        if !transaction.compare.iter().all(|compare| self.holds(compare)) {
            let keys = transaction.compare.iter().map(|compare| match compare {
                Compare::Modified(key, _) | Compare::Exists(key) => key,
            });
            let current = keys.map(|key| self.index.head(key).map(|kv| KeyValue::clone(kv))).collect();
            return Ok((Outcome::Refused { revision: self.head, current }, Vec::new()));
        }
        let Transaction { mut writes, trace, .. } = transaction;
        for write in &writes {
            if let Write::Put { lease, .. } = write
                && *lease != 0
            {
                self.lease(*lease)?;
            }
        }
        writes.retain(|write| match write {
            Write::Put { .. } => true,
            Write::Delete { key } => self.index.head(key).is_some(),
        });
        if writes.is_empty() {
            return Ok((Outcome::Committed(self.head), Vec::new()));
        }
        let revision = self.head + 1;
        let commit = Entry::Commit { revision, time: clock.second(), trace, writes };
        Ok((Outcome::Committed(revision), vec![commit]))
    }

    pub(crate) fn grant(&self, id: LeaseId, ttl: Duration, clock: Clock) -> Decision<LeaseId> {
        Ok((id, vec![lease_until(id, ttl, clock)]))
    }

    pub(crate) fn keep_alive(&self, id: LeaseId, clock: Clock) -> Decision<Duration> {
        let lease = self.lease(id)?;
        if lease.ends <= clock.elapsed {
            return Err(StoreError::LeaseNotFound(id));
        }
        Ok((lease.ttl, vec![lease_until(id, lease.ttl, clock)]))
    }

    /// Ends a lease; its keys go at one new revision.
    pub(crate) fn revoke(&self, id: LeaseId, clock: Clock) -> Decision<()> {
        let lease = self.lease(id)?;
        let writes: Vec<_> = lease.keys.iter().map(|key| Write::Delete { key: key.clone() }).collect();
        let commit = Entry::Commit { revision: self.head + 1, time: clock.second(), trace: None, writes };
        let entries = if lease.keys.is_empty() { vec![] } else { vec![commit] };
        Ok(((), entries.into_iter().chain([Entry::Revoke { id }]).collect()))
    }

    /// Ends a lease unless someone kept it alive in the meantime.
    pub(crate) fn expire(&self, id: LeaseId, clock: Clock) -> Decision<()> {
        match self.leases.get(id) {
            Some(lease) if lease.ends <= clock.elapsed => self.revoke(id, clock),
            _ => Ok(((), Vec::new())),
        }
    }

    pub(crate) fn compact(&self, revision: Revision) -> Decision<()> {
        self.not_future(revision)?;
        let entries = if revision > self.compacted { vec![Entry::Compact { revision }] } else { vec![] };
        Ok(((), entries))
    }

    fn holds(&self, compare: &Compare) -> bool {
        match compare {
            Compare::Modified(key, revision) => self.index.head(key).map_or(0, |kv| kv.modified) == *revision,
            Compare::Exists(key) => self.index.head(key).is_some(),
        }
    }

    fn lease(&self, id: LeaseId) -> Result<&Lease, StoreError> {
        self.leases.get(id).ok_or(StoreError::LeaseNotFound(id))
    }

    pub(crate) fn has_lease(&self, id: LeaseId) -> bool {
        self.leases.get(id).is_some()
    }

    // Applying.

    /// Makes the entry true in memory, not yet visible.
    pub(crate) fn apply(&mut self, entry: Entry, clock: Clock) -> Option<Undo> {
        match entry {
            Entry::Commit { revision, time, trace, writes } => {
                self.head = revision;
                self.times.note(time, revision);
                for write in writes {
                    self.write(write, revision, trace);
                }
                None
            }
            Entry::Lease { id, ttl, ends } => {
                // The wall clock may have jumped between two runs; a lease never lives longer than its time to live.
                let left = Duration::from_millis(ends.saturating_sub(clock.unix).max(0) as u64).min(ttl);
                self.leases.set(id, ttl, clock.elapsed + left).then_some(Undo::Granted(id))
            }
            Entry::Revoke { id } => self.leases.remove(id).map(|lease| Undo::Revoked(id, lease)),
            Entry::Compact { revision } => {
                self.compacted = self.compacted.max(revision);
                self.forget();
                None
            }
        }
    }

    fn write(&mut self, write: Write, revision: Revision, trace: Option<skiff_meta::TraceContext>) {
        let event = match write {
            Write::Put { key, value, lease } => {
                let (current, previous) = self.index.put(key, |key, previous| {
                    Arc::new(match previous {
                        Some(old) => KeyValue {
                            key: old.key.clone(),
                            value,
                            created: old.created,
                            modified: revision,
                            version: old.version + 1,
                            lease,
                            trace,
                        },
                        None => {
                            KeyValue { key, value, created: revision, modified: revision, version: 1, lease, trace }
                        }
                    })
                });
                Event::Put { current, previous }
            }
            Write::Delete { key } => match self.index.delete(&key, revision) {
                Some(previous) => Event::Delete { revision, previous, trace: trace.map(Box::new) },
                None => return,
            },
        };
        self.account(&event, true);
        self.history.push(event);
    }

    /// Leases and sizes after an event, or (`forward` false) after taking it back.
    fn account(&mut self, event: &Event, forward: bool) {
        let current = match event {
            Event::Put { current, .. } => Some(current),
            Event::Delete { .. } => None,
        };
        let (gone, come) = if forward { (event.previous(), current) } else { (current, event.previous()) };
        if let Some(kv) = gone {
            self.leases.detach(kv.lease, &kv.key);
            self.bytes -= size(kv);
        }
        if let Some(kv) = come {
            self.leases.attach(kv.lease, &kv.key);
            self.bytes += size(kv);
        }
    }

    /// Makes everything up to `revision` visible, and forgets what has become too old.
    pub(crate) fn publish(&mut self, revision: Revision, clock: Clock) {
        self.published = revision;
        let retention = i64::try_from(self.retention.time.as_secs()).unwrap_or(i64::MAX);
        if let Some(old) = self.times.revision_at(clock.second().saturating_sub(retention)) {
            self.compacted = self.compacted.max(old.min(revision));
        }
        self.forget();
    }

    /// Takes back everything that was not published, and what it did to the leases.
    pub(crate) fn take_back(&mut self, undo: Vec<Undo>) {
        let (revoked, granted): (Vec<_>, Vec<_>) = undo.into_iter().partition(|undo| matches!(undo, Undo::Revoked(..)));
        for undo in revoked {
            if let Undo::Revoked(id, lease) = undo {
                self.leases.insert(id, lease);
            }
        }
        while let Some(event) = self.history.pop_after(self.published) {
            self.index.take_back(event.key(), self.published);
            self.account(&event, false);
        }
        for undo in granted {
            if let Undo::Granted(id) = undo {
                self.leases.remove(id);
            }
        }
        self.times.take_back(self.published);
        self.head = self.published;
    }

    /// Drops history up to the compacted revision, and beyond while it is too large; what is left to drop then, which
    /// nobody can reach any more, goes next time.
    fn forget(&mut self) {
        let pinned = self.pins.iter().copied().min().unwrap_or(Revision::MAX);
        for _ in 0..FORGET {
            let Some(event) = self.history.front() else { break };
            let revision = event.revision();
            let too_much = self.history.weight() > self.retention.bytes && revision <= self.published;
            if revision > pinned || !(revision <= self.compacted || too_much) {
                break;
            }
            self.compacted = self.compacted.max(revision);
            if let Some(event) = self.history.pop_front() {
                self.index.trim(event.key(), revision);
            }
        }
        self.times.trim(self.compacted);
    }

    /// Keeps what is visible at the published revision readable by [`Core::range`] until unpinned.
    pub(crate) fn pin(&mut self) -> Revision {
        self.pins.push(self.published);
        self.published
    }

    pub(crate) fn unpin(&mut self, revision: Revision) {
        if let Some(at) = self.pins.iter().position(|pin| *pin == revision) {
            self.pins.swap_remove(at);
        }
        self.forget();
    }

    /// Takes over a state from outside: the leases, then the values, then this.
    pub(crate) fn restore(&mut self, revision: Revision, second: i64) {
        self.head = revision;
        self.published = revision;
        self.compacted = if revision > FIRST { revision } else { 0 };
        self.times.note(second, revision);
    }

    /// Takes over a value from outside; its lease must be there already.
    pub(crate) fn load(&mut self, kv: Arc<KeyValue>) {
        self.leases.attach(kv.lease, &kv.key);
        self.bytes += size(&kv);
        self.index.put(kv.key.clone(), |_, _| kv);
    }

    // Reading.

    /// The revision a reader means; its state is there.
    pub(crate) fn readable(&self, at: Option<Revision>) -> Result<Revision, StoreError> {
        let revision = at.unwrap_or(self.published);
        self.not_future(revision)?;
        if revision < self.compacted {
            return Err(StoreError::Compacted { oldest: self.compacted });
        }
        Ok(revision)
    }

    fn not_future(&self, asked: Revision) -> Result<(), StoreError> {
        if asked > self.published {
            return Err(StoreError::Future { asked, newest: self.published });
        }
        Ok(())
    }

    pub(crate) fn get(&self, key: &[u8], at: Revision) -> Option<&Arc<KeyValue>> {
        self.index.get(key)?.at(at)
    }

    /// The keys of a range at a revision, in order.
    pub(crate) fn range<'a>(&'a self, keys: &'a KeyRange, at: Revision) -> impl Iterator<Item = &'a Arc<KeyValue>> {
        self.index.range(keys).filter_map(move |slot| slot.at(at))
    }

    /// How many keys of a range there were at a revision: as many as now, less those that came since, or, where that is
    /// less to look at, counted one by one.
    pub(crate) fn count(&self, keys: &KeyRange, at: Revision) -> usize {
        let now = self.index.count(keys);
        let since = self.history.after(at);
        if since.len() > now + 1024 {
            return self.range(keys, at).count();
        }
        let growth: isize = since.filter(|event| keys.contains(event.key())).map(Event::growth).sum();
        now.saturating_add_signed(-growth)
    }

    /// Published changes after `after`, and how far that goes.
    pub(crate) fn changes(&self, keys: &KeyRange, after: Revision, limit: usize) -> Page {
        self.history.page(keys, after, self.published, limit)
    }

    /// Sorted keys of the events after `after` that are published.
    pub(crate) fn changed_keys(&self, after: Revision) -> Vec<bytes::Bytes> {
        let events = self.history.after(after).take_while(|event| event.revision() <= self.published);
        let mut keys: Vec<_> = events.map(|event| event.key().clone()).collect();
        keys.sort_unstable();
        keys
    }

    pub(crate) fn revision_at(&self, second: i64) -> Option<Revision> {
        self.times.revision_at(second).map(|revision| revision.min(self.published))
    }

    pub(crate) fn time_of(&self, revision: Revision) -> Option<i64> {
        if revision < self.compacted || revision > self.published {
            return None;
        }
        self.times.time_of(revision)
    }

    pub(crate) fn head(&self) -> Revision {
        self.head
    }

    pub(crate) fn published(&self) -> Revision {
        self.published
    }

    pub(crate) fn compacted(&self) -> Revision {
        self.compacted
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn leases(&self) -> &Leases {
        &self.leases
    }
}

fn lease_until(id: LeaseId, ttl: Duration, clock: Clock) -> Entry {
    let ends = clock.unix.saturating_add(i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX));
    Entry::Lease { id, ttl, ends }
}

fn size(kv: &KeyValue) -> u64 {
    (kv.key.len() + kv.value.len()) as u64
}

/// Refuses what no state could make right.
pub(crate) fn validate(transaction: &Transaction) -> Result<(), StoreError> {
    let bad = |what: String| Err(StoreError::BadTransaction(what));
    let (mut keys, mut total) = (Vec::with_capacity(transaction.writes.len()), 0);
    for write in &transaction.writes {
        let (key, value) = match write {
            Write::Put { key, value, .. } => (key, value.len()),
            Write::Delete { key } => (key, 0),
        };
        if key.is_empty() {
            return bad("a key is empty".into());
        }
        if key.len() > MAX_KEY {
            return bad(format!("a key has {} bytes, at most {MAX_KEY} are allowed", key.len()));
        }
        total += key.len() + value;
        keys.push(key);
    }
    if total > MAX_TRANSACTION {
        return bad(format!("it has {total} bytes, at most {MAX_TRANSACTION} are allowed"));
    }
    keys.sort_unstable();
    match keys.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => bad(format!("key {} is written twice", String::from_utf8_lossy(pair[0]))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_time_is_forgotten_in_steps() {
        let mut core = Core::new(Retention::default());
        let put = |core: &mut Core, clock| {
            let write = Write::Put { key: "k".into(), value: "v".into(), lease: 0 };
            let transaction = Transaction { writes: vec![write], ..Transaction::default() };
            let (_, entries) = core.transact(transaction, clock).expect("nothing against it");
            entries.into_iter().for_each(|entry| drop(core.apply(entry, clock)));
            core.publish(core.head(), clock);
        };
        let busy = 2 * FORGET as u64;
        (0..busy).for_each(|_| put(&mut core, Clock::default()));
        let later = Clock { unix: 301_000, ..Clock::default() };
        put(&mut core, later);
        assert_eq!(core.compacted(), FIRST + busy, "it is out of reach at once");
        assert!(core.history.front().is_some_and(|event| event.revision() < core.compacted()));
        put(&mut core, later);
        assert_eq!(core.history.front().map(Event::revision), Some(FIRST + busy + 1));
        assert_eq!(core.get(b"k", core.compacted()).map(|kv| kv.modified), Some(FIRST + busy));
    }
}
