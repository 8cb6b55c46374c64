//! Transactions as etcd has them: comparisons of anything, operations in order, transactions within transactions.
//!
//! Decided like every other mutation, against the newest state. All comparisons are looked at first, in the state as it
//! was; operations then see what those before them have done.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use tonic::Status;

use super::kv::{answer, check_range, revision};
use super::status::{self, refuse};
use super::{header, keys, own, pair};
use crate::contract::{KeyRange, KeyValue, Revision, StoreError, Transaction, Write};
use crate::entry::Entry;
use crate::proto::etcdserverpb as pb;
use crate::state::{Clock, Core, Decision, validate};
use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pb::request_op::Request;
use pb::response_op::Response;

/// Most operations of a transaction, on one level; etcd's default is 128.
const OPERATIONS: usize = 2048;

/// Refuses what no state could make right.
pub(super) fn check(request: &pb::TxnRequest) -> Result<(), Status> {
    check_ops(request, OPERATIONS)?;
    check_overlaps(&request.success)?;
    check_overlaps(&request.failure)?;
    Ok(())
}

fn check_ops(request: &pb::TxnRequest, limit: usize) -> Result<(), Status> {
    let count = request.compare.len().max(request.success.len()).max(request.failure.len());
    let left = limit.checked_sub(count).ok_or_else(|| refuse(status::TOO_MANY_OPS))?;
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(refuse(status::EMPTY_KEY));
    }
    for op in request.success.iter().chain(&request.failure) {
        match &op.request {
            Some(Request::RequestRange(range)) => check_range(range)?,
            Some(Request::RequestPut(put)) if put.key.is_empty() => return Err(refuse(status::EMPTY_KEY)),
            Some(Request::RequestPut(put)) if put.ignore_value && !put.value.is_empty() => {
                return Err(refuse(status::VALUE_PROVIDED));
            }
            Some(Request::RequestPut(put)) if put.ignore_lease && put.lease != 0 => {
                return Err(refuse(status::LEASE_PROVIDED));
            }
            Some(Request::RequestDeleteRange(delete)) if delete.key.is_empty() => {
                return Err(refuse(status::EMPTY_KEY));
            }
            Some(Request::RequestTxn(inner)) => check_ops(inner, left)?,
            Some(Request::RequestPut(_) | Request::RequestDeleteRange(_)) => {}
            None => return Err(refuse(status::KEY_NOT_FOUND)),
        }
    }
    Ok(())
}

/// What a list of operations may write: no key twice, except on two branches of which only one is taken.
fn check_overlaps(ops: &[pb::RequestOp]) -> Result<(BTreeSet<Bytes>, Vec<KeyRange>), Status> {
    let mut deletes: Vec<KeyRange> = Vec::new();
    let mut puts: BTreeSet<Bytes> = BTreeSet::new();
    for op in ops {
        if let Some(Request::RequestDeleteRange(delete)) = &op.request {
            deletes.push(keys(&delete.key, &delete.range_end));
        }
    }
    let fits = |deletes: &[KeyRange], key: &Bytes| {
        let is_free = !deletes.iter().any(|range| range.contains(key));
        if is_free { Ok(()) } else { Err(refuse(status::DUPLICATE_KEY)) }
    };
    for op in ops {
        let Some(Request::RequestTxn(inner)) = &op.request else { continue };
        let (then, then_deletes) = check_overlaps(&inner.success)?;
        let (otherwise, otherwise_deletes) = check_overlaps(&inner.failure)?;
        for key in then.union(&otherwise) {
            fits(&deletes, key)?;
            if !puts.insert(key.clone()) {
                return Err(refuse(status::DUPLICATE_KEY));
            }
        }
        deletes.extend(then_deletes);
        deletes.extend(otherwise_deletes);
    }
    for op in ops {
        let Some(Request::RequestPut(put)) = &op.request else { continue };
        fits(&deletes, &put.key)?;
        if !puts.insert(put.key.clone()) {
            return Err(refuse(status::DUPLICATE_KEY));
        }
    }
    Ok((puts, deletes))
}

