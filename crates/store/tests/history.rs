//! The past on disk: every revision and time within the limits, whatever compaction, restarts and damage do.
#![allow(clippy::expect_used, reason = "a test may")]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use skiff_store::disk::{Disk, FakeDisk};
use skiff_store::{
    EmbeddedStore, HistoryLimits, KeyRange, KeyValue, MemoryStore, Options, RangeQuery, Retention, Revision, Store,
    StoreError,
};
use support::{BEGINNING, TestWorld, commit, copy, delete, dice, put, writes};

fn options(history: HistoryLimits) -> Options {
    let retention = Retention { time: Duration::from_secs(5), ..Retention::default() };
    Options { retention, history, segment: 4096, checkpoint_bytes: 10_000, checkpoint_entries: 64 }
}

fn open(disk: &FakeDisk, world: &Arc<TestWorld>, history: HistoryLimits) -> EmbeddedStore {
    EmbeddedStore::open_on(Arc::new(disk.clone()), world.clone(), options(history)).expect("an undamaged disk")
}

const LARGE: HistoryLimits = HistoryLimits { time: Duration::from_secs(1 << 20), bytes: 1 << 30 };

type State = Vec<(Bytes, Bytes, Revision, Revision, u64)>;

fn essence(items: Vec<KeyValue>) -> State {
    items.into_iter().map(|kv| (kv.key, kv.value, kv.created, kv.modified, kv.version)).collect()
}

async fn past(store: &dyn Store, keys: KeyRange, at: Revision) -> Result<State, StoreError> {
    let found = store.range_past(RangeQuery { keys, limit: 0, at: Some(at) }).await?;
    assert_eq!((found.revision, found.remaining), (at, 0));
    Ok(essence(found.items))
}

/// What each revision was, as the store itself said when it was new, and the second of its commit.
type Truth = BTreeMap<Revision, (State, i64)>;

/// Commits `count` random transactions, one a second.
async fn live(store: &EmbeddedStore, world: &TestWorld, truth: &mut Truth, count: u64) {
    let mut dice = dice(count + truth.len() as u64);
    for _ in 0..count {
        world.advance(Duration::from_secs(1));
        let key = |number| format!("key/{number:02}");
        let value = vec![b'x'; dice(300) as usize];
        let (number, gone) = (dice(20), 1 + dice(19));
        let changes = [put("clock", "tick"), put(key(number), value), delete(key((number + gone) % 20))];
        let revision = commit(store, writes(changes)).await;
        let all = store.range(RangeQuery { keys: KeyRange::prefix(""), limit: 0, at: None }).await.expect("open");
        let second =
            BEGINNING + i64::try_from(skiff_meta::world::World::elapsed(world).as_secs()).expect("a test's time");
        truth.insert(revision, (essence(all.items), second));
    }
}

/// Every revision the store admits to can be read; how many those are.
async fn check(store: &EmbeddedStore, truth: &Truth) -> usize {
    let oldest = store.oldest().await.expect("open");
    let one = KeyRange { start: "key/03".into(), end: "key/07".into() };
    let known = truth.range(oldest.max(2)..);
    let mut count = 0;
    for (revision, (state, second)) in known {
        assert_eq!(&past(store, KeyRange::prefix(""), *revision).await.expect("history"), state, "at {revision}");
        let expected: Vec<_> = state.iter().filter(|kv| one.contains(&kv.0)).cloned().collect();
        assert_eq!(past(store, one.clone(), *revision).await.expect("history"), expected, "some keys at {revision}");
        assert_eq!(store.revision_at(*second).await.expect("open"), Some(*revision), "at second {second}");
        assert_eq!(store.time_of(*revision).await.expect("open"), Some(*second), "of revision {revision}");
        count += 1;
    }
    if let Some((before, _)) = truth.range(..oldest).next_back() {
        let answer = past(store, one, *before).await;
        assert!(matches!(answer, Err(StoreError::Compacted { oldest: told }) if told == oldest), "{answer:?}");
    }
    count
}

fn checkpoints(disk: &FakeDisk) -> usize {
    disk.list().expect("a list").iter().filter(|name| name.starts_with("checkpoint-0")).count()
}

#[test]
fn every_revision_is_read_after_compaction_and_restart() {
    let (world, disk, mut truth) = (TestWorld::shared(), FakeDisk::default(), Truth::new());
    world.run(async {
        for life in 1..=3 {
            let store = open(&disk, &world, LARGE);
            live(&store, &world, &mut truth, 150).await;
            assert!(store.compacted().await.expect("open") > 100, "API clients see five seconds");
            assert_eq!(check(&store, &truth).await, 150 * life);
            assert_eq!(past(&store, KeyRange::prefix(""), 1).await.expect("the beginning"), []);
            assert_eq!(store.revision_at(BEGINNING - 1).await.expect("open"), None);
            let future = store.range_past(RangeQuery { keys: KeyRange::prefix(""), limit: 0, at: Some(9999) }).await;
            assert!(matches!(future, Err(StoreError::Future { .. })));
            store.close().await.expect("nothing is in its way");
        }
        assert!(checkpoints(&disk) > 3);
    });
}

