//! LIST: all objects that are selected, as of one moment, in pages where asked for.
//!
//! A page comes from a snapshot of the cache whenever the cache still is (or, for the newest, has become) what the
//! store holds at the revision in question. Only later pages of a list that changed meanwhile, and exact versions of
//! the past, are read from the store's history.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::json;
use skiff_meta::{Object, Status, codec};
use skiff_store::{KeyRange, RangeQuery, Revision, StoreError};

use super::get::PATIENCE;
use crate::cache::{Keyed, ResourceCache, namespace_range};
use crate::call::{Answer, Call};
use crate::error;
use crate::request::{ListOptions, VersionMatch};
use crate::respond::list::{Items, Page, page};
use crate::select::Selection;

/// Objects read from history in one step.
const STEP: usize = 1_000;

/// Lists.
pub(crate) async fn list(call: &mut Call) -> Result<Answer, Status> {
    let options = ListOptions::parse(&call.query)?;
    if let Some(at) = call.query.get("at").map(str::to_owned) {
        return super::past::list(call, &at, &options).await;
    }
    match find(call, &options).await? {
        Found::Page(found) => Ok(Answer::Raw(page(call, found)?)),
        Found::Expired(token) => Ok(Answer::Tree(410, expired(&token))),
    }
}

/// What a list found.
pub(crate) enum Found {
    /// Objects.
    Page(Page),
    /// The continue token is too old; with this one the list goes on inconsistently.
    Expired(String),
}

/// What an opaque continue token says.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Token {
    v: String,
    /// -1: as of now, after the list's own version was forgotten.
    rv: i64,
    /// The tail of the key to go on from.
    start: String,
}

const TOKEN_VERSION: &str = "meta.k8s.io/v1";

fn token(rv: i64, start: &str) -> String {
    let token = Token { v: TOKEN_VERSION.to_owned(), rv, start: start.to_owned() };
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).unwrap_or_default())
}

fn read_token(text: &str) -> Result<Token, Status> {
    let bad = |why: &str| Status::bad_request(format!("invalid continue token: continue key is not valid: {why}"));
    let bytes = URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).map_err(|e| bad(&in_go_s_words(&e)))?;
    let tree = codec::json::decode(&bytes).map_err(|e| bad(&e.to_string()))?.value;
    let token: Token = serde_json::from_value(tree).map_err(|e| bad(&e.to_string()))?;
    if token.v != TOKEN_VERSION || token.start.is_empty() || token.rv == 0 {
        return Err(bad("it was not made by this server"));
    }
    Ok(token)
}

/// Where the text stops being base64.
fn in_go_s_words(error: &base64::DecodeError) -> String {
    let at = match error {
        base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => *at,
        base64::DecodeError::InvalidLength(length) => length.saturating_sub(1),
        base64::DecodeError::InvalidPadding => 0,
    };
    format!("illegal base64 data at input byte {at}")
}

fn expired(token: &str) -> serde_json::Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {"continue": token}, "status": "Failure",
        "message": "The provided continue parameter is too old to display a consistent list result. You can start a \
            new list without the continue parameter, or use the continue token in this response to retrieve the \
            remainder of the results. Continuing with the provided token results in an inconsistent list - objects \
            that were created, modified, or deleted between the time the first chunk was returned and now may show \
            up in the list.",
        "reason": "Expired", "code": 410,
    })
}

/// Finds a page.
pub(crate) async fn find(call: &Call, options: &ListOptions) -> Result<Found, Status> {
    let cache = call.cache()?;
    let selection = Selection::new(&call.served, &cache, call.namespace(), options)?;
    if !options.continue_token.is_empty() {
        return next_page(call, &cache, &selection, options).await;
    }
    // A limit with a version meant exactly that version before there was a way to say so.
    let exact = options.version_match == Some(VersionMatch::Exact)
        || options.limit > 0 && options.version.is_some_and(|v| v > 0) && options.version_match.is_none();
    let at = match options.version {
        Some(version) if exact => Some(version),
        Some(version) => {
            call.api.feed.reach(version, PATIENCE).await.map_err(|late| error::catch_up(&late.into()))?;
            None
        }
        None => {
            call.catch_up().await?;
            None
        }
    };
    if let Some(version) = at {
        let newest = call.catch_up().await?;
        if version > newest {
            return Err(error::too_large_version(version, newest));
        }
        return at_revision(call, &cache, &selection, options, version, "").await.map(Found::Page);
    }
    // Whatever is there, at once: upstream's caches do not page it.
    let limit = if options.version == Some(0) { 0 } else { options.limit };
    now(call, &cache, &selection, limit, "").await.map(Found::Page)
}

async fn next_page(
    call: &Call,
    cache: &ResourceCache,
    selection: &Selection,
    options: &ListOptions,
) -> Result<Found, Status> {
    let token = read_token(&options.continue_token)?;
    if options.version.is_some_and(|v| v != 0) {
        return Err(Status::bad_request("specifying resource version is not allowed when using continue"));
    }
    call.catch_up().await?;
    let Ok(revision) = Revision::try_from(token.rv) else {
        return now(call, cache, selection, options.limit, &token.start).await.map(Found::Page);
    };
    match at_revision(call, cache, selection, options, revision, &token.start).await {
        Err(status) if status.is("Expired") => Ok(Found::Expired(self::token(-1, &token.start))),
        other => other.map(Found::Page),
    }
}

/// A page of the cache, from `start` on.
async fn now(
    call: &Call,
    cache: &ResourceCache,
    selection: &Selection,
    limit: usize,
    start: &str,
) -> Result<Page, Status> {
    let reached = call.api.feed.revision();
    let (items, changed) = cache.candidates(selection.of_stored_labels());
    call.check_all_readable()?;
    let items = call.stretch(items).await?;
    let revision = reached.max(changed);
    Ok(page_of(items, revision, call.served.resource.namespaced, selection, limit, start))
}

