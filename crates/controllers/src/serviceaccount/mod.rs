//! Service accounts: every active namespace has the one called `default`, under which pods run that name none.

use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use skiff_client::{After, Change, Client, ClientError, Key, Store, WorkQueue, Workers};
use skiff_meta::world::Task;

use crate::Context;
use crate::shared::{is_active_namespace, namespace_terminating};

const NAME: &str = "default";

/// Starts the service account controller.
pub(crate) fn start(context: &Context, client: Client) -> Vec<Task> {
    let namespaces = context.informers.all::<Namespace>();
    let accounts = context.informers.all::<ServiceAccount>();
    let queue = WorkQueue::new(context.world.clone());
    let to_queue = queue.clone();
    namespaces.on(move |change: &Change<'_, Namespace>| to_queue.add(change.key().name, change.trace));
    let to_queue = queue.clone();
    accounts.on(move |change: &Change<'_, ServiceAccount>| {
        if change.new.is_none() {
            to_queue.add(change.key().namespace, change.trace);
        }
    });
    let synced = vec![namespaces.synced(), accounts.synced()];
    let workers = Workers { world: context.world.clone(), name: "service-account-controller", count: 1, synced };
    let (namespaces, accounts) = (namespaces.store(), accounts.store());
    workers.start(queue, move |namespace: String| {
        let (client, namespaces, accounts) = (client.clone(), namespaces.clone(), accounts.clone());
        async move { reconcile(&client, &namespaces, &accounts, &namespace).await }
    })
}

async fn reconcile(
    client: &Client,
    namespaces: &Store<Namespace>,
    accounts: &Store<ServiceAccount>,
    namespace: &str,
) -> Result<After, ClientError> {
    let active = namespaces.get("", namespace).is_some_and(|namespace| is_active_namespace(&namespace));
    if !active || accounts.get_key(&Key::new(namespace, NAME)).is_some() {
        return Ok(After::Change);
    }
    let metadata = ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() };
    let account = ServiceAccount { metadata, ..ServiceAccount::default() };
    match client.namespaced::<ServiceAccount>(namespace).create(&account).await {
        Err(error) if !error.is_already_exists() && !namespace_terminating(&error) => Err(error),
        _ => Ok(After::Change),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Fake;
    use serde_json::json;

    #[tokio::test]
    async fn active_namespaces_get_an_account_again_and_again() {
        let fake = Fake::new();
        let context = fake.context();
        let _tasks = start(&context, fake.client());
        fake.put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"},
            "status": {"phase": "Active"}}));
        fake.put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "b"},
            "status": {"phase": "Terminating"}}));
        let accounts = || fake.names("serviceaccounts");
        fake.eventually(|| accounts() == ["a/default"]).await;
        fake.remove("serviceaccounts", "a", "default");
        fake.eventually(|| accounts() == ["a/default"]).await;
        assert_eq!(fake.written(), ["POST serviceaccounts a/default", "POST serviceaccounts a/default"]);
    }
}
