//! Who asks, and may they: authentication, authorization, reviews, and the chain that the pipeline passes.

mod authn;
mod authz;
mod discovery;
pub(crate) mod names;
mod questions;
pub(crate) mod references;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use serde_json::{Value, json};
use skiff_meta::WorldRef;

pub(crate) use authn::BEARER_PROTOCOL;
use authn::{Accounts, Authenticators, Certificates, FrontProxy};
pub use authn::{AuthenticationConfig, AuthenticationError, Oidc, impersonate};
pub(crate) use authn::{LegacyUse, legacy};
use authz::Authorizers;
pub(crate) use authz::rbac::reconciled;
use authz::rbac::{Escalation, default_objects};
pub use authz::{AuthorizationConfig, AuthorizationError, forbidden};
use questions::Reviews;

use crate::chain::{Admission, Chain, View};
use crate::config::ServerConfig;
use crate::pki::{Pki, PkiError};
use crate::proxy::NodeConnector;
use crate::proxy::aggregate::Aggregator;

/// Everything that judges requests, over `view`, which may still be empty: nothing is read before the first request.
///
/// # Errors
/// When the certificate of the API server towards kubelets cannot be made or kept.
pub fn chain(config: &ServerConfig, pki: &Pki, view: Arc<dyn View>, world: WorldRef) -> Result<Chain, PkiError> {
    let issuer = format!("https://kubernetes.default.svc.{}", config.cluster_domain);
    let documents = discovery::documents(&issuer, &pki.account_key());
    let authorizers = Arc::new(Authorizers::new(config.authorization.clone(), view.clone(), &world));
    let accounts = Arc::new(Accounts::new(pki.account_key(), issuer, view.clone(), world.clone()));
    let certificates = Certificates::new(pki.client_verifier()?);
    let token = config.admin_token.as_deref();
    let front = FrontProxy::new(Certificates::new(pki.front_proxy_verifier()?));
    let mut authenticators = Authenticators::new(certificates, accounts.clone(), token).behind(front);
    if let Some(others) = config.authentication.clone() {
        authenticators = authenticators.believing(others, &world);
    }
    let authenticators = Arc::new(authenticators);
    let mut admission = crate::admission::plugins(authorizers.clone(), world.clone(), config.admission.clone());
    admission.push(Arc::new(Escalation::new(authorizers.rbac().clone(), authorizers.clone())) as Arc<dyn Admission>);
    let aggregator = Aggregator::new(pki, view.clone(), world.clone())?;
    let connector = NodeConnector::new(pki, view, authorizers.clone(), world.clone())?;
    Ok(Chain {
        authenticator: authenticators.clone(),
        authorizer: authorizers.clone(),
        admission,
        legacy_uses: Arc::new(accounts.legacy_uses().into()),
        tokens: accounts,
        questions: Arc::new(Reviews { authenticators, authorizers, world }),
        connector: Arc::new(connector),
        aggregator,
        defaults: defaults(pki),
        documents,
    })
}

/// What every cluster has from its first moment: roles, bindings, and for whoever extends the API how to know our clients.
fn defaults(pki: &Pki) -> Vec<Value> {
    let clients = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system"},
        "data": {
            "client-ca-file": pki.ca_pem(),
            "requestheader-client-ca-file": pki.front_proxy_ca_pem(),
            "requestheader-allowed-names": json!([crate::pki::FRONT_PROXY]).to_string(),
            "requestheader-username-headers": json!(["X-Remote-User"]).to_string(),
            "requestheader-uid-headers": json!(["X-Remote-Uid"]).to_string(),
            "requestheader-group-headers": json!(["X-Remote-Group"]).to_string(),
            "requestheader-extra-headers-prefix": json!(["X-Remote-Extra-"]).to_string(),
        },
    });
    default_objects().into_iter().chain([clients]).collect()
}
