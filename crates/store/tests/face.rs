//! etcd's face, by the client stubs of the same interface: what etcd's clients rely on, line by line.
#![allow(clippy::expect_used, reason = "a test may")]

use std::sync::Arc;

use bytes::Bytes;
use skiff_meta::world::{RealWorld, Task};
use skiff_store::proto::etcdserverpb as pb;
use skiff_store::proto::mvccpb::event::EventType;
use skiff_store::{MemoryStore, Store, face};
use tokio::sync::{mpsc, oneshot};
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

/// A store with its face, and clients of it.
struct Server {
    store: Arc<MemoryStore>,
    kv: pb::kv_client::KvClient<Channel>,
    lease: pb::lease_client::LeaseClient<Channel>,
    watch: pb::watch_client::WatchClient<Channel>,
    _open: oneshot::Sender<()>,
    _task: Task,
}

impl Server {
    async fn start() -> Self {
        let world = RealWorld::shared();
        let store = Arc::new(MemoryStore::new(world.clone()));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let (open, closed) = oneshot::channel::<()>();
        let serve = face::serve(store.clone(), listener, async move { drop(closed.await) });
        let task = world.spawn("face", Box::pin(async move { serve.await.expect("an address") }));
        let channel = Channel::from_shared(url).expect("a URL").connect().await.expect("it listens");
        Self {
            store,
            kv: pb::kv_client::KvClient::new(channel.clone()),
            lease: pb::lease_client::LeaseClient::new(channel.clone()),
            watch: pb::watch_client::WatchClient::new(channel),
            _open: open,
            _task: task,
        }
    }

    async fn put(&mut self, key: &'static str, value: &'static str) -> i64 {
        let put = pb::PutRequest { key: key.into(), value: value.into(), ..Default::default() };
        self.kv.put(put).await.expect("a put").into_inner().header.expect("a header").revision
    }

    async fn txn(&mut self, request: pb::TxnRequest) -> Result<pb::TxnResponse, Status> {
        self.kv.txn(request).await.map(tonic::Response::into_inner)
    }

    async fn value(&mut self, key: &'static str) -> String {
        let range = pb::RangeRequest { key: key.into(), ..Default::default() };
        let found = self.kv.range(range).await.expect("a range").into_inner();
        found.kvs.first().map_or(String::new(), |kv| String::from_utf8_lossy(&kv.value).into_owned())
    }

    /// A stream of watches: where to ask, and what comes.
    async fn watching(&mut self) -> (mpsc::UnboundedSender<pb::WatchRequest>, Streaming<pb::WatchResponse>) {
        let (ask, mut asked) = mpsc::unbounded_channel();
        let requests = futures::stream::poll_fn(move |cx| asked.poll_recv(cx));
        (ask, self.watch.watch(requests).await.expect("a stream").into_inner())
    }
}

fn run<F: Future<Output = ()>>(case: impl FnOnce(Server) -> F) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads");
    runtime.block_on(async { case(Server::start().await).await });
}

fn op(request: pb::request_op::Request) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}

fn put(key: &'static str, value: &'static str) -> pb::RequestOp {
    op(pb::request_op::Request::RequestPut(pb::PutRequest {
        key: key.into(),
        value: value.into(),
        ..Default::default()
    }))
}

fn get(key: &'static str) -> pb::RequestOp {
    op(pb::request_op::Request::RequestRange(pb::RangeRequest { key: key.into(), ..Default::default() }))
}

fn delete(key: &'static str, end: &'static str) -> pb::RequestOp {
    let request = pb::DeleteRangeRequest { key: key.into(), range_end: end.into(), prev_kv: true };
    op(pb::request_op::Request::RequestDeleteRange(request))
}

fn inner(request: pb::TxnRequest) -> pb::RequestOp {
    op(pb::request_op::Request::RequestTxn(request))
}

