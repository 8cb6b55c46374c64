//! Tokens of other issuers (OpenID Connect): their keys are found by discovery, their claims mapped to users.

mod config;
mod keys;
mod mapping;

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt;
use serde_json::Value;
use skiff_client::Backend;
use skiff_client::config::Remote;
use skiff_client::http::HttpBackend;
use skiff_meta::WorldRef;
use skiff_meta::world::WorldExt;

use super::{TokenError, with_authenticated};
use crate::chain::User;
pub(crate) use config::{Anonymous, Jwt};
pub use config::{AuthenticationConfig, AuthenticationError, Oidc};
use keys::Key;

/// How long an issuer may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Keys are not asked for more often than this, whatever tokens name.
const PAUSE: Duration = Duration::from_secs(10);
/// The largest document taken from an issuer.
const MAX_DOCUMENT: usize = 1 << 20;
/// Clocks differ.
const LEEWAY: i64 = 300;

/// Believes one issuer.
pub(crate) struct Issuer {
    config: Arc<Jwt>,
    world: WorldRef,
    keys: tokio::sync::Mutex<Keys>,
}

#[derive(Default)]
struct Keys {
    known: Arc<Vec<Key>>,
    asked: Option<Duration>,
}

/// A token taken apart, not yet believed.
struct Parts<'a> {
    header: Value,
    claims: Value,
    signed: &'a str,
    signature: Vec<u8>,
}

impl<'a> Parts<'a> {
    fn new(token: &'a str) -> Option<Self> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let bytes = |part: &str| URL_SAFE_NO_PAD.decode(part).ok();
        let json = |part: &str| serde_json::from_slice(&bytes(part)?).ok();
        Some(Self { header: json(header)?, claims: json(claims)?, signed, signature: bytes(signature)? })
    }
}

fn refused<T>(why: impl Into<String>) -> Result<T, TokenError> {
    Err(TokenError::Refused(why.into()))
}

impl Issuer {
    pub(crate) fn new(config: Arc<Jwt>, world: WorldRef) -> Self {
        Self { config, world, keys: tokio::sync::Mutex::default() }
    }

    /// Whether a token says that it is this issuer's.
    pub(super) fn made(&self, token: &str) -> bool {
        Parts::new(token).is_some_and(|parts| parts.claims["iss"] == self.config.issuer.url.as_str())
    }

    /// The user behind a token.
    pub(super) async fn check(&self, token: &str) -> Result<Arc<User>, TokenError> {
        let parts = Parts::new(token).ok_or(TokenError::Unknown)?;
        if !self.is_signed(&parts, false).await? && !self.is_signed(&parts, true).await? {
            return refused("oidc: verify token: failed to verify signature");
        }
        self.check_times(&parts.claims)?;
        let claims = self.user(&parts.claims).and_then(|user| {
            self.check_claims(&parts.claims)?;
            self.config.mapper.check_user(&user).map(|()| user)
        });
        claims.map(|user| Arc::new(with_authenticated(user))).map_err(TokenError::Refused)
    }

    async fn is_signed(&self, parts: &Parts<'_>, anew: bool) -> Result<bool, TokenError> {
        let keys = self.keys(anew).await?;
        let algorithm = parts.header["alg"].as_str().unwrap_or_default();
        let id = parts.header.get("kid").and_then(Value::as_str);
        let good = |key: &Key| key.is(id) && key.verifies(algorithm, parts.signed.as_bytes(), &parts.signature);
        Ok(keys.iter().any(good))
    }

    /// The issuer's keys: those known, or what it publishes now.
    async fn keys(&self, anew: bool) -> Result<Arc<Vec<Key>>, TokenError> {
        let mut keys = self.keys.lock().await;
        let now = self.world.elapsed();
        let waiting = keys.asked.is_some_and(|asked| now < asked + PAUSE);
        if waiting || (!anew && !keys.known.is_empty()) {
            return Ok(keys.known.clone());
        }
        keys.asked = Some(now);
        let issuer = &self.config.issuer;
        let fetched = self.discover();
        match self.world.timeout(PATIENCE, fetched).await.unwrap_or_else(|| Err("it does not answer".to_owned())) {
            Ok(set) => keys.known = Arc::new(keys::read(&set)),
            Err(why) => {
                tracing::warn!(issuer = %issuer.url, "its keys cannot be had: {why}");
                if keys.known.is_empty() {
                    return refused(format!("oidc: authenticator for issuer {:?} is not initialized", issuer.url));
                }
            }
        }
        Ok(keys.known.clone())
    }

    /// The keys that the issuer publishes.
    async fn discover(&self) -> Result<Value, String> {
        let issuer = &self.config.issuer;
        let place = match &*issuer.discovery_url {
            "" => format!("{}/.well-known/openid-configuration", issuer.url.trim_end_matches('/')),
            place => place.to_owned(),
        };
        let document = self.fetch(&place).await?;
        if document["issuer"] != issuer.url.as_str() {
            return Err(format!("it says it is {}", document["issuer"]));
        }
        let place = document["jwks_uri"].as_str().filter(|place| place.starts_with("https://"));
        self.fetch(place.ok_or_else(|| "it has no jwks_uri over HTTPS".to_owned())?).await
    }

