//! An ordered map whose snapshots cost nothing.
//!
//! A LIST of everything must see one moment, and must not keep writers waiting while it is sent. So entries lie in
//! sorted chunks behind `Arc`s: a snapshot shares all of them, and a writer copies only the chunk it changes (and the
//! list of chunks, one pointer per [`CHUNK`] entries, when a snapshot still holds it).

use std::sync::Arc;

/// Entries per chunk at most; a full chunk is halved.
const CHUNK: usize = 128;

/// What lies in a [`Sorted`].
pub(crate) trait Keyed {
    /// The unique key entries are ordered by.
    fn key(&self) -> &str;
}

type Chunk<V> = Arc<Vec<Arc<V>>>;

/// The map; cloning it is a snapshot.
#[derive(Debug)]
pub(crate) struct Sorted<V> {
    chunks: Arc<Vec<Chunk<V>>>,
    len: usize,
}

impl<V> Clone for Sorted<V> {
    fn clone(&self) -> Self {
        Self { chunks: self.chunks.clone(), len: self.len }
    }
}

impl<V> Default for Sorted<V> {
    fn default() -> Self {
        Self { chunks: Arc::default(), len: 0 }
    }
}

/// A place between entries: chunk, and index in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place(usize, usize);

impl<V: Keyed> Sorted<V> {
    /// From entries in ascending order of their keys.
    pub(crate) fn from_sorted(entries: impl IntoIterator<Item = Arc<V>>) -> Self {
        let mut chunks: Vec<Chunk<V>> = Vec::new();
        let mut chunk = Vec::new();
        let mut len = 0;
        for entry in entries {
            len += 1;
            chunk.push(entry);
            // Leave room, so that the first inserts need not split.
            if chunk.len() == CHUNK * 3 / 4 {
                chunks.push(Arc::new(std::mem::take(&mut chunk)));
            }
        }
        if !chunk.is_empty() {
            chunks.push(Arc::new(chunk));
        }
        Self { chunks: Arc::new(chunks), len }
    }

    /// Number of entries.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The chunk that holds `key`, or would.
    fn chunk_for(&self, key: &str) -> usize {
        self.chunks.partition_point(|c| c.first().is_some_and(|e| e.key() <= key)).saturating_sub(1)
    }

    /// The entry with this key.
    pub(crate) fn get(&self, key: &str) -> Option<&Arc<V>> {
        let chunk = self.chunks.get(self.chunk_for(key))?;
        chunk.binary_search_by(|e| e.key().cmp(key)).ok().and_then(|i| chunk.get(i))
    }

    /// Puts an entry in; returns the one it replaces.
    pub(crate) fn insert(&mut self, entry: Arc<V>) -> Option<Arc<V>> {
        let at = self.chunk_for(entry.key());
        let chunks = Arc::make_mut(&mut self.chunks);
        let Some(shared) = chunks.get_mut(at) else {
            chunks.push(Arc::new(vec![entry]));
            self.len = 1;
            return None;
        };
        let chunk = Arc::make_mut(shared);
        match chunk.binary_search_by(|e| e.key().cmp(entry.key())) {
            Ok(found) => Some(std::mem::replace(&mut chunk[found], entry)),
            Err(gap) => {
                chunk.insert(gap, entry);
                self.len += 1;
                if chunk.len() > CHUNK {
                    // Names often rise (generated in order); a split at the end keeps such chunks full.
                    let middle = if gap + 1 == chunk.len() { CHUNK } else { CHUNK / 2 };
                    let upper = chunk.split_off(middle);
                    chunks.insert(at + 1, Arc::new(upper));
                }
                None
            }
        }
    }

    /// Takes an entry out.
    pub(crate) fn remove(&mut self, key: &str) -> Option<Arc<V>> {
        let at = self.chunk_for(key);
        let found = self.chunks.get(at)?.binary_search_by(|e| e.key().cmp(key)).ok()?;
        let chunks = Arc::make_mut(&mut self.chunks);
        let chunk = Arc::make_mut(chunks.get_mut(at)?);
        let gone = chunk.remove(found);
        if chunk.is_empty() {
            chunks.remove(at);
        }
        self.len -= 1;
        Some(gone)
    }