fn compare(key: &'static str, target: i32, result: i32, to: pb::compare::TargetUnion) -> pb::Compare {
    pb::Compare { result, target, key: key.into(), target_union: Some(to), range_end: Bytes::new() }
}

#[test]
fn all_comparisons() {
    use pb::compare::TargetUnion::{CreateRevision, Lease, ModRevision, Value, Version};
    const EQUAL: i32 = 0;
    const GREATER: i32 = 1;
    const LESS: i32 = 2;
    const OTHER: i32 = 3;
    run(async |mut server: Server| {
        // a: created at 2, last write at 4, version 2.
        server.put("a", "x").await;
        server.put("b", "y").await;
        server.put("a", "m").await;
        for (compare, expected) in [
            (compare("a", 0, EQUAL, Version(2)), true),
            (compare("a", 0, GREATER, Version(2)), false),
            (compare("a", 1, EQUAL, CreateRevision(2)), true),
            (compare("a", 1, OTHER, CreateRevision(2)), false),
            (compare("a", 2, EQUAL, ModRevision(4)), true),
            (compare("a", 2, LESS, ModRevision(5)), true),
            (compare("a", 3, EQUAL, Value("m".into())), true),
            (compare("a", 3, GREATER, Value("b".into())), true),
            (compare("a", 4, EQUAL, Lease(0)), true),
            (compare("none", 0, EQUAL, Version(0)), true),
            (compare("none", 2, EQUAL, ModRevision(0)), true),
            (compare("none", 3, OTHER, Value("x".into())), false),
            (pb::Compare { range_end: "c".into(), ..compare("a", 1, LESS, CreateRevision(4)) }, true),
            (pb::Compare { range_end: "c".into(), ..compare("a", 1, LESS, CreateRevision(3)) }, false),
        ] {
            let request = pb::TxnRequest { compare: vec![compare.clone()], ..Default::default() };
            assert_eq!(server.txn(request).await.expect("an answer").succeeded, expected, "{compare:?}");
        }
        assert_eq!(server.store.revision().await.expect("open"), 4, "nothing was written");
    });
}

#[test]
fn operations_see_those_before_them_and_happen_at_one_revision() {
    run(async |mut server: Server| {
        server.put("a", "1").await;
        server.put("b", "1").await;
        // The inner comparison looks at the state before the transaction, its reads at what came before them.
        let absent = compare("n", 0, 0, pb::compare::TargetUnion::Version(0));
        let within = pb::TxnRequest {
            compare: vec![absent],
            success: vec![get("n"), put("m", "1")],
            failure: vec![put("x", "1")],
        };
        let success = vec![put("n", "1"), inner(within), delete("a", "c"), get("a")];
        let answer = server.txn(pb::TxnRequest { success, ..Default::default() }).await.expect("an answer");
        assert_eq!(answer.header.expect("a header").revision, 4);
        let responses: Vec<_> = answer.responses.into_iter().filter_map(|op| op.response).collect();
        use pb::response_op::Response::{ResponseDeleteRange, ResponsePut, ResponseRange, ResponseTxn};
        let [ResponsePut(_), ResponseTxn(within), ResponseDeleteRange(gone), ResponseRange(read)] = &responses[..]
        else {
            panic!("{responses:?}");
        };
        assert!(within.succeeded);
        let Some(ResponseRange(seen)) = &within.responses[0].response else { panic!("{within:?}") };
        assert_eq!((seen.kvs.len(), seen.kvs[0].mod_revision, seen.kvs[0].version), (1, 4, 1));
        assert_eq!((gone.deleted, gone.prev_kvs.len(), read.count), (2, 2, 0));
        assert_eq!(
            (server.value("m").await, server.value("x").await, server.value("a").await),
            ("1".into(), "".into(), "".into())
        );
        assert_eq!(server.store.revision().await.expect("open"), 4);
    });
}

