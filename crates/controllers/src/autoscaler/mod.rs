//! Autoscalers: the number of replicas follows metrics, within bounds and at a pace.
//!
//! Metrics cannot be watched, so every autoscaler is looked at once in a while. What was recommended and done before is
//! kept in memory only: after a restart it begins with what is.

mod behavior;
mod metrics;
mod plan;
mod replicas;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::api::autoscaling::v2::{
    ContainerResourceMetricStatus, ExternalMetricStatus, HorizontalPodAutoscaler, HorizontalPodAutoscalerStatus,
    MetricSpec, MetricStatus, MetricTarget, MetricValueStatus, ObjectMetricStatus, PodsMetricStatus,
    ResourceMetricStatus,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use parking_lot::Mutex;
use skiff_client::{After, Api, Change, Client, ClientError, Key, Recorder, Store, WorkQueue, Workers, involved};
use skiff_meta::WorldRef;
use skiff_meta::quantity::{Format, Quantity};
use skiff_meta::world::Task;

use crate::Context;
use crate::shared::{Selector, selects};
use behavior::History;
use metrics::Metrics;
use plan::{ABLE, ACTIVE, Before, Failure, Proposal};
use replicas::{Target, Tolerances, Usage};

const WORKERS: usize = 5;
/// How often an autoscaler is looked at.
const PERIOD: Duration = Duration::from_secs(15);
/// By how much usage may be off without a behaviour that says so.
const TOLERANCE: f64 = 0.1;

struct Controller {
    client: Client,
    world: WorldRef,
    recorder: Recorder,
    autoscalers: Store<HorizontalPodAutoscaler>,
    pods: Store<Pod>,
    known: Mutex<BTreeMap<Key, Known>>,
}

/// What is remembered of an autoscaler.
#[derive(Default)]
struct Known {
    history: History,
    /// The pods of its target.
    selector: Option<Selector>,
}

/// Starts the autoscaler.
pub(crate) fn start(context: &Context, client: Client) -> Vec<Task> {
    let (autoscalers, pods) = (context.informers.all::<HorizontalPodAutoscaler>(), context.informers.all::<Pod>());
    let queue: WorkQueue<Key> = WorkQueue::new(context.world.clone());
    let to_queue = queue.clone();
    autoscalers.on(move |change: &Change<'_, HorizontalPodAutoscaler>| {
        let generation = |object: Option<&Arc<HorizontalPodAutoscaler>>| object.map(|object| object.spec.clone());
        // Our own statuses come back as well: they are no reason to look before the time.
        if generation(change.old) != generation(change.new) {
            to_queue.add(change.key(), change.trace);
        }
    });
    let synced = vec![autoscalers.synced(), pods.synced()];
    let workers = Workers { world: context.world.clone(), name: "horizontal-pod-autoscaler", count: WORKERS, synced };
    let controller = Arc::new(Controller {
        recorder: Recorder::new(client.clone(), context.world.clone(), "horizontal-pod-autoscaler", ""),
        client,
        world: context.world.clone(),
        autoscalers: autoscalers.store(),
        pods: pods.store(),
        known: Mutex::default(),
    });
    workers.start(queue, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    })
}

/// The target of an autoscaler.
struct Aim {
    api: Api<serde_json::Value>,
    scale: Scale,
    current: i32,
    pods: Vec<Arc<Pod>>,
    selector: String,
    tolerances: Tolerances,
}

