//! One key of the index: what it is, and what it was as far back as anyone may ask.
//!
//! Almost every key has exactly one version worth keeping, so that case costs one pointer.

use std::sync::Arc;

use bytes::Bytes;

use crate::contract::{KeyValue, Revision};

/// A key with its versions.
pub(crate) enum Slot {
    /// Alive since its only known version.
    One(Arc<KeyValue>),
    /// Anything else.
    Many(Box<Chain>),
}

/// A key's versions, oldest first.
pub(crate) struct Chain {
    key: Bytes,
    versions: Vec<Version>,
}

/// What the key was from `revision` on; `None`: absent.
struct Version {
    revision: Revision,
    value: Option<Arc<KeyValue>>,
}

impl Version {
    fn live(value: Arc<KeyValue>) -> Self {
        Self { revision: value.modified, value: Some(value) }
    }
}

impl Slot {
    pub(crate) fn key(&self) -> &Bytes {
        match self {
            Self::One(value) => &value.key,
            Self::Many(chain) => &chain.key,
        }
    }

    /// The newest version, unless it is an absence.
    pub(crate) fn head(&self) -> Option<&Arc<KeyValue>> {
        match self {
            Self::One(value) => Some(value),
            Self::Many(chain) => chain.versions.last()?.value.as_ref(),
        }
    }

    /// What the key was at `revision`.
    pub(crate) fn at(&self, revision: Revision) -> Option<&Arc<KeyValue>> {
        match self {
            Self::One(value) => (value.modified <= revision).then_some(value),
            Self::Many(chain) => chain.versions.iter().rev().find(|v| v.revision <= revision)?.value.as_ref(),
        }
    }

    pub(crate) fn is_live(&self) -> bool {
        self.head().is_some()
    }

    /// Nothing is known of the key any more.
    pub(crate) fn is_empty(&self) -> bool {
        matches!(self, Self::Many(chain) if chain.versions.is_empty())
    }

    /// Adds a newer version.
    pub(crate) fn push(&mut self, revision: Revision, value: Option<Arc<KeyValue>>) {
        self.chain().versions.push(Version { revision, value });
    }

    /// Forgets the versions that nobody reading at `oldest` or later can see.
    pub(crate) fn trim(&mut self, oldest: Revision) {
        let Self::Many(chain) = self else { return };
        let seen = chain.versions.iter().rposition(|v| v.revision <= oldest);
        let Some(mut first) = seen else { return };
        if chain.versions[first].value.is_none() {
            first += 1;
        }
        chain.versions.drain(..first);
        self.shrink();
    }

    /// Takes back the versions newer than `revision`.
    pub(crate) fn take_back(&mut self, revision: Revision) {
        self.chain().versions.retain(|v| v.revision <= revision);
        self.shrink();
    }

    fn chain(&mut self) -> &mut Chain {
        if let Self::One(value) = self {
            let chain = Chain { key: value.key.clone(), versions: vec![Version::live(value.clone())] };
            *self = Self::Many(Box::new(chain));
        }
        match self {
            Self::Many(chain) => chain,
            Self::One(_) => unreachable!("made a chain just above"),
        }
    }

    fn shrink(&mut self) {
        if let Self::Many(chain) = self
            && let [Version { value: Some(value), .. }] = &chain.versions[..]
        {
            *self = Self::One(value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(modified: Revision) -> Arc<KeyValue> {
        let key = Bytes::from_static(b"k");
        Arc::new(KeyValue { key: key.clone(), value: key, created: 2, modified, version: 1, lease: 0, trace: None })
    }

    fn seen(slot: &Slot, at: Revision) -> Option<Revision> {
        slot.at(at).map(|kv| kv.modified)
    }

    #[test]
    fn versions_come_and_go() {
        let mut slot = Slot::One(value(2));
        slot.push(4, Some(value(4)));
        slot.push(6, None);
        slot.push(8, Some(value(8)));
        let all =
            [(1, None), (2, Some(2)), (3, Some(2)), (5, Some(4)), (6, None), (7, None), (8, Some(8)), (9, Some(8))];
        for (at, expected) in all {
            assert_eq!(seen(&slot, at), expected, "at {at}");
        }
        slot.trim(5);
        assert_eq!((seen(&slot, 5), seen(&slot, 6)), (Some(4), None));
        slot.trim(7);
        assert!(matches!(slot, Slot::One(_)), "the absence is no longer visible to anyone");
        assert_eq!((seen(&slot, 7), seen(&slot, 8)), (None, Some(8)));
        slot.take_back(7);
        assert!(slot.is_empty());
    }

    #[test]
    fn a_trimmed_absence_leaves_nothing() {
        let mut slot = Slot::One(value(2));
        slot.push(3, None);
        assert!(!slot.is_live());
        slot.trim(2);
        assert_eq!(seen(&slot, 2), Some(2));
        slot.trim(3);
        assert!(slot.is_empty());
    }
}
