//! The contract, line by line, on every engine.

#![allow(clippy::expect_used, reason = "a test may")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use skiff_meta::TraceContext;
use skiff_meta::world::RealWorld;
use skiff_store::disk::FakeDisk;
use skiff_store::{
    Change, Compare, EmbeddedStore, EtcdConfig, EtcdStore, KeyRange, MemoryStore, Options, Outcome, RangeQuery,
    Retention, Revision, Store, StoreError, Transaction, WatchItem, WatchQuery, Write,
};
use support::{BEGINNING, TestWorld, changes_until, commit, delete, essence, etcd, put, value, writes};

type Engine = Arc<dyn Store>;

fn small() -> Retention {
    Retention { bytes: 100_000, ..Retention::default() }
}

fn memory(world: &Arc<TestWorld>) -> Engine {
    Arc::new(MemoryStore::with_retention(world.clone(), small()))
}

fn embedded(world: &Arc<TestWorld>) -> Engine {
    let options = Options { retention: small(), segment: 64 << 10, ..Options::default() };
    Arc::new(EmbeddedStore::open_on(Arc::new(FakeDisk::default()), world.clone(), options).expect("an empty disk"))
}

/// Each case becomes a test per engine. Real etcd has a real clock and its own ideas of how much history to keep.
macro_rules! cases {
    (everywhere: $($case:ident)* ; ours: $($ours:ident)*) => {
        mod memory_engine { $(#[test] fn $case() { super::run(super::memory, super::$case); })*
                            $(#[test] fn $ours() { super::run(super::memory, super::$ours); })* }
        mod embedded_engine { $(#[test] fn $case() { super::run(super::embedded, super::$case); })*
                              $(#[test] fn $ours() { super::run(super::embedded, super::$ours); })* }
        mod etcd_alone { $(#[test] fn $case() { super::run_on_etcd(1, super::$case); })* }
        mod own_etcd_face { $(#[test] fn $case() { super::run_on_face(super::$case); })* }
        mod etcd_of_three { $(#[test] fn $case() { super::run_on_etcd(3, super::$case); })* }
    };
}

fn run<F: Future<Output = ()>>(engine: fn(&Arc<TestWorld>) -> Engine, case: fn(Engine, Arc<TestWorld>) -> F) {
    let world = TestWorld::shared();
    world.run(case(engine(&world), world.clone()));
}

fn run_on_etcd<F: Future<Output = ()>>(members: usize, case: fn(Engine, Arc<TestWorld>) -> F) {
    let cluster = etcd::Cluster::start(members);
    etcd::block_on(async { case(Arc::new(cluster.store().await), TestWorld::shared()).await });
}

/// etcd's client engine on our own etcd face: both sides of the same interface.
fn run_on_face<F: Future<Output = ()>>(case: fn(Engine, Arc<TestWorld>) -> F) {
    etcd::block_on(async {
        let world = RealWorld::shared();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let (open, closed) = tokio::sync::oneshot::channel::<()>();
        let store = Arc::new(MemoryStore::new(world.clone()));
        let face = skiff_store::face::serve(store, listener, async move { drop(closed.await) });
        let serving = world.spawn("face", Box::pin(async move { face.await.expect("an address") }));
        let store = EtcdStore::connect(&EtcdConfig::new([url]), world).await.expect("it listens");
        case(Arc::new(store), TestWorld::shared()).await;
        drop(open);
        serving.await;
    });
}

cases! {
    everywhere:
    a_new_store_is_empty
    versions_are_counted
    conditions
    all_or_nothing
    bad_transactions
    missing_keys_are_not_deleted
    pages
    the_past_the_future_and_the_forgotten
    watches_see_all_once_in_order
    watches_tell_what_was
    watches_make_progress
    a_quiet_watch_outlives_compaction
    a_slow_watch_gets_all_or_is_cut_off
    leases_are_revoked
    concurrent_writers
    closing;
    ours:
    traces_are_kept
    a_slow_watch_is_cut_off
    leases_end_in_time
    leases_are_kept_alive
    time_and_revision
    old_history_goes
    much_history_goes
}

#[test]
fn the_memory_engine_commits_at_once() {
    let store = memory(&TestWorld::shared());
    let outcome = store.commit(writes([put("a", "1")])).now_or_never();
    assert!(matches!(outcome, Some(Ok(Outcome::Committed(2)))), "no other task, no runtime: {outcome:?}");
}

fn all() -> KeyRange {
    KeyRange::prefix("")
}

fn watch_all(after: Option<Revision>) -> WatchQuery {
    WatchQuery { keys: all(), after }
}

async fn keys(store: &Engine, range: KeyRange, at: Option<Revision>) -> Vec<Bytes> {
    let result = store.range(RangeQuery { keys: range, limit: 0, at }).await.expect("a readable revision");
    result.items.into_iter().map(|kv| kv.key).collect()
}

async fn a_new_store_is_empty(store: Engine, _: Arc<TestWorld>) {
    assert_eq!(store.revision().await.expect("open"), 1);
    assert_eq!(store.compacted().await.expect("open"), 0);
    assert_eq!(store.count(all()).await.expect("open"), 0);
    for at in [None, Some(0), Some(1)] {
        assert!(keys(&store, all(), at).await.is_empty());
        assert_eq!(value(&*store, "a", at).await, None);
    }
    let mut watch = store.watch(watch_all(Some(0))).await.expect("nothing is forgotten");
    assert!(matches!(watch.next().await, Some(Ok(WatchItem::Progress(1)))));
}

async fn versions_are_counted(store: Engine, _: Arc<TestWorld>) {
    assert_eq!(commit(&*store, writes([put("a", "1"), put("b", "1")])).await, 2);
    assert_eq!(commit(&*store, writes([put("a", "2")])).await, 3);
    let (kv, revision) = store.get(b"a", None).await.expect("open");
    let kv = kv.expect("it is there");
    assert_eq!((revision, kv.created, kv.modified, kv.version, kv.lease), (3, 2, 3, 2, 0));
    commit(&*store, writes([delete("a")])).await;
    commit(&*store, writes([put("a", "3")])).await;
    let kv = store.get(b"a", None).await.expect("open").0.expect("it is back");
    assert_eq!((kv.created, kv.modified, kv.version), (5, 5, 1));
}

async fn traces_are_kept(store: Engine, _: Arc<TestWorld>) {
    let trace = Some(TraceContext { trace_id: 1, span_id: 2, flags: 1 });
    commit(&*store, Transaction { trace, ..writes([put("a", "1")]) }).await;
    assert_eq!(store.get(b"a", None).await.expect("open").0.and_then(|kv| kv.trace), trace);
    commit(&*store, writes([put("a", "2")])).await;
    assert_eq!(store.get(b"a", None).await.expect("open").0.and_then(|kv| kv.trace), None);
    assert_eq!(store.get(b"a", Some(2)).await.expect("open").0.and_then(|kv| kv.trace), trace);
}

async fn conditions(store: Engine, _: Arc<TestWorld>) {
    commit(&*store, writes([put("a", "1")])).await;
    let a = || Bytes::from("a");
    let b = || Bytes::from("b");
    let table = [
        (vec![Compare::Modified(a(), 2)], true),
        (vec![Compare::Modified(a(), 1)], false),
        (vec![Compare::Modified(a(), 0)], false),
        (vec![Compare::Modified(b(), 0)], true),
        (vec![Compare::Modified(b(), 2)], false),
        (vec![Compare::Exists(a())], true),
        (vec![Compare::Exists(b())], false),
        (vec![Compare::Exists(a()), Compare::Modified(b(), 0)], true),
        (vec![Compare::Modified(b(), 0), Compare::Modified(a(), 9)], false),
    ];
    for (compare, holds) in table {
        let before = store.revision().await.expect("open");
        let transaction = Transaction { compare: compare.clone(), ..writes([put("c", "x")]) };
        match store.commit(transaction).await.expect("open") {
            Outcome::Committed(revision) => assert_eq!((holds, revision), (true, before + 1), "{compare:?}"),
            Outcome::Refused { revision, current } => {
                assert_eq!((holds, revision), (false, before), "{compare:?}");
                for (compare, current) in compare.iter().zip(current) {
                    let (Compare::Modified(key, _) | Compare::Exists(key)) = compare;
                    assert_eq!(
                        current.map(|kv| kv.value),
                        value(&*store, std::str::from_utf8(key).expect("text"), None).await
                    );
                }
            }
        }
    }
}

async fn all_or_nothing(store: Engine, _: Arc<TestWorld>) {
    commit(&*store, writes([put("a", "1"), put("b", "1")])).await;
    let refused =
        Transaction { compare: vec![Compare::Modified("a".into(), 0)], ..writes([put("a", "2"), delete("b")]) };
    assert!(matches!(store.commit(refused).await, Ok(Outcome::Refused { revision: 2, .. })));
    assert_eq!(keys(&store, all(), None).await, ["a", "b"]);
    assert_eq!(commit(&*store, writes([put("a", "2"), delete("b"), put("c", "2")])).await, 3);
    assert_eq!(keys(&store, all(), None).await, ["a", "c"]);
    assert_eq!(keys(&store, all(), Some(2)).await, ["a", "b"]);
}

async fn bad_transactions(store: Engine, _: Arc<TestWorld>) {
    let bad = [
        writes([put("a", "1"), put("a", "2")]),
        writes([put("a", "1"), delete("a")]),
        writes([put("", "1")]),
        writes([put(vec![b'x'; skiff_store::MAX_KEY + 1], "1")]),
        writes([put("a", vec![0; skiff_store::MAX_TRANSACTION])]),
    ];
    for transaction in bad {
        assert!(matches!(store.commit(transaction).await, Err(StoreError::BadTransaction(_))));
    }
    let under_no_lease = writes([put("b", "1"), Write::Put { key: "a".into(), value: "1".into(), lease: 7 }]);
    assert!(matches!(store.commit(under_no_lease).await, Err(StoreError::LeaseNotFound(7))));
    assert_eq!(store.revision().await.expect("open"), 1);
    commit(&*store, writes([put(vec![b'x'; skiff_store::MAX_KEY], vec![0; 1 << 20])])).await;
}

async fn missing_keys_are_not_deleted(store: Engine, _: Arc<TestWorld>) {
    assert_eq!(commit(&*store, writes([delete("a")])).await, 1, "takes no revision");
    assert_eq!(commit(&*store, writes([])).await, 1);
    assert_eq!(commit(&*store, writes([delete("a"), put("b", "1")])).await, 2);
    let mut watch = store.watch(watch_all(Some(0))).await.expect("nothing is forgotten");
    assert_eq!(changes_until(&*store, &mut watch, 2).await.expect("a live watch").len(), 1);
}

async fn pages(store: Engine, _: Arc<TestWorld>) {
    let fill = |number: u32| commit(&*store, writes([put(format!("k/{number:04}"), "v")]));
    for hundred in 0..30 {
        futures::future::join_all((hundred * 100..(hundred + 1) * 100).map(fill)).await;
    }
    commit(&*store, writes([put("j", "v"), put("l", "v")])).await;
    let at = store.revision().await.expect("open");
    let range = KeyRange::prefix("k/");
    assert_eq!(store.count(range.clone()).await.expect("open"), 3000);
    // What happens after the first page must not show.
    let (mut rest, mut found) = (range.clone(), Vec::new());
    loop {
        let page =
            store.range(RangeQuery { keys: rest.clone(), limit: 700, at: Some(at) }).await.expect("not forgotten");
        found.extend(page.items.iter().map(|kv| kv.key.clone()));
        assert_eq!((page.remaining, page.revision), (3000 - found.len(), at));
        if page.remaining == 0 {
            break;
        }
        let number = found.len();
        commit(&*store, writes([delete(format!("k/{number:04}")), put(format!("k/{number:04}x"), "v")])).await;
        rest.start = KeyRange::one(found[number - 1].clone()).end;
    }
    assert_eq!(found.len(), 3000);
    assert!(found.iter().enumerate().all(|(number, key)| *key == format!("k/{number:04}")));
    let empty = KeyRange { start: "z".into(), end: "a".into() };
    assert_eq!(store.count(empty.clone()).await.expect("open"), 0);
    assert!(keys(&store, empty, None).await.is_empty());
    assert_eq!(keys(&store, KeyRange { start: "k/2999".into(), end: Bytes::new() }, None).await, ["k/2999", "l"]);
}

async fn the_past_the_future_and_the_forgotten(store: Engine, _: Arc<TestWorld>) {
    commit(&*store, writes([put("a", "1")])).await;
    commit(&*store, writes([put("a", "2"), put("b", "2")])).await;
    commit(&*store, writes([delete("a")])).await;
    commit(&*store, writes([put("a", "4")])).await;
    let seen = [(1, None), (2, Some("1")), (3, Some("2")), (4, None), (5, Some("4"))];
    for (at, expected) in seen {
        assert_eq!(value(&*store, "a", Some(at)).await.as_deref(), expected.map(str::as_bytes), "at {at}");
    }
    assert!(matches!(store.get(b"a", Some(6)).await, Err(StoreError::Future { asked: 6, newest: 5 })));
    assert!(matches!(store.watch(watch_all(Some(6))).await, Err(StoreError::Future { .. })));
    assert!(matches!(store.compact(6).await, Err(StoreError::Future { .. })));

    store.compact(3).await.expect("the past");
    store.compact(2).await.expect("going back is no error");
    assert_eq!(store.compacted().await.expect("open"), 3);
    for (at, expected) in &seen[2..] {
        assert_eq!(value(&*store, "a", Some(*at)).await.as_deref(), expected.map(str::as_bytes), "at {at}");
    }
    let old = RangeQuery { keys: all(), limit: 0, at: Some(2) };
    assert!(matches!(store.range(old).await, Err(StoreError::Compacted { oldest: 3 })));
    assert!(matches!(store.watch(watch_all(Some(2))).await, Err(StoreError::Compacted { oldest: 3 })));
    let mut watch = store.watch(watch_all(Some(3))).await.expect("the oldest that is left");
    assert_eq!(changes_until(&*store, &mut watch, 5).await.expect("a live watch").len(), 2);
    store.compact(5).await.expect("all of it");
    assert_eq!(keys(&store, all(), Some(5)).await, ["a", "b"]);
}

async fn watches_see_all_once_in_order(store: Engine, _: Arc<TestWorld>) {
    let query = |after| WatchQuery { keys: KeyRange::prefix("w/"), after };
    let mut early = store.watch(query(None)).await.expect("open");
    let mut expected = Vec::new();
    for number in 0..1500_u64 {
        let key = format!("w/{}", number % 7);
        let revision = commit(&*store, writes([put(key.clone(), "v"), put("x", "v"), put("w/z", "v")])).await;
        expected.extend([(revision, Bytes::from(key)), (revision, Bytes::from("w/z"))]);
    }
    let newest = store.revision().await.expect("open");
    let oldest = store.compacted().await.expect("open");
    let middle = oldest + (newest - oldest) / 2;
    let mut late = store.watch(query(Some(middle))).await.expect("not forgotten");
    // The early watch may have been overtaken: it has read nothing so far. The late one must see the rest.
    if oldest == 0 {
        let seen = changes_until(&*store, &mut early, newest).await.expect("a live watch");
        let seen: Vec<_> = seen.iter().map(essence).map(|(revision, key, _)| (revision, key)).collect();
        assert_eq!(seen, expected);
    }
    let mut last = middle;
    let mut seen = Vec::new();
    while last < newest {
        let item = late.next().await.expect("no end").expect("a live watch");
        let WatchItem::Changes(changes) = item else { continue };
        let revisions: Vec<_> = changes.iter().map(|change| essence(change).0).collect();
        assert!(revisions[0] > last, "a revision is never split over two items");
        last = *revisions.last().expect("an item is not empty");
        seen.extend(changes.iter().map(essence).map(|(revision, key, _)| (revision, key)));
    }
    expected.retain(|(revision, _)| *revision > middle);
    assert_eq!(seen, expected);
}

async fn watches_tell_what_was(store: Engine, _: Arc<TestWorld>) {
    let trace = Some(TraceContext { trace_id: 5, span_id: 6, flags: 0 });
    let mut watch = store.watch(WatchQuery { keys: KeyRange::one("a"), after: None }).await.expect("open");
    commit(&*store, writes([put("a", "1")])).await;
    commit(&*store, writes([put("a", "2"), put("ab", "2")])).await;
    commit(&*store, Transaction { trace, ..writes([delete("a")]) }).await;
    let changes = changes_until(&*store, &mut watch, 4).await.expect("a live watch");
    let Ok([first, second, third]) = <[Change; 3]>::try_from(changes) else { panic!("three changes of that key") };
    let Change::Put { current: one, previous: None } = first else { panic!("a first put: {first:?}") };
    let Change::Put { current: two, previous: Some(was) } = second else { panic!("a second put: {second:?}") };
    assert_eq!((&was, &two.value[..], two.version), (&one, &b"2"[..], 2));
    let expected = Change::Delete { key: "a".into(), revision: 4, previous: Some(two), trace };
    assert_eq!(third, expected);
}

async fn watches_make_progress(store: Engine, _: Arc<TestWorld>) {
    commit(&*store, writes([put("a", "1")])).await;
    let mut watch = store.watch(WatchQuery { keys: KeyRange::one("z"), after: Some(1) }).await.expect("open");
    assert!(matches!(watch.next().await, Some(Ok(WatchItem::Progress(2)))), "caught up with its beginning");
    commit(&*store, writes([put("a", "2")])).await;
    assert!(futures::poll!(watch.next()).is_pending(), "other keys do not concern it");
    store.request_progress().await.expect("open");
    assert!(matches!(watch.next().await, Some(Ok(WatchItem::Progress(3)))));
    assert!(futures::poll!(watch.next()).is_pending());
    commit(&*store, writes([put("z", "2")])).await;
    store.request_progress().await.expect("open");
    assert!(
        matches!(watch.next().await, Some(Ok(WatchItem::Changes(_)))),
        "changes come before the progress past them"
    );
    assert!(matches!(watch.next().await, Some(Ok(WatchItem::Progress(4)))));
}

async fn a_quiet_watch_outlives_compaction(store: Engine, _: Arc<TestWorld>) {
    let mut watch = store.watch(WatchQuery { keys: KeyRange::one("z"), after: None }).await.expect("open");
    assert!(matches!(watch.next().await, Some(Ok(WatchItem::Progress(1)))));
    for _ in 0..10 {
        commit(&*store, writes([put("a", "1")])).await;
    }
    store.compact(11).await.expect("the present");
    let revision = commit(&*store, writes([put("z", "1")])).await;
    let changes = changes_until(&*store, &mut watch, revision).await.expect("it missed nothing");
    assert_eq!(changes.len(), 1);
}

async fn a_slow_watch_is_cut_off(store: Engine, _: Arc<TestWorld>) {
    let mut watch = store.watch(watch_all(None)).await.expect("open");
    assert!(matches!(watch.next().await, Some(Ok(WatchItem::Progress(1)))));
    commit(&*store, writes([put("a", "1")])).await;
    commit(&*store, writes([put("a", "2")])).await;
    store.compact(3).await.expect("the present");
    assert!(matches!(watch.next().await, Some(Err(StoreError::Lagged(1)))));
    assert!(watch.next().await.is_none(), "an error ends the watch");
}

async fn a_slow_watch_gets_all_or_is_cut_off(store: Engine, _: Arc<TestWorld>) {
    let mut watch = store.watch(watch_all(None)).await.expect("open");
    assert!(matches!(watch.next().await, Some(Ok(WatchItem::Progress(1)))));
    commit(&*store, writes([put("a", "1")])).await;
    commit(&*store, writes([put("a", "2")])).await;
    store.compact(3).await.expect("the present");
    commit(&*store, writes([put("a", "3")])).await;
    match changes_until(&*store, &mut watch, 4).await {
        Ok(changes) => assert_eq!(changes.iter().map(|change| essence(change).0).collect::<Vec<_>>(), [2, 3, 4]),
        Err(error) => {
            assert!(matches!(error, StoreError::Lagged(1)), "{error}");
            assert!(watch.next().await.is_none(), "an error ends the watch");
        }
    }
}

fn leased(key: &'static str, lease: i64) -> Write {
    Write::Put { key: key.into(), value: "v".into(), lease }
}

async fn leases_end_in_time(store: Engine, world: Arc<TestWorld>) {
    let long = store.grant(Duration::from_secs(20)).await.expect("open");
    let short = store.grant(Duration::from_secs(10)).await.expect("open");
    assert!(long > 0 && short > 0 && long != short);
    commit(&*store, writes([leased("a", short), leased("b", short), leased("c", short), leased("d", long)])).await;
    commit(&*store, writes([put("c", "no longer leased")])).await;
    assert_eq!(store.get(b"a", None).await.expect("open").0.map(|kv| kv.lease), Some(short));
    let mut watch = store.watch(watch_all(None)).await.expect("open");
    world.advance(Duration::from_secs(9));
    assert_eq!(commit(&*store, writes([put("e", "still there")])).await, 4);
    assert_eq!(store.count(all()).await.expect("open"), 5);
    world.advance(Duration::from_secs(1));
    let changes = changes_until(&*store, &mut watch, 5).await.expect("a live watch");
    let gone: Vec<_> = changes.iter().map(essence).collect();
    assert_eq!(gone[1..], [(5, "a".into(), None), (5, "b".into(), None)]);
    assert!(matches!(store.keep_alive(short).await, Err(StoreError::LeaseNotFound(_))));
    world.advance(Duration::from_secs(10));
    let changes = changes_until(&*store, &mut watch, 6).await.expect("a live watch");
    assert_eq!(changes.iter().map(essence).collect::<Vec<_>>(), [(6, "d".into(), None)]);
    assert_eq!(keys(&store, all(), None).await, ["c", "e"]);
}

async fn leases_are_kept_alive(store: Engine, world: Arc<TestWorld>) {
    let lease = store.grant(Duration::from_secs(10)).await.expect("open");
    commit(&*store, writes([leased("a", lease)])).await;
    for _ in 0..5 {
        world.advance(Duration::from_secs(9));
        assert_eq!(store.keep_alive(lease).await.expect("alive"), Duration::from_secs(10));
    }
    assert_eq!(store.revision().await.expect("open"), 2, "leases take no revisions");
    let mut watch = store.watch(watch_all(None)).await.expect("open");
    world.advance(Duration::from_secs(10));
    assert_eq!(changes_until(&*store, &mut watch, 3).await.expect("a live watch").len(), 1);
}

async fn leases_are_revoked(store: Engine, _: Arc<TestWorld>) {
    let lease = store.grant(Duration::from_secs(10)).await.expect("open");
    commit(&*store, writes([leased("a", lease), leased("b", lease)])).await;
    commit(&*store, writes([delete("b"), put("c", "v")])).await;
    store.revoke(lease).await.expect("alive");
    assert_eq!(keys(&store, all(), None).await, ["c"]);
    assert_eq!(store.revision().await.expect("open"), 4);
    assert!(matches!(store.revoke(lease).await, Err(StoreError::LeaseNotFound(_))));
    assert!(matches!(store.commit(writes([leased("a", lease)])).await, Err(StoreError::LeaseNotFound(_))));
    let without_keys = store.grant(Duration::from_secs(10)).await.expect("open");
    store.revoke(without_keys).await.expect("alive");
    assert_eq!(store.revision().await.expect("open"), 4);
}

async fn time_and_revision(store: Engine, world: Arc<TestWorld>) {
    for _ in 0..3 {
        commit(&*store, writes([put("a", "1")])).await;
        commit(&*store, writes([put("a", "2")])).await;
        world.advance(Duration::from_secs(10));
    }
    for (second, expected) in [(-1, None), (0, Some(3)), (9, Some(3)), (10, Some(5)), (25, Some(7)), (999, Some(7))] {
        assert_eq!(store.revision_at(BEGINNING + second).await.expect("open"), expected, "at {second}");
    }
    for (revision, expected) in [(2, Some(0)), (3, Some(0)), (4, Some(10)), (7, Some(20)), (8, None)] {
        let found = store.time_of(revision).await.expect("open");
        assert_eq!(found, expected.map(|second| BEGINNING + second), "of {revision}");
    }
    store.compact(5).await.expect("the past");
    let is_known = store.oldest().await.expect("open") <= 4;
    assert_eq!(store.time_of(4).await.expect("open"), is_known.then_some(BEGINNING + 10));
    assert_eq!(store.time_of(5).await.expect("open"), Some(BEGINNING + 10));
}

async fn old_history_goes(store: Engine, world: Arc<TestWorld>) {
    commit(&*store, writes([put("a", "1")])).await;
    commit(&*store, writes([put("a", "2")])).await;
    world.advance(Duration::from_secs(299));
    commit(&*store, writes([put("a", "3")])).await;
    assert_eq!(store.compacted().await.expect("open"), 0);
    world.advance(Duration::from_secs(1));
    commit(&*store, writes([put("a", "4")])).await;
    assert_eq!(store.compacted().await.expect("open"), 3, "what was true five minutes ago is the oldest");
    assert_eq!(value(&*store, "a", Some(3)).await.as_deref(), Some(&b"2"[..]));
    assert_eq!(value(&*store, "a", Some(4)).await.as_deref(), Some(&b"3"[..]));
}

async fn much_history_goes(store: Engine, _: Arc<TestWorld>) {
    for number in 0..100 {
        commit(&*store, writes([put("a", vec![number; 10_000])])).await;
    }
    let oldest = store.compacted().await.expect("open");
    assert!((85..100).contains(&oldest), "about ten replaced values fit, the oldest readable is {oldest}");
    assert_eq!(value(&*store, "a", Some(oldest)).await.map(|value| u64::from(value[0])), Some(oldest - 2));
}

async fn concurrent_writers(store: Engine, _: Arc<TestWorld>) {
    let mut watch = store.watch(watch_all(None)).await.expect("open");
    // Each adds one to the same counter, trying again when another was faster.
    let increment = || async {
        loop {
            let (kv, _) = store.get(b"counter", None).await.expect("open");
            let (count, modified) = kv.map_or((0, 0), |kv| (kv.value[0], kv.modified));
            let compare = vec![Compare::Modified("counter".into(), modified)];
            let transaction = Transaction { compare, ..writes([put("counter", vec![count + 1])]) };
            if let Outcome::Committed(revision) = store.commit(transaction).await.expect("open") {
                assert!(store.revision().await.expect("open") >= revision, "what is acknowledged is visible");
                return revision;
            }
        }
    };
    let mut revisions = futures::future::join_all((0..50).map(|_| increment())).await;
    revisions.sort_unstable();
    assert_eq!(revisions, (2..52).collect::<Vec<_>>());
    assert_eq!(value(&*store, "counter", None).await.as_deref(), Some(&[50][..]));
    let seen = changes_until(&*store, &mut watch, 51).await.expect("a live watch");
    let counts: Vec<_> = seen.iter().map(|change| essence(change).2.expect("a put")[0]).collect();
    assert_eq!(counts, (1..=50).collect::<Vec<_>>());
}

async fn closing(store: Engine, _: Arc<TestWorld>) {
    commit(&*store, writes([put("a", "1")])).await;
    let mut watch = store.watch(watch_all(None)).await.expect("open");
    assert!(matches!(watch.next().await, Some(Ok(WatchItem::Progress(2)))));
    store.close().await.expect("nothing is in its way");
    store.close().await.expect("closing twice is no error");
    assert!(matches!(watch.next().await, Some(Err(StoreError::Closed))));
    assert!(matches!(store.get(b"a", None).await, Err(StoreError::Closed)));
    assert!(matches!(store.commit(writes([put("a", "2")])).await, Err(StoreError::Closed)));
}
