//! The engine for more than one machine: etcd v3, over its own interface.
//!
//! The contract is etcd's in most points, so most methods are one call. Where it differs: a page of a range is read at
//! one revision even if it takes several calls; a watch is made of the whole history ([`follow`]), which makes progress
//! and completeness its own business; the oldest readable revision, which etcd tells nobody, is found by asking; and
//! compaction happens in turns with the other API servers ([`compaction`]).

mod compaction;
mod convert;
mod follow;
mod link;
mod memory;
mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use skiff_meta::WorldRef;

pub use link::EtcdConfig;

use self::convert::{Fault, pair, signed, unsigned};
use self::link::{Kind, Link, Shared};
use self::memory::{Times, Traces};
use crate::contract::{
    KeyRange, KeyValue, LeaseId, Outcome, RangeQuery, RangeResult, Revision, Store, StoreError, Transaction, Watch,
    WatchQuery, Write,
};
use crate::engine::successor;
use crate::proto::etcdserverpb::kv_client::KvClient;
use crate::proto::etcdserverpb::lease_client::LeaseClient;
use crate::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use crate::proto::etcdserverpb::response_op::Response;
use crate::proto::etcdserverpb::{
    CompactionRequest, LeaseGrantRequest, LeaseKeepAliveRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest,
    RangeRequest, RangeResponse, ResponseHeader, ResponseOp, StatusRequest,
};
use crate::state::validate;

/// How many pairs one call brings at most.
const PAGE: usize = 1000;

/// The distant engine.
pub struct EtcdStore {
    inner: Arc<Inner>,
}

/// What the handle, its watches and the compaction share.
pub(crate) struct Inner {
    link: Arc<Link>,
    newest: Shared<Revision>,
    compact_every: Duration,
    /// Up to here, at least, history is compacted.
    compacted: AtomicU64,
    traces: Mutex<Traces>,
    times: Mutex<Times>,
    /// The newest revision up to which progress was asked for.
    asked: tokio::sync::watch::Sender<Revision>,
    closed: tokio::sync::watch::Sender<bool>,
}

impl EtcdStore {
    /// Finds a member that answers.
    ///
    /// # Errors
    /// [`StoreError::BadEndpoint`] if an endpoint or a certificate is wrong, [`StoreError::Unavailable`] if none answers.
    pub async fn connect(config: &EtcdConfig, world: WorldRef) -> Result<Self, StoreError> {
        let inner = Arc::new(Inner {
            link: Arc::new(Link::new(config, world.clone())?),
            newest: Shared::new(),
            compact_every: config.compact_every,
            compacted: AtomicU64::new(0),
            traces: Mutex::default(),
            times: Mutex::default(),
            asked: tokio::sync::watch::Sender::new(0),
            closed: tokio::sync::watch::Sender::new(false),
        });
        inner.revision().await?;
        drop(world.spawn("etcd-compaction", Box::pin(compaction::run(inner.clone()))));
        Ok(Self { inner })
    }
}

impl Drop for EtcdStore {
    fn drop(&mut self) {
        self.inner.closed.send_replace(true);
    }
}

fn revision(header: Option<&ResponseHeader>) -> Revision {
    header.map_or(0, |header| unsigned(header.revision))
}

fn incomplete() -> StoreError {
    StoreError::Unavailable("etcd's answer is incomplete".into())
}

impl Inner {
    fn check_open(&self) -> Result<(), StoreError> {
        if *self.closed.borrow() { Err(StoreError::Closed) } else { Ok(()) }
    }

    async fn read(&self, request: RangeRequest) -> Result<RangeResponse, Fault> {
        let request = &request;
        self.link
            .call(Kind::Read, |channel| async move {
                KvClient::new(channel).max_decoding_message_size(usize::MAX).range(request.clone()).await
            })
            .await
    }

    /// The newest revision, linearizable; concurrent callers share a call.
    async fn revision(&self) -> Result<Revision, StoreError> {
        self.newest
            .get(|| async {
                let request = RangeRequest { key: compaction::KEY, count_only: true, ..RangeRequest::default() };
                Ok(revision(self.read(request).await?.header.as_ref()))
            })
            .await
    }

    /// The newest revision, if `at` can be read.
    async fn readable(&self, at: Revision) -> Result<Revision, Fault> {
        let revision = signed(at.max(1));
        let request = RangeRequest { key: compaction::KEY, count_only: true, revision, ..RangeRequest::default() };
        self.read(request).await.map(|answer| self::revision(answer.header.as_ref()))
    }

    /// What a fault means for a call about revision `at`.
    async fn about(&self, at: Revision, fault: Fault) -> StoreError {
        let told = match fault {
            Fault::Compacted => self.oldest().await.map(|oldest| StoreError::Compacted { oldest }),
            Fault::Future => self.revision().await.map(|newest| StoreError::Future { asked: at, newest }),
            other => Ok(other.into()),
        };
        told.unwrap_or_else(|error| error)
    }

