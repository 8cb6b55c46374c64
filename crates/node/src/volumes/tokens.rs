//! Tokens of service accounts for pods: asked for when a pod starts, and again before they expire.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount, ServiceAccountTokenProjection, Volume};
use k8s_openapi::api::storage::v1::TokenRequest as TokenRequestOfDriver;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

use super::VolumeError;
use crate::node::Node;
use crate::pod::facts;

/// Where nothing is said, a token lives this long.
const LIFETIME: i64 = 3600;
/// However long it lives, a token is renewed after a day.
const LONGEST_USE: Duration = Duration::from_secs(24 * 3600);
/// How long a driver that wants to show its volumes again and again waits in between, or one whose volumes grow; and a
/// renewal that failed.
const AGAIN: Duration = Duration::from_secs(60);

/// The tokens of one pod.
#[derive(Default)]
pub(crate) struct Tokens {
    known: BTreeMap<(String, i64), Token>,
    /// When volumes of drivers are looked at again.
    again: Option<Timestamp>,
}

struct Token {
    text: String,
    expires: Timestamp,
    renew_at: Timestamp,
}

fn key(token: &ServiceAccountTokenProjection) -> (String, i64) {
    (token.audience.clone().unwrap_or_default(), token.expiration_seconds.unwrap_or(LIFETIME))
}

impl Tokens {
    /// The text of a token that was fetched.
    pub(super) fn get(&self, token: &ServiceAccountTokenProjection) -> Option<&str> {
        self.known.get(&key(token)).map(|token| token.text.as_str())
    }

    /// When the first of them has to be renewed.
    pub(crate) fn renew_at(&self) -> Option<Timestamp> {
        self.known.values().map(|token| token.renew_at).chain(self.again).min()
    }

    /// Volumes of drivers that want to show them again and again, or that may grow, are looked at again after a while.
    pub(crate) fn look_again(&mut self, node: &Node) {
        self.again = node.world.now().checked_add(AGAIN).ok();
    }

    /// The tokens that a driver asks for, in the form in which drivers are told of them. They are kept and renewed where
    /// the driver is told `again`.
    pub(crate) async fn for_driver(
        &mut self,
        node: &Node,
        pod: &Pod,
        requests: &[TokenRequestOfDriver],
        again: bool,
    ) -> Result<String, skiff_client::ClientError> {
        let mut told = serde_json::Map::new();
        for wanted in requests {
            let projection = ServiceAccountTokenProjection {
                audience: Some(wanted.audience.clone()),
                expiration_seconds: wanted.expiration_seconds,
                ..ServiceAccountTokenProjection::default()
            };
            let (now, key) = (node.world.now(), key(&projection));
            let known = self.known.get(&key).filter(|known| known.renew_at > now);
            let (text, expires) = match known {
                Some(known) => (known.text.clone(), known.expires),
                None => {
                    let fresh = request(node, pod, &projection, now).await?;
                    let told = (fresh.text.clone(), fresh.expires);
                    if again {
                        self.known.insert(key, fresh);
                    }
                    told
                }
            };
            let token = json!({"token": text, "expirationTimestamp": Time(expires)});
            told.insert(wanted.audience.clone(), token);
        }
        Ok(serde_json::Value::Object(told).to_string())
    }

    /// Fetches the tokens that a volume wants and that are not here, or not for much longer.
    pub(super) async fn fetch(&mut self, node: &Node, pod: &Pod, volume: &Volume) -> Result<(), VolumeError> {
        let sources = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
        for token in sources.filter_map(|source| source.service_account_token.as_ref()) {
            let now = node.world.now();
            if self.known.get(&key(token)).is_some_and(|known| known.renew_at > now) {
                continue;
            }
            match request(node, pod, token, now).await {
                Ok(fresh) => drop(self.known.insert(key(token), fresh)),
                Err(source) => match self.known.get_mut(&key(token)) {
                    // The old one may still be good for a while.
                    Some(known) => {
                        tracing::warn!(pod = facts::described(pod), "token was not renewed: {source}");
                        known.renew_at = now.checked_add(AGAIN).unwrap_or(now);
                    }
                    None => return Err(VolumeError::Token { volume: volume.name.clone(), source }),
                },
            }
        }
        Ok(())
    }
}

async fn request(
    node: &Node,
    pod: &Pod,
    token: &ServiceAccountTokenProjection,
    now: Timestamp,
) -> Result<Token, skiff_client::ClientError> {
    let (audience, seconds) = key(token);
    let body = TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: Some(vec![audience]).filter(|audiences| !audiences[0].is_empty()),
            expiration_seconds: Some(seconds),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: pod.metadata.name.clone(),
                uid: pod.metadata.uid.clone(),
            }),
        }),
        ..TokenRequest::default()
    };
    let account = facts::spec(pod).service_account_name.as_deref().unwrap_or("default");
    let api = node.client.namespaced::<ServiceAccount>(facts::namespace(pod));
    let answer: TokenRequest = api.create_subresource(account, "token", &body).await?;
    let status = answer.status.unwrap_or_default();
    let expires = status.expiration_timestamp.map_or(now, |time| time.0);
    Ok(Token { text: status.token.unwrap_or_default(), expires, renew_at: renewal(now, expires) })
}

/// After four fifths of its life, and after a day at the latest.
fn renewal(now: Timestamp, expires: Timestamp) -> Timestamp {
    let life = Duration::try_from(expires.duration_since(now)).unwrap_or_default();
    now.checked_add((life * 4 / 5).min(LONGEST_USE)).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_renewed_in_time() {
        let at = |second| Timestamp::from_second(second).expect("in range");
        assert_eq!(renewal(at(0), at(1000)), at(800));
        assert_eq!(renewal(at(0), at(10 * 24 * 3600)), at(24 * 3600));
        assert_eq!(renewal(at(10), at(5)), at(10));
    }
}
