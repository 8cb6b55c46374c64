//! Random operations against a model that keeps a whole map per revision: nothing clever to get wrong.
//!
//! The embedded engine runs on a fake disk with tiny segments and checkpoints that never rest, is closed and opened,
//! and loses power between two operations; whatever it has acknowledged must be there, and nothing else.
#![allow(clippy::expect_used, reason = "a test may")]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use skiff_store::disk::FakeDisk;
use skiff_store::{
    Compare, EmbeddedStore, KeyRange, KeyValue, MemoryStore, Options, Outcome, RangeQuery, Revision, Store, StoreError,
    Transaction, Watch, WatchQuery, Write,
};
use support::{TestWorld, changes_until, delete, essence, etcd, put};

/// One step of a run. Small numbers stand for keys, `u8`s for a place in the range of revisions.
#[derive(Clone, Debug)]
enum Step {
    Commit { compare: Vec<(u8, Condition)>, writes: BTreeMap<u8, Option<(u8, u16)>> },
    Compact(u8),
    Range { from: u8, to: u8, limit: usize, at: Option<u8> },
    Watch { from: u8, to: u8, after: u8 },
    Drain,
    Wait(u16),
    Reopen,
    PowerCycle(u64),
}

#[derive(Clone, Copy, Debug)]
enum Condition {
    Exists,
    Absent,
    Unchanged,
    AtRevision(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let condition = prop_oneof![
        1 => Just(Condition::Exists),
        1 => Just(Condition::Absent),
        4 => Just(Condition::Unchanged),
        1 => any::<u8>().prop_map(Condition::AtRevision),
    ];
    let value = proptest::option::weighted(0.75, (any::<u8>(), 0_u16..300));
    let commit =
        (proptest::collection::vec((0_u8..8, condition), 0..2), proptest::collection::btree_map(0_u8..8, value, 0..4));
    prop_oneof![
        20 => commit.prop_map(|(compare, writes)| Step::Commit { compare, writes }),
        1 => any::<u8>().prop_map(Step::Compact),
        4 => (0_u8..9, 0_u8..9, 0_usize..5, proptest::option::of(any::<u8>()))
            .prop_map(|(from, to, limit, at)| Step::Range { from, to, limit, at }),
        2 => (0_u8..9, 0_u8..9, any::<u8>()).prop_map(|(from, to, after)| Step::Watch { from, to, after }),
        2 => Just(Step::Drain),
        1 => (0_u16..200).prop_map(Step::Wait),
        1 => Just(Step::Reopen),
        1 => any::<u64>().prop_map(Step::PowerCycle),
    ]
}

fn key(number: u8) -> Bytes {
    Bytes::from(format!("key/{number}"))
}

fn range(from: u8, to: u8) -> KeyRange {
    KeyRange { start: key(from), end: if to == 8 { Bytes::new() } else { key(to) } }
}

type State = BTreeMap<Bytes, KeyValue>;
type Seen = (Revision, Bytes, Option<Bytes>);

/// The whole truth.
struct Model {
    /// The state at each revision; the first is revision 0, which is empty as 1 is.
    states: Vec<State>,
    events: Vec<Seen>,
    compacted: Revision,
}

impl Model {
    fn new() -> Self {
        Self { states: vec![State::new(), State::new()], events: Vec::new(), compacted: 0 }
    }

    fn newest(&self) -> Revision {
        self.states.len() as Revision - 1
    }

    fn now(&self) -> &State {
        &self.states[self.states.len() - 1]
    }

    /// A revision that exists, forgotten or not.
    fn place(&self, at: u8) -> Revision {
        self.newest() * Revision::from(at) / 255
    }

    fn compare(&self, (number, condition): (u8, Condition)) -> Compare {
        let key = key(number);
        let modified = self.now().get(&key).map_or(0, |kv| kv.modified);
        match condition {
            Condition::Exists => Compare::Exists(key),
            Condition::Absent => Compare::Modified(key, 0),
            Condition::Unchanged => Compare::Modified(key, modified),
            Condition::AtRevision(at) => Compare::Modified(key, self.place(at)),
        }
    }

    fn holds(&self, compare: &Compare) -> bool {
        match compare {
            Compare::Modified(key, revision) => self.now().get(key).map_or(0, |kv| kv.modified) == *revision,
            Compare::Exists(key) => self.now().contains_key(key),
        }
    }

