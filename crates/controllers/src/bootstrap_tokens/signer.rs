//! Signs `kube-public/cluster-info`, which anybody may read, with each bootstrap token that is meant for it: who holds a
//! token knows that the ConfigMap is of the token's cluster. Signatures are detached ones of RFC 7515.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use skiff_client::{After, Change, Client, ClientError, Kind, Selection, Store, WorkQueue, Workers};
use skiff_meta::WorldRef;
use skiff_meta::world::Task;

use super::{Left, left, tokens};
use crate::Context;

const NAMESPACE: &str = "kube-public";
const NAME: &str = "cluster-info";
const CONTENT: &str = "kubeconfig";
/// Before the token's id, in the key of a signature.
const PREFIX: &str = "jws-kubeconfig-";

struct Controller {
    client: Client,
    world: WorldRef,
    maps: Store<ConfigMap>,
    tokens: Store<Secret>,
}

/// Starts the signer.
pub(crate) fn start(context: &Context, client: Client) -> Vec<Task> {
    let selection = Selection { fields: format!("metadata.name={NAME}"), ..Selection::default() };
    let maps = context.informers.select::<ConfigMap>(NAMESPACE, selection);
    let tokens = tokens(context);
    let queue = WorkQueue::new(context.world.clone());
    let to_queue = queue.clone();
    maps.on(move |change: &Change<'_, ConfigMap>| to_queue.add((), change.trace));
    let to_queue = queue.clone();
    tokens.on(move |change: &Change<'_, Secret>| to_queue.add((), change.trace));
    let synced = vec![maps.synced(), tokens.synced()];
    let workers = Workers { world: context.world.clone(), name: "bootstrap-signer", count: 1, synced };
    let controller =
        Arc::new(Controller { client, world: context.world.clone(), maps: maps.store(), tokens: tokens.store() });
    workers.start(queue, move |()| {
        let controller = controller.clone();
        async move { controller.reconcile().await }
    })
}

impl Controller {
    async fn reconcile(&self) -> Result<After, ClientError> {
        let Some(map) = self.maps.get(NAMESPACE, NAME) else { return Ok(After::Change) };
        let Some(signed) = signed(&map, &self.tokens.list(), self.world.now()) else { return Ok(After::Change) };
        match self.client.namespaced::<ConfigMap>(NAMESPACE).update(&signed).await {
            Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
            _ => Ok(After::Change),
        }
    }
}

/// The ConfigMap with the signatures it is to have; `None`: it has them.
fn signed(map: &ConfigMap, tokens: &[impl AsRef<Secret>], now: Timestamp) -> Option<ConfigMap> {
    let content = map.data.as_ref()?.get(CONTENT)?;
    let mut data: BTreeMap<String, String> = map.data.clone()?;
    data.retain(|key, _| !key.starts_with(PREFIX));
    for (id, secret) in tokens.iter().filter_map(|token| signing(token.as_ref(), now)) {
        data.insert(format!("{PREFIX}{id}"), signature(content, &id, &secret));
    }
    (map.data.as_ref() != Some(&data)).then(|| ConfigMap { data: Some(data), ..map.clone() })
}

/// Id and secret of a token that is meant for signing and still good.
fn signing(token: &Secret, now: Timestamp) -> Option<(String, String)> {
    let field = |name: &str| {
        let value = token.data.as_ref()?.get(name)?;
        std::str::from_utf8(&value.0).ok().filter(|text| !text.is_empty())
    };
    let (id, secret) = (field("token-id")?, field("token-secret")?);
    let meant = field("usage-bootstrap-signing") == Some("true") && token.name() == format!("bootstrap-token-{id}");
    (meant && left(token, now) != Left::Nothing).then(|| (id.to_owned(), secret.to_owned()))
}

fn signature(content: &str, id: &str, secret: &str) -> String {
    let header = serde_json::json!({"alg": "HS256", "kid": id}).to_string();
    let (header, content) = (URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(content));
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
    let signature = ring::hmac::sign(&key, format!("{header}.{content}").as_bytes());
    format!("{header}..{}", URL_SAFE_NO_PAD.encode(signature))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn token(id: &str, change: Value) -> Arc<Secret> {
        let mut fields = json!({"token-id": id, "token-secret": "s3cret", "usage-bootstrap-signing": "true"});
        fields.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let data = fields.as_object().unwrap().iter();
        let data =
            data.map(|(key, value)| (key.clone(), k8s_openapi::ByteString(value.as_str().unwrap().into()))).collect();
        let metadata = serde_json::from_value(json!({"name": format!("bootstrap-token-{id}")})).unwrap();
        Arc::new(Secret { metadata, data: Some(data), ..Secret::default() })
    }

    /// As go-jose makes it.
    #[test]
    fn signatures() {
        let content = "Hello from the other side. I must have called a thousand times.";
        assert_eq!(
            signature(content, "joshua", "my voice is my passcode"),
            "eyJhbGciOiJIUzI1NiIsImtpZCI6Impvc2h1YSJ9..VShe2taLd-YTrmWuRkcL_8QTNDHYxQIEBsAYYiIj1_8"
        );
    }

    #[test]
    fn tokens_that_are_good_sign_and_others_do_not() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let data = json!({"kubeconfig": "x", "jws-kubeconfig-old": "y", "network": "vxlan"});
        let map: ConfigMap = serde_json::from_value(json!({ "data": data })).unwrap();
        let tokens = [
            token("a", json!({})),
            token("b", json!({"usage-bootstrap-signing": "false"})),
            token("c", json!({"expiration": "2025-01-01T00:00:00Z"})),
            token("d", json!({"token-id": "e"})),
            token("f", json!({"token-secret": ""})),
        ];
        let once = signed(&map, &tokens, now).unwrap();
        let keys: Vec<_> = once.data.as_ref().unwrap().keys().collect();
        assert_eq!(keys, ["jws-kubeconfig-a", "kubeconfig", "network"]);
        assert_eq!(signed(&once, &tokens, now), None);
        assert_eq!(signed(&ConfigMap::default(), &tokens, now), None);
    }
}
