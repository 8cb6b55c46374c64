//! What a simulated world knows: its clock, its timers, its tasks, and which of them are ready.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::dice::Dice;

/// The most microseconds one step takes.
const LONGEST_STEP: u64 = 20;

pub(super) type TaskId = u64;

/// A moment, and a number that keeps timers of one moment apart.
pub(super) type TimerId = (Duration, u64);

pub(super) struct Shared {
    state: Mutex<State>,
}

struct State {
    now: Duration,
    /// Draws who goes next, and how long it takes.
    order: Dice,
    /// What tasks draw; apart from the other, so that a change of the executor changes no name.
    random: Dice,
    count: u64,
    tasks: BTreeMap<TaskId, Slot>,
    /// In order of their numbers, so that the order in which they were woken, which is left to chance by the channels
    /// they wait on, does not matter.
    ready: Vec<TaskId>,
    timers: BTreeMap<TimerId, Waker>,
    digest: u64,
    /// Steps of the present run, by the names of tasks.
    steps: BTreeMap<&'static str, u64>,
}

struct Slot {
    name: &'static str,
    /// Missing while it runs, and for the future of [`super::Sim::run_until`], which lives on the stack.
    work: Option<BoxFuture<'static, ()>>,
    waker: Arc<TaskWaker>,
    queued: bool,
    aborted: bool,
    /// Dropped with the slot, which tells those who wait for the end.
    _ended: Option<watch::Sender<()>>,
}

pub(super) struct TaskWaker {
    id: TaskId,
    world: Weak<Shared>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        if let Some(world) = self.world.upgrade() {
            world.state.lock().ready(self.id);
        }
    }
}

/// What comes next.
pub(super) enum Next {
    Task(TaskId),
    /// The deadline has passed.
    Late,
    /// Nothing, ever.
    Never,
}

impl State {
    fn ready(&mut self, id: TaskId) {
        if let Some(slot) = self.tasks.get_mut(&id)
            && !slot.queued
        {
            slot.queued = true;
            let place = self.ready.partition_point(|&other| other < id);
            self.ready.insert(place, id);
        }
    }

    fn add(&mut self, id: TaskId, slot: Slot) {
        self.tasks.insert(id, slot);
        self.ready(id);
    }

    fn number(&mut self) -> u64 {
        self.count += 1;
        self.count
    }

