//! Approves what a node needs beside its client certificate: what it serves with, and whom its parts act as.
//!
//! Upstream leaves these to administrators and add-ons; a node that joins by itself cannot wait for either. What is
//! approved is signed, and in time removed, by the certificate controller like anything else.

mod plan;

use std::sync::Arc;

use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use skiff_client::{After, Change, Client, ClientError, Key, Kind, Selection, Store, WorkQueue, Workers};
use skiff_meta::WorldRef;
use skiff_meta::world::Task;

use crate::Context;
use plan::Surroundings;

const NAME: &str = "node-certificate-approver";

struct Controller {
    client: Client,
    world: WorldRef,
    requests: Store<CertificateSigningRequest>,
    nodes: Store<Node>,
    servers: Store<EndpointSlice>,
}

/// Starts the approver; nothing where nobody signs.
pub(crate) fn start(context: &Context, client: Client) -> Vec<Task> {
    if context.options.authority.is_none() {
        return Vec::new();
    }
    let requests = context.informers.all::<CertificateSigningRequest>();
    let nodes = context.informers.all::<Node>();
    let servers = context.informers.select::<EndpointSlice>(
        "default",
        Selection { fields: "metadata.name=kubernetes".to_owned(), ..Selection::default() },
    );
    let queue = WorkQueue::new(context.world.clone());
    let to_queue = queue.clone();
    requests.on(move |change: &Change<'_, CertificateSigningRequest>| to_queue.add(change.key(), change.trace));
    let synced = vec![requests.synced(), nodes.synced(), servers.synced()];
    let workers = Workers { world: context.world.clone(), name: NAME, count: 1, synced };
    let controller = Arc::new(Controller {
        client,
        world: context.world.clone(),
        requests: requests.store(),
        nodes: nodes.store(),
        servers: servers.store(),
    });
    workers.start(queue, move |key: Key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    })
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<After, ClientError> {
        let Some(request) = self.requests.get_key(key) else { return Ok(After::Change) };
        let surroundings = Surroundings { nodes: self.nodes.list(), servers: self.servers.list() };
        let Some(message) = plan::approval(&request, &surroundings) else { return Ok(After::Change) };
        let mut approved = (*request).clone();
        let now = Time(self.world.now());
        let condition = CertificateSigningRequestCondition {
            type_: "Approved".to_owned(),
            status: "True".to_owned(),
            reason: Some("AutoApproved".to_owned()),
            message: Some(message.to_owned()),
            last_update_time: Some(now.clone()),
            last_transition_time: Some(now),
        };
        approved.status.get_or_insert_default().conditions.get_or_insert_default().push(condition);
        let api = self.client.all::<CertificateSigningRequest>();
        api.replace(request.name(), "approval", &approved).await?;
        Ok(After::Change)
    }
}
