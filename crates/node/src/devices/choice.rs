//! Which devices a container gets. Pure.

use std::collections::BTreeSet;

/// What there is to choose from.
#[derive(Clone, Debug, Default)]
pub(super) struct Choice {
    pub(super) healthy: BTreeSet<String>,
    /// What pods have.
    pub(super) taken: BTreeSet<String>,
    /// What this pod has and its next containers may have as well.
    pub(super) reusable: BTreeSet<String>,
    /// What the plugin would choose.
    pub(super) preferred: BTreeSet<String>,
}

/// Why there is no choice.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Lack {
    Unhealthy,
    TooFew { there: usize },
}

impl Choice {
    /// What must be among the devices: those that the pod has already.
    pub(super) fn must_include(&self) -> BTreeSet<String> {
        self.reusable.intersection(&self.healthy).cloned().collect()
    }

    /// What may be.
    pub(super) fn available(&self) -> BTreeSet<String> {
        let free = self.healthy.difference(&self.taken).cloned();
        free.chain(self.must_include()).collect()
    }

    /// Whether there is anything to be preferred.
    pub(super) fn is_open(&self, wanted: usize) -> bool {
        wanted > self.must_include().len() && wanted <= self.available().len()
    }

    /// So many of them: the pod's own first, then those that are preferred, then any.
    pub(super) fn made(&self, wanted: usize) -> Result<BTreeSet<String>, Lack> {
        if self.healthy.is_empty() {
            return Err(Lack::Unhealthy);
        }
        let available = self.available();
        if available.len() < wanted {
            return Err(Lack::TooFew { there: available.len() });
        }
        let own = self.must_include();
        let preferred = self.preferred.intersection(&available);
        let mut chosen = BTreeSet::new();
        for id in own.iter().chain(preferred).chain(&available) {
            if chosen.len() < wanted {
                chosen.insert(id.clone());
            }
        }
        Ok(chosen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_chosen() {
        let set = |text: &str| text.split_whitespace().map(str::to_owned).collect::<BTreeSet<_>>();
        for (what, healthy, taken, reusable, preferred, wanted, expected) in [
            ("any", "a b c", "", "", "", 2, Ok("a b")),
            ("what is free", "a b c", "a", "", "", 2, Ok("b c")),
            ("what is preferred", "a b c", "a", "", "c", 1, Ok("c")),
            ("what is preferred but taken", "a b c", "c", "", "c", 1, Ok("a")),
            ("the pod's own first", "a b c", "b", "b", "c", 1, Ok("b")),
            ("the pod's own and one more", "a b c", "b", "b", "c", 2, Ok("b c")),
            ("the pod's own is unwell", "a c", "b", "b", "", 1, Ok("a")),
            ("too few", "a b", "a", "", "", 2, Err(Lack::TooFew { there: 1 })),
            ("none is well", "", "a", "", "", 1, Err(Lack::Unhealthy)),
        ] {
            let choice =
                Choice { healthy: set(healthy), taken: set(taken), reusable: set(reusable), preferred: set(preferred) };
            assert_eq!(choice.made(wanted), expected.map(set), "{what}");
        }
    }
}