#[test]
fn pages_of_the_past() {
    let (world, disk, mut truth) = (TestWorld::shared(), FakeDisk::default(), Truth::new());
    world.run(async {
        let store = open(&disk, &world, LARGE);
        live(&store, &world, &mut truth, 100).await;
        let query = RangeQuery { keys: KeyRange::prefix("key/"), limit: 3, at: Some(50) };
        let page = store.range_past(query).await.expect("history");
        let all = truth[&50].0.iter().filter(|kv| kv.0.starts_with(b"key/")).count();
        assert_eq!((page.items.len(), page.remaining), (3, all - 3));
    });
}

#[test]
fn limits_of_time_and_size() {
    let of_time = HistoryLimits { time: Duration::from_secs(100), bytes: 1 << 30 };
    let of_size = HistoryLimits { time: LARGE.time, bytes: 40_000 };
    for limits in [of_time, of_size, HistoryLimits::NONE] {
        let (world, disk, mut truth) = (TestWorld::shared(), FakeDisk::default(), Truth::new());
        world.run(async {
            // Closing waits for a checkpoint that is being written, so that none falls behind by more than a life.
            for _ in 0..24 {
                let store = open(&disk, &world, limits);
                live(&store, &world, &mut truth, 25).await;
                store.close().await.expect("nothing is in its way");
            }
            let store = open(&disk, &world, limits);
            let readable = check(&store, &truth).await;
            match limits {
                HistoryLimits::NONE => assert_eq!(checkpoints(&disk), 1),
                limits if limits == of_time => assert!((100..300).contains(&readable), "{readable}"),
                _ => assert!((60..400).contains(&readable) && disk.used() < 100_000, "{readable} {}", disk.used()),
            }
            // What was let go before the limits were widened does not come back.
            store.close().await.expect("nothing is in its way");
            let store = open(&disk, &world, LARGE);
            assert_eq!(check(&store, &truth).await, readable);
        });
    }
}

#[test]
fn damaged_history_is_told_and_never_served() {
    let (world, disk, mut truth) = (TestWorld::shared(), FakeDisk::default(), Truth::new());
    world.run(async {
        let store = open(&disk, &world, LARGE);
        live(&store, &world, &mut truth, 300).await;
        store.close().await.expect("nothing is in its way");
    });
    let names = disk.list().expect("a list");
    let newest = names.iter().rfind(|name| name.starts_with("checkpoint-")).cloned();
    let (mut told, mut started) = (0, 0);
    for name in names.iter().filter(|name| Some(*name) != newest.as_ref()) {
        let size = disk.edit(name, |bytes| bytes.len()).expect("a listed file");
        for at in (3..size).step_by(size / 7) {
            let damaged = copy(&disk);
            damaged.edit(name, |bytes| bytes[at] ^= 4).expect("a listed file");
            let opened = EmbeddedStore::open_on(Arc::new(damaged), world.clone(), options(LARGE));
            // Whether the state needs this segment decides whether the store starts.
            if let Ok(store) = opened {
                started += 1;
                world.run(async {
                    for (revision, (state, _)) in truth.iter().step_by(9) {
                        match past(&store, KeyRange::prefix(""), *revision).await {
                            Ok(found) => assert_eq!(&found, state, "{name} flipped at {at}"),
                            Err(StoreError::Corrupt { file, .. }) => {
                                assert_eq!(&file, name);
                                told += 1;
                            }
                            Err(other) => assert!(matches!(other, StoreError::Compacted { .. }), "{other}"),
                        }
                    }
                    store.close().await.expect("nothing is in its way");
                });
            }
        }
    }
    assert!(told > 20 && started > 10, "{told} {started}");
}

#[test]
fn a_full_disk_costs_history_before_writes() {
    let (world, disk) = (TestWorld::shared(), FakeDisk::default());
    disk.set_capacity(Some(60_000));
    world.run(async {
        let store = open(&disk, &world, LARGE);
        let mut written = 0;
        while written < 1000 {
            match store.commit(writes([put("a", vec![7; 200])])).await {
                Ok(_) => written += 1,
                // A checkpoint may have come in between, no more.
                Err(StoreError::NoSpace(_)) => assert!(checkpoints(&disk) <= 2),
                Err(other) => panic!("{other}"),
            }
        }
        assert!(store.oldest().await.expect("open") > 1);
    });
}

#[test]
fn the_memory_engine_has_no_history_beyond_memory() {
    let world = TestWorld::shared();
    let store = MemoryStore::new(world.clone());
    world.run(async {
        for _ in 0..3 {
            commit(&store, writes([put("a", "b")])).await;
        }
        assert_eq!(past(&store, KeyRange::prefix(""), 2).await.expect("in memory").len(), 1);
        store.compact(3).await.expect("not the future");
        assert!(matches!(past(&store, KeyRange::prefix(""), 2).await, Err(StoreError::Compacted { oldest: 3 })));
        assert_eq!(store.oldest().await.expect("open"), 3);
    });
}
