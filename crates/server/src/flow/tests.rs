//! Requests against the default objects, on the real clock; what time does to queues is tested with the queues.

use std::sync::Arc;
use std::time::Duration;

use skiff_meta::world::RealWorld;

use super::*;

fn control() -> Arc<FlowControl> {
    let flow = FlowControl::new(RealWorld::shared(), 600);
    flow.configure(&defaults::levels(), &defaults::schemas());
    flow
}

fn digest<'a>(user: &'a User, path: &'a str) -> Digest<'a> {
    Digest { user, verb: "get", target: None, path }
}

#[tokio::test]
async fn administrators_and_probes_never_wait() {
    let flow = control();
    let (admin, alice) = (
        Arc::new(User::new("admin", &["system:masters", "system:authenticated"])),
        Arc::new(User::new("alice", &["system:authenticated"])),
    );
    let mut seats = Vec::new();
    for _ in 0..5_000 {
        for (user, path) in [(&admin, "/version"), (&alice, "/livez")] {
            let (_, seat) = flow.seat(&digest(user, path), user, || Size::One, Duration::ZERO).await;
            seats.push(seat.expect("a seat"));
        }
    }
    drop(seats);
    let mut metrics = String::new();
    flow.write_metrics(&mut metrics);
    let told = "dispatched_requests_total{priority_level=\"exempt\",flow_schema=\"probes\"} 5000";
    assert!(metrics.contains(told), "{metrics}");
}

#[tokio::test]
async fn who_finds_no_seat_waits_for_one_and_then_comes_again() {
    let flow = control();
    let user = Arc::new(User::new("alice", &["system:authenticated"]));
    let ask = |patience| {
        let (flow, user) = (flow.clone(), user.clone());
        async move { flow.seat(&digest(&user, "/version"), &user, || Size::One, patience).await.1 }
    };
    let mut seats = Vec::new();
    while let Ok(seat) = ask(Duration::ZERO).await {
        seats.push(seat);
        assert!(seats.len() < 1_000);
    }
    // The level's nominal share and what others lend it at the beginning.
    assert!(seats.len() > 24, "{}", seats.len());
    let mut waiting = Box::pin(ask(Duration::from_secs(60)));
    assert!(futures::poll!(waiting.as_mut()).is_pending());
    assert!(flow.dump("dump_requests", true).expect("a dump").contains("get,"));
    drop(seats.pop());
    let seat = waiting.await;
    assert!(seat.is_ok());
    // A level that goes away leaves its requests alone, and a new one takes the next.
    flow.configure(&[], &[]);
    drop((seats, seat));
    assert!(ask(Duration::ZERO).await.is_ok());
    let levels = flow.dump("dump_priority_levels", false).expect("a dump");
    assert!(levels.contains("catch-all,") && !levels.contains("global-default"), "{levels}");
}
