//! Service account tokens: checked, and made.
//!
//! A signature never changes, so it is checked once per token; that the account and the bound objects are still there is
//! looked up in the cache on every use, so that deleting them revokes the token at once.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::RwLock;
use skiff_meta::world::WorldRef;
use skiff_meta::{GroupResource, Object};

use super::claims::{Bindings, Claims, Named};
use crate::auth::names::{account_groups, account_user};
use crate::chain::{User, View};
use crate::pki::AccountKey;

/// Clocks differ, and deletions take a moment to settle.
const LEEWAY: i64 = 60;
/// Tokens whose signature is remembered.
const REMEMBERED: usize = 10_000;

/// Service account tokens of this cluster.
pub(crate) struct Accounts {
    pub(super) key: Arc<AccountKey>,
    pub(super) issuer: String,
    pub(super) world: WorldRef,
    view: Arc<dyn View>,
    known: RwLock<HashMap<String, Arc<Known>>>,
}

/// A token whose signature was good.
struct Known {
    claims: Claims,
    user: Arc<User>,
}

/// Who showed a token, and for which audiences it is good.
#[derive(Clone, Debug)]
pub(crate) struct Bearer {
    pub(crate) user: Arc<User>,
    pub(crate) audiences: Vec<String>,
}

/// Why a token is not good.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    /// Nobody here made it.
    #[error("invalid bearer token")]
    Unknown,
    /// Made here, but not, or no longer, good.
    #[error("[invalid bearer token, {0}]")]
    Refused(String),
}

impl Accounts {
    pub(crate) fn new(key: Arc<AccountKey>, issuer: String, view: Arc<dyn View>, world: WorldRef) -> Self {
        Self { key, issuer, world, view, known: RwLock::default() }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.world.now()
    }

    /// What the cluster has.
    pub(super) fn view(&self) -> &dyn View {
        &*self.view
    }

    /// The audience of the API server itself.
    pub(crate) fn audience(&self) -> &str {
        &self.issuer
    }

    /// Checks a token for one of `audiences`.
    pub(crate) async fn check(&self, token: &str, audiences: &[String]) -> Result<Bearer, TokenError> {
        let known = self.known(token)?;
        let now = self.world.now();
        check_times(&known.claims, now.as_second())?;
        let good: Vec<String> = audiences.iter().filter(|a| known.claims.aud.contains(a)).cloned().collect();
        if good.is_empty() {
            let (is, wanted) = (&known.claims.aud, audiences);
            return refused(format!("token audiences {is:?} is invalid for the target audiences {wanted:?}"));
        }
        if let Err(first) = self.check_alive(&known.claims.kubernetes, now) {
            // It may have been made a moment ago, and the cache not know it yet.
            let resources = ["serviceaccounts", "pods", "secrets", "nodes"].map(|r| GroupResource::new("", r));
            for resource in &resources {
                self.view.refresh(resource).await.map_err(|_| first.clone())?;
            }
            self.check_alive(&known.claims.kubernetes, now)?;
        }
        Ok(Bearer { user: known.user.clone(), audiences: good })
    }

    fn known(&self, token: &str) -> Result<Arc<Known>, TokenError> {
        if let Some(known) = self.known.read().get(token) {
            return Ok(known.clone());
        }
        let claims = self.key.verify(token).map_err(|_| TokenError::Unknown)?;
        let claims: Claims = serde_json::from_value(claims).map_err(|_| TokenError::Unknown)?;
        let account = &claims.kubernetes;
        if claims.iss != self.issuer || claims.sub != account_user(&account.namespace, &account.serviceaccount.name) {
            return Err(TokenError::Unknown);
        }
        let known = Arc::new(Known { user: Arc::new(user_of(&claims)), claims });
        let mut all = self.known.write();
        if all.len() >= REMEMBERED {
            all.clear();
        }
        all.insert(token.to_owned(), known.clone());
        Ok(known)
    }

    fn check_alive(&self, bound: &Bindings, now: Timestamp) -> Result<(), TokenError> {
        let namespace = &bound.namespace;
        let account = &bound.serviceaccount;
        let Some(found) = self.find("serviceaccounts", namespace, &account.name) else {
            return refused(format!("serviceaccounts {:?} not found", account.name));
        };
        if found.meta().uid != account.uid {
            return refused(format!(
                "service account UID ({}) does not match claim ({})",
                found.meta().uid,
                account.uid
            ));
        }
        if is_long_deleted(&found, now) {
            return refused(format!("service account {namespace}/{} has been deleted", account.name));
        }
        // A pod's token names its node for information only; the pod decides.
        let node = bound.node.as_ref().filter(|_| bound.pod.is_none());
        self.check_bound("secrets", "secret", namespace, bound.secret.as_ref(), now)?;
        self.check_bound("pods", "pod", namespace, bound.pod.as_ref(), now)?;
        self.check_bound("nodes", "node", "", node, now)
    }

    fn check_bound(
        &self,
        resource: &str,
        kind: &str,
        namespace: &str,
        bound: Option<&Named>,
        now: Timestamp,
    ) -> Result<(), TokenError> {
        let Some(bound) = bound else { return Ok(()) };
        let Some(found) = self.find(resource, namespace, &bound.name) else {
            return refused("service account token has been invalidated".to_owned());
        };
        if found.meta().uid != bound.uid {
            let (is, claimed) = (&found.meta().uid, &bound.uid);
            let shown = if kind == "pod" { "Pod" } else { kind };
            return refused(format!("{shown} UID ({is}) does not match service account {kind} ref claim ({claimed})"));
        }
        if is_long_deleted(&found, now) {
            return refused("service account token has been invalidated".to_owned());
        }
        Ok(())
    }

    fn find(&self, resource: &str, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.view.get(&GroupResource::new("", resource), namespace, name)
    }
}

fn refused<T>(why: String) -> Result<T, TokenError> {
    Err(TokenError::Refused(why))
}

fn check_times(claims: &Claims, now: i64) -> Result<(), TokenError> {
    let faults = [
        (now > claims.exp + LEEWAY, "service account token has expired"),
        (now + LEEWAY < claims.nbf, "service account token is not valid yet"),
        (now + LEEWAY < claims.iat, "service account token is issued in the future"),
    ];
    match faults.iter().find(|(is, _)| *is) {
        Some((_, why)) => refused((*why).to_owned()),
        None => Ok(()),
    }
}

fn is_long_deleted(object: &Object, now: Timestamp) -> bool {
    let deleted = object.meta().deletion_timestamp.as_deref().and_then(|t| t.parse::<Timestamp>().ok());
    deleted.is_some_and(|deleted| deleted.as_second() < now.as_second() - LEEWAY)
}

fn user_of(claims: &Claims) -> User {
    let bound = &claims.kubernetes;
    let mut extra = BTreeMap::new();
    let mut tell = |key: &str, value: &str| {
        if !value.is_empty() {
            extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]);
        }
    };
    if let Some(pod) = &bound.pod {
        tell("pod-name", &pod.name);
        tell("pod-uid", &pod.uid);
    }
    if let Some(node) = &bound.node {
        tell("node-name", &node.name);
        tell("node-uid", &node.uid);
    }
    if !claims.jti.is_empty() {
        tell("credential-id", &format!("JTI={}", claims.jti));
    }
    User {
        name: claims.sub.clone(),
        uid: bound.serviceaccount.uid.clone(),
        groups: account_groups(&bound.namespace),
        extra,
    }
}
