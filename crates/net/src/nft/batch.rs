//! What changes in a table, in the one order in which nftables takes it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::Family;

use super::table::{Set, element, write_elements};

/// A change set. Printed as a script; applied by the kernel as one transaction.
///
/// Elements go first since they refer to chains; chains come before rules that jump to them; chains and sets go last,
/// when nothing refers to them any more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The table's family.
    pub family: Family,
    /// The table.
    pub table: String,
    /// Keys to remove, by set.
    pub removed_elements: BTreeMap<String, BTreeSet<String>>,
    /// New sets.
    pub added_sets: BTreeMap<String, Set>,
    /// New chains, to be filled by `rules`.
    pub added_chains: BTreeSet<String>,
    /// Chains whose rules become these: new ones, and old ones that are emptied first.
    pub rules: BTreeMap<String, Vec<String>>,
    /// Elements to add, by set.
    pub added_elements: BTreeMap<String, BTreeMap<String, String>>,
    /// Chains to remove.
    pub removed_chains: BTreeSet<String>,
    /// Sets to remove.
    pub removed_sets: BTreeSet<String>,
}

impl Batch {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        let Self { family: _, table: _, removed_elements, added_sets, added_chains, rules, added_elements, .. } = self;
        removed_elements.is_empty()
            && added_sets.is_empty()
            && added_chains.is_empty()
            && rules.is_empty()
            && added_elements.is_empty()
            && self.removed_chains.is_empty()
            && self.removed_sets.is_empty()
    }
}

impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = &format!("{} {}", self.family.word(), self.table);
        for (set, keys) in &self.removed_elements {
            write_elements(f, "delete", table, set, keys.iter().cloned())?;
        }
        for (name, set) in &self.added_sets {
            writeln!(f, "add {} {table} {name} {{ {} }}", set.keyword, set.spec)?;
        }
        for chain in &self.added_chains {
            writeln!(f, "add chain {table} {chain}")?;
        }
        let emptied = self.rules.keys().filter(|chain| !self.added_chains.contains(*chain));
        for chain in emptied.chain(&self.removed_chains) {
            writeln!(f, "flush chain {table} {chain}")?;
        }
        for (chain, rule) in self.rules.iter().flat_map(|(chain, rules)| rules.iter().map(move |rule| (chain, rule))) {
            writeln!(f, "add rule {table} {chain} {rule}")?;
        }
        for (set, elements) in &self.added_elements {
            write_elements(f, "add", table, set, elements.iter().map(|(key, value)| element(key, value)))?;
        }
        for chain in &self.removed_chains {
            writeln!(f, "delete chain {table} {chain}")?;
        }
        for set in &self.removed_sets {
            writeln!(f, "delete set {table} {set}")?;
        }
        Ok(())
    }
}
