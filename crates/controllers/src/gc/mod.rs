//! The garbage collector: what is owned by something that is gone goes as well.
//!
//! Three ways to delete an owner: *background* (it goes, its dependents follow), *foreground* (it waits until those
//! that block it are gone) and *orphan* (its dependents are set free first). The graph says what to look at; what is then
//! decided is decided on what the server says at that moment, since a deletion cannot be taken back.

mod graph;
mod monitors;
mod plan;

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde::Deserialize;
use serde_json::json;
use skiff_client::{After, ApiResource, Call, Client, ClientError, DeleteOptions, Patch, WorkQueue, Workers};
use skiff_meta::world::Task;

use crate::Context;
use graph::{FOREGROUND, ORPHAN, Place, Uid, View, Work};
use monitors::Monitors;
use plan::{Owner, Verdict};

const WORKERS: usize = 20;
/// Objects with nothing but metadata.
const METADATA_ONLY: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";

struct Collector {
    client: Client,
    monitors: Arc<Monitors>,
}

/// Starts the garbage collector.
pub(crate) fn start(context: &Context, client: Client) -> Vec<Task> {
    let queue = WorkQueue::new(context.world.clone());
    let (monitors, mut tasks) = Monitors::start(context, client.clone(), queue.clone());
    let collector = Arc::new(Collector { client, monitors });
    let workers =
        Workers { world: context.world.clone(), name: "garbage-collector", count: WORKERS, synced: Vec::new() };
    tasks.extend(workers.start(queue, move |work| {
        let collector = collector.clone();
        async move {
            collector.monitors.ready().await;
            match work {
                Work::Delete(uid) => collector.try_delete(&uid).await,
                Work::Orphan(uid) => collector.orphan(&uid).await,
            }
        }
    }));
    tasks
}

#[derive(Deserialize)]
struct Metadata {
    metadata: ObjectMeta,
}

impl Collector {
    async fn try_delete(&self, uid: &Uid) -> Result<After, ClientError> {
        let Some(view) = self.monitors.graph.lock().view(uid) else { return Ok(After::Change) };
        if view.deleting && !view.foreground {
            // On its way already; its end will be seen.
            return Ok(After::Change);
        }
        let Some(meta) = self.get(&view.place, uid).await? else {
            if view.is_virtual {
                let work = self.monitors.graph.lock().absent(uid);
                self.monitors.enqueue(work, skiff_client::trace::current());
            }
            return Ok(After::Change);
        };
        if view.foreground {
            return self.go_on_in_foreground(uid, &view).await;
        }
        let mut owners = Vec::new();
        for reference in meta.owner_references.iter().flatten() {
            owners.push(self.owner(reference, &view.place.namespace).await?);
        }
        match plan::verdict(&meta, &owners, &view) {
            Verdict::Keep => {}
            Verdict::Reduce(references) => self.set_owners(&view.place, &meta, &references).await?,
            Verdict::Delete { propagation, unblock } => {
                let mut options = DeleteOptions::uid(uid).propagation(propagation);
                match unblock {
                    Some(references) => self.set_owners(&view.place, &meta, &references).await?,
                    // What was decided holds for the references as they were.
                    None => {
                        if let Some(preconditions) = &mut options.preconditions {
                            preconditions.resource_version.clone_from(&meta.resource_version);
                        }
                    }
                }
                self.delete(&view.place, &options).await?;
            }
        }
        Ok(After::Change)
    }

    /// Once nothing holds it up any more, the owner may go; what does is deleted first.
    async fn go_on_in_foreground(&self, uid: &Uid, view: &View) -> Result<After, ClientError> {
        if view.blocking.is_empty() {
            self.remove_finalizer(uid, &view.place, FOREGROUND).await?;
        }
        let graph = self.monitors.graph.lock();
        let not_waiting = |uid: &&Uid| graph.view(uid).is_some_and(|view| !view.foreground);
        let work: Vec<Work> = view.blocking.iter().filter(not_waiting).cloned().map(Work::Delete).collect();
        drop(graph);
        self.monitors.enqueue(work, skiff_client::trace::current());
        Ok(After::Change)
    }

