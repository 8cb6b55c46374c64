//! Counts writes: what a change costs the store is what it costs everybody.

use std::collections::BTreeMap;
use std::fmt;

use futures::StreamExt;
use skiff_store::{Change, KeyRange, Revision, Store, StoreError, WatchItem, WatchQuery};

/// What comes and goes by itself, and is not part of the cost of a change.
const BACKGROUND: [&str; 2] = ["events", "leases"];

/// Revisions by what they wrote: resource, and verb.
#[derive(Clone, Debug, Default)]
pub struct Writes {
    counts: BTreeMap<(String, &'static str), usize>,
}

impl Writes {
    /// Everything written after `revision` until now, but events and leases.
    ///
    /// # Errors
    /// When the store has forgotten so much.
    pub async fn since(store: &dyn Store, revision: Revision) -> Result<Self, StoreError> {
        let keys = KeyRange::prefix("/registry/");
        let mut watch = store.watch(WatchQuery { keys, after: Some(revision) }).await?;
        let mut writes = Self::default();
        while let Some(item) = watch.next().await {
            match item? {
                WatchItem::Changes(changes) => changes.iter().for_each(|change| writes.add(change)),
                WatchItem::Progress(_) => break,
            }
        }
        Ok(writes)
    }

    fn add(&mut self, change: &Change) {
        let (key, verb) = match change {
            Change::Put { current, .. } if current.version == 1 => (&current.key, "create"),
            Change::Put { current, .. } => (&current.key, "update"),
            Change::Delete { key, .. } => (key, "delete"),
        };
        let key = String::from_utf8_lossy(key);
        let resource = key.split('/').nth(2).unwrap_or_default();
        if !BACKGROUND.contains(&resource) {
            *self.counts.entry((resource.to_owned(), verb)).or_default() += 1;
        }
    }

    /// How many.
    pub fn total(&self) -> usize {
        self.counts.values().sum()
    }

    /// How many of one resource (as it stands in keys) with one verb: `create`, `update`, `delete`.
    pub fn of(&self, resource: &str, verb: &'static str) -> usize {
        self.counts.get(&(resource.to_owned(), verb)).copied().unwrap_or_default()
    }
}

impl fmt::Display for Writes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ((resource, verb), count) in &self.counts {
            writeln!(f, "{count:6} {verb} {resource}")?;
        }
        Ok(())
    }
}
