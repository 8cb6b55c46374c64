//! Topology: which value of a label each node has, as small numbers.
//!
//! Terms and constraints ask "how many pods are in this node's zone?" for every node. With values numbered per key, that
//! is two array reads.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Node;

use super::NodeIx;

/// The node lacks the label.
pub const NONE: u32 = u32::MAX;
/// The key under which every node is a domain of its own, whatever its labels.
pub const EACH_NODE: KeyIx = 0;

/// A topology key's number.
pub type KeyIx = usize;

/// The values of one label over all nodes.
#[derive(Clone, Debug, Default)]
struct Column {
    key: String,
    values: BTreeMap<String, u32>,
    /// How many nodes have a value; numbers of values nobody has are used again.
    uses: Vec<u32>,
    free: Vec<u32>,
    of: Vec<u32>,
}

impl Column {
    fn take(&mut self, value: &str) -> u32 {
        if let Some(&known) = self.values.get(value) {
            self.uses[known as usize] += 1;
            return known;
        }
        let number = self.free.pop().unwrap_or_else(|| {
            self.uses.push(0);
            (self.uses.len() - 1) as u32
        });
        self.uses[number as usize] = 1;
        self.values.insert(value.to_owned(), number);
        number
    }

    fn give_back(&mut self, value: u32, name: &str) {
        self.uses[value as usize] -= 1;
        if self.uses[value as usize] == 0 {
            self.values.remove(name);
            self.free.push(value);
        }
    }
}

/// All keys anybody has asked for.
#[derive(Clone, Debug)]
pub struct Topology {
    columns: Vec<Column>,
    by_key: BTreeMap<String, KeyIx>,
}

impl Default for Topology {
    fn default() -> Self {
        Self { columns: vec![Column::default()], by_key: BTreeMap::new() }
    }
}

impl Topology {
    /// The value of `key` on a node, or [`NONE`].
    pub fn value(&self, key: KeyIx, node: NodeIx) -> u32 {
        if key == EACH_NODE { node as u32 } else { self.columns[key].of.get(node).copied().unwrap_or(NONE) }
    }

    /// One more than the largest number any value of `key` has had.
    pub fn values(&self, key: KeyIx) -> usize {
        self.columns[key].uses.len()
    }

    /// The number of a key that is known.
    pub fn find(&self, key: &str) -> Option<KeyIx> {
        self.by_key.get(key).copied()
    }

    /// The number of a key; a new one is looked up on all of `nodes`.
    pub fn key<'a>(&mut self, key: &str, nodes: impl Iterator<Item = (NodeIx, &'a Node)>) -> KeyIx {
        if let Some(known) = self.find(key) {
            return known;
        }
        let number = self.columns.len();
        self.columns.push(Column { key: key.to_owned(), ..Column::default() });
        self.by_key.insert(key.to_owned(), number);
        nodes.for_each(|(ix, node)| self.columns[number].set(ix, Some(node), None));
        number
    }

    /// A node is there, has other labels than `old`, or is gone.
    pub fn set(&mut self, ix: NodeIx, node: Option<&Node>, old: Option<&Node>) {
        self.columns[1..].iter_mut().for_each(|column| column.set(ix, node, old));
    }
}

impl Column {
    fn set(&mut self, ix: NodeIx, node: Option<&Node>, old: Option<&Node>) {
        if self.of.len() <= ix {
            self.of.resize(ix + 1, NONE);
        }
        let label = |node: Option<&Node>| node.and_then(|n| n.metadata.labels.as_ref()?.get(&self.key).cloned());
        let (before, now) = (label(old), label(node));
        if let Some(before) = before.filter(|_| self.of[ix] != NONE) {
            self.give_back(self.of[ix], &before);
        }
        self.of[ix] = now.map_or(NONE, |value| self.take(&value));
    }
}
