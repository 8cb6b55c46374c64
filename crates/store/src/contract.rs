//! The contract every engine keeps; one test suite runs on all of them.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use skiff_meta::TraceContext;

/// Counts committed transactions. An object's resourceVersion is the revision of its last write.
///
/// A new store is at revision 1, as etcd's is, so the first write gets 2: to Kubernetes' clients a resourceVersion of 0
/// means "any", and no state may be known by that number. As a state to read or watch from, 0 is the empty one before
/// everything; in [`Compare::Modified`] it means absent.
pub type Revision = u64;

/// The longest key, in bytes.
pub const MAX_KEY: usize = 4096;
/// The largest transaction, in bytes of keys and values.
pub const MAX_TRANSACTION: usize = 16 << 20;

/// Names a lease; 0 means none.
pub type LeaseId = i64;

/// One key at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Bytes,
    /// The value, shared with whoever else holds it.
    pub value: Bytes,
    /// Revision at which the key came into being.
    pub created: Revision,
    /// Revision of the last write.
    pub modified: Revision,
    /// Number of writes since it came into being, from 1.
    pub version: u64,
    /// The lease it dies with; 0: none.
    pub lease: LeaseId,
    /// The trace context of the last write, where the engine kept it.
    pub trace: Option<TraceContext>,
}

/// Keys `start <= key < end`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    /// First key.
    pub start: Bytes,
    /// First key past the range; empty: to the very end.
    pub end: Bytes,
}

impl KeyRange {
    /// Just this key.
    pub fn one(key: impl Into<Bytes>) -> Self {
        let start = key.into();
        let mut end = start.to_vec();
        end.push(0);
        Self { start, end: end.into() }
    }
    /// All keys that begin with `prefix`.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let start = prefix.into();
        let mut end = start.to_vec();
        while let Some(last) = end.pop() {
            if last < 0xff {
                end.push(last + 1);
                break;
            }
        }
        Self { start, end: end.into() }
    }
    /// Whether `key` lies in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        key >= &self.start[..] && (self.end.is_empty() || key < &self.end[..])
    }
}

/// What a range read wants.
#[derive(Clone, Debug)]
pub struct RangeQuery {
    /// Which keys.
    pub keys: KeyRange,
    /// At most this many; 0: all.
    pub limit: usize,
    /// As of this revision; `None`: now, linearizable.
    pub at: Option<Revision>,
}

/// What a range read found, in key order.
#[derive(Clone, Debug, Default)]
pub struct RangeResult {
    /// The pairs.
    pub items: Vec<KeyValue>,
    /// How many keys of the range come after the last item.
    pub remaining: usize,
    /// The revision the answer is true at.
    pub revision: Revision,
}

/// A condition of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compare {
    /// The key's last write was at exactly this revision; 0: the key does not exist.
    Modified(Bytes, Revision),
    /// The key exists, whatever its revision.
    Exists(Bytes),
}

/// A write of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Sets a key. Writing under a lease that does not exist fails the transaction.
    Put {
        /// The key.
        key: Bytes,
        /// The value.
        value: Bytes,
        /// The lease it dies with; 0: none.
        lease: LeaseId,
    },
    /// Removes a key; removing a missing one is no write.
    Delete {
        /// The key.
        key: Bytes,
    },
}

/// All conditions hold -> all writes happen at one new revision; otherwise nothing happens.
///
/// Each key may be written at most once. A transaction that writes nothing takes no revision. Keys are 1 to
/// [`MAX_KEY`] bytes, all keys and values together at most [`MAX_TRANSACTION`]. Engines keep keys and values as they
/// are given: a slice of a larger buffer keeps the whole buffer alive, so hand in bytes of their own.
#[derive(Clone, Debug, Default)]
pub struct Transaction {
    /// Conditions.
    pub compare: Vec<Compare>,
    /// Writes.
    pub writes: Vec<Write>,
    /// Kept with the writes.
    pub trace: Option<TraceContext>,
}

/// How a transaction ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// All writes happened, durably, at this revision.
    Committed(Revision),
    /// A condition did not hold; nothing happened. What each compared key is now, in order of the conditions.
    Refused {
        /// The revision this was true at.
        revision: Revision,
        /// The present state of the compared keys.
        current: Vec<Option<KeyValue>>,
    },
}

/// One change, as a watch tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The key was set; `previous` is what it was, where history still has it.
    Put {
        /// As it is now.
        current: KeyValue,
        /// As it was.
        previous: Option<KeyValue>,
    },
    /// The key was removed (by a transaction or because its lease ended).
    Delete {
        /// The key.
        key: Bytes,
        /// The revision of the removal.
        revision: Revision,
        /// What it was, where history still has it.
        previous: Option<KeyValue>,
        /// The trace context of the removal.
        trace: Option<TraceContext>,
    },
}

/// What a watch yields.
#[derive(Clone, Debug)]
pub enum WatchItem {
    /// All changes of one or several whole revisions, in order; a revision is never split over two items.
    Changes(Vec<Change>),
    /// Nothing more up to and including this revision. Told once when a watch has caught up with the moment it began,
    /// and whenever [`Store::request_progress`] asks.
    Progress(Revision),
}

/// Where to watch from.
#[derive(Clone, Debug)]
pub struct WatchQuery {
    /// Which keys.
    pub keys: KeyRange,
    /// Changes after this revision; `None`: after now. At least [`Store::compacted`], and no later than now.
    pub after: Option<Revision>,
}

/// A watch: changes without end, in order, each exactly once. Ends with [`StoreError::Lagged`] when the watcher is so
/// slow that what it has not read yet was compacted.
pub type Watch = BoxStream<'static, Result<WatchItem, StoreError>>;