fn tolerances(object: &HorizontalPodAutoscaler) -> Tolerances {
    let behavior = object.spec.behavior.as_ref();
    let given = |quantity: Option<&resource::Quantity>| quantity.and_then(|q| q.0.parse::<Quantity>().ok());
    let up = behavior.and_then(|behavior| given(behavior.scale_up.as_ref()?.tolerance.as_ref()));
    let down = behavior.and_then(|behavior| given(behavior.scale_down.as_ref()?.tolerance.as_ref()));
    let number = |quantity: Option<Quantity>| quantity.map_or(TOLERANCE, Quantity::as_f64);
    Tolerances { down: number(down), up: number(up) }
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<After, ClientError> {
        let Some(object) = self.autoscalers.get_key(key) else {
            self.known.lock().remove(key);
            return Ok(After::Change);
        };
        let mut status = object.status.clone().unwrap_or_default();
        let outcome = self.scale(key, &object, &mut status).await;
        if let Err((reason, message)) = &outcome {
            self.recorder.warning(&involved(&*object), reason, message.as_str());
        }
        if object.status.as_ref() != Some(&status) {
            let updated = HorizontalPodAutoscaler { status: Some(status), ..(*object).clone() };
            let api = self.client.namespaced::<HorizontalPodAutoscaler>(&key.namespace);
            match api.update_status(&updated).await {
                Err(error) if !error.is_not_found() && !error.is_conflict() => return Err(error),
                _ => {}
            }
        }
        Ok(After::Delay(PERIOD))
    }

    /// Looks at the target and its metrics, and sets its size; failures by reason and message.
    async fn scale(
        &self,
        key: &Key,
        object: &HorizontalPodAutoscaler,
        status: &mut HorizontalPodAutoscalerStatus,
    ) -> Result<(), (&'static str, String)> {
        let now = self.world.now();
        let mut aim = match self.aim(key, object).await {
            Ok(aim) => aim,
            Err(error) => {
                let message = format!("the HPA controller was unable to get the target's current scale: {error}");
                plan::set(status, (ABLE, false, "FailedGetScale", &message), now);
                return Err(("FailedGetScale", error.to_string()));
            }
        };
        let able = "the HPA controller was able to get the target's current scale";
        plan::set(status, (ABLE, true, "SucceededGetScale", able), now);
        status.current_replicas = Some(aim.current);
        let current = aim.current;
        self.known.lock().entry(key.clone()).or_default().history.begin(current, self.world.elapsed());
        let (wanted, reason) = match plan::before(object, current) {
            Before::Disabled => {
                let message = "scaling is disabled since the replica count of the target is zero";
                plan::set(status, (ACTIVE, false, "ScalingDisabled", message), now);
                (status.desired_replicas, status.current_metrics) = (0, None);
                return Ok(());
            }
            Before::Bound(wanted, reason) => (wanted, reason.to_owned()),
            Before::Measure => self.measure(key, object, &aim, status).await?,
        };
        status.desired_replicas = wanted;
        if wanted == current {
            return Ok(());
        }
        aim.scale.spec.get_or_insert_default().replicas = Some(wanted);
        let name = &object.spec.scale_target_ref.name;
        let body = serde_json::to_value(&aim.scale).map_err(|error| ("FailedRescale", error.to_string()))?;
        if let Err(error) = aim.api.replace(name, "scale", &body).await {
            let message = format!("the HPA controller was unable to update the target scale: {error}");
            plan::set(status, (ABLE, false, "FailedUpdateScale", &message), now);
            return Err(("FailedRescale", format!("New size: {wanted}; reason: {reason}; error: {error}")));
        }
        let message = format!("the HPA controller was able to update the target scale to {wanted}");
        plan::set(status, (ABLE, true, "SucceededRescale", &message), now);
        let message = format!("New size: {wanted}; reason: {reason}");
        self.recorder.normal(&involved(object), "SuccessfulRescale", message);
        status.last_scale_time = Some(Time(now));
        let mut known = self.known.lock();
        known.entry(key.clone()).or_default().history.changed(current, wanted, self.world.elapsed());
        Ok(())
    }

    async fn aim(&self, key: &Key, object: &HorizontalPodAutoscaler) -> Result<Aim, ClientError> {
        let target = &object.spec.scale_target_ref;
        let (group, version) = target.api_version.as_deref().unwrap_or("v1").split_once('/').unwrap_or(("", "v1"));
        let mut discovery = self.client.discovery().await?;
        if discovery.kind(group, version, &target.kind).is_none() {
            discovery = self.client.rediscover().await?;
        }
        let resource = discovery.kind(group, version, &target.kind);
        let unknown =
            || ClientError::BadAnswer(format!("no matches for kind \"{}\" in group \"{group}\"", target.kind));
        let api = self.client.dynamic(&resource.ok_or_else(unknown)?.gvr(), &key.namespace);
        let scale = api.scale(&target.name).await?;
        let selector = scale.status.as_ref().and_then(|status| status.selector.clone()).unwrap_or_default();
        let parsed = Selector::parse(&selector).unwrap_or_else(|_| Selector::nothing());
        let mut pods = self.pods.in_namespace(&key.namespace);
        pods.retain(|pod| !selector.is_empty() && selects(&parsed, pod.metadata.labels.as_ref()));
        let current = scale.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
        self.known.lock().entry(key.clone()).or_default().selector = Some(parsed).filter(|_| !selector.is_empty());
        Ok(Aim { api, scale, current, pods, selector, tolerances: tolerances(object) })
    }

    /// Other autoscalers of the same pods, whose decisions would be ours undone.
    fn rivals(&self, key: &Key, pods: &[Arc<Pod>]) -> Vec<String> {
        let known = self.known.lock();
        let of_others = known.iter().filter(|(other, _)| *other != key && other.namespace == key.namespace);
        let shared = of_others.filter(|(_, other)| {
            let selector = other.selector.as_ref();
            selector.is_some_and(|selector| pods.iter().any(|pod| selects(selector, pod.metadata.labels.as_ref())))
        });
        shared.map(|(other, _)| other.to_string()).collect()
    }

    /// The size that metrics ask for, and why.
    async fn measure(
        &self,
        key: &Key,
        object: &HorizontalPodAutoscaler,
        aim: &Aim,
        status: &mut HorizontalPodAutoscalerStatus,
    ) -> Result<(i32, String), (&'static str, String)> {
        let now = self.world.now();
        if aim.selector.is_empty() {
            plan::set(status, (ACTIVE, false, "InvalidSelector", "the HPA target's scale is missing a selector"), now);
            return Err(("SelectorRequired", "selector is required".to_owned()));
        }
        let rivals = self.rivals(key, &aim.pods);
        if !rivals.is_empty() {
            let message = format!("pods by selector {} are controlled by multiple HPAs: {rivals:?}", aim.selector);
            plan::set(status, (ACTIVE, false, "AmbiguousSelector", &message), now);
            return Err(("AmbiguousSelector", message));
        }
        let metrics = Metrics { client: &self.client, namespace: &key.namespace };
        let specs = object.spec.metrics.as_deref().unwrap_or_default();
        let mut proposals = Vec::with_capacity(specs.len());
        for spec in specs {
            let proposal = self.propose(&metrics, aim, spec).await;
            if let Err(failure) = &proposal {
                self.recorder.warning(&involved(object), failure.reason, failure.message.as_str());
            }
            proposals.push(proposal);
        }
        let told: Vec<MetricStatus> = proposals.iter().flatten().map(|proposal| proposal.status.clone()).collect();
        status.current_metrics = (!told.is_empty()).then_some(told);
        let best = match plan::choose(aim.current, &proposals) {
            Ok(best) => best,
            Err(failure) => {
                let message = format!("the HPA was unable to compute the replica count: {}", failure.message);
                plan::set(status, (ACTIVE, false, failure.reason, &message), now);
                let failed = proposals.iter().filter(|proposal| proposal.is_err()).count();
                let all = proposals.len();
                let message =
                    format!("invalid metrics ({failed} invalid out of {all}), first error is: {}", failure.message);
                return Err(("FailedComputeMetricsReplicas", message));
            }
        };
        let message = format!("the HPA was able to successfully calculate a replica count from {}", best.name);
        plan::set(status, (ACTIVE, true, "ValidMetricFound", &message), now);
        let behavior = object.spec.behavior.as_ref();
        let outcome = {
            let mut known = self.known.lock();
            let history = &mut known.entry(key.clone()).or_default().history;
            history.apply(behavior, (aim.current, best.replicas), plan::bounds(object), self.world.elapsed())
        };
        plan::note_outcome(status, &outcome, now);
        Ok((outcome.replicas, plan::reason(aim.current, best.replicas, &best.name)))
    }

    async fn propose(&self, metrics: &Metrics<'_>, aim: &Aim, spec: &MetricSpec) -> Result<Proposal, Failure> {
        let proposed = match (&spec.resource, &spec.container_resource, &spec.pods, &spec.object, &spec.external) {
            (Some(of), ..) => {
                let found = self.by_resource(metrics, aim, &of.name, None, &of.target).await;
                found.map(|(replicas, current, how)| {
                    let name = format!("{} resource{how}", of.name);
                    let status = ResourceMetricStatus { name: of.name.clone(), current };
                    (replicas, name, MetricStatus { resource: Some(status), ..MetricStatus::default() })
                })
            }
            (_, Some(of), ..) => {
                let found = self.by_resource(metrics, aim, &of.name, Some(&of.container), &of.target).await;
                found.map(|(replicas, current, how)| {
                    let name = format!("{} container resource{how}", of.name);
                    let (resource, container) = (of.name.clone(), of.container.clone());
                    let status = ContainerResourceMetricStatus { name: resource, container, current };
                    (replicas, name, MetricStatus { container_resource: Some(status), ..MetricStatus::default() })
                })
            }
            (_, _, Some(of), ..) => self.by_pods_metric(metrics, aim, of).await,
            (_, _, _, Some(of), _) => {
                let value = metrics.of_object(&of.described_object, &of.metric).await;
                let metric = of.metric.clone();
                let described_object = of.described_object.clone();
                value.and_then(|value| by_one_value(aim, value, &of.target)).map(|(replicas, current)| {
                    let name = format!("{} metric {}", described_object.kind, metric.name);
                    let status = ObjectMetricStatus { current, described_object, metric };
                    (replicas, name, MetricStatus { object: Some(status), ..MetricStatus::default() })
                })
            }
            (.., Some(of)) => {
                let value = metrics.external(&of.metric).await;
                let metric = of.metric.clone();
                value.and_then(|value| by_one_value(aim, value, &of.target)).map(|(replicas, current)| {
                    let name = format!("external metric {}", metric.name);
                    let status = ExternalMetricStatus { current, metric };
                    (replicas, name, MetricStatus { external: Some(status), ..MetricStatus::default() })
                })
            }
            _ => Err(format!("unknown metric source type \"{}\"", spec.type_)),
        };
        let reason = match &*spec.type_ {
            "Resource" => "FailedGetResourceMetric",
            "ContainerResource" => "FailedGetContainerResourceMetric",
            "Pods" => "FailedGetPodsMetric",
            "Object" => "FailedGetObjectMetric",
            "External" => "FailedGetExternalMetric",
            _ => "InvalidMetricSourceType",
        };
        match proposed {
            Ok((replicas, name, status)) => {
                Ok(Proposal { replicas, name, status: MetricStatus { type_: spec.type_.clone(), ..status } })
            }
            Err(message) => Err(Failure { reason, message }),
        }
    }

    async fn by_resource(
        &self,
        metrics: &Metrics<'_>,
        aim: &Aim,
        resource: &str,
        only: Option<&str>,
        target: &MetricTarget,
    ) -> Result<(i32, MetricValueStatus, &'static str), String> {
        let told = metrics.resource(&aim.selector, resource, only).await;
        let told = told.map_err(|error| format!("unable to get metrics for resource {resource}: {error}"))?;
        let (wanted, how) = match (target.average_value.as_ref().and_then(milli), target.average_utilization) {
            (Some(value), _) => (Target::Average(value), ""),
            (None, Some(percent)) => {
                let requests = replicas::requests(&aim.pods, resource, only)?;
                (Target::Utilization(percent, requests), " utilization (percentage of request)")
            }
            (None, None) => return Err(NO_TARGET.to_owned()),
        };
        let how_far = (resource == "cpu", aim.tolerances, self.world.now());
        let (replicas, usage) = replicas::by_pods(aim.current, &aim.pods, &told, &wanted, how_far)?;
        let format = if resource == "memory" { Format::BinarySi } else { Format::DecimalSi };
        Ok((replicas, of_usage(usage, format), how))
    }

    async fn by_pods_metric(
        &self,
        metrics: &Metrics<'_>,
        aim: &Aim,
        of: &k8s_openapi::api::autoscaling::v2::PodsMetricSource,
    ) -> Result<(i32, String, MetricStatus), String> {
        let told = metrics.of_pods(&aim.selector, &of.metric).await;
        let told = told.map_err(|error| format!("unable to get metric {}: {error}", of.metric.name))?;
        let wanted = of.target.average_value.as_ref().and_then(milli).ok_or(NO_TARGET)?;
        let how_far = (false, aim.tolerances, self.world.now());
        let (replicas, usage) = replicas::by_pods(aim.current, &aim.pods, &told, &Target::Average(wanted), how_far)?;
        let status = PodsMetricStatus { current: of_usage(usage, Format::DecimalSi), metric: of.metric.clone() };
        let name = format!("pods metric {}", of.metric.name);
        Ok((replicas, name, MetricStatus { pods: Some(status), ..MetricStatus::default() }))
    }
}