#[test]
fn refusals_in_etcd_s_words() {
    run(async |mut server: Server| {
        server.put("a", "1").await;
        server.put("a", "2").await;
        server.store.compact(3).await.expect("the past");
        let txn = |success: Vec<pb::RequestOp>| pb::TxnRequest { success, ..Default::default() };
        let of_put = |put: pb::PutRequest| txn(vec![op(pb::request_op::Request::RequestPut(put))]);
        let table = [
            (txn(vec![put("k", "1"), put("k", "2")]), Code::InvalidArgument, "duplicate key given in txn request"),
            (txn(vec![delete("a", "z"), put("k", "2")]), Code::InvalidArgument, "duplicate key given in txn request"),
            (txn(vec![inner(txn(vec![put("k", "1")])), put("k", "2")]), Code::InvalidArgument, "duplicate key"),
            (txn(vec![put("", "1")]), Code::InvalidArgument, "etcdserver: key is not provided"),
            (txn(vec![put("k", "1"); 3000]), Code::InvalidArgument, "too many operations"),
            (
                of_put(pb::PutRequest { key: "k".into(), ignore_value: true, ..Default::default() }),
                Code::InvalidArgument,
                "etcdserver: key not found",
            ),
            (
                of_put(pb::PutRequest { key: "k".into(), value: "v".into(), ignore_value: true, ..Default::default() }),
                Code::InvalidArgument,
                "etcdserver: value is provided",
            ),
            (
                of_put(pb::PutRequest { key: "k".into(), lease: 77, ..Default::default() }),
                Code::NotFound,
                "etcdserver: requested lease not found",
            ),
        ];
        for (request, code, words) in table {
            let status = server.txn(request).await.expect_err("refused");
            assert!(status.code() == code && status.message().contains(words), "{status}");
        }
        for (revision, words) in [
            (2, "etcdserver: mvcc: required revision has been compacted"),
            (99, "etcdserver: mvcc: required revision is a future revision"),
        ] {
            let range = pb::RangeRequest { key: "a".into(), revision, ..Default::default() };
            let status = server.kv.range(range).await.expect_err("refused");
            assert_eq!((status.code(), status.message()), (Code::OutOfRange, words));
        }
        for revision in [2, 3] {
            let status =
                server.kv.compact(pb::CompactionRequest { revision, physical: false }).await.expect_err("refused");
            assert!(status.message().contains("has been compacted"), "{status}");
        }
        assert_eq!(server.store.revision().await.expect("open"), 3, "nothing was written");
    });
}

#[test]
fn leases_by_name() {
    run(async |mut server: Server| {
        let grant = |id| pb::LeaseGrantRequest { ttl: 100, id };
        assert_eq!(server.lease.lease_grant(grant(7)).await.expect("granted").into_inner().id, 7);
        let taken = server.lease.lease_grant(grant(7)).await.expect_err("taken");
        assert_eq!((taken.code(), taken.message()), (Code::FailedPrecondition, "etcdserver: lease already exists"));
        let keep = futures::stream::iter([7, 8].map(|id| pb::LeaseKeepAliveRequest { id }));
        let mut kept = server.lease.lease_keep_alive(keep).await.expect("a stream").into_inner();
        let ttls = [kept.message().await, kept.message().await].map(|answer| answer.expect("one").expect("one").ttl);
        assert_eq!(ttls, [100, 0]);
        let gone = pb::LeaseTimeToLiveRequest { id: 8, keys: true };
        assert_eq!(server.lease.lease_time_to_live(gone).await.expect("an answer").into_inner().ttl, -1);
    });
}

fn create(watch: pb::WatchCreateRequest) -> pb::WatchRequest {
    pb::WatchRequest { request_union: Some(pb::watch_request::RequestUnion::CreateRequest(watch)) }
}

fn progress() -> pb::WatchRequest {
    pb::WatchRequest {
        request_union: Some(pb::watch_request::RequestUnion::ProgressRequest(pb::WatchProgressRequest {})),
    }
}

