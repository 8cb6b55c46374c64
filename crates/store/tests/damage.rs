//! What a disk can do to a store: lose power in the middle of anything (`SKIFF_POWER_SEEDS` sets how often), flip bytes,
//! lose files, fill up, fail.
#![allow(clippy::expect_used, reason = "a test may")]

mod support;

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::join_all;
use skiff_store::disk::{Disk, FakeDisk};
use skiff_store::{
    EmbeddedStore, HistoryLimits, KeyRange, Options, Outcome, RangeQuery, Revision, Store, StoreError, WatchItem,
    WatchQuery,
};
use support::{TestWorld, changes_until, coin, commit, copy, delete, dice, essence, put, value, writes};

fn options() -> Options {
    // History has a test of its own; without it every file is needed.
    let history = HistoryLimits::NONE;
    Options { segment: 4096, checkpoint_bytes: 10_000, checkpoint_entries: 64, history, ..Options::default() }
}

fn try_open(disk: &FakeDisk, world: &Arc<TestWorld>, options: Options) -> Result<EmbeddedStore, StoreError> {
    EmbeddedStore::open_on(Arc::new(disk.clone()), world.clone(), options)
}

fn open(disk: &FakeDisk, world: &Arc<TestWorld>) -> EmbeddedStore {
    try_open(disk, world, options()).expect("an undamaged disk")
}

/// The test's transactions: number N sets `left` and a key of its own to N, and removes the key of N - 3.
fn numbered(number: u64) -> skiff_store::Transaction {
    let value = number.to_string();
    let own = put(format!("own/{number}"), vec![b'x'; (number as usize * 37) % 400]);
    writes([put("left", value.clone()), put("right", value), own, delete(format!("own/{}", number.wrapping_sub(3)))])
}

/// Everything a reader can see, checked to be exactly what the first N transactions make; N.
async fn check_whole(store: &EmbeddedStore) -> u64 {
    let all = RangeQuery { keys: KeyRange::prefix(""), limit: 0, at: None };
    let found = store.range(all).await.expect("open");
    let count = found.revision - 1;
    let mut expected: Vec<(Bytes, Bytes)> = Vec::new();
    if count > 0 {
        let text = Bytes::from(count.to_string());
        expected.extend([("left".into(), text.clone()), ("right".into(), text)]);
    }
    for number in count.saturating_sub(2).max(1)..=count {
        expected.push((format!("own/{number}").into(), vec![b'x'; (number as usize * 37) % 400].into()));
    }
    expected.sort();
    let pairs: Vec<_> = found.items.into_iter().map(|kv| (kv.key, kv.value)).collect();
    assert_eq!(pairs, expected);
    count
}

/// What history is left must be whole as well.
async fn check_history(store: &EmbeddedStore) {
    let (oldest, newest) = (store.compacted().await.expect("open"), store.revision().await.expect("open"));
    let query = WatchQuery { keys: KeyRange::one("left"), after: Some(oldest) };
    let mut watch = store.watch(query).await.expect("not forgotten");
    let changes = changes_until(store, &mut watch, newest).await.expect("a live watch");
    let seen: Vec<_> = changes.iter().map(essence).map(|(revision, _, value)| (revision, value)).collect();
    let expected: Vec<_> =
        (oldest.max(1) + 1..=newest).map(|at| (at, Some(Bytes::from((at - 1).to_string())))).collect();
    assert_eq!(seen, expected);
}

#[test]
fn power_cuts_lose_nothing_acknowledged() {
    let seeds = std::env::var("SKIFF_POWER_SEEDS").map_or(300, |seeds| seeds.parse().expect("a number"));
    for seed in 1..=seeds {
        let (disk, world, mut dice) = (FakeDisk::default(), TestWorld::shared(), dice(seed * 7919));
        world.run(async {
            let mut acknowledged = 0;
            // Several lives on the same disk; numbers go on where the last life ended.
            for _ in 0..3 {
                let store = open(&disk, &world);
                let start = check_whole(&store).await;
                assert!(start >= acknowledged, "seed {seed}: {acknowledged} were acknowledged, {start} are left");
                check_history(&store).await;
                disk.cut_power_after(dice(120));
                for batch in 0..20 {
                    let first = start + 1 + batch * 4;
                    // In one order, so that each gets the revision its number stands for.
                    let outcomes = join_all((first..first + 4).map(|number| store.commit(numbered(number)))).await;
                    for (number, outcome) in (first..).zip(outcomes) {
                        match outcome {
                            Ok(Outcome::Committed(revision)) => {
                                assert_eq!(revision, number + 1);
                                acknowledged = number;
                            }
                            Ok(refused) => panic!("{refused:?}"),
                            Err(StoreError::Io(_)) => {}
                            Err(other) => panic!("{other}"),
                        }
                    }
                }
                store.close().await.expect("it ends, whatever the disk does");
                disk.power_cycle(coin(dice(u64::MAX)));
            }
        });
    }
}

