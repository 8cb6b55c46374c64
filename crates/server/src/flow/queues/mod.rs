//! Fair queues of one priority level: who waits where, and who is next.
//!
//! Pure: the time is an argument, and whoever waits is a value that is handed back when its turn has come. The
//! discipline is upstream's (`k8s.io/apiserver/pkg/util/flowcontrol/fairqueuing`): virtual time passes as fast as seats
//! are shared among the queues that want them; each queue knows at which virtual time its next request may begin, and
//! the one whose request would end first is next. What a request costs is guessed at its begin and put right at its end.
//! While nothing waits, none of this is looked at: a request then costs a few additions.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, VecDeque};
use std::time::Duration;

use super::dealer::deal;
use super::demand::{Demand, Integrator};
use super::stats::{FlowStats, Refusal};

/// How long a request is thought to take, in seconds, before it has.
const GUESS: f64 = 0.003;
/// One seat in so many is kept for those who ask for little and have nothing running, so that even in a full level they
/// need not wait until a seat comes free. Levels of fewer seats keep none.
const KEPT: u32 = 8;

/// What a request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Work {
    /// Seats while it runs.
    pub(super) initial: u32,
    /// Seats after it has ended, for what it caused.
    pub(super) last: u32,
    /// For how long.
    pub(super) lingers: Duration,
}

impl Work {
    /// As most requests.
    pub(super) const ONE: Self = Self { initial: 1, last: 0, lingers: Duration::ZERO };

    /// Seats it holds from begin to end.
    pub(super) fn seats(&self) -> u32 {
        self.initial.max(self.last)
    }
    /// Seats times seconds.
    pub(super) fn total(&self) -> f64 {
        f64::from(self.initial) * GUESS + f64::from(self.last) * self.lingers.as_secs_f64()
    }
}

/// How a level queues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Shape {
    /// 0: it does not, and refuses.
    pub(super) queues: usize,
    /// Queues of one flow.
    pub(super) hand: usize,
    /// Requests in one queue.
    pub(super) length: usize,
    /// Never waits, never refuses.
    pub(super) exempt: bool,
}

/// A request that asks for seats; `what` is told in dumps.
#[derive(Debug)]
pub(super) struct Request<T> {
    /// The place of its flow schema in [`QueueSet::flows`].
    pub(super) flow: usize,
    /// Of its flow.
    pub(super) hash: u64,
    /// What it needs.
    pub(super) work: Work,
    /// It holds its seats until it has begun, not until it ends.
    pub(super) watch: bool,
    /// Who and what.
    pub(super) what: T,
}

/// The right to run, given back at the end by [`QueueSet::finish`].
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ticket(usize);

/// What becomes of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Started {
    /// It runs.
    Running(Ticket),
    /// It waits, under this number.
    Waiting(u64),
    /// Come again later.
    Refused(Refusal),
}

/// Those whose turn has come.
pub(super) type Granted<W> = Vec<(W, Ticket)>;

struct Waiting<T, W> {
    id: u64,
    request: Request<T>,
    arrived: Duration,
    arrived_r: f64,
    waiter: W,
}

/// One at work.
struct Running<T> {
    queue: Option<usize>,
    request: Request<T>,
    arrived: Duration,
    began: Duration,
}

struct Queue<T, W> {
    waiting: VecDeque<Waiting<T, W>>,
    work: f64,
    seats_waiting: u32,
    executing: u32,
    seats: u32,
    next: f64,
}

impl<T, W> Default for Queue<T, W> {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), work: 0.0, seats_waiting: 0, executing: 0, seats: 0, next: 0.0 }
    }
}

impl<T, W> Queue<T, W> {
    fn is_active(&self) -> bool {
        self.executing > 0 || !self.waiting.is_empty()
    }
    /// A queue that was slow must not be owed for the time before its first request came.
    fn bound(&mut self) {
        if let Some(first) = self.waiting.front() {
            self.next = self.next.max(first.arrived_r);
        }
    }
}

/// Seats that are still held after their request has ended.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Lingering {
    until: Duration,
    queue: Option<usize>,
    flow: usize,
    seats: u32,
}

