use super::*;
use crate::tests::{info, with};
use serde_json::json;

const SECOND: Duration = Duration::from_secs(1);

fn pod(name: &str, priority: i32) -> Arc<PodInfo> {
    info(with(name, "0", json!({"spec": {"priority": priority}})))
}

fn by(places: &[usize]) -> RejectedBy {
    let mut plugins = Plugins::default();
    places.iter().for_each(|place| plugins.insert(*place));
    (0, plugins)
}

fn hearing(places: &[usize]) -> [Plugins; 1] {
    [by(places).1]
}

#[test]
fn order_is_by_priority_then_arrival() {
    let mut queue = Queue::default();
    for (name, priority) in [("a", 0), ("b", 5), ("c", 0)] {
        queue.add(pod(name, priority));
    }
    let order: Vec<String> = std::iter::from_fn(|| queue.pop()).map(|p| p.uid.clone()).collect();
    assert_eq!(order, ["b", "a", "c"]);
}

#[test]
fn what_fits_nowhere_waits_for_an_event_that_helps() {
    let mut queue = Queue::default();
    queue.add(pod("a", 0));
    queue.pop();
    queue.refused("a", SECOND, by(&[3]));
    assert!(queue.pop().is_none(), "no event, no attempt");
    queue.wake(SECOND, &hearing(&[2, 4]), |_, _| true);
    assert!(queue.pop().is_none(), "nobody who refused it has heard");
    queue.wake(SECOND, &hearing(&[3]), |_, _| false);
    assert!(queue.pop().is_none(), "it does not help");
    queue.wake(SECOND, &hearing(&[3]), |_, _| true);
    assert_eq!(queue.tick(SECOND), Some(SECOND * 2), "its pause is not over");
    assert!(queue.pop().is_some(), "but nobody else is there to be tried");
}

#[test]
fn those_nobody_refused_are_helped_by_anything() {
    let mut queue = Queue::default();
    queue.add(pod("a", 0));
    queue.pop();
    queue.refused("a", SECOND, by(&[]));
    queue.wake(SECOND * 9, &hearing(&[]), |_, _| false);
    assert!(queue.pop().is_some());
}

#[test]
fn errors_pause_longer_and_longer() {
    let mut queue = Queue::default();
    queue.add(pod("a", 0));
    let mut now = SECOND;
    for pause in [1, 2, 4, 8, 10, 10] {
        assert!(queue.pop().is_some());
        queue.failed("a", now);
        assert!(queue.pop().is_none(), "an error is not tried again early");
        assert_eq!(queue.tick(now), Some(now + SECOND * pause));
        now += SECOND * pause;
        assert_eq!(queue.tick(now), None);
    }
    queue.forget("a");
    assert!(queue.is_empty() && queue.pop().is_none());
}

#[test]
fn after_five_minutes_a_pod_is_tried_in_any_case() {
    let mut queue = Queue::default();
    queue.add(pod("a", 0));
    queue.pop();
    queue.refused("a", SECOND, by(&[3]));
    assert_eq!(queue.tick(SECOND * 300), Some(SECOND * 301));
    queue.tick(SECOND * 301);
    assert!(queue.pop().is_some());
}

#[test]
fn gates_hold_back() {
    let gated = info(with("a", "0", json!({"spec": {"schedulingGates": [{"name": "g"}]}})));
    let mut queue = Queue::default();
    queue.add(gated.clone());
    assert!(queue.pop().is_none() && queue.len() == 1);
    queue.wake(SECOND, &hearing(&[1]), |_, _| true);
    assert!(queue.pop().is_none());
    queue.update(pod("a", 0), SECOND, |_| false);
    assert!(queue.pop().is_some(), "the gate is open");
    queue.update(gated, SECOND, |_| true);
    assert!(queue.pop().is_none());
}

#[test]
fn a_changed_pod_is_tried_again_where_the_change_helps() {
    let mut queue = Queue::default();
    queue.add(pod("a", 0));
    queue.pop();
    queue.refused("a", SECOND, by(&[3]));
    queue.update(pod("a", 1), SECOND, |_| false);
    assert!(queue.pop().is_none());
    queue.update(pod("a", 2), SECOND, |refused| refused == by(&[3]));
    assert_eq!(queue.pop().map(|pod| pod.priority), Some(2));
}

#[test]
fn who_waits_for_others_to_go_is_not_woken_before() {
    let mut queue = Queue::default();
    for name in ["a", "b"] {
        queue.add(pod(name, 0));
        queue.pop();
        queue.refused(name, SECOND, by(&[3]));
        queue.hold(name);
    }
    queue.wake(SECOND, &hearing(&[3]), |_, _| true);
    assert!(queue.pop().is_none());
    queue.activate("a");
    assert_eq!(queue.pop().map(|pod| pod.uid.clone()).as_deref(), Some("a"));
    assert_eq!(queue.tick(SECOND * 301), None, "in the end it is tried in any case");
    assert_eq!(queue.pop().map(|pod| pod.uid.clone()).as_deref(), Some("b"));
}
