//! Who asks: client certificates, service account tokens, bootstrap tokens, the static token; or nobody in particular.

mod accounts;
mod bootstrap;
mod certificate;
mod claims;
mod front_proxy;
mod impersonate;
mod issue;
pub(crate) mod jwt;
pub(crate) mod legacy;

use std::sync::Arc;

use async_trait::async_trait;
use http::{HeaderMap, header};
use skiff_meta::{Status, WorldRef};

pub(crate) use accounts::{Accounts, Bearer, LegacyUse, TokenError};
pub(crate) use certificate::Certificates;
pub(crate) use front_proxy::FrontProxy;
pub use impersonate::impersonate;
pub use jwt::{AuthenticationConfig, AuthenticationError, Oidc};

use super::names::{AUTHENTICATED, MASTERS};
use crate::chain::{Authenticator, Peer, User};
use crate::live::{Derived, Live};

/// All ways to say who one is.
pub(crate) struct Authenticators {
    certificates: Certificates,
    accounts: Arc<Accounts>,
    admin: Option<StaticToken>,
    front: Option<FrontProxy>,
    issuers: Option<Derived<AuthenticationConfig, Vec<jwt::Issuer>>>,
    anonymous: Arc<User>,
    /// Where nobody in particular may come in; `None`: everywhere.
    doors: Option<jwt::Anonymous>,
}

/// A token given on the command line, and who bears it.
struct StaticToken {
    token: String,
    user: Arc<User>,
}

impl Authenticators {
    pub(crate) fn new(certificates: Certificates, accounts: Arc<Accounts>, admin_token: Option<&str>) -> Self {
        let admin = User::new("skiff-admin", &[MASTERS, AUTHENTICATED]);
        let admin_token = admin_token.filter(|token| !token.is_empty());
        let admin = admin_token.map(|token| StaticToken { token: token.to_owned(), user: Arc::new(admin) });
        Self {
            certificates,
            accounts,
            admin,
            front: None,
            issuers: None,
            anonymous: Arc::new(User::anonymous()),
            doors: None,
        }
    }

    /// Also believes what front proxies tell.
    pub(crate) fn behind(self, front: FrontProxy) -> Self {
        Self { front: Some(front), ..self }
    }

    /// Also believes other issuers' tokens, and perhaps nobody without credentials.
    pub(crate) fn believing(self, config: Arc<Live<AuthenticationConfig>>, world: &WorldRef) -> Self {
        let (doors, world) = (config.get().anonymous.clone(), world.clone());
        let issuer = move |jwt: &Arc<jwt::Jwt>| jwt::Issuer::new(jwt.clone(), world.clone());
        let issuers =
            Derived::new(config, move |config: &AuthenticationConfig| config.jwt.iter().map(&issuer).collect());
        Self { issuers: Some(issuers), doors, ..self }
    }

    /// Who bears `token`, when it is good for one of `audiences` (none: the API server's own).
    pub(crate) async fn bearer(&self, token: &str, audiences: &[String]) -> Result<Bearer, TokenError> {
        let own = [self.accounts.audience().to_owned()];
        let audiences = if audiences.is_empty() { &own } else { audiences };
        if let Some(admin) = self.admin.as_ref().filter(|admin| same(&admin.token, token)) {
            // Good for the API server only; a review for others must not take it for theirs.
            let audiences: Vec<String> = audiences.iter().filter(|a| **a == own[0]).cloned().collect();
            if audiences.is_empty() {
                return Err(TokenError::Unknown);
            }
            return Ok(Bearer { user: admin.user.clone(), audiences });
        }
        if let Some(parts) = bootstrap::parse(token) {
            let audiences: Vec<String> = audiences.iter().filter(|a| **a == own[0]).cloned().collect();
            if audiences.is_empty() {
                return Err(TokenError::Unknown);
            }
            let user = bootstrap::check(self.accounts.view(), parts, self.accounts.now()).await?;
            return Ok(Bearer { user, audiences });
        }
        let issuers = self.issuers.as_ref().map(Derived::get).unwrap_or_default();
        if let Some(issuer) = issuers.iter().find(|issuer| issuer.made(token)) {
            let audiences: Vec<String> = audiences.iter().filter(|a| **a == own[0]).cloned().collect();
            if audiences.is_empty() {
                return Err(TokenError::Unknown);
            }
            return Ok(Bearer { user: issuer.check(token).await?, audiences });
        }
        self.accounts.check(token, audiences).await
    }
}

/// What was wrong goes to the log; the caller learns only that it was.
fn refuse<T>(why: &dyn std::fmt::Display) -> Result<T, Status> {
    tracing::debug!("credentials refused: {why}");
    Err(Status::unauthorized())
}

#[async_trait]
impl Authenticator for Authenticators {
    async fn authenticate(&self, path: &str, headers: &HeaderMap, peer: &Peer) -> Result<Arc<User>, Status> {
        let now = self.accounts.now();
        if let Some(user) = self.front.as_ref().and_then(|front| front.user(headers, peer, now)) {
            return Ok(user);
        }
        let certificate = self.certificates.check(&peer.certificates, now);
        if let Ok(Some(user)) = &certificate {
            return Ok(user.clone());
        }
        if let Some(token) = bearer_token(headers) {
            return match self.bearer(&token, &[]).await {
                Ok(bearer) => Ok(bearer.user),
                Err(error) => refuse(&error),
            };
        }
        match certificate {
            Ok(_) if self.doors.as_ref().is_none_or(|doors| doors.may(path)) => Ok(self.anonymous.clone()),
            Ok(_) => refuse(&"no credentials"),
            Err(error) => refuse(&error),
        }
    }
}

/// How the WebSocket subprotocol begins that carries a token.
pub(crate) const BEARER_PROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";

/// The token of an `Authorization: Bearer` header, or of the WebSocket subprotocol browsers use instead.
fn bearer_token(headers: &HeaderMap) -> Option<String> {
    if let Some(value) = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()) {
        let mut parts = value.trim().splitn(3, ' ');
        let scheme = parts.next().unwrap_or_default();
        return parts.next().filter(|t| !t.is_empty() && scheme.eq_ignore_ascii_case("bearer")).map(str::to_owned);
    }
    let protocols = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    let encoded = protocols.flat_map(|value| value.split(',')).find_map(|p| p.trim().strip_prefix(BEARER_PROTOCOL))?;
    use base64::Engine;
    let token = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(encoded).ok()?;
    String::from_utf8(token).ok().filter(|token| !token.is_empty())
}

/// Compares in a time that says nothing about where two texts differ.
fn same(a: &str, b: &str) -> bool {
    let digest = |text: &str| ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    digest(a).as_ref() == digest(b).as_ref()
}

/// Adds `system:authenticated`.
fn with_authenticated(mut user: User) -> User {
    if !user.is_in(AUTHENTICATED) {
        user.groups.push(AUTHENTICATED.to_owned());
    }
    user
}

#[cfg(test)]
mod tests;
