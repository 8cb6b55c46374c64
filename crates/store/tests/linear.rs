//! Concurrent histories are linearizable: there is an order of all operations, in keeping with real time, that one
//! register per key would have answered in the same way. `SKIFF_LINEAR_ROUNDS` sets the number of histories.
#![allow(clippy::expect_used, reason = "a test may")]

mod support;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use skiff_meta::WorldRef;
use skiff_meta::world::RealWorld;
use skiff_store::{Compare, EmbeddedStore, KeyValue, MemoryStore, Options, Outcome, Revision, Store, Transaction};
use support::{delete, dice, etcd, put, writes};

const CLIENTS: u64 = 6;
const KEYS: u64 = 3;
/// Of each client in a history.
const OPERATIONS: u64 = 60;

/// What a key is: the number in it and the revision of its last write.
type Register = Option<(u64, Revision)>;

/// What was asked, and answered.
#[derive(Clone, Copy, Debug)]
enum Operation {
    Read {
        found: Register,
    },
    /// Sets or (without a number) removes, whatever is there; at a revision, unless there was nothing to remove.
    Write {
        number: Option<u64>,
        at: Option<Revision>,
    },
    /// The same, if the last write was at `expected` (0: none). Refused, it tells what is there.
    Swap {
        expected: Revision,
        number: u64,
        outcome: Result<Revision, Register>,
    },
}

/// An operation between two moments.
#[derive(Clone, Copy, Debug)]
struct Call {
    begun: u64,
    ended: u64,
    operation: Operation,
}

/// What a register is after an operation, if it would have answered so.
fn step(register: Register, operation: &Operation) -> Option<Register> {
    let modified = register.map_or(0, |(_, revision)| revision);
    match *operation {
        Operation::Read { found } => (found == register).then_some(register),
        Operation::Write { number: Some(number), at: Some(at) } => (at > modified).then_some(Some((number, at))),
        Operation::Write { number: None, at: Some(at) } => (register.is_some() && at > modified).then_some(None),
        Operation::Write { number: None, at: None } => register.is_none().then_some(None),
        Operation::Write { number: Some(_), at: None } => None,
        Operation::Swap { expected, number, outcome: Ok(at) } => {
            (expected == modified && at > modified).then_some(Some((number, at)))
        }
        Operation::Swap { expected, outcome: Err(found), .. } => {
            (expected != modified && found == register).then_some(register)
        }
    }
}

/// Whether some order explains the calls to one key (Wing and Gong, remembering where it has been).
fn is_linearizable(calls: &[Call]) -> bool {
    let mut tried = HashSet::new();
    let mut open = vec![(vec![0_u64; calls.len().div_ceil(64)], None)];
    let has = |done: &[u64], call: usize| done[call / 64] >> (call % 64) & 1 == 1;
    while let Some((done, register)) = open.pop() {
        let left: Vec<usize> = (0..calls.len()).filter(|call| !has(&done, *call)).collect();
        // Whatever began after another had ended comes after it.
        let Some(first_end) = left.iter().map(|call| calls[*call].ended).min() else { return true };
        for call in left.into_iter().filter(|call| calls[*call].begun < first_end) {
            let Some(next) = step(register, &calls[call].operation) else { continue };
            let mut done = done.clone();
            done[call / 64] |= 1 << (call % 64);
            if tried.insert((done.clone(), next)) {
                open.push((done, next));
            }
        }
    }
    false
}

fn register(kv: Option<&KeyValue>) -> Register {
    kv.map(|kv| (u64::from_le_bytes(*kv.value.first_chunk().expect("eight bytes")), kv.modified))
}

async fn write(store: &dyn Store, key: &str, number: Option<u64>, compare: Vec<Compare>) -> Outcome {
    let change = match number {
        Some(number) => put(key.to_owned(), number.to_le_bytes().to_vec()),
        None => delete(key.to_owned()),
    };
    store.commit(Transaction { compare, ..writes([change]) }).await.expect("a working disk")
}

