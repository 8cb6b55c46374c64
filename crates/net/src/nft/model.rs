//! nftables without a kernel: as strict as the kernel is about names, order and references.

use parking_lot::Mutex;

use super::{Batch, Chain, Nft, NftError, Table};

impl Table {
    /// Does what the kernel does with a batch, and panics where the kernel would refuse it.
    pub(crate) fn apply(&mut self, batch: &Batch) {
        for (set, keys) in &batch.removed_elements {
            let elements = &mut self.sets.get_mut(set).expect("set exists").elements;
            for key in keys {
                assert!(elements.remove(key).is_some(), "{key} is not in {set}");
            }
        }
        for (name, set) in &batch.added_sets {
            assert!(self.sets.insert(name.clone(), set.clone()).is_none(), "set {name} exists");
        }
        for name in &batch.added_chains {
            assert!(self.chains.insert(name.clone(), Chain::default()).is_none(), "chain {name} exists");
        }
        for name in &batch.removed_chains {
            self.chains.get_mut(name).expect("chain exists").rules.clear();
        }
        for (name, rules) in &batch.rules {
            self.chains.get_mut(name).expect("chain exists").rules.clone_from(rules);
        }
        for (set, added) in &batch.added_elements {
            let elements = &mut self.sets.get_mut(set).expect("set exists").elements;
            for (key, value) in added {
                assert!(elements.insert(key.clone(), value.clone()).is_none(), "{key} is in {set} already");
            }
        }
        for name in &batch.removed_chains {
            self.chains.remove(name);
        }
        for name in &batch.removed_sets {
            assert!(self.sets.remove(name).is_some(), "set {name} does not exist");
        }
        self.check_references();
    }

    /// Every jump leads to a chain, every lookup to a set.
    pub(crate) fn check_references(&self) {
        let rules = self.chains.values().flat_map(|chain| chain.rules.iter());
        let verdicts = self.sets.values().flat_map(|set| set.elements.values());
        for text in rules.chain(verdicts) {
            let words: Vec<&str> = text.split([' ', ',', '}', '{']).filter(|word| !word.is_empty()).collect();
            for pair in words.windows(2).filter(|pair| matches!(pair[0], "goto" | "jump")) {
                assert!(self.chains.contains_key(pair[1]), "no chain {} for: {text}", pair[1]);
            }
            for set in words.iter().filter_map(|word| word.strip_prefix('@')) {
                assert!(self.sets.contains_key(set), "no set {set} for: {text}");
            }
        }
    }
}

/// Remembers the scripts it was given; fails the next ones on demand.
#[derive(Default)]
pub(crate) struct FakeNft {
    pub(crate) scripts: Mutex<Vec<String>>,
    pub(crate) failures: Mutex<usize>,
}

#[async_trait::async_trait]
impl Nft for FakeNft {
    async fn run(&self, script: String) -> Result<(), NftError> {
        let mut failures = self.failures.lock();
        if *failures > 0 {
            *failures -= 1;
            return Err(NftError::Refused("made to fail".to_owned()));
        }
        self.scripts.lock().push(script);
        Ok(())
    }
}
