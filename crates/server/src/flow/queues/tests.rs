//! Fairness, on a clock of our own.

use super::*;

type Set = QueueSet<(), usize>;

fn set(queues: usize, hand: usize, length: usize, limit: u32) -> Set {
    let mut set = Set::new(Shape { queues, hand, length, exempt: false }, limit);
    set.flow("a");
    set
}

fn ask(work: Work, hash: u64) -> Request<()> {
    Request { flow: 0, hash, work, watch: false, what: () }
}

const MS: Duration = Duration::from_millis(1);

#[test]
fn who_finds_a_seat_does_not_wait_and_who_finds_no_place_is_refused() {
    let mut set = set(1, 1, 1, 2);
    let mut granted = Vec::new();
    let start = |set: &mut Set, id, granted: &mut _| set.start(MS, ask(Work::ONE, 0), || id, granted);
    let Started::Running(first) = start(&mut set, 1, &mut granted) else { panic!("a seat was free") };
    assert!(matches!(start(&mut set, 2, &mut granted), Started::Running(_)));
    assert!(matches!(start(&mut set, 3, &mut granted), Started::Waiting(_)));
    assert_eq!(start(&mut set, 4, &mut granted), Started::Refused(Refusal::QueueFull));
    assert!(granted.is_empty());
    set.finish(2 * MS, first, &mut granted);
    assert_eq!(granted.iter().map(|g| g.0).collect::<Vec<_>>(), [3]);
    let totals = set.totals();
    assert_eq!((totals.executing, totals.waiting, totals.seats, totals.refused), (2, 0, 2, 1));
}

#[test]
fn a_level_without_queues_refuses() {
    let mut set = set(0, 0, 0, 1);
    let mut granted = Vec::new();
    assert!(matches!(set.start(MS, ask(Work::ONE, 0), || 1, &mut granted), Started::Running(_)));
    let refused = set.start(MS, ask(Work::ONE, 0), || 2, &mut granted);
    assert_eq!(refused, Started::Refused(Refusal::ConcurrencyLimit));
}

#[test]
fn whoever_asks_for_little_finds_a_seat_among_those_who_ask_for_much() {
    let mut set = set(8, 1, 50, 16);
    let mut granted = Vec::new();
    let wide = Work { initial: 7, ..Work::ONE };
    let ask_for = |set: &mut Set, work, hash, granted: &mut _| set.start(MS, ask(work, hash), || 0, granted);
    let queue_of = |hash: u64| deal(hash, 8, 1).cards()[0];
    let calm = (1..100).find(|hash| queue_of(*hash) != queue_of(0)).unwrap();
    assert!(matches!(ask_for(&mut set, wide, 0, &mut granted), Started::Running(_)));
    assert!(matches!(ask_for(&mut set, wide, 0, &mut granted), Started::Running(_)));
    assert!(matches!(ask_for(&mut set, Work::ONE, 0, &mut granted), Started::Waiting(_)), "two seats are kept");
    let Started::Running(first) = ask_for(&mut set, Work::ONE, calm, &mut granted) else { panic!("not behind others") };
    assert!(matches!(ask_for(&mut set, Work::ONE, calm, &mut granted), Started::Waiting(_)), "one at a time");
    assert!(granted.is_empty());
    set.finish(2 * MS, first, &mut granted);
    assert_eq!(granted.len(), 1, "its next one is not behind others either");
    assert!(set.totals().seats <= set.limit());
}

#[test]
fn a_level_without_seats_lets_wait_whoever_can() {
    let mut granted = Vec::new();
    let mut queued = set(2, 1, 5, 0);
    assert!(matches!(queued.start(MS, ask(Work::ONE, 0), || 1, &mut granted), Started::Waiting(_)));
    queued.set_limit(2 * MS, 1, &mut granted);
    assert_eq!(granted.len(), 1);
    let mut refusing = set(0, 0, 0, 0);
    assert!(matches!(refusing.start(MS, ask(Work::ONE, 0), || 1, &mut granted), Started::Running(_)));
    assert!(matches!(refusing.start(MS, ask(Work::ONE, 0), || 1, &mut granted), Started::Refused(_)));
}

