//! API priority and fairness: no client takes the server from the others.
//!
//! Each request belongs to a flow, by the FlowSchemas; each flow to a priority level, which has so many seats. Who finds
//! no seat waits in one of its flow's queues, or comes again later. The rules of the queues are pure ([`queues`]); what
//! the objects mean is a plan ([`plan`]); this page joins them. A request that finds a seat costs a look at the schemas
//! and the level's lock at its begin and end, and nothing else.

mod allocate;
mod dealer;
mod defaults;
mod demand;
mod dump;
pub(crate) mod held;
pub(crate) mod inflight;
pub(crate) mod keeper;
mod level;
mod matching;
mod plan;
mod queues;
mod retry;
mod stats;
mod width;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::HeaderValue;
use parking_lot::Mutex;
use serde_json::Value;
use skiff_meta::WorldRef;

use crate::chain::User;
use allocate::{Claim, divide};
pub(crate) use dump::PATH as DUMPS;
pub(crate) use level::Seat;
use level::{Asked, Level, What};
use matching::By;
pub(crate) use matching::Digest;
use plan::{Config, Schema};
use queues::{Request, Work};

/// What a request asks for, as far as its seats go.
pub(crate) enum Size {
    /// A small answer, or no resource at all.
    One,
    /// So many objects of so many bytes each.
    List(u64, u64),
    /// A write that so many watchers are told of.
    Write(usize),
}

/// The objects' UIDs, for the answer's headers.
#[derive(Clone)]
pub(crate) struct Classified {
    /// `X-Kubernetes-PF-FlowSchema-UID`
    pub(crate) schema: HeaderValue,
    /// `X-Kubernetes-PF-PriorityLevel-UID`
    pub(crate) level: HeaderValue,
}

/// The right to be answered, given back when dropped.
#[derive(Default)]
pub(crate) struct Permit {
    _seat: Option<Seat>,
    _counted: Option<inflight::Counted>,
}

impl Permit {
    /// With what was given for it.
    pub(crate) fn new(seat: Option<Seat>, counted: Option<inflight::Counted>) -> Self {
        Self { _seat: seat, _counted: counted }
    }
}

/// A schema with the level its requests go to.
struct Flow {
    schema: Schema,
    level: Arc<Level>,
    level_uid: HeaderValue,
    /// The place of its counts there.
    place: usize,
    /// Most seats of one request.
    widest: u32,
    /// Flows are told apart.
    queued: bool,
}

/// What requests are judged by, as a whole.
#[derive(Default)]
struct Current {
    flows: Vec<Flow>,
    levels: BTreeMap<String, Arc<Level>>,
}

/// The server's seats.
pub(crate) struct FlowControl {
    world: WorldRef,
    total: u32,
    /// So that nobody can choose names that meet in one queue.
    seed: u64,
    current: ArcSwap<Current>,
    /// Held while the configuration changes; the fair fraction of the last division.
    fair: Mutex<f64>,
}

impl FlowControl {
    /// With so many seats, and the levels no cluster can do without.
    pub(crate) fn new(world: WorldRef, total: u32) -> Arc<Self> {
        let (seed, fair) = (world.random(), Mutex::new(0.0));
        let flow = Self { world, total, seed, current: ArcSwap::default(), fair };
        flow.configure(&[], &[]);
        Arc::new(flow)
    }

    /// Goes on by these objects. Levels that stay keep their queues.
    pub(crate) fn configure(&self, levels: &[Value], schemas: &[Value]) {
        let mut fair = self.fair.lock();
        let config = Config::read(levels, schemas);
        let before = self.current.load_full();
        let mut all = BTreeMap::new();
        let mut facts = BTreeMap::new();
        for (plan, limits) in config.levels.iter().zip(config.limits(self.total)) {
            let level = match before.levels.get(&plan.name) {
                Some(level) => level.clone(),
                None => Level::new(&plan.name, plan.shape, limits, self.world.clone()),
            };
            let mut state = level.state();
            state.set.reshape(plan.shape);
            state.limits = limits;
            drop(state);
            facts.insert(plan.name.clone(), (plan.uid.clone(), plan.widest(limits), plan.shape));
            all.insert(plan.name.clone(), level);
        }
        let flow = |schema: Schema| {
            let (level, (level_uid, widest, shape)) =
                (all.get(&schema.level)?.clone(), facts.get(&schema.level)?.clone());
            let place = level.state().set.flow(&schema.name);
            Some(Flow { schema, level, level_uid, place, widest, queued: shape.queues > 1 })
        };
        let flows = config.schemas.into_iter().filter_map(flow).collect();
        *fair = redistribute(&all);
        self.current.store(Arc::new(Current { flows, levels: all }));
    }

    /// Moves seats between the levels by what they needed lately.
    pub(crate) fn lend(&self) {
        let mut fair = self.fair.lock();
        let current = self.current.load();
        for level in current.levels.values() {
            let mut state = level.state();
            let before = state.demand;
            state.demand = state.set.turn(self.world.elapsed(), before);
        }
        *fair = redistribute(&current.levels);
    }

