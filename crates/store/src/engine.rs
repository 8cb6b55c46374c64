//! The one engine behind [`MemoryStore`] and [`EmbeddedStore`].
//!
//! A mutation takes the lock, is decided and applied ([`crate::state`]), and then either is published at once (memory),
//! or waits in the [`Staging`] for the writer thread, which makes all that waits durable with one sync, publishes it and
//! answers. Reads take the shared lock for short moments only: long ranges are read piece by piece at one revision.

use std::marker::PhantomData;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::RwLock;
use skiff_meta::WorldRef;

use crate::contract::{
    KeyRange, KeyValue, LeaseId, Outcome, RangeQuery, RangeResult, Revision, Store, StoreError, Transaction, Watch,
    WatchQuery,
};
use crate::expiry::Expiry;
use crate::log::{Files, past};
use crate::snapshot::{self, Snapshot};
use crate::staging::{Staging, Ticket};
use crate::state::{Clock, Core, Decision, FIRST, Retention, validate};
use crate::watch::{Wake, WatchStream, Watchers};

/// How many keys a range reads before it lets writers in.
const PIECE: usize = 1024;

/// The engine; `M` tells where it keeps its data.
pub struct Engine<M> {
    shared: Arc<Shared>,
    medium: PhantomData<fn() -> M>,
}

/// Marks the engine that keeps its data in memory only.
pub enum Volatile {}

/// Marks the engine that keeps its data in a log on disk.
pub enum Logged {}

/// The ephemeral engine: everything is lost with the process. It needs no runtime but its world, and a commit completes
/// at once, without another task's help.
pub type MemoryStore = Engine<Volatile>;

/// The embedded engine: durable in a directory of its own.
pub type EmbeddedStore = Engine<Logged>;

/// What the handle, the watches, the expiry task and the writer thread share.
pub(crate) struct Shared {
    pub(crate) world: WorldRef,
    pub(crate) state: RwLock<State>,
    pub(crate) expiry: Arc<Expiry>,
}

/// What the one lock guards.
pub(crate) struct State {
    pub(crate) core: Core,
    pub(crate) watchers: Watchers,
    /// Where mutations wait for the disk; `None` in the memory engine.
    pub(crate) staging: Option<Staging>,
    pub(crate) closed: bool,
}

impl Engine<Volatile> {
    /// An empty store that keeps as much history as Kubernetes' clients expect.
    pub fn new(world: WorldRef) -> Self {
        Self::with_retention(world, Retention::default())
    }

    /// An empty store that keeps this much history.
    pub fn with_retention(world: WorldRef, retention: Retention) -> Self {
        Self::from_shared(Shared::new(world, Core::new(retention), None))
    }
}

impl<M> Engine<M> {
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn from_shared(shared: Arc<Shared>) -> Self {
        Self { shared, medium: PhantomData }
    }
}

impl<M> Drop for Engine<M> {
    fn drop(&mut self) {
        // Whoever wants to know that all has come to rest calls `close`.
        drop(self.shared.begin_close());
    }
}

impl Shared {
    pub(crate) fn new(world: WorldRef, core: Core, staging: Option<Staging>) -> Arc<Self> {
        let state = State { core, watchers: Watchers::default(), staging, closed: false };
        Arc::new(Self { world, state: RwLock::new(state), expiry: Arc::default() })
    }

    pub(crate) fn clock(&self) -> Clock {
        Clock { unix: self.world.now().as_millisecond(), elapsed: self.world.elapsed() }
    }

    /// Decides a mutation, makes it happen, and returns once it is durable and visible.
    pub(crate) async fn mutate<T>(&self, decide: impl FnOnce(&Core, Clock) -> Decision<T>) -> Result<T, StoreError> {
        let (answer, done) = self.begin(decide)?;
        match done {
            Done::Now(wake) => wake.wake(),
            Done::Later(ticket) => ticket.redeem().await?,
        }
        Ok(answer)
    }