/// Decides a transaction that was checked. A refusal is an answer too: it may rest on what is not durable yet.
pub(super) fn decide(core: &Core, clock: Clock, request: &pb::TxnRequest) -> Decision<Result<pb::TxnResponse, Status>> {
    let mut view = View { core, revision: core.head() + 1, changed: BTreeMap::new(), order: Vec::new() };
    let mut path = Vec::new();
    choose(&view, request, &mut path);
    let mut response = match view.run(request, &mut path.into_iter()) {
        Ok(response) => response,
        Err(fault) => return Ok((Err(fault), Vec::new())),
    };
    let writes = view.writes();
    let transaction = Transaction { writes, ..Transaction::default() };
    validate(&transaction)?;
    let Transaction { writes, trace, .. } = transaction;
    if writes.is_empty() {
        response.header = header(core.head());
        return Ok((Ok(response), Vec::new()));
    }
    let revision = core.head() + 1;
    response.header = header(revision);
    Ok((Ok(response), vec![Entry::Commit { revision, time: clock.second(), trace, writes }]))
}

/// Which branch each transaction takes, outer ones first, by the state before any of them.
fn choose(view: &View<'_>, request: &pb::TxnRequest, path: &mut Vec<bool>) {
    let succeeds = request.compare.iter().all(|compare| view.holds(compare));
    path.push(succeeds);
    for op in if succeeds { &request.success } else { &request.failure } {
        if let Some(Request::RequestTxn(inner)) = &op.request {
            choose(view, inner, path);
        }
    }
}

/// The newest state with what the transaction has done so far.
struct View<'a> {
    core: &'a Core,
    /// The revision of its writes.
    revision: Revision,
    changed: BTreeMap<Bytes, Option<KeyValue>>,
    /// Changed keys as they came.
    order: Vec<Bytes>,
}

