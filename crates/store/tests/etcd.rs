//! What only real etcd shows: dying members, outages, its clock, its limits, and others beside us.
#![allow(clippy::expect_used, reason = "a test may")]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use parking_lot::Mutex;
use skiff_meta::TraceContext;
use skiff_meta::world::{RealWorld, World};
use skiff_store::proto::etcdserverpb::alarm_request::AlarmAction;
use skiff_store::proto::etcdserverpb::kv_client::KvClient;
use skiff_store::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use skiff_store::proto::etcdserverpb::{AlarmRequest, AlarmType, CompactionRequest, DefragmentRequest, StatusRequest};
use skiff_store::{
    Change, EtcdConfig, EtcdStore, KeyRange, Outcome, RangeQuery, Revision, Store, StoreError, Transaction, WatchItem,
    WatchQuery, Write,
};
use support::etcd::{Cluster, Flags, block_on};
use support::{changes_until, commit, essence, put, value, writes};
use tonic::transport::Channel;

const CAREFUL: Flags<'_> = Flags { more: &[], tls: false, careful: true };

fn all() -> WatchQuery {
    WatchQuery { keys: KeyRange::prefix(""), after: None }
}

async fn maintenance(url: String) -> MaintenanceClient<Channel> {
    MaintenanceClient::connect(url).await.expect("a living member")
}

/// The number of the member that leads.
async fn leader(cluster: &Cluster) -> usize {
    for (number, url) in cluster.urls().enumerate() {
        let status = maintenance(url).await.status(StatusRequest {}).await.expect("a living member").into_inner();
        if status.header.expect("every answer has one").member_id == status.leader {
            return number;
        }
    }
    panic!("nobody leads");
}

/// Writers that never rest, each with keys of its own.
struct Load {
    world: Arc<dyn World>,
    store: Arc<dyn Store>,
    /// What was acknowledged, and where.
    acknowledged: Mutex<BTreeMap<Bytes, Revision>>,
    /// When the last answer came, and the longest time without one.
    pace: Mutex<(Duration, Duration)>,
    failures: AtomicUsize,
}

impl Load {
    fn new(store: Arc<dyn Store>) -> Arc<Self> {
        let world = RealWorld::shared();
        let pace = Mutex::new((world.elapsed(), Duration::ZERO));
        Arc::new(Self { world, store, acknowledged: Mutex::default(), pace, failures: AtomicUsize::new(0) })
    }

    async fn write(&self, writer: usize, enough: &AtomicUsize) {
        for number in 0.. {
            if self.acknowledged.lock().len() >= enough.load(Ordering::Relaxed) {
                return;
            }
            let key = Bytes::from(format!("load/{writer}/{number:06}"));
            match self.store.commit(writes([put(key.clone(), vec![b'x'; 500])])).await {
                Ok(Outcome::Committed(revision)) => {
                    assert!(self.acknowledged.lock().insert(key, revision).is_none());
                    let mut pace = self.pace.lock();
                    let now = self.world.elapsed();
                    *pace = (now, pace.1.max(now - pace.0));
                }
                Ok(Outcome::Refused { .. }) => panic!("there was no condition"),
                Err(StoreError::Unavailable(_)) => {
                    self.failures.fetch_add(1, Ordering::Relaxed);
                }
                Err(other) => panic!("{other}"),
            }
        }
    }
}

