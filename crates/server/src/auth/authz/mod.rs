//! May they: the chain of authorizers, and the words of a refusal.

mod config;
mod follow;
mod forbidden;
mod node;
pub(crate) mod rbac;
mod webhook;

use std::sync::Arc;

use async_trait::async_trait;

use config::Asked;
pub use config::{AuthorizationConfig, AuthorizationError};
pub use forbidden::forbidden;
use node::NodeAuthorizer;
use rbac::Rbac;
use skiff_meta::WorldRef;
use webhook::Webhook;

use super::names::MASTERS;
use crate::chain::{Attributes, Authorizer, Decision, View};
use crate::live::{Derived, Live};

/// `system:masters`, then whom the configuration names; the first that has an opinion decides.
pub(crate) struct Authorizers {
    order: Derived<AuthorizationConfig, Vec<Arc<dyn Authorizer>>>,
    rbac: Arc<Rbac>,
}

/// Says always the same.
struct Always(bool);

#[async_trait]
impl Authorizer for Always {
    async fn authorize(&self, _attributes: &Attributes<'_>) -> Decision {
        match self.0 {
            true => Decision::Allow(String::new()),
            false => Decision::NoOpinion("Everything is forbidden.".to_owned()),
        }
    }
}

impl Authorizers {
    pub(crate) fn new(config: Arc<Live<AuthorizationConfig>>, view: Arc<dyn View>, world: &WorldRef) -> Self {
        let (rbac, node) = (Arc::new(Rbac::new(view.clone())), Arc::new(NodeAuthorizer::new(view)));
        let (roles, world) = (rbac.clone(), world.clone());
        let of = move |asked: &Asked| match asked {
            Asked::Node => node.clone() as Arc<dyn Authorizer>,
            Asked::Roles => roles.clone(),
            Asked::Always(yes) => Arc::new(Always(*yes)),
            Asked::Webhook(hook) => Arc::new(Webhook::new(hook.clone(), world.clone())),
        };
        Self { order: Derived::new(config, move |config| config.0.iter().map(&of).collect()), rbac }
    }

    /// The role-based one, for those who ask for rules rather than for a decision.
    pub(crate) fn rbac(&self) -> &Arc<Rbac> {
        &self.rbac
    }
}

#[async_trait]
impl Authorizer for Authorizers {
    async fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        if attributes.user.is_in(MASTERS) {
            return Decision::Allow(String::new());
        }
        let mut reasons = String::new();
        for authorizer in &*self.order.get() {
            match authorizer.authorize(attributes).await {
                Decision::NoOpinion(why) if why.is_empty() => {}
                Decision::NoOpinion(why) if reasons.is_empty() => reasons = why,
                // As upstream joins what several authorizers say.
                Decision::NoOpinion(why) => reasons = format!("{reasons}\n{why}"),
                decided => return decided,
            }
        }
        Decision::NoOpinion(reasons)
    }
}