const NO_TARGET: &str = "invalid metric source: neither a value target nor an average value target was set";

fn milli(quantity: &resource::Quantity) -> Option<i64> {
    quantity.0.parse::<Quantity>().ok().map(Quantity::milli)
}

fn of_milli(value: i64, format: Format) -> Option<resource::Quantity> {
    Some(resource::Quantity(Quantity::from_milli(value, format).to_string()))
}

fn of_usage(usage: Usage, format: Format) -> MetricValueStatus {
    MetricValueStatus {
        average_utilization: usage.utilization,
        average_value: of_milli(usage.average, format),
        value: None,
    }
}

/// From one value, for all pods or shared by them.
fn by_one_value(aim: &Aim, value: i64, target: &MetricTarget) -> Result<(i32, MetricValueStatus), String> {
    let mut status = MetricValueStatus::default();
    if let Some(wanted) = target.average_value.as_ref().and_then(milli) {
        let pods = aim.scale.status.as_ref().map_or(0, |status| status.replicas);
        let (replicas, each) = replicas::by_share(pods, value, wanted, aim.tolerances);
        status.average_value = of_milli(each, Format::DecimalSi);
        return Ok((replicas, status));
    }
    let wanted = target.value.as_ref().and_then(milli).ok_or(NO_TARGET)?;
    status.value = of_milli(value, Format::DecimalSi);
    Ok((replicas::by_value(aim.current, &aim.pods, value, wanted, aim.tolerances)?, status))
}
