//! The server as a client in the same process sees it: the same pipeline, bound to one user, and a list-watch source
//! that shares the cache's objects instead of their bytes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use http::{Request, Response};
use skiff_client::{Backend, Body, ClientError, Event, ListTarget};
use skiff_meta::{Object, Status};

use crate::api::Api;
use crate::cache::{EventType, Start, Subscription};
use crate::chain::{Attributes, Identity, User};
use crate::error;
use crate::request::{ListOptions, Query};
use crate::respond::body::full;
use crate::select::Selection;

/// Pauses between attempts of a list-watch that cannot begin; the last is repeated.
const BACKOFF: [Duration; 5] = [
    Duration::from_millis(50),
    Duration::from_millis(200),
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(15),
];

/// A client of this process.
pub(crate) struct InProcess {
    api: Arc<Api>,
    user: Arc<User>,
}

impl InProcess {
    /// With the rights of `user`.
    pub(crate) fn shared(api: Arc<Api>, user: User) -> Arc<dyn Backend> {
        Arc::new(Self { api, user: Arc::new(user) })
    }
}

impl Backend for InProcess {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'static, Result<Response<Body>, ClientError>> {
        let (api, identity) = (self.api.clone(), Identity::Bound(self.user.clone()));
        Box::pin(async move { Ok(api.handle(request.map(full), identity).await) })
    }

    fn list_watch(&self, target: ListTarget) -> BoxStream<'static, Event> {
        let (api, user) = (self.api.clone(), self.user.clone());
        async_stream::stream! {
            let mut failures = 0;
            loop {
                match begin(&api, &user, &target).await {
                    Ok((selection, mut subscription)) => {
                        failures = 0;
                        let state = subscription.state.take();
                        let objects: Vec<Arc<Object>> = state
                            .iter()
                            .flat_map(|s| s.iter())
                            .filter(|e| selection.matches(e))
                            .map(|e| e.object().clone())
                            .collect();
                        drop(state);
                        yield Event::Replace(objects);
                        while let Some(event) = subscription.events.recv().await {
                            let Some(ty) = event.seen_through(|e| selection.matches(e)) else { continue };
                            let Some(object) = event.object(ty) else { continue };
                            yield match ty {
                                EventType::Deleted => Event::Delete(object),
                                EventType::Added | EventType::Modified => Event::Apply(object),
                            };
                        }
                        tracing::debug!(resource = %target.resource.resource, "a list-watch starts anew");
                    }
                    Err(status) => {
                        let pause = BACKOFF[failures.min(BACKOFF.len() - 1)];
                        tracing::warn!(user = %user.name, resource = %target.resource.resource, "list-watch: {status}");
                        failures += 1;
                        api.world.sleep(pause).await;
                    }
                }
            }
        }
        .boxed()
    }

    fn remote(&self) -> Option<Arc<skiff_client::config::Remote>> {
        None
    }
}

/// Authorizes and begins a list-watch.
async fn begin(api: &Arc<Api>, user: &User, target: &ListTarget) -> Result<(Selection, Subscription), Status> {
    let selector = |e: skiff_meta::selector::SelectorError| Status::bad_request(e.to_string());
    let fields = skiff_meta::selector::FieldSelector::parse(&target.selection.fields).map_err(selector)?;
    // As over HTTP: who selects one object by its name asks for that object.
    let name = fields.exact("metadata.name").unwrap_or_default().to_owned();
    for verb in ["list", "watch"] {
        api.allow(&Attributes {
            user,
            verb,
            group: &target.resource.group,
            version: &target.resource.version,
            resource: &target.resource.resource,
            subresource: "",
            namespace: &target.namespace,
            name: &name,
            fields: &target.selection.fields,
            labels: &target.selection.labels,
            path: "",
        })
        .await?;
    }
    api.feed.catch_up().await.map_err(|e| error::catch_up(&e))?;
    let served = api.catalog.registry().find(&target.resource).cloned().ok_or_else(Status::no_such_path)?;
    let cache = served.cache()?.clone();
    let mut options = ListOptions::parse(&Query::default())?;
    options.labels = skiff_meta::selector::LabelSelector::parse(&target.selection.labels).map_err(selector)?;
    options.fields = fields;
    let selection = Selection::new(&served, &cache, &target.namespace, &options)?;
    let started = cache.watch(Start::State, selection.lane(&cache));
    let subscription = started.map_err(|_| Status::expired("the watch cannot begin"))?;
    cache.check_all_readable(&served.key_start(&target.namespace))?;
    Ok((selection, subscription))
}
