//! Role-based access control, as `rbac.authorization.k8s.io/v1` defines it.

mod defaults;
mod escalation;
mod index;
mod reconcile;
mod rule;

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::rbac::v1::PolicyRule;
use skiff_meta::Status;

pub(crate) use defaults::default_objects;
pub(crate) use escalation::Escalation;
use index::{RbacIndex, RoleRef};
pub(crate) use reconcile::reconciled;
pub(crate) use rule::allows;

use super::follow::Followed;
use crate::chain::{Attributes, Authorizer, Decision, User, View};

/// The authorizer over the cluster's roles and bindings.
pub(crate) struct Rbac {
    index: Followed<RbacIndex>,
}

/// The rules somebody has.
pub(crate) struct Held {
    /// Rules of all roles.
    pub(crate) rules: Vec<PolicyRule>,
    /// Bound roles that are not there.
    pub(crate) missing: Vec<String>,
}

impl Rbac {
    pub(crate) fn new(view: Arc<dyn View>) -> Self {
        Self { index: Followed::new(view) }
    }

    fn decide(&self, attributes: &Attributes<'_>) -> Decision {
        let index = self.index.read();
        let (mut allowed, mut missing) = (None, Vec::new());
        index.visit(attributes.user, attributes.namespace, &mut |found| {
            match found {
                Ok((source, rule)) if rule::allows(rule, attributes) => {
                    allowed = Some(format!("RBAC: allowed by {source}"));
                }
                Ok(_) => {}
                Err(words) => missing.push(words),
            }
            allowed.is_none()
        });
        match allowed {
            Some(reason) => Decision::Allow(reason),
            None => Decision::NoOpinion(match &*missing {
                [] => String::new(),
                [one] => format!("RBAC: {one}"),
                many => format!("RBAC: [{}]", many.join(", ")),
            }),
        }
    }

    /// All rules of `user` in `namespace`.
    pub(crate) fn held(&self, user: &User, namespace: &str) -> Held {
        let mut held = Held { rules: Vec::new(), missing: Vec::new() };
        self.index.read().visit(user, namespace, &mut |found| {
            match found {
                Ok((_, rule)) => held.rules.push(rule.clone()),
                Err(words) => held.missing.push(words),
            }
            true
        });
        held
    }

    /// The rules of the role that a binding in `namespace` refers to.
    fn role_rules(&self, role: &RoleRef, namespace: &str) -> Result<Vec<PolicyRule>, String> {
        self.index.read().role_rules(role, namespace).map(<[_]>::to_vec)
    }

    async fn refresh(&self) -> Result<bool, Status> {
        self.index.refresh().await
    }
}

#[async_trait]
impl Authorizer for Rbac {
    async fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        let decision = self.decide(attributes);
        if matches!(decision, Decision::Allow(_)) {
            return decision;
        }
        // Before saying no, look whether the cache is behind: who has just been given a right may use it.
        match self.refresh().await {
            Ok(true) => self.decide(attributes),
            _ => decision,
        }
    }
}

#[cfg(test)]
mod tests;