    /// The place before the first entry whose key is not less than `key`.
    pub(crate) fn place(&self, key: &str) -> Place {
        let at = self.chunk_for(key);
        match self.chunks.get(at) {
            None => Place(at, 0),
            Some(chunk) => Place(at, chunk.partition_point(|e| e.key() < key)),
        }
    }

    /// The place after the last entry.
    pub(crate) fn end(&self) -> Place {
        Place(self.chunks.len(), 0)
    }

    /// Number of entries between two places.
    pub(crate) fn distance(&self, from: Place, to: Place) -> usize {
        let before = |p: Place| self.chunks.iter().take(p.0).map(|c| c.len()).sum::<usize>() + p.1;
        before(to).saturating_sub(before(from))
    }

    /// The entry after the place `at`, which moves on; `None` at `to`.
    pub(crate) fn step(&self, at: &mut Place, to: Place) -> Option<&Arc<V>> {
        while *at < to {
            match self.chunks.get(at.0)?.get(at.1) {
                Some(entry) => {
                    at.1 += 1;
                    return Some(entry);
                }
                None => *at = Place(at.0 + 1, 0),
            }
        }
        None
    }

    /// Entries from one place to another, in order.
    pub(crate) fn range(&self, from: Place, to: Place) -> impl Iterator<Item = &Arc<V>> {
        let mut at = from;
        std::iter::from_fn(move || self.step(&mut at, to))
    }

    /// All entries in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<V>> {
        self.chunks.iter().flat_map(|c| c.iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[derive(Debug, PartialEq)]
    struct E(String, u32);
    impl Keyed for E {
        fn key(&self) -> &str {
            &self.0
        }
    }

    /// A small linear congruential generator: the same sequence at every run.
    fn numbers() -> impl Iterator<Item = u64> {
        let mut state = 7u64;
        std::iter::repeat_with(move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state >> 33
        })
    }

    #[test]
    fn behaves_like_a_btree_map_and_snapshots_stay() {
        let (mut ours, mut model) = (Sorted::<E>::default(), BTreeMap::new());
        let mut rng = numbers();
        let mut next = move || rng.next().unwrap();
        let mut snapshot = None;
        for step in 0..20_000u32 {
            let key = format!("k{}", next() % 3_000);
            if next() % 3 == 0 {
                assert_eq!(ours.remove(&key).map(|e| e.1), model.remove(&key));
            } else {
                let old = ours.insert(Arc::new(E(key.clone(), step)));
                assert_eq!(old.map(|e| e.1), model.insert(key, step));
            }
            if step == 10_000 {
                snapshot = Some((ours.clone(), model.clone()));
            }
        }
        let (old, old_model) = snapshot.unwrap();
        for (map, model) in [(&ours, &model), (&old, &old_model)] {
            assert_eq!(map.len(), model.len());
            assert!(map.iter().map(|e| (&e.0, &e.1)).eq(model.iter()));
            let (from, to) = (map.place("k1"), map.place("k2"));
            let expected: Vec<_> = model.range("k1".to_owned().."k2".to_owned()).map(|(k, _)| k).collect();
            assert_eq!(map.range(from, to).map(|e| &e.0).collect::<Vec<_>>(), expected);
            assert_eq!(map.distance(from, to), expected.len());
            assert_eq!(map.range(map.place("k9999"), map.end()).count(), model.range("k9999".to_owned()..).count());
            for (key, value) in model {
                assert_eq!(map.get(key).map(|e| e.1), Some(*value));
            }
        }
    }

    #[test]
    fn made_from_sorted_entries() {
        let map = Sorted::from_sorted((0..1_000).map(|i| Arc::new(E(format!("{i:04}"), i))));
        assert_eq!(map.len(), 1_000);
        assert_eq!(map.get("0500").map(|e| e.1), Some(500));
        assert_eq!(map.distance(map.place("0100"), map.place("0200")), 100);
        assert_eq!(map.get("x"), None);
    }
}