    /// Grants a lease under a name of the caller's or a new one; `None` when that name is taken.
    pub(crate) async fn grant(
        self: &Arc<Self>,
        wanted: Option<LeaseId>,
        ttl: Duration,
    ) -> Result<Option<LeaseId>, StoreError> {
        let decide = |core: &Core, clock| {
            // Positive, as the contract reserves 0; chosen at random, as etcd does, so that nobody relies on their order.
            let id = wanted.or_else(|| {
                let mut ids = std::iter::repeat_with(|| (self.world.random() >> 1) as LeaseId);
                ids.find(|id| *id > 0 && !core.has_lease(*id))
            });
            match id.filter(|id| !core.has_lease(*id)) {
                Some(id) => core.grant(id, ttl, clock).map(|(id, entries)| (Some(id), entries)),
                None => Ok((None, Vec::new())),
            }
        };
        let id = self.mutate(decide).await?;
        Expiry::watch_over(self);
        Ok(id)
    }

    fn begin<T>(&self, decide: impl FnOnce(&Core, Clock) -> Decision<T>) -> Result<(T, Done), StoreError> {
        let clock = self.clock();
        let mut state = self.state.write();
        state.check_open()?;
        let (answer, entries) = decide(&state.core, clock)?;
        let State { core, staging, .. } = &mut *state;
        let done = match staging {
            Some(staging) => Done::Later(staging.stage(core, entries, clock)?),
            None => {
                for entry in entries {
                    core.apply(entry, clock);
                }
                let head = core.head();
                Done::Now(state.publish(head, clock))
            }
        };
        drop(state);
        if let Done::Later(ticket) = &done {
            ticket.wake_writer();
        }
        Ok((answer, done))
    }

    /// Refuses further calls and ends all watches. The ticket, if any, is redeemed when the writer has come to rest.
    fn begin_close(&self) -> Option<Ticket> {
        let mut state = self.state.write();
        let was_closed = std::mem::replace(&mut state.closed, true);
        let ticket = state.staging.as_mut().map(Staging::finish);
        let wake = if was_closed { Wake::default() } else { state.watchers.close() };
        drop(state);
        self.expiry.nudge();
        wake.wake();
        if let Some(ticket) = &ticket {
            ticket.wake_writer();
        }
        ticket
    }

    pub(crate) fn read<T>(&self, read: impl FnOnce(&State) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let state = self.state.read();
        state.check_open()?;
        read(&state)
    }

    /// Reads a range at one revision, in pieces; compaction may overtake it.
    fn range_at(&self, query: &RangeQuery, at: Revision) -> Result<RangeResult, StoreError> {
        let mut rest = query.keys.clone();
        let mut result = RangeResult { revision: at, ..RangeResult::default() };
        let limit = if query.limit == 0 { usize::MAX } else { query.limit };
        if query.limit == 0 {
            result.items.reserve(self.read(|state| Ok(state.core.count(&rest, at)))?);
        }
        loop {
            let step = self.read(|state| {
                state.core.readable(Some(at))?;
                let want = PIECE.min(limit - result.items.len());
                let before = result.items.len();
                result.items.extend(state.core.range(&rest, at).take(want).map(|kv| KeyValue::clone(kv)));
                let Some(last) = result.items.last().filter(|_| result.items.len() == before + want) else {
                    return Ok(ControlFlow::Break(0));
                };
                rest.start = successor(&last.key);
                if result.items.len() < limit {
                    return Ok(ControlFlow::Continue(()));
                }
                Ok(ControlFlow::Break(state.core.count(&rest, at)))
            })?;
            if let ControlFlow::Break(remaining) = step {
                result.remaining = remaining;
                return Ok(result);
            }
        }
    }
}

impl State {
    /// The files on the disk, where there is one.
    fn files(&self) -> Option<Arc<Files>> {
        self.staging.as_ref().map(|staging| staging.files().clone())
    }

    pub(crate) fn check_open(&self) -> Result<(), StoreError> {
        if self.closed { Err(StoreError::Closed) } else { Ok(()) }
    }

    /// Makes everything up to `revision` visible; the watchers it concerns are to be woken.
    pub(crate) fn publish(&mut self, revision: Revision, clock: Clock) -> Wake {
        let before = self.core.published();
        if revision == before {
            // Nothing new to see, but a compaction may have passed.
            return Wake::default();
        }
        self.core.publish(revision, clock);
        if self.watchers.is_empty() {
            return Wake::default();
        }
        self.watchers.publish(&self.core.changed_keys(before), revision)
    }
}