    /// A seat for a request, as soon as there is one; else the seconds after which to come again.
    pub(crate) async fn seat(
        &self,
        digest: &Digest<'_>,
        user: &Arc<User>,
        size: impl FnOnce() -> Size,
        patience: Duration,
    ) -> (Classified, Result<Seat, u64>) {
        let (classified, asked) = self.ask(digest, user, size);
        let seat = match asked {
            Asked::Seat(seat) => Ok(seat),
            Asked::Wait(waiting) => waiting.turn(patience).await,
            Asked::Refused(seconds, why) => {
                tracing::debug!(user = %user.name, path = digest.path, ?why, "refused by flow control");
                Err(seconds)
            }
        };
        (classified, seat)
    }

    fn ask(&self, digest: &Digest<'_>, user: &Arc<User>, size: impl FnOnce() -> Size) -> (Classified, Asked) {
        let current = self.current.load();
        let fits = current.flows.iter().find(|flow| flow.schema.fits(digest));
        // The last schema is the one that takes everything.
        let flow = fits.unwrap_or(&current.flows[current.flows.len() - 1]);
        let classified = Classified { schema: flow.schema.uid.clone(), level: flow.level_uid.clone() };
        let by_namespace = flow.queued && flow.schema.by == By::Namespace;
        let namespace = digest.target.map_or("", |target| &target.namespace);
        let hash = if flow.queued { self.hash(&flow.schema, user, namespace) } else { 0 };
        let (work, watchers) = match size() {
            Size::One => (Work::ONE, None),
            Size::List(objects, bytes) => (width::list(objects, bytes, flow.widest), None),
            Size::Write(watchers) => (width::write(watchers, flow.widest), Some(watchers)),
        };
        let what = What { user: user.clone(), namespace: by_namespace.then(|| namespace.into()) };
        let request = Request { flow: flow.place, hash, work, watch: digest.verb == "watch", what };
        (classified, flow.level.ask(request, watchers, || details(digest)))
    }

    /// The hash of a flow.
    fn hash(&self, schema: &Schema, user: &User, namespace: &str) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.seed.hash(&mut hasher);
        schema.name.hash(&mut hasher);
        match schema.by {
            By::Nothing => {}
            By::User => user.name.hash(&mut hasher),
            By::Namespace => namespace.hash(&mut hasher),
        }
        hasher.finish()
    }

    fn levels(&self) -> Vec<Arc<Level>> {
        self.current.load().levels.values().cloned().collect()
    }

    /// A page below [`DUMPS`].
    pub(crate) fn dump(&self, name: &str, details: bool) -> Option<String> {
        dump::dump(self, name, details)
    }

    /// Metrics, in their text form.
    pub(crate) fn write_metrics(&self, out: &mut String) {
        let figures: Vec<_> = self.levels().iter().map(|level| figures(level)).collect();
        stats::text(&figures, *self.fair.lock(), out);
    }
}

fn details(digest: &Digest<'_>) -> [Box<str>; 7] {
    let (verb, path) = (digest.verb.into(), digest.path.into());
    let Some(target) = digest.target else {
        return [verb, path, "".into(), "".into(), "".into(), "".into(), "".into()];
    };
    let resource = &target.resource;
    let version = match &*resource.group {
        "" => resource.version.clone(),
        group => format!("{group}/{}", resource.version),
    };
    let (namespace, name) = (&*target.namespace, &*target.name);
    [
        verb,
        path,
        namespace.into(),
        name.into(),
        version.into(),
        (&*resource.resource).into(),
        (&*target.subresource).into(),
    ]
}

/// Divides all seats among the levels; the fair fraction.
fn redistribute(levels: &BTreeMap<String, Arc<Level>>) -> f64 {
    let claim = |level: &Arc<Level>| {
        let state = level.state();
        Claim { exempt: state.set.is_exempt(), limits: state.limits, demand: state.demand }
    };
    let claims: Vec<Claim> = levels.values().map(claim).collect();
    let (seats, fair) = divide(&claims);
    for ((level, claim), seats) in levels.values().zip(&claims).zip(seats) {
        let mut state = level.state();
        state.target = claim.target();
        level.set_limit(&mut state, seats);
    }
    fair
}

fn figures(level: &Level) -> stats::LevelFigures {
    let state = level.state();
    let (limits, demand) = (state.limits, state.demand);
    let gauges = vec![
        ("nominal_limit_seats", f64::from(limits.nominal)),
        ("lower_limit_seats", f64::from(limits.lower)),
        ("upper_limit_seats", f64::from(limits.upper)),
        ("current_limit_seats", f64::from(state.set.limit())),
        ("request_concurrency_limit", f64::from(limits.nominal)),
        ("demand_seats_high_watermark", f64::from(demand.highest)),
        ("demand_seats_average", demand.average),
        ("demand_seats_stdev", demand.deviation),
        ("demand_seats_smoothed", demand.smoothed),
        ("target_seats", state.target),
        ("current_r", state.set.progress()),
    ];
    stats::LevelFigures { level: level.name.clone(), gauges, flows: state.set.flows.clone() }
}
