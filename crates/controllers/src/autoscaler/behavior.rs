//! How fast the number of replicas may follow what metrics ask for. Pure.

use std::time::Duration;

use k8s_openapi::api::autoscaling::v2::{HPAScalingRules, HorizontalPodAutoscalerBehavior};

/// Without a behaviour: how long a higher recommendation holds back a lower one.
const DOWN_WINDOW: Duration = Duration::from_secs(300);
/// Without a behaviour: growth at once, to the double or to this.
const UP_FLOOR: i32 = 4;

/// What was recommended and done before, with times of the world's clock.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    recommended: Vec<(i32, Duration)>,
    up: Vec<(i32, Duration)>,
    down: Vec<(i32, Duration)>,
}

/// What follows from the past: the number, with reason and message of two conditions.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) replicas: i32,
    pub(crate) able: (&'static str, &'static str),
    /// Whether it is not all that was asked for.
    pub(crate) limited: bool,
    pub(crate) limit: (&'static str, &'static str),
}

/// The rules of one direction, with the defaults that the API writes.
struct Rules<'a> {
    window: Duration,
    select: &'a str,
    policies: Vec<(bool, i32, Duration)>,
}

fn seconds(number: i32) -> Duration {
    Duration::from_secs(u64::try_from(number).unwrap_or(0))
}

fn rules(given: Option<&HPAScalingRules>, up: bool) -> Rules<'_> {
    let window = given.and_then(|rules| rules.stabilization_window_seconds).map(seconds);
    let policies = given.and_then(|rules| rules.policies.as_ref());
    let percent = (true, 100, Duration::from_secs(15));
    let usual = || if up { vec![(false, 4, Duration::from_secs(15)), percent] } else { vec![percent] };
    Rules {
        window: window.unwrap_or(if up { Duration::ZERO } else { DOWN_WINDOW }),
        select: given.and_then(|rules| rules.select_policy.as_deref()).unwrap_or("Max"),
        policies: policies.map_or_else(usual, |policies| {
            policies.iter().map(|p| (p.type_ == "Percent", p.value, seconds(p.period_seconds))).collect()
        }),
    }
}

/// What is changed within the last `period`.
fn changed(events: &[(i32, Duration)], period: Duration, now: Duration) -> i32 {
    events.iter().filter(|(_, at)| *at + period > now).map(|(change, _)| *change).sum()
}

impl History {
    /// The first look at a target: what it has is what was recommended.
    pub(crate) fn begin(&mut self, current: i32, now: Duration) {
        if self.recommended.is_empty() {
            self.recommended.push((current, now));
        }
    }

    /// A change that was made.
    pub(crate) fn changed(&mut self, before: i32, after: i32, now: Duration) {
        let longest = Duration::from_secs(1800);
        for events in [&mut self.up, &mut self.down] {
            events.retain(|(_, at)| *at + longest > now);
        }
        if after > before { self.up.push((after - before, now)) } else { self.down.push((before - after, now)) }
    }

    /// The number that may be set now, of what metrics ask for (`wanted`).
    pub(crate) fn apply(
        &mut self,
        behavior: Option<&HorizontalPodAutoscalerBehavior>,
        (current, wanted): (i32, i32),
        (min, max): (i32, i32),
        now: Duration,
    ) -> Outcome {
        let up = rules(behavior.and_then(|behavior| behavior.scale_up.as_ref()), true);
        let down = rules(behavior.and_then(|behavior| behavior.scale_down.as_ref()), false);
        let steady = match behavior {
            None => self.recent(wanted, DOWN_WINDOW, now).max().unwrap_or(wanted),
            Some(_) => {
                let least = self.recent(wanted, up.window, now).min().unwrap_or(wanted);
                let most = self.recent(wanted, down.window, now).max().unwrap_or(wanted);
                current.max(least).min(most)
            }
        };
        let longest = up.window.max(down.window).max(DOWN_WINDOW);
        self.recommended.retain(|(_, at)| *at + longest >= now);
        self.recommended.push((wanted, now));
        let able = match behavior {
            _ if steady == wanted => ("ReadyForNewScale", "recommended size matches current size"),
            Some(_) if wanted >= current => (
                "ScaleUpStabilized",
                "recent recommendations were lower than current one, applying the lowest recent recommendation",
            ),
            _ => (
                "ScaleDownStabilized",
                "recent recommendations were higher than current one, applying the highest recent recommendation",
            ),
        };
        let (replicas, limit) = match behavior {
            None => clamp(steady, (min, None), (max, Some((current * 2).max(UP_FLOOR)))),
            Some(_) if steady > current => {
                clamp(steady, (i32::MIN, None), (max, Some(self.highest(&up, current, now))))
            }
            Some(_) if steady < current => {
                clamp(steady, (min, Some(self.lowest(&down, current, now))), (i32::MAX, None))
            }
            Some(_) => (steady, WITHIN),
        };
        Outcome { replicas, able, limited: replicas != steady, limit }
    }

    fn recent(&self, wanted: i32, window: Duration, now: Duration) -> impl Iterator<Item = i32> {
        let fresh = self.recommended.iter().filter(move |(_, at)| *at + window > now);
        fresh.map(|(replicas, _)| *replicas).chain([wanted])
    }

    /// What was at the beginning of a period.
    fn before(&self, current: i32, period: Duration, now: Duration) -> i32 {
        current - changed(&self.up, period, now) + changed(&self.down, period, now)
    }