/// What a level has counted.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Totals {
    pub(super) waiting: u32,
    pub(super) executing: u32,
    pub(super) seats: u32,
    pub(super) seats_waiting: u32,
    pub(super) dispatched: u64,
    pub(super) refused: u64,
    pub(super) cancelled: u64,
}

/// The queues of one priority level. `T` is told of a request in dumps, `W` is who waits for it.
pub(super) struct QueueSet<T, W> {
    shape: Shape,
    limit: u32,
    queues: Vec<Queue<T, W>>,
    /// Queues in which somebody waits.
    busy: BTreeSet<usize>,
    /// Queues in which somebody waits or runs.
    active: u32,
    /// Seats of both, in queues.
    requested: u32,
    /// Virtual time.
    r: f64,
    now: Duration,
    robin: usize,
    enqueues: usize,
    ids: u64,
    totals: Totals,
    running: Vec<Option<Running<T>>>,
    free: Vec<usize>,
    lingering: BinaryHeap<Reverse<Lingering>>,
    demand: Integrator,
    /// Counts, by flow schema.
    pub(super) flows: Vec<FlowStats>,
}

impl<T, W> QueueSet<T, W> {
    /// Empty.
    pub(super) fn new(shape: Shape, limit: u32) -> Self {
        let mut set = Self {
            shape: Shape::default(),
            limit,
            queues: Vec::new(),
            busy: BTreeSet::new(),
            active: 0,
            requested: 0,
            r: 0.0,
            now: Duration::ZERO,
            robin: 0,
            enqueues: 0,
            ids: 0,
            totals: Totals::default(),
            running: Vec::new(),
            free: Vec::new(),
            lingering: BinaryHeap::new(),
            demand: Integrator::default(),
            flows: Vec::new(),
        };
        set.reshape(shape);
        set
    }

    /// Queues as configured from now on; those that are too many are used up.
    pub(super) fn reshape(&mut self, shape: Shape) {
        self.shape = shape;
        if self.queues.len() < shape.queues {
            self.queues.resize_with(shape.queues, Queue::default);
        }
        self.shrink();
    }

    /// Seats from now on.
    pub(super) fn set_limit(&mut self, now: Duration, limit: u32, granted: &mut Granted<W>) {
        self.pass(now);
        self.limit = limit;
        self.dispatch(granted);
    }

    /// Seats.
    pub(super) fn limit(&self) -> u32 {
        self.limit
    }

    /// The place of a flow schema's counts.
    pub(super) fn flow(&mut self, schema: &str) -> usize {
        match self.flows.iter().position(|flow| *flow.schema == *schema) {
            Some(place) => place,
            None => {
                self.flows.push(FlowStats::new(schema));
                self.flows.len() - 1
            }
        }
    }

    /// A request comes. `waiter` is made only when it has to wait.
    pub(super) fn start(
        &mut self,
        now: Duration,
        request: Request<T>,
        waiter: impl FnOnce() -> W,
        granted: &mut Granted<W>,
    ) -> Started {
        self.pass(now);
        if !self.lingering.is_empty() {
            self.dispatch(granted);
        }
        let seats = request.work.seats();
        self.flows[request.flow].estimates.observe(f64::from(seats));
        if self.shape.queues == 0 {
            if self.shape.exempt || self.fits(seats, self.limit) {
                return Started::Running(self.run(request, None, now));
            }
            return self.refuse(request.flow, Refusal::ConcurrencyLimit);
        }
        let place = self.choose(request.hash);
        let length = self.queues[place].waiting.len();
        let (modest, room) = (self.is_modest(place, request.work), self.room(place, request.work));
        if (self.totals.waiting == 0 || modest && length == 0) && self.fits(seats, room) {
            self.flows[request.flow].lengths.observe(1.0);
            self.wake(place);
            return Started::Running(self.run(request, Some(place), now));
        }
        if self.totals.seats >= room && length >= self.shape.length {
            return self.refuse(request.flow, Refusal::QueueFull);
        }
        self.ids += 1;
        let id = self.ids;
        self.enqueue(place, Waiting { id, request, arrived: now, arrived_r: self.r, waiter: waiter() });
        self.dispatch(granted);
        Started::Waiting(id)
    }

