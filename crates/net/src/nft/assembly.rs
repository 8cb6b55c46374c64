//! A table made of fragments, one per owner, so that a change costs what changed and not what there is.
//!
//! Chains and sets belong to one owner. Elements may be wanted by several (two Services with one endpoint, or two that
//! claim one address and port): an element stands as long as one owner wants it, with the value of the first owner in
//! order, so that the outcome does not depend on the order in which things were seen.

use std::collections::{BTreeMap, BTreeSet};

use super::batch::Batch;
use super::table::{Chain, Set, Table};

/// What one owner adds to a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fragment {
    /// Its own chains.
    pub chains: BTreeMap<String, Vec<String>>,
    /// Its own sets, filled by packets. The name says all that the spec says: a set cannot change under its name.
    pub sets: BTreeMap<String, Set>,
    /// Elements of shared sets: set and key, and the value (empty for sets).
    pub elements: BTreeMap<(&'static str, String), String>,
}

/// A table under construction; `O` orders the owners.
#[derive(Clone, Debug)]
pub struct Assembly<O> {
    skeleton: Table,
    fragments: BTreeMap<O, Fragment>,
    claims: BTreeMap<(&'static str, String), BTreeMap<O, String>>,
}

impl<O: Ord + Clone> Assembly<O> {
    /// A table with the parts that never change.
    pub fn new(skeleton: Table) -> Self {
        Self { skeleton, fragments: BTreeMap::new(), claims: BTreeMap::new() }
    }

    /// The whole table, for putting it up anew.
    pub fn table(&self) -> Table {
        let mut table = self.skeleton.clone();
        for fragment in self.fragments.values() {
            let chains = fragment.chains.iter();
            table
                .chains
                .extend(chains.map(|(n, rules)| (n.clone(), Chain { hook: String::new(), rules: rules.clone() })));
            table.sets.extend(fragment.sets.clone());
        }
        for ((set, key), claims) in &self.claims {
            if let (Some(set), Some(value)) = (table.sets.get_mut(*set), claims.values().next()) {
                set.elements.insert(key.clone(), value.clone());
            }
        }
        table
    }

    /// What `owner` has in the table.
    pub fn fragment(&self, owner: &O) -> Option<&Fragment> {
        self.fragments.get(owner)
    }

    /// How many owners there are.
    pub fn len(&self) -> usize {
        self.fragments.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.fragments.is_empty()
    }

    /// Replaces the fragments of some owners (`None` removes one) and says what changes in the table.
    pub fn update(&mut self, changes: BTreeMap<O, Option<Fragment>>) -> Batch {
        let Table { family, name, .. } = &self.skeleton;
        let mut batch = Batch { family: *family, table: name.clone(), ..Batch::default() };
        let mut before = BTreeMap::new();
        for (owner, fragment) in changes {
            let new = fragment.unwrap_or_default();
            let old = self.fragments.remove(&owner).unwrap_or_default();
            change_chains(&mut batch, &old, &new);
            change_sets(&mut batch, &old, &new);
            self.change_claims(&mut before, &owner, &old, &new);
            if new != Fragment::default() {
                self.fragments.insert(owner, new);
            }
        }
        for ((set, key), old) in before {
            let new = self.value(&(set, key.clone()));
            if old == new {
                continue;
            }
            if old.is_some() {
                batch.removed_elements.entry(set.to_owned()).or_default().insert(key.clone());
            }
            if let Some(new) = new {
                batch.added_elements.entry(set.to_owned()).or_default().insert(key, new);
            }
        }
        batch
    }

    fn value(&self, element: &(&'static str, String)) -> Option<String> {
        self.claims.get(element).and_then(|claims| claims.values().next()).cloned()
    }

    /// Moves the owner's claims from `old` to `new`, noting each touched element's value before the first touch.
    fn change_claims(
        &mut self,
        before: &mut BTreeMap<(&'static str, String), Option<String>>,
        owner: &O,
        old: &Fragment,
        new: &Fragment,
    ) {
        let touched: BTreeSet<_> = old.elements.keys().chain(new.elements.keys()).collect();
        for element in touched {
            if old.elements.get(element) == new.elements.get(element) {
                continue;
            }
            if !before.contains_key(element) {
                before.insert(element.clone(), self.value(element));
            }
            let claims = self.claims.entry(element.clone()).or_default();
            match new.elements.get(element) {
                Some(value) => claims.insert(owner.clone(), value.clone()),
                None => claims.remove(owner),
            };
            if claims.is_empty() {
                self.claims.remove(element);
            }
        }
    }
}

fn change_chains(batch: &mut Batch, old: &Fragment, new: &Fragment) {
    for (name, rules) in &new.chains {
        match old.chains.get(name) {
            Some(old) if old == rules => continue,
            Some(_) => {}
            None => {
                batch.added_chains.insert(name.clone());
            }
        }
        batch.rules.insert(name.clone(), rules.clone());
    }
    batch.removed_chains.extend(old.chains.keys().filter(|name| !new.chains.contains_key(*name)).cloned());
}

fn change_sets(batch: &mut Batch, old: &Fragment, new: &Fragment) {
    let added = new.sets.iter().filter(|(name, _)| !old.sets.contains_key(*name));
    batch.added_sets.extend(added.map(|(name, set)| (name.clone(), set.clone())));
    batch.removed_sets.extend(old.sets.keys().filter(|name| !new.sets.contains_key(*name)).cloned());
}