    /// The revision etcd is compacted to, by asking: it is the oldest that can be read.
    async fn oldest(&self) -> Result<Revision, StoreError> {
        let known = self.compacted.load(Ordering::Relaxed);
        let (mut low, mut high) = match self.readable(known).await {
            Ok(_) => return Ok(known),
            Err(Fault::Compacted) => (known.max(1), self.revision().await?),
            Err(fault) => return Err(fault.into()),
        };
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            match self.readable(middle).await {
                Ok(_) => high = middle,
                Err(Fault::Compacted) => low = middle,
                Err(fault) => return Err(fault.into()),
            }
        }
        self.compacted.fetch_max(high, Ordering::Relaxed);
        Ok(high)
    }

    async fn compact(&self, revision: i64) -> Result<(), Fault> {
        let request = CompactionRequest { revision, physical: false };
        let compact = |channel| async move { KvClient::new(channel).compact(request).await };
        match self.link.call(Kind::Read, compact).await {
            Ok(_) => {
                // There is nothing before revision 1 that could be forgotten.
                self.compacted.fetch_max(if revision > 1 { unsigned(revision) } else { 0 }, Ordering::Relaxed);
                Ok(())
            }
            // It was already, perhaps by an attempt of ours whose answer was lost.
            Err(Fault::Compacted) => Ok(()),
            Err(fault) => Err(fault),
        }
    }

    /// A watch has told everything up to `revision`.
    fn seen(&self, revision: Revision) {
        self.times.lock().note(self.link.world.now().as_second(), revision);
    }

    /// Reads at one revision, page by page; the first page decides which, if it is not given.
    async fn range(&self, query: &RangeQuery) -> Result<RangeResult, (Revision, Fault)> {
        let mut result = RangeResult { revision: query.at.unwrap_or(0), ..RangeResult::default() };
        let (mut rest, mut at) = (query.keys.clone(), query.at);
        loop {
            let left = if query.limit == 0 { PAGE } else { PAGE.min(query.limit - result.items.len()) };
            let page = self.read(convert::range(&rest, left, at)).await;
            let page = page.map_err(|fault| (at.unwrap_or(0), fault))?;
            if at.is_none() {
                result.revision = revision(page.header.as_ref());
                at = Some(result.revision);
            }
            let count = usize::try_from(page.count).unwrap_or(0);
            result.remaining = count.saturating_sub(page.kvs.len());
            result.items.extend(page.kvs.into_iter().map(|kv| pair(kv, None)));
            let done = result.remaining == 0 || result.items.len() == query.limit;
            let Some(last) = result.items.last().filter(|_| !done) else { return Ok(result) };
            rest.start = successor(&last.key);
        }
    }
}

/// The pairs that a refused transaction read, one per condition.
fn current(responses: Vec<ResponseOp>) -> Result<Vec<Option<KeyValue>>, StoreError> {
    let found = |op: ResponseOp| match op.response {
        Some(Response::ResponseRange(range)) => Ok(range.kvs.into_iter().next().map(|kv| pair(kv, None))),
        _ => Err(incomplete()),
    };
    responses.into_iter().map(found).collect()
}

#[async_trait]
impl Store for EtcdStore {
    async fn get(&self, key: &[u8], at: Option<Revision>) -> Result<(Option<KeyValue>, Revision), StoreError> {
        let query = RangeQuery { keys: KeyRange::one(Bytes::copy_from_slice(key)), limit: 1, at };
        let found = self.range(query).await?;
        Ok((found.items.into_iter().next(), found.revision))
    }

    async fn range(&self, query: RangeQuery) -> Result<RangeResult, StoreError> {
        self.inner.check_open()?;
        if query.at == Some(0) {
            // Before everything; etcd would take it for "now".
            let oldest = self.compacted().await?;
            return if oldest == 0 { Ok(RangeResult::default()) } else { Err(StoreError::Compacted { oldest }) };
        }
        loop {
            match self.inner.range(&query).await {
                Ok(result) => return Ok(result),
                // Whoever asks for the present does not mind which present.
                Err((_, Fault::Compacted)) if query.at.is_none() => {}
                Err((at, fault)) => return Err(self.inner.about(at, fault).await),
            }
        }
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        self.inner.check_open()?;
        validate(&transaction)?;
        if transaction.writes.is_empty() && transaction.compare.is_empty() {
            return self.revision().await.map(Outcome::Committed);
        }
        if let Some(trace) = transaction.trace {
            // Beforehand: the watch may be faster than the answer.
            self.inner.traces.lock().note(&transaction.writes, trace);
        }
        let request = convert::transaction(&transaction);
        let request = &request;
        let call = self.inner.link.call(Kind::Write, |channel| async move {
            KvClient::new(channel).max_decoding_message_size(usize::MAX).txn(request.clone()).await
        });
        let answer = match call.await {
            Ok(answer) => answer,
            Err(Fault::NoLease) => return Err(self.missing_lease(&transaction.writes).await),
            Err(fault) => return Err(fault.into()),
        };
        let revision = revision(answer.header.as_ref());
        if answer.succeeded {
            return Ok(Outcome::Committed(revision));
        }
        Ok(Outcome::Refused { revision, current: current(answer.responses)? })
    }