    /// A request has ended.
    pub(super) fn finish(&mut self, now: Duration, ticket: Ticket, granted: &mut Granted<W>) {
        self.pass(now);
        let Some(done) = self.running.get_mut(ticket.0).and_then(Option::take) else { return };
        self.free.push(ticket.0);
        let Running { queue, request, began, .. } = done;
        let took = now.saturating_sub(began);
        self.totals.executing -= 1;
        let flow = &mut self.flows[request.flow];
        flow.executing -= 1;
        let durations = if request.watch { &mut flow.watches } else { &mut flow.ran };
        durations.observe(took.as_secs_f64());
        if let Some(place) = queue {
            let queue = &mut self.queues[place];
            queue.executing -= 1;
            queue.next -= f64::from(request.work.initial) * (GUESS - took.as_secs_f64());
            queue.bound();
            if !queue.is_active() {
                self.active -= 1;
            }
        }
        let (flow, seats) = (request.flow, request.work.seats());
        if request.work.lingers.is_zero() {
            self.release(queue, flow, seats);
        } else {
            self.lingering.push(Reverse(Lingering { until: now + request.work.lingers, queue, flow, seats }));
        }
        self.dispatch(granted);
    }

    /// Who waits under a number waits no longer.
    pub(super) fn cancel(&mut self, now: Duration, id: u64, granted: &mut Granted<W>) {
        self.pass(now);
        let find = |place: &usize| Some((*place, self.queues[*place].waiting.iter().position(|w| w.id == id)?));
        let Some((place, index)) = self.busy.iter().find_map(find) else { return };
        if let Some(gone) = self.dequeue(place, index) {
            let flow = &mut self.flows[gone.request.flow];
            flow.waited_in_vain.observe(now.saturating_sub(gone.arrived).as_secs_f64());
            flow.refused[Refusal::TimeOut as usize] += 1;
            self.totals.refused += 1;
            self.totals.cancelled += 1;
            self.queues[place].bound();
            if !self.queues[place].is_active() {
                self.active -= 1;
            }
        }
        self.note_demand();
        self.dispatch(granted);
    }

    /// When seats come free that somebody waits for and no request's end will tell of.
    pub(super) fn next_release(&self) -> Option<Duration> {
        let first = self.lingering.peek().filter(|_| self.totals.waiting > 0)?;
        Some(first.0.until)
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, now: Duration, granted: &mut Granted<W>) {
        self.pass(now);
        self.dispatch(granted);
    }

    /// Ends a period of demand.
    pub(super) fn turn(&mut self, now: Duration, before: Demand) -> Demand {
        self.demand.turn(now, before)
    }

    /// What was counted.
    pub(super) fn totals(&self) -> Totals {
        self.totals
    }

    /// Virtual time.
    pub(super) fn progress(&self) -> f64 {
        self.r
    }

    /// Whether it never waits and never refuses.
    pub(super) fn is_exempt(&self) -> bool {
        self.shape.exempt
    }

    /// Nobody waits or runs.
    pub(super) fn is_idle(&self) -> bool {
        self.totals.waiting == 0 && self.totals.executing == 0
    }

    /// Advances virtual time, giving back the seats whose time is over on the way.
    fn pass(&mut self, now: Duration) {
        while let Some(Reverse(first)) = self.lingering.peek()
            && first.until <= now
        {
            let until = first.until;
            self.advance(until);
            if let Some(Reverse(over)) = self.lingering.pop() {
                self.release(over.queue, over.flow, over.seats);
            }
        }
        self.advance(now);
    }

    fn advance(&mut self, now: Duration) {
        if self.active == 0 {
            // Queues start from here when somebody comes, so that an idle level counts from zero again.
            self.r = 0.0;
        } else {
            let ratio = f64::from(self.requested.min(self.limit)) / f64::from(self.active);
            self.r += ratio * now.saturating_sub(self.now).as_secs_f64();
        }
        self.now = self.now.max(now);
    }

    fn fits(&self, seats: u32, room: u32) -> bool {
        if self.shape.exempt {
            return true;
        }
        if seats <= room {
            return self.totals.seats + seats <= room;
        }
        // Wider than all there is: it runs alone. Where there is nothing, only those who cannot wait do.
        self.totals.executing == 0 && (self.limit > 0 || self.shape.queues == 0)
    }

