//! What changes between two whole tables of one name.

use std::collections::{BTreeMap, BTreeSet};

use super::{Batch, Set, Table};

impl Table {
    /// The change that makes this table `new`. Base chains are what both have; sets that differ in more than their
    /// elements must differ in name.
    pub fn change_to(&self, new: &Self) -> Batch {
        let mut batch = Batch { family: self.family, table: self.name.clone(), ..Batch::default() };
        for (name, set) in &new.sets {
            let old = self.sets.get(name);
            if old.is_none() {
                let empty = Set { elements: BTreeMap::new(), ..set.clone() };
                batch.added_sets.insert(name.clone(), empty);
            }
            let before = old.map(|old| &old.elements);
            let added: BTreeMap<String, String> = set
                .elements
                .iter()
                .filter(|(key, value)| before.and_then(|before| before.get(*key)) != Some(*value))
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect();
            let removed: BTreeSet<String> = before
                .into_iter()
                .flatten()
                .filter(|(key, value)| set.elements.get(*key) != Some(*value))
                .map(|(key, _)| key.clone())
                .collect();
            if !added.is_empty() {
                batch.added_elements.insert(name.clone(), added);
            }
            if !removed.is_empty() {
                batch.removed_elements.insert(name.clone(), removed);
            }
        }
        batch.removed_sets = self.sets.keys().filter(|name| !new.sets.contains_key(*name)).cloned().collect();
        for (name, chain) in &new.chains {
            match self.chains.get(name) {
                Some(old) if old.rules == chain.rules => continue,
                Some(_) => {}
                None => drop(batch.added_chains.insert(name.clone())),
            }
            batch.rules.insert(name.clone(), chain.rules.clone());
        }
        batch.removed_chains = self.chains.keys().filter(|name| !new.chains.contains_key(*name)).cloned().collect();
        batch
    }
}
