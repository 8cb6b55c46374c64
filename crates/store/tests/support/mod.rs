//! A world whose clock a test turns by hand, and short words for what tests do to a store.
#![allow(dead_code, clippy::expect_used, reason = "each test binary uses its part; a test may")]

pub(crate) mod etcd;

use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use jiff::Timestamp;
use parking_lot::Mutex;
use skiff_meta::world::{Task, World};
use skiff_store::disk::{Disk, FakeDisk};
use skiff_store::{Change, Outcome, Revision, Store, StoreError, Transaction, Watch, WatchItem, Write};

/// When the test's world begins, in seconds since 1970.
pub(crate) const BEGINNING: i64 = 1_000_000;

/// Clock and tasks in the hands of a test. Tasks run while [`TestWorld::run`] does.
#[derive(Default)]
pub(crate) struct TestWorld {
    inner: Arc<Mutex<Inner>>,
    random: AtomicU64,
}

#[derive(Default)]
struct Inner {
    elapsed: Duration,
    sleepers: Vec<Waker>,
    born: Vec<BoxFuture<'static, ()>>,
}

impl TestWorld {
    pub(crate) fn shared() -> Arc<Self> {
        Arc::default()
    }

    pub(crate) fn advance(&self, by: Duration) {
        let sleepers = {
            let mut inner = self.inner.lock();
            inner.elapsed += by;
            std::mem::take(&mut inner.sleepers)
        };
        sleepers.into_iter().for_each(Waker::wake);
    }

    /// Runs `main`, and all tasks as far as they get meanwhile.
    pub(crate) fn run<T>(&self, main: impl Future<Output = T>) -> T {
        let mut main = std::pin::pin!(main);
        let mut tasks = FuturesUnordered::new();
        futures::executor::block_on(poll_fn(move |cx| {
            loop {
                tasks.extend(std::mem::take(&mut self.inner.lock().born));
                while let Poll::Ready(Some(())) = tasks.poll_next_unpin(cx) {}
                if let Poll::Ready(output) = main.as_mut().poll(cx) {
                    return Poll::Ready(output);
                }
                if self.inner.lock().born.is_empty() {
                    return Poll::Pending;
                }
            }
        }))
    }
}

impl World for TestWorld {
    fn now(&self) -> Timestamp {
        let start = Timestamp::from_second(BEGINNING).expect("a time");
        start + self.inner.lock().elapsed
    }
    fn elapsed(&self) -> Duration {
        self.inner.lock().elapsed
    }
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let inner = self.inner.clone();
        let until = inner.lock().elapsed + duration;
        Box::pin(poll_fn(move |cx| {
            let mut inner = inner.lock();
            if inner.elapsed >= until {
                return Poll::Ready(());
            }
            inner.sleepers.push(cx.waker().clone());
            Poll::Pending
        }))
    }
    fn spawn(&self, _: &'static str, task: BoxFuture<'static, ()>) -> Task {
        self.inner.lock().born.push(task);
        Task::new(|| (), Box::pin(std::future::pending()))
    }
    fn random(&self) -> u64 {
        // Weyl's sequence: different every time, the same in every run.
        self.random.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed).wrapping_mul(0xbf58_476d_1ce4_e5b9)
    }
}

pub(crate) fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Write {
    Write::Put { key: key.into(), value: value.into(), lease: 0 }
}

pub(crate) fn delete(key: impl Into<Bytes>) -> Write {
    Write::Delete { key: key.into() }
}

pub(crate) fn writes(writes: impl IntoIterator<Item = Write>) -> Transaction {
    Transaction { writes: writes.into_iter().collect(), ..Transaction::default() }
}

/// Commits what must succeed.
pub(crate) async fn commit(store: &dyn Store, transaction: Transaction) -> Revision {
    match store.commit(transaction).await {
        Ok(Outcome::Committed(revision)) => revision,
        other => panic!("should have been committed: {other:?}"),
    }
}

/// The value of a key, which must be read without error.
pub(crate) async fn value(store: &dyn Store, key: &str, at: Option<Revision>) -> Option<Bytes> {
    let (found, _) = store.get(key.as_bytes(), at).await.expect("a readable revision");
    found.map(|kv| kv.value)
}

/// Revision, key and new value of a change.
pub(crate) fn essence(change: &Change) -> (Revision, Bytes, Option<Bytes>) {
    match change {
        Change::Put { current, .. } => (current.modified, current.key.clone(), Some(current.value.clone())),
        Change::Delete { key, revision, .. } => (*revision, key.clone(), None),
    }
}

/// Reads a watch up to `revision`, asking for progress where nothing changes.
pub(crate) async fn changes_until(
    store: &dyn Store,
    watch: &mut Watch,
    revision: Revision,
) -> Result<Vec<Change>, StoreError> {
    let mut all = Vec::new();
    store.request_progress().await?;
    loop {
        let through = match watch.next().await.expect("a watch has no end")? {
            WatchItem::Changes(changes) => {
                all.extend(changes);
                all.last().map_or(0, |change| essence(change).0)
            }
            WatchItem::Progress(through) => through,
        };
        if through >= revision {
            return Ok(all);
        }
    }
}

/// Heads or tails, the same for the same seed (xorshift).
pub(crate) fn coin(seed: u64) -> impl FnMut() -> bool {
    let mut dice = dice(seed);
    move || dice(2) == 0
}

/// Numbers below a bound, the same for the same seed.
pub(crate) fn dice(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed | 1;
    move |bound| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 16) % bound
    }
}

/// Another disk with the same files.
pub(crate) fn copy(disk: &FakeDisk) -> FakeDisk {
    let copy = FakeDisk::default();
    for name in disk.list().expect("a list") {
        let bytes = disk.edit(&name, |bytes| bytes.clone()).expect("a listed file");
        copy.create(&name).expect("room");
        copy.edit(&name, |to| *to = bytes);
    }
    copy
}
