//! The local-path provisioner: claims of its class, the default one, get a directory on the node that the scheduler has
//! chosen for their pod, so that a StatefulSet with claims just works on a cluster without any other storage.
//!
//! The volume is an ordinary one of type `local`, tied to its node. The node makes the directory when the first pod uses
//! it, and removes it when this controller asks for that, through the API server's node proxy: no other program runs.

mod plan;

use std::sync::Arc;

use http::Method;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use skiff_client::{
    After, Call, Change, Client, ClientError, DeleteOptions, Key, Kind, Recorder, Store, WorkQueue, Workers, involved,
};
use skiff_meta::world::Task;

use crate::Context;
use plan::ForClaim;

/// What has to be looked at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Work {
    /// The class must be there.
    Class,
    Claim(Key),
    Volume(String),
}

struct Controller {
    client: Client,
    recorder: Recorder,
    claims: Store<PersistentVolumeClaim>,
    volumes: Store<PersistentVolume>,
    classes: Store<StorageClass>,
    nodes: Store<Node>,
}

/// Starts the provisioner.
pub(crate) fn start(context: &Context, client: Client) -> Vec<Task> {
    let (claims, volumes) =
        (context.informers.all::<PersistentVolumeClaim>(), context.informers.all::<PersistentVolume>());
    let (classes, nodes) = (context.informers.all::<StorageClass>(), context.informers.all::<Node>());
    let queue = WorkQueue::new(context.world.clone());
    queue.add(Work::Class, None);
    let to_queue = queue.clone();
    claims.on(move |change: &Change<'_, PersistentVolumeClaim>| {
        if change.new.is_some_and(|claim| plan::selected_node(claim).is_some()) {
            to_queue.add(Work::Claim(change.key()), change.trace);
        }
    });
    let to_queue = queue.clone();
    volumes.on(move |change: &Change<'_, PersistentVolume>| {
        if change.new.is_some_and(|volume| plan::to_remove(volume).is_some()) {
            to_queue.add(Work::Volume(change.key().name), change.trace);
        }
    });
    let synced = vec![claims.synced(), volumes.synced(), classes.synced(), nodes.synced()];
    let workers = Workers { world: context.world.clone(), name: plan::CLASS, count: 2, synced };
    let controller = Arc::new(Controller {
        recorder: Recorder::new(client.clone(), context.world.clone(), plan::PROVISIONER, ""),
        client,
        claims: claims.store(),
        volumes: volumes.store(),
        classes: classes.store(),
        nodes: nodes.store(),
    });
    workers.start(queue, move |work: Work| {
        let controller = controller.clone();
        async move { controller.reconcile(&work).await }
    })
}

impl Controller {
    async fn reconcile(&self, work: &Work) -> Result<After, ClientError> {
        match work {
            Work::Class => self.class().await?,
            Work::Claim(key) => self.claim(key).await?,
            Work::Volume(name) => self.volume(name).await?,
        }
        Ok(After::Change)
    }

    async fn class(&self) -> Result<(), ClientError> {
        if self.classes.get("", plan::CLASS).is_some() {
            return Ok(());
        }
        match self.client.all::<StorageClass>().create(&plan::class()).await {
            Err(error) if !error.is_already_exists() => Err(error),
            _ => Ok(()),
        }
    }

    async fn claim(&self, key: &Key) -> Result<(), ClientError> {
        let Some(claim) = self.claims.get_key(key) else { return Ok(()) };
        let class = self.classes.get("", plan::class_of(&claim));
        let node = plan::selected_node(&claim).and_then(|name| self.nodes.get("", name));
        match plan::for_claim(&claim, class.as_deref(), node.as_deref()) {
            ForClaim::Nothing => Ok(()),
            ForClaim::Refuse(why) => {
                let message =
                    format!("failed to provision volume with StorageClass {:?}: {why}", plan::class_of(&claim));
                self.recorder.warning(&involved(&*claim), "ProvisioningFailed", message);
                Ok(())
            }
            ForClaim::Provision(volume) => match self.client.all::<PersistentVolume>().create(&volume).await {
                Ok(made) => {
                    let message = format!("Successfully provisioned volume {}", made.name());
                    self.recorder.normal(&involved(&*claim), "ProvisioningSucceeded", message);
                    Ok(())
                }
                Err(error) if error.is_already_exists() => Ok(()),
                Err(error) => Err(error),
            },
        }
    }

    /// The directory goes first, and the volume only when it is gone. A node that has left the cluster took it along.
    async fn volume(&self, name: &str) -> Result<(), ClientError> {
        let Some(volume) = self.volumes.get("", name) else { return Ok(()) };
        let Some(hostname) = plan::to_remove(&volume) else { return Ok(()) };
        let named = |node: &Arc<Node>| {
            node.metadata
                .labels
                .as_ref()
                .is_some_and(|labels| labels.get("kubernetes.io/hostname").is_some_and(|h| h == hostname))
        };
        if let Some(node) = self.nodes.list().into_iter().find(named) {
            let path = format!("/api/v1/nodes/{}/proxy/localVolumes/{name}", node.name());
            self.client.bytes(Call::new(Method::DELETE, path)).await?;
        }
        self.client.all::<PersistentVolume>().delete(name, &DeleteOptions::uid(volume.uid())).await
    }
}
