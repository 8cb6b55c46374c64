//! The latest of many changes, numbered, for those who follow them.

use std::collections::VecDeque;

/// How many are kept. Whoever is further behind looks at everything.
const KEPT: usize = 1024;

/// The latest of many changes.
#[derive(Clone, Debug)]
pub struct Recent<T> {
    /// The number of the first that is kept.
    first: u64,
    entries: VecDeque<T>,
}

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self { first: 0, entries: VecDeque::new() }
    }
}

impl<T> Recent<T> {
    /// One more change.
    pub fn add(&mut self, entry: T) {
        if self.entries.len() == KEPT {
            self.entries.pop_front();
            self.first += 1;
        }
        self.entries.push_back(entry);
    }

    /// The number of the next change.
    pub fn end(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    /// The changes from this number on; `None`: not all of them are known any more.
    pub fn since(&self, from: u64) -> Option<impl Iterator<Item = &T>> {
        let skipped = from.checked_sub(self.first)?;
        Some(self.entries.iter().skip(skipped as usize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_are_known() {
        let mut recent = Recent::default();
        (0..KEPT as u64 + 3).for_each(|number| recent.add(number));
        let end = recent.end();
        assert_eq!(end, KEPT as u64 + 3);
        let since = |from| recent.since(from).map(|entries| entries.copied().collect::<Vec<_>>());
        assert_eq!(since(end - 2), Some(vec![end - 2, end - 1]));
        assert_eq!(since(end), Some(Vec::new()));
        assert_eq!(since(3).map(|all| all.len()), Some(KEPT));
        assert_eq!(since(2), None);
    }
}
