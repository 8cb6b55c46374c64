//! How objects are written: one engine for creating, one for changing, one for removing, whatever the kind and whoever
//! asks. Each computes what is to be written from what is there, and commits it on the condition that it still is.

pub(crate) mod admit;
pub(crate) mod fields;
pub(crate) mod insert;
pub(crate) mod leases;
pub(crate) mod raw;
pub(crate) mod remove;
pub(crate) mod replace;
pub(crate) mod services;

use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;
use skiff_meta::object::canonical_bytes;
use skiff_meta::{Object, Status};
use skiff_rules::Part;
use skiff_store::{Compare, KeyValue, Outcome, Revision, Transaction, Write};

use crate::call::{Answer, Call};
use crate::chain::Extra;
use crate::error;
use crate::pki::pair;
use crate::tree;

/// How often a write is tried again when others are faster.
pub(crate) const ATTEMPTS: usize = 16;

/// What a write means to do, beside the object itself.
#[derive(Clone)]
pub(crate) struct Intent {
    /// Do everything but write.
    pub(crate) dry_run: bool,
    /// Which part is written.
    pub(crate) part: Part,
    /// CreateOptions, UpdateOptions, PatchOptions, for admission.
    pub(crate) options: Value,
}

/// What became of a write.
pub(crate) enum Written {
    /// There is a new object.
    Created(Done),
    /// It changed, or would not have.
    Updated(Done),
}

/// The object after a write.
pub(crate) enum Done {
    /// As it is stored.
    Stored(Arc<Object>),
    /// As it would be, in the request's version.
    Dry(Value),
}

impl Written {
    /// The answer: 201 for what is new, 200 else.
    pub(crate) fn into_answer(self) -> Answer {
        let (code, done) = match self {
            Self::Created(done) => (201, done),
            Self::Updated(done) => (200, done),
        };
        match done {
            Done::Stored(object) => Answer::Object(code, object),
            Done::Dry(tree) => Answer::Tree(code, tree),
        }
    }
}

/// Warnings of doubtful use.
fn warnings(call: &Call, new: &Value, old: Option<&Value>, part: Part) -> Vec<String> {
    let mut warnings = call.served.version.rules().warnings(new, old, part);
    let id = call.served.id();
    if id.group.is_empty() && id.resource == "secrets" {
        warnings.extend(pair::fault(new).map(str::to_owned));
    }
    warnings
}

/// Notes times that clients leave out: since when a persistent volume is in its phase, since when a device is tainted.
fn note_times(call: &Call, new: &mut Value, old: Option<&Value>) {
    let now = || Value::from(tree::timestamp(call.api.world.now()));
    match (&*call.served.id().group, &*call.served.id().resource) {
        ("", "persistentvolumes") => note_phase(new, old, now),
        ("resource.k8s.io", "resourceslices") => {
            let devices = new.pointer_mut("/spec/devices").and_then(Value::as_array_mut).into_iter().flatten();
            let taints = devices.filter_map(|device| device.get_mut("taints")?.as_array_mut()).flatten();
            for taint in taints.filter_map(Value::as_object_mut) {
                if taint.get("timeAdded").is_none_or(Value::is_null) {
                    taint.insert("timeAdded".to_owned(), now());
                }
            }
        }
        _ => {}
    }
}

fn note_phase(new: &mut Value, old: Option<&Value>, now: impl Fn() -> Value) {
    let at = |object: Option<&Value>, field: &str| object.and_then(|o| o.get("status")?.get(field).cloned());
    let since = "lastPhaseTransitionTime";
    let (before, said) = (at(old, since), at(Some(new), since));
    let time = if at(Some(new), "phase") == at(old, "phase") {
        said.or(before)
    } else if old.is_some() && said.is_some() && said != before {
        said
    } else {
        Some(now())
    };
    if let Some(time) = time {
        tree::child(new, "status").insert(since.to_owned(), time);
    }
}

/// How a commit ended.
pub(crate) enum Committed {
    /// Everything is written.
    At(Revision),
    /// The object itself is not what it was thought to be; whether it exists now.
    Raced {
        /// Whether the object exists.
        exists: bool,
    },
    /// Something else the write depends on has changed.
    Elsewhere,
}

/// The condition and the write of one object.
pub(crate) struct Change {
    /// The object's key in the store.
    pub(crate) key: Bytes,
    /// The revision it must still have; 0: it must not exist.
    pub(crate) expected: Revision,
    /// Its new bytes; `None` removes it.
    pub(crate) value: Option<Bytes>,
    /// The lease it dies with; 0: none.
    pub(crate) lease: i64,
}

impl Call {
    /// The store's key of the object called `name`.
    pub(crate) fn store_key(&self, name: &str) -> Result<Bytes, Status> {
        Ok(format!("{}{}", self.cache()?.prefix(), self.key(name)).into())
    }

    /// A tree of the request's version as stored bytes: canonical, without resourceVersion.
    pub(crate) async fn stored_bytes(&self, tree: &Value) -> Result<Bytes, Status> {
        let resource = &self.served.resource;
        if let Some(webhook) = &resource.webhook {
            let stored = self.api.convert(webhook, tree.clone(), &resource.storage.api_version()).await?;
            return canonical_bytes(&stored).map_err(Status::internal);
        }
        let conversion = &self.served.version.conversion;
        if conversion.is_same() {
            return canonical_bytes(tree).map_err(Status::internal);
        }
        let mut stored = tree.clone();
        conversion.to_stored(&mut stored);
        canonical_bytes(&stored).map_err(Status::internal)
    }

    /// Commits a change together with what else must hold and happen. When it was refused, the cache has caught up
    /// with the reason on return, so that the caller can look again.
    pub(crate) async fn commit(&self, change: &Change, extra: Extra) -> Result<Committed, Status> {
        // The turn, where there is one, ends with this function.
        let Extra { compare: more, writes, turn: _turn } = extra;
        let mut compare = vec![Compare::Modified(change.key.clone(), change.expected)];
        compare.extend(more);
        let own = match &change.value {
            Some(value) => Write::Put { key: change.key.clone(), value: value.clone(), lease: change.lease },
            None => Write::Delete { key: change.key.clone() },
        };
        let writes = std::iter::once(own).chain(writes).collect();
        let transaction = Transaction { compare, writes, trace: Some(self.trace) };
        match self.api.store.commit(transaction).await.map_err(|e| error::store(&e))? {
            Outcome::Committed(revision) => Ok(Committed::At(revision)),
            Outcome::Refused { revision, current } => {
                let late = |e| error::catch_up(&crate::cache::feed::CatchUpError::TooSlow(e));
                self.api.feed.reach(revision, super::verbs::get::PATIENCE).await.map_err(late)?;
                let own: Option<&KeyValue> = current.first().and_then(Option::as_ref);
                let same = own.map_or(0, |kv| kv.modified) == change.expected;
                Ok(if same { Committed::Elsewhere } else { Committed::Raced { exists: own.is_some() } })
            }
        }
    }

    /// The object that was just written.
    pub(crate) fn written(&self, bytes: Bytes, revision: Revision) -> Result<Arc<Object>, Status> {
        Object::from_canonical(bytes, revision, Some(self.trace)).map(Arc::new).map_err(Status::internal)
    }

    /// 409 for a write that others were always faster than.
    pub(crate) fn too_busy(&self, name: &str) -> Status {
        Status::stale(self.served.id(), name)
    }
}
