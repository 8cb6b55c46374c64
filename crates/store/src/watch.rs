//! Watches: each is a cursor over the shared history, woken only when something in its range has changed.
//!
//! No watcher has a queue of its own, so a slow one costs nothing; it is cut off when compaction overtakes its cursor.
//! A range where nothing happens would be overtaken too, so publishing moves the mark of watchers it does not wake.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::Stream;
use futures::task::AtomicWaker;

use crate::contract::{KeyRange, Revision, StoreError, WatchItem};
use crate::engine::Shared;

/// About how many changes one item brings.
const PAGE: usize = 1024;

/// What publishing and polling share about one watch. All but the waker changes only under the state's lock.
pub(crate) struct Watcher {
    keys: KeyRange,
    waker: AtomicWaker,
    /// There may be changes to read, or the store has closed.
    pending: AtomicBool,
    /// A progress item was asked for.
    progress: AtomicBool,
    /// Nothing in the range changed between the last poll that found nothing and this. Rests while pending.
    quiet: AtomicU64,
}

/// All watchers, by the order of their beginning.
#[derive(Default)]
pub(crate) struct Watchers {
    all: BTreeMap<u64, Arc<Watcher>>,
    next: u64,
}

/// Watchers to wake once the lock is released.
#[must_use]
#[derive(Default)]
pub(crate) struct Wake(Vec<Arc<Watcher>>);

impl Wake {
    pub(crate) fn wake(self) {
        self.0.iter().for_each(|watcher| watcher.waker.wake());
    }
}

impl Watchers {
    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Notes that `keys` (sorted) have changed and everything up to `revision` is visible.
    pub(crate) fn publish(&self, keys: &[Bytes], revision: Revision) -> Wake {
        let mut wake = Wake::default();
        for watcher in self.all.values().filter(|watcher| !watcher.pending.load(Relaxed)) {
            let at = keys.partition_point(|key| *key < watcher.keys.start);
            if keys.get(at).is_some_and(|key| watcher.keys.contains(key)) {
                watcher.pending.store(true, Relaxed);
                wake.0.push(watcher.clone());
            } else {
                watcher.quiet.store(revision, Relaxed);
            }
        }
        wake
    }

    /// Asks all for progress.
    pub(crate) fn request_progress(&self) -> Wake {
        self.mark_all(|watcher| &watcher.progress)
    }

    /// Lets all see that the store has closed.
    pub(crate) fn close(&self) -> Wake {
        self.mark_all(|watcher| &watcher.pending)
    }

    fn mark_all(&self, flag: impl Fn(&Watcher) -> &AtomicBool) -> Wake {
        self.all.values().for_each(|watcher| flag(watcher).store(true, Relaxed));
        Wake(self.all.values().cloned().collect())
    }
}

/// One watch.
pub(crate) struct WatchStream {
    shared: Arc<Shared>,
    watcher: Arc<Watcher>,
    id: u64,
    /// Everything up to here has been told.
    told: Revision,
    ended: bool,
}

impl WatchStream {
    /// Begins after a revision that is still readable; `now` is the newest visible one.
    pub(crate) fn begin(
        shared: &Arc<Shared>,
        watchers: &mut Watchers,
        keys: KeyRange,
        after: Revision,
        now: Revision,
    ) -> Self {
        let watcher = Arc::new(Watcher {
            keys,
            waker: AtomicWaker::new(),
            pending: AtomicBool::new(after < now),
            progress: AtomicBool::new(true),
            quiet: AtomicU64::new(0),
        });
        let id = watchers.next;
        watchers.next += 1;
        watchers.all.insert(id, watcher.clone());
        Self { shared: shared.clone(), watcher, id, told: after, ended: false }
    }

    /// The next item, if there is one now.
    fn next_item(&mut self) -> Option<Result<WatchItem, StoreError>> {
        let watcher = &self.watcher;
        loop {
            let state = self.shared.state.read();
            if state.closed {
                return Some(Err(StoreError::Closed));
            }
            self.told = self.told.max(watcher.quiet.load(Relaxed));
            if watcher.pending.load(Relaxed) {
                if self.told < state.core.compacted() {
                    return Some(Err(StoreError::Lagged(self.told)));
                }
                let page = state.core.changes(&watcher.keys, self.told, PAGE);
                self.told = page.through;
                watcher.pending.store(self.told < state.core.published(), Relaxed);
                if !page.changes.is_empty() {
                    return Some(Ok(WatchItem::Changes(page.changes)));
                }
            } else {
                return watcher.progress.swap(false, Relaxed).then_some(Ok(WatchItem::Progress(self.told)));
            }
        }
    }
}

impl Stream for WatchStream {
    type Item = Result<WatchItem, StoreError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        self.watcher.waker.register(cx.waker());
        if !self.watcher.pending.load(Relaxed) && !self.watcher.progress.load(Relaxed) {
            return Poll::Pending;
        }
        match self.next_item() {
            Some(item) => {
                self.ended = item.is_err();
                Poll::Ready(Some(item))
            }
            None => Poll::Pending,
        }
    }
}

impl Drop for WatchStream {
    fn drop(&mut self) {
        self.shared.state.write().watchers.all.remove(&self.id);
    }
}