    async fn orphan(&self, uid: &Uid) -> Result<After, ClientError> {
        let Some(view) = self.monitors.graph.lock().view(uid) else { return Ok(After::Change) };
        for dependent in &view.dependents {
            let Some(dependent_view) = self.monitors.graph.lock().view(dependent) else { continue };
            let Some(meta) = self.get(&dependent_view.place, dependent).await? else { continue };
            let references = meta.owner_references.iter().flatten();
            let left: Vec<_> = references.filter(|reference| *reference.uid != **uid).cloned().collect();
            if left.len() < meta.owner_references.as_ref().map_or(0, Vec::len) {
                self.set_owners(&dependent_view.place, &meta, &left).await?;
            }
        }
        self.remove_finalizer(uid, &view.place, ORPHAN).await?;
        Ok(After::Change)
    }

    async fn owner(&self, reference: &OwnerReference, namespace: &Arc<str>) -> Result<Owner, ClientError> {
        let place = Place {
            api_version: (&*reference.api_version).into(),
            kind: (&*reference.kind).into(),
            namespace: namespace.clone(),
            name: (&*reference.name).into(),
        };
        let found = self.get(&place, &(&*reference.uid).into()).await?;
        Ok(found.map_or(Owner::Dangling, |meta| plan::owner_of(&meta)))
    }

    /// The resource and namespace of a place; the namespace is dropped for cluster-scoped kinds.
    async fn resolve<'a>(&self, place: &'a Place) -> Result<(ApiResource, &'a str), ClientError> {
        let found = self.monitors.find(&place.api_version, &place.kind).await?;
        let Some(resource) = found else {
            let what = format!("no resource serves {} {} named as an owner", place.api_version, place.kind);
            return Err(ClientError::BadAnswer(what));
        };
        let namespace = if resource.namespaced { &*place.namespace } else { "" };
        Ok((resource, namespace))
    }

    async fn path(&self, place: &Place) -> Result<String, ClientError> {
        let (resource, namespace) = self.resolve(place).await?;
        Ok(self.client.dynamic(&resource.gvr(), namespace).path(&place.name, ""))
    }

    /// The metadata of the object with this UID, as the server has it now.
    async fn get(&self, place: &Place, uid: &Uid) -> Result<Option<ObjectMeta>, ClientError> {
        let (resource, namespace) = self.resolve(place).await?;
        if resource.namespaced && namespace.is_empty() {
            // An object without a namespace cannot be owned by one that has one.
            return Ok(None);
        }
        let call = Call { accept: METADATA_ONLY, ..Call::get(self.path(place).await?) };
        match self.client.call::<Metadata>(call).await {
            Ok(found) => Ok(Some(found.metadata).filter(|meta| meta.uid.as_deref() == Some(&**uid))),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn patch(&self, place: &Place, body: serde_json::Value) -> Result<(), ClientError> {
        let (resource, namespace) = self.resolve(place).await?;
        let api = self.client.dynamic(&resource.gvr(), namespace);
        match api.patch(&place.name, &Patch::Merge(body)).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    /// Merge patches replace lists as a whole, hence the version: nobody else's reference may be lost.
    async fn set_owners(
        &self,
        place: &Place,
        meta: &ObjectMeta,
        references: &[OwnerReference],
    ) -> Result<(), ClientError> {
        let body = json!({"metadata": {"resourceVersion": meta.resource_version, "uid": meta.uid,
            "ownerReferences": references}});
        self.patch(place, body).await
    }

    async fn remove_finalizer(&self, uid: &Uid, place: &Place, finalizer: &str) -> Result<(), ClientError> {
        let Some(meta) = self.get(place, uid).await? else { return Ok(()) };
        if !plan::has_finalizer(&meta, finalizer) {
            return Ok(());
        }
        let left: Vec<&String> = meta.finalizers.iter().flatten().filter(|found| *found != finalizer).collect();
        let body = json!({"metadata": {"resourceVersion": meta.resource_version, "finalizers": left}});
        self.patch(place, body).await
    }

    async fn delete(&self, place: &Place, options: &DeleteOptions) -> Result<(), ClientError> {
        let (resource, namespace) = self.resolve(place).await?;
        match self.client.dynamic(&resource.gvr(), namespace).delete(&place.name, options).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
