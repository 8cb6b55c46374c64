//! `metrics.k8s.io`: what nodes and pods use now, for `kubectl top` and autoscalers. Computed, never stored: the nodes
//! measure, and are asked for their summaries when somebody asks for theirs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use http::Request;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use skiff_meta::selector::{FieldSelector, LabelSelector};
use skiff_meta::world::WorldExt;
use skiff_meta::{GroupResource, GroupVersionKind, GroupVersionResource, Object, Status};
use skiff_rules::Rules;

use crate::bootstrap::apiserver;
use crate::call::{Answer, Call};
use crate::chain::{ConnectTarget, View};
use crate::request::Shape;
use crate::resource::convert::Conversion;
use crate::resource::{Core, Names, Resource, Version, habits};
use crate::respond::body::full;
use crate::respond::shape;
use crate::tree;
use crate::view::CacheView;

pub(crate) const GROUP: &str = "metrics.k8s.io";
const VERSION: &str = "v1beta1";
/// How long a node may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The largest summary, in bytes: several thousand pods.
const MAX_SUMMARY: usize = 16 << 20;
/// Over how long nodes measure, as Go prints a duration.
const WINDOW: &str = "10s";

/// The two resources of the group.
pub(crate) fn resources() -> Vec<Arc<Resource>> {
    [("nodes", "NodeMetrics", false), ("pods", "PodMetrics", true)].map(resource).map(Arc::new).into()
}

fn resource((plural, kind, namespaced): (&str, &str, bool)) -> Resource {
    let gvk = GroupVersionKind::new(GROUP, VERSION, kind);
    let version = Version {
        api_version: gvk.api_version(),
        verbs: &["get", "list"],
        subresources: Vec::new(),
        selectable: Vec::new(),
        core: Arc::new(Untyped(skiff_rules::rules_for(&gvk.group_kind()))),
        conversion: Conversion::Same,
        protobuf: false,
        deprecation: None,
        gvk: gvk.clone(),
    };
    let id = GroupResource::new(GROUP, plural);
    Resource {
        habits: habits::of(&id, false),
        id,
        names: Names {
            plural: plural.to_owned(),
            kind: kind.to_owned(),
            list_kind: format!("{kind}List"),
            ..Names::default()
        },
        namespaced,
        versions: vec![Arc::new(version)],
        cache: None,
        storage: gvk,
        custom: false,
        webhook: None,
        definition: None,
    }
}

/// Rules of a kind that is only read.
struct Untyped(&'static dyn Rules);

impl Core for Untyped {
    fn rules(&self) -> &dyn Rules {
        self.0
    }
    fn schema(&self) -> Option<&skiff_meta::schema::KindSchema> {
        None
    }
}

/// GET of one or of those selected.
pub(crate) async fn read(call: &mut Call) -> Result<Answer, Status> {
    call.catch_up().await?;
    let view = CacheView { catalog: call.api.catalog.clone(), feed: call.api.feed.clone() };
    let of_pods = call.served.resource.namespaced;
    let wanted: Vec<Arc<Object>> =
        view.list(&GroupResource::new("", if of_pods { "pods" } else { "nodes" }), call.namespace());
    let wanted = selected(call, wanted)?;
    let listens = |name: &String| {
        let node = view.get(&GroupResource::new("", "nodes"), "", name).and_then(|node| node.to_value().ok());
        let port = node.as_ref().and_then(|node| node.pointer("/status/daemonEndpoints/kubeletEndpoint/Port"));
        port.and_then(Value::as_i64).is_some_and(|port| port > 0)
    };
    let mut nodes: Vec<String> = wanted.iter().filter_map(|object| node_of(object, of_pods)).collect();
    nodes.retain(listens);
    nodes.sort();
    nodes.dedup();
    let summaries = join_all(nodes.iter().map(|node| summary(call, node))).await;
    let summaries: BTreeMap<&String, Value> =
        nodes.iter().zip(summaries).filter_map(|(node, summary)| Some((node, summary?))).collect();
    let items: Vec<Value> = wanted
        .iter()
        .filter_map(|object| {
            let summary = summaries.get(&node_of(object, of_pods)?)?;
            if of_pods { pod_metrics(object, summary) } else { node_metrics(object, summary) }
        })
        .collect();
    answer(call, items)
}

/// The objects that the request is about.
fn selected(call: &Call, mut objects: Vec<Arc<Object>>) -> Result<Vec<Arc<Object>>, Status> {
    let name = call.target.name.as_str();
    if !name.is_empty() {
        objects.retain(|object| object.meta().name == name);
        return Ok(objects);
    }
    let bad = |error: &dyn std::fmt::Display| Status::bad_request(error.to_string());
    let labels = LabelSelector::parse(call.query.text("labelSelector")).map_err(|error| bad(&error))?;
    let fields = FieldSelector::parse(call.query.text("fieldSelector")).map_err(|error| bad(&error))?;
    objects.retain(|object| {
        let meta = object.meta();
        let field = |name: &str| match name {
            "metadata.name" => meta.name.as_str(),
            "metadata.namespace" => meta.namespace.as_str(),
            _ => "",
        };
        labels.matches(&meta.labels) && fields.matches_with(field)
    });
    Ok(objects)
}

/// The node that measures an object.
fn node_of(object: &Object, is_pod: bool) -> Option<String> {
    if !is_pod {
        return Some(object.meta().name.clone());
    }
    let value = object.to_value().ok()?;
    Some(tree::text(&value, &["spec", "nodeName"]).to_owned()).filter(|name| !name.is_empty())
}

/// What a node says; nothing when it does not answer.
async fn summary(call: &Call, node: &str) -> Option<Value> {
    let rest = "/stats/summary".to_owned();
    let request = Request::get(format!("/api/v1/nodes/{node}/proxy{rest}")).body(full(Bytes::new())).ok()?;
    let target = ConnectTarget {
        user: apiserver(),
        resource: GroupVersionResource::new("", "v1", "nodes"),
        subresource: "proxy".to_owned(),
        namespace: String::new(),
        name: node.to_owned(),
        rest,
    };
    let asked = async {
        let mut body = call.api.chain.connector.connect(target, request).await.ok()?.into_body();
        let mut bytes = Vec::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.ok()?.into_data() else { continue };
            if bytes.len() + data.len() > MAX_SUMMARY {
                return None;
            }
            bytes.extend_from_slice(&data);
        }
        serde_json::from_slice(&bytes).ok()
    };
    let answer = call.api.world.timeout(PATIENCE, asked).await.flatten();
    if answer.is_none() {
        tracing::debug!(node, "has no summary");
    }
    answer
}