/// How a mutation becomes true.
enum Done {
    Now(Wake),
    Later(Ticket),
}

/// The first key after `key`.
pub(crate) fn successor(key: &[u8]) -> Bytes {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next.into()
}

#[async_trait]
impl<M: 'static> Store for Engine<M> {
    async fn get(&self, key: &[u8], at: Option<Revision>) -> Result<(Option<KeyValue>, Revision), StoreError> {
        self.shared.read(|state| {
            let revision = state.core.readable(at)?;
            Ok((state.core.get(key, revision).map(|kv| KeyValue::clone(kv)), revision))
        })
    }

    async fn range(&self, query: RangeQuery) -> Result<RangeResult, StoreError> {
        loop {
            let at = self.shared.read(|state| state.core.readable(query.at))?;
            match self.shared.range_at(&query, at) {
                // Whoever asks for the present does not mind which present.
                Err(StoreError::Compacted { .. }) if query.at.is_none() => {}
                result => return result,
            }
        }
    }

    async fn range_past(&self, query: RangeQuery) -> Result<RangeResult, StoreError> {
        match (self.range(query.clone()).await, query.at) {
            (Err(StoreError::Compacted { .. }), Some(at)) if at >= FIRST => {
                let Some(files) = self.shared.read(|state| Ok(state.files()))? else {
                    return Err(StoreError::Compacted { oldest: self.compacted().await? });
                };
                past::range(&files, query, at).await
            }
            (result, _) => result,
        }
    }

    async fn oldest(&self) -> Result<Revision, StoreError> {
        self.shared.read(|state| Ok(state.files().map_or(state.core.compacted(), |files| files.oldest())))
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        validate(&transaction)?;
        self.shared.mutate(|core, clock| core.transact(transaction, clock)).await
    }

    async fn watch(&self, query: WatchQuery) -> Result<Watch, StoreError> {
        let mut state = self.shared.state.write();
        state.check_open()?;
        let after = state.core.readable(query.after)?;
        let State { core, watchers, .. } = &mut *state;
        let stream = WatchStream::begin(&self.shared, watchers, query.keys, after, core.published());
        Ok(Box::pin(stream))
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.shared.read(|state| Ok(state.core.published()))
    }

    async fn compacted(&self) -> Result<Revision, StoreError> {
        self.shared.read(|state| Ok(state.core.compacted()))
    }

    async fn request_progress(&self) -> Result<(), StoreError> {
        self.shared.read(|state| Ok(state.watchers.request_progress()))?.wake();
        Ok(())
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.shared.mutate(|core, _| core.compact(revision)).await
    }

    async fn revision_at(&self, time: i64) -> Result<Option<Revision>, StoreError> {
        match self.shared.read(|state| Ok((state.core.revision_at(time), state.files())))? {
            (None, Some(files)) => past::revision_at(&files, time).await,
            (found, _) => Ok(found),
        }
    }

    async fn time_of(&self, revision: Revision) -> Result<Option<i64>, StoreError> {
        match self.shared.read(|state| Ok((state.core.time_of(revision), state.files(), state.core.published())))? {
            (None, Some(files), newest) if revision <= newest => past::time_of(&files, revision).await,
            (found, ..) => Ok(found),
        }
    }

    async fn count(&self, keys: KeyRange) -> Result<usize, StoreError> {
        self.shared.read(|state| Ok(state.core.count(&keys, state.core.published())))
    }

    async fn size(&self) -> Result<u64, StoreError> {
        self.shared.read(|state| Ok(state.files().map_or(state.core.bytes(), |files| files.size())))
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        Ok(self.shared.grant(None, ttl).await?.unwrap_or_default())
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, StoreError> {
        self.shared.mutate(|core, clock| core.keep_alive(lease, clock)).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.shared.mutate(|core, clock| core.revoke(lease, clock)).await
    }

    async fn snapshot(&self, files: Vec<(String, Bytes)>) -> Result<Snapshot, StoreError> {
        snapshot::take(&self.shared, files)
    }

    async fn close(&self) -> Result<(), StoreError> {
        match self.shared.begin_close() {
            Some(ticket) => ticket.redeem().await,
            None => Ok(()),
        }
    }
}
