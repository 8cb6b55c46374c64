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

pub use authn::impersonate;
use authn::{Accounts, Authenticators, Certificates};
use authz::Authorizers;
pub use authz::forbidden;
pub(crate) use authz::rbac::reconciled;
use authz::rbac::{Escalation, default_objects};
use questions::Reviews;

use crate::chain::{Admission, Chain, View};
use crate::config::ServerConfig;
use crate::pki::{Pki, PkiError};
use crate::proxy::NodeConnector;

/// Everything that judges requests, over `view`, which may still be empty: nothing is read before the first request.
///
/// # Errors
/// When the certificate of the API server towards kubelets cannot be made or kept.
pub fn chain(config: &ServerConfig, pki: &Pki, view: Arc<dyn View>, world: WorldRef) -> Result<Chain, PkiError> {
    let issuer = format!("https://kubernetes.default.svc.{}", config.cluster_domain);
    let documents = discovery::documents(&issuer, &pki.account_key());
    let authorizers = Arc::new(Authorizers::new(view.clone()));
    let accounts = Arc::new(Accounts::new(pki.account_key(), issuer, view.clone(), world.clone()));
    let certificates = Certificates::new(pki.client_verifier()?);
    let token = config.admin_token.as_deref();
    let authenticators = Arc::new(Authenticators::new(certificates, accounts.clone(), token));
    let mut admission = crate::admission::plugins(authorizers.clone(), world.clone());
    admission.push(Arc::new(Escalation::new(authorizers.rbac().clone(), authorizers.clone())) as Arc<dyn Admission>);
    let connector = NodeConnector::new(pki, view, authorizers.clone(), world.clone())?;
    Ok(Chain {
        authenticator: authenticators.clone(),
        authorizer: authorizers.clone(),
        admission,
        tokens: accounts,
        questions: Arc::new(Reviews { authenticators, authorizers, world }),
        connector: Arc::new(connector),
        defaults: defaults(pki),
        documents,
    })
}

/// What every cluster has from its first moment: roles, bindings, and for whoever extends the API how to know our clients.
fn defaults(pki: &Pki) -> Vec<Value> {
    let clients = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system"},
        "data": {"client-ca-file": pki.ca_pem()},
    });
    default_objects().into_iter().chain([clients]).collect()
}
