//! Which service account tokens of old are still in use: noted on their Secrets, and since when that is so in the ConfigMap
//! by which the controller that clears them away goes (upstream: `pkg/controlplane/controller/legacytokentracking`).

use std::sync::{Arc, Weak};

use http::Method;
use serde_json::json;
use skiff_meta::GroupResource;
use skiff_meta::world::Task;
use tokio::sync::mpsc::Receiver;

use crate::api::Api;
use crate::auth::{LegacyUse, legacy};
use crate::bootstrap::{merge, send};
use crate::error::ServerError;

const CONFIG_MAPS: &str = "/api/v1/namespaces/kube-system/configmaps";
const NAME: &str = "kube-apiserver-legacy-service-account-token-tracking";

/// Says since when uses are noted, the first time.
pub(crate) async fn declare(api: &Arc<Api>) -> Result<(), ServerError> {
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": NAME, "namespace": "kube-system"},
        "data": {"since": legacy::day(api.world.now())},
    });
    match send(api, Method::POST, CONFIG_MAPS, &map).await {
        Err(status) if !status.is("AlreadyExists") => {
            Err(ServerError::Bootstrap { what: format!("ConfigMap {NAME}"), status })
        }
        _ => Ok(()),
    }
}

/// Starts noting.
pub(crate) fn start(api: &Arc<Api>) -> Option<Task> {
    let uses = api.chain.legacy_uses.lock().take()?;
    Some(api.world.spawn("token-uses", Box::pin(note(Arc::downgrade(api), uses))))
}

async fn note(api: Weak<Api>, mut uses: Receiver<LegacyUse>) {
    while let Some((namespace, name)) = uses.recv().await {
        let Some(api) = api.upgrade() else { return };
        let secret = api.view.get(&GroupResource::new("", "secrets"), &namespace, &name);
        let now = api.world.now();
        let Some(secret) = secret.filter(|secret| legacy::is_news(secret, now)) else { continue };
        let labels = json!({ legacy::LAST_USED: legacy::day(now) });
        let patch = json!({"metadata": {"uid": secret.meta().uid, "labels": labels}});
        let uri = format!("/api/v1/namespaces/{namespace}/secrets/{name}");
        if let Err(status) = merge(&api, &uri, &patch).await {
            tracing::warn!(%namespace, %name, "the use of a token is not noted: {}", status.message);
        }
    }
}