fn node_metrics(node: &Object, summary: &Value) -> Option<Value> {
    let whole = summary.get("node")?;
    let metadata = json!({"name": node.meta().name, "labels": node.meta().labels});
    Some(json!({
        "metadata": stamped(metadata, whole),
        "timestamp": whole["cpu"]["time"],
        "window": WINDOW,
        "usage": usage(whole)?,
    }))
}

/// A pod's metrics; nothing before all its containers have been measured twice.
fn pod_metrics(pod: &Object, summary: &Value) -> Option<Value> {
    let pods = summary.get("pods")?.as_array()?;
    let found = pods.iter().find(|told| tree::text(told, &["podRef", "uid"]) == pod.meta().uid)?;
    let container = |told: &Value| Some(json!({"name": told["name"], "usage": usage(told)?}));
    let containers = found.get("containers")?.as_array()?.iter().map(container).collect::<Option<Vec<Value>>>()?;
    if containers.is_empty() {
        return None;
    }
    let meta = pod.meta();
    let metadata = json!({"name": meta.name, "namespace": meta.namespace, "labels": meta.labels});
    Some(json!({
        "metadata": stamped(metadata, found),
        "timestamp": found["cpu"]["time"],
        "window": WINDOW,
        "containers": containers,
    }))
}

fn stamped(mut metadata: Value, told: &Value) -> Value {
    metadata["creationTimestamp"] = told["cpu"]["time"].clone();
    metadata
}

/// Processors in billionths, memory in KiB.
fn usage(told: &Value) -> Option<Value> {
    let (cpu, memory) = (told["cpu"]["usageNanoCores"].as_u64()?, told["memory"]["workingSetBytes"].as_u64()?);
    Some(json!({"cpu": format!("{cpu}n"), "memory": format!("{}Ki", memory / 1024)}))
}

fn answer(call: &mut Call, items: Vec<Value>) -> Result<Answer, Status> {
    let (api_version, kind) = (call.served.version.api_version.clone(), call.served.version.gvk.kind.clone());
    let whole = |mut item: Value| {
        item["apiVersion"] = json!(api_version);
        item["kind"] = json!(kind);
        item
    };
    let name = call.target.name.clone();
    if !name.is_empty() {
        call.accept.shape = Shape::Whole;
        return items
            .into_iter()
            .next()
            .map(|item| Answer::Tree(200, whole(item)))
            .ok_or_else(|| call.not_found(&name));
    }
    if call.accept.shape == Shape::Table {
        let include = shape::Include::parse(call.query.text("includeObject"))?;
        let (now, version) = (call.api.world.now(), &call.served.version);
        let rows: Vec<Value> = items.into_iter().map(|item| shape::row(version, whole(item), include, now)).collect();
        let table = shape::table(version, json!({}), rows);
        call.accept.shape = Shape::Whole;
        return Ok(Answer::Tree(200, table));
    }
    call.accept.shape = Shape::Whole;
    let list = json!({"kind": format!("{kind}List"), "apiVersion": api_version, "metadata": {}, "items": items});
    Ok(Answer::Tree(200, list))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> Object {
        Object::from_wire(value).expect("an object")
    }

    #[test]
    fn metrics_come_from_summaries() {
        let cpu = json!({"time": "2026-01-01T00:00:00Z", "usageNanoCores": 1500});
        let measured = json!({"name": "c", "cpu": cpu, "memory": {"workingSetBytes": 4096}});
        let pod = json!({"podRef": {"uid": "u"}, "cpu": cpu, "containers": [measured]});
        let summary = json!({"node": {"cpu": cpu, "memory": {"workingSetBytes": 2048}}, "pods": [pod]});
        let meta = |uid: &str| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "n", "uid": uid}});
        let told = pod_metrics(&object(meta("u")), &summary).expect("metrics");
        assert_eq!(told["containers"], json!([{"name": "c", "usage": {"cpu": "1500n", "memory": "4Ki"}}]));
        assert_eq!((&told["timestamp"], &told["window"]), (&json!("2026-01-01T00:00:00Z"), &json!("10s")));
        assert!(pod_metrics(&object(meta("other")), &summary).is_none());
        let node = object(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "uid": "x"}}));
        assert_eq!(node_metrics(&node, &summary).expect("metrics")["usage"]["memory"], "2Ki");
        let unrated = json!({"node": {"cpu": {}, "memory": {"workingSetBytes": 1}}});
        assert!(node_metrics(&node, &unrated).is_none(), "one measurement says nothing");
    }
}