#[test]
fn a_member_dies_under_load() {
    block_on(async {
        let mut cluster = Cluster::with(3, CAREFUL);
        let store: Arc<dyn Store> = Arc::new(cluster.store().await);
        let watch = store.watch(all()).await.expect("open");
        let load = Load::new(store.clone());
        let enough = AtomicUsize::new(usize::MAX);
        let count = || load.acknowledged.lock().len();
        let drill = async {
            // The leader, a follower, and the leader again, which we may by then not be connected to.
            for round in 0..3 {
                reach(&load, count() + 200).await;
                let leader = leader(&cluster).await;
                let victim = if round == 1 { (leader + 1) % 3 } else { leader };
                cluster.kill(victim);
                reach(&load, count() + 200).await;
                cluster.revive(victim);
            }
            enough.store(count() + 100, Ordering::Relaxed);
        };
        let writers = futures::future::join_all((0..8).map(|writer| load.write(writer, &enough)));
        futures::join!(writers, drill);

        let (_, pause) = *load.pace.lock();
        let failures = load.failures.load(Ordering::Relaxed);
        println!("{} writes acknowledged, {failures} unclear, longest pause {pause:?}", count());
        assert!(pause < Duration::from_secs(5), "nothing was acknowledged for {pause:?}");
        let acknowledged = load.acknowledged.lock().clone();
        let found =
            store.range(RangeQuery { keys: KeyRange::prefix("load/"), limit: 0, at: None }).await.expect("open");
        let found: BTreeMap<_, _> = found.items.into_iter().map(|kv| (kv.key, kv.modified)).collect();
        for (key, revision) in &acknowledged {
            assert_eq!(found.get(key), Some(revision), "{key:?} was acknowledged");
        }
        assert!(found.len() <= acknowledged.len() + failures);
        // The watch has lived through all of it: each write once, in order, and nothing else.
        let newest = store.revision().await.expect("open");
        let mut watch = watch;
        let seen = changes_until(&*store, &mut watch, newest).await.expect("a live watch");
        let seen: Vec<_> = seen.iter().map(|change| (essence(change).0, essence(change).1)).collect();
        let mut expected: Vec<_> = found.into_iter().map(|(key, revision)| (revision, key)).collect();
        expected.sort_unstable();
        assert_eq!(seen, expected);
    });
}

/// Returns once so many writes have been acknowledged, by watching them come.
async fn reach(load: &Load, count: usize) {
    let mut watch = load.store.watch(all()).await.expect("open");
    while load.acknowledged.lock().len() < count {
        watch.next().await.expect("no end").expect("a live watch");
    }
}

#[test]
fn without_a_majority_writes_fail_in_time_and_all_recovers() {
    block_on(async {
        let mut cluster = Cluster::start(3);
        let (store, world) = (cluster.store().await, RealWorld::shared());
        let mut watch = store.watch(all()).await.expect("open");
        let before = commit(&store, writes([put("a", "1")])).await;
        let living = leader(&cluster).await;
        for number in (0..3).filter(|number| *number != living) {
            cluster.kill(number);
        }
        let begun = world.elapsed();
        let (write, read) = futures::join!(store.commit(writes([put("a", "2")])), store.revision());
        let waited = world.elapsed() - begun;
        assert!(matches!(write, Err(StoreError::Unavailable(_))), "{write:?}");
        assert!(matches!(read, Err(StoreError::Unavailable(_))), "{read:?}");
        assert!(waited < Duration::from_secs(12), "the error took {waited:?}");
        for number in (0..3).filter(|number| *number != living) {
            cluster.revive(number);
        }
        let after = loop {
            match store.commit(writes([put("b", "1")])).await {
                Ok(Outcome::Committed(revision)) => break revision,
                Err(StoreError::Unavailable(_)) => {}
                other => panic!("{other:?}"),
            }
        };
        let seen = changes_until(&store, &mut watch, after).await.expect("a live watch");
        assert_eq!((essence(&seen[0]).0, essence(&seen[seen.len() - 1]).0), (before, after));
    });
}