#[test]
fn who_no_longer_waits_is_forgotten() {
    let mut set = set(1, 1, 5, 1);
    let mut granted = Vec::new();
    let Started::Running(ticket) = set.start(MS, ask(Work::ONE, 0), || 1, &mut granted) else { panic!() };
    let Started::Waiting(id) = set.start(MS, ask(Work::ONE, 0), || 2, &mut granted) else { panic!() };
    set.cancel(2 * MS, id, &mut granted);
    set.finish(3 * MS, ticket, &mut granted);
    assert!(granted.is_empty() && set.is_idle());
    assert_eq!((set.totals().seats, set.requested, set.active), (0, 0, 0));
    assert_eq!(set.flows[0].refused[Refusal::TimeOut as usize], 1);
}

#[test]
fn seats_may_be_held_beyond_the_end() {
    let mut set = set(1, 1, 5, 4);
    let mut granted = Vec::new();
    let work = Work { initial: 1, last: 4, lingers: 10 * MS };
    let Started::Running(ticket) = set.start(MS, ask(work, 0), || 1, &mut granted) else { panic!() };
    assert!(matches!(set.start(MS, ask(Work::ONE, 0), || 2, &mut granted), Started::Waiting(_)));
    set.finish(2 * MS, ticket, &mut granted);
    assert_eq!((granted.len(), set.next_release()), (0, Some(12 * MS)));
    set.tick(12 * MS, &mut granted);
    assert_eq!(granted.len(), 1);
}

#[test]
fn queues_that_are_too_many_are_used_up() {
    let mut set = set(8, 8, 5, 1);
    let mut granted = Vec::new();
    let mut tickets = Vec::new();
    for id in 0..8 {
        if let Started::Running(ticket) = set.start(MS, ask(Work::ONE, id as u64), || id, &mut granted) {
            tickets.push(ticket);
        }
    }
    set.reshape(Shape { queues: 2, hand: 1, length: 5, exempt: false });
    while let Some(ticket) = tickets.pop() {
        set.finish(2 * MS, ticket, &mut granted);
        tickets.extend(granted.drain(..).map(|(_, ticket)| ticket));
    }
    assert!(set.is_idle());
    assert_eq!(set.queues.len(), 2);
}

/// Fifty clients of one flow that always want more, and one client of another that asks once in a while: what the one
/// waits with the fifty there, and without them.
#[test]
fn a_flood_in_one_flow_does_not_hold_up_another() {
    let quiet = simulate(0);
    let flooded = simulate(50);
    // Alone it never waits. Beside the flood it waits for at most one of those that run to end: twice its own time.
    assert_eq!(quiet, 5 * MS);
    assert!(flooded <= 2 * quiet, "{flooded:?} against {quiet:?}");
}

/// The longest time from asking to answer of the one client, when each request takes five milliseconds.
fn simulate(flood: u64) -> Duration {
    const TAKES: Duration = Duration::from_millis(5);
    let mut set: QueueSet<(), (bool, Duration)> =
        QueueSet::new(Shape { queues: 64, hand: 6, length: 50, exempt: false }, 4);
    set.flow("a");
    let mut granted = Vec::new();
    let mut running: Vec<(Duration, bool, Duration, Ticket)> = Vec::new();
    let mut worst = Duration::ZERO;
    let mut now = Duration::ZERO;
    let begin = |set: &mut QueueSet<(), (bool, Duration)>, now, one: bool, running: &mut Vec<_>, granted: &mut _| {
        // The flood is one flow: one hash. The quiet client's hand shares some queues with it, but not all.
        let hash = if one { 0x1234_5678_9abc_def0 } else { 0x0fed_cba9_8765_4321 };
        if let Started::Running(ticket) = set.start(now, ask(Work::ONE, hash), || (one, now), granted) {
            running.push((now + TAKES, one, now, ticket));
        }
    };
    (0..flood).for_each(|_| begin(&mut set, now, false, &mut running, &mut granted));
    for step in 1..4_000_u32 {
        now = step * MS;
        while let Some(place) = running.iter().position(|(end, ..)| *end <= now) {
            let (_, one, asked, ticket) = running.swap_remove(place);
            if one {
                worst = worst.max(now - asked);
            }
            set.finish(now, ticket, &mut granted);
            if !one {
                begin(&mut set, now, false, &mut running, &mut granted);
            }
        }
        if step % 40 == 0 {
            begin(&mut set, now, true, &mut running, &mut granted);
        }
        for ((one, asked), ticket) in granted.drain(..) {
            running.push((now + TAKES, one, asked, ticket));
        }
    }
    worst
}
