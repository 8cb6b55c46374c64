//! Follows the objects: configures the queues by them, keeps the defaults among them, tells what dangles, and moves
//! seats between levels as demand goes.

use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::future::{Either, select};
use http::Method;
use serde_json::{Value, json};
use skiff_meta::GroupResource;
use skiff_meta::world::Task;

use super::plan::{Step, steps};
use crate::api::Api;
use crate::bootstrap::send;
use crate::cache::{Lane, ResourceCache, Start};
use crate::tree;

const GROUP: &str = "flowcontrol.apiserver.k8s.io";
const URI: &str = "/apis/flowcontrol.apiserver.k8s.io/v1";
/// How often seats move between levels.
const PERIOD: Duration = Duration::from_secs(10);
/// Pause before a failed plan is made again.
const BACKOFF: Duration = Duration::from_secs(1);

/// Starts what runs as long as the server does.
pub(crate) fn start(api: &Arc<Api>) -> Vec<Task> {
    let Some(flow) = &api.flow else { return Vec::new() };
    let caches = ["flowschemas", "prioritylevelconfigurations"].map(|resource| {
        let id = GroupResource::new(GROUP, resource);
        api.catalog.registry().preferred(&id).and_then(|served| served.resource.cache.clone())
    });
    let [Some(schemas), Some(levels)] = caches else { return Vec::new() };
    let follow = follow(Arc::downgrade(api), [schemas, levels]);
    let (flow, world) = (Arc::downgrade(flow), api.world.clone());
    let lend = async move {
        loop {
            world.sleep(PERIOD).await;
            let Some(flow) = flow.upgrade() else { return };
            flow.lend();
        }
    };
    vec![api.world.spawn("flow-control", Box::pin(follow)), api.world.spawn("flow-control-seats", Box::pin(lend))]
}

async fn follow(api: Weak<Api>, caches: [Arc<ResourceCache>; 2]) {
    while let Some(strong) = api.upgrade() {
        // The watches begin before the look, so that nothing is missed.
        let [Ok(mut schemas), Ok(mut levels)] = caches.each_ref().map(|c| c.watch(Start::State, Lane::All)) else {
            return;
        };
        let fine = act(&strong, &caches).await;
        let world = strong.world.clone();
        drop(strong);
        if fine {
            let (one, other) = (std::pin::pin!(schemas.events.recv()), std::pin::pin!(levels.events.recv()));
            match select(one, other).await {
                Either::Left(_) | Either::Right(_) => {}
            }
        } else {
            world.sleep(BACKOFF).await;
        }
    }
}

fn read(cache: &ResourceCache) -> Vec<Value> {
    cache.snapshot().0.iter().filter_map(|entry| entry.object().to_value().ok()).collect()
}

/// Takes over what the objects say, and writes what they should say; false when something failed.
async fn act(api: &Arc<Api>, caches: &[Arc<ResourceCache>; 2]) -> bool {
    let (schemas, levels) = (read(&caches[0]), read(&caches[1]));
    if let Some(flow) = &api.flow {
        flow.configure(&levels, &schemas);
    }
    let now = tree::timestamp(api.world.now());
    let writes = steps(&levels, &schemas, &now).into_iter().map(|step| write(api, step));
    let written: Vec<Result<Value, _>> = futures::future::join_all(writes).await;
    let mut fine = true;
    for status in written.into_iter().filter_map(Result::err) {
        // Somebody was faster; the change wakes us, or has done what we wanted.
        if !["Conflict", "NotFound", "AlreadyExists"].iter().any(|reason| status.is(reason)) {
            tracing::warn!("flow control cannot bring its objects into line: {status}");
            fine = false;
        }
    }
    fine
}

async fn write(api: &Arc<Api>, step: Step) -> Result<Value, skiff_meta::Status> {
    let plural = |kind: &str| if kind == "FlowSchema" { "flowschemas" } else { "prioritylevelconfigurations" };
    const MANAGER: &str = "fieldManager=api-priority-and-fairness-config-producer-v1";
    match step {
        Step::Create(object) => {
            let uri = format!("{URI}/{}?{MANAGER}", plural(tree::text(&object, &["kind"])));
            send(api, Method::POST, &uri, &object).await
        }
        Step::Update(object) => {
            let name = tree::text(&object, &["metadata", "name"]);
            let uri = format!("{URI}/{}/{name}?{MANAGER}", plural(tree::text(&object, &["kind"])));
            send(api, Method::PUT, &uri, &object).await
        }
        Step::Delete(kind, name) => {
            send(api, Method::DELETE, &format!("{URI}/{}/{name}", plural(kind)), &json!(null)).await
        }
        Step::Condition(name, object) => {
            let manager = "fieldManager=api-priority-and-fairness-config-consumer-v1&force=true";
            let uri = format!("{URI}/flowschemas/{name}/status?{manager}");
            crate::bootstrap::apply(api, &uri, &object).await
        }
    }
}
