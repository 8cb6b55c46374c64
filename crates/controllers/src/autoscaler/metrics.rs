//! The three APIs of metrics, which others serve: of resources, of objects of the cluster, of anything else.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{CrossVersionObjectReference, MetricIdentifier};
use serde::Deserialize;
use serde_json::Value;
use skiff_client::{Call, Client, ClientError};
use skiff_meta::quantity::Quantity;

use super::replicas::{PodMetric, PodMetrics};
use crate::shared::selector;

const CUSTOM: &str = "custom.metrics.k8s.io";
const EXTERNAL: &str = "external.metrics.k8s.io";
/// What a metric that does not tell its window is averaged over.
const WINDOW: Duration = Duration::from_secs(60);

#[derive(Deserialize)]
struct List<T> {
    #[serde(default = "Vec::new")]
    items: Vec<T>,
}

/// `PodMetrics`.
#[derive(Deserialize)]
struct Usage {
    metadata: Named,
    timestamp: Timestamp,
    window: Option<String>,
    #[serde(default)]
    containers: Vec<ContainerUsage>,
}

#[derive(Deserialize)]
struct Named {
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
struct ContainerUsage {
    name: String,
    #[serde(default)]
    usage: serde_json::Map<String, Value>,
}

/// `MetricValue` and `ExternalMetricValue`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Measured {
    described_object: Option<Named>,
    timestamp: Timestamp,
    window_seconds: Option<u64>,
    value: Value,
}

fn milli(quantity: &Value) -> Option<i64> {
    Quantity::from_json(quantity).ok().map(Quantity::milli)
}

impl Usage {
    /// Usage of the pod, or of one of its containers; `None` where it is not all told.
    fn of(&self, resource: &str, only: Option<&str>) -> Option<PodMetric> {
        let mut wanted =
            self.containers.iter().filter(|container| only.is_none_or(|only| only == container.name)).peekable();
        wanted.peek()?;
        let value = wanted.map(|container| milli(container.usage.get(resource)?)).sum::<Option<i64>>()?;
        let window = self.window.as_deref().and_then(|text| text.parse::<jiff::SignedDuration>().ok());
        let window = window.and_then(|window| Duration::try_from(window).ok()).unwrap_or(WINDOW);
        Some(PodMetric { value, at: self.timestamp, window })
    }
}

/// Reads the APIs of metrics of one namespace.
pub(crate) struct Metrics<'a> {
    pub(crate) client: &'a Client,
    pub(crate) namespace: &'a str,
}

