//! Reads what the store was, from a checkpoint and the log after it, beyond what is kept in memory.
//!
//! Costs one pass over the checkpoint and some log, and memory for the keys asked for: history needs none of its own.

use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use skiff_meta::TraceContext;
use tokio::sync::oneshot;

use super::blocks::{Input, Piece};
use super::files::{Base, Files, Named, Past};
use super::frame::{self, Found};
use super::header;
use crate::contract::{KeyRange, KeyValue, RangeQuery, RangeResult, Revision, StoreError, Write};
use crate::disk::store_error;
use crate::entry::Entry;

/// A transaction as the log has it.
struct Commit {
    revision: Revision,
    /// Seconds since 1970; never earlier than the one before.
    second: i64,
    trace: Option<TraceContext>,
    writes: Vec<Write>,
}

/// Runs a reader on a thread of its own, since it blocks, one at a time.
async fn run<T: Send + 'static>(
    files: &Arc<Files>,
    read: impl FnOnce(&Files) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let _turn = files.reading.lock().await;
    let (answer, result) = oneshot::channel();
    let reader = files.clone();
    std::thread::Builder::new()
        .name("store-history".into())
        .spawn(move || drop(answer.send(read(&reader))))
        .map_err(|error| StoreError::Io(Arc::new(error)))?;
    result.await.unwrap_or(Err(StoreError::Closed))
}

/// A range as it was at a revision that has been published.
pub(crate) async fn range(files: &Arc<Files>, query: RangeQuery, at: Revision) -> Result<RangeResult, StoreError> {
    let state = run(files, {
        let keys = query.keys;
        move |files| state_at(files, &keys, at)
    });
    let mut items: Vec<KeyValue> = state.await?.into_values().collect();
    let limit = if query.limit == 0 { usize::MAX } else { query.limit };
    let remaining = items.len().saturating_sub(limit);
    items.truncate(limit);
    Ok(RangeResult { items, remaining, revision: at })
}

/// The newest revision committed at or before a second; `None` when that is before the store's time or its history.
pub(crate) async fn revision_at(files: &Arc<Files>, second: i64) -> Result<Option<Revision>, StoreError> {
    run(files, move |files| {
        let Some(past) = open(files, |base| base.second <= second)? else { return Ok(None) };
        let mut found = (past.base.size > 0).then_some(past.base.revision);
        commits(files, &past, &mut |commit| {
            if commit.second > second {
                return ControlFlow::Break(());
            }
            found = Some(commit.revision);
            ControlFlow::Continue(())
        })?;
        Ok(found)
    })
    .await
}

