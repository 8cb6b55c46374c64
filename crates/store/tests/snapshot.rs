//! Snapshots: what was saved comes back, and nothing else does.
#![allow(clippy::expect_used, reason = "a test may")]

mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use skiff_meta::WorldRef;
use skiff_store::snapshot::{Contents, RestoreError, restore, verify};
use skiff_store::{EmbeddedStore, KeyRange, MemoryStore, Options, RangeQuery, Store, StoreError, Write};
use support::{BEGINNING, TestWorld, commit, delete, put, writes};

async fn save(store: &dyn Store, files: Vec<(String, Bytes)>) -> Vec<u8> {
    let mut snapshot = store.snapshot(files).await.expect("open");
    // What is written meanwhile is not in it.
    commit(store, writes([put("a/00001", "later"), delete("a/00002"), put("b", "later")])).await;
    store.compact(store.revision().await.expect("open")).await.expect("the past");
    let mut bytes = Vec::new();
    while let Some(chunk) = snapshot.next().await {
        bytes.extend_from_slice(&chunk.expect("readable"));
    }
    bytes
}

fn sample() -> Vec<u8> {
    let world = TestWorld::shared();
    world.run(async {
        let store = MemoryStore::new(world.clone());
        for number in 0..3000 {
            commit(&store, writes([put(format!("a/{number:05}"), vec![b'v'; number % 700])])).await;
        }
        let lease = store.grant(Duration::from_secs(60)).await.expect("open");
        commit(&store, writes([Write::Put { key: "leased".into(), value: "v".into(), lease }])).await;
        commit(&store, writes([put("a/00001", "twice"), delete("a/00000")])).await;
        save(&store, vec![("keys/ca".into(), "secret".into()), ("../outside".into(), "no".into())]).await
    })
}

#[test]
fn what_was_saved_comes_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let (file, data) = (dir.path().join("snapshot"), dir.path().join("data"));
    let bytes = sample();
    assert_eq!(bytes.len() % 512, 32, "etcd's clients expect this");
    std::fs::write(&file, &bytes).expect("room");
    let world = TestWorld::shared();
    let shared: WorldRef = world.clone();
    let contents = Contents { revision: 3003, second: BEGINNING, keys: 3000 };
    assert_eq!(verify(&file).expect("undamaged"), contents);
    assert_eq!(restore(&file, &data, &shared).expect("an empty directory"), contents);
    assert_eq!(std::fs::read(data.join("keys/ca")).expect("it went with it"), b"secret");
    assert!(!dir.path().join("outside").exists());
    assert!(matches!(restore(&file, &data, &shared), Err(RestoreError::NotEmpty(_))));

    world.run(async {
        let open = || EmbeddedStore::open(data.join("store"), world.clone(), Options::default()).expect("whole");
        let store = open();
        assert_eq!(store.revision().await.expect("open"), 3003);
        let all = store.range(RangeQuery { keys: KeyRange::prefix("a/"), limit: 0, at: None }).await.expect("open");
        assert_eq!((all.items.len(), &all.items[0].value[..]), (2999, &b"twice"[..]));
        assert_eq!((all.items[0].created, all.items[0].modified, all.items[0].version), (3, 3003, 2));
        assert_eq!(all.items[1000].value.len(), 1001 % 700);
        assert!(matches!(
            store.watch(skiff_store::WatchQuery { keys: KeyRange::prefix(""), after: Some(2) }).await,
            Err(StoreError::Compacted { .. })
        ));
        // It goes on from there, with history of its own.
        assert_eq!(commit(&store, writes([put("new", "v")])).await, 3004);
        store.compact(3004).await.expect("the past");
        let past = RangeQuery { keys: KeyRange::prefix(""), limit: 0, at: Some(3003) };
        assert_eq!(store.range_past(past).await.expect("history").items.len(), 3000);
        let before = RangeQuery { keys: KeyRange::prefix(""), limit: 0, at: Some(3002) };
        assert!(matches!(store.range_past(before).await, Err(StoreError::Compacted { oldest: 3003 })));
        store.close().await.expect("nothing is in its way");
        let store = open();
        world.advance(Duration::from_secs(61));
        assert_eq!(store.revision().await.expect("open"), 3004);
        store.close().await.expect("nothing is in its way");
        let store = open();
        let leased = store.get(b"leased", None).await.expect("open").0;
        assert!(leased.is_none() || store.revision().await.expect("open") == 3004, "leases come along");
        store.close().await.expect("nothing is in its way");
    });
}

fn refused(bytes: &[u8], file: &Path, data: &Path, world: &WorldRef) -> StoreError {
    std::fs::write(file, bytes).expect("room");
    match restore(file, data, world) {
        Err(RestoreError::Snapshot(error)) => {
            assert!(!data.exists(), "nothing is left of it");
            error
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn damage_and_the_future_are_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let (file, data) = (dir.path().join("snapshot"), dir.path().join("data"));
    let bytes = sample();
    let world: WorldRef = Arc::new(TestWorld::default());
    for at in (0..bytes.len()).step_by(bytes.len() / 40) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        let error = refused(&damaged, &file, &data, &world);
        assert!(matches!(error, StoreError::Corrupt { .. }), "flipped at {at}: {error}");
    }
    for size in [0, 10, 64, 544, bytes.len() - 512, bytes.len() - 32, bytes.len() - 1] {
        let error = refused(&bytes[..size], &file, &data, &world);
        assert!(matches!(error, StoreError::Corrupt { .. }), "{size} bytes: {error}");
    }
    let mut newer = bytes;
    newer[8] = 9;
    let sum = {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&newer[..12]);
        hasher.update(&newer[16..64]);
        hasher.finalize()
    };
    newer[12..16].copy_from_slice(&sum.to_le_bytes());
    assert!(matches!(refused(&newer, &file, &data, &world), StoreError::NewerFormat { found: 9, known: 1 }));
    let missing = restore(&dir.path().join("nothing"), &data, &world);
    assert!(matches!(missing, Err(RestoreError::Snapshot(StoreError::Io(_)))), "{missing:?}");
}

#[test]
fn what_is_saved_is_kept_readable_no_longer_than_needed() {
    let world = TestWorld::shared();
    world.run(async {
        let store = MemoryStore::new(world.clone());
        commit(&store, writes([put("a", "1")])).await;
        let mut first = store.snapshot(Vec::new()).await.expect("open");
        let second = store.snapshot(Vec::new()).await.expect("open");
        assert!(first.next().await.is_some());
        drop(first);
        commit(&store, writes([put("a", "2")])).await;
        store.compact(3).await.expect("the past");
        let rest: Vec<_> = second.collect().await;
        let bytes = rest.into_iter().map(|chunk| chunk.expect("still readable")).collect::<Vec<_>>().concat();
        assert!(bytes.windows(2).any(|pair| pair == b"a1"));
    });
}
