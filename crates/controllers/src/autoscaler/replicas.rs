//! How many replicas a metric asks for. Pure.
//!
//! Pods that do not report, or have just begun, must not lead to a decision that they would have prevented: where the
//! others ask for more, they count as idle; where the others ask for less, as busy.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod};
use skiff_api::pods::{condition, is_ready, is_terminating, phase};
use skiff_client::Kind;
use skiff_meta::quantity::Quantity;

/// After its start a pod's CPU usage is that of its start-up for so long.
const START_UP: SignedDuration = SignedDuration::from_mins(5);
/// A pod that was not ready so soon after its start never was.
const NEVER_READY: SignedDuration = SignedDuration::from_secs(30);

/// One pod's metric: thousandths, when it was taken, over what time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PodMetric {
    pub(crate) value: i64,
    pub(crate) at: Timestamp,
    pub(crate) window: Duration,
}

/// By the names of pods.
pub(crate) type PodMetrics = BTreeMap<String, PodMetric>;

/// By how much usage may differ from what is wanted without anything being done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Tolerances {
    pub(crate) down: f64,
    pub(crate) up: f64,
}

impl Tolerances {
    fn accept(self, ratio: f64) -> bool {
        (1.0 - self.down..=1.0 + self.up).contains(&ratio)
    }
}

/// What is wanted of each pod.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Target {
    /// So many thousandths on average.
    Average(i64),
    /// So many percent of what the pods request (thousandths, by name).
    Utilization(i32, BTreeMap<String, i64>),
}

/// What is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Usage {
    /// Of usage to what is wanted.
    ratio: f64,
    /// In thousandths, per pod.
    pub(crate) average: i64,
    /// In percent of the requests.
    pub(crate) utilization: Option<i32>,
}

impl Target {
    fn usage(&self, metrics: &BTreeMap<&str, i64>) -> Result<Usage, String> {
        let total = |values: &mut dyn Iterator<Item = i64>| values.fold(0i64, i64::saturating_add);
        match self {
            Self::Average(wanted) => {
                let average = total(&mut metrics.values().copied()) / i64::try_from(metrics.len().max(1)).unwrap_or(1);
                Ok(Usage { ratio: average as f64 / *wanted as f64, average, utilization: None })
            }
            Self::Utilization(wanted, requests) => {
                let known: Vec<(i64, i64)> =
                    metrics.iter().filter_map(|(pod, value)| Some((*value, *requests.get(*pod)?))).collect();
                let used = total(&mut known.iter().map(|(value, _)| *value));
                let requested = total(&mut known.iter().map(|(_, request)| *request));
                if requested == 0 {
                    return Err("no metrics returned matched known pods".to_owned());
                }
                let utilization = i32::try_from(used.saturating_mul(100) / requested).unwrap_or(i32::MAX);
                let average = used / i64::try_from(known.len()).unwrap_or(1);
                let ratio = f64::from(utilization) / f64::from(*wanted);
                Ok(Usage { ratio, average, utilization: Some(utilization) })
            }
        }
    }

    /// What a pod that does not report is held to use where the others ask for less.
    fn assumed(&self, pod: &str) -> i64 {
        match self {
            Self::Average(wanted) => *wanted,
            Self::Utilization(wanted, requests) => {
                requests.get(pod).copied().unwrap_or(0).saturating_mul((*wanted).max(100).into()) / 100
            }
        }
    }
}

#[derive(Debug, Default, PartialEq)]
struct Groups<'a> {
    ready: BTreeSet<&'a str>,
    unready: BTreeSet<&'a str>,
    missing: BTreeSet<&'a str>,
}

fn group<'a>(pods: &'a [Arc<Pod>], metrics: &PodMetrics, cpu: bool, now: Timestamp) -> Groups<'a> {
    let mut groups = Groups::default();
    for pod in pods.iter().filter(|pod| !is_terminating(pod) && phase(pod) != "Failed") {
        let metric = metrics.get(pod.name());
        let group = match metric {
            _ if phase(pod) == "Pending" => &mut groups.unready,
            None => &mut groups.missing,
            Some(metric) if cpu && starts_up(pod, metric, now) => &mut groups.unready,
            Some(_) => &mut groups.ready,
        };
        group.insert(pod.name());
    }
    groups
}

/// Whether the CPU usage of a pod says nothing yet.
fn starts_up(pod: &Pod, metric: &PodMetric, now: Timestamp) -> bool {
    let started = pod.status.as_ref().and_then(|status| status.start_time.as_ref()).map(|time| time.0);
    let Some((ready, started)) = condition(pod, "Ready").zip(started) else { return true };
    let changed = ready.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    let window = SignedDuration::try_from(metric.window).unwrap_or_default();
    let unready = ready.status == "False";
    if started.saturating_add(START_UP).is_ok_and(|end| end > now) {
        unready || changed.saturating_add(window).is_ok_and(|whole| metric.at < whole)
    } else {
        unready && started.saturating_add(NEVER_READY).is_ok_and(|end| end > changed)
    }
}

