//! What happened lately, in order: the source of every watch, and the list of what compaction has to look at.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use skiff_meta::TraceContext;

use crate::contract::{Change, KeyRange, KeyValue, Revision};

/// Bytes an event costs beside the value it keeps from being freed.
const OVERHEAD: usize = 256;

/// One change. Values are shared with the index.
pub(crate) enum Event {
    Put { current: Arc<KeyValue>, previous: Option<Arc<KeyValue>> },
    Delete { revision: Revision, previous: Arc<KeyValue>, trace: Option<Box<TraceContext>> },
}

impl Event {
    pub(crate) fn revision(&self) -> Revision {
        match self {
            Self::Put { current, .. } => current.modified,
            Self::Delete { revision, .. } => *revision,
        }
    }

    pub(crate) fn key(&self) -> &Bytes {
        match self {
            Self::Put { current, .. } => &current.key,
            Self::Delete { previous, .. } => &previous.key,
        }
    }

    pub(crate) fn previous(&self) -> Option<&Arc<KeyValue>> {
        match self {
            Self::Put { previous, .. } => previous.as_ref(),
            Self::Delete { previous, .. } => Some(previous),
        }
    }

    /// By how many it changes the number of keys.
    pub(crate) fn growth(&self) -> isize {
        match self {
            Self::Put { previous: None, .. } => 1,
            Self::Put { .. } => 0,
            Self::Delete { .. } => -1,
        }
    }

    fn weight(&self) -> usize {
        OVERHEAD + self.previous().map_or(0, |kv| kv.value.len())
    }

    fn change(&self) -> Change {
        let owned = |kv: &Arc<KeyValue>| KeyValue::clone(kv);
        match self {
            Self::Put { current, previous } => {
                Change::Put { current: owned(current), previous: previous.as_ref().map(owned) }
            }
            Self::Delete { revision, previous, trace } => Change::Delete {
                key: previous.key.clone(),
                revision: *revision,
                previous: Some(owned(previous)),
                trace: trace.as_deref().copied(),
            },
        }
    }
}

/// Changes for one watcher, and how far it has read with them.
pub(crate) struct Page {
    pub(crate) changes: Vec<Change>,
    pub(crate) through: Revision,
}

/// Events in order of their revisions.
#[derive(Default)]
pub(crate) struct History {
    events: VecDeque<Event>,
    weight: usize,
}

impl History {
    pub(crate) fn push(&mut self, event: Event) {
        self.weight += event.weight();
        self.events.push_back(event);
    }

    pub(crate) fn front(&self) -> Option<&Event> {
        self.events.front()
    }

    pub(crate) fn pop_front(&mut self) -> Option<Event> {
        let event = self.events.pop_front()?;
        self.weight -= event.weight();
        Some(event)
    }

    /// Takes the newest event if it is newer than `revision`.
    pub(crate) fn pop_after(&mut self, revision: Revision) -> Option<Event> {
        let event = self.events.pop_back_if(|event| event.revision() > revision)?;
        self.weight -= event.weight();
        Some(event)
    }

    /// Roughly, the bytes kept alive.
    pub(crate) fn weight(&self) -> usize {
        self.weight
    }

    /// The events after `revision`.
    pub(crate) fn after(&self, revision: Revision) -> impl ExactSizeIterator<Item = &Event> {
        let start = self.events.partition_point(|event| event.revision() <= revision);
        self.events.range(start..)
    }

    /// Changes to `keys` with `after < revision <= until`: about `limit` of them, and no more than a few thousand events
    /// looked at, but always whole revisions.
    pub(crate) fn page(&self, keys: &KeyRange, after: Revision, until: Revision, limit: usize) -> Page {
        let mut page = Page { changes: Vec::new(), through: after };
        for (looked_at, event) in self.after(after).enumerate() {
            let revision = event.revision();
            if revision > until {
                break;
            }
            if revision > page.through && (page.changes.len() >= limit || looked_at >= limit * 16) {
                return page;
            }
            page.through = revision;
            if keys.contains(event.key()) {
                page.changes.push(event.change());
            }
        }
        page.through = until;
        page
    }
}

/// When revisions were committed, to the second.
#[derive(Default)]
pub(crate) struct Times {
    /// A second, and the last revision committed in it.
    seconds: VecDeque<(i64, Revision)>,
}

impl Times {
    /// Remembers a commit. Time never goes back here, whatever the clock does.
    pub(crate) fn note(&mut self, second: i64, revision: Revision) {
        match self.seconds.back_mut() {
            Some((last, newest)) if *last >= second => *newest = revision,
            _ => self.seconds.push_back((second, revision)),
        }
    }

    pub(crate) fn revision_at(&self, second: i64) -> Option<Revision> {
        let after = self.seconds.partition_point(|(at, _)| *at <= second);
        self.seconds.get(after.checked_sub(1)?).map(|(_, revision)| *revision)
    }

    pub(crate) fn time_of(&self, revision: Revision) -> Option<i64> {
        let at = self.seconds.partition_point(|(_, last)| *last < revision);
        self.seconds.get(at).map(|(second, _)| *second)
    }

    /// Forgets the seconds that ended before `oldest`.
    pub(crate) fn trim(&mut self, oldest: Revision) {
        while self.seconds.pop_front_if(|(_, last)| *last < oldest).is_some() {}
    }

    /// Takes back what came after `revision`.
    pub(crate) fn take_back(&mut self, revision: Revision) {
        while let Some((second, last)) = self.seconds.pop_back_if(|(_, last)| *last > revision) {
            let before = self.seconds.back().map_or(0, |(_, last)| *last);
            if before < revision {
                self.seconds.push_back((second, revision.min(last)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_answer_both_ways() {
        let mut times = Times::default();
        for (second, revision) in [(10, 2), (10, 3), (12, 4), (11, 5), (20, 6)] {
            times.note(second, revision);
        }
        for (second, revision) in [(9, None), (10, Some(3)), (11, Some(3)), (12, Some(5)), (19, Some(5)), (99, Some(6))]
        {
            assert_eq!(times.revision_at(second), revision, "at {second}");
        }
        for (revision, second) in [(2, Some(10)), (3, Some(10)), (5, Some(12)), (6, Some(20)), (7, None)] {
            assert_eq!(times.time_of(revision), second, "of {revision}");
        }
        times.take_back(4);
        assert_eq!((times.revision_at(99), times.time_of(5)), (Some(4), None));
        times.trim(4);
        assert_eq!((times.revision_at(10), times.time_of(4)), (None, Some(12)));
    }

    #[test]
    fn pages_never_split_a_revision() {
        let mut history = History::default();
        for revision in 2..6 {
            for key in ["a", "b", "c"] {
                let key = Bytes::from_static(key.as_bytes());
                let value = key.clone();
                let current =
                    KeyValue { key, value, created: 2, modified: revision, version: 1, lease: 0, trace: None };
                history.push(Event::Put { current: Arc::new(current), previous: None });
            }
        }
        let all = KeyRange::prefix("");
        let page = history.page(&all, 2, 5, 4);
        assert_eq!((page.changes.len(), page.through), (6, 4));
        let page = history.page(&KeyRange::one("b"), 1, 4, 100);
        assert_eq!((page.changes.len(), page.through), (3, 4));
    }
}
