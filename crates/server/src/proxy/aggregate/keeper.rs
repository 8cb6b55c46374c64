//! Follows APIServices and what they point to: which extension servers there are, and whether they answer.

use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{join_all, select, select_all};
use http::Method;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::{APIService, APIServiceSpec};
use serde_json::{Value, json};
use skiff_meta::world::Task;
use skiff_meta::{GroupResource, Object};

use super::plan::{Verdict, fault, judged, place};
use super::{Aggregator, Extension, Extensions, discovery};
use crate::api::Api;
use crate::bootstrap::send;
use crate::cache::{Lane, ResourceCache, Start};
use crate::pki::extension_tls;
use crate::tree;

const URI: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
/// How often extension servers are asked whether they still answer.
const PERIOD: Duration = Duration::from_secs(30);
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList, application/json";

/// Starts what runs as long as the server does.
pub(crate) fn start(api: &Arc<Api>) -> Option<Task> {
    let cache = |group: &str, plural: &str| {
        let served = api.catalog.registry().preferred(&GroupResource::new(group, plural))?;
        served.resource.cache.clone()
    };
    let caches = [
        cache("apiregistration.k8s.io", "apiservices")?,
        cache("", "services")?,
        cache("discovery.k8s.io", "endpointslices")?,
    ];
    Some(api.world.spawn("aggregation", Box::pin(follow(Arc::downgrade(api), caches))))
}

/// Most clusters have no extension server, and then nothing but a new APIService matters.
async fn follow(api: Weak<Api>, caches: [Arc<ResourceCache>; 3]) {
    while let Some(strong) = api.upgrade() {
        let count = if strong.chain.aggregator.extensions.load().is_empty() { 1 } else { 3 };
        let mut watches = Vec::new();
        for cache in &caches[..count] {
            let Ok(watch) = cache.watch(Start::State, Lane::All) else { return };
            watches.push(watch);
        }
        let remote = act(&strong).await;
        let world = strong.world.clone();
        drop(strong);
        if remote && count == 1 {
            continue;
        }
        let changed = select_all(watches.iter_mut().map(|watch| watch.events.recv().boxed()));
        if remote {
            select(changed, world.sleep(PERIOD)).await;
        } else {
            changed.await;
        }
    }
}

/// Asks all extension servers and says in their APIServices what came of it; whether there are any.
async fn act(api: &Arc<Api>) -> bool {
    let aggregator = &api.chain.aggregator;
    let found = api.view.list(&GroupResource::new("apiregistration.k8s.io", "apiservices"), "");
    let remote: Vec<(Arc<Object>, APIServiceSpec)> = found
        .into_iter()
        .filter_map(|object| {
            let spec = object.typed::<APIService>().ok()?.spec.clone()?;
            spec.service.is_some().then_some((object, spec))
        })
        .collect();
    let before = aggregator.extensions.load_full();
    let asked = join_all(remote.iter().map(|(_, spec)| examine(aggregator, spec, &before))).await;
    let mut extensions = Extensions::new();
    let mut writes = Vec::new();
    let now = tree::timestamp(api.world.now());
    for ((object, _), (extension, verdict)) in remote.iter().zip(asked) {
        if let Some(judged) = object.to_value().ok().and_then(|value| judged(&value, &verdict, &now)) {
            let uri = format!("{URI}/{}/status", object.meta().name);
            writes.push(async move { send(api, Method::PUT, &uri, &judged).await });
        }
        extensions.insert((extension.group.clone(), extension.version.clone()), Arc::new(extension));
    }
    let any = !extensions.is_empty();
    // First they are served, then it is said that they are.
    aggregator.extensions.store(Arc::new(extensions));
    for status in join_all(writes).await.into_iter().filter_map(Result::err) {
        // Somebody was faster; the change wakes us.
        if !["Conflict", "NotFound"].iter().any(|reason| status.is(reason)) {
            tracing::warn!("the availability of an APIService was not written: {status}");
        }
    }
    any
}

/// What can be known of an extension server: from the objects, and from itself.
async fn examine(aggregator: &Aggregator, spec: &APIServiceSpec, before: &Extensions) -> (Extension, Verdict) {
    let (group, version) = (spec.group.clone().unwrap_or_default(), spec.version.clone().unwrap_or_default());
    let reference = spec.service.clone().unwrap_or_default();
    let bundle = spec.ca_bundle.as_ref().map(|bytes| bytes.0.as_slice()).unwrap_or_default();
    let insecure = spec.insecure_skip_tls_verify.unwrap_or_default();
    let tls = extension_tls(&aggregator.identity, bundle, insecure).map_err(|e| e.to_string());
    let known = before.get(&(group.clone(), version.clone()));
    let stale = || json!({"version": version, "resources": [], "freshness": "Stale"});
    let mut extension = Extension {
        resources: known.map_or_else(stale, |known| known.resources.clone()),
        v3: None,
        v2: known.and_then(|known| known.v2.clone()),
        priority: (spec.group_priority_minimum, spec.version_priority),
        available: false,
        group,
        version,
        reference,
        tls,
    };
    let verdict = match of_objects(aggregator, &extension) {
        Some(fault) => fault,
        None => learn(aggregator, &mut extension).await,
    };
    extension.available = verdict.available;
    if !verdict.available {
        extension.resources["freshness"] = json!("Stale");
    }
    (extension, verdict)
}

fn of_objects(aggregator: &Aggregator, extension: &Extension) -> Option<Verdict> {
    let (namespace, name, _) = place(&extension.reference);
    let service = aggregator.view.get(&GroupResource::new("", "services"), namespace, name);
    let service = service.and_then(|service| service.typed::<Service>().ok());
    let slices = aggregator.view.list(&GroupResource::new("discovery.k8s.io", "endpointslices"), namespace);
    let slices: Vec<EndpointSlice> = slices
        .iter()
        .filter(|slice| slice.meta().labels.get("kubernetes.io/service-name").is_some_and(|of| of == name))
        .filter_map(|slice| Some((*slice.typed::<EndpointSlice>().ok()?).clone()))
        .collect();
    fault(&extension.reference, service.as_deref(), &slices)
}

/// Asks the server what it serves.
async fn learn(aggregator: &Aggregator, extension: &mut Extension) -> Verdict {
    let path = format!("/apis/{}/{}", extension.group, extension.version);
    let list = match aggregator.ask(extension, &path, "application/json").await {
        Ok(list) => list,
        Err(why) => return Verdict::failed(why),
    };
    let all = aggregator.ask(extension, "/apis", AGGREGATED).await.ok();
    let own = all.and_then(|all| of_version(&all, &extension.group, &extension.version));
    extension.resources = own.unwrap_or_else(|| discovery::aggregate(&extension.version, &list));
    if let Ok(index) = aggregator.ask(extension, "/openapi/v3", "application/json").await {
        let place = index["paths"][path.trim_start_matches('/')]["serverRelativeURL"].as_str();
        extension.v3 = place.map(str::to_owned);
    }
    if let Ok(document) = aggregator.ask(extension, "/openapi/v2", "application/json").await
        && extension.v2.as_deref() != Some(&document)
    {
        extension.v2 = Some(Arc::new(document));
    }
    Verdict::passed()
}

/// The part of an aggregated document about one group version.
fn of_version(all: &Value, group: &str, version: &str) -> Option<Value> {
    let groups = all.get("items")?.as_array()?;
    let versions = groups.iter().find(|item| item["metadata"]["name"] == group)?.get("versions")?.as_array()?;
    versions.iter().find(|known| known["version"] == version).cloned()
}
