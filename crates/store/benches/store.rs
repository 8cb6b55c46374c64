//! The store's promises as numbers: `cargo bench -p skiff-store [-- puts|etcd|turns|reads|watchers|million]`.
//!
//! Each part prints what it measured beside what the machine itself can do in the same run. Files go below `TMPDIR`.
#![allow(clippy::expect_used, missing_docs, reason = "a bench may stop at the first surprise")]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::join_all;
use skiff_meta::world::RealWorld;
use skiff_meta::{TraceContext, WorldRef};
use skiff_store::proto::etcdserverpb::PutRequest;
use skiff_store::proto::etcdserverpb::kv_client::KvClient;
use skiff_store::{
    EmbeddedStore, KeyRange, MemoryStore, Options, RangeQuery, Store, Transaction, WatchItem, WatchQuery, Write,
};
use tonic::transport::Channel;

/// As in the binary.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// How long one figure of throughput is measured.
const SPAN: Duration = Duration::from_secs(3);
/// How often etcd and we take turns.
const TURNS: usize = 5;
const MILLION: u64 = 1_000_000;

fn main() {
    let wanted: Vec<_> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let world = RealWorld::shared();
        let is_wanted = |part: &str| wanted.is_empty() || wanted.iter().any(|name| name == part);
        if is_wanted("puts") {
            puts(&world).await;
        }
        if is_wanted("etcd") {
            beside_etcd(&world).await;
        }
        if is_wanted("turns") {
            in_turns(&world).await;
        }
        if is_wanted("reads") {
            reads(&world).await;
        }
        if is_wanted("watchers") {
            watchers(&world).await;
        }
        if is_wanted("million") {
            million(&world).await;
        }
    });
}

fn say(what: impl AsRef<str>, figure: String) {
    println!("{:<58} {figure:>32}", what.as_ref());
}

fn milliseconds(duration: Duration) -> String {
    format!("{:.3} ms", duration.as_secs_f64() * 1e3)
}

/// Sorted durations as p50 and p99.
fn percentiles(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |percent| times.get(times.len() * percent / 100).copied().unwrap_or_default();
    format!("p50 {}, p99 {}", milliseconds(at(50)), milliseconds(at(99)))
}

fn put(key: String, value: impl Into<Bytes>) -> Transaction {
    let trace = Some(TraceContext { trace_id: 1, span_id: 1, flags: 1 });
    Transaction { writes: vec![Write::Put { key: key.into(), value: value.into(), lease: 0 }], trace, compare: vec![] }
}

fn open(dir: &Path, world: &WorldRef) -> Arc<EmbeddedStore> {
    Arc::new(EmbeddedStore::open(dir, world.clone(), Options::default()).expect("an empty directory"))
}

/// What the disk gives to the simplest program: overwrites in a file that has its room, a sync after each.
fn bare_syncs(world: &WorldRef, dir: &Path, size: usize) -> Vec<Duration> {
    let file = File::create(dir.join("bare")).expect("a file");
    let (data, count) = (vec![7; size], 2000);
    (0..count).for_each(|at| file.write_all_at(&data, (at * size) as u64).expect("room"));
    file.sync_all().expect("a working disk");
    let one = |at: usize| {
        let start = world.elapsed();
        file.write_all_at(&data, (at * size) as u64).expect("room");
        file.sync_data().expect("a working disk");
        world.elapsed() - start
    };
    (0..count).map(one).collect()
}

async fn puts(world: &WorldRef) {
    let dir = tempfile::tempdir().expect("a directory");
    for size in [1 << 10, 32 << 10, 128 << 10] {
        let times = bare_syncs(world, dir.path(), size);
        say(format!("bare write and fdatasync of {} KiB", size >> 10), percentiles(times));
    }
    for writers in [1, 32, 128, 1000] {
        // All stay until the end: a file system that is taking back a gigabyte is another disk.
        let dir = tempfile::tempdir_in(dir.path()).expect("a directory").keep();
        let (rate, times) = put_into_embedded(world, &dir, writers).await;
        say(format!("embedded: puts of 1 KiB, {writers} writers: {rate:.0}/s"), percentiles(times));
    }
    for writers in [1, 128] {
        let store = Arc::new(MemoryStore::new(world.clone()));
        let (rate, times) = put_for_a_while(world, store, writers).await;
        say(format!("memory: puts of 1 KiB, {writers} writers: {rate:.0}/s"), percentiles(times));
    }
}

async fn put_into_embedded(world: &WorldRef, dir: &Path, writers: u64) -> (f64, Vec<Duration>) {
    let store = open(dir, world);
    let measured = put_for_a_while(world, store.clone(), writers).await;
    store.close().await.expect("a working disk");
    measured
}

