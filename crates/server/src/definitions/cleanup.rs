//! A definition that goes takes its objects with it: they are deleted through the API, and once the last is gone the
//! definition's finalizer is taken away.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use http::Method;
use serde_json::{Value, json};
use skiff_meta::{GroupResource, Object, Status};

use super::{Running, URI};
use crate::api::Api;
use crate::bootstrap::send;
use crate::cache::{Lane, ResourceCache, Start};
use crate::resource::Served;
use crate::tree;
use crate::write::remove::CLEANUP;

/// Deletes in flight at a time.
const TOGETHER: usize = 32;
/// Pause after the first failure; it doubles with each.
const BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);

/// Starts to empty a definition's resource, unless that goes on already.
pub(super) fn start(api: &Arc<Api>, definition: Value, running: &Running) {
    let uid = tree::text(&definition, &["metadata", "uid"]).to_owned();
    if !running.lock().insert(uid.clone()) {
        return;
    }
    let (api, running) = (api.clone(), running.clone());
    let world = api.world.clone();
    let task = async move {
        let mut pause = BACKOFF;
        while let Err(status) = run(&api, &definition).await {
            let name = tree::text(&definition, &["metadata", "name"]);
            tracing::warn!(
                "objects of definition {name} cannot be removed, the next attempt is in {pause:?}: {status}"
            );
            api.world.sleep(pause).await;
            pause = (pause * 2).min(LONGEST_BACKOFF);
        }
        running.lock().remove(&uid);
    };
    // It ends by itself.
    drop(world.spawn("definition-cleanup", Box::pin(task)));
}

async fn run(api: &Arc<Api>, definition: &Value) -> Result<(), Status> {
    let text = |path: &[&str]| tree::text(definition, path);
    let id = GroupResource::new(text(&["spec", "group"]), text(&["spec", "names", "plural"]));
    if let Some(served) = api.catalog.registry().preferred(&id)
        && let Some(cache) = served.resource.cache.clone()
    {
        empty(api, &served, &cache).await?;
    }
    release(api, text(&["metadata", "name"])).await
}

/// Deletes all objects and waits until the last is gone.
async fn empty(api: &Arc<Api>, served: &Served, cache: &ResourceCache) -> Result<(), Status> {
    loop {
        let Ok(mut watch) = cache.watch(Start::State, Lane::All) else { return Ok(()) };
        let state = watch.state.take().unwrap_or_default();
        if state.len() == 0 {
            return Ok(());
        }
        let objects = state.iter().map(|e| e.object().clone()).filter(|o| o.meta().deletion_timestamp.is_none());
        let deletes: Vec<_> = objects.map(|o| delete(api.clone(), served.clone(), o)).collect();
        let any = !deletes.is_empty();
        let results: Vec<_> = futures::stream::iter(deletes).buffer_unordered(TOGETHER).collect().await;
        results.into_iter().collect::<Result<(), Status>>()?;
        if !any {
            // Others' finalizers hold what is left.
            watch.events.recv().await;
        } else {
            api.feed.catch_up().await.map_err(|e| crate::error::catch_up(&e))?;
        }
    }
}

async fn delete(api: Arc<Api>, served: Served, object: Arc<Object>) -> Result<(), Status> {
    let (meta, gvr) = (object.meta(), served.gvr());
    let scope = if meta.namespace.is_empty() { String::new() } else { format!("/namespaces/{}", meta.namespace) };
    let uri = format!("/apis/{}/{}{scope}/{}/{}", gvr.group, gvr.version, gvr.resource, meta.name);
    match send(&api, Method::DELETE, &uri, &Value::Null).await {
        Err(status) if !status.is("NotFound") => Err(status),
        _ => Ok(()),
    }
}

/// Takes the finalizer away, and with it the definition.
async fn release(api: &Arc<Api>, name: &str) -> Result<(), Status> {
    let uri = format!("{URI}/{name}");
    let mut definition = match send(api, Method::GET, &uri, &Value::Null).await {
        Err(status) if status.is("NotFound") => return Ok(()),
        found => found?,
    };
    let left: Vec<&str> =
        tree::texts(&definition, &["metadata", "finalizers"]).into_iter().filter(|f| *f != CLEANUP).collect();
    let left = json!(left);
    tree::metadata(&mut definition).insert("finalizers".to_owned(), left);
    match send(api, Method::PUT, &uri, &definition).await {
        Err(status) if status.is("NotFound") => Ok(()),
        other => other.map(|_| ()),
    }
}
