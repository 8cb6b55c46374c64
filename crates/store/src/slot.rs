//! One key of the index: what it is, and what it was as far back as anyone may ask.
//!
//! Almost every key has exactly one version worth keeping, so that case costs one pointer.

use std::collections::VecDeque;
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

/// A key's versions, oldest first. A busy key has very many, of which the oldest go one by one.
pub(crate) struct Chain {
    key: Bytes,
    versions: VecDeque<Version>,
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
            Self::Many(chain) => chain.versions.back()?.value.as_ref(),
        }
    }

    /// What the key was at `revision`.
    pub(crate) fn at(&self, revision: Revision) -> Option<&Arc<KeyValue>> {
        match self {
            Self::One(value) => (value.modified <= revision).then_some(value),
            Self::Many(chain) => {
                let newer = chain.versions.partition_point(|v| v.revision <= revision);
                chain.versions.get(newer.checked_sub(1)?)?.value.as_ref()
            }
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
        self.chain().versions.push_back(Version { revision, value });
    }

    /// Forgets the versions that nobody reading at `oldest` or later can see.
    pub(crate) fn trim(&mut self, oldest: Revision) {
        let Self::Many(chain) = self else { return };
        while chain.versions.get(1).is_some_and(|second| second.revision <= oldest) {
            chain.versions.pop_front();
        }
        chain.versions.pop_front_if(|first| first.revision <= oldest && first.value.is_none());
        self.shrink();
    }

    /// Takes back the versions newer than `revision`.
    pub(crate) fn take_back(&mut self, revision: Revision) {
        let versions = &mut self.chain().versions;
        while versions.pop_back_if(|v| v.revision > revision).is_some() {}
        self.shrink();
    }

    fn chain(&mut self) -> &mut Chain {
        if let Self::One(value) = self {
            let chain = Chain { key: value.key.clone(), versions: VecDeque::from([Version::live(value.clone())]) };
            *self = Self::Many(Box::new(chain));
        }
        match self {
            Self::Many(chain) => chain,
            Self::One(_) => unreachable!("made a chain just above"),
        }
    }

    fn shrink(&mut self) {
        if let Self::Many(chain) = self
            && chain.versions.len() == 1
            && let Some(value) = chain.versions[0].value.take()
        {
            *self = Self::One(value);
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