/// A disk with several segments and a checkpoint, and how many transactions are on it.
fn filled(world: &Arc<TestWorld>) -> (FakeDisk, u64) {
    let disk = FakeDisk::default();
    let count = world.run(async {
        let store = open(&disk, world);
        let mut count = 0;
        // The checkpoint comes in its own time.
        while count < 100 || !disk.list().expect("a list").iter().any(|name| is_checkpoint(name)) {
            count += 1;
            commit(&store, numbered(count)).await;
        }
        for _ in 0..20 {
            count += 1;
            commit(&store, numbered(count)).await;
        }
        store.close().await.expect("nothing is in its way");
        count
    });
    (disk, count)
}

fn is_checkpoint(name: &str) -> bool {
    name.starts_with("checkpoint-")
}

/// Opens a damaged copy: whole, less a transaction at the tail, or refused with the right file.
fn check_damaged(damaged: &FakeDisk, world: &Arc<TestWorld>, name: &str, count: u64, what: &str) -> Option<u64> {
    match try_open(damaged, world, options()) {
        Ok(store) => {
            let left = world.run(check_whole(&store));
            world.run(store.close()).expect("nothing is in its way");
            assert!(left == count || left == count - 1, "{what}: {left} of {count} are left");
            Some(left)
        }
        Err(StoreError::Corrupt { file, .. }) => {
            assert_eq!(file, name, "{what}");
            None
        }
        Err(other) => panic!("{what}: {other}"),
    }
}

#[test]
fn no_flipped_bit_is_served() {
    let world = TestWorld::shared();
    let (disk, count) = filled(&world);
    let names = disk.list().expect("a list");
    let (mut refused, mut cut, mut harmless) = (0, 0, 0);
    for name in &names {
        let size = disk.edit(name, |bytes| bytes.len()).expect("a listed file");
        for at in (0..size).step_by(5) {
            let damaged = copy(&disk);
            damaged.edit(name, |bytes| bytes[at] ^= 1 << (at % 8)).expect("a listed file");
            match check_damaged(&damaged, &world, name, count, &format!("{name} flipped at {at}")) {
                None => refused += 1,
                Some(left) if left < count => cut += 1,
                Some(_) => harmless += 1,
            }
        }
    }
    // The last frame cannot be told from one that was never acknowledged; behind it, and in old segments, nothing counts.
    assert!(refused > 500 && cut > 10 && harmless > 10, "refused {refused}, cut off {cut}, harmless {harmless}");
}

#[test]
fn torn_tails_are_cut_off() {
    let world = TestWorld::shared();
    let disk = FakeDisk::default();
    let last = "log-00000000000000000001";
    let (before, after) = world.run(async {
        let store = open(&disk, &world);
        for number in 1..10 {
            commit(&store, numbered(number)).await;
        }
        let before = disk.edit(last, |bytes| bytes.clone()).expect("the only segment");
        commit(&store, numbered(10)).await;
        store.close().await.expect("nothing is in its way");
        (before, disk.edit(last, |bytes| bytes.clone()).expect("the only segment"))
    });
    let changed: Vec<_> = (0..after.len()).filter(|at| before[*at] != after[*at]).collect();
    let (start, end) = (changed[0], changed[changed.len() - 1]);
    for cut in start..=end {
        // Torn from the front, and from the back.
        for back in [false, true] {
            let damaged = copy(&disk);
            damaged.edit(last, |bytes| {
                let torn = if back { start..cut } else { cut..end + 1 };
                bytes[torn.clone()].copy_from_slice(&before[torn]);
            });
            let is_whole = damaged.edit(last, |bytes| *bytes == after).expect("the only segment");
            let left = check_damaged(&damaged, &world, last, 10, &format!("torn at {cut}"));
            assert_eq!(left, Some(if is_whole { 10 } else { 9 }), "torn at {cut}");
            let store = open(&damaged, &world);
            world.run(async {
                let next = check_whole(&store).await + 1;
                commit(&store, numbered(next)).await;
                store.close().await.expect("nothing is in its way");
                assert_eq!(check_whole(&open(&damaged, &world)).await, next, "the log goes on behind the cut");
            });
        }
    }
}

