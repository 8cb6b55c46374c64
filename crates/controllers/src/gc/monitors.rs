//! One watch per resource there is, custom ones included; which there are is asked again when definitions change.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use parking_lot::Mutex;
use skiff_client::{
    After, ApiResource, Change, Client, ClientError, Discovery, Event, Kind, ListTarget, Selection, Store, WorkQueue,
    Workers,
};
use skiff_meta::world::{AbortOnDrop, Task, WorldExt};
use skiff_meta::{GroupVersionResource, Meta, Object, TraceContext, WorldRef};
use tokio::sync::watch;

use super::graph::{Graph, Place, Work};
use crate::Context;

/// How long a resource that cannot be listed may hold up the others.
const PATIENCE: Duration = Duration::from_secs(30);
/// How soon to ask again for a definition that is not served yet.
const NOT_SERVED_YET: Duration = Duration::from_millis(500);

struct Monitor {
    _task: AbortOnDrop,
    synced: watch::Receiver<bool>,
}

/// The watches, and the graph they feed.
pub(crate) struct Monitors {
    client: Client,
    world: WorldRef,
    pub(crate) graph: Mutex<Graph>,
    queue: WorkQueue<Work>,
    running: Mutex<BTreeMap<GroupVersionResource, Monitor>>,
    definitions: Store<CustomResourceDefinition>,
    ready: watch::Sender<bool>,
}

impl Monitors {
    /// Starts watching everything; work goes into `queue`.
    pub(crate) fn start(context: &Context, client: Client, queue: WorkQueue<Work>) -> (Arc<Self>, Vec<Task>) {
        let definitions = context.informers.all::<CustomResourceDefinition>();
        let services = context.informers.all::<APIService>();
        let monitors = Arc::new(Self {
            client,
            world: context.world.clone(),
            graph: Mutex::default(),
            queue,
            running: Mutex::default(),
            definitions: definitions.store(),
            ready: watch::Sender::new(false),
        });
        let look: WorkQueue<()> = WorkQueue::new(context.world.clone());
        look.add((), None);
        let to_look = look.clone();
        definitions.on(move |_: &Change<'_, CustomResourceDefinition>| to_look.add((), None));
        let to_look = look.clone();
        services.on(move |_: &Change<'_, APIService>| to_look.add((), None));
        let synced = vec![definitions.synced(), services.synced()];
        let workers = Workers { world: context.world.clone(), name: "garbage-collector-monitors", count: 1, synced };
        let looking = monitors.clone();
        let tasks = workers.start(look, move |()| {
            let monitors = looking.clone();
            async move { monitors.look().await }
        });
        (monitors, tasks)
    }

    /// Waits until everything there is has been listed once.
    pub(crate) async fn ready(&self) {
        let mut ready = self.ready.subscribe();
        // The sender lives in `self`, so this cannot fail.
        let _ = ready.wait_for(|ready| *ready).await;
    }

    /// What the server serves, for finding an owner by its kind.
    pub(crate) async fn find(&self, api_version: &str, kind: &str) -> Result<Option<ApiResource>, ClientError> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        if let Some(found) = self.client.discovery().await?.kind(group, version, kind) {
            return Ok(Some(found.clone()));
        }
        let fresh = self.client.rediscover().await?;
        Ok(fresh.kind(group, version, kind).cloned())
    }

    async fn look(self: &Arc<Self>) -> Result<After, ClientError> {
        let discovery = self.client.rediscover().await?;
        let wanted: BTreeMap<GroupVersionResource, ApiResource> =
            discovery.preferred().filter(|r| is_collected(r)).map(|r| (r.gvr(), r.clone())).collect();
        let waiting = {
            let mut running = self.running.lock();
            let stale: Vec<String> = discovery.stale().iter().map(ToString::to_string).collect();
            running.retain(|gvr, _| wanted.contains_key(gvr) || stale.contains(&gvr.group_version().to_string()));
            for (gvr, resource) in wanted {
                running.entry(gvr).or_insert_with(|| self.watch(resource));
            }
            running.values().map(|monitor| monitor.synced.clone()).collect::<Vec<_>>()
        };
        let all = async {
            for mut synced in waiting {
                // An error means that the watch was taken down again.
                let _ = synced.wait_for(|synced| *synced).await;
            }
        };
        if self.world.timeout(PATIENCE, all).await.is_none() {
            tracing::warn!("garbage collection begins though not every resource could be listed");
        }
        self.ready.send_replace(true);
        Ok(if self.all_served(&discovery) { After::Change } else { After::Delay(NOT_SERVED_YET) })
    }

    /// Whether every established definition is in discovery already.
    fn all_served(&self, discovery: &Discovery) -> bool {
        self.definitions.list().iter().filter(|d| is_established(d) && !d.deleting()).all(|definition| {
            let (group, kind) = (&definition.spec.group, &definition.spec.names.kind);
            let served = definition.spec.versions.iter().filter(|version| version.served);
            served.into_iter().all(|version| discovery.kind(group, &version.name, kind).is_some())
        })
    }

    fn watch(self: &Arc<Self>, resource: ApiResource) -> Monitor {
        let target = ListTarget { resource: resource.gvr(), namespace: String::new(), selection: Selection::default() };
        let mut events = self.client.list_watch(target);
        let synced = watch::Sender::new(false);
        let receiver = synced.subscribe();
        let monitors = Arc::downgrade(self);
        let names = (Arc::<str>::from(resource.api_version()), Arc::<str>::from(&*resource.kind));
        let task = async move {
            while let Some(event) = events.next().await {
                let Some(monitors) = monitors.upgrade() else { return };
                let listed = matches!(event, Event::Replace(_));
                monitors.take(&names, event);
                if listed {
                    synced.send_replace(true);
                }
            }
        };
        let task = AbortOnDrop(self.world.spawn("garbage-collector-monitor", Box::pin(task)));
        Monitor { _task: task, synced: receiver }
    }

    fn take(&self, names: &(Arc<str>, Arc<str>), event: Event) {
        let place = |meta: &Meta| Place {
            api_version: names.0.clone(),
            kind: names.1.clone(),
            namespace: (&*meta.namespace).into(),
            name: (&*meta.name).into(),
        };
        let cause = |object: &Object| object.trace();
        let mut graph = self.graph.lock();
        let (work, cause) = match &event {
            Event::Apply(object) => (graph.observe(&place(object.meta()), object.meta()), cause(object)),
            Event::Delete(object) => (graph.gone(&object.meta().uid), cause(object)),
            Event::Replace(all) => {
                let all = all.iter().map(|object| (place(object.meta()), object.meta()));
                (graph.replace(&names.0, &names.1, all), None)
            }
        };
        drop(graph);
        self.enqueue(work, cause);
    }

    /// Enqueues work.
    pub(crate) fn enqueue(&self, work: Vec<Work>, cause: Option<TraceContext>) {
        for work in work {
            self.queue.add(work, cause);
        }
    }
}

/// Resources whose objects can be owned and deleted; events are too many and too short-lived to look at.
fn is_collected(resource: &ApiResource) -> bool {
    let watched = ["delete", "list", "watch"].iter().all(|verb| resource.can(verb));
    let events = resource.resource == "events" && matches!(&*resource.group, "" | "events.k8s.io");
    watched && !events
}

fn is_established(definition: &CustomResourceDefinition) -> bool {
    let conditions = definition.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Established" && condition.status == "True")
}
