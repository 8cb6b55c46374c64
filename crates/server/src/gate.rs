//! Who asks and whether they may: authentication, impersonation, authorization.

use std::sync::Arc;

use http::HeaderMap;
use skiff_meta::Status;

use crate::api::Api;
use crate::chain::{Attributes, Decision, Identity, User};
use crate::request::{Query, Target};

impl Api {
    /// The user behind a request, after impersonation.
    pub(crate) async fn identify(&self, identity: &Identity, headers: &HeaderMap) -> Result<Arc<User>, Status> {
        let user = match identity {
            Identity::Bound(user) => user.clone(),
            Identity::Peer(peer) => self.chain.authenticator.authenticate(headers, peer).await?,
        };
        crate::auth::impersonate(headers, user, &*self.chain.authorizer).await
    }

    /// Ok when the authorizer allows it, 403 otherwise.
    pub(crate) async fn allow(&self, attributes: &Attributes<'_>) -> Result<(), Status> {
        match self.chain.authorizer.authorize(attributes).await {
            Decision::Allow(_) => Ok(()),
            Decision::Deny(why) | Decision::NoOpinion(why) => Err(crate::auth::forbidden(attributes, &why)),
        }
    }

    /// Authorizes a request for a resource.
    pub(crate) async fn allow_target(
        &self,
        user: &User,
        target: &Target,
        query: &Query,
        path: &str,
    ) -> Result<(), Status> {
        let selects = matches!(target.verb, "list" | "watch" | "deletecollection");
        self.allow(&Attributes {
            user,
            verb: target.verb,
            group: &target.resource.group,
            version: &target.resource.version,
            resource: &target.resource.resource,
            subresource: &target.subresource,
            namespace: &target.namespace,
            name: target.authorized_name(),
            fields: if selects { query.text("fieldSelector") } else { "" },
            path,
        })
        .await
    }

    /// Authorizes a request for a path that is no resource.
    pub(crate) async fn allow_path(&self, user: &User, method: &str, path: &str) -> Result<(), Status> {
        let (group, version, resource, subresource) = ("", "", "", "");
        let (namespace, name, fields) = ("", "", "");
        let attributes =
            Attributes { user, verb: method, group, version, resource, subresource, namespace, name, fields, path };
        self.allow(&attributes).await
    }
}
