//! One priority level at work: its queues behind a lock, and those who wait for their turn.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use skiff_meta::WorldRef;
use skiff_meta::world::WorldExt;
use tokio::sync::oneshot;

use super::allocate::Limits;
use super::demand::Demand;
use super::queues::{Granted, QueueSet, Request, Shape, Started, Ticket};
use super::retry::RetryAfter;
use super::stats::Refusal;
use crate::chain::User;

/// Who asks, for dumps.
pub(super) struct What {
    pub(super) user: Arc<User>,
    /// Where flows are told apart by it.
    pub(super) namespace: Option<Box<str>>,
}

/// Somebody who waits.
pub(super) struct Waiter {
    turn: oneshot::Sender<Ticket>,
    /// For dumps: verb, path, namespace, name, version, resource, subresource.
    pub(super) details: [Box<str>; 7],
}

/// The queues and what is known of their use.
pub(super) struct State {
    pub(super) set: QueueSet<What, Waiter>,
    pub(super) limits: Limits,
    pub(super) demand: Demand,
    pub(super) target: f64,
    retry: RetryAfter,
    /// Somebody wakes us when lingering seats come free.
    armed: bool,
}

/// A priority level.
pub(super) struct Level {
    pub(super) name: String,
    world: WorldRef,
    state: Mutex<State>,
}

impl Level {
    /// With nobody in it.
    pub(super) fn new(name: &str, shape: Shape, limits: Limits, world: WorldRef) -> Arc<Self> {
        // Upstream begins with half of what it may lend lent.
        let set = QueueSet::new(shape, limits.nominal - (limits.nominal - limits.lower) / 2);
        let (demand, retry) = (Demand::default(), RetryAfter::default());
        let state = State { set, limits, demand, target: 0.0, retry, armed: false };
        Arc::new(Self { name: name.to_owned(), world, state: Mutex::new(state) })
    }

    /// Its state, for configuration and dumps.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// A request comes.
    pub(super) fn ask(
        self: &Arc<Self>,
        request: Request<What>,
        watchers: Option<usize>,
        details: impl FnOnce() -> [Box<str>; 7],
    ) -> Asked {
        let mut receiver = None;
        let waiter = || {
            let (turn, receive) = oneshot::channel();
            receiver = Some(receive);
            Waiter { turn, details: details() }
        };
        let mut granted = Vec::new();
        let mut state = self.state.lock();
        if let Some(watchers) = watchers {
            state.set.flows[request.flow].watchers.observe(watchers as f64);
        }
        let started = state.set.start(self.world.elapsed(), request, waiter, &mut granted);
        self.settle(&mut state, granted);
        match (started, receiver) {
            (Started::Running(ticket), _) => Asked::Seat(Seat { level: self.clone(), ticket: Some(ticket) }),
            (Started::Waiting(id), Some(turn)) => Asked::Wait(Waiting { level: self.clone(), id, turn }),
            (Started::Waiting(_), None) => Asked::Refused(self.refused(&mut state), Refusal::QueueFull),
            (Started::Refused(why), _) => Asked::Refused(self.refused(&mut state), why),
        }
    }

    fn refused(&self, state: &mut State) -> u64 {
        state.retry.refused(u64::try_from(self.world.now().as_second()).unwrap_or_default())
    }

    fn finish(self: &Arc<Self>, ticket: Ticket) {
        let mut granted = Vec::new();
        let mut state = self.state.lock();
        state.set.finish(self.world.elapsed(), ticket, &mut granted);
        self.settle(&mut state, granted);
    }

    /// Another number of seats.
    pub(super) fn set_limit(self: &Arc<Self>, state: &mut State, limit: u32) {
        let mut granted = Vec::new();
        state.set.set_limit(self.world.elapsed(), limit, &mut granted);
        self.settle(state, granted);
    }

    /// Tells those whose turn has come, and sees to it that those who wait for lingering seats are told as well.
    fn settle(self: &Arc<Self>, state: &mut State, granted: Granted<Waiter>) {
        let mut granted = granted;
        while let Some((waiter, ticket)) = granted.pop() {
            // Who gives up leaves the queue before its receiver goes, under the same lock.
            if let Err(unused) = waiter.turn.send(ticket) {
                state.set.finish(self.world.elapsed(), unused, &mut granted);
            }
        }
        if state.armed || state.set.next_release().is_none() {
            return;
        }
        state.armed = true;
        let level = self.clone();
        let release = async move {
            while let Some(pause) = level.release() {
                level.world.sleep(pause).await;
            }
        };
        self.world.spawn("lingering-seats", Box::pin(release));
    }

    /// Gives back the seats whose time is over; how long until the next, if somebody waits for it.
    fn release(self: &Arc<Self>) -> Option<Duration> {
        let mut granted = Vec::new();
        let mut state = self.state.lock();
        let now = self.world.elapsed();
        state.set.tick(now, &mut granted);
        self.settle(&mut state, granted);
        let next = state.set.next_release();
        state.armed = next.is_some();
        next.map(|at| at.saturating_sub(now))
    }
}

/// What becomes of a request.
pub(super) enum Asked {
    /// It may run.
    Seat(Seat),
    /// It has to wait.
    Wait(Waiting),
    /// It may come again after so many seconds.
    Refused(u64, Refusal),
}

/// A place in a queue; dropped, it is given up.
pub(super) struct Waiting {
    level: Arc<Level>,
    id: u64,
    turn: oneshot::Receiver<Ticket>,
}

impl Waiting {
    /// Waits for the turn, so long at most; else the seconds after which to come again.
    pub(super) async fn turn(mut self, patience: Duration) -> Result<Seat, u64> {
        let world = self.level.world.clone();
        match world.timeout(patience, &mut self.turn).await {
            Some(Ok(ticket)) => Ok(Seat { level: self.level.clone(), ticket: Some(ticket) }),
            _ => Err(self.level.refused(&mut self.level.state.lock())),
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut granted = Vec::new();
        let mut state = self.level.state.lock();
        let now = self.level.world.elapsed();
        match self.turn.try_recv() {
            Ok(ticket) => state.set.finish(now, ticket, &mut granted),
            Err(_) => state.set.cancel(now, self.id, &mut granted),
        }
        self.level.settle(&mut state, granted);
    }
}

/// The right to run; given back when dropped.
pub(crate) struct Seat {
    level: Arc<Level>,
    ticket: Option<Ticket>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.level.finish(ticket);
        }
    }
}
