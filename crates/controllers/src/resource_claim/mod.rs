//! Claims of devices: made from templates for pods, kept while a pod uses them, and given back when none does any more.

mod plan;

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimConsumerReference, ResourceClaimTemplate};
use serde_json::json;
use skiff_api::claims;
use skiff_client::{
    After, Change, Client, ClientError, DeleteOptions, Index, Key, Kind, Patch, Recorder, Store, WorkQueue, Workers,
    involved,
};
use skiff_meta::WorldRef;
use skiff_meta::world::Task;

use crate::Context;
use crate::shared::{Expectations, doubt, namespace_terminating, revision_of};

/// Who writes which claims were made for a pod.
const MANAGER: &str = "ResourceClaimController";

struct Controller {
    client: Client,
    world: WorldRef,
    recorder: Recorder,
    pods: Store<Pod>,
    claims: Store<ResourceClaim>,
    templates: Store<ResourceClaimTemplate>,
    /// Claims by the UID of the pod that they were made for.
    made_for: Index<ResourceClaim>,
    expectations: Expectations,
}

/// What is to be looked at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Work {
    Pod(Key),
    Claim(Key),
}

fn place(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

/// Starts the controller of claims.
pub(crate) fn start(context: &Context, client: Client) -> Vec<Task> {
    let pods = context.informers.all::<Pod>();
    let known = context.informers.all::<ResourceClaim>();
    let templates = context.informers.all::<ResourceClaimTemplate>();
    let of_pod = |pod: &Pod, names: Vec<String>| names.iter().map(|name| place(pod.namespace(), name)).collect();
    let by_claim = pods.index(move |pod| of_pod(pod, plan::claims_of(pod)));
    let by_template = pods.index(move |pod| of_pod(pod, plan::templates_of(pod)));

    let queue: WorkQueue<Work> = WorkQueue::new(context.world.clone());
    let to_queue = queue.clone();
    pods.on(move |change: &Change<'_, Pod>| {
        let Some(pod) = change.object() else { return };
        // Its claims may have to wait for nobody else.
        if change.new.is_none_or(|pod| plan::is_done(pod)) {
            for name in plan::claims_of(pod) {
                to_queue.add(Work::Claim(Key::new(pod.namespace(), name)), change.trace);
            }
        } else if pod.spec.as_ref().is_some_and(|spec| spec.resource_claims.is_some()) {
            to_queue.add(Work::Pod(change.key()), change.trace);
        }
    });
    let to_queue = queue.clone();
    known.on(move |change: &Change<'_, ResourceClaim>| {
        let key = change.key();
        for pod in by_claim.get(&place(&key.namespace, &key.name)) {
            to_queue.add(Work::Pod(Key::of(&*pod)), change.trace);
        }
        if let Some(pod) = change.object().and_then(|claim| plan::pod_of(claim)) {
            to_queue.add(Work::Pod(Key::new(&*key.namespace, pod)), change.trace);
        }
        if change.new.is_some() {
            to_queue.add(Work::Claim(key), change.trace);
        }
    });
    let to_queue = queue.clone();
    templates.on(move |change: &Change<'_, ResourceClaimTemplate>| {
        let key = change.key();
        for pod in by_template.get(&place(&key.namespace, &key.name)) {
            to_queue.add(Work::Pod(Key::of(&*pod)), change.trace);
        }
    });

    let synced = vec![pods.synced(), known.synced(), templates.synced()];
    let workers = Workers { world: context.world.clone(), name: "resource-claim-controller", count: 2, synced };
    let controller = Arc::new(Controller {
        recorder: Recorder::new(client.clone(), context.world.clone(), "resource_claim", ""),
        world: context.world.clone(),
        client,
        pods: pods.store(),
        claims: known.store(),
        templates: templates.store(),
        made_for: known.by_owner(),
        expectations: Expectations::default(),
    });
    workers.start(queue, move |work| {
        let controller = controller.clone();
        async move {
            match work {
                Work::Pod(key) => controller.pod(&key).await,
                Work::Claim(key) => controller.claim(&key).await,
            }
        }
    })
}

