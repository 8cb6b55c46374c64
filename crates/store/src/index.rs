//! All keys in order, each with its versions.
//!
//! A list of blocks of at most [`BLOCK`] sorted keys. Compared with a B-tree it is flat (a pointer and a few bytes of
//! outline per key), packs keys that arrive in order fully, and since each block knows how many of its keys are alive,
//! counting a range costs its two outer blocks plus one addition per inner one: `remaining` of a page never walks the
//! rest of the list.

use std::sync::Arc;

use bytes::Bytes;

use crate::contract::{KeyRange, KeyValue, Revision};
use crate::slot::Slot;
use crate::sorted::{Keyed, Sorted};

/// Most keys of a block. An insertion moves half of this many slots of three words on average.
const BLOCK: usize = 512;

/// The sorted keys.
#[derive(Default)]
pub(crate) struct Index {
    /// By their first keys. There are few, and they have less in common: their outline may be long.
    blocks: Sorted<Block, 32>,
}

struct Block {
    /// No key of this block is smaller (except in the first block, which takes all that is smaller).
    first: Bytes,
    /// How many of the keys are alive at the newest revision.
    live: usize,
    slots: Sorted<Slot, 8>,
}

impl Keyed for Block {
    fn sort_key(&self) -> &[u8] {
        &self.first
    }
}

impl Keyed for Slot {
    fn sort_key(&self) -> &[u8] {
        self.key()
    }
}

/// A place: block, and slot in it.
type Place = (usize, usize);

impl Index {
    /// The key's slot, if anything is known of it.
    pub(crate) fn get(&self, key: &[u8]) -> Option<&Slot> {
        let (block, Ok(slot)) = self.locate(key) else { return None };
        self.blocks.get(block)?.slots.get(slot)
    }

    /// The key's newest value.
    pub(crate) fn head(&self, key: &[u8]) -> Option<&Arc<KeyValue>> {
        self.get(key)?.head()
    }

    /// Adds a version made from the one before; returns both.
    pub(crate) fn put(
        &mut self,
        key: Bytes,
        make: impl FnOnce(Bytes, Option<&Arc<KeyValue>>) -> Arc<KeyValue>,
    ) -> (Arc<KeyValue>, Option<Arc<KeyValue>>) {
        match self.locate(&key) {
            (block, Ok(slot)) => {
                let block = &mut self.blocks[block];
                let previous = block.slots[slot].head().cloned();
                let current = make(key, previous.as_ref());
                block.slots[slot].push(current.modified, Some(current.clone()));
                block.live += usize::from(previous.is_none());
                (current, previous)
            }
            (block, Err(slot)) => {
                let current = make(key, None);
                self.insert((block, slot), current.clone());
                (current, None)
            }
        }
    }

    /// Adds an absence; returns what was there.
    pub(crate) fn delete(&mut self, key: &[u8], revision: Revision) -> Option<Arc<KeyValue>> {
        let (block, Ok(slot)) = self.locate(key) else { return None };
        let block = &mut self.blocks[block];
        let previous = block.slots[slot].head().cloned()?;
        block.slots[slot].push(revision, None);
        block.live -= 1;
        Some(previous)
    }

    /// Forgets what nobody reading `key` at `oldest` or later can see.
    pub(crate) fn trim(&mut self, key: &[u8], oldest: Revision) {
        self.edit(key, |slot| slot.trim(oldest));
    }

    /// Takes back what happened to `key` after `revision`.
    pub(crate) fn take_back(&mut self, key: &[u8], revision: Revision) {
        self.edit(key, |slot| slot.take_back(revision));
    }

    /// How many keys of the range are alive at the newest revision.
    pub(crate) fn count(&self, keys: &KeyRange) -> usize {
        let (first, from) = self.place(&keys.start);
        let (last, to) = if keys.end.is_empty() { (self.blocks.len(), 0) } else { self.place(&keys.end) };
        let live = |slots: &[Slot]| slots.iter().filter(|slot| slot.is_live()).count();
        if (first, from) >= (last, to) {
            return 0;
        }
        if first == last {
            return live(&self.blocks[first].slots[from..to]);
        }
        let inner: usize = self.blocks[first + 1..last].iter().map(|block| block.live).sum();
        let head = live(&self.blocks[first].slots[from..]);
        head + inner + self.blocks.get(last).map_or(0, |block| live(&block.slots[..to]))
    }

    /// All slots of the range, in order.
    pub(crate) fn range<'a>(&'a self, keys: &'a KeyRange) -> impl Iterator<Item = &'a Slot> {
        let (block, slot) = self.place(&keys.start);
        let outer = self.blocks.get(block).map_or(&[][..], |block| &block.slots[slot..]).iter();
        let rest = self.blocks.iter().skip(block + 1).flat_map(|block| &*block.slots);
        outer.chain(rest).take_while(|slot| keys.end.is_empty() || slot.key() < &keys.end)
    }

    /// Block of the key, and its slot there, or the slot where it belongs.
    fn locate(&self, key: &[u8]) -> (usize, Result<usize, usize>) {
        let block = self.blocks.find(key).unwrap_or_else(|next| next.saturating_sub(1));
        (block, self.blocks.get(block).map_or(Err(0), |block| block.slots.find(key)))
    }

    /// Where the first key at or after `key` is, or would be.
    fn place(&self, key: &[u8]) -> Place {
        let (block, found) = self.locate(key);
        (block, found.unwrap_or_else(|slot| slot))
    }

