//! What goes wrong, in etcd's codes and words.

use tonic::{Code, Status};

use crate::contract::StoreError;

/// Each with the code and words that etcd's clients know it by.
pub(super) const EMPTY_KEY: (Code, &str) = (Code::InvalidArgument, "etcdserver: key is not provided");
pub(super) const KEY_NOT_FOUND: (Code, &str) = (Code::InvalidArgument, "etcdserver: key not found");
pub(super) const VALUE_PROVIDED: (Code, &str) = (Code::InvalidArgument, "etcdserver: value is provided");
pub(super) const LEASE_PROVIDED: (Code, &str) = (Code::InvalidArgument, "etcdserver: lease is provided");
pub(super) const TOO_MANY_OPS: (Code, &str) = (Code::InvalidArgument, "etcdserver: too many operations in txn request");
pub(super) const DUPLICATE_KEY: (Code, &str) =
    (Code::InvalidArgument, "etcdserver: duplicate key given in txn request");
pub(super) const BAD_SORT: (Code, &str) = (Code::InvalidArgument, "etcdserver: invalid sort option");
pub(super) const COMPACTED: (Code, &str) = (Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted");
pub(super) const FUTURE: (Code, &str) = (Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision");
pub(super) const NO_SPACE: (Code, &str) = (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded");
pub(super) const LEASE_NOT_FOUND: (Code, &str) = (Code::NotFound, "etcdserver: requested lease not found");
pub(super) const LEASE_EXISTS: (Code, &str) = (Code::FailedPrecondition, "etcdserver: lease already exists");
pub(super) const TTL_TOO_LARGE: (Code, &str) = (Code::OutOfRange, "etcdserver: too large lease TTL");
pub(super) const TOO_LARGE: (Code, &str) = (Code::InvalidArgument, "etcdserver: request is too large");
pub(super) const STOPPED: (Code, &str) = (Code::Unavailable, "etcdserver: server stopped");
pub(super) const CORRUPT: (Code, &str) = (Code::DataLoss, "etcdserver: corrupt cluster");

/// A refusal.
pub(super) fn refuse((code, words): (Code, &str)) -> Status {
    Status::new(code, words)
}

/// The store's error.
pub(super) fn store(error: StoreError) -> Status {
    refuse(match error {
        StoreError::Compacted { .. } | StoreError::Lagged(_) => COMPACTED,
        StoreError::Future { .. } => FUTURE,
        StoreError::LeaseNotFound(_) => LEASE_NOT_FOUND,
        StoreError::NoSpace(_) => NO_SPACE,
        StoreError::BadTransaction(_) => TOO_LARGE,
        StoreError::Closed | StoreError::Unavailable(_) => STOPPED,
        StoreError::Corrupt { .. } => CORRUPT,
        other => return Status::internal(other.to_string()),
    })
}