impl View<'_> {
    fn get(&self, key: &[u8]) -> Option<KeyValue> {
        match self.changed.get(key) {
            Some(changed) => changed.clone(),
            None => self.core.get(key, self.core.head()).map(|kv| KeyValue::clone(kv)),
        }
    }

    fn range(&self, keys: &KeyRange) -> Vec<KeyValue> {
        let stored = self.core.range(keys, self.core.head());
        let mut found: Vec<_> =
            stored.filter(|kv| !self.changed.contains_key(&kv.key)).map(|kv| KeyValue::clone(kv)).collect();
        if !self.changed.is_empty() {
            found.extend(self.changed.values().flatten().filter(|kv| keys.contains(&kv.key)).cloned());
            found.sort_by(|a, b| a.key.cmp(&b.key));
        }
        found
    }

    fn change(&mut self, key: &Bytes, to: Option<KeyValue>) {
        if self.changed.insert(key.clone(), to).is_none() {
            self.order.push(key.clone());
        }
    }

    /// What is to be written, each key once.
    fn writes(self) -> Vec<Write> {
        let Self { core, mut changed, order, .. } = self;
        let write = |key: Bytes| match changed.remove(&key).flatten() {
            Some(kv) => Some(Write::Put { key: kv.key, value: kv.value, lease: kv.lease }),
            None => core.get(&key, core.head()).is_some().then_some(Write::Delete { key }),
        };
        order.into_iter().filter_map(write).collect()
    }

    fn holds(&self, compare: &pb::Compare) -> bool {
        let relation = |kv: Option<&KeyValue>| -> Option<Ordering> {
            let number = |of: fn(&KeyValue) -> i64| kv.map_or(0, of);
            Some(match (compare.target(), &compare.target_union) {
                (CompareTarget::Version, Some(TargetUnion::Version(to))) => number(|kv| kv.version as i64).cmp(to),
                (CompareTarget::Create, Some(TargetUnion::CreateRevision(to))) => {
                    number(|kv| kv.created as i64).cmp(to)
                }
                (CompareTarget::Mod, Some(TargetUnion::ModRevision(to))) => number(|kv| kv.modified as i64).cmp(to),
                (CompareTarget::Lease, Some(TargetUnion::Lease(to))) => number(|kv| kv.lease).cmp(to),
                // There is no way to write a missing value, so nothing compares to it.
                (CompareTarget::Value, Some(TargetUnion::Value(to))) => kv?.value.cmp(to),
                (CompareTarget::Value, _) => kv?.value[..].cmp(&[]),
                (CompareTarget::Version, _) => number(|kv| kv.version as i64).cmp(&0),
                (CompareTarget::Create, _) => number(|kv| kv.created as i64).cmp(&0),
                (CompareTarget::Mod, _) => number(|kv| kv.modified as i64).cmp(&0),
                (CompareTarget::Lease, _) => number(|kv| kv.lease).cmp(&0),
            })
        };
        let fits = |kv: Option<&KeyValue>| match (compare.result(), relation(kv)) {
            (_, None) => false,
            (CompareResult::Equal, Some(found)) => found.is_eq(),
            (CompareResult::NotEqual, Some(found)) => found.is_ne(),
            (CompareResult::Greater, Some(found)) => found.is_gt(),
            (CompareResult::Less, Some(found)) => found.is_lt(),
        };
        if compare.range_end.is_empty() {
            return fits(self.get(&compare.key).as_ref());
        }
        let found = self.range(&keys(&compare.key, &compare.range_end));
        if found.is_empty() { fits(None) } else { found.iter().all(|kv| fits(Some(kv))) }
    }

    fn run(
        &mut self,
        request: &pb::TxnRequest,
        path: &mut impl Iterator<Item = bool>,
    ) -> Result<pb::TxnResponse, Status> {
        let succeeded = path.next().unwrap_or_default();
        let mut responses = Vec::new();
        for op in if succeeded { &request.success } else { &request.failure } {
            let response = match &op.request {
                Some(Request::RequestRange(range)) => Response::ResponseRange(self.read(range)?),
                Some(Request::RequestPut(put)) => Response::ResponsePut(self.put(put)?),
                Some(Request::RequestDeleteRange(delete)) => Response::ResponseDeleteRange(self.delete(delete)),
                Some(Request::RequestTxn(inner)) => Response::ResponseTxn(self.run(inner, path)?),
                None => continue,
            };
            responses.push(pb::ResponseOp { response: Some(response) });
        }
        Ok(pb::TxnResponse { header: self.header(), succeeded, responses })
    }

    fn header(&self) -> Option<pb::ResponseHeader> {
        header(if self.changed.is_empty() { self.core.head() } else { self.revision })
    }

    fn read(&self, request: &pb::RangeRequest) -> Result<pb::RangeResponse, Status> {
        let range = keys(&request.key, &request.range_end);
        let found = match revision(request) {
            None => self.range(&range),
            Some(at) if at > self.core.head() => return Err(refuse(status::FUTURE)),
            Some(at) if at < self.core.compacted() => return Err(refuse(status::COMPACTED)),
            Some(at) => self.core.range(&range, at).map(|kv| KeyValue::clone(kv)).collect(),
        };
        let count = found.len();
        Ok(pb::RangeResponse { header: self.header(), ..answer(request, found, count) })
    }

    fn put(&mut self, request: &pb::PutRequest) -> Result<pb::PutResponse, Status> {
        let previous = self.get(&request.key);
        let kept = |wanted: bool| match (&previous, wanted) {
            (None, true) => Err(refuse(status::KEY_NOT_FOUND)),
            (Some(old), true) => Ok(Some(old)),
            (_, false) => Ok(None),
        };
        let value = kept(request.ignore_value)?.map_or_else(|| own(&request.value), |old| old.value.clone());
        let lease = kept(request.ignore_lease)?.map_or(request.lease, |old| old.lease);
        if lease != 0 && !self.core.has_lease(lease) {
            return Err(status::store(StoreError::LeaseNotFound(lease)));
        }
        let key = own(&request.key);
        let (created, version) = previous.as_ref().map_or((self.revision, 0), |old| (old.created, old.version));
        let modified = self.revision;
        let kv = KeyValue { key: key.clone(), value, created, modified, version: version + 1, lease, trace: None };
        self.change(&key, Some(kv));
        Ok(pb::PutResponse { header: self.header(), prev_kv: previous.filter(|_| request.prev_kv).map(pair) })
    }

    fn delete(&mut self, request: &pb::DeleteRangeRequest) -> pb::DeleteRangeResponse {
        let gone = self.range(&keys(&request.key, &request.range_end));
        gone.iter().for_each(|kv| self.change(&kv.key, None));
        let deleted = gone.len() as i64;
        let prev_kvs = if request.prev_kv { gone.into_iter().map(pair).collect() } else { Vec::new() };
        pb::DeleteRangeResponse { header: self.header(), deleted, prev_kvs }
    }
}