/// What can go wrong.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The revision asked for is gone from the history.
    #[error("revision has been compacted; the oldest readable one is {oldest}")]
    Compacted {
        /// The oldest revision that can still be read.
        oldest: Revision,
    },
    /// The revision asked for does not exist yet.
    #[error("revision {asked} is in the future; the newest is {newest}")]
    Future {
        /// What was asked for.
        asked: Revision,
        /// What there is.
        newest: Revision,
    },
    /// The watcher did not keep up and was cut off.
    #[error("watcher fell behind and was cut off after revision {0}")]
    Lagged(Revision),
    /// No such lease.
    #[error("lease {0} not found")]
    LeaseNotFound(LeaseId),
    /// The disk is full; reads go on, and writes go on once there is room.
    #[error("no space left for the store in {0}; reads go on, and so will writes once there is room")]
    NoSpace(String),
    /// The medium failed.
    #[error("store I/O failed: {0}")]
    Io(std::sync::Arc<std::io::Error>),
    /// The data on disk is damaged.
    #[error("store file {file} is damaged at byte {offset}: {what}; restore a snapshot or remove the data directory")]
    Corrupt {
        /// Which file.
        file: String,
        /// Where.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// The data directory was written by a newer version.
    #[error("the store has format {found}, this version knows up to {known}; use a newer skiff")]
    NewerFormat {
        /// Format found.
        found: u32,
        /// Newest format known.
        known: u32,
    },
    /// Another process holds the data directory.
    #[error("{0} is in use by another skiff; stop that one or choose another --data-dir")]
    InUse(String),
    /// An address or a certificate of the distant store is wrong.
    #[error("etcd endpoint {url:?}: {why}")]
    BadEndpoint {
        /// The endpoint.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// The distant store does not answer (in time).
    #[error("store is unavailable: {0}")]
    Unavailable(String),
    /// The engine has been closed.
    #[error("store is closed")]
    Closed,
    /// Snapshots are the business of the distant store.
    #[error("the state is kept in etcd; take a snapshot there, with `etcdctl snapshot save`")]
    KeptElsewhere,
    /// A transaction against the contract: an empty key, a key written twice, or too large.
    #[error("bad transaction: {0}")]
    BadTransaction(String),
}

/// Revisioned bytes.
///
/// Revisions are total and without gaps: each transaction that writes gets the next one, and so does the end of a lease
/// that had keys. A transaction is seen whole or not at all, by readers, by watchers and after a crash. Reads are
/// linearizable and never show what is not durable yet. After an error other than a refusal of the arguments
/// ([`StoreError::BadTransaction`], [`StoreError::LeaseNotFound`], [`StoreError::NoSpace`]: nothing happened) a write may
/// have happened or not; only reading tells.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// One key. Linearizable when `at` is `None`.
    async fn get(&self, key: &[u8], at: Option<Revision>) -> Result<(Option<KeyValue>, Revision), StoreError>;
    /// Many keys, from one consistent state.
    async fn range(&self, query: RangeQuery) -> Result<RangeResult, StoreError>;
    /// Many keys as they were at `at`, even where compaction has taken that from [`Store::range`]: from the history on
    /// disk, in one pass over it. [`StoreError::Compacted`] tells what is the oldest revision left there.
    async fn range_past(&self, query: RangeQuery) -> Result<RangeResult, StoreError> {
        self.range(query).await
    }
    /// The oldest revision that [`Store::range_past`] reads.
    async fn oldest(&self) -> Result<Revision, StoreError> {
        self.compacted().await
    }
    /// Compare and write; durable when this returns.
    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError>;
    /// Watches from a revision. The first error ends the stream.
    async fn watch(&self, query: WatchQuery) -> Result<Watch, StoreError>;
    /// The newest revision, linearizable.
    async fn revision(&self) -> Result<Revision, StoreError>;
    /// The oldest revision that [`Store::range`] with `at` and [`Store::watch`] still answer for API clients; 0 while
    /// nothing was forgotten.
    async fn compacted(&self) -> Result<Revision, StoreError>;
    /// Asks every watch for a sign of life: each yields, soon, an item at or past the present revision.
    async fn request_progress(&self) -> Result<(), StoreError>;
    /// Forgets what happened before `revision` (API compaction; a history on disk may outlive it). The state at
    /// `revision` itself stays readable. Going back is no error and does nothing.
    async fn compact(&self, revision: Revision) -> Result<(), StoreError>;
    /// The newest revision committed at or before `time` (seconds since 1970), where known; also from the history on
    /// disk.
    async fn revision_at(&self, time: i64) -> Result<Option<Revision>, StoreError>;
    /// When `revision` was committed (seconds since 1970), where known; also from the history on disk.
    async fn time_of(&self, revision: Revision) -> Result<Option<i64>, StoreError>;
    /// Number of keys in a range.
    async fn count(&self, keys: KeyRange) -> Result<usize, StoreError>;
    /// Bytes on the medium (memory engine: bytes of keys and values).
    async fn size(&self) -> Result<u64, StoreError>;
    /// A new lease that ends `ttl` from now unless kept alive.
    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError>;
    /// Starts the lease's time anew; its full time to live.
    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, StoreError>;
    /// Ends a lease now; its keys go.
    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError>;
    /// The whole state as it is now, with `files` (name and content) that go with it; [`crate::snapshot::restore`] makes
    /// a store of it. Stores that are kept elsewhere are saved there.
    async fn snapshot(&self, _files: Vec<(String, Bytes)>) -> Result<crate::Snapshot, StoreError> {
        Err(StoreError::KeptElsewhere)
    }
    /// Finishes running writes and lets go of the medium.
    async fn close(&self) -> Result<(), StoreError>;
}
