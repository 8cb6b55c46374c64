//! The wiring: watches in, decisions, bindings out.
//!
//! One task owns everything. It takes in what has happened, decides about pods as long as any is ready, and has the
//! results written in the background: a decision never waits for the writes of those before it, since what they decided
//! is assumed at once.

mod bind;
mod consult;
mod devices;
mod intake;
mod prepare;
mod refuse;
mod sources;
mod volumes;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};
use futures::stream::{FuturesUnordered, StreamExt};
use skiff_client::{Client, Recorder};
use skiff_meta::WorldRef;

use crate::cluster::{ByUid, Cluster, PodInfo};
use crate::config::Config;
use crate::decide::{Decision, Turn, decide};
use crate::extender::Extender;
use crate::profile::{Plugins, Profile};
use crate::queue::{Nominator, Queue};
use crate::stats::Stats;
use crate::why::{self, Questions, Won};

use bind::{Assumed, Done};
use sources::Source;

/// The name that pods ask for in `schedulerName` unless they say otherwise.
pub const NAME: &str = "default-scheduler";
/// Writes on their way at one time.
const MOST_WRITES: usize = 256;
/// Changes taken in, and decisions made, before it is the others' turn.
const AT_ONCE: usize = 128;

/// What a scheduler can be told.
#[derive(Default)]
pub struct Options {
    /// Its configuration.
    pub config: Config,
    /// Where questions come from, see [`why::channel`].
    pub questions: Option<Questions>,
    /// Where it counts what it does.
    pub stats: Arc<Stats>,
}

/// Schedules for ever.
pub async fn run(client: Client, world: WorldRef, options: Options) {
    let (mut sources, missing) = sources::watch(&client);
    let recorders = options.config.profiles.iter().map(|p| Recorder::new(client.clone(), world.clone(), &p.name, ""));
    let mut scheduler = Scheduler {
        recorders: recorders.collect(),
        client,
        world,
        profiles: options.config.profiles,
        extenders: options.config.extenders,
        volume_timeout: options.config.volume_timeout,
        cluster: Cluster::default(),
        queue: Queue::new(options.config.pauses),
        nominated: Nominator::default(),
        assumed: ByUid::default(),
        room_for: BTreeMap::new(),
        making_room: BTreeMap::new(),
        prepared: Vec::new(),
        missing,
        turn: Turn::default(),
        won: Won::default(),
        stats: options.stats,
        writes: FuturesUnordered::new(),
    };
    let mut questions = options.questions;
    loop {
        let busy = scheduler.schedule().await;
        let pause = if busy { others_turn() } else { scheduler.pause() };
        futures::pin_mut!(pause);
        futures::select_biased! {
            change = sources.next() => {
                let mut next = change;
                for _ in 0..AT_ONCE {
                    let Some((source, event)) = next else { break };
                    scheduler.take(source, event);
                    next = sources.next().now_or_never().flatten();
                }
                // A change was taken off the stream that nobody has looked at yet.
                if let Some((source, event)) = next {
                    scheduler.take(source, event);
                }
            }
            done = scheduler.writes.select_next_some() => {
                let mut next = Some(done);
                while let Some(done) = next {
                    scheduler.done(done);
                    next = scheduler.writes.next().now_or_never().flatten();
                }
            }
            question = why::next(&mut questions).fuse() => scheduler.answer(question),
            () = FutureExt::fuse(pause) => {}
        }
    }
}

/// Over at once, but not before the executor has looked at other tasks.
fn others_turn() -> BoxFuture<'static, ()> {
    let mut waited = false;
    let turn = futures::future::poll_fn(move |cx| {
        if std::mem::replace(&mut waited, true) {
            return std::task::Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        std::task::Poll::Pending
    });
    Box::pin(turn)
}