    fn insert(&mut self, (mut at, mut slot): Place, value: Arc<KeyValue>) {
        if self.blocks.is_empty() {
            self.blocks.insert(0, Block { first: value.key.clone(), live: 0, slots: Sorted::default() });
        } else if self.blocks[at].slots.len() == BLOCK {
            let mut block = self.blocks.remove(at);
            // Keys that arrive in order leave full blocks behind; others split evenly.
            let in_order = at == self.blocks.len() && slot == BLOCK;
            let keep = if in_order { BLOCK } else { BLOCK / 2 };
            let slots = block.slots.split_off(keep);
            let live = slots.iter().filter(|slot| slot.is_live()).count();
            block.live -= live;
            // The first block has taken what was smaller; for blocks to be in order it has to tell its true first key.
            block.first = block.slots[0].key().clone();
            let first = slots.first().map_or(&value.key, Slot::key).clone();
            self.blocks.insert(at, block);
            self.blocks.insert(at + 1, Block { first, live, slots });
            if in_order || slot > keep {
                (at, slot) = (at + 1, slot - keep);
            }
        }
        let block = &mut self.blocks[at];
        block.slots.insert(slot, Slot::One(value));
        block.live += 1;
    }

    fn edit(&mut self, key: &[u8], change: impl FnOnce(&mut Slot)) {
        let (at, Ok(slot)) = self.locate(key) else { return };
        let block = &mut self.blocks[at];
        block.live -= usize::from(block.slots[slot].is_live());
        change(&mut block.slots[slot]);
        block.live += usize::from(block.slots[slot].is_live());
        if block.slots[slot].is_empty() {
            block.slots.remove(slot);
            self.shrink(at);
        }
    }

    /// Keeps blocks from becoming many and small.
    fn shrink(&mut self, at: usize) {
        let size = self.blocks[at].slots.len();
        if size == 0 {
            self.blocks.remove(at);
        } else if size < BLOCK / 8
            && let Some(next) = self.blocks.get(at + 1)
            && size + next.slots.len() <= BLOCK / 2
        {
            let next = self.blocks.remove(at + 1);
            self.blocks[at].live += next.live;
            self.blocks[at].slots.append(next.slots);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn value(key: &[u8], modified: Revision) -> Arc<KeyValue> {
        let key = Bytes::copy_from_slice(key);
        Arc::new(KeyValue { key, value: Bytes::new(), created: 2, modified, version: 1, lease: 0, trace: None })
    }

    fn check(index: &Index, model: &BTreeMap<Vec<u8>, Revision>) {
        assert!(index.blocks.is_sorted_by(|a, b| a.first < b.first));
        for block in &*index.blocks {
            assert_eq!(block.live, block.slots.iter().filter(|slot| slot.is_live()).count());
            assert!(!block.slots.is_empty() && block.slots.len() <= BLOCK);
        }
        let bounds: [&[u8]; 6] = [b"", b"00100", b"00101x", b"00899", b"02000", b"zz"];
        for start in bounds {
            for end in bounds {
                let keys = KeyRange { start: Bytes::from_static(start), end: Bytes::from_static(end) };
                let expected: Vec<_> = model.iter().filter(|(key, _)| keys.contains(key)).collect();
                assert_eq!(index.count(&keys), expected.len(), "{keys:?}");
                let found: Vec<_> = index.range(&keys).filter_map(|slot| slot.head()).collect();
                assert_eq!(found.len(), expected.len(), "{keys:?}");
                assert!(found.iter().zip(expected).all(|(kv, (key, at))| kv.key == *key && kv.modified == *at));
            }
        }
    }

    /// Writes and deletes in an order that is neither sorted nor random, and compares with a map on the way.
    #[test]
    fn agrees_with_a_map() {
        let (mut index, mut model) = (Index::default(), BTreeMap::new());
        for step in 0..6000_u64 {
            let key = format!("{:05}", (step * 7919) % 3001).into_bytes();
            let revision = step + 2;
            if step % 3 == 2 {
                assert_eq!(index.delete(&key, revision).is_some(), model.remove(&key).is_some());
                index.trim(&key, revision);
            } else {
                index.put(key.clone().into(), |key, _| value(&key, revision));
                model.insert(key, revision);
            }
            if step % 500 == 0 {
                check(&index, &model);
            }
        }
        check(&index, &model);
        for (key, revision) in std::mem::take(&mut model) {
            index.take_back(&key, 0);
            assert!(index.get(&key).is_none(), "{revision}");
        }
        assert!(index.blocks.is_empty());
    }

    /// The first block takes what is smaller than all before, and what made it may be gone when it splits.
    #[test]
    fn keys_in_descending_order_and_a_first_key_that_goes() {
        let (mut index, mut model) = (Index::default(), BTreeMap::new());
        let descending = (0..2000).rev().map(|step| format!("{step:05}"));
        let ascending = (2000..4000).map(|step| format!("{step:05}"));
        for key in ["z".to_owned()].into_iter().chain(descending).chain(ascending).map(String::into_bytes) {
            index.put(key.clone().into(), |key, _| value(&key, 2));
            model.insert(key, 2);
            if model.len() == BLOCK {
                index.take_back(b"z", 0);
                model.remove(&b"z"[..]);
            }
            if model.len() % 100 == 0 {
                check(&index, &model);
            }
        }
        assert!(model.keys().all(|key| index.get(key).is_some()));
        check(&index, &model);
    }

    #[test]
    fn keys_in_order_fill_their_blocks() {
        let mut index = Index::default();
        for step in 0..5120_u64 {
            let key = format!("{step:05}").into_bytes();
            index.put(key.into(), |key, _| value(&key, step));
        }
        assert_eq!(index.blocks.len(), 10);
    }
}
