//! One change of one object, encoded once for all who watch it.

use std::sync::{Arc, OnceLock};

use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use skiff_meta::{Object, Status};
use skiff_store::Revision;

use super::entry::Entry;

/// What a watcher is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum EventType {
    /// There, as far as the watcher knows for the first time.
    Added,
    /// Changed.
    Modified,
    /// Gone, or no longer selected.
    Deleted,
}

impl EventType {
    /// `ADDED`, ...
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// Tells apart the encodings of an event that are not plain JSON in the storage version: made up by those who encode.
pub(crate) type FrameKey = u64;

/// Events by `apiVersion`, or why there is none.
pub(crate) type Forms = Vec<(Box<str>, Result<Arc<Event>, Status>)>;

/// One change of one object.
#[derive(Debug)]
pub(crate) struct Event {
    revision: Revision,
    current: Option<Arc<Entry>>,
    previous: Option<Arc<Entry>>,
    last: OnceLock<Arc<Object>>,
    plain: [OnceLock<Bytes>; 3],
    others: Mutex<Vec<(EventType, FrameKey, Bytes)>>,
    /// The event in other versions, or why there is none, where a webhook had to be asked.
    pub(crate) forms: tokio::sync::Mutex<Forms>,
}

impl Event {
    /// A change; one of both sides is there.
    pub(crate) fn new(revision: Revision, current: Option<Arc<Entry>>, previous: Option<Arc<Entry>>) -> Self {
        let (last, plain) = (OnceLock::new(), Default::default());
        Self { revision, current, previous, last, plain, others: Mutex::default(), forms: Default::default() }
    }

    /// The revision of the write.
    pub(crate) fn revision(&self) -> Revision {
        self.revision
    }

    /// The object after the change.
    pub(crate) fn current(&self) -> Option<&Arc<Entry>> {
        self.current.as_ref()
    }

    /// The object before the change.
    pub(crate) fn previous(&self) -> Option<&Arc<Entry>> {
        self.previous.as_ref()
    }

    /// What somebody who sees only the entries for which `selects` holds is told, if anything.
    pub(crate) fn seen_through(&self, selects: impl Fn(&Entry) -> bool) -> Option<EventType> {
        let now = self.current.as_deref().is_some_and(&selects);
        let before = self.previous.as_deref().is_some_and(&selects);
        match (before, now) {
            (false, true) => Some(EventType::Added),
            (true, true) => Some(EventType::Modified),
            (true, false) => Some(EventType::Deleted),
            (false, false) => None,
        }
    }

    /// The object that is told of: as it is, or for `Deleted` as it was, at the revision of the change.
    pub(crate) fn object(&self, ty: EventType) -> Option<Arc<Object>> {
        match ty {
            EventType::Added | EventType::Modified => self.current.as_ref().map(|e| e.object().clone()),
            EventType::Deleted => {
                let previous = self.previous.as_ref()?;
                Some(self.last.get_or_init(|| Arc::new(previous.object().at_revision(self.revision))).clone())
            }
        }
    }

    /// The watch frame in plain JSON, made at the first call.
    pub(crate) fn json(&self, ty: EventType) -> Bytes {
        self.plain[ty as usize].get_or_init(|| self.object(ty).map_or_else(Bytes::new, |o| frame(ty, &o))).clone()
    }

    /// The watch frame in another encoding, made by `encode` at the first call for `key`.
    pub(crate) fn encoded(&self, ty: EventType, key: FrameKey, encode: impl FnOnce(&Object) -> Bytes) -> Bytes {
        let mut others = self.others.lock();
        if let Some((.., found)) = others.iter().find(|(t, k, _)| (*t, *k) == (ty, key)) {
            return found.clone();
        }
        let made = self.object(ty).map_or_else(Bytes::new, |o| encode(&o));
        others.push((ty, key, made.clone()));
        made
    }
}

/// One line of a watch in JSON.
pub(crate) fn frame(ty: EventType, object: &Object) -> Bytes {
    let mut out = BytesMut::with_capacity(object.json_size() + 32);
    out.put_slice(b"{\"type\":\"");
    out.put_slice(ty.as_str().as_bytes());
    out.put_slice(b"\",\"object\":");
    object.write_json(&mut out);
    out.put_slice(b"}\n");
    out.freeze()
}
