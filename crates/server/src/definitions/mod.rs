//! What the server does for CustomResourceDefinitions: it says in their status whether they are served, and empties
//! the resources of those that go.
//!
//! One actor, as any other: it wakes when a definition changes, looks at all of them, and writes what its plan says
//! through the API. Serving itself does not wait for it (see [`crate::resource::catalog`]).

mod cleanup;
pub(crate) mod names;
mod plan;

use std::collections::HashSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use http::Method;
use parking_lot::Mutex;
use serde_json::Value;
use skiff_meta::GroupResource;
use skiff_meta::world::Task;

use crate::api::Api;
use crate::bootstrap::send;
use crate::cache::{Lane, ResourceCache, Start};
use crate::tree;
use plan::{Step, plan, plan_services};

const URI: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
/// Pause before a failed plan is made again.
const BACKOFF: Duration = Duration::from_millis(500);

/// Definitions whose objects are being removed, by UID.
type Running = Arc<Mutex<HashSet<String>>>;

/// Starts the actor; it ends with the server.
pub(crate) fn start(api: &Arc<Api>) -> Option<Task> {
    let id = GroupResource::new("apiextensions.k8s.io", "customresourcedefinitions");
    let definitions = api.catalog.registry().preferred(&id)?.resource.cache.clone()?;
    let weak = Arc::downgrade(api);
    let task = follow(weak, definitions);
    Some(api.world.spawn("definitions", Box::pin(task)))
}

async fn follow(api: Weak<Api>, definitions: Arc<ResourceCache>) {
    let running = Running::default();
    while let Some(strong) = api.upgrade() {
        let Ok(mut watch) = definitions.watch(Start::State, Lane::All) else { return };
        let done = act(&strong, &definitions, &running).await;
        let world = strong.world.clone();
        drop(strong);
        if done {
            // The watch began before the look, so nothing was missed; its end means that the cache starts anew.
            watch.events.recv().await;
        } else {
            world.sleep(BACKOFF).await;
        }
    }
}

/// Looks at all definitions and does what there is to do; false when something failed.
async fn act(api: &Arc<Api>, definitions: &ResourceCache, running: &Running) -> bool {
    let (entries, _) = definitions.snapshot();
    let all: Vec<Value> = entries.iter().filter_map(|e| e.object().to_value().ok()).collect();
    let services: Vec<Value> = api
        .view
        .list(&GroupResource::new("apiregistration.k8s.io", "apiservices"), "")
        .iter()
        .filter_map(|o| o.to_value().ok())
        .collect();
    let now = tree::timestamp(api.world.now());
    let mut fine = true;
    for step in plan(&all, &now).into_iter().chain(plan_services(&all, &services)) {
        let sent = match step {
            Step::Status(definition) => {
                let uri = format!("{URI}/{}/status", tree::text(&definition, &["metadata", "name"]));
                send(api, Method::PUT, &uri, &definition).await
            }
            Step::Announce(service) => send(api, Method::POST, SERVICES, &service).await,
            Step::Withdraw(name) => send(api, Method::DELETE, &format!("{SERVICES}/{name}"), &Value::Null).await,
            Step::Cleanup(definition) => {
                cleanup::start(api, definition, running);
                continue;
            }
        };
        match sent {
            Ok(_) => {}
            // Somebody was faster; the change wakes us, or has done what we wanted.
            Err(status) if ["Conflict", "NotFound", "AlreadyExists"].iter().any(|r| status.is(r)) => {}
            Err(status) => {
                tracing::warn!("what definitions want cannot be written: {status}");
                fine = false;
            }
        }
    }
    fine
}
