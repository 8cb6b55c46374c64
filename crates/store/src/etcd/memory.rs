//! What etcd does not keep for us: which write belonged to which trace, and when a revision came about.
//!
//! Both are remembered in memory for a while, for what this process has written and seen.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use bytes::Bytes;
use skiff_meta::TraceContext;

use crate::contract::{Revision, Write};

/// How many writes are remembered.
const WRITES: usize = 1024;
/// How many seconds with writes are remembered.
const SECONDS: usize = 3600;

/// Traces of recent writes, by what they wrote: the watch may tell of a write before its writer hears of it.
#[derive(Default)]
pub(crate) struct Traces {
    by_write: HashMap<u64, TraceContext>,
    order: VecDeque<u64>,
}

fn fingerprint(key: &[u8], value: Option<&[u8]>) -> u64 {
    let mut hasher = DefaultHasher::new();
    (key, value).hash(&mut hasher);
    hasher.finish()
}

impl Traces {
    pub(crate) fn note(&mut self, writes: &[Write], trace: TraceContext) {
        for write in writes {
            let write = match write {
                Write::Put { key, value, .. } => fingerprint(key, Some(value)),
                Write::Delete { key } => fingerprint(key, None),
            };
            if self.by_write.insert(write, trace).is_none() {
                self.order.push_back(write);
            }
        }
        while self.order.len() > WRITES {
            self.order.pop_front().map(|oldest| self.by_write.remove(&oldest));
        }
    }

    pub(crate) fn of(&self, key: &Bytes, value: Option<&Bytes>) -> Option<TraceContext> {
        self.by_write.get(&fingerprint(key, value.map(|value| &value[..]))).copied()
    }
}

/// For each second with changes, the newest revision in it.
#[derive(Default)]
pub(crate) struct Times {
    seconds: VecDeque<(i64, Revision)>,
    /// Times of this revision and those before are not known.
    before: Revision,
}

impl Times {
    /// Everything up to `revision` has happened by `second`.
    pub(crate) fn note(&mut self, second: i64, revision: Revision) {
        match self.seconds.back_mut() {
            Some((last, newest)) if *last >= second => *newest = revision.max(*newest),
            Some((_, newest)) if *newest >= revision => {}
            Some(_) => self.seconds.push_back((second, revision)),
            // What was there when watching began is older than that, nobody knows by how much.
            None if self.before == 0 => self.before = revision,
            None if revision > self.before => self.seconds.push_back((second, revision)),
            None => {}
        }
        if self.seconds.len() > SECONDS
            && let Some((_, newest)) = self.seconds.pop_front()
        {
            self.before = newest;
        }
    }

    pub(crate) fn revision_at(&self, second: i64) -> Option<Revision> {
        let after = self.seconds.partition_point(|(at, _)| *at <= second);
        after.checked_sub(1).map(|at| self.seconds[at].1)
    }

    pub(crate) fn time_of(&self, revision: Revision) -> Option<i64> {
        let at = self.seconds.partition_point(|(_, newest)| *newest < revision);
        self.seconds.get(at).filter(|_| revision > self.before).map(|(second, _)| *second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_known_once_seen() {
        let mut times = Times::default();
        for (second, revision) in [(100, 10), (100, 11), (100, 13), (105, 14), (104, 15), (110, 15), (110, 16)] {
            times.note(second, revision);
        }
        for (revision, expected) in
            [(10, None), (11, Some(100)), (13, Some(100)), (15, Some(105)), (16, Some(110)), (17, None)]
        {
            assert_eq!(times.time_of(revision), expected, "of {revision}");
        }
        for (second, expected) in [(99, None), (100, Some(13)), (104, Some(13)), (109, Some(15)), (999, Some(16))] {
            assert_eq!(times.revision_at(second), expected, "at {second}");
        }
    }

    #[test]
    fn old_traces_are_forgotten() {
        let mut traces = Traces::default();
        let trace = |number| TraceContext { trace_id: number, span_id: 1, flags: 0 };
        let write = |number: u128| Write::Put { key: number.to_string().into(), value: "v".into(), lease: 0 };
        for number in 0..2000 {
            traces.note(&[write(number)], trace(number));
        }
        let found = |number: u128| traces.of(&number.to_string().into(), Some(&"v".into()));
        assert_eq!((found(10), found(1999)), (None, Some(trace(1999))));
        assert_eq!(traces.of(&"1999".into(), None), None, "a removal is another write");
    }
}
