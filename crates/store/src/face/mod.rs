//! etcd's own face: the embedded store answers etcd's clients, so that its tools can look inside and an upstream API
//! server can run on it.
//!
//! One member, always its own leader. There are no users and no TLS, as everything in it is open to whoever connects:
//! listen on the loopback device only. Errors carry etcd's codes and words, by which its clients tell them apart.

mod kv;
mod lease;
mod maintenance;
mod status;
mod txn;
mod watch;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use skiff_meta::WorldRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch as watch_channel;
use tonic::codegen::Service as _;

use crate::contract::{KeyRange, KeyValue, MAX_TRANSACTION, Revision, Store};
use crate::engine::{Engine, Shared};
use crate::proto::etcdserverpb::cluster_server::ClusterServer;
use crate::proto::etcdserverpb::kv_server::KvServer;
use crate::proto::etcdserverpb::lease_server::LeaseServer;
use crate::proto::etcdserverpb::maintenance_server::MaintenanceServer;
use crate::proto::etcdserverpb::watch_server::WatchServer;
use crate::proto::{etcdserverpb as pb, mvccpb};

/// The one member and its cluster.
const MEMBER: u64 = 0x5ffb_1ff5;
/// Of requests: a whole transaction, and room for what wraps it.
const LONGEST: usize = 2 * MAX_TRANSACTION;
/// Streams on one connection: clients put all their watches on one.
const STREAMS: u32 = 4_096;
/// Bytes a client may send ahead on one stream, and on all of one connection.
const WINDOWS: (u32, u32) = (1 << 20, 4 << 20);
/// Who behaves like this. From 3.5.13 on, clients trust requests for progress, as they may here.
const VERSION: &str = concat!("3.5.21+skiff-", env!("CARGO_PKG_VERSION"));

/// What all services share.
#[derive(Clone)]
struct Face {
    shared: Arc<Shared>,
    store: Arc<dyn Store>,
    /// Where clients reach us.
    url: String,
}

/// Serves the store as etcd v3 until `stop`.
///
/// # Errors
/// When the listener has no address.
pub async fn serve<M: 'static>(
    store: Arc<Engine<M>>,
    listener: TcpListener,
    stop: impl Future<Output = ()>,
) -> Result<(), std::io::Error> {
    let url = format!("http://{}", listener.local_addr()?);
    let (shared, world) = (store.shared().clone(), store.shared().world.clone());
    let services = Arc::new(Services::new(Face { shared, store, url }));
    let (open, closed) = watch_channel::channel(());
    let mut stop = std::pin::pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let connection = services.clone().connection(stream, world.clone(), closed.clone());
                world.spawn("etcd-connection", Box::pin(connection));
            }
            Err(error) => {
                // Out of file descriptors, mostly: those that end make room.
                tracing::warn!("a connection to the etcd face was not accepted: {error}");
                world.sleep(Duration::from_millis(50)).await;
            }
        }
    }
    // Ends all connections: watches would go on for ever.
    drop(open);
    Ok(())
}

/// The services by name.
struct Services {
    kv: KvServer<Face>,
    watch: WatchServer<Face>,
    lease: LeaseServer<Face>,
    cluster: ClusterServer<Face>,
    maintenance: MaintenanceServer<Face>,
}

impl Services {
    fn new(face: Face) -> Self {
        Self {
            kv: KvServer::new(face.clone()).max_decoding_message_size(LONGEST),
            watch: WatchServer::new(face.clone()),
            lease: LeaseServer::new(face.clone()),
            cluster: ClusterServer::new(face.clone()),
            maintenance: MaintenanceServer::new(face),
        }
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, world: WorldRef, mut closed: watch_channel::Receiver<()>) {
        let _ = stream.set_nodelay(true);
        let service = service_fn(move |request| {
            let services = self.clone();
            async move { services.call(request).await }
        });
        let connection = http2::Builder::new(Tasks(world))
            .max_concurrent_streams(STREAMS)
            .initial_stream_window_size(WINDOWS.0)
            .initial_connection_window_size(WINDOWS.1)
            .serve_connection(TokioIo::new(stream), service);
        tokio::select! {
            ended = connection => if let Err(error) = ended {
                tracing::debug!("a connection to the etcd face ended: {error}");
            },
            _ = closed.changed() => {}
        }
    }

    async fn call(&self, request: http::Request<Incoming>) -> Result<http::Response<tonic::body::Body>, Infallible> {
        match request.uri().path().split('/').nth(1).unwrap_or_default() {
            "etcdserverpb.KV" => self.kv.clone().call(request).await,
            "etcdserverpb.Watch" => self.watch.clone().call(request).await,
            "etcdserverpb.Lease" => self.lease.clone().call(request).await,
            "etcdserverpb.Cluster" => self.cluster.clone().call(request).await,
            "etcdserverpb.Maintenance" => self.maintenance.clone().call(request).await,
            other => Ok(tonic::Status::unimplemented(format!("unknown service {other}")).into_http()),
        }
    }
}

/// Runs hyper's tasks through the world.
#[derive(Clone)]
struct Tasks(WorldRef);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Tasks {
    fn execute(&self, task: F) {
        self.0.spawn("etcd-stream", Box::pin(task));
    }
}

fn header(revision: Revision) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader { cluster_id: MEMBER, member_id: MEMBER, revision: revision as i64, raft_term: 1 })
}

impl Face {
    /// The head of an answer about the present.
    async fn header(&self) -> Result<Option<pb::ResponseHeader>, tonic::Status> {
        Ok(header(self.store.revision().await.map_err(status::store)?))
    }
}

/// etcd's way to say which keys: one; or up to but without `end`, where a single zero byte is beyond all.
fn keys(key: &[u8], end: &[u8]) -> KeyRange {
    match end {
        [] => KeyRange::one(own(key)),
        [0] => KeyRange { start: own(key), end: Bytes::new() },
        // An end before the start is an empty range, not one without end.
        _ => KeyRange { start: own(key), end: own(end) },
    }
}

/// Bytes of their own: those of a request keep all of it alive.
fn own(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

fn pair(kv: KeyValue) -> mvccpb::KeyValue {
    mvccpb::KeyValue {
        key: kv.key,
        create_revision: kv.created as i64,
        mod_revision: kv.modified as i64,
        version: kv.version as i64,
        value: kv.value,
        lease: kv.lease,
    }
}
