//! Sets of completion indexes, written as `0,2-5,7`.

use std::collections::BTreeSet;
use std::fmt;

/// A set of indexes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Indexes(BTreeSet<i32>);

impl Indexes {
    /// Reads the indexes below `limit`; what cannot be read is left out.
    pub(crate) fn parse(text: &str, limit: i32) -> Self {
        let interval = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last): (i32, i32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
            Some(first.max(0)..=last.min(limit - 1))
        };
        Self(text.split(',').filter_map(interval).flatten().collect())
    }

    pub(crate) fn insert(&mut self, index: i32) {
        self.0.insert(index);
    }

    pub(crate) fn contains(&self, index: i32) -> bool {
        self.0.contains(&index)
    }

    /// With all of `other`.
    pub(crate) fn with(mut self, other: impl IntoIterator<Item = i32>) -> Self {
        self.0.extend(other);
        self
    }

    /// Those below `limit` that are not here, in order.
    pub(crate) fn missing(&self, limit: i32) -> impl Iterator<Item = i32> {
        (0..limit).filter(|index| !self.0.contains(index))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = i32> {
        self.0.iter().copied()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// How many of `other` are here.
    pub(crate) fn common(&self, other: &Self) -> usize {
        self.0.intersection(&other.0).count()
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.iter().copied().peekable();
        let mut comma = "";
        while let Some(first) = rest.next() {
            let mut last = first;
            while rest.next_if_eq(&(last + 1)).is_some() {
                last += 1;
            }
            match last - first {
                0 => write!(f, "{comma}{first}")?,
                // Two neighbours are listed, as upstream does.
                1 => write!(f, "{comma}{first},{last}")?,
                _ => write!(f, "{comma}{first}-{last}")?,
            }
            comma = ",";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        for text in ["", "0", "0,2-5,7", "1,2", "3-9"] {
            assert_eq!(Indexes::parse(text, 10).to_string(), text);
        }
        assert_eq!(Indexes::parse("0-99,x,5-", 3).to_string(), "0-2");
        assert_eq!(Indexes::parse("1,3", 10).with([4]).missing(6).collect::<Vec<_>>(), [0, 2, 5]);
        assert_eq!(Indexes::parse("0-4", 10).common(&Indexes::parse("3-9", 10)), 2);
    }
}