/// When a revision was committed.
pub(crate) async fn time_of(files: &Arc<Files>, revision: Revision) -> Result<Option<i64>, StoreError> {
    run(files, move |files| {
        let Some(past) = open(files, |base| base.revision <= revision)? else { return Ok(None) };
        let mut found = (past.base.revision == revision && past.base.size > 0).then_some(past.base.second);
        commits(files, &past, &mut |commit| {
            found = (commit.revision == revision).then_some(commit.second).or(found);
            if commit.revision < revision { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        Ok(found)
    })
    .await
}

fn open(files: &Files, fits: impl Fn(&Base) -> bool) -> Result<Option<Past>, StoreError> {
    files.past(fits).map_err(|error| store_error(&*files.disk, error))
}

fn state_at(files: &Files, keys: &KeyRange, at: Revision) -> Result<BTreeMap<Bytes, KeyValue>, StoreError> {
    let mut state = BTreeMap::new();
    let Some(mut past) = open(files, |base| base.revision <= at)? else {
        return Err(StoreError::Compacted { oldest: files.oldest() });
    };
    if let Some((name, file)) = past.checkpoint.take() {
        let mut input = Input::open(file, &name, header::CHECKPOINT)?.0;
        input.state(&mut |piece| {
            if let Piece::Value(kv) = piece
                && keys.contains(&kv.key)
            {
                state.insert(kv.key.clone(), kv);
            }
        })?;
    }
    let mut reached = past.base.revision;
    if reached < at {
        commits(files, &past, &mut |commit| {
            if commit.revision > at {
                return ControlFlow::Break(());
            }
            reached = commit.revision;
            commit.writes.into_iter().for_each(|write| apply(&mut state, keys, write, reached, commit.trace));
            if reached < at { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
    }
    if reached < at {
        let what = format!("history ends at revision {reached}, before {at}");
        let file = past.segments.last().map_or(String::new(), |(name, _)| name.clone());
        return Err(StoreError::Corrupt { file, offset: 0, what });
    }
    Ok(state)
}

fn apply(
    state: &mut BTreeMap<Bytes, KeyValue>,
    keys: &KeyRange,
    write: Write,
    revision: Revision,
    trace: Option<TraceContext>,
) {
    match write {
        Write::Put { key, value, lease } if keys.contains(&key) => {
            let (created, version) = state.get(&key).map_or((revision, 0), |old| (old.created, old.version));
            let kv = KeyValue { key, value, created, modified: revision, version: version + 1, lease, trace };
            state.insert(kv.key.clone(), kv);
        }
        Write::Delete { key } => drop(state.remove(&key)),
        Write::Put { .. } => {}
    }
}

/// Shows every commit after the base, in order, until `visit` has seen enough. Reading never goes beyond what was
/// durable when it was asked for, so whatever is no frame before that is damage.
fn commits(files: &Files, past: &Past, visit: &mut dyn FnMut(Commit) -> ControlFlow<()>) -> Result<(), StoreError> {
    let mut last = past.base.second;
    let (mut sequence, count) = (None, past.segments.len());
    for (at, segment) in past.segments.iter().enumerate() {
        let is_last = at + 1 == count;
        let done = read_segment(files, segment, is_last, past.base.sequence, &mut sequence, &mut |commit| {
            last = last.max(commit.second);
            visit(Commit { second: last, ..commit })
        })?;
        if done.is_break() {
            break;
        }
    }
    Ok(())
}

fn read_segment(
    files: &Files,
    (name, file): &Named,
    is_last: bool,
    after: u64,
    last: &mut Option<u64>,
    visit: &mut dyn FnMut(Commit) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, StoreError> {
    let failed = |error: io::Error| store_error(&*files.disk, error);
    let damaged = |at: usize, what: String| StoreError::Corrupt { file: name.clone(), offset: at as u64, what };
    let size = usize::try_from(file.size().map_err(failed)?).map_err(|_| damaged(0, "it is too large".into()))?;
    let mut bytes = vec![0; size];
    file.read(&mut bytes, 0).map_err(failed)?;
    let [_, salt, ..] = header::decode(header::SEGMENT, &bytes, name)?;
    let mut at = header::SIZE;
    loop {
        let (sequence, entries, mut payload, size) = match frame::look(&bytes[at..], salt) {
            Found::Frame { sequence, entries, payload, size } => (sequence, entries, payload, size),
            // The log goes on here while we read.
            Found::Nothing | Found::Damage(_) if is_last => return Ok(ControlFlow::Continue(())),
            Found::Nothing if !frame::any_after(&bytes[at..], last.unwrap_or(0), salt) => {
                return Ok(ControlFlow::Continue(()));
            }
            Found::Nothing => return Err(damaged(at, "a frame is missing here".into())),
            Found::Damage(what) => return Err(damaged(at, what.into())),
        };
        if last.map_or(sequence > after + 1, |last| sequence != last + 1) {
            return Err(damaged(at, format!("frame {sequence} follows, frames before it are missing")));
        }
        *last = Some(sequence);
        for _ in 0..if sequence > after { entries } else { 0 } {
            let entry = Entry::decode(&mut payload).map_err(|error| damaged(at, error.to_string()))?;
            if let Entry::Commit { revision, time, trace, writes } = entry
                && visit(Commit { revision, second: time, trace, writes }).is_break()
            {
                return Ok(ControlFlow::Break(()));
            }
        }
        at += size;
    }
}