/// A page as of exactly `revision`: of the cache while it is still the same, else of the store's history.
async fn at_revision(
    call: &Call,
    cache: &ResourceCache,
    selection: &Selection,
    options: &ListOptions,
    revision: Revision,
    start: &str,
) -> Result<Page, Status> {
    let reached = call.api.feed.revision();
    let (items, changed) = cache.candidates(selection.of_stored_labels());
    if changed <= revision && revision <= reached {
        let compacted = call.api.store.compacted().await.map_err(|e| error::store(&e))?;
        if revision >= compacted {
            call.check_all_readable()?;
            let items = call.stretch(items).await?;
            let namespaced = call.served.resource.namespaced;
            return Ok(page_of(items, revision, namespaced, selection, options.limit, start));
        }
    }
    from_history(call, cache, selection, options.limit, revision, start).await
}

fn page_of(
    items: crate::cache::Sorted<crate::cache::Entry>,
    revision: Revision,
    namespaced: bool,
    selection: &Selection,
    limit: usize,
    start: &str,
) -> Page {
    let (mut from, to) = namespace_range(&items, namespaced, selection.namespace());
    if !start.is_empty() {
        from = from.max(items.place(start));
    }
    if selection.is_everything() {
        let total = items.distance(from, to);
        if limit == 0 || total <= limit {
            let items = Items::Stretch(items, from, to);
            return Page { items, revision, continue_token: String::new(), remaining: None };
        }
        let mut end = from;
        let mut last = String::new();
        for _ in 0..limit {
            last = items.step(&mut end, to).map(|e| e.key().to_owned()).unwrap_or_default();
        }
        let continue_token = token(revision as i64, &format!("{last}\0"));
        let remaining = Some(total - limit);
        return Page { items: Items::Stretch(items, from, end), revision, continue_token, remaining };
    }
    if let Some(key) = selection.one_key() {
        let found = items.get(&key).filter(|e| selection.matches(e)).map(|e| e.object().clone());
        let picked = Items::Picked(found.into_iter().collect());
        return Page { items: picked, revision, continue_token: String::new(), remaining: None };
    }
    let mut picked = Vec::new();
    let mut last = String::new();
    let mut continue_token = String::new();
    for entry in items.range(from, to).filter(|e| selection.matches(e)) {
        if limit > 0 && picked.len() == limit {
            continue_token = token(revision as i64, &format!("{last}\0"));
            break;
        }
        if limit > 0 && picked.len() + 1 == limit {
            last = entry.key().to_owned();
        }
        picked.push(entry.object().clone());
    }
    Page { items: Items::Picked(picked), revision, continue_token, remaining: None }
}

/// Where the store has the objects of a selection's namespace, or all.
pub(super) fn keys(call: &Call, prefix: &str, selection: &Selection) -> KeyRange {
    let namespace = selection.namespace();
    let of_namespace = call.served.resource.namespaced && !namespace.is_empty();
    let range = if of_namespace { format!("{prefix}{namespace}/") } else { prefix.to_owned() };
    KeyRange::prefix(range.into_bytes())
}

async fn from_history(
    call: &Call,
    cache: &ResourceCache,
    selection: &Selection,
    limit: usize,
    revision: Revision,
    start: &str,
) -> Result<Page, Status> {
    let prefix = cache.prefix();
    let mut keys = keys(call, prefix, selection);
    if !start.is_empty() {
        keys.start = keys.start.max(format!("{prefix}{start}").into_bytes().into());
    }
    let mut picked: Vec<Arc<Object>> = Vec::new();
    loop {
        // One more than asked for tells whether there is a next page.
        let wanted = if limit == 0 { STEP } else { (limit + 1 - picked.len()).clamp(1, STEP) };
        let query = RangeQuery { keys: keys.clone(), limit: wanted, at: Some(revision) };
        let found = call.api.store.range(query).await.map_err(|e| history_error(&e))?;
        for pair in found.items {
            keys.start = KeyRange::one(pair.key.clone()).end;
            let Some(key) = std::str::from_utf8(&pair.key).ok().and_then(|k| k.strip_prefix(prefix)) else { continue };
            let key = key.to_owned();
            let object = call.in_version(&Arc::new(cache.recall(pair)?)).await?;
            if selection.matches_object(&key, &object) {
                picked.push(object);
            }
        }
        let full = limit > 0 && picked.len() > limit;
        if full {
            let extra = picked.len() - limit;
            picked.truncate(limit);
            let last = picked.last().map(|o| call.served.key(&o.meta().namespace, &o.meta().name)).unwrap_or_default();
            let remaining = selection.is_everything().then_some(found.remaining + extra);
            let continue_token = token(revision as i64, &format!("{last}\0"));
            return Ok(Page { items: Items::Picked(picked), revision, continue_token, remaining });
        }
        if found.remaining == 0 {
            let continue_token = String::new();
            return Ok(Page { items: Items::Picked(picked), revision, continue_token, remaining: None });
        }
    }
}

fn history_error(error: &StoreError) -> Status {
    match error {
        StoreError::Compacted { .. } => Status::expired("The resourceVersion for the provided list is too old."),
        other => error::store(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_round_trip_and_nonsense_is_refused() {
        let made = token(12, "default/a\0");
        let expected = Token { v: TOKEN_VERSION.into(), rv: 12, start: "default/a\0".into() };
        assert_eq!(read_token(&made).unwrap(), expected);
        for bad in ["x", "e30", ""] {
            assert_eq!(read_token(bad).unwrap_err().code, 400, "{bad}");
        }
    }
}