    fn commit(&mut self, transaction: &Transaction) -> Result<Revision, Vec<Option<KeyValue>>> {
        if !transaction.compare.iter().all(|compare| self.holds(compare)) {
            let key = |compare: &Compare| match compare {
                Compare::Modified(key, _) | Compare::Exists(key) => key.clone(),
            };
            return Err(transaction.compare.iter().map(|compare| self.now().get(&key(compare)).cloned()).collect());
        }
        let (mut state, revision) = (self.now().clone(), self.newest() + 1);
        let before = self.events.len();
        for write in &transaction.writes {
            match write {
                Write::Put { key, value, lease } => {
                    let old = state.get(key);
                    let (created, version) = old.map_or((revision, 1), |old| (old.created, old.version + 1));
                    let (key, value) = (key.clone(), value.clone());
                    self.events.push((revision, key.clone(), Some(value.clone())));
                    let kv = KeyValue { key, value, created, modified: revision, version, lease: *lease, trace: None };
                    state.insert(kv.key.clone(), kv);
                }
                Write::Delete { key } => {
                    if state.remove(key).is_some() {
                        self.events.push((revision, key.clone(), None));
                    }
                }
            }
        }
        if self.events.len() > before {
            self.states.push(state);
        }
        Ok(self.newest())
    }
}

/// A watch, and after which revision its owner has heard nothing yet.
struct Watching {
    keys: KeyRange,
    stream: Watch,
    heard: Revision,
}

/// Where an engine keeps its data.
enum Medium {
    Memory,
    Disk(FakeDisk),
    Etcd(etcd::Cluster),
}

/// An engine beside its model.
struct Run {
    world: Arc<TestWorld>,
    medium: Medium,
    store: Arc<dyn Store>,
    model: Model,
    watches: Vec<Watching>,
}

fn open(disk: &FakeDisk, world: &Arc<TestWorld>) -> Arc<dyn Store> {
    let options = Options { segment: 4096, checkpoint_bytes: 6000, checkpoint_entries: 16, ..Options::default() };
    let store = EmbeddedStore::open_on(Arc::new(disk.plugged()), world.clone(), options);
    Arc::new(store.expect("an undamaged disk"))
}

impl Run {
    async fn new(world: Arc<TestWorld>, medium: Medium) -> Self {
        let store: Arc<dyn Store> = match &medium {
            Medium::Memory => Arc::new(MemoryStore::new(world.clone())),
            Medium::Disk(disk) => open(disk, &world),
            Medium::Etcd(cluster) => Arc::new(cluster.store().await),
        };
        Self { world, medium, store, model: Model::new(), watches: Vec::new() }
    }

    async fn steps(mut self, steps: Vec<Step>) {
        for step in steps {
            self.step(step).await;
        }
        self.drain().await;
        for at in 0..=self.model.newest() {
            self.check_range(KeyRange::prefix(""), 0, Some(at)).await;
        }
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Commit { compare, writes } => self.commit(compare, writes).await,
            Step::Compact(at) => {
                let at = self.model.place(at);
                self.store.compact(at).await.expect("the past");
                // Revision 1 is as empty as 0, so there is nothing before it to be forgotten.
                self.model.compacted = self.model.compacted.max(if at > 1 { at } else { 0 });
            }
            Step::Range { from, to, limit, at } => {
                let at = at.map(|at| self.model.place(at));
                self.check_range(range(from, to), limit, at).await;
            }
            Step::Watch { from, to, after } => {
                let (keys, after) = (range(from, to), self.model.place(after));
                match self.store.watch(WatchQuery { keys: keys.clone(), after: Some(after) }).await {
                    Ok(stream) => self.watches.push(Watching { keys, stream, heard: after }),
                    Err(StoreError::Compacted { oldest }) => assert!(after < oldest),
                    Err(other) => panic!("{other}"),
                }
            }
            Step::Drain => self.drain().await,
            Step::Wait(seconds) => self.world.advance(Duration::from_secs(seconds.into())),
            Step::Reopen => self.reopen().await,
            Step::PowerCycle(seed) => {
                match &mut self.medium {
                    Medium::Memory => {}
                    Medium::Disk(disk) => disk.power_cycle(support::coin(seed)),
                    Medium::Etcd(cluster) => {
                        cluster.kill(0);
                        cluster.revive(0);
                    }
                }
                self.reopen().await;
            }
        }
        self.check_edges().await;
    }

    async fn commit(&mut self, compare: Vec<(u8, Condition)>, writes: BTreeMap<u8, Option<(u8, u16)>>) {
        let compare = compare.into_iter().map(|pair| self.model.compare(pair)).collect();
        let write = |(number, value): (u8, Option<(u8, u16)>)| match value {
            Some((byte, length)) => put(key(number), vec![byte; length.into()]),
            None => delete(key(number)),
        };
        let transaction = Transaction { compare, writes: writes.into_iter().map(write).collect(), trace: None };
        let expected = self.model.commit(&transaction);
        match (self.store.commit(transaction).await.expect("a working disk"), expected) {
            (Outcome::Committed(revision), Ok(expected)) => assert_eq!(revision, expected),
            (Outcome::Refused { revision, current }, Err(expected)) => {
                assert_eq!((revision, current), (self.model.newest(), expected));
            }
            (outcome, expected) => panic!("{outcome:?}, but expected {expected:?}"),
        }
    }

