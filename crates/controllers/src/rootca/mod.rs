//! The root CA publisher: every namespace has a ConfigMap with the authority that signs the API server's certificate, so
//! that pods can verify whom they talk to.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use skiff_client::{After, Change, Client, ClientError, Selection, Store, WorkQueue, Workers};
use skiff_meta::world::Task;

use crate::Context;
use crate::shared::{is_active_namespace, namespace_terminating};

const NAME: &str = "kube-root-ca.crt";
const DESCRIPTION: &str = "kubernetes.io/description";
const TEXT: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints \
                    such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across \
                    distributions of Kubernetes clusters.";

struct Controller {
    client: Client,
    namespaces: Store<Namespace>,
    maps: Store<ConfigMap>,
    data: BTreeMap<String, String>,
}

/// Starts the publisher; nothing is published where no authority is known.
pub(crate) fn start(context: &Context, client: Client) -> Vec<Task> {
    let Some(authority) = context.options.root_ca.clone() else { return Vec::new() };
    let namespaces = context.informers.all::<Namespace>();
    let selection = Selection { fields: format!("metadata.name={NAME}"), ..Selection::default() };
    let maps = context.informers.select::<ConfigMap>("", selection);
    let queue = WorkQueue::new(context.world.clone());
    let to_queue = queue.clone();
    namespaces.on(move |change: &Change<'_, Namespace>| to_queue.add(change.key().name, change.trace));
    let to_queue = queue.clone();
    maps.on(move |change: &Change<'_, ConfigMap>| to_queue.add(change.key().namespace, change.trace));
    let synced = vec![namespaces.synced(), maps.synced()];
    let workers = Workers { world: context.world.clone(), name: "root-ca-cert-publisher", count: 1, synced };
    let controller = Arc::new(Controller {
        client,
        namespaces: namespaces.store(),
        maps: maps.store(),
        data: [("ca.crt".to_owned(), authority)].into(),
    });
    workers.start(queue, move |namespace: String| {
        let controller = controller.clone();
        async move { controller.reconcile(&namespace).await }
    })
}

impl Controller {
    async fn reconcile(&self, namespace: &str) -> Result<After, ClientError> {
        if !self.namespaces.get("", namespace).is_some_and(|namespace| is_active_namespace(&namespace)) {
            return Ok(After::Change);
        }
        let api = self.client.namespaced::<ConfigMap>(namespace);
        let outcome = match self.maps.get(namespace, NAME) {
            None => api.create(&publish(None, &self.data)).await,
            Some(map) if is_published(&map, &self.data) => return Ok(After::Change),
            Some(map) => api.update(&publish(Some(&map), &self.data)).await,
        };
        match outcome {
            Err(error) if !error.is_not_found() && !namespace_terminating(&error) => Err(error),
            _ => Ok(After::Change),
        }
    }
}

fn is_published(map: &ConfigMap, data: &BTreeMap<String, String>) -> bool {
    let description = map.metadata.annotations.as_ref().and_then(|annotations| annotations.get(DESCRIPTION));
    map.data.as_ref() == Some(data) && description.is_some_and(|text| !text.is_empty())
}

fn publish(map: Option<&ConfigMap>, data: &BTreeMap<String, String>) -> ConfigMap {
    let metadata = ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() };
    let mut map = map.cloned().unwrap_or(ConfigMap { metadata, ..ConfigMap::default() });
    map.data = Some(data.clone());
    let annotations = map.metadata.annotations.get_or_insert_default();
    annotations.entry(DESCRIPTION.to_owned()).or_insert_with(|| TEXT.to_owned());
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tampering_is_undone() {
        let data = BTreeMap::from([("ca.crt".to_owned(), "PEM".to_owned())]);
        let published = publish(None, &data);
        assert!(is_published(&published, &data));
        let mut other = published.clone();
        other.data.get_or_insert_default().insert("more".into(), "x".into());
        assert!(!is_published(&other, &data));
        assert_eq!(publish(Some(&other), &data), published);
        other = published.clone();
        other.metadata.annotations = None;
        assert_eq!(publish(Some(&other), &data), published);
    }
}
