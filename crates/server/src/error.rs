//! What can go wrong in this room, and what clients are told of it.

use skiff_meta::Status;
use skiff_store::StoreError;

use crate::cache::feed::CatchUpError;

/// The server cannot start or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The store does not work.
    #[error("the store does not work: {0}")]
    Store(#[from] StoreError),
    /// Certificates or keys do not work.
    #[error(transparent)]
    Pki(#[from] crate::pki::PkiError),
    /// The audit log cannot be kept.
    #[error(transparent)]
    Audit(#[from] crate::audit::AuditError),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Where.
        address: std::net::SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// Something that must exist from the first start on cannot be made.
    #[error("cannot create {what}: {status}")]
    Bootstrap {
        /// Kind and name.
        what: String,
        /// The refusal.
        status: Status,
    },
}

/// A failure of the store, as clients are told of it.
pub(crate) fn store(error: &StoreError) -> Status {
    match error {
        StoreError::Compacted { oldest } => {
            Status::expired(format!("The resourceVersion for the provided list is too old, the oldest is {oldest}."))
        }
        StoreError::Future { asked, newest } => too_large_version(*asked, *newest),
        StoreError::Unavailable(why) => Status::unavailable(format!("the store is unavailable: {why}")),
        StoreError::Closed => Status::unavailable("the server is shutting down"),
        other => Status::internal(other),
    }
}

/// The cache cannot answer as of now.
pub(crate) fn catch_up(error: &CatchUpError) -> Status {
    match error {
        CatchUpError::Store(error) => store(error),
        CatchUpError::TooSlow(late) => too_large_version(late.wanted, late.reached),
    }
}

/// A version that does not exist yet, or has not reached the cache.
pub(crate) fn too_large_version(asked: u64, newest: u64) -> Status {
    let message = format!("Too large resource version: {asked}, current: {newest}");
    let mut status = Status::timeout(&message);
    let cause = skiff_meta::status::Cause {
        reason: "ResourceVersionTooLarge".to_owned(),
        message: "Too large resource version".to_owned(),
        field: String::new(),
    };
    let details = skiff_meta::status::Details { causes: vec![cause], retry_after_seconds: 1, ..Default::default() };
    status.details = Some(Box::new(details));
    status
}