    async fn fetch(&self, url: &str) -> Result<Value, String> {
        let uri: http::Uri = url.parse().map_err(|_| format!("{url} is no address"))?;
        let authority = uri.authority().ok_or_else(|| format!("{url} is no address"))?;
        let remote = Remote {
            server: format!("https://{authority}"),
            certificate_authority: self.config.issuer.certificate_authority.clone().into_bytes(),
            ..Remote::default()
        };
        let backend = HttpBackend::new(remote, self.world.clone(), "kube-apiserver").map_err(|e| e.to_string())?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let request = Request::get(path).body(Bytes::new()).map_err(|e| e.to_string())?;
        let answer = backend.send(request).await.map_err(|e| e.to_string())?;
        if !answer.status().is_success() {
            return Err(format!("{url} answers {}", answer.status()));
        }
        let mut body = answer.into_body();
        let mut document = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| e.to_string())?;
            document.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
            if document.len() > MAX_DOCUMENT {
                return Err(format!("{url} does not end"));
            }
        }
        serde_json::from_slice(&document).map_err(|e| format!("{url}: {e}"))
    }

    fn check_times(&self, claims: &Value) -> Result<(), TokenError> {
        let now = self.world.now().as_second();
        let time = |name: &str| claims.get(name).and_then(Value::as_f64).map(|time| time as i64);
        if time("exp").is_none_or(|end| end <= now) {
            return refused("oidc: verify token: token is expired");
        }
        if time("nbf").is_some_and(|begin| begin > now + LEEWAY) {
            return refused("oidc: verify token: token is not valid yet");
        }
        let audiences = texts(&claims["aud"]);
        if !self.config.issuer.audiences.iter().any(|wanted| audiences.contains(&wanted.as_str())) {
            let wanted = &self.config.issuer.audiences;
            return refused(format!("oidc: verify token: oidc: expected audience in {wanted:?} got {audiences:?}"));
        }
        Ok(())
    }

    fn check_claims(&self, claims: &Value) -> Result<(), String> {
        for rule in self.config.rules.iter().filter(|rule| !rule.claim.is_empty()) {
            let Some(found) = claims.get(&rule.claim) else {
                return Err(format!("oidc: required claim {} not present in ID token", rule.claim));
            };
            if found.as_str() != Some(&rule.required_value) {
                return Err(format!("oidc: required claim {} value does not match", rule.claim));
            }
        }
        self.config.mapper.check_claims(claims)
    }

    fn user(&self, claims: &Value) -> Result<User, String> {
        let Jwt { mappings, mapper, .. } = &*self.config;
        let uid = match (&mapper.uid, &*mappings.uid.claim) {
            (Some(program), _) => mapper.text(program, "uid", claims)?,
            (None, "") => String::new(),
            (None, claim) => {
                let uid = claims.get(claim).and_then(Value::as_str).map(str::to_owned);
                uid.ok_or_else(|| format!("oidc: parse uid claim {claim:?}: claim not present"))?
            }
        };
        let groups = match (&mapper.groups, &*mappings.groups.claim) {
            (Some(program), _) => mapper.texts(program, "group", claims)?,
            (None, claim) => {
                texts(&claims[claim]).into_iter().map(|group| prefixed(&mappings.groups.prefix, group)).collect()
            }
        };
        let mut extra = mapper.extra(claims)?;
        if let Some(id) = claims.get("jti").and_then(Value::as_str).filter(|id| !id.is_empty()) {
            extra.insert("authentication.kubernetes.io/credential-id".to_owned(), vec![format!("JTI={id}")]);
        }
        Ok(User { name: self.name(claims)?, uid, groups, extra })
    }

    fn name(&self, claims: &Value) -> Result<String, String> {
        let Jwt { mappings, mapper, .. } = &*self.config;
        if let Some(program) = &mapper.username {
            let name = mapper.text(program, "username", claims)?;
            let empty = || "oidc: empty username via CEL expression is not allowed".to_owned();
            return Some(name).filter(|name| !name.is_empty()).ok_or_else(empty);
        }
        let claim = &mappings.username.claim;
        let Some(name) = claims.get(claim).and_then(Value::as_str).filter(|name| !name.is_empty()) else {
            return Err(format!("oidc: parse username claims {claim:?}: claim not present"));
        };
        if claim == "email" && claims.get("email_verified").is_some_and(|verified| verified != true) {
            return Err("oidc: email not verified".to_owned());
        }
        Ok(prefixed(&mappings.username.prefix, name))
    }
}

fn prefixed(prefix: &Option<String>, text: &str) -> String {
    format!("{}{text}", prefix.as_deref().unwrap_or_default())
}

/// One text or a list of them.
fn texts(value: &Value) -> Vec<&str> {
    match value {
        Value::String(one) => vec![one],
        Value::Array(all) => all.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}