    /// FNV-1a over what happened.
    fn note(&mut self, number: u64) {
        for byte in number.to_le_bytes() {
            self.digest = (self.digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// Takes the timers whose time has come.
    fn due(&mut self) -> Vec<Waker> {
        let later = self.timers.split_off(&(self.now, u64::MAX));
        std::mem::replace(&mut self.timers, later).into_values().collect()
    }
}

impl Shared {
    pub(super) fn new(seed: u64) -> Arc<Self> {
        let mut order = Dice::new(seed);
        let random = Dice::new(order.roll());
        let state = State {
            now: Duration::ZERO,
            order,
            random,
            count: 0,
            tasks: BTreeMap::new(),
            ready: Vec::new(),
            timers: BTreeMap::new(),
            digest: 0xcbf2_9ce4_8422_2325,
            steps: BTreeMap::new(),
        };
        Arc::new(Self { state: Mutex::new(state) })
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.state.lock().now
    }

    pub(super) fn random(&self) -> u64 {
        self.state.lock().random.roll()
    }

    pub(super) fn digest(&self) -> u64 {
        self.state.lock().digest
    }

    /// A task; it is ready at once. Waiting for the receiver to close is waiting for its end.
    pub(super) fn spawn(
        self: &Arc<Self>,
        name: &'static str,
        work: BoxFuture<'static, ()>,
    ) -> (TaskId, watch::Receiver<()>) {
        let (ended, end) = watch::channel(());
        let id = self.insert(name, Some(work), Some(ended)).0;
        (id, end)
    }

    /// A place among the tasks for a future that is polled by the caller: the beginning of a run.
    pub(super) fn enter(self: &Arc<Self>) -> (TaskId, Arc<TaskWaker>) {
        self.state.lock().steps.clear();
        self.insert("the run itself", None, None)
    }

    fn insert(
        self: &Arc<Self>,
        name: &'static str,
        work: Option<BoxFuture<'static, ()>>,
        ended: Option<watch::Sender<()>>,
    ) -> (TaskId, Arc<TaskWaker>) {
        let mut state = self.state.lock();
        let id = state.number();
        let waker = Arc::new(TaskWaker { id, world: Arc::downgrade(self) });
        state.add(id, Slot { name, work, waker: waker.clone(), queued: false, aborted: false, _ended: ended });
        (id, waker)
    }

    /// Ends the task when its turn comes.
    pub(super) fn abort(&self, id: TaskId) {
        let mut state = self.state.lock();
        if let Some(slot) = state.tasks.get_mut(&id) {
            slot.aborted = true;
            state.ready(id);
        }
    }

    /// Forgets a task. What it holds is dropped outside the lock, since dropping wakes and aborts others.
    pub(super) fn leave(&self, id: TaskId) {
        let slot = self.state.lock().tasks.remove(&id);
        drop(slot);
    }

    /// Draws who goes next; the clock moves on a little, or to the next timer when nobody is ready.
    pub(super) fn next(&self, deadline: Duration) -> Next {
        loop {
            let mut state = self.state.lock();
            let step = state.order.below(LONGEST_STEP);
            state.now += Duration::from_micros(step);
            if state.ready.is_empty() {
                let Some((&(at, _), _)) = state.timers.first_key_value() else { return Next::Never };
                state.now = state.now.max(at);
            }
            if state.now > deadline {
                return Next::Late;
            }
            let due = state.due();
            if !due.is_empty() {
                drop(state);
                due.into_iter().for_each(Waker::wake);
                continue;
            }
            let ready = state.ready.len() as u64;
            let place = state.order.below(ready) as usize;
            let id = state.ready.remove(place);
            let Some(slot) = state.tasks.get_mut(&id) else { continue };
            slot.queued = false;
            let name = slot.name;
            *state.steps.entry(name).or_default() += 1;
            let now = state.now.as_micros() as u64;
            state.note(id);
            state.note(now);
            return Next::Task(id);
        }
    }

    /// How many steps the present run has taken, and whose most of them were.
    pub(super) fn steps(&self) -> (u64, &'static str) {
        let state = self.state.lock();
        let busiest = state.steps.iter().max_by_key(|(_, steps)| **steps).map_or("nobody", |(name, _)| name);
        (state.steps.values().sum(), busiest)
    }

    /// Lets a task go on until it waits again.
    pub(super) fn step(&self, id: TaskId) {
        let mut state = self.state.lock();
        let Some(slot) = state.tasks.get_mut(&id) else { return };
        let (work, waker, aborted) = (slot.work.take(), slot.waker.clone(), slot.aborted);
        drop(state);
        let Some(mut work) = work else { return };
        let finished = aborted || work.as_mut().poll(&mut Context::from_waker(&waker.into())) == Poll::Ready(());
        if finished {
            drop(work);
            return self.leave(id);
        }
        if let Some(slot) = self.state.lock().tasks.get_mut(&id) {
            slot.work = Some(work);
        }
    }

    pub(super) fn new_timer(&self, after: Duration) -> TimerId {
        let mut state = self.state.lock();
        (state.now.saturating_add(after), state.number())
    }

    /// Whether the timer's time has come; if not, `waker` is woken then.
    pub(super) fn wait(&self, timer: TimerId, waker: &Waker) -> bool {
        let mut state = self.state.lock();
        if state.now >= timer.0 {
            return true;
        }
        state.timers.insert(timer, waker.clone());
        false
    }

    pub(super) fn cancel(&self, timer: TimerId) {
        let waker = self.state.lock().timers.remove(&timer);
        drop(waker);
    }

    /// Ends everything.
    pub(super) fn clear(&self) {
        loop {
            let mut state = self.state.lock();
            let (tasks, timers) = (std::mem::take(&mut state.tasks), std::mem::take(&mut state.timers));
            drop(state);
            if tasks.is_empty() && timers.is_empty() {
                return;
            }
        }
    }
}
