//! Tokens of old: without an end, kept in Secrets of type `kubernetes.io/service-account-token`, and good as long as
//! these say the same. When one was used last is noted on its Secret, so that what nobody uses can go
//! (upstream: `pkg/serviceaccount/legacy.go`).

use jiff::{Timestamp, ToSpan};
use k8s_openapi::api::core::v1::Secret;
use serde::Deserialize;
use skiff_meta::Object;

use crate::auth::names::account_user;

/// Who says that he made them.
pub(super) const ISSUER: &str = "kubernetes/serviceaccount";
/// The day on which a token was used last.
pub(crate) const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
/// Since when a token is good no more.
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";

/// What is told of a token whose Secret is not there, or goes.
pub(super) const GONE: &str = "Token has been invalidated";

/// What such a token says.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(super) struct LegacyClaims {
    pub(super) sub: String,
    #[serde(rename = "kubernetes.io/serviceaccount/namespace")]
    pub(super) namespace: String,
    #[serde(rename = "kubernetes.io/serviceaccount/secret.name")]
    pub(super) secret: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.name")]
    pub(super) account: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.uid")]
    pub(super) uid: String,
}

impl LegacyClaims {
    /// Whether they are complete and agree with one another.
    pub(super) fn agree(&self) -> bool {
        let all = [&self.namespace, &self.secret, &self.account, &self.uid];
        all.iter().all(|claim| !claim.is_empty()) && self.sub == account_user(&self.namespace, &self.account)
    }

    /// Why the token is good no more, as a label of its Secret says.
    pub(super) fn invalid(&self, secret: &Object) -> Option<String> {
        let invalid = secret.meta().labels.get(INVALID_SINCE).is_some_and(|since| !since.is_empty());
        let (namespace, name, account) = (&self.namespace, &self.secret, &self.account);
        invalid.then(|| {
            format!(
                "the token in secret {namespace}/{name} for service account {namespace}/{account} has been marked \
                 invalid. Use tokens from the TokenRequest API or manually created secret-based tokens, or remove the \
                 '{INVALID_SINCE}' label from the secret to temporarily allow use of this token"
            )
        })
    }
}

/// Why a token is not that of its Secret.
pub(super) fn mismatch(token: &str, secret: &Object) -> Option<&'static str> {
    if secret.meta().deletion_timestamp.is_some() {
        return Some(GONE);
    }
    let typed = secret.typed::<Secret>().ok();
    let copy = typed.as_ref().and_then(|secret| secret.data.as_ref()?.get("token"));
    copy.is_none_or(|copy| copy.0 != token.as_bytes()).then_some("Token does not match server's copy")
}

/// The day, as labels and the tracking ConfigMap name it.
pub(crate) fn day(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d").to_string()
}

/// Whether a use now is still to be noted; servers' clocks differ, so that another may be a day ahead.
pub(crate) fn is_news(secret: &Object, now: Timestamp) -> bool {
    let said = secret.meta().labels.get(LAST_USED);
    let tomorrow = now.checked_add(24.hours()).unwrap_or(now);
    said.is_none_or(|said| *said != day(now) && *said != day(tomorrow))
}
