//! Which pods end when, as the machine is about to stop (`pkg/kubelet/nodeshutdown` upstream). Pure.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use serde::Deserialize;
use skiff_api::pods::priority;

use crate::pod::facts;

/// How long pods of a priority, and of those above up to the next one, have to end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Period {
    pub(crate) priority: i32,
    #[serde(rename = "shutdownGracePeriodSeconds")]
    pub(crate) seconds: i64,
}

/// The most important pods' priority.
const CRITICAL: i32 = 2_000_000_000;

/// The periods that two numbers of seconds stand for: all that pods have, and what of it is for the most important ones.
pub(crate) fn periods(whole: i64, critical: i64) -> Vec<Period> {
    if whole <= 0 {
        return Vec::new();
    }
    vec![Period { priority: 0, seconds: whole - critical }, Period { priority: CRITICAL, seconds: critical }]
}

/// Pods with their periods, those that end first in front. Periods that nobody needs are left out.
pub(super) fn groups(periods: &[Period], pods: &[Arc<Pod>]) -> Vec<(Period, Vec<Arc<Pod>>)> {
    let mut periods = periods.to_vec();
    periods.sort_by_key(|period| period.priority);
    let place = |pod: &Pod| periods.partition_point(|period| period.priority <= priority(pod)).saturating_sub(1);
    let of = |at: usize| pods.iter().filter(|pod| place(pod) == at).cloned().collect::<Vec<_>>();
    let groups = periods.iter().enumerate().map(|(at, period)| (*period, of(at)));
    groups.filter(|(_, pods)| !pods.is_empty()).collect()
}

/// Seconds that a pod has in its period.
pub(super) fn grace(period: Period, pod: &Pod) -> i64 {
    facts::spec(pod).termination_grace_period_seconds.unwrap_or(period.seconds).min(period.seconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pods_end_by_priority() {
        let pod = |priority: i32, grace: i64| -> Arc<Pod> {
            let metadata = json!({"name": priority.to_string()});
            let spec = json!({"containers": [], "priority": priority, "terminationGracePeriodSeconds": grace});
            Arc::new(serde_json::from_value(json!({"metadata": metadata, "spec": spec})).expect("a pod"))
        };
        let pods = [-5, 0, 9, 10, 999, CRITICAL, CRITICAL + 1000].map(|priority| pod(priority, 30));
        let told = |periods: &[Period]| -> Vec<String> {
            let groups = groups(periods, &pods);
            let names =
                |pods: &[Arc<Pod>]| pods.iter().map(|pod| facts::name(pod).to_owned()).collect::<Vec<_>>().join(" ");
            groups.iter().map(|(period, pods)| format!("{} s: {}", period.seconds, names(pods))).collect()
        };
        assert_eq!(told(&periods(30, 10)), ["20 s: -5 0 9 10 999", "10 s: 2000000000 2000001000"]);
        let by_hand = [(1000, 1), (10, 2), (0, 3)].map(|(priority, seconds)| Period { priority, seconds });
        assert_eq!(told(&by_hand), ["3 s: -5 0 9", "2 s: 10 999", "1 s: 2000000000 2000001000"]);
        assert!(periods(0, 0).is_empty());
        assert_eq!([20, 40].map(|seconds| grace(Period { priority: 0, seconds }, &pods[0])), [20, 30]);
    }
}
