//! API compaction, in turns with every other API server on the same etcd, upstream's included.
//!
//! One key counts the rounds. Whoever raises its version first in a round compacts to what was the newest revision in
//! its round before; the others see that and wait for the next one. So history lives for one to two intervals, and a
//! server that dies is replaced in the round after.

use std::sync::Arc;

use bytes::Bytes;
use skiff_meta::world::WorldExt;

use super::Inner;
use super::convert::{Fault, signed, unsigned};
use super::link::Kind;
use crate::contract::{Revision, StoreError};
use crate::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::proto::etcdserverpb::kv_client::KvClient;
use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::etcdserverpb::response_op::Response;
use crate::proto::etcdserverpb::{Compare, PutRequest, RangeRequest, RequestOp, TxnRequest};

/// The key that all API servers agree on.
pub(crate) const KEY: Bytes = Bytes::from_static(b"compact_rev_key");

/// What is remembered from one round to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Round {
    /// Version of the key, as far as we know.
    version: i64,
    /// The newest revision then; 0: there was no round yet.
    revision: Revision,
}

/// Takes part until the store is closed.
pub(crate) async fn run(inner: Arc<Inner>) {
    let mut closed = inner.closed.subscribe();
    let mut round = Round::default();
    let every = inner.compact_every;
    loop {
        let ended = async { closed.wait_for(|closed| *closed).await.is_ok() };
        if inner.link.world.timeout(every, ended).await.is_some() {
            return;
        }
        match turn(&inner, round).await {
            Ok(next) => round = next,
            Err(error) => tracing::warn!("etcd was not compacted, next attempt in {} s: {error}", every.as_secs()),
        }
    }
}

/// One round.
pub(crate) async fn turn(inner: &Inner, round: Round) -> Result<Round, StoreError> {
    let operation = |request| vec![RequestOp { request: Some(request) }];
    let transaction = TxnRequest {
        compare: vec![Compare {
            key: KEY,
            result: CompareResult::Equal.into(),
            target: CompareTarget::Version.into(),
            target_union: Some(TargetUnion::Version(round.version)),
            ..Compare::default()
        }],
        success: operation(Request::RequestPut(PutRequest {
            key: KEY,
            value: round.revision.to_string().into(),
            ..PutRequest::default()
        })),
        failure: operation(Request::RequestRange(RangeRequest { key: KEY, ..RangeRequest::default() })),
    };
    let transaction = &transaction;
    let answer =
        inner.link.call(Kind::Write, |channel| async move { KvClient::new(channel).txn(transaction.clone()).await });
    let answer = answer.await?;
    let revision = answer.header.map_or(0, |header| unsigned(header.revision));
    if !answer.succeeded {
        let found = answer.responses.into_iter().next().and_then(|op| op.response);
        let Some(Response::ResponseRange(range)) = found else {
            return Err(Fault::Unavailable("etcd left out an answer".into()).into());
        };
        return Ok(Round { version: range.kvs.first().map_or(0, |kv| kv.version), revision });
    }
    if round.revision > 0 {
        inner.compact(signed(round.revision)).await?;
    }
    Ok(Round { version: round.version + 1, revision })
}
