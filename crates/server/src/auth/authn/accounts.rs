//! Service account tokens: checked, and made.
//!
//! A signature never changes, so it is checked once per token; that the account and the bound objects are still there is
//! looked up in the cache on every use, so that deleting them revokes the token at once.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::{Mutex, RwLock};
use serde::Deserialize;
use serde_json::Value;
use skiff_meta::world::WorldRef;
use skiff_meta::{GroupResource, Object};
use tokio::sync::mpsc;

use super::claims::{Bindings, Claims, Named};
use super::legacy::{self, LegacyClaims};
use crate::auth::names::{account_groups, account_user};
use crate::chain::{User, View};
use crate::pki::AccountKey;

/// Clocks differ, and deletions take a moment to settle.
const LEEWAY: i64 = 60;
/// Tokens whose signature is remembered.
const REMEMBERED: usize = 10_000;
/// Uses of old tokens that wait to be noted.
const UNNOTED: usize = 64;

/// Service account tokens of this cluster.
pub(crate) struct Accounts {
    pub(super) key: Arc<AccountKey>,
    pub(super) issuer: String,
    pub(super) world: WorldRef,
    view: Arc<dyn View>,
    known: RwLock<HashMap<String, Arc<Known>>>,
    uses: (mpsc::Sender<LegacyUse>, Mutex<Option<mpsc::Receiver<LegacyUse>>>),
}

/// A Secret, by namespace and name, whose token was used for the first time this day.
pub(crate) type LegacyUse = (String, String);

/// A token whose signature was good.
struct Known {
    claims: Said,
    user: Arc<User>,
}

/// What a token says.
enum Said {
    Now(Claims),
    Legacy(LegacyClaims),
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
        let (use_, uses) = mpsc::channel(UNNOTED);
        Self { key, issuer, world, view, known: RwLock::default(), uses: (use_, Mutex::new(Some(uses))) }
    }

    /// Uses of tokens from Secrets, for whoever asks first.
    pub(crate) fn legacy_uses(&self) -> Option<mpsc::Receiver<LegacyUse>> {
        self.uses.1.lock().take()
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
        let own = [self.issuer.clone()];
        let is = match &known.claims {
            Said::Now(claims) => {
                check_times(claims, now.as_second())?;
                &claims.aud
            }
            // They name nobody and are for the API.
            Said::Legacy(_) => &own[..],
        };
        let good: Vec<String> = audiences.iter().filter(|a| is.contains(a)).cloned().collect();
        if good.is_empty() {
            return refused(format!("token audiences {is:?} is invalid for the target audiences {audiences:?}"));
        }
        let alive = || match &known.claims {
            Said::Now(claims) => self.check_alive(&claims.kubernetes, now),
            Said::Legacy(claims) => self.check_legacy(claims, token, now),
        };
        if let Err(first) = alive() {
            // It may have been made a moment ago, and the cache not know it yet.
            let resources = ["serviceaccounts", "pods", "secrets", "nodes"].map(|r| GroupResource::new("", r));
            for resource in &resources {
                self.view.refresh(resource).await.map_err(|_| first.clone())?;
            }
            alive()?;
        }
        Ok(Bearer { user: known.user.clone(), audiences: good })
    }

    fn known(&self, token: &str) -> Result<Arc<Known>, TokenError> {
        if let Some(known) = self.known.read().get(token) {
            return Ok(known.clone());
        }
        let claims = self.key.verify(token).map_err(|_| TokenError::Unknown)?;
        let known = Arc::new(self.read(claims).ok_or(TokenError::Unknown)?);
        let mut all = self.known.write();
        if all.len() >= REMEMBERED {
            all.clear();
        }
        all.insert(token.to_owned(), known.clone());
        Ok(known)
    }

    fn read(&self, claims: Value) -> Option<Known> {
        if claims["iss"] == legacy::ISSUER {
            let claims = LegacyClaims::deserialize(claims).ok().filter(LegacyClaims::agree)?;
            let user = User {
                name: claims.sub.clone(),
                uid: claims.uid.clone(),
                groups: account_groups(&claims.namespace),
                extra: BTreeMap::new(),
            };
            return Some(Known { user: Arc::new(user), claims: Said::Legacy(claims) });
        }
        let claims = Claims::deserialize(claims).ok()?;
        let account = &claims.kubernetes;
        let user = account_user(&account.namespace, &account.serviceaccount.name);
        let ours = claims.iss == self.issuer && claims.sub == user;
        ours.then(|| Known { user: Arc::new(user_of(&claims)), claims: Said::Now(claims) })
    }

    fn check_legacy(&self, claims: &LegacyClaims, token: &str, now: Timestamp) -> Result<(), TokenError> {
        let Some(secret) = self.find("secrets", &claims.namespace, &claims.secret) else {
            return refused(legacy::GONE.to_owned());
        };
        if let Some(why) = legacy::mismatch(token, &secret) {
            return refused(why.to_owned());
        }
        let account = Named { name: claims.account.clone(), uid: claims.uid.clone() };
        self.check_account(&claims.namespace, &account, now)?;
        if legacy::is_news(&secret, now) {
            // Where there are too many, the next request tells it again.
            let _ = self.uses.0.try_send((claims.namespace.clone(), claims.secret.clone()));
        }
        claims.invalid(&secret).map_or(Ok(()), refused)
    }

    fn check_alive(&self, bound: &Bindings, now: Timestamp) -> Result<(), TokenError> {
        let namespace = &bound.namespace;
        self.check_account(namespace, &bound.serviceaccount, now)?;
        // A pod's token names its node for information only; the pod decides.
        let node = bound.node.as_ref().filter(|_| bound.pod.is_none());
        self.check_bound("secrets", "secret", namespace, bound.secret.as_ref(), now)?;
        self.check_bound("pods", "pod", namespace, bound.pod.as_ref(), now)?;
        self.check_bound("nodes", "node", "", node, now)
    }

    fn check_account(&self, namespace: &str, account: &Named, now: Timestamp) -> Result<(), TokenError> {
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
        Ok(())
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
