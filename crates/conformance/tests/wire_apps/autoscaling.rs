//! Autoscalers: bounds hold without metrics, and metrics that a server of one's own serves are followed.

use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::support::Api as Run;
use crate::support::served::{Authority, Served};
use crate::{AUTOSCALERS, DEPLOYMENTS, Kind, condition, ready, unique, workload};

const API_SERVICES: Kind = Kind("apiregistration.k8s.io", "v1", "apiservices", "APIService");

fn autoscaler(lowest: i32, highest: i32, metrics: Value) -> Value {
    let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"});
    json!({"scaleTargetRef": target, "minReplicas": lowest, "maxReplicas": highest, "metrics": metrics})
}

/// Upstream looks at every autoscaler four times a minute; whoever looks at those that change need not wait as long.
fn look_now(run: &Run, autoscaler: &str) -> Result<(), String> {
    let window = run.get(autoscaler)?.tree()["spec"]["behavior"]["scaleUp"]["stabilizationWindowSeconds"].as_i64();
    let other = json!({"stabilizationWindowSeconds": if window == Some(0) { None } else { Some(0) }});
    run.change(autoscaler, json!({"spec": {"behavior": {"scaleUp": other}}}))
}

fn is_asked_for(replicas: i32) -> impl Fn(&Value) -> bool {
    move |deployment| deployment["spec"]["replicas"] == replicas
}

pub(crate) fn bounds(run: &mut Run) -> Result<(), String> {
    let path = run.home()?;
    let deployment = run.create(&path, DEPLOYMENTS, "d", workload("d", 1, json!({})))?;
    let nobodys = json!([{"type": "External", "external": {"metric": {"name": "nobodys"},
        "target": {"type": "Value", "value": "1"}}}]);
    let made = run.create(&path, AUTOSCALERS, "h", autoscaler(2, 4, nobodys))?;
    run.comes("the lower bound", DEPLOYMENTS, &path, "d", is_asked_for(2))?;
    run.comes("metrics that nobody serves", AUTOSCALERS, &path, "h", |object| {
        let active = condition(object, "ScalingActive");
        active["status"] == "False" && active["reason"] == "FailedGetExternalMetric"
    })?;
    run.change(&deployment, json!({"spec": {"replicas": 9}}))?;
    look_now(run, &made)?;
    run.comes("the upper bound", DEPLOYMENTS, &path, "d", is_asked_for(4))?;
    // Whoever has no pods is left alone.
    run.change(&deployment, json!({"spec": {"replicas": 0}}))?;
    look_now(run, &made)?;
    run.comes("an autoscaler at rest", AUTOSCALERS, &path, "h", |object| {
        condition(object, "ScalingActive")["reason"] == "ScalingDisabled"
    })
    .map(drop)
}

/// A server of external metrics, with the values that it tells.
struct Metrics {
    told: Arc<Mutex<Vec<&'static str>>>,
    served: Served,
}

fn answer(path: &str, told: &[&str]) -> Value {
    let now = jiff::Timestamp::now().to_string();
    let items: Vec<Value> = told
        .iter()
        .map(|value| json!({"metricName": "queue", "metricLabels": {}, "timestamp": now, "value": value}))
        .collect();
    let version = "external.metrics.k8s.io/v1beta1";
    if path.ends_with("/queue") {
        return json!({"kind": "ExternalMetricValueList", "apiVersion": version, "metadata": {}, "items": items});
    }
    let queue = json!({"name": "queue", "singularName": "", "namespaced": true, "kind": "ExternalMetricValueList",
        "verbs": ["get"]});
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": [queue]})
}

impl Metrics {
    async fn start() -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let (tls, told) = (Authority::new()?.server("localhost", "")?, Arc::new(Mutex::new(Vec::new())));
        let telling = told.clone();
        let served =
            Served::start(Some(tls), move |request, _| (200, answer(request.uri.path(), &telling.lock()))).await?;
        Ok(Self { told, served })
    }
}

pub(crate) fn metrics(run: &mut Run) -> Result<(), String> {
    let server = run.runtime.block_on(Metrics::start()).map_err(|error| error.to_string())?;
    let service = json!({"type": "ExternalName", "externalName": "localhost"});
    let name = unique("metrics");
    let spec = json!({"metadata": {"name": name}, "apiVersion": "v1", "kind": "Service", "spec": service});
    run.make("/api/v1/namespaces/default/services", &spec)?;
    let service = json!({"name": name, "namespace": "default", "port": server.served.port});
    let spec = json!({"group": "external.metrics.k8s.io", "version": "v1beta1", "groupPriorityMinimum": 100,
        "versionPriority": 100, "insecureSkipTLSVerify": true, "service": service});
    let registered = "v1beta1.external.metrics.k8s.io";
    let registration = run.create("/api/v1", API_SERVICES, registered, spec)?;
    // Namespaces do not go while a group that is registered is not served.
    let outcome = followed(run, &server, registered);
    run.delete(&registration)?;
    outcome
}

fn followed(run: &mut Run, server: &Metrics, registered: &str) -> Result<(), String> {
    run.comes("a server of metrics", API_SERVICES, "", registered, |service| {
        condition(service, "Available")["status"] == "True"
    })?;
    let path = run.home()?;
    run.create(&path, DEPLOYMENTS, "d", workload("d", 1, json!({})))?;
    let names = run.pods(&path, 1, |_| true)?;
    run.fares(&path, &names[0], ready())?;
    *server.told.lock() = vec!["20", "10"];
    // One pod for every ten that queue, and no more than three more at a time.
    let external = json!({"metric": {"name": "queue"}, "target": {"type": "AverageValue", "averageValue": "10"}});
    let pods = json!([{"type": "Pods", "value": 3, "periodSeconds": 1}]);
    let now = json!({"scaleDown": {"stabilizationWindowSeconds": 0}, "scaleUp": {"policies": pods}});
    let mut spec = autoscaler(1, 10, json!([{"type": "External", "external": external}]));
    spec["behavior"] = now;
    run.create(&path, AUTOSCALERS, "h", spec)?;
    let made = format!("{}/h", AUTOSCALERS.within(&path));
    let follows = |replicas: i32| -> Result<(), String> {
        look_now(run, &made)?;
        run.comes("as many pods as the queue asks for", DEPLOYMENTS, &path, "d", is_asked_for(replicas)).map(drop)
    };
    follows(3)?;
    run.comes("an autoscaler that says so", AUTOSCALERS, &path, "h", |object| {
        let status = &object["status"];
        status["desiredReplicas"] == 3
            && condition(object, "ScalingActive")["reason"] == "ValidMetricFound"
            && status["currentMetrics"][0]["external"]["metric"]["name"] == "queue"
    })?;
    *server.told.lock() = vec!["80"];
    follows(6)?;
    follows(8)?;
    *server.told.lock() = vec!["15"];
    follows(2)
}
