//! Namespaces: when one is deleted, everything in it goes first, whatever its kind.
//!
//! Pods go before anything else, so that what they use is there while they shut down. The end of the last pod wakes this
//! controller up; what waits for finalizers of others is looked at again now and then.

mod plan;

use std::sync::Arc;

use http::Method;
use k8s_openapi::api::core::v1::{Namespace, NamespaceStatus, Pod};
use serde::Deserialize;
use skiff_client::{
    After, ApiResource, Call, Change, Client, ClientError, DeleteOptions, Key, Kind, List, Selection, Store, WorkQueue,
    Workers,
};
use skiff_meta::WorldRef;
use skiff_meta::world::Task;

use crate::Context;
use plan::Findings;

/// The finalizer in `spec.finalizers` that is ours.
const FINALIZER: &str = "kubernetes";
const WORKERS: usize = 10;
/// Lists with nothing but metadata.
const METADATA_ONLY: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";

struct Controller {
    client: Client,
    world: WorldRef,
    namespaces: Store<Namespace>,
}

/// Starts the namespace controller.
pub(crate) fn start(context: &Context, client: Client) -> Vec<Task> {
    let namespaces = context.informers.all::<Namespace>();
    let pods = context.informers.all::<Pod>();
    let queue = WorkQueue::new(context.world.clone());
    let to_queue = queue.clone();
    namespaces.on(move |change: &Change<'_, Namespace>| {
        if change.new.is_some_and(|namespace| namespace.deleting()) {
            to_queue.add(change.key(), change.trace);
        }
    });
    let (to_queue, known, left) = (queue.clone(), namespaces.store(), pods.store());
    pods.on(move |change: &Change<'_, Pod>| {
        let (None, Some(pod)) = (change.new, change.old) else { return };
        let going = known.get("", pod.namespace()).is_some_and(|namespace| namespace.deleting());
        if going && left.in_namespace(pod.namespace()).is_empty() {
            to_queue.add(Key::new("", pod.namespace()), change.trace);
        }
    });
    let synced = vec![namespaces.synced(), pods.synced()];
    let workers = Workers { world: context.world.clone(), name: "namespace-controller", count: WORKERS, synced };
    let controller = Arc::new(Controller { client, world: context.world.clone(), namespaces: namespaces.store() });
    workers.start(queue, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key.name).await }
    })
}

#[derive(Deserialize)]
struct Item {
    #[serde(default)]
    metadata: skiff_meta::Meta,
}

impl Controller {
    async fn reconcile(&self, name: &str) -> Result<After, ClientError> {
        if self.namespaces.get("", name).is_none_or(|namespace| !namespace.deleting()) {
            return Ok(After::Change);
        }
        // Several parties write to a namespace on its way out: the newest state counts.
        let api = self.client.all::<Namespace>();
        let Some(mut namespace) = api.get_opt(name).await? else { return Ok(After::Change) };
        let finalizers = namespace.spec.as_ref().and_then(|spec| spec.finalizers.clone()).unwrap_or_default();
        let Some(deleted) = namespace.metadata.deletion_timestamp.as_ref().map(|time| time.0) else {
            return Ok(After::Change);
        };
        if finalizers.is_empty() {
            return Ok(After::Change);
        }
        let status = namespace.status.get_or_insert_default();
        if status.phase.as_deref() != Some("Terminating") {
            status.phase = Some("Terminating".to_owned());
            namespace = api.update_status(&namespace).await?;
        }
        let findings = self.delete_content(name).await?;
        namespace = self.write_conditions(namespace, &findings).await?;
        if findings.is_empty() {
            return self.finalize(namespace).await;
        }
        if let Some(failure) = findings.failures.first() {
            tracing::debug!(namespace = name, "not all content could be deleted: {failure}");
        }
        Ok(After::Delay(plan::next_look(deleted, self.world.now())))
    }