#[test]
fn missing_and_shortened_files_are_noticed() {
    let world = TestWorld::shared();
    let (disk, _) = filled(&world);
    let names = disk.list().expect("a list");
    for name in &names {
        // The loss of the newest segment cannot be told from its never having been.
        if Some(name) != names.last() {
            let damaged = copy(&disk);
            damaged.remove(name).expect("a listed file");
            let error = try_open(&damaged, &world, options()).err();
            assert!(matches!(error, Some(StoreError::Corrupt { .. })), "without {name}: {error:?}");
        }
        for size in [0, 10, 64, 100, 3000] {
            let damaged = copy(&disk);
            let old = damaged.edit(name, |bytes| std::mem::replace(bytes, bytes[..size.min(bytes.len())].to_vec()));
            if old.expect("a listed file").len() > size {
                let error = try_open(&damaged, &world, options()).err();
                assert!(matches!(error, Some(StoreError::Corrupt { .. })), "{name} of {size} bytes: {error:?}");
            }
        }
    }
}

#[test]
fn one_owner_at_a_time() {
    let world = TestWorld::shared();
    let disk = FakeDisk::default();
    let store = open(&disk, &world);
    assert!(matches!(try_open(&disk, &world, options()), Err(StoreError::InUse(_))));
    world.run(store.close()).expect("nothing is in its way");
    open(&disk, &world);
}