/// So many replicas, from metrics of pods.
pub(crate) fn by_pods(
    current: i32,
    pods: &[Arc<Pod>],
    metrics: &PodMetrics,
    target: &Target,
    (cpu, tolerances, now): (bool, Tolerances, Timestamp),
) -> Result<(i32, Usage), String> {
    if pods.is_empty() {
        return Err("no pods returned by selector while calculating replica count".to_owned());
    }
    let groups = group(pods, metrics, cpu, now);
    let told = |pod: &&&str| metrics.contains_key(**pod);
    let mut values: BTreeMap<&str, i64> =
        groups.ready.iter().filter(told).filter_map(|pod| Some((*pod, metrics.get(*pod)?.value))).collect();
    if values.is_empty() {
        return Err("did not receive metrics for targeted pods (pods might be unready)".to_owned());
    }
    let usage = target.usage(&values)?;
    let grows = !groups.unready.is_empty() && usage.ratio > 1.0;
    if !grows && groups.missing.is_empty() {
        let wanted = if tolerances.accept(usage.ratio) { current } else { times(usage.ratio, groups.ready.len()) };
        return Ok((wanted, usage));
    }
    for pod in &groups.missing {
        if usage.ratio < 1.0 {
            values.insert(pod, target.assumed(pod));
        } else if usage.ratio > 1.0 {
            values.insert(pod, 0);
        }
    }
    if grows {
        values.extend(groups.unready.iter().map(|pod| (*pod, 0)));
    }
    let careful = target.usage(&values)?.ratio;
    let turns = (usage.ratio < 1.0 && careful > 1.0) || (usage.ratio > 1.0 && careful < 1.0);
    let wanted = times(careful, values.len());
    let backwards = (careful < 1.0 && wanted > current) || (careful > 1.0 && wanted < current);
    Ok((if tolerances.accept(careful) || turns || backwards { current } else { wanted }, usage))
}

fn times(ratio: f64, count: usize) -> i32 {
    // Casting a float saturates.
    (ratio * count as f64).ceil() as i32
}

/// So many replicas, from one value for all pods.
pub(crate) fn by_value(
    current: i32,
    pods: &[Arc<Pod>],
    value: i64,
    wanted: i64,
    tolerances: Tolerances,
) -> Result<i32, String> {
    let ratio = value as f64 / wanted as f64;
    if current == 0 {
        return Ok(times(ratio, 1));
    }
    if tolerances.accept(ratio) {
        return Ok(current);
    }
    if pods.is_empty() {
        return Err("no pods returned by selector while calculating replica count".to_owned());
    }
    Ok(times(ratio, pods.iter().filter(|pod| phase(pod) == "Running" && is_ready(pod)).count()))
}

/// So many replicas, from one value that all pods share; with the value per pod.
pub(crate) fn by_share(pods: i32, value: i64, wanted: i64, tolerances: Tolerances) -> (i32, i64) {
    let ratio = value as f64 / (wanted as f64 * f64::from(pods));
    let replicas = if tolerances.accept(ratio) { pods } else { (value as f64 / wanted as f64).ceil() as i32 };
    (replicas, (value as f64 / f64::from(pods)).ceil() as i64)
}

/// What each pod requests of a resource, in thousandths; of one container where it is named.
pub(crate) fn requests(pods: &[Arc<Pod>], resource: &str, only: Option<&str>) -> Result<BTreeMap<String, i64>, String> {
    pods.iter().map(|pod| Ok((pod.name().to_owned(), request(pod, resource, only)?))).collect()
}

