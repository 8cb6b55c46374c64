//! The authorizer as expressions ask it.

use std::fmt;

use futures::FutureExt as _;
use skiff_cel::{Attributes, Decision};

use crate::chain::{self, User};

/// The authorizer, and on whose behalf it is asked.
pub(crate) struct CelAuthorizer<'a> {
    pub(crate) authorizer: &'a dyn chain::Authorizer,
    pub(crate) user: &'a User,
}

impl fmt::Debug for CelAuthorizer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.user.name)
    }
}

impl skiff_cel::Authorizer for CelAuthorizer<'_> {
    fn authorize(&self, account: Option<(&str, &str)>, asked: &Attributes) -> Decision {
        let account = account.map(|(namespace, name)| {
            let group = format!("system:serviceaccounts:{namespace}");
            User::new(format!("system:serviceaccount:{namespace}:{name}"), &["system:serviceaccounts", &group])
        });
        let attributes = chain::Attributes {
            user: account.as_ref().unwrap_or(self.user),
            verb: &asked.verb,
            group: &asked.group,
            version: "*",
            resource: &asked.resource,
            subresource: &asked.subresource,
            namespace: &asked.namespace,
            name: &asked.name,
            fields: asked.field_selector.as_deref().unwrap_or_default(),
            labels: asked.label_selector.as_deref().unwrap_or_default(),
            path: asked.path.as_deref().unwrap_or_default(),
        };
        // Roles and nodes are decided from memory; whoever would have to wait is not asked from within an expression.
        match self.authorizer.authorize(&attributes).now_or_never() {
            Some(chain::Decision::Allow(reason)) => Decision { allowed: true, reason, error: None },
            Some(chain::Decision::Deny(reason) | chain::Decision::NoOpinion(reason)) => {
                Decision { allowed: false, reason, error: None }
            }
            None => {
                let error = Some("the authorizer did not answer at once".to_owned());
                Decision { allowed: false, reason: String::new(), error }
            }
        }
    }
}