/// One client's life: what it did to which key.
async fn client(store: Arc<dyn Store>, clock: Arc<AtomicU64>, client: u64, seed: u64) -> Vec<(u64, Call)> {
    let mut dice = dice(seed);
    let mut known: BTreeMap<u64, Revision> = BTreeMap::new();
    let mut calls = Vec::new();
    for count in 0..OPERATIONS {
        let (key, number) = (dice(KEYS), client * OPERATIONS + count);
        // Some stores have been through other histories.
        let name = format!("{seed}/{key}", seed = seed / 1000);
        let begun = clock.fetch_add(1, Ordering::SeqCst);
        let operation = match dice(10) {
            0..4 => {
                let found = register(store.get(name.as_bytes(), None).await.expect("open").0.as_ref());
                known.insert(key, found.map_or(0, |(_, revision)| revision));
                Operation::Read { found }
            }
            4..6 => {
                let number = (dice(3) > 0).then_some(number);
                // Only what is there can be removed.
                let compare = if number.is_none() { vec![Compare::Exists(name.clone().into())] } else { Vec::new() };
                match write(&*store, &name, number, compare).await {
                    Outcome::Committed(at) => Operation::Write { number, at: Some(at) },
                    Outcome::Refused { .. } => Operation::Write { number, at: None },
                }
            }
            _ => {
                let expected = known.get(&key).copied().unwrap_or(0);
                let compare = vec![Compare::Modified(name.clone().into(), expected)];
                let outcome = match write(&*store, &name, Some(number), compare).await {
                    Outcome::Committed(at) => Ok(at),
                    Outcome::Refused { current, .. } => Err(register(current[0].as_ref())),
                };
                known.insert(key, outcome.unwrap_or_else(|found| found.map_or(0, |(_, revision)| revision)));
                Operation::Swap { expected, number, outcome }
            }
        };
        let ended = clock.fetch_add(1, Ordering::SeqCst);
        calls.push((key, Call { begun, ended, operation }));
    }
    calls
}

fn rounds() -> u64 {
    std::env::var("SKIFF_LINEAR_ROUNDS").map_or(10, |rounds| rounds.parse().expect("a number"))
}

/// Lets clients loose on a store and judges what they saw.
fn check(open: impl AsyncFn(&WorldRef) -> Arc<dyn Store>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().expect("threads");
    for round in 1..=rounds() {
        let histories = runtime.block_on(async {
            let world = RealWorld::shared();
            let (store, clock) = (open(&world).await, Arc::new(AtomicU64::new(0)));
            let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
            for name in 0..CLIENTS {
                let (life, told) = (client(store.clone(), clock.clone(), name, round * 1000 + name), told.clone());
                world.spawn("client", Box::pin(async move { told.send(life.await).expect("someone listens") }));
            }
            drop(told);
            let mut histories: BTreeMap<u64, Vec<Call>> = BTreeMap::new();
            while let Some(calls) = heard.recv().await {
                calls.into_iter().for_each(|(key, call)| histories.entry(key).or_default().push(call));
            }
            store.close().await.expect("nothing is in its way");
            histories
        });
        for (key, mut calls) in histories {
            calls.sort_by_key(|call| call.begun);
            assert!(is_linearizable(&calls), "round {round}, key {key}: {calls:#?}");
        }
    }
}

#[test]
fn the_memory_engine_is_linearizable() {
    check(async |world: &WorldRef| Arc::new(MemoryStore::new(world.clone())) as Arc<dyn Store>);
}

#[test]
fn the_embedded_engine_is_linearizable() {
    let dir = tempfile::tempdir().expect("a directory");
    let count = AtomicU64::new(0);
    check(async |world: &WorldRef| {
        let own = dir.path().join(count.fetch_add(1, Ordering::Relaxed).to_string());
        let options = Options { segment: 1 << 20, ..Options::default() };
        Arc::new(EmbeddedStore::open(own, world.clone(), options).expect("an empty directory")) as Arc<dyn Store>
    });
}

#[test]
fn the_etcd_engine_is_linearizable() {
    let cluster = etcd::Cluster::start(1);
    check(async |_: &WorldRef| Arc::new(cluster.store().await) as Arc<dyn Store>);
}

#[test]
fn the_checker_knows_right_from_wrong() {
    use Operation::{Read, Swap, Write};
    let call = |begun, ended, operation| Call { begun, ended, operation };
    let set = |number, at| Write { number: Some(number), at: Some(at) };
    let seen = |number, at| Read { found: Some((number, at)) };
    let right: [&[Call]; 4] = [
        &[call(0, 3, set(1, 2)), call(1, 2, seen(1, 2))],
        &[call(0, 3, set(1, 2)), call(1, 2, Read { found: None })],
        &[call(0, 9, set(1, 2)), call(1, 2, Read { found: None }), call(3, 4, seen(1, 2))],
        &[call(0, 1, set(1, 2)), call(2, 3, Swap { expected: 2, number: 5, outcome: Ok(3) }), call(4, 5, seen(5, 3))],
    ];
    let wrong: [&[Call]; 5] = [
        // A stale read; a read that goes back; a lost update; a removal that did nothing; a swap that should have failed.
        &[call(0, 1, set(1, 2)), call(2, 3, Read { found: None })],
        &[call(0, 9, set(1, 2)), call(1, 2, seen(1, 2)), call(3, 4, Read { found: None })],
        &[call(0, 1, set(1, 2)), call(2, 3, set(2, 3)), call(4, 5, seen(1, 2))],
        &[call(0, 1, set(1, 2)), call(2, 3, Write { number: None, at: None })],
        &[call(0, 1, set(1, 2)), call(2, 3, Swap { expected: 0, number: 5, outcome: Ok(3) })],
    ];
    assert!(right.iter().all(|calls| is_linearizable(calls)));
    assert!(!wrong.iter().any(|calls| is_linearizable(calls)));
}
