//! Between etcd's messages and the contract's words.

use bytes::Bytes;
use skiff_meta::TraceContext;
use tonic::{Code, Status};

use crate::contract::{Compare, KeyRange, KeyValue, Revision, StoreError, Transaction, Write};
use crate::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::etcdserverpb::{
    Compare as EtcdCompare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};
use crate::proto::mvccpb;

/// Why a call did not succeed, before it is known what it was about.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    Compacted,
    Future,
    NoSpace,
    NoLease,
    Bad(String),
    Unavailable(String),
}

/// etcd tells some errors by their text alone.
impl From<Status> for Fault {
    fn from(status: Status) -> Self {
        let text = status.message();
        match status.code() {
            Code::OutOfRange if text.contains("has been compacted") => Self::Compacted,
            Code::OutOfRange if text.contains("future revision") => Self::Future,
            Code::ResourceExhausted if text.contains("space exceeded") => Self::NoSpace,
            Code::NotFound if text.contains("lease not found") => Self::NoLease,
            Code::InvalidArgument => Self::Bad(text.to_owned()),
            _ => Self::Unavailable(text.to_owned()),
        }
    }
}

/// For calls that are about no revision and no lease.
impl From<Fault> for StoreError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::NoSpace => Self::NoSpace("etcd (after compaction and defragmentation, disarm its alarm)".into()),
            Fault::Bad(what) => Self::BadTransaction(what),
            Fault::Unavailable(why) => Self::Unavailable(why),
            Fault::Compacted => Self::Unavailable("etcd has compacted what was asked for".into()),
            Fault::Future => Self::Unavailable("etcd has not yet what was asked for".into()),
            Fault::NoLease => Self::Unavailable("etcd has no such lease".into()),
        }
    }
}

/// Whether another member might do better.
pub(crate) fn is_elsewhere(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal | Code::DeadlineExceeded
    )
}

/// Whether there was no connection to send the request on.
pub(crate) fn was_never_sent(status: &Status) -> bool {
    let first = std::error::Error::source(status);
    std::iter::successors(first, |error| error.source()).any(|error| error.is::<tonic::ConnectError>())
}

/// etcd's bounds of a range.
pub(crate) fn bounds(keys: &KeyRange) -> (Bytes, Bytes) {
    let or_zero = |key: &Bytes| if key.is_empty() { Bytes::from_static(b"\0") } else { key.clone() };
    (or_zero(&keys.start), or_zero(&keys.end))
}

pub(crate) fn range(keys: &KeyRange, limit: usize, at: Option<Revision>) -> RangeRequest {
    let (key, range_end) = bounds(keys);
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    RangeRequest { key, range_end, limit, revision: at.map_or(0, signed), ..RangeRequest::default() }
}

/// No revision gets as far as the difference.
pub(crate) fn signed(revision: Revision) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

pub(crate) fn unsigned(revision: i64) -> Revision {
    u64::try_from(revision).unwrap_or(0)
}

/// A pair in memory of its own: as it comes, it is a slice of the whole message.
pub(crate) fn pair(kv: mvccpb::KeyValue, trace: Option<TraceContext>) -> KeyValue {
    KeyValue {
        key: Bytes::copy_from_slice(&kv.key),
        value: Bytes::copy_from_slice(&kv.value),
        created: unsigned(kv.create_revision),
        modified: unsigned(kv.mod_revision),
        version: unsigned(kv.version),
        lease: kv.lease,
        trace,
    }
}

/// On refusal, the transaction reads the compared keys, in order.
pub(crate) fn transaction(transaction: &Transaction) -> TxnRequest {
    let operation = |request| RequestOp { request: Some(request) };
    let get = |key: &Bytes| RangeRequest { key: key.clone(), ..RangeRequest::default() };
    TxnRequest {
        compare: transaction.compare.iter().map(compare).collect(),
        success: transaction.writes.iter().map(|write| operation(self::write(write))).collect(),
        failure: transaction
            .compare
            .iter()
            .map(|compare| operation(Request::RequestRange(get(compared(compare)))))
            .collect(),
    }
}

fn compared(compare: &Compare) -> &Bytes {
    let (Compare::Modified(key, _) | Compare::Exists(key)) = compare;
    key
}

fn compare(compare: &Compare) -> EtcdCompare {
    let (key, result, target, union) = match compare {
        Compare::Modified(key, revision) => {
            (key, CompareResult::Equal, CompareTarget::Mod, TargetUnion::ModRevision(signed(*revision)))
        }
        Compare::Exists(key) => (key, CompareResult::Greater, CompareTarget::Create, TargetUnion::CreateRevision(0)),
    };
    EtcdCompare {
        result: result.into(),
        target: target.into(),
        key: key.clone(),
        target_union: Some(union),
        ..EtcdCompare::default()
    }
}

fn write(write: &Write) -> Request {
    match write {
        Write::Put { key, value, lease } => Request::RequestPut(PutRequest {
            key: key.clone(),
            value: value.clone(),
            lease: *lease,
            ..PutRequest::default()
        }),
        Write::Delete { key } => {
            Request::RequestDeleteRange(DeleteRangeRequest { key: key.clone(), ..DeleteRangeRequest::default() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_apart() {
        let table = [
            (Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted", "Compacted"),
            (Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision", "Future"),
            (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded", "NoSpace"),
            (Code::ResourceExhausted, "etcdserver: too many requests", "Unavailable"),
            (Code::NotFound, "etcdserver: requested lease not found", "NoLease"),
            (Code::InvalidArgument, "etcdserver: request is too large", "Bad"),
            (Code::Unavailable, "etcdserver: no leader", "Unavailable"),
        ];
        for (code, text, expected) in table {
            let fault = format!("{:?}", Fault::from(Status::new(code, text)));
            assert!(fault.starts_with(expected), "{text}: {fault}");
        }
    }

    #[test]
    fn ranges_have_etcds_bounds() {
        let zero = Bytes::from_static(b"\0");
        assert_eq!(bounds(&KeyRange::prefix("")), (zero.clone(), zero.clone()));
        assert_eq!(bounds(&KeyRange::prefix("a/")), ("a/".into(), "a0".into()));
        assert_eq!(bounds(&KeyRange { start: "a".into(), end: Bytes::new() }), ("a".into(), zero));
    }
}
