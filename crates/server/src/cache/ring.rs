//! The newest events of a resource, for watches that begin in the past.

use std::collections::VecDeque;
use std::sync::Arc;

use skiff_store::Revision;

use super::event::Event;

/// Events kept at most.
const EVENTS: usize = 4_096;
/// Bytes of replaced objects that only the ring keeps alive, at most.
const BYTES: usize = 8 << 20;

/// The newest events.
#[derive(Debug)]
pub(crate) struct Ring {
    events: VecDeque<Arc<Event>>,
    /// All events after this revision are here.
    complete_after: Revision,
    held: usize,
}

/// The revision asked for lies before the oldest event kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooOld {
    /// A watch may begin after this revision.
    pub(crate) oldest: Revision,
}

fn weight(event: &Event) -> usize {
    event.previous().map_or(0, |e| e.object().canonical().len())
}

impl Ring {
    /// Empty; nothing before `revision` will ever be known.
    pub(crate) fn new(revision: Revision) -> Self {
        Self { events: VecDeque::new(), complete_after: revision, held: 0 }
    }

    /// Adds the newest event.
    pub(crate) fn push(&mut self, event: Arc<Event>) {
        self.held += weight(&event);
        self.events.push_back(event);
        while self.events.len() > EVENTS || self.held > BYTES {
            let Some(gone) = self.events.pop_front() else { break };
            self.held -= weight(&gone);
            self.complete_after = gone.revision();
        }
    }

    /// The events after `revision`.
    pub(crate) fn after(&self, revision: Revision) -> Result<Vec<Arc<Event>>, TooOld> {
        if revision < self.complete_after {
            return Err(TooOld { oldest: self.complete_after });
        }
        let from = self.events.partition_point(|e| e.revision() <= revision);
        Ok(self.events.range(from..).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgets_the_oldest_and_says_so() {
        let mut ring = Ring::new(10);
        assert!(ring.after(10).unwrap().is_empty());
        assert_eq!(ring.after(9).unwrap_err(), TooOld { oldest: 10 });
        for revision in 11..=(10 + EVENTS as u64 + 5) {
            ring.push(Arc::new(Event::new(revision, None, None)));
        }
        assert_eq!(ring.after(14).unwrap_err(), TooOld { oldest: 15 });
        assert_eq!(ring.after(15).unwrap().len(), EVENTS);
        assert_eq!(ring.after(10 + EVENTS as u64).unwrap().len(), 5);
    }
}