    fn highest(&self, rules: &Rules<'_>, current: i32, now: Duration) -> i32 {
        let limits = rules.policies.iter().map(|(percent, value, period)| {
            let before = self.before(current, *period, now);
            let grown = (f64::from(before) * (1.0 + f64::from(*value) / 100.0)).ceil() as i32;
            if *percent { grown } else { before.saturating_add(*value) }
        });
        let limit = match rules.select {
            "Disabled" => None,
            "Min" => limits.min(),
            _ => limits.max(),
        };
        limit.unwrap_or(current).max(current)
    }

    fn lowest(&self, rules: &Rules<'_>, current: i32, now: Duration) -> i32 {
        let limits = rules.policies.iter().map(|(percent, value, period)| {
            let before = self.before(current, *period, now);
            let shrunk = (f64::from(before) * (1.0 - f64::from(*value) / 100.0)) as i32;
            if *percent { shrunk } else { before.saturating_sub(*value) }
        });
        let limit = match rules.select {
            "Disabled" => None,
            "Min" => limits.max(),
            _ => limits.min(),
        };
        limit.unwrap_or(current).min(current)
    }
}

const WITHIN: (&str, &str) = ("DesiredWithinRange", "the desired count is within the acceptable range");

/// Bounds of the object, and of its pace.
fn clamp(
    wanted: i32,
    (min, slow_down): (i32, Option<i32>),
    (max, slow_up): (i32, Option<i32>),
) -> (i32, (&'static str, &'static str)) {
    let (floor, low) = match slow_down.filter(|pace| *pace > min) {
        Some(pace) => {
            (pace, ("ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate"))
        }
        None => (min, ("TooFewReplicas", "the desired replica count is less than the minimum replica count")),
    };
    let (ceiling, high) = match slow_up.filter(|pace| *pace < max) {
        Some(pace) => {
            (pace, ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate"))
        }
        None => (max, ("TooManyReplicas", "the desired replica count is more than the maximum replica count")),
    };
    match wanted {
        _ if wanted < floor => (floor, low),
        _ if wanted > ceiling => (ceiling, high),
        _ => (wanted, WITHIN),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const LONG_AFTER: Duration = Duration::from_secs(10_000);

    fn at(seconds: u64) -> Duration {
        LONG_AFTER + Duration::from_secs(seconds)
    }

    #[test]
    fn without_a_behaviour() {
        let table = [
            ("at once up to the double", 5, 30, 10, "ScaleUpLimit"),
            ("or to four", 1, 30, 4, "ScaleUpLimit"),
            ("not above the maximum", 10, 90, 15, "TooManyReplicas"),
            ("not below the minimum", 5, 1, 2, "TooFewReplicas"),
            ("as asked", 5, 7, 7, "DesiredWithinRange"),
        ];
        for (name, current, wanted, expected, reason) in table {
            let outcome = History::default().apply(None, (current, wanted), (2, 15), at(0));
            assert_eq!((outcome.replicas, outcome.limit.0), (expected, reason), "{name}");
            assert_eq!(outcome.limited, reason != "DesiredWithinRange", "{name}");
        }
    }

    #[test]
    fn a_fall_waits_for_five_minutes() {
        let mut history = History::default();
        let mut apply = |wanted, second| {
            let outcome = history.apply(None, (8, wanted), (1, 15), at(second));
            (outcome.replicas, outcome.able.0)
        };
        assert_eq!(apply(8, 0), (8, "ReadyForNewScale"));
        assert_eq!(apply(3, 15), (8, "ScaleDownStabilized"));
        assert_eq!(apply(5, 299), (8, "ScaleDownStabilized"));
        assert_eq!(apply(3, 310), (5, "ScaleDownStabilized"), "the highest of the window");
        assert_eq!(apply(3, 700), (3, "ReadyForNewScale"));
    }

    #[test]
    fn policies_bound_the_pace() {
        let behavior = |value: Value| -> HorizontalPodAutoscalerBehavior { serde_json::from_value(value).unwrap() };
        let policies = json!([{"type": "Pods", "value": 2, "periodSeconds": 60},
            {"type": "Percent", "value": 50, "periodSeconds": 60}]);
        let rules =
            |select: &str| json!({"stabilizationWindowSeconds": 0, "selectPolicy": select, "policies": policies});
        let table = [
            ("Max", 10, 40, 15, "ScaleUpLimit"),
            ("Min", 10, 40, 12, "ScaleUpLimit"),
            ("Disabled", 10, 40, 10, "ScaleUpLimit"),
            ("Max", 10, 1, 5, "ScaleDownLimit"),
            ("Min", 10, 1, 8, "ScaleDownLimit"),
            ("Disabled", 10, 1, 10, "ScaleDownLimit"),
            ("Max", 10, 11, 11, "DesiredWithinRange"),
        ];
        for (select, current, wanted, expected, reason) in table {
            let behavior = behavior(json!({"scaleUp": rules(select), "scaleDown": rules(select)}));
            let outcome = History::default().apply(Some(&behavior), (current, wanted), (1, 100), at(0));
            assert_eq!((outcome.replicas, outcome.limit.0), (expected, reason), "{select} {wanted}");
        }
        let behavior = behavior(json!({"scaleUp": rules("Max"), "scaleDown": rules("Max")}));
        let mut history = History::default();
        history.changed(10, 15, at(0));
        assert_eq!(history.apply(Some(&behavior), (15, 40), (1, 100), at(30)).replicas, 15, "the period is used up");
        assert_eq!(history.apply(Some(&behavior), (15, 40), (1, 100), at(61)).replicas, 23);
    }
}