#[test]
fn a_watch_that_missed_compacted_history_is_cut_off() {
    block_on(async {
        let mut cluster = Cluster::start(1);
        let store = cluster.store().await;
        let mut watch = store.watch(all()).await.expect("open");
        assert!(matches!(watch.next().await, Some(Ok(WatchItem::Progress(1)))));
        // While the watch is not looked at, its connection dies, and what comes next is forgotten.
        cluster.kill(0);
        cluster.revive(0);
        let other = cluster.store().await;
        for number in 0..3 {
            commit(&other, writes([put("a", vec![number])])).await;
        }
        other.compact(4).await.expect("the present");
        let end = watch.next().await;
        assert!(matches!(end, Some(Err(StoreError::Lagged(1)))), "{end:?}");
        assert!(watch.next().await.is_none());
        assert_eq!(store.compacted().await.expect("open"), 4, "though another store compacted it");
        let late = store.watch(WatchQuery { after: Some(2), ..all() }).await;
        assert!(matches!(late, Err(StoreError::Compacted { oldest: 4 })), "{:?}", late.err());
    });
}

#[test]
fn leases_by_the_clock() {
    block_on(async {
        let cluster = Cluster::start(1);
        let store = cluster.store().await;
        let leased = |key: &'static str, lease| Write::Put { key: key.into(), value: "v".into(), lease };
        let (short, long) = (Duration::from_secs(1), Duration::from_secs(600));
        let (short, long) = (store.grant(short).await.expect("open"), store.grant(long).await.expect("open"));
        assert!(short > 0 && long > 0 && short != long);
        let mut watch = store.watch(all()).await.expect("open");
        commit(&store, writes([leased("a", short), leased("b", short), leased("c", long)])).await;
        assert_eq!(store.keep_alive(long).await.expect("alive"), Duration::from_secs(600));
        assert_eq!(store.get(b"a", None).await.expect("open").0.map(|kv| kv.lease), Some(short));
        let seen = loop {
            match watch.next().await.expect("no end").expect("a live watch") {
                WatchItem::Changes(changes) if essence(&changes[0]).0 == 3 => break changes,
                _ => {}
            }
        };
        let seen: Vec<_> = seen.iter().map(essence).collect();
        assert_eq!(seen, [(3, "a".into(), None), (3, "b".into(), None)]);
        assert!(matches!(store.keep_alive(short).await, Err(StoreError::LeaseNotFound(_))));
        assert_eq!(store.count(KeyRange::prefix("")).await.expect("open"), 1);
    });
}