impl Controller {
    async fn pod(&self, key: &Key) -> Result<After, ClientError> {
        let Some(pod) = self.pods.get_key(key).filter(|pod| !pod.deleting() && !plan::is_done(pod)) else {
            self.expectations.forget(key);
            return Ok(After::Change);
        };
        if !self.expectations.met(key, &self.claims, self.world.elapsed()) {
            return Ok(After::Delay(Expectations::limit()));
        }
        let claim = |name: &str| self.claims.get(&key.namespace, name);
        let template = |name: &str| self.templates.get(&key.namespace, name);
        let needs = plan::needs(&pod, claim, &self.made_for.get(pod.uid()), template);
        let api = self.client.namespaced::<ResourceClaim>(&key.namespace);
        let mut note = needs.note;
        for (name, claim) in needs.make {
            match api.create(&claim).await {
                Ok(made) => {
                    self.expectations.wrote(key, revision_of(&made), self.world.elapsed());
                    note.insert(name, made.name().to_owned());
                }
                Err(error) if namespace_terminating(&error) => return Ok(After::Change),
                Err(error) => {
                    if let Some(revision) = doubt::seen_at(&api, &*pod, &error).await {
                        self.expectations.wrote(key, revision, self.world.elapsed());
                    }
                    self.warn(&pod, &name, &format!("create ResourceClaim: {error}"));
                    return Err(error);
                }
            }
        }
        if !note.is_empty() {
            self.note(&pod, note).await?;
        }
        for claim in needs.reserve {
            let mut claim = (*claim).clone();
            claim.status.get_or_insert_default().reserved_for.get_or_insert_default().push(
                ResourceClaimConsumerReference {
                    api_group: None,
                    resource: "pods".to_owned(),
                    name: pod.name().to_owned(),
                    uid: pod.uid().to_owned(),
                },
            );
            api.update_status(&claim).await?;
        }
        for (name, why) in needs.missing {
            self.warn(&pod, &name, &why);
        }
        Ok(After::Change)
    }

    fn warn(&self, pod: &Pod, claim: &str, why: &str) {
        self.recorder.warning(
            &involved(pod),
            "FailedResourceClaimCreation",
            format!("PodResourceClaim {claim}: {why}"),
        );
    }

    /// Writes into the pod's status which claims were made for it; those it tells of already stay.
    async fn note(&self, pod: &Pod, made: BTreeMap<String, String>) -> Result<(), ClientError> {
        let known = pod.status.iter().flat_map(|status| status.resource_claim_statuses.iter().flatten());
        let mut all: BTreeMap<String, Option<String>> =
            known.map(|status| (status.name.clone(), status.resource_claim_name.clone())).collect();
        all.extend(made.into_iter().map(|(name, claim)| (name, Some(claim))));
        let statuses: Vec<_> =
            all.iter().map(|(name, claim)| json!({"name": name, "resourceClaimName": claim})).collect();
        let object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": pod.name(), "namespace": pod.namespace(), "uid": pod.uid()},
            "status": {"resourceClaimStatuses": statuses},
        });
        let api = self.client.with_manager(MANAGER).namespaced::<Pod>(pod.namespace());
        match api.patch_status(pod.name(), &Patch::Apply { object, force: true }).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    async fn claim(&self, key: &Key) -> Result<After, ClientError> {
        let Some(claim) = self.claims.get_key(key) else { return Ok(After::Change) };
        let mut left = Vec::new();
        for user in claims::users(&claim) {
            if !claims::is_pod(user) || self.lives(&key.namespace, user).await? {
                left.push(user.clone());
            }
        }
        let owner = plan::pod_of(&claim).and_then(|pod| self.pods.get(&key.namespace, pod));
        let plan::Settlement { status, release, delete } = plan::settle(&claim, left, owner.as_deref());
        let api = self.client.namespaced::<ResourceClaim>(&key.namespace);
        let mut newest = (*claim).clone();
        if let Some(status) = status {
            newest = api.update_status(&status).await?;
        }
        if release {
            newest.metadata.finalizers.get_or_insert_default().retain(|finalizer| finalizer != claims::FINALIZER);
            ignore_gone(api.update(&newest).await)?;
        }
        if delete {
            ignore_gone(api.delete(&key.name, &DeleteOptions::uid(claim.uid())).await)?;
        }
        Ok(After::Change)
    }

    /// Whether a pod still uses what it has reserved. One that the cache does not know may be new.
    async fn lives(&self, namespace: &str, user: &ResourceClaimConsumerReference) -> Result<bool, ClientError> {
        let pod = match self.pods.get(namespace, &user.name) {
            Some(pod) => Some(pod),
            None => self.client.namespaced::<Pod>(namespace).get_opt(&user.name).await?.map(Arc::new),
        };
        Ok(pod.is_some_and(|pod| pod.uid() == user.uid && !plan::is_done(&pod)))
    }
}

fn ignore_gone<T>(result: Result<T, ClientError>) -> Result<(), ClientError> {
    match result {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}