#[test]
fn a_full_disk_passes() {
    let world = TestWorld::shared();
    let disk = FakeDisk::default();
    disk.set_capacity(Some(3 * 4096));
    world.run(async {
        // No checkpoints: they would make room.
        let options = Options { checkpoint_bytes: 1 << 30, checkpoint_entries: 1 << 30, ..options() };
        let store = try_open(&disk, &world, options).expect("room for a segment");
        let lease = store.grant(std::time::Duration::from_secs(10)).await.expect("room");
        let mut watch = store.watch(WatchQuery { keys: KeyRange::one("left"), after: None }).await.expect("open");
        assert!(matches!(watch.next().await, Some(Ok(WatchItem::Progress(1)))));
        let mut count = 0;
        let error = loop {
            match store.commit(numbered(count + 1)).await {
                Ok(_) => count += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(&error, StoreError::NoSpace(disk) if disk == "a fake disk"), "{error}");
        assert!(count > 10);
        // Reads go on, nothing half-written shows, and what is decided fails alike.
        assert_eq!(check_whole(&store).await, count);
        let failed = join_all((1..4).map(|more| store.commit(numbered(count + more)))).await;
        assert!(failed.iter().all(|result| matches!(result, Err(StoreError::NoSpace(_)))));
        assert_eq!(check_whole(&store).await, count);
        let big = writes([put("big", vec![0; 5000])]);
        assert!(matches!(store.commit(big.clone()).await, Err(StoreError::NoSpace(_))));

        disk.set_capacity(None);
        count += 1;
        assert_eq!(commit(&store, numbered(count)).await, count + 1);
        let changes = changes_until(&store, &mut watch, count + 1).await.expect("a live watch");
        assert_eq!(changes.len() as u64, count, "each once, and none that failed");
        store.revoke(lease).await.expect("leases were not touched");
        store.close().await.expect("nothing is in its way");
        assert_eq!(check_whole(&open(&disk, &world)).await, count);
    });
}

#[test]
fn a_full_disk_takes_back_leases() {
    let world = TestWorld::shared();
    let disk = FakeDisk::default();
    disk.set_capacity(Some(4096));
    world.run(async {
        let store = open(&disk, &world);
        let lease = store.grant(std::time::Duration::from_secs(10)).await.expect("room");
        let under = |key: &'static str| skiff_store::Write::Put { key: key.into(), value: vec![1; 1000].into(), lease };
        commit(&store, writes([under("a"), under("b"), put("c", vec![2; 1000])])).await;
        // Fills the segment so far that not even the end of a lease fits.
        while store.commit(writes([put("c", "")])).await.is_ok() {}
        assert!(matches!(store.revoke(lease).await, Err(StoreError::NoSpace(_))));
        assert!(matches!(store.grant(std::time::Duration::from_secs(1)).await, Err(StoreError::NoSpace(_))));
        assert_eq!(store.count(KeyRange::prefix("")).await.expect("open"), 3);
        disk.set_capacity(None);
        store.revoke(lease).await.expect("it came back with its keys");
        assert_eq!(store.count(KeyRange::prefix("")).await.expect("open"), 1);
        store.close().await.expect("nothing is in its way");
        let store = open(&disk, &world);
        assert_eq!(store.count(KeyRange::prefix("")).await.expect("open"), 1);
    });
}

#[test]
fn a_full_disk_is_freed_by_a_checkpoint() {
    let world = TestWorld::shared();
    let disk = FakeDisk::default();
    disk.set_capacity(Some(6 * 4096 + 3000));
    world.run(async {
        let options = Options { checkpoint_bytes: 1 << 30, checkpoint_entries: 1 << 30, ..options() };
        let store = try_open(&disk, &world, options).expect("room for a segment");
        // The state is small, its log is not: whenever it fills the disk, a checkpoint of the state lets it go.
        let (mut number, mut failures) = (0, 0);
        while number < 500 {
            match store.commit(numbered(number + 1)).await {
                Ok(_) => number += 1,
                Err(StoreError::NoSpace(_)) => failures += 1,
                Err(other) => panic!("{other}"),
            }
        }
        assert!(failures > 0, "the disk was never full");
        assert_eq!(check_whole(&store).await, 500);
    });
}

#[test]
fn a_failing_disk_ends_writing_but_not_reading() {
    let world = TestWorld::shared();
    let disk = FakeDisk::default();
    world.run(async {
        let store = open(&disk, &world);
        commit(&store, numbered(1)).await;
        disk.fail_syncs(true);
        assert!(matches!(store.commit(numbered(2)).await, Err(StoreError::Io(_))));
        disk.fail_syncs(false);
        assert!(
            matches!(store.commit(numbered(2)).await, Err(StoreError::Io(_))),
            "what the disk holds is unknown now"
        );
        assert_eq!(check_whole(&store).await, 1);
        store.close().await.expect("nothing is in its way");
        // The failed write may have reached the disk after all.
        let store = open(&disk, &world);
        let left = check_whole(&store).await;
        assert!((1..=2).contains(&left));
        commit(&store, numbered(left + 1)).await;
    });
}

#[test]
fn leases_survive() {
    let world = TestWorld::shared();
    let disk = FakeDisk::default();
    world.run(async {
        let store = open(&disk, &world);
        let lease = store.grant(std::time::Duration::from_secs(100)).await.expect("open");
        let under = skiff_store::Write::Put { key: "leased".into(), value: "v".into(), lease };
        commit(&store, writes([under])).await;
        // Far enough for a checkpoint.
        for _ in 0..200 {
            commit(&store, writes([put("other", vec![0; 100])])).await;
        }
        store.close().await.expect("nothing is in its way");
        world.advance(std::time::Duration::from_secs(60));
        let store = open(&disk, &world);
        assert!(value(&store, "leased", None).await.is_some());
        let newest: Revision = store.revision().await.expect("open");
        let mut watch = store.watch(WatchQuery { keys: KeyRange::one("leased"), after: None }).await.expect("open");
        assert!(matches!(watch.next().await, Some(Ok(WatchItem::Progress(at))) if at == newest));
        world.advance(std::time::Duration::from_secs(39));
        assert!(futures::poll!(watch.next()).is_pending(), "its time goes on where it was");
        world.advance(std::time::Duration::from_secs(1));
        let changes = changes_until(&store, &mut watch, newest + 1).await.expect("a live watch");
        assert_eq!(changes.iter().map(essence).collect::<Vec<_>>(), [(newest + 1, "leased".into(), None)]);
    });
}

/// A thread that has not heard that the power went changes nothing of what the next life finds.
#[test]
fn whoever_was_plugged_in_before_changes_nothing() {
    let disk = FakeDisk::default();
    let before = disk.plugged();
    drop(before.create("a").expect("power"));
    before.sync().expect("power");
    disk.power_cycle(|| false);
    let made = before.create("b").map(drop);
    for outcome in [made, before.open("a").map(drop), before.rename("a", "b"), before.remove("a"), before.sync()] {
        assert!(outcome.is_err());
    }
    let now = disk.plugged();
    assert!(now.open("a").is_ok());
    assert_eq!(now.list().expect("a list"), ["a"]);
}
