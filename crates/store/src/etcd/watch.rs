//! A watch: what a [`Follow`] brings, as far as it is in the range, and signs of progress.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;

use super::Inner;
use super::convert::{pair, unsigned};
use super::follow::Follow;
use crate::contract::{Change, KeyRange, Revision, StoreError, Watch, WatchItem};
use crate::proto::mvccpb::Event;
use crate::proto::mvccpb::event::EventType;

pub(crate) struct Cursor {
    inner: Arc<Inner>,
    keys: KeyRange,
    follow: Follow,
    asked: watch::Receiver<Revision>,
    closed: watch::Receiver<bool>,
    /// Progress is owed once everything up to here has been told.
    owed: Option<Revision>,
}

impl Cursor {
    /// Begins after a revision that is still readable; `now` is the newest one.
    pub(crate) async fn begin(inner: Arc<Inner>, keys: KeyRange, after: Revision, now: Revision) -> Self {
        let (asked, closed) = (inner.asked.subscribe(), inner.closed.subscribe());
        let follow = Follow::begin(inner.link.clone(), after).await;
        Self { inner, keys, follow, asked, closed, owed: Some(now) }
    }

    pub(crate) fn into_stream(self) -> Watch {
        Box::pin(futures::stream::unfold(Some(self), |cursor| async {
            let mut cursor = cursor?;
            let item = cursor.next().await;
            let rest = item.is_ok().then_some(cursor);
            Some((item, rest))
        }))
    }

    async fn next(&mut self) -> Result<WatchItem, StoreError> {
        loop {
            if *self.closed.borrow() {
                return Err(StoreError::Closed);
            }
            let told = self.follow.told();
            if self.owed.take_if(|owed| *owed <= told).is_some() {
                return Ok(WatchItem::Progress(told));
            }
            let events = tokio::select! {
                biased;
                _ = self.closed.changed() => continue,
                Ok(()) = self.asked.changed() => {
                    self.owed = Some(*self.asked.borrow_and_update());
                    continue;
                }
                events = self.follow.next() => events.map_err(|_| StoreError::Lagged(told))?,
            };
            self.inner.seen(self.follow.told());
            let changes: Vec<_> = events.into_iter().filter_map(|event| self.change(event)).collect();
            if !changes.is_empty() {
                return Ok(WatchItem::Changes(changes));
            }
        }
    }

    fn change(&self, event: Event) -> Option<Change> {
        let gone = event.r#type() == EventType::Delete;
        let kv = event.kv.filter(|kv| self.keys.contains(&kv.key))?;
        let trace = self.inner.traces.lock().of(&kv.key, (!gone).then_some(&kv.value));
        let previous = event.prev_kv.map(|kv| pair(kv, None));
        Some(if gone {
            Change::Delete {
                key: Bytes::copy_from_slice(&kv.key),
                revision: unsigned(kv.mod_revision),
                previous,
                trace,
            }
        } else {
            Change::Put { current: pair(kv, trace), previous }
        })
    }
}