#[test]
fn a_full_etcd_refuses_writes_until_there_is_room() {
    block_on(async {
        let quota = ["--quota-backend-bytes=400000"];
        let cluster = Cluster::with(1, Flags { more: &quota, ..Flags::default() });
        let store = cluster.store().await;
        let full = loop {
            match store.commit(writes([put("big", vec![0; 60_000])])).await {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert!(matches!(full, StoreError::NoSpace(_)), "{full}");
        assert_eq!(value(&store, "big", None).await.map(|value| value.len()), Some(60_000), "reads go on");
        // What an operator does; a physical compaction answers when the space is free.
        let url = cluster.urls().next().expect("a member");
        let revision = i64::try_from(store.revision().await.expect("open")).expect("a small number");
        let mut keys = KvClient::connect(url.clone()).await.expect("a living member");
        keys.compact(CompactionRequest { revision, physical: true }).await.expect("the present");
        let mut operator = maintenance(url).await;
        operator.defragment(DefragmentRequest {}).await.expect("an idle member");
        let alarm = AlarmType::Nospace.into();
        let get = AlarmRequest { action: AlarmAction::Get.into(), alarm, member_id: 0 };
        for raised in operator.alarm(get).await.expect("a living member").into_inner().alarms {
            let disarm = AlarmRequest { action: AlarmAction::Deactivate.into(), alarm, member_id: raised.member_id };
            operator.alarm(disarm).await.expect("a living member");
        }
        commit(&store, writes([put("big", vec![0; 60_000])])).await;
        assert!(store.size().await.expect("open") > 60_000);
    });
}

#[test]
fn two_stores_compact_in_turns_and_see_each_other() {
    block_on(async {
        let cluster = Cluster::start(1);
        let config = EtcdConfig { compact_every: Duration::from_millis(200), ..cluster.config() };
        let connect = || async { EtcdStore::connect(&config, RealWorld::shared()).await.expect("etcd answers") };
        let (one, other) = (connect().await, connect().await);
        let mut watch = other.watch(all()).await.expect("open");
        let trace = Some(TraceContext { trace_id: 1, span_id: 2, flags: 1 });
        commit(&other, Transaction { trace, ..writes([put("a", "mine")]) }).await;
        commit(&one, writes([put("a", "yours")])).await;
        let (mut told, mut rounds) = (Vec::new(), Vec::new());
        while rounds.len() < 4 {
            let WatchItem::Changes(changes) = watch.next().await.expect("no end").expect("a live watch") else {
                continue;
            };
            for change in changes {
                let Change::Put { current, .. } = change else { panic!("nobody deletes") };
                match &current.key[..] {
                    b"compact_rev_key" => rounds.push((current.modified, current.version, current.value)),
                    _ => told.push((current.value, current.trace)),
                }
            }
        }
        assert_eq!(told, [("mine".into(), trace), ("yours".into(), None)], "one's own traces are known");
        // Each round is one write, whoever does it; the value is what is compacted to.
        let versions: Vec<_> = rounds.iter().map(|(_, version, _)| *version).collect();
        assert_eq!(versions, [1, 2, 3, 4]);
        let value =
            |at: usize| std::str::from_utf8(&rounds[at].2).expect("text").parse::<Revision>().expect("a revision");
        assert!(value(3) > 0 && value(3) < rounds[3].0, "{rounds:?}");
        let compacted = one.compacted().await.expect("open");
        assert!(compacted >= value(2), "{compacted} {rounds:?}");
    });
}

#[test]
fn tls_with_certificates_on_both_sides() {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let key = || KeyPair::generate().expect("randomness");
    let (ca_key, server_key, client_key) = (key(), key(), key());
    let mut ca = CertificateParams::new(Vec::<String>::new()).expect("no names");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).expect("a good key").pem();
    let issuer = Issuer::new(ca, ca_key);
    let leaf = |names: &[&str], key: &KeyPair| {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        CertificateParams::new(names).expect("good names").signed_by(key, &issuer).expect("a good key").pem()
    };
    let files = tempfile::tempdir().expect("a temporary directory");
    let file = |name: &str, content: &str| {
        let path = files.path().join(name);
        std::fs::write(&path, content).expect("room");
        format!("={}", path.display())
    };
    let flags = [
        format!("--trusted-ca-file{}", file("ca", &ca_pem)),
        format!("--cert-file{}", file("cert", &leaf(&["127.0.0.1"], &server_key))),
        format!("--key-file{}", file("key", &server_key.serialize_pem())),
        "--client-cert-auth".to_owned(),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    block_on(async {
        let cluster = Cluster::with(1, Flags { more: &flags, tls: true, careful: false });
        let identity = (leaf(&["client"], &client_key).into_bytes(), client_key.serialize_pem().into_bytes());
        let ca = Some(ca_pem.clone().into_bytes());
        let good = EtcdConfig { ca: ca.clone(), identity: Some(identity), ..cluster.config() };
        let store = EtcdStore::connect(&good, RealWorld::shared()).await.expect("etcd answers");
        assert_eq!(commit(&store, writes([put("a", "1")])).await, 2);
        let stranger = EtcdConfig { ca, ..cluster.config() };
        let refused = EtcdStore::connect(&stranger, RealWorld::shared()).await.err();
        assert!(matches!(refused, Some(StoreError::Unavailable(_))), "{refused:?}");
    });
}

#[test]
fn wrong_endpoints_are_told() {
    block_on(async {
        for endpoints in [vec![], vec!["127.0.0.1:2379"], vec!["ftp://a"], vec!["http://"]] {
            let refused = EtcdStore::connect(&EtcdConfig::new(endpoints), RealWorld::shared()).await.err();
            assert!(matches!(refused, Some(StoreError::BadEndpoint { .. })), "{refused:?}");
        }
    });
}