/// etcd and the embedded store in turns, so that a disk that changes its mind meets both.
async fn in_turns(world: &WorldRef) {
    let Some(etcd) = Etcd::start(world).await else {
        return say("etcd", "not installed".to_owned());
    };
    let dir = tempfile::tempdir().expect("a directory");
    let mut ratios = Vec::new();
    for _ in 0..TURNS {
        let (theirs, _) = put_by_grpc(world, &etcd.url, 128).await;
        let own = tempfile::tempdir_in(dir.path()).expect("a directory").keep();
        let (ours, _) = put_into_embedded(world, &own, 128).await;
        say(format!("128 writers: etcd {theirs:.0}/s, embedded {ours:.0}/s"), format!("{:.1} times", ours / theirs));
        ratios.push(ours / theirs);
    }
    ratios.sort_by(f64::total_cmp);
    say("128 writers, embedded to etcd, median of the turns", format!("{:.1} times", ratios[TURNS / 2]));
}

async fn put_for_a_while(world: &WorldRef, store: Arc<dyn Store>, writers: u64) -> (f64, Vec<Duration>) {
    for_a_while(world, writers, move |key| {
        let store = store.clone();
        async move { drop(store.commit(put(key, vec![7; 1024])).await.expect("a working disk")) }
    })
    .await
}

/// New keys from many tasks at once; how many per second, and how long each took.
async fn for_a_while<F: Future<Output = ()> + Send + 'static>(
    world: &WorldRef,
    writers: u64,
    write: impl Fn(String) -> F + Clone + Send + Sync + 'static,
) -> (f64, Vec<Duration>) {
    let start = world.elapsed();
    let tasks = (0..writers).map(|writer| {
        let (world, write) = (world.clone(), write.clone());
        let (times, result) = tokio::sync::oneshot::channel();
        let task = async move {
            let mut mine = Vec::new();
            for number in 0_u64.. {
                let begin = world.elapsed();
                if begin - start > SPAN {
                    break;
                }
                let key = format!("/registry/configmaps/namespace-{writer}/name-{number}");
                write(key).await;
                mine.push(world.elapsed() - begin);
            }
            times.send(mine).expect("someone waits");
        };
        (Box::pin(task), result)
    });
    let (tasks, results): (Vec<_>, Vec<_>) = tasks.unzip();
    for task in tasks {
        world.spawn("writer", task);
    }
    let times: Vec<_> = join_all(results).await.into_iter().flat_map(|times| times.expect("no panic")).collect();
    (times.len() as f64 / (world.elapsed() - start).as_secs_f64(), times)
}

/// The same load on Debian's etcd and on our own etcd face: the same client, connections and disk, one after the other,
/// so that only what answers differs.
async fn beside_etcd(world: &WorldRef) {
    let Some(etcd) = Etcd::start(world).await else {
        return say("etcd", "not installed".to_owned());
    };
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path(), world);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let face = skiff_store::face::serve(store.clone(), listener, std::future::pending());
    world.spawn("face", Box::pin(async move { face.await.expect("an address") }));
    for writers in [1, 32, 128, 1000] {
        let mut rates = Vec::new();
        for (name, url) in [("etcd", &etcd.url), ("our etcd face", &url)] {
            let (rate, times) = put_by_grpc(world, url, writers).await;
            say(format!("{name}: puts of 1 KiB by gRPC, {writers} clients: {rate:.0}/s"), percentiles(times));
            rates.push(rate);
        }
        say(format!("our face to etcd, {writers} clients"), format!("{:.1} times as many", rates[1] / rates[0]));
    }
    store.close().await.expect("a working disk");
}

/// Clients share connections, sixteen to each, as programs of one machine do.
async fn put_by_grpc(world: &WorldRef, url: &str, writers: u64) -> (f64, Vec<Duration>) {
    let endpoint = Channel::from_shared(url.to_owned()).expect("a URL").tcp_nodelay(true);
    let mut channels = Vec::new();
    for _ in 0..writers.div_ceil(16) {
        channels.push(KvClient::new(endpoint.connect().await.expect("it listens")));
    }
    let (channels, turn) = (Arc::new(channels), Arc::new(AtomicU64::new(0)));
    for_a_while(world, writers, move |key| {
        let mut kv = channels[turn.fetch_add(1, Relaxed) as usize % channels.len()].clone();
        let put = PutRequest { key: key.into(), value: vec![7; 1024].into(), ..Default::default() };
        async move { drop(kv.put(put).await.expect("it answers")) }
    })
    .await
}

/// An etcd of the bench's own; gone with its data when dropped.
struct Etcd {
    child: std::process::Child,
    url: String,
    _dir: tempfile::TempDir,
}

