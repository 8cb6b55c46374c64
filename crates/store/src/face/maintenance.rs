//! The Maintenance and Cluster services: what operators ask.

use futures::stream::{self, BoxStream, StreamExt};
use tonic::{Request, Response, Status};

use super::{Face, MEMBER, VERSION, header, status};
use crate::proto::etcdserverpb as pb;

/// Bytes of a snapshot per message.
const CHUNK: usize = 1 << 20;

#[tonic::async_trait]
impl pb::maintenance_server::Maintenance for Face {
    /// There are none: a full disk is told with each write, and damage at the start.
    async fn alarm(&self, _: Request<pb::AlarmRequest>) -> Result<Response<pb::AlarmResponse>, Status> {
        Ok(Response::new(pb::AlarmResponse { header: self.header().await?, alarms: Vec::new() }))
    }

    async fn status(&self, _: Request<pb::StatusRequest>) -> Result<Response<pb::StatusResponse>, Status> {
        let size = self.store.size().await.map_err(status::store)? as i64;
        let revision = self.store.revision().await.map_err(status::store)?;
        Ok(Response::new(pb::StatusResponse {
            header: header(revision),
            version: VERSION.to_owned(),
            db_size: size,
            db_size_in_use: size,
            leader: MEMBER,
            raft_index: revision,
            raft_applied_index: revision,
            raft_term: 1,
            ..Default::default()
        }))
    }

    /// The store does this by itself.
    async fn defragment(&self, _: Request<pb::DefragmentRequest>) -> Result<Response<pb::DefragmentResponse>, Status> {
        Ok(Response::new(pb::DefragmentResponse { header: self.header().await? }))
    }

    async fn hash(&self, _: Request<pb::HashRequest>) -> Result<Response<pb::HashResponse>, Status> {
        Err(no_hash())
    }

    async fn hash_kv(&self, _: Request<pb::HashKvRequest>) -> Result<Response<pb::HashKvResponse>, Status> {
        Err(no_hash())
    }

    type SnapshotStream = BoxStream<'static, Result<pb::SnapshotResponse, Status>>;

    async fn snapshot(&self, _: Request<pb::SnapshotRequest>) -> Result<Response<Self::SnapshotStream>, Status> {
        let now = self.header().await?;
        let snapshot = self.store.snapshot(Vec::new()).await.map_err(status::store)?;
        let messages = snapshot.flat_map(move |chunk| {
            let parts: Vec<_> = match chunk {
                Err(error) => vec![Err(status::store(error))],
                Ok(bytes) => (0..bytes.len())
                    .step_by(CHUNK)
                    .map(|at| {
                        let blob = bytes.slice(at..bytes.len().min(at + CHUNK));
                        Ok(pb::SnapshotResponse { header: now, blob, ..Default::default() })
                    })
                    .collect(),
            };
            stream::iter(parts)
        });
        Ok(Response::new(messages.boxed()))
    }
}

/// Hashes are for comparing members, of which there is one, with a form of data that is not ours.
fn no_hash() -> Status {
    Status::unimplemented("this is no etcd: its data has another form, and it has one member")
}

#[tonic::async_trait]
impl pb::cluster_server::Cluster for Face {
    async fn member_list(&self, _: Request<pb::MemberListRequest>) -> Result<Response<pb::MemberListResponse>, Status> {
        let member = pb::Member {
            id: MEMBER,
            name: "skiff".to_owned(),
            client_ur_ls: vec![self.url.clone()],
            ..Default::default()
        };
        Ok(Response::new(pb::MemberListResponse { header: self.header().await?, members: vec![member] }))
    }
}
