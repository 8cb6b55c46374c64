//! Reads of the past: `?at=MOMENT` on GET and LIST, which is Skiff's own and unknown to other clients.
//!
//! The moment is a revision, a time (RFC 3339), or how long ago (`10m`). It is read from the store's history, which
//! reaches further back than the versions API clients may still ask for. Whoever may read an object now may read what it
//! was; a read of the past comes whole, without pages.

use std::sync::Arc;

use jiff::Timestamp;
use skiff_meta::Status;
use skiff_store::{KeyRange, RangeQuery, RangeResult, Revision, StoreError};

use crate::call::{Answer, Call};
use crate::error;
use crate::request::ListOptions;
use crate::respond::list::{Items, Page, page};
use crate::select::Selection;

/// One object as it was.
pub(crate) async fn get(call: &mut Call, at: &str) -> Result<Answer, Status> {
    let revision = begin(call, at).await?;
    let name = call.target.name.clone();
    let key = format!("{}{}", call.cache()?.prefix(), call.key(&name));
    let found = read(call, KeyRange::one(key), revision).await?;
    let pair = found.items.into_iter().next().ok_or_else(|| call.not_found(&name))?;
    let object = call.cache()?.recall(pair)?;
    Ok(Answer::Object(200, Arc::new(object)))
}

/// All selected objects as they were.
pub(crate) async fn list(call: &mut Call, at: &str, options: &ListOptions) -> Result<Answer, Status> {
    if options.version.is_some() || !options.continue_token.is_empty() {
        return Err(Status::bad_request("at cannot be combined with resourceVersion or continue"));
    }
    let cache = call.cache()?;
    let selection = Selection::new(&call.served, &cache, call.namespace(), options)?;
    let revision = begin(call, at).await?;
    let prefix = cache.prefix();
    let found = read(call, super::list::keys(call, prefix, &selection), revision).await?;
    let mut picked = Vec::new();
    for pair in found.items {
        let Some(key) = std::str::from_utf8(&pair.key).ok().and_then(|k| k.strip_prefix(prefix)) else { continue };
        let key = key.to_owned();
        let object = call.in_version(&Arc::new(cache.recall(pair)?)).await?;
        if selection.matches_object(&key, &object) {
            picked.push(object);
        }
    }
    let (continue_token, remaining) = (String::new(), None);
    Ok(Answer::Raw(page(call, Page { items: Items::Picked(picked), revision, continue_token, remaining })?))
}

async fn read(call: &Call, keys: KeyRange, at: Revision) -> Result<RangeResult, Status> {
    match call.api.store.range_past(RangeQuery { keys, limit: 0, at: Some(at) }).await {
        Err(StoreError::Compacted { oldest }) => Err(too_old(call, oldest).await),
        result => result.map_err(|e| error::store(&e)),
    }
}

/// The revision a moment means. Ages in tables are told as of then.
async fn begin(call: &mut Call, at: &str) -> Result<Revision, Status> {
    let store = call.api.store.clone();
    let failed = |e: StoreError| error::store(&e);
    if let Ok(revision) = at.parse() {
        let newest = store.revision().await.map_err(failed)?;
        if revision > newest {
            return Err(error::too_large_version(revision, newest));
        }
        let second = store.time_of(revision).await.map_err(failed)?;
        call.moment = second.and_then(|second| Timestamp::from_second(second).ok());
        return Ok(revision);
    }
    let time = moment(at, call.api.world.now()).ok_or_else(|| {
        let why = "is no moment; give a revision, a time such as 2026-01-31T12:00:00Z, or how long ago, such as 10m";
        Status::bad_request(format!("at={at} {why}"))
    })?;
    call.moment = Some(time);
    match store.revision_at(time.as_second()).await.map_err(failed)? {
        Some(revision) => Ok(revision),
        None => Err(too_old(call, store.oldest().await.map_err(failed)?).await),
    }
}

/// A time, or how long before `now`.
fn moment(text: &str, now: Timestamp) -> Option<Timestamp> {
    if let Ok(time) = text.parse() {
        return Some(time);
    }
    now.checked_sub(skiff_meta::duration::parse(text)?).ok()
}

async fn too_old(call: &Call, oldest: Revision) -> Status {
    let time = call.api.store.time_of(oldest).await.ok().flatten().and_then(|s| Timestamp::from_second(s).ok());
    let since = time.map_or_else(String::new, |time| format!(" ({time})"));
    Status::expired(format!("that is further back than history goes: it begins at revision {oldest}{since}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments() {
        let now: Timestamp = "2026-01-31T12:00:00Z".parse().unwrap();
        for (text, expected) in [
            ("10m", Some("2026-01-31T11:50:00Z")),
            ("1h30m", Some("2026-01-31T10:30:00Z")),
            ("2d", Some("2026-01-29T12:00:00Z")),
            ("2026-01-31T13:00:00+01:00", Some("2026-01-31T12:00:00Z")),
            ("10", None),
            ("9999999999999d", None),
        ] {
            let found = moment(text, now);
            assert_eq!(found, expected.map(|time| time.parse().unwrap()), "{text}");
        }
    }
}
