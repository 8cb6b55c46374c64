//! The Lease service.

use std::time::Duration;

use futures::stream::{BoxStream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use super::status::{self, refuse};
use super::{Face, header};
use crate::contract::{LeaseId, StoreError};
use crate::proto::etcdserverpb as pb;

/// Seconds; shorter leases get this much, as with etcd.
const SHORTEST: i64 = 2;
/// Seconds; etcd's limit, and short enough for a duration.
const LONGEST: i64 = 9_000_000_000;

#[tonic::async_trait]
impl pb::lease_server::Lease for Face {
    async fn lease_grant(
        &self,
        request: Request<pb::LeaseGrantRequest>,
    ) -> Result<Response<pb::LeaseGrantResponse>, Status> {
        let pb::LeaseGrantRequest { ttl, id } = request.into_inner();
        if ttl > LONGEST {
            return Err(refuse(status::TTL_TOO_LARGE));
        }
        let ttl = ttl.max(SHORTEST);
        let id = self.shared.grant((id > 0).then_some(id), seconds(ttl)).await.map_err(status::store)?;
        let id = id.ok_or_else(|| refuse(status::LEASE_EXISTS))?;
        Ok(Response::new(pb::LeaseGrantResponse { header: self.header().await?, id, ttl, error: String::new() }))
    }

    async fn lease_revoke(
        &self,
        request: Request<pb::LeaseRevokeRequest>,
    ) -> Result<Response<pb::LeaseRevokeResponse>, Status> {
        self.store.revoke(request.into_inner().id).await.map_err(status::store)?;
        Ok(Response::new(pb::LeaseRevokeResponse { header: self.header().await? }))
    }

    type LeaseKeepAliveStream = BoxStream<'static, Result<pb::LeaseKeepAliveResponse, Status>>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<pb::LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let face = self.clone();
        let answers = request.into_inner().then(move |request| {
            let face = face.clone();
            async move { face.keep_alive(request?.id).await }
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<pb::LeaseTimeToLiveRequest>,
    ) -> Result<Response<pb::LeaseTimeToLiveResponse>, Status> {
        let pb::LeaseTimeToLiveRequest { id, keys } = request.into_inner();
        let now = self.shared.world.elapsed();
        let read = |state: &crate::engine::State| {
            let header = header(state.core.published());
            let Some(lease) = state.core.leases().get(id).filter(|lease| lease.ends > now) else {
                return Ok(pb::LeaseTimeToLiveResponse { header, id, ttl: -1, ..Default::default() });
            };
            let granted_ttl = lease.ttl.as_secs() as i64;
            let ttl = lease.ends.saturating_sub(now).as_secs() as i64;
            let keys = if keys { lease.keys.iter().cloned().collect() } else { Vec::new() };
            Ok(pb::LeaseTimeToLiveResponse { header, id, ttl, granted_ttl, keys })
        };
        Ok(Response::new(self.shared.read(read).map_err(status::store)?))
    }

    async fn lease_leases(
        &self,
        _: Request<pb::LeaseLeasesRequest>,
    ) -> Result<Response<pb::LeaseLeasesResponse>, Status> {
        let read = |state: &crate::engine::State| {
            let leases = state.core.leases().iter().map(|(id, _)| pb::LeaseStatus { id }).collect();
            Ok(pb::LeaseLeasesResponse { header: header(state.core.published()), leases })
        };
        Ok(Response::new(self.shared.read(read).map_err(status::store)?))
    }
}

impl Face {
    /// A lease that is gone has no time left, which is no error.
    async fn keep_alive(&self, id: LeaseId) -> Result<pb::LeaseKeepAliveResponse, Status> {
        let ttl = match self.store.keep_alive(id).await {
            Ok(ttl) => ttl.as_secs() as i64,
            Err(StoreError::LeaseNotFound(_)) => 0,
            Err(error) => return Err(status::store(error)),
        };
        Ok(pb::LeaseKeepAliveResponse { header: self.header().await?, id, ttl })
    }
}

fn seconds(ttl: i64) -> Duration {
    Duration::from_secs(ttl.unsigned_abs())
}
