//! From what metrics ask for to a number of replicas and a status. Pure.

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{
    HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition, HorizontalPodAutoscalerStatus, MetricStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::behavior::Outcome;

pub(crate) const ABLE: &str = "AbleToScale";
pub(crate) const ACTIVE: &str = "ScalingActive";
pub(crate) const LIMITED: &str = "ScalingLimited";

/// What one metric asks for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Proposal {
    pub(crate) replicas: i32,
    /// How people call the metric.
    pub(crate) name: String,
    pub(crate) status: MetricStatus,
}

/// Why a metric says nothing: a reason, and what went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// What can be said before metrics are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Before {
    /// Somebody has set the target to zero: it is left alone.
    Disabled,
    /// It is out of bounds: to be set to this, for this reason.
    Bound(i32, &'static str),
    /// Metrics decide.
    Measure,
}

/// The bounds of an autoscaler.
pub(crate) fn bounds(object: &HorizontalPodAutoscaler) -> (i32, i32) {
    (object.spec.min_replicas.unwrap_or(1), object.spec.max_replicas)
}

/// What can be said from the target's size alone.
pub(crate) fn before(object: &HorizontalPodAutoscaler, current: i32) -> Before {
    let (min, max) = bounds(object);
    match current {
        0 if min != 0 => Before::Disabled,
        _ if current > max => Before::Bound(max, "Current number of replicas above Spec.MaxReplicas"),
        _ if current < min => Before::Bound(min, "Current number of replicas below Spec.MinReplicas"),
        _ => Before::Measure,
    }
}

/// The largest proposal. A metric that fails lets others raise the number, but not lower it: it might have asked for more.
pub(crate) fn choose(current: i32, proposals: &[Result<Proposal, Failure>]) -> Result<&Proposal, Failure> {
    let largest =
        proposals.iter().flatten().reduce(|best, next| if next.replicas > best.replicas { next } else { best });
    let failures = proposals.iter().filter_map(|proposal| proposal.as_ref().err());
    let mut failures = failures.peekable();
    match (largest, failures.peek()) {
        (Some(largest), None) => Ok(largest),
        (Some(largest), Some(_)) if largest.replicas >= current => Ok(largest),
        (_, Some(first)) => Err((*first).clone()),
        (None, None) => Err(Failure { reason: "InvalidMetricSourceType", message: "no metrics are given".to_owned() }),
    }
}

/// Why the number changes.
pub(crate) fn reason(current: i32, wanted: i32, metric: &str) -> String {
    match wanted.cmp(&current) {
        std::cmp::Ordering::Greater => format!("{metric} above target"),
        std::cmp::Ordering::Less => "All metrics below target".to_owned(),
        std::cmp::Ordering::Equal => String::new(),
    }
}

/// Sets a condition; the time of its last transition changes with its status only.
pub(crate) fn set(status: &mut HorizontalPodAutoscalerStatus, new: (&str, bool, &str, &str), now: Timestamp) {
    let (type_, holds, reason, message) = new;
    let value = if holds { "True" } else { "False" };
    let conditions = status.conditions.get_or_insert_default();
    let place = conditions.iter().position(|condition| condition.type_ == type_).unwrap_or_else(|| {
        conditions.push(HorizontalPodAutoscalerCondition { type_: type_.to_owned(), ..Default::default() });
        conditions.len() - 1
    });
    let condition = &mut conditions[place];
    if condition.status != value {
        condition.last_transition_time = Some(Time(now));
    }
    condition.status = value.to_owned();
    condition.reason = Some(reason.to_owned());
    condition.message = Some(message.to_owned());
}

/// Notes what the past made of the proposal.
pub(crate) fn note_outcome(status: &mut HorizontalPodAutoscalerStatus, outcome: &Outcome, now: Timestamp) {
    set(status, (ABLE, true, outcome.able.0, outcome.able.1), now);
    set(status, (LIMITED, outcome.limited, outcome.limit.0, outcome.limit.1), now);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn proposal(replicas: i32) -> Result<Proposal, Failure> {
        Ok(Proposal { replicas, name: format!("m{replicas}"), status: MetricStatus::default() })
    }

    #[test]
    fn the_largest_counts_and_failures_hold_back() {
        let failed = || Err(Failure { reason: "FailedGetPodsMetric", message: "no".to_owned() });
        let table = [
            ("the largest", vec![proposal(3), proposal(5), proposal(4)], Some(5)),
            ("growth in spite of a failure", vec![failed(), proposal(5)], Some(5)),
            ("no shrinking with a failure", vec![failed(), proposal(2)], None),
            ("all fail", vec![failed()], None),
            ("none", vec![], None),
        ];
        for (name, proposals, expected) in table {
            assert_eq!(choose(4, &proposals).ok().map(|best| best.replicas), expected, "{name}");
        }
    }

    #[test]
    fn bounds_come_before_metrics() {
        let object: HorizontalPodAutoscaler = serde_json::from_value(json!({"metadata": {}, "spec": {"minReplicas": 2,
            "maxReplicas": 5, "scaleTargetRef": {"kind": "Deployment", "name": "web"}}}))
        .unwrap();
        let table = [(0, Before::Disabled), (3, Before::Measure)];
        for (current, expected) in table {
            assert_eq!(before(&object, current), expected, "{current}");
        }
        assert!(matches!(before(&object, 9), Before::Bound(5, _)) && matches!(before(&object, 1), Before::Bound(2, _)));
    }

    #[test]
    fn conditions_keep_their_time() {
        let (first, later) = (Timestamp::UNIX_EPOCH, Timestamp::from_second(60).unwrap());
        let mut status = HorizontalPodAutoscalerStatus::default();
        set(&mut status, (ABLE, true, "A", "a"), first);
        set(&mut status, (ABLE, true, "B", "b"), later);
        let known = status.conditions.clone().unwrap();
        assert_eq!((known.len(), known[0].reason.as_deref()), (1, Some("B")));
        assert_eq!(known[0].last_transition_time, Some(Time(first)));
        set(&mut status, (ABLE, false, "C", "c"), later);
        assert_eq!(status.conditions.unwrap()[0].last_transition_time, Some(Time(later)));
    }
}
