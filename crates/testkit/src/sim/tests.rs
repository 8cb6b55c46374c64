use super::*;
use parking_lot::Mutex;
use skiff_meta::world::WorldExt;

const MINUTE: Duration = Duration::from_secs(60);

/// Ten tasks that nap and tell; who told in which order.
fn naps(seed: u64) -> (Vec<u32>, u64) {
    let sim = Sim::new(seed);
    let told = Arc::new(Mutex::new(Vec::new()));
    let world = sim.world();
    let tasks: Vec<_> = (0..10)
        .map(|number| {
            let (world, told) = (world.clone(), told.clone());
            let nap = async move {
                for _ in 0..3 {
                    world.sleep(Duration::from_micros(world.random() % 100)).await;
                    told.lock().push(number);
                }
            };
            sim.world().spawn("nap", Box::pin(nap))
        })
        .collect();
    sim.run_until(futures::future::join_all(tasks), MINUTE).unwrap();
    let told = told.lock().clone();
    (told, sim.digest())
}

#[test]
fn one_seed_is_one_run() {
    assert_eq!(naps(1), naps(1));
    assert_ne!(naps(1).0, naps(2).0);
    assert_ne!(naps(1).1, naps(2).1);
}

#[test]
fn the_clock_jumps() {
    let sim = Sim::new(3);
    let world = sim.world();
    let day = Duration::from_secs(86_400);
    let before = world.now();
    sim.run_until(world.sleep(day), day * 2).unwrap();
    assert!(world.elapsed() >= day && world.elapsed() < day + MINUTE);
    assert_eq!(world.now().duration_since(before).as_hours(), 24);
}

#[test]
fn runs_that_cannot_end_say_so() {
    let sim = Sim::new(4);
    assert!(matches!(sim.run_until(futures::future::pending::<()>(), MINUTE), Err(Stuck::Still(_))));
    let world = sim.world();
    let busy = async move {
        while world.elapsed() < MINUTE * 10 {
            world.sleep(Duration::from_secs(1)).await;
        }
    };
    assert!(matches!(sim.run_until(busy, MINUTE), Err(Stuck::Late(_))));
    let spinning = futures::future::poll_fn(|cx| {
        cx.waker().wake_by_ref();
        Poll::<()>::Pending
    });
    assert!(matches!(sim.run_until(spinning, Duration::from_millis(1)), Err(Stuck::Late(_))), "work takes time");
    let spinning = futures::future::poll_fn(|cx| {
        cx.waker().wake_by_ref();
        Poll::Pending
    });
    let sim = Sim::new(4).with_patience(100_000);
    drop(sim.world().spawn("spinner", Box::pin(spinning)));
    let end = sim.run_until(futures::future::pending::<()>(), MINUTE * 60);
    assert!(matches!(end, Err(Stuck::Busy(_, _, "spinner"))), "{end:?}");
}

#[test]
fn aborted_tasks_drop_what_they_hold() {
    let sim = Sim::new(5);
    let held = Arc::new(());
    let hold = held.clone();
    let task = sim.world().spawn(
        "hold",
        Box::pin(async move {
            futures::future::pending::<()>().await;
            drop(hold);
        }),
    );
    sim.run_for(MINUTE);
    assert_eq!(Arc::strong_count(&held), 2);
    task.abort();
    sim.run_until(task, MINUTE).unwrap();
    assert_eq!(Arc::strong_count(&held), 1);
}

#[test]
fn a_world_takes_its_tasks_along() {
    let sim = Sim::new(6);
    let held = Arc::new(());
    let (hold, world) = (held.clone(), sim.world());
    drop(sim.world().spawn(
        "hold",
        Box::pin(async move {
            world.sleep(MINUTE).await;
            drop(hold);
        }),
    ));
    drop(sim);
    assert_eq!(Arc::strong_count(&held), 1);
}

#[test]
fn timeouts_cut_off() {
    let sim = Sim::new(7);
    let world = sim.world();
    let cut = sim.run_until(world.timeout(Duration::from_secs(2), world.sleep(MINUTE)), MINUTE);
    assert_eq!(cut, Ok(None));
    assert!(world.elapsed() < Duration::from_secs(3));
}