struct Scheduler {
    client: Client,
    world: WorldRef,
    profiles: Vec<Profile>,
    extenders: Vec<Extender>,
    recorders: Vec<Recorder>,
    volume_timeout: Duration,
    cluster: Cluster,
    queue: Queue,
    nominated: Nominator,
    /// Pods that were given a node here and not yet seen there.
    assumed: ByUid<Assumed>,
    /// Pods that were asked to go, by UID, and for whom.
    room_for: BTreeMap<String, String>,
    /// Pods that others were asked to go for, by UID, and how many of those have not been seen leaving.
    making_room: BTreeMap<String, usize>,
    /// Pods whose volumes are being bound, or whose devices are made ready.
    prepared: Vec<prepare::Prepared>,
    /// What has not been heard of yet: until then nothing is decided.
    missing: BTreeSet<Source>,
    turn: Turn,
    won: Won,
    stats: Arc<Stats>,
    writes: FuturesUnordered<BoxFuture<'static, Done>>,
}

impl Scheduler {
    /// Until something is due: a pause is over, a promise expires.
    fn pause(&mut self) -> BoxFuture<'static, ()> {
        let now = self.world.elapsed();
        let due = [self.queue.tick(now), self.next_expiry()].into_iter().flatten().min();
        match due {
            Some(at) => self.world.sleep(at.saturating_sub(now)),
            None => Box::pin(futures::future::pending()),
        }
    }

    fn profile_of(&self, pod: &PodInfo) -> Option<usize> {
        self.profiles.iter().position(|profile| profile.name == pod.scheduler_name())
    }

    /// Decides about pods that are ready; whether there are more.
    async fn schedule(&mut self) -> bool {
        if !self.missing.is_empty() {
            return false;
        }
        let now = self.world.elapsed();
        self.expire(now);
        self.queue.tick(now);
        for _ in 0..AT_ONCE {
            if self.writes.len() >= MOST_WRITES {
                return false;
            }
            let Some(pod) = self.queue.pop() else { return false };
            self.decide(&pod).await;
        }
        true
    }

    async fn decide(&mut self, pod: &Arc<PodInfo>) {
        let Some(place) = self.profile_of(pod) else { return self.queue.forget(&pod.uid) };
        let began = self.world.elapsed();
        self.cluster.objects.now = self.world.now();
        let (random, extenders) = (self.world.random(), self.extenders_of(pod));
        let decision = match &extenders[..] {
            [] => {
                let profile = &self.profiles[place];
                decide(profile, &mut self.cluster, &self.nominated, pod, &mut self.turn, random)
            }
            extenders => self.consult(extenders, pod, place, random).await,
        };
        self.stats.decided(self.world.elapsed().saturating_sub(began), matches!(decision, Decision::Place(..)));
        match decision {
            Decision::Place(node, scored) => {
                if let Some(scored) = scored {
                    self.won.remember(&pod.uid, node, &scored, &self.profiles[place], &self.cluster);
                }
                self.assume(pod.clone(), node);
            }
            Decision::NoNodes => self.no_nodes(pod, place),
            Decision::Nowhere(diagnosis) => self.refuse(pod, place, *diagnosis),
            Decision::Waits(plugin) => {
                let mut by = Plugins::default();
                by.insert(plugin);
                self.queue.refused(&pod.uid, self.world.elapsed(), (place, by));
            }
            Decision::Failed(why) => self.fail(pod, &why),
        }
    }

    fn answer(&mut self, question: why::Question) {
        let key = format!("{}/{}", question.namespace, question.name);
        let waits = self.queue.uids().find_map(|uid| self.queue.get(uid).filter(|pod| pod.key == key)).cloned();
        let placed = || self.cluster.pods().find(|pod| pod.key == key).cloned();
        let answer = match placed() {
            Some(pod) => {
                let node = self.cluster.place(&pod.uid).unwrap_or_default();
                Some(why::placed(&pod, node, &self.won))
            }
            None => waits.and_then(|pod| {
                let place = self.profile_of(&pod)?;
                Some(why::waiting(&self.profiles[place], &mut self.cluster, &self.nominated, &pod))
            }),
        };
        // Whoever asked may have gone.
        let _ = question.answer.send(answer);
    }
}