    async fn watch(&self, query: WatchQuery) -> Result<Watch, StoreError> {
        self.inner.check_open()?;
        let (after, now) = match query.after {
            None => {
                let now = self.revision().await?;
                (now, now)
            }
            Some(after) => {
                let oldest = self.inner.compacted.load(Ordering::Relaxed);
                if after < oldest {
                    return Err(StoreError::Compacted { oldest: self.compacted().await? });
                }
                match self.inner.readable(after).await {
                    Ok(now) => (after, now),
                    Err(fault) => return Err(self.inner.about(after, fault).await),
                }
            }
        };
        Ok(watch::Cursor::begin(self.inner.clone(), query.keys, after, now).await.into_stream())
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.inner.check_open()?;
        self.inner.revision().await
    }

    async fn compacted(&self) -> Result<Revision, StoreError> {
        self.inner.check_open()?;
        self.inner.oldest().await
    }

    async fn request_progress(&self) -> Result<(), StoreError> {
        let newest = self.revision().await?;
        self.inner.asked.send_modify(|asked| *asked = newest.max(*asked));
        Ok(())
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.inner.check_open()?;
        match self.inner.compact(signed(revision)).await {
            Ok(()) => Ok(()),
            Err(fault) => Err(self.inner.about(revision, fault).await),
        }
    }

    async fn revision_at(&self, time: i64) -> Result<Option<Revision>, StoreError> {
        self.inner.check_open()?;
        Ok(self.inner.times.lock().revision_at(time))
    }

    async fn time_of(&self, revision: Revision) -> Result<Option<i64>, StoreError> {
        self.inner.check_open()?;
        Ok(self.inner.times.lock().time_of(revision))
    }

    async fn count(&self, keys: KeyRange) -> Result<usize, StoreError> {
        self.inner.check_open()?;
        let request = RangeRequest { count_only: true, ..convert::range(&keys, 0, None) };
        let answer = self.inner.read(request).await?;
        Ok(usize::try_from(answer.count).unwrap_or(0))
    }

    async fn size(&self) -> Result<u64, StoreError> {
        self.inner.check_open()?;
        let status = |channel| async move { MaintenanceClient::new(channel).status(StatusRequest {}).await };
        Ok(unsigned(self.inner.link.call(Kind::Read, status).await?.db_size))
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.inner.check_open()?;
        let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
        let request = LeaseGrantRequest { ttl: signed(seconds), id: 0 };
        // A lease that nobody heard of ends by itself, so this may be repeated.
        let grant = |channel| async move { LeaseClient::new(channel).lease_grant(request).await };
        Ok(self.inner.link.call(Kind::Read, grant).await?.id)
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, StoreError> {
        self.inner.check_open()?;
        let request = LeaseKeepAliveRequest { id: lease };
        let keep = |channel| async move {
            let once = futures::stream::once(std::future::ready(request));
            let mut answers = LeaseClient::new(channel).lease_keep_alive(once).await?.into_inner();
            answers.message().await.map(tonic::Response::new)
        };
        let answer = self.inner.link.call(Kind::Read, keep).await?.ok_or_else(incomplete)?;
        if answer.ttl <= 0 {
            return Err(StoreError::LeaseNotFound(lease));
        }
        Ok(Duration::from_secs(unsigned(answer.ttl)))
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.inner.check_open()?;
        let request = LeaseRevokeRequest { id: lease };
        let revoke = |channel| async move { LeaseClient::new(channel).lease_revoke(request).await };
        match self.inner.link.call(Kind::Write, revoke).await {
            Ok(_) => Ok(()),
            Err(Fault::NoLease) => Err(StoreError::LeaseNotFound(lease)),
            Err(fault) => Err(fault.into()),
        }
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.inner.closed.send_replace(true);
        Ok(())
    }
}

impl EtcdStore {
    /// Which of the leases that a refused transaction named does not exist.
    async fn missing_lease(&self, writes: &[Write]) -> StoreError {
        let mut leases: Vec<_> = writes
            .iter()
            .filter_map(|write| match write {
                Write::Put { lease, .. } if *lease != 0 => Some(*lease),
                _ => None,
            })
            .collect();
        leases.dedup();
        for lease in &leases {
            let request = LeaseTimeToLiveRequest { id: *lease, keys: false };
            let ask = |channel| async move { LeaseClient::new(channel).lease_time_to_live(request).await };
            match self.inner.link.call(Kind::Read, ask).await {
                Ok(answer) if answer.ttl < 0 => return StoreError::LeaseNotFound(*lease),
                Ok(_) => {}
                Err(fault) => return fault.into(),
            }
        }
        StoreError::LeaseNotFound(leases.first().copied().unwrap_or(0))
    }
}
