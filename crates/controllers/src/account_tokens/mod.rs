//! Secrets of type `kubernetes.io/service-account-token`: filled with a token of the account they name, and gone with it.
//! Such tokens have no end; whoever can asks for one with an end instead, but people and their pipelines like these.

pub(crate) mod cleaner;
mod plan;

use std::sync::Arc;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use serde_json::json;
use skiff_client::{
    After, Change, Client, ClientError, DeleteOptions, Index, Informer, Key, Kind, Selection, Store, WorkQueue, Workers,
};
use skiff_meta::world::Task;

use crate::{Context, TokenSigner};
use plan::account_of;

const TYPE: &str = "kubernetes.io/service-account-token";
/// Who says that he made the tokens.
const ISSUER: &str = "kubernetes/serviceaccount";

struct Controller {
    client: Client,
    secrets: Store<Secret>,
    accounts: Store<ServiceAccount>,
    signer: Arc<dyn TokenSigner>,
    authority: Option<ByteString>,
}

/// All Secrets of the type.
fn secrets(context: &Context) -> Informer<Secret> {
    let selection = Selection { fields: format!("type={TYPE}"), ..Selection::default() };
    context.informers.select::<Secret>("", selection)
}

/// Starts the controller, where there is a key to sign with.
pub(crate) fn start(context: &Context, client: Client) -> Vec<Task> {
    let Some(signer) = context.options.token_signer.clone() else { return Vec::new() };
    let (secrets, accounts) = (secrets(context), context.informers.all::<ServiceAccount>());
    let by_account: Index<Secret> =
        secrets.index(|secret| account_of(secret).map(|(key, _)| key.to_string()).into_iter().collect());
    let queue: WorkQueue<Key> = WorkQueue::new(context.world.clone());
    let to_queue = queue.clone();
    secrets.on(move |change: &Change<'_, Secret>| to_queue.add(change.key(), change.trace));
    let to_queue = queue.clone();
    accounts.on(move |change: &Change<'_, ServiceAccount>| {
        let uid = |account: Option<&Arc<ServiceAccount>>| account.map(|account| account.uid().to_owned());
        if uid(change.old) != uid(change.new) {
            let secrets = by_account.get(&change.key().to_string());
            secrets.iter().for_each(|secret| to_queue.add(Key::of(&**secret), change.trace));
        }
    });
    let synced = vec![secrets.synced(), accounts.synced()];
    let workers = Workers { world: context.world.clone(), name: "tokens-controller", count: 1, synced };
    let controller = Arc::new(Controller {
        client,
        secrets: secrets.store(),
        accounts: accounts.store(),
        signer,
        authority: context.options.root_ca.as_ref().map(|pem| ByteString(pem.clone().into_bytes())),
    });
    workers.start(queue, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    })
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<After, ClientError> {
        let written = match self.secrets.get_key(key) {
            None => self.forget(key).await,
            Some(secret) if secret.deleting() => return Ok(After::Change),
            Some(secret) => self.fill(&secret).await,
        };
        match written {
            // The change that was faster wakes us again.
            Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
            _ => Ok(After::Change),
        }
    }

    async fn fill(&self, secret: &Secret) -> Result<(), ClientError> {
        let Some((key, uid)) = account_of(secret) else { return Ok(()) };
        let api = self.client.namespaced::<Secret>(secret.namespace());
        let is_its = |account: &ServiceAccount| uid.is_none_or(|uid| uid == account.uid());
        let mut account = self.accounts.get_key(&key).filter(|account| is_its(account));
        if account.is_none() {
            // It may be new, and what is deleted here does not come back.
            let found = self.client.namespaced::<ServiceAccount>(&key.namespace).get_opt(&key.name).await?;
            account = found.filter(is_its).map(Arc::new);
        }
        let Some(account) = account else {
            return api.delete(secret.name(), &DeleteOptions::uid(secret.uid())).await;
        };
        let sign = || {
            self.signer.sign(&json!({
                "iss": ISSUER,
                "kubernetes.io/serviceaccount/namespace": account.namespace(),
                "kubernetes.io/serviceaccount/secret.name": secret.name(),
                "kubernetes.io/serviceaccount/service-account.name": account.name(),
                "kubernetes.io/serviceaccount/service-account.uid": account.uid(),
                "sub": format!("system:serviceaccount:{}:{}", account.namespace(), account.name()),
            }))
        };
        match plan::filled(secret, &account, self.authority.as_ref(), sign) {
            Some(filled) => api.update(&filled).await.map(drop),
            None => Ok(()),
        }
    }

    /// A Secret that is gone is no longer among those of an account.
    async fn forget(&self, key: &Key) -> Result<(), ClientError> {
        for account in self.accounts.in_namespace(&key.namespace) {
            if account.secrets.iter().flatten().any(|secret| secret.name.as_ref() == Some(&key.name)) {
                let mut account = (*account).clone();
                account.secrets.get_or_insert_default().retain(|secret| secret.name.as_ref() != Some(&key.name));
                self.client.namespaced::<ServiceAccount>(&key.namespace).update(&account).await?;
            }
        }
        Ok(())
    }
}