impl Etcd {
    async fn start(world: &WorldRef) -> Option<Self> {
        let dir = tempfile::tempdir().expect("a directory");
        let port = || std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
        let [url, peer] = [port(), port()].map(|port| format!("http://127.0.0.1:{port}"));
        let mut command = std::process::Command::new("etcd");
        command.arg("--data-dir").arg(dir.path()).args(["--log-level", "error", "--quota-backend-bytes", "8589934592"]);
        command.args(["--listen-client-urls", &url, "--advertise-client-urls", &url, "--listen-peer-urls", &peer]);
        command.args(["--initial-advertise-peer-urls", &peer, "--initial-cluster", &format!("default={peer}")]);
        let child = command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().ok()?;
        let etcd = Self { child, url, _dir: dir };
        let endpoint = Channel::from_shared(etcd.url.clone()).expect("a URL");
        for _ in 0..200 {
            if endpoint.connect().await.is_ok() {
                return Some(etcd);
            }
            world.sleep(Duration::from_millis(50)).await;
        }
        panic!("etcd does not listen");
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn reads(world: &WorldRef) {
    let store = MemoryStore::new(world.clone());
    for number in 0..100_000 {
        store.commit(put(format!("/registry/pods/default/pod-{number:06}"), vec![7; 1024])).await.expect("memory");
    }
    let keys = KeyRange::prefix("/registry/pods/");
    let ranges = || async {
        let start = world.elapsed();
        let all = store.range(RangeQuery { keys: keys.clone(), limit: 0, at: None }).await.expect("open");
        assert_eq!(all.items.len(), 100_000);
        world.elapsed() - start
    };
    let mut times = Vec::new();
    for _ in 0..20 {
        times.push(ranges().await);
    }
    say("range of 100,000 keys", percentiles(times));
    let mut times = Vec::new();
    for number in 0..1000 {
        let start = world.elapsed();
        let from = KeyRange { start: format!("/registry/pods/default/pod-{:06}", number * 99).into(), ..keys.clone() };
        let page = store.range(RangeQuery { keys: from, limit: 500, at: None }).await.expect("open");
        times.push(world.elapsed() - start);
        assert_eq!(page.items.len() + page.remaining, 100_000 - number * 99);
    }
    say("page of 500 of 100,000 keys, with the number remaining", percentiles(times));
    let mut times = Vec::new();
    for number in 0..100_000 {
        let key = format!("/registry/pods/default/pod-{:06}", (number * 7919) % 100_000);
        let start = world.elapsed();
        store.get(key.as_bytes(), None).await.expect("open");
        times.push(world.elapsed() - start);
    }
    say("get of one of 100,000 keys", percentiles(times));
}

/// How long until a thousand watchers have seen a write, each in a task of its own.
async fn watchers(world: &WorldRef) {
    let store = Arc::new(MemoryStore::new(world.clone()));
    let (seen, all_seen) = (Arc::new(AtomicU64::new(0)), Arc::new(tokio::sync::Notify::new()));
    for _ in 0..1000 {
        let query = WatchQuery { keys: KeyRange::prefix("/registry/"), after: None };
        let mut watch = store.watch(query).await.expect("open");
        let (seen, all_seen) = (seen.clone(), all_seen.clone());
        let task = async move {
            while let Some(Ok(item)) = watch.next().await {
                if matches!(item, WatchItem::Changes(_)) && (seen.fetch_add(1, Relaxed) + 1) % 1000 == 0 {
                    all_seen.notify_one();
                }
            }
        };
        world.spawn("watcher", Box::pin(task));
    }
    let mut times = Vec::new();
    for number in 0..500 {
        let start = world.elapsed();
        store.commit(put(format!("/registry/pods/default/pod-{number}"), vec![7; 1024])).await.expect("memory");
        all_seen.notified().await;
        times.push(world.elapsed() - start);
    }
    say("one write seen by the last of 1,000 watchers", percentiles(times));
}

/// Bytes of memory this process holds.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number");
    pages * 4096
}

/// A small object: its key and value are freshly allocated, as a server's are.
fn small(number: u64) -> Transaction {
    put(format!("/registry/leases/kube-node-lease/node-{number:07}"), vec![b'v'; 100])
}

async fn million(world: &WorldRef) {
    let dir = tempfile::tempdir().expect("a directory");
    let before = resident();
    let store = open(dir.path(), world);
    let start = world.elapsed();
    for first in (0..MILLION).step_by(1000) {
        for result in join_all((first..first + 1000).map(|number| store.commit(small(number)))).await {
            result.expect("a working disk");
        }
    }
    say("1,000,000 small keys written, 1,000 at a time", milliseconds(world.elapsed() - start));
    say(
        "memory per key right after (149 bytes of key and value)",
        format!("{} bytes", (resident() - before) / MILLION),
    );
    reopen(world, dir.path(), store, "start with 1,000,000 keys, as the writer left them").await;

    // The worst case: as much log behind the checkpoint as is allowed.
    let store = open(dir.path(), world);
    for first in (0..MILLION / 2 - 1000).step_by(1000) {
        for result in join_all((first..first + 1000).map(|number| store.commit(small(number * 2 % MILLION)))).await {
            result.expect("a working disk");
        }
    }
    reopen(world, dir.path(), store, "the same after 500,000 updates").await;
}

async fn reopen(world: &WorldRef, dir: &Path, store: Arc<EmbeddedStore>, what: &str) {
    store.close().await.expect("a working disk");
    drop(store);
    let size: u64 =
        std::fs::read_dir(dir).expect("a directory").flatten().filter_map(|f| f.metadata().ok()).map(|m| m.len()).sum();
    let start = world.elapsed();
    let store = open(dir, world);
    let took = milliseconds(world.elapsed() - start);
    assert_eq!(store.count(KeyRange::prefix("")).await.expect("open") as u64, MILLION);
    say(what, format!("{took}, {} MiB on disk", size >> 20));
    store.close().await.expect("a working disk");
}