    async fn delete_content(&self, namespace: &str) -> Result<Findings, ClientError> {
        let discovery = self.client.rediscover().await?;
        let mut findings = Findings {
            undiscovered: discovery.stale().iter().map(ToString::to_string).collect(),
            ..Findings::default()
        };
        let deletable = |resource: &&ApiResource| resource.namespaced && resource.can("delete");
        let (pods, others): (Vec<_>, Vec<_>) = discovery
            .preferred()
            .filter(deletable)
            .partition(|resource| resource.group.is_empty() && resource.resource == "pods");
        for resource in pods {
            self.delete_all(resource, namespace, &mut findings).await;
        }
        if findings.remaining.is_empty() {
            for resource in others {
                self.delete_all(resource, namespace, &mut findings).await;
            }
        }
        Ok(findings)
    }

    async fn delete_all(&self, resource: &ApiResource, namespace: &str, findings: &mut Findings) {
        match self.try_delete_all(resource, namespace).await {
            Ok(left) if left.is_empty() => {}
            Ok(left) => {
                for finalizer in left.iter().flat_map(|item| &item.metadata.finalizers) {
                    *findings.finalizers.entry(finalizer.clone()).or_default() += 1;
                }
                findings.remaining.insert(resource.gvr(), left.len());
            }
            Err(error) if error.is_not_found() || error.reason() == "MethodNotAllowed" => {}
            Err(error) => findings.failures.push(error.to_string()),
        }
    }

    /// Deletes all objects of a resource and answers with those that are still there.
    async fn try_delete_all(&self, resource: &ApiResource, namespace: &str) -> Result<Vec<Item>, ClientError> {
        if !resource.can("list") {
            self.delete_collection(resource, namespace).await?;
            return Ok(Vec::new());
        }
        let found = self.list(resource, namespace).await?;
        if found.is_empty() {
            return Ok(found);
        }
        if resource.can("deletecollection") {
            self.delete_collection(resource, namespace).await?;
        } else {
            let api = self.client.dynamic(&resource.gvr(), namespace);
            let background = DeleteOptions::default().propagation("Background");
            for item in found {
                match api.delete(&item.metadata.name, &background).await {
                    Err(error) if !error.is_not_found() => return Err(error),
                    _ => {}
                }
            }
        }
        self.list(resource, namespace).await
    }

    async fn delete_collection(&self, resource: &ApiResource, namespace: &str) -> Result<(), ClientError> {
        // Never orphan: what lives in the namespace goes with it.
        let background = DeleteOptions::default().propagation("Background");
        self.client.dynamic(&resource.gvr(), namespace).delete_all(&Selection::default(), &background).await
    }

    async fn list(&self, resource: &ApiResource, namespace: &str) -> Result<Vec<Item>, ClientError> {
        let path = self.client.dynamic(&resource.gvr(), namespace).path("", "");
        let call = Call { accept: METADATA_ONLY, ..Call::get(path) };
        Ok(self.client.call::<List<Item>>(call).await?.items)
    }

    async fn write_conditions(&self, namespace: Namespace, findings: &Findings) -> Result<Namespace, ClientError> {
        let status = namespace.status.clone().unwrap_or_default();
        let old = status.conditions.clone().unwrap_or_default();
        let new = plan::conditions(&old, findings, self.world.now());
        // A namespace that is empty at first sight never shows conditions.
        if new == old || (old.is_empty() && findings.is_empty()) {
            return Ok(namespace);
        }
        let updated = Namespace { status: Some(NamespaceStatus { conditions: Some(new), ..status }), ..namespace };
        self.client.all::<Namespace>().update_status(&updated).await
    }

    async fn finalize(&self, mut namespace: Namespace) -> Result<After, ClientError> {
        if let Some(finalizers) = namespace.spec.as_mut().and_then(|spec| spec.finalizers.as_mut()) {
            finalizers.retain(|finalizer| finalizer != FINALIZER);
        }
        let api = self.client.all::<Namespace>();
        let call = Call::new(Method::PUT, api.path(namespace.name(), "finalize")).json(&namespace)?;
        match self.client.bytes(call).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(After::Change),
        }
    }
}