    /// Whether it asks for one seat, and its queue has none.
    fn is_modest(&self, place: usize, work: Work) -> bool {
        work == Work::ONE && self.queues[place].executing == 0
    }

    /// The seats it may find: a few are kept for the modest, where flows have queues of their own.
    fn room(&self, place: usize, work: Work) -> u32 {
        let kept = if self.shape.queues > self.shape.hand { self.limit / KEPT } else { 0 };
        if self.is_modest(place, work) { self.limit } else { self.limit - kept }
    }

    fn refuse(&mut self, flow: usize, why: Refusal) -> Started {
        self.flows[flow].refused[why as usize] += 1;
        self.totals.refused += 1;
        Started::Refused(why)
    }

    /// The queue of a flow's hand with the least work in it; among equals they take turns.
    fn choose(&mut self, hash: u64) -> usize {
        let hand = deal(hash, self.shape.queues, self.shape.hand);
        let cards = hand.cards();
        let offset = self.enqueues % cards.len().max(1);
        self.enqueues = self.enqueues.wrapping_add(1);
        let (before, after) = cards.split_at(offset.min(cards.len()));
        let turns = after.iter().chain(before).map(|card| *card as usize);
        turns.min_by(|a, b| self.queues[*a].work.total_cmp(&self.queues[*b].work)).unwrap_or(0)
    }

    fn wake(&mut self, place: usize) {
        let queue = &mut self.queues[place];
        if !queue.is_active() {
            queue.next = self.r;
            self.active += 1;
        }
    }

    fn enqueue(&mut self, place: usize, waiting: Waiting<T, W>) {
        self.wake(place);
        let (work, flow) = (waiting.request.work, waiting.request.flow);
        let queue = &mut self.queues[place];
        queue.waiting.push_back(waiting);
        queue.work += work.total();
        queue.seats_waiting += work.seats();
        queue.bound();
        let length = queue.waiting.len();
        self.busy.insert(place);
        self.requested += work.seats();
        self.totals.waiting += 1;
        self.totals.seats_waiting += work.seats();
        let flow = &mut self.flows[flow];
        flow.waiting += 1;
        flow.seats_waiting += work.seats();
        flow.lengths.observe(length as f64);
        self.note_demand();
    }

    /// Takes one out of its queue, which stays active for the moment.
    fn dequeue(&mut self, place: usize, index: usize) -> Option<Waiting<T, W>> {
        let queue = &mut self.queues[place];
        let taken = queue.waiting.remove(index)?;
        let work = taken.request.work;
        queue.seats_waiting -= work.seats();
        queue.work -= work.total();
        if queue.waiting.is_empty() {
            queue.work = 0.0;
            self.busy.remove(&place);
        }
        self.requested -= work.seats();
        self.totals.waiting -= 1;
        self.totals.seats_waiting -= work.seats();
        let flow = &mut self.flows[taken.request.flow];
        flow.waiting -= 1;
        flow.seats_waiting -= work.seats();
        Some(taken)
    }

    /// Lets run whoever may.
    fn dispatch(&mut self, granted: &mut Granted<W>) {
        while self.totals.waiting > 0 && self.totals.seats < self.limit {
            let fits = |(place, work): &(usize, Work)| self.fits(work.seats(), self.room(*place, *work));
            let next = self.next_queue(|_, _| true).filter(fits);
            let next = next.or_else(|| self.next_queue(|place, work| self.is_modest(place, work)).filter(fits));
            let Some((place, _)) = next else { return };
            let Some(first) = self.dequeue(place, 0) else { return };
            self.robin = place;
            let ticket = self.run(first.request, Some(place), first.arrived);
            self.queues[place].bound();
            granted.push((first.waiter, ticket));
        }
    }

    /// Of those `of` fits, the queue whose first request would end first, and what that needs; among equals the next in
    /// turn.
    fn next_queue(&self, of: impl Fn(usize, Work) -> bool) -> Option<(usize, Work)> {
        let turns = self.busy.range(self.robin + 1..).chain(self.busy.range(..=self.robin));
        let firsts = turns.filter_map(|place| Some((*place, self.queues[*place].waiting.front()?.request.work)));
        let end = |(place, work): &(usize, Work)| self.queues[*place].next + work.total();
        firsts.filter(|(place, work)| of(*place, *work)).min_by(|a, b| end(a).total_cmp(&end(b)))
    }