fn request(pod: &Pod, resource: &str, only: Option<&str>) -> Result<i64, String> {
    let Some(spec) = &pod.spec else { return Ok(0) };
    let milli = |quantity: &k8s_openapi::apimachinery::pkg::api::resource::Quantity| {
        quantity.0.parse::<Quantity>().map_or(0, Quantity::milli)
    };
    let of_pod = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    if let Some(requests) = of_pod.filter(|requests| only.is_none() && !requests.is_empty()) {
        let missing = || format!("missing pod-level request for {resource} in Pod {}", pod.name());
        return requests.get(resource).map(milli).ok_or_else(missing);
    }
    let sidecar = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    let all = spec.containers.iter().chain(spec.init_containers.iter().flatten().filter(sidecar));
    let wanted: Vec<&Container> = all.filter(|container| only.is_none_or(|only| only == container.name)).collect();
    if let Some(only) = only.filter(|_| wanted.is_empty()) {
        return Err(format!("container {only} not found in Pod {}", pod.name()));
    }
    wanted.into_iter().try_fold(0i64, |sum, container| {
        let requested = container.resources.as_ref().and_then(|r| r.requests.as_ref()?.get(resource)).map(milli);
        let name = &container.name;
        let missing = || format!("missing request for {resource} in container {name} of Pod {}", pod.name());
        Ok(sum.saturating_add(requested.ok_or_else(missing)?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use skiff_meta::patch::merge_patch;

    const NOW: &str = "2026-01-01T01:00:00Z";
    const TOLERANCES: Tolerances = Tolerances { down: 0.1, up: 0.1 };

    fn pod(name: &str, change: Value) -> Arc<Pod> {
        let value = json!({"metadata": {"name": name},
            "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]},
            "status": {"phase": "Running", "startTime": "2026-01-01T00:00:00Z", "conditions":
                [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:10Z"}]}});
        Arc::new(serde_json::from_value(merge_patch(&value, &change)).expect("a pod"))
    }

    fn pods(count: usize, change: Value) -> Vec<Arc<Pod>> {
        (0..count).map(|number| pod(&format!("p{number}"), change.clone())).collect()
    }

    fn metrics(values: &[i64]) -> PodMetrics {
        let metric = |value| PodMetric { value, at: NOW.parse().unwrap(), window: Duration::from_secs(60) };
        values.iter().enumerate().map(|(number, value)| (format!("p{number}"), metric(*value))).collect()
    }

    fn cpu(pods: &[Arc<Pod>], values: &[i64], percent: i32) -> Result<(i32, Option<i32>), String> {
        let target = Target::Utilization(percent, requests(pods, "cpu", None)?);
        let how = (true, TOLERANCES, NOW.parse().unwrap());
        let current = i32::try_from(pods.len()).unwrap();
        by_pods(current, pods, &metrics(values), &target, how).map(|(wanted, usage)| (wanted, usage.utilization))
    }

    #[test]
    fn as_many_as_bring_usage_to_its_target() {
        let three = pods(3, json!({}));
        assert_eq!(cpu(&three, &[300, 500, 700], 30), Ok((5, Some(50))));
        assert_eq!(cpu(&three, &[300, 500, 700], 50), Ok((3, Some(50))));
        assert_eq!(cpu(&three, &[500, 540, 550], 50), Ok((3, Some(53))), "close enough");
        assert_eq!(cpu(&three, &[100, 100, 100], 50), Ok((1, Some(10))));
        // Those that do not report neither drive up nor hold back by guess.
        assert_eq!(cpu(&three, &[300, 300], 50), Ok((3, Some(30))), "the missing one may be busy");
        assert_eq!(cpu(&three, &[1000, 1000], 50), Ok((4, Some(100))), "the missing one may be idle");
        assert_eq!(
            cpu(&three, &[], 50),
            Err("did not receive metrics for targeted pods (pods might be unready)".into())
        );
    }

    #[test]
    fn what_starts_up_does_not_count() {
        let young = json!({"status": {"startTime": "2026-01-01T00:59:00Z",
            "conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": "2026-01-01T00:59:00Z"}]}});
        let mut all = pods(2, json!({}));
        all.push(pod("p2", young));
        all.push(pod("p3", json!({"status": {"phase": "Pending"}})));
        all.push(pod("p4", json!({"metadata": {"deletionTimestamp": NOW}})));
        assert_eq!(cpu(&all, &[900, 900, 2000, 0, 2000], 30).map(|(wanted, _)| wanted), Ok(6), "90% * 2 of 4 pods");
        assert_eq!(
            cpu(&all, &[150, 150, 2000, 0, 2000], 30).map(|(wanted, _)| wanted),
            Ok(1),
            "and none when shrinking"
        );
    }

    #[test]
    fn values_and_shares() {
        let three = pods(3, json!({}));
        assert_eq!(by_value(3, &three, 20_000, 10_000, TOLERANCES), Ok(6));
        assert_eq!(by_value(3, &three, 10_500, 10_000, TOLERANCES), Ok(3));
        assert_eq!(by_value(0, &[], 25_000, 10_000, TOLERANCES), Ok(3));
        assert!(by_value(3, &[], 25_000, 10_000, TOLERANCES).is_err());
        assert_eq!(by_share(3, 50_000, 10_000, TOLERANCES), (5, 16_667));
        assert_eq!(by_share(3, 30_500, 10_000, TOLERANCES), (3, 10_167));
    }

    #[test]
    fn requests_are_needed() {
        let bare = pods(1, json!({"spec": {"containers": [{"name": "c"}]}}));
        assert_eq!(requests(&bare, "cpu", None), Err("missing request for cpu in container c of Pod p0".into()));
        assert_eq!(requests(&pods(1, json!({})), "cpu", Some("d")), Err("container d not found in Pod p0".into()));
        let whole = json!({"spec": {"resources": {"requests": {"cpu": "1500m"}}}});
        assert_eq!(requests(&pods(1, whole), "cpu", None), Ok([("p0".to_owned(), 1500)].into()));
    }
}
