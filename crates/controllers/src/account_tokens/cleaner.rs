//! Tokens that were made for accounts in older times, and that nobody has used for a year, are good no more, and go after
//! another one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, ServiceAccount};
use serde_json::json;
use skiff_client::{After, Client, ClientError, DeleteOptions, Kind, Patch, Store, WorkQueue, Workers};
use skiff_meta::WorldRef;
use skiff_meta::world::Task;

use super::plan::{self, INVALID_SINCE, Verdict};
use super::{account_of, secrets};
use crate::Context;

/// Says since when uses are known.
const TRACKING: &str = "kube-apiserver-legacy-service-account-token-tracking";
const PAUSE: Duration = Duration::from_secs(24 * 3_600);

struct Controller {
    client: Client,
    world: WorldRef,
    secrets: Store<Secret>,
    accounts: Store<ServiceAccount>,
    pods: Store<Pod>,
}

/// Starts the cleaner.
pub(crate) fn start(context: &Context, client: Client) -> Vec<Task> {
    let (secrets, pods) = (secrets(context), context.informers.all::<Pod>());
    let accounts = context.informers.all::<ServiceAccount>();
    let queue = WorkQueue::new(context.world.clone());
    queue.add((), None);
    let synced = vec![secrets.synced(), accounts.synced(), pods.synced()];
    let name = "legacy-service-account-token-cleaner";
    let workers = Workers { world: context.world.clone(), name, count: 1, synced };
    let controller = Arc::new(Controller {
        client,
        world: context.world.clone(),
        secrets: secrets.store(),
        accounts: accounts.store(),
        pods: pods.store(),
    });
    workers.start(queue, move |()| {
        let controller = controller.clone();
        async move { controller.clean().await.map(|()| After::Delay(PAUSE)) }
    })
}

impl Controller {
    async fn clean(&self) -> Result<(), ClientError> {
        let (secrets, now) = (self.secrets.list(), self.world.now());
        if secrets.is_empty() {
            return Ok(());
        }
        let tracking = self.client.namespaced::<ConfigMap>("kube-system").get_opt(TRACKING).await?;
        let since = tracking.and_then(|map| map.data?.remove("since")).unwrap_or_default();
        if !plan::known_for_long(&since, now) {
            return Ok(());
        }
        let mut mounted: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
        for secret in &secrets {
            let mounted = mounted.entry(secret.namespace()).or_insert_with_key(|namespace| {
                let mut names = BTreeSet::new();
                self.pods.in_namespace(namespace).iter().for_each(|pod| plan::secrets_of(pod, &mut names));
                names
            });
            let account = account_of(secret).and_then(|(key, uid)| {
                self.accounts.get_key(&key).filter(|account| uid.is_none_or(|uid| uid == account.uid()))
            });
            let api = self.client.namespaced::<Secret>(secret.namespace());
            let written = match plan::verdict(secret, account.as_deref(), mounted, now) {
                Verdict::Keep => Ok(()),
                Verdict::Mark(day) => {
                    let metadata = json!({"uid": secret.uid(), "labels": {INVALID_SINCE: day}});
                    api.patch(secret.name(), &Patch::Merge(json!({ "metadata": metadata }))).await.map(drop)
                }
                Verdict::Delete => {
                    let mut seen = DeleteOptions::uid(secret.uid());
                    if let Some(conditions) = &mut seen.preconditions {
                        conditions.resource_version = secret.metadata.resource_version.clone();
                    }
                    api.delete(secret.name(), &seen).await
                }
            };
            match written {
                Err(error) if !error.is_not_found() && !error.is_conflict() => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}