    /// A request begins; its queue, where there is one, is active already.
    fn run(&mut self, request: Request<T>, queue: Option<usize>, arrived: Duration) -> Ticket {
        let (work, now) = (request.work, self.now);
        if let Some(place) = queue {
            let queue = &mut self.queues[place];
            queue.executing += 1;
            queue.seats += work.seats();
            queue.next += work.total();
            self.requested += work.seats();
        }
        self.totals.executing += 1;
        self.totals.seats += work.seats();
        self.totals.dispatched += 1;
        let flow = &mut self.flows[request.flow];
        flow.executing += 1;
        flow.seats += work.seats();
        flow.dispatched += 1;
        flow.waited.observe(now.saturating_sub(arrived).as_secs_f64());
        self.note_demand();
        let running = Some(Running { queue, request, arrived, began: now });
        match self.free.pop() {
            Some(slot) => {
                self.running[slot] = running;
                Ticket(slot)
            }
            None => {
                self.running.push(running);
                Ticket(self.running.len() - 1)
            }
        }
    }

    fn release(&mut self, queue: Option<usize>, flow: usize, seats: u32) {
        self.totals.seats -= seats;
        self.flows[flow].seats -= seats;
        if let Some(place) = queue {
            self.queues[place].seats -= seats;
            self.requested -= seats;
            self.shrink();
        }
        self.note_demand();
    }

    fn note_demand(&mut self) {
        self.demand.set(self.now, self.totals.seats + self.totals.seats_waiting);
    }

    /// Drops queues that are too many and that nobody uses any more.
    fn shrink(&mut self) {
        let unused = |queue: &Queue<T, W>| !queue.is_active() && queue.seats == 0;
        while self.queues.len() > self.shape.queues && self.queues.last().is_some_and(unused) {
            self.queues.pop();
        }
    }
}

/// One queue, as dumps show it.
#[derive(Debug)]
pub(super) struct QueueRow {
    pub(super) waiting: usize,
    pub(super) executing: u32,
    pub(super) seats: u32,
    pub(super) next: f64,
    pub(super) initial_seats: u32,
    pub(super) seats_waiting: u32,
    pub(super) work: f64,
}

/// One request, as dumps show it.
pub(super) struct RequestRow<'a, T, W> {
    /// `None`: without queue.
    pub(super) queue: Option<usize>,
    /// `None`: at work.
    pub(super) index: Option<usize>,
    pub(super) schema: &'a str,
    pub(super) work: Work,
    pub(super) arrived: Duration,
    pub(super) began: Option<Duration>,
    pub(super) what: &'a T,
    /// Of those that wait.
    pub(super) waiter: Option<&'a W>,
}

impl<T, W> QueueSet<T, W> {
    /// All queues.
    pub(super) fn queue_rows(&self) -> impl Iterator<Item = QueueRow> {
        self.queues.iter().map(|q| QueueRow {
            waiting: q.waiting.len(),
            executing: q.executing,
            seats: q.seats,
            next: q.next,
            initial_seats: q.waiting.iter().map(|w| w.request.work.initial).sum(),
            seats_waiting: q.seats_waiting,
            work: q.work,
        })
    }

    /// All requests.
    pub(super) fn request_rows(&self) -> Vec<RequestRow<'_, T, W>> {
        let waiting = self
            .queues
            .iter()
            .enumerate()
            .flat_map(|(queue, q)| q.waiting.iter().enumerate().map(move |(index, w)| (queue, index, w)));
        let waiting = waiting.map(|(queue, index, w)| RequestRow {
            queue: Some(queue),
            index: Some(index),
            schema: &self.flows[w.request.flow].schema,
            work: w.request.work,
            arrived: w.arrived,
            began: None,
            what: &w.request.what,
            waiter: Some(&w.waiter),
        });
        let running = self.running.iter().flatten().map(|r| RequestRow {
            queue: r.queue,
            index: None,
            schema: &self.flows[r.request.flow].schema,
            work: r.request.work,
            arrived: r.arrived,
            began: Some(r.began),
            what: &r.request.what,
            waiter: None,
        });
        waiting.chain(running).collect()
    }
}

#[cfg(test)]
mod tests;