async fn next(answers: &mut Streaming<pb::WatchResponse>) -> pb::WatchResponse {
    answers.message().await.expect("a live stream").expect("no end")
}

/// An event's revision, kind, and whether it says what was.
type Told = (i64, i32, bool);

#[test]
fn watches_on_one_stream() {
    run(async |mut server: Server| {
        server.put("a/1", "1").await;
        let (ask, mut answers) = server.watching().await;
        let all = pb::WatchCreateRequest { key: "a/".into(), range_end: "a0".into(), ..Default::default() };
        let from = |start_revision| pb::WatchCreateRequest { start_revision, ..all.clone() };
        ask.send(create(pb::WatchCreateRequest { prev_kv: true, ..from(2) })).expect("open");
        let created = next(&mut answers).await;
        assert!(created.created && created.watch_id == 0 && created.header.expect("a header").revision == 2);
        let first = next(&mut answers).await;
        assert_eq!(
            (first.watch_id, first.events.len(), first.events[0].kv.as_ref().map(|kv| kv.mod_revision)),
            (0, 1, Some(2))
        );

        // Another only wants removals, a third begins in the future.
        ask.send(create(pb::WatchCreateRequest { filters: vec![0], watch_id: 9, ..all.clone() })).expect("open");
        assert_eq!(next(&mut answers).await.watch_id, 9);
        ask.send(create(pb::WatchCreateRequest { watch_id: 9, ..all.clone() })).expect("open");
        let refused = next(&mut answers).await;
        assert!(refused.canceled && refused.watch_id == -1 && refused.cancel_reason.contains("duplicate watch ID"));
        ask.send(create(from(5))).expect("open");
        assert_eq!(next(&mut answers).await.watch_id, 1);

        server.put("a/1", "2").await;
        let delete = pb::DeleteRangeRequest { key: "a/1".into(), ..Default::default() };
        server.kv.delete_range(delete).await.expect("gone");
        server.put("a/2", "5").await;
        ask.send(progress()).expect("open");
        let mut told: Vec<(i64, Vec<Told>)> = Vec::new();
        let reached = loop {
            let answer = next(&mut answers).await;
            let event = |event: &skiff_store::proto::mvccpb::Event| {
                (event.kv.as_ref().map_or(0, |kv| kv.mod_revision), event.r#type, event.prev_kv.is_some())
            };
            match answer.events.is_empty() {
                true => break answer,
                false => told.push((answer.watch_id, answer.events.iter().map(event).collect())),
            }
        };
        let of = |id: i64| {
            told.iter().filter(|(of, _)| *of == id).flat_map(|(_, events)| events.clone()).collect::<Vec<_>>()
        };
        let (put, gone) = (EventType::Put as i32, EventType::Delete as i32);
        assert_eq!(of(0), [(3, put, true), (4, gone, true), (5, put, false)]);
        assert_eq!((of(9), of(1)), (vec![(4, gone, false)], vec![(5, put, false)]));
        assert_eq!((reached.watch_id, reached.header.expect("a header").revision), (-1, 5), "all of it before this");

        let cancel = pb::watch_request::RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id: 9 });
        ask.send(pb::WatchRequest { request_union: Some(cancel) }).expect("open");
        let cancelled = next(&mut answers).await;
        assert!(cancelled.canceled && cancelled.watch_id == 9 && cancelled.compact_revision == 0);

        server.store.compact(4).await.expect("the past");
        ask.send(create(from(3))).expect("open");
        let (created, cancelled) = (next(&mut answers).await, next(&mut answers).await);
        assert!(created.created && cancelled.canceled && created.watch_id == cancelled.watch_id);
        assert_eq!(cancelled.compact_revision, 5, "from there it can begin anew");
        ask.send(create(from(cancelled.compact_revision))).expect("open");
        assert!(next(&mut answers).await.created);
        assert_eq!(next(&mut answers).await.events.len(), 1);
    });
}
