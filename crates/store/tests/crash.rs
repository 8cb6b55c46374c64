//! SIGKILL at any moment loses no acknowledged write.
//!
//! A child process writes with many hands at once and tells each acknowledgement; the parent kills it somewhere, opens
//! the directory itself and compares, and lets the next child go on. `SKIFF_CRASH_ROUNDS` sets the number of rounds.
#![allow(clippy::expect_used, reason = "a test may")]

mod support;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use skiff_meta::world::RealWorld;
use skiff_store::{
    Compare, EmbeddedStore, KeyRange, Options, Outcome, RangeQuery, Revision, Store, StoreError, Transaction,
    WatchQuery,
};
use support::{TestWorld, changes_until, dice, essence, put, writes};

/// Tells the child, which is the same program, where to write.
const CHILD: &str = "SKIFF_CRASH_CHILD";
const WRITERS: u64 = 16;

fn options() -> Options {
    // Small, so that the end may come while a segment or a checkpoint is made.
    Options { segment: 128 << 10, checkpoint_bytes: 200 << 10, checkpoint_entries: 2000, ..Options::default() }
}

fn keys(writer: u64) -> (String, String) {
    (format!("left/{writer:02}"), format!("right/{writer:02}"))
}

/// The writer's number under a key, and the key's revision.
async fn number(store: &EmbeddedStore, key: &str) -> (u64, Revision) {
    match store.get(key.as_bytes(), None).await.expect("open").0 {
        Some(kv) => (u64::from_le_bytes(*kv.value.first_chunk().expect("eight bytes")), kv.modified),
        None => (0, 0),
    }
}

/// Sets both keys of a writer to the next number, over and over.
async fn write(store: Arc<EmbeddedStore>, writer: u64) {
    let (left, right) = keys(writer);
    let (mut count, mut modified) = number(&store, &left).await;
    let mut sizes = dice(writer + count);
    loop {
        count += 1;
        let mut value = count.to_le_bytes().to_vec();
        value.resize(8 + sizes(2000) as usize, writer as u8);
        let compare = vec![Compare::Modified(left.clone().into(), modified)];
        let both = writes([put(left.clone(), value.clone()), put(right.clone(), value)]);
        match store.commit(Transaction { compare, ..both }).await {
            Ok(Outcome::Committed(revision)) => modified = revision,
            other => panic!("nobody else writes here: {other:?}"),
        }
        let line = format!("{writer} {count} {modified}\n");
        std::io::stdout().lock().write_all(line.as_bytes()).expect("the parent listens until the end");
    }
}

fn child(dir: &str) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("a runtime");
    runtime.block_on(async {
        let store = EmbeddedStore::open(dir, RealWorld::shared(), options()).expect("an undamaged directory");
        let store = Arc::new(store);
        futures::future::join_all((0..WRITERS).map(|writer| write(store.clone(), writer))).await;
    });
}

/// Lets a child write, kills it after `acknowledgements`, and returns the last number and revision of each writer.
fn kill_a_writer(dir: &Path, acknowledgements: u64) -> BTreeMap<u64, (u64, Revision)> {
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "sigkill_loses_nothing", "--nocapture"])
        .env(CHILD, dir)
        .stdout(Stdio::piped())
        .spawn()
        .expect("this program runs");
    let output = BufReader::new(child.stdout.take().expect("a pipe"));
    let (mut last, mut left) = (BTreeMap::new(), acknowledgements);
    for line in output.split(b'\n') {
        let line = line.expect("a pipe");
        let numbers: Vec<u64> = String::from_utf8_lossy(&line).split(' ').map_while(|word| word.parse().ok()).collect();
        let [writer, count, revision] = numbers[..] else { continue };
        last.insert(writer, (count, revision));
        left = left.saturating_sub(1);
        if left == 0 {
            // What it has said so far still comes through the pipe, and counts.
            child.kill().expect("it runs");
        }
    }
    let status = child.wait().expect("it has ended");
    assert_eq!(left, 0, "the child ended by itself: {status}");
    last
}

/// All numbers in history are in order, none is missing, and each change comes at a revision of its own.
async fn check_history(store: &EmbeddedStore) {
    let (oldest, newest) = (store.compacted().await.expect("open"), store.revision().await.expect("open"));
    let query = WatchQuery { keys: KeyRange::prefix("left/"), after: Some(oldest) };
    let mut watch = store.watch(query).await.expect("not forgotten");
    let mut counts = BTreeMap::new();
    let changes = changes_until(store, &mut watch, newest).await.expect("a live watch");
    for (expected, change) in (oldest.max(1) + 1..).zip(&changes) {
        let (revision, key, value) = essence(change);
        assert_eq!(revision, expected);
        let count = u64::from_le_bytes(*value.expect("a put").first_chunk().expect("eight bytes"));
        if let Some(last) = counts.insert(key, count) {
            assert_eq!(count, last + 1);
        }
    }
    assert_eq!(changes.len() as u64, newest - oldest.max(1));
    let all = RangeQuery { keys: KeyRange::prefix(""), limit: 0, at: Some(newest) };
    assert!(store.range(all).await.expect("open").items.len() as u64 <= 2 * WRITERS);
}

#[test]
fn sigkill_loses_nothing() {
    if let Ok(dir) = std::env::var(CHILD) {
        return child(&dir);
    }
    let rounds = std::env::var("SKIFF_CRASH_ROUNDS").map_or(20, |rounds| rounds.parse().expect("a number"));
    let dir = tempfile::tempdir().expect("a directory");
    let mut dice = dice(u64::from(std::process::id()));
    let mut total = 0;
    for round in 0..rounds {
        let acknowledged = kill_a_writer(dir.path(), 1 + dice(3000));
        let world = TestWorld::shared();
        world.run(async {
            let store = EmbeddedStore::open(dir.path(), world.clone(), options()).expect("an undamaged directory");
            let newest = store.revision().await.expect("open");
            for (writer, (count, revision)) in acknowledged {
                let (left, right) = keys(writer);
                let (left, right) = (number(&store, &left).await, number(&store, &right).await);
                assert_eq!(left, right, "round {round}: half a transaction is visible");
                // The one that was being written may have made it without a word.
                assert!(
                    left.0 == count || left.0 == count + 1,
                    "round {round}: {count} acknowledged, {} found",
                    left.0
                );
                assert!(newest >= revision);
                total += count;
            }
            check_history(&store).await;
            store.close().await.expect("nothing is in its way");
            assert!(matches!(store.revision().await, Err(StoreError::Closed)));
        });
    }
    assert!(total > 0, "nothing was ever acknowledged");
}