    async fn check_range(&self, keys: KeyRange, limit: usize, at: Option<Revision>) {
        let oldest = self.store.compacted().await.expect("open");
        let revision = at.unwrap_or(self.model.newest());
        let query = RangeQuery { keys: keys.clone(), limit, at };
        let result = match self.store.range(query.clone()).await {
            Err(StoreError::Compacted { .. }) => {
                assert!(revision < oldest);
                // History on disk outlives compaction.
                match self.store.range_past(query).await {
                    Err(StoreError::Compacted { oldest }) => return assert!(revision < oldest.max(1)),
                    result => result.expect("a readable revision"),
                }
            }
            result => result.expect("a readable revision"),
        };
        let state = &self.model.states[revision as usize];
        let all: Vec<_> = state.values().filter(|kv| keys.contains(&kv.key)).cloned().collect();
        let expected = &all[..if limit == 0 { all.len() } else { limit.min(all.len()) }];
        assert_eq!(result.items, expected, "{keys:?} at {revision}");
        assert_eq!((result.remaining, result.revision), (all.len() - expected.len(), revision));
        if at.is_none() {
            assert_eq!(self.store.count(keys).await.expect("open"), all.len());
        }
    }

    async fn drain(&mut self) {
        let newest = self.model.newest();
        for mut watching in std::mem::take(&mut self.watches) {
            let keys = watching.keys;
            match changes_until(&*self.store, &mut watching.stream, newest).await {
                Ok(changes) => {
                    let seen: Vec<_> = changes.iter().map(essence).collect();
                    let missed = self.model.events.iter();
                    let missed = missed.filter(|(at, key, _)| *at > watching.heard && keys.contains(key));
                    assert_eq!(seen, missed.cloned().collect::<Vec<_>>(), "{keys:?} after {}", watching.heard);
                    self.watches.push(Watching { keys, stream: watching.stream, heard: newest });
                }
                Err(StoreError::Lagged(at)) => {
                    assert!(at < self.store.compacted().await.expect("open"), "cut off for no reason");
                }
                Err(other) => panic!("{other}"),
            }
        }
    }

    async fn reopen(&mut self) {
        let close = || async { self.store.close().await.expect("nothing is in its way") };
        self.store = match &self.medium {
            Medium::Memory => return,
            Medium::Disk(disk) => {
                self.watches.clear();
                close().await;
                open(disk, &self.world)
            }
            Medium::Etcd(cluster) => {
                self.watches.clear();
                close().await;
                Arc::new(cluster.store().await)
            }
        };
        for kv in self.model.now().values() {
            let (found, _) = self.store.get(&kv.key, None).await.expect("open");
            assert_eq!(found.as_ref(), Some(kv));
        }
    }

    async fn check_edges(&mut self) {
        assert_eq!(self.store.revision().await.expect("open"), self.model.newest());
        let oldest = self.store.compacted().await.expect("open");
        assert!((self.model.compacted..=self.model.newest()).contains(&oldest), "history never comes back");
        self.model.compacted = oldest;
        self.check_range(KeyRange::prefix(""), 0, None).await;
    }
}

fn check(medium: Medium, steps: Vec<Step>) {
    let world = TestWorld::shared();
    world.run(async { Run::new(world.clone(), medium).await.steps(steps).await });
}

/// `SKIFF_MODEL_RUNS`, or a few.
fn runs() -> u32 {
    std::env::var("SKIFF_MODEL_RUNS").map_or(200, |runs| runs.parse().expect("a number"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: runs(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_memory_engine_agrees(steps in proptest::collection::vec(step(), 1..120)) {
        check(Medium::Memory, steps);
    }

    #[test]
    fn the_embedded_engine_agrees(steps in proptest::collection::vec(step(), 1..120)) {
        check(Medium::Disk(FakeDisk::default()), steps);
    }
}

proptest! {
    // Each run has an etcd of its own.
    #![proptest_config(ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn etcd_agrees(steps in proptest::collection::vec(step(), 1..120)) {
        let world = TestWorld::shared();
        etcd::block_on(async { Run::new(world, Medium::Etcd(etcd::Cluster::start(1))).await.steps(steps).await });
    }
}
