//! A store whose values are encrypted, to a server that knows nothing of it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use skiff_store::{
    Change, KeyRange, KeyValue, LeaseId, Outcome, RangeQuery, RangeResult, Revision, Snapshot, Store, StoreError,
    Transaction, Watch, WatchItem, WatchQuery, Write,
};

use super::Keyring;

/// The store behind a keyring. Snapshots, and etcd's face on the same store, show what is stored.
pub(crate) struct Sealed {
    inner: Arc<dyn Store>,
    keys: Arc<Keyring>,
}

impl Sealed {
    /// Puts the keyring before the store.
    pub(crate) fn shared(inner: Arc<dyn Store>, keys: Arc<Keyring>) -> Arc<dyn Store> {
        Arc::new(Self { inner, keys })
    }

    async fn opened(&self, result: RangeResult) -> RangeResult {
        let mut items = Vec::with_capacity(result.items.len());
        for pair in result.items {
            items.push(open(&self.keys, pair).await);
        }
        RangeResult { items, ..result }
    }
}

async fn open(keys: &Keyring, pair: KeyValue) -> KeyValue {
    let value = keys.open(&pair.key, pair.value).await;
    KeyValue { value, ..pair }
}

/// Opens what a change made. What was there before nobody asks for, and is left out.
async fn changed(keys: &Keyring, change: Change) -> Change {
    match change {
        Change::Put { current, .. } => Change::Put { current: open(keys, current).await, previous: None },
        Change::Delete { key, revision, trace, .. } => Change::Delete { key, revision, previous: None, trace },
    }
}

#[async_trait]
impl Store for Sealed {
    async fn get(&self, key: &[u8], at: Option<Revision>) -> Result<(Option<KeyValue>, Revision), StoreError> {
        let (found, revision) = self.inner.get(key, at).await?;
        let found = match found {
            Some(pair) => Some(open(&self.keys, pair).await),
            None => None,
        };
        Ok((found, revision))
    }

    async fn range(&self, query: RangeQuery) -> Result<RangeResult, StoreError> {
        Ok(self.opened(self.inner.range(query).await?).await)
    }

    async fn range_past(&self, query: RangeQuery) -> Result<RangeResult, StoreError> {
        Ok(self.opened(self.inner.range_past(query).await?).await)
    }

    async fn commit(&self, mut transaction: Transaction) -> Result<Outcome, StoreError> {
        for write in &mut transaction.writes {
            if let Write::Put { key, value, .. } = write {
                let plain = std::mem::take(value);
                let sealed = self.keys.seal(key, plain).await;
                *value = sealed.map_err(|error| StoreError::Unavailable(error.to_string()))?;
            }
        }
        match self.inner.commit(transaction).await? {
            Outcome::Refused { revision, current } => {
                let mut opened = Vec::with_capacity(current.len());
                for pair in current {
                    opened.push(match pair {
                        Some(pair) => Some(open(&self.keys, pair).await),
                        None => None,
                    });
                }
                Ok(Outcome::Refused { revision, current: opened })
            }
            committed => Ok(committed),
        }
    }

    async fn watch(&self, query: WatchQuery) -> Result<Watch, StoreError> {
        let keys = self.keys.clone();
        let items = self.inner.watch(query).await?.then(move |item| {
            let keys = keys.clone();
            async move {
                let Ok(WatchItem::Changes(changes)) = item else { return item };
                let mut opened = Vec::with_capacity(changes.len());
                for change in changes {
                    opened.push(changed(&keys, change).await);
                }
                Ok(WatchItem::Changes(opened))
            }
        });
        Ok(items.boxed())
    }

    async fn oldest(&self) -> Result<Revision, StoreError> {
        self.inner.oldest().await
    }
    async fn revision(&self) -> Result<Revision, StoreError> {
        self.inner.revision().await
    }
    async fn compacted(&self) -> Result<Revision, StoreError> {
        self.inner.compacted().await
    }
    async fn request_progress(&self) -> Result<(), StoreError> {
        self.inner.request_progress().await
    }
    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.inner.compact(revision).await
    }
    async fn revision_at(&self, time: i64) -> Result<Option<Revision>, StoreError> {
        self.inner.revision_at(time).await
    }
    async fn time_of(&self, revision: Revision) -> Result<Option<i64>, StoreError> {
        self.inner.time_of(revision).await
    }
    async fn count(&self, keys: KeyRange) -> Result<usize, StoreError> {
        self.inner.count(keys).await
    }
    async fn size(&self) -> Result<u64, StoreError> {
        self.inner.size().await
    }
    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.inner.grant(ttl).await
    }
    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, StoreError> {
        self.inner.keep_alive(lease).await
    }
    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.inner.revoke(lease).await
    }
    async fn snapshot(&self, files: Vec<(String, Bytes)>) -> Result<Snapshot, StoreError> {
        self.inner.snapshot(files).await
    }
    async fn close(&self) -> Result<(), StoreError> {
        self.inner.close().await
    }
}