impl Metrics<'_> {
    /// Usage of a resource by pods, or by one container of each.
    pub(crate) async fn resource(&self, pods: &str, resource: &str, only: Option<&str>) -> Result<PodMetrics, String> {
        let path = format!("/apis/metrics.k8s.io/v1beta1/namespaces/{}/pods", self.namespace);
        let call = Call::get(path).with("labelSelector", pods);
        let list = self.client.call::<List<Usage>>(call).await;
        let items = list.map_err(|error| unable("resource", &error))?.items;
        if items.is_empty() {
            return Err("no metrics returned from resource metrics API".to_owned());
        }
        let told = items.iter().filter_map(|usage| Some((usage.metadata.name.clone(), usage.of(resource, only)?)));
        Ok(told.collect())
    }

    async fn version(&self, group: &str, usual: &str) -> String {
        let found = self.client.rediscover().await.ok();
        let version = found.and_then(|found| Some(found.preferred().find(|r| r.group == group)?.version.clone()));
        version.unwrap_or_else(|| usual.to_owned())
    }

    async fn custom(&self, place: &str, metric: &MetricIdentifier, pods: &str) -> Result<Vec<Measured>, String> {
        let version = self.version(CUSTOM, "v1beta2").await;
        let labels = metric.selector.as_ref().map(|wanted| selector(Some(wanted)).to_string()).unwrap_or_default();
        let call = Call::get(format!("/apis/{CUSTOM}/{version}/{place}/{}", metric.name))
            .with("labelSelector", pods)
            .with("metricLabelSelector", labels);
        let items = self.client.call::<List<Measured>>(call).await.map_err(|error| unable("custom", &error))?.items;
        if items.is_empty() { Err("no metrics returned from custom metrics API".to_owned()) } else { Ok(items) }
    }

    /// A metric of pods.
    pub(crate) async fn of_pods(&self, pods: &str, metric: &MetricIdentifier) -> Result<PodMetrics, String> {
        let items = self.custom(&format!("namespaces/{}/pods/*", self.namespace), metric, pods).await?;
        let told = items.into_iter().filter_map(|item| {
            let window = item.window_seconds.map_or(WINDOW, Duration::from_secs);
            Some((item.described_object?.name, PodMetric { value: milli(&item.value)?, at: item.timestamp, window }))
        });
        Ok(told.collect())
    }

    /// A metric of one object.
    pub(crate) async fn of_object(
        &self,
        object: &CrossVersionObjectReference,
        metric: &MetricIdentifier,
    ) -> Result<i64, String> {
        let (group, version) = object.api_version.as_deref().unwrap_or("v1").split_once('/').unwrap_or(("", "v1"));
        let discovery = self.client.discovery().await.map_err(|error| unable("custom", &error))?;
        let resource = discovery.kind(group, version, &object.kind);
        let resource = resource.ok_or_else(|| format!("no kind \"{}\" in group \"{group}\"", object.kind))?;
        let plural =
            if group.is_empty() { resource.resource.clone() } else { format!("{}.{group}", resource.resource) };
        let place = match (&*object.kind, group) {
            // The metrics of the namespace itself.
            ("Namespace", "") => format!("namespaces/{}/metrics", self.namespace),
            _ => format!("namespaces/{}/{plural}/{}", self.namespace, object.name),
        };
        let items = self.custom(&place, metric, "").await?;
        items.first().and_then(|item| milli(&item.value)).ok_or_else(|| "the metric has no value".to_owned())
    }

    /// All values of a metric from elsewhere, added up.
    pub(crate) async fn external(&self, metric: &MetricIdentifier) -> Result<i64, String> {
        let version = self.version(EXTERNAL, "v1beta1").await;
        let labels = metric.selector.as_ref().map(|wanted| selector(Some(wanted)).to_string()).unwrap_or_default();
        let path = format!("/apis/{EXTERNAL}/{version}/namespaces/{}/{}", self.namespace, metric.name);
        let list = self.client.call::<List<Measured>>(Call::get(path).with("labelSelector", labels)).await;
        let items = list.map_err(|error| unable("external", &error))?.items;
        if items.is_empty() {
            return Err("no metrics returned from external metrics API".to_owned());
        }
        Ok(items.iter().filter_map(|item| milli(&item.value)).fold(0, i64::saturating_add))
    }
}

fn unable(which: &str, error: &ClientError) -> String {
    format!("unable to fetch metrics from {which} metrics API: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn usage_is_the_sum_of_containers() {
        let usage = |containers: Value| -> Usage {
            serde_json::from_value(json!({"metadata": {"name": "p"}, "timestamp": "2026-01-01T00:00:00Z",
                "window": "30s", "containers": containers}))
            .unwrap()
        };
        let two = usage(
            json!([{"name": "a", "usage": {"cpu": "250m", "memory": "1Ki"}}, {"name": "b", "usage": {"cpu": "1"}}]),
        );
        let value = |resource: &str, only| two.of(resource, only).map(|metric| metric.value);
        assert_eq!(value("cpu", None), Some(1250));
        assert_eq!(value("cpu", Some("a")), Some(250));
        assert_eq!(value("cpu", Some("c")), None);
        assert_eq!(value("memory", None), None, "not all of them tell");
        assert_eq!(two.of("cpu", None).map(|metric| metric.window), Some(Duration::from_secs(30)));
        assert_eq!(usage(json!([])).of("cpu", None), None);
    }
}
