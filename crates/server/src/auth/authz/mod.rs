//! May they: the chain of authorizers, and the words of a refusal.

mod follow;
mod forbidden;
mod node;
pub(crate) mod rbac;

use std::sync::Arc;

use async_trait::async_trait;

pub use forbidden::forbidden;
use node::NodeAuthorizer;
use rbac::Rbac;

use super::names::MASTERS;
use crate::chain::{Attributes, Authorizer, Decision, View};

/// `system:masters`, then nodes, then roles; the first that has an opinion decides.
pub(crate) struct Authorizers {
    node: NodeAuthorizer,
    rbac: Arc<Rbac>,
}

impl Authorizers {
    pub(crate) fn new(view: Arc<dyn View>) -> Self {
        Self { node: NodeAuthorizer::new(view.clone()), rbac: Arc::new(Rbac::new(view)) }
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
        let node = match self.node.authorize(attributes).await {
            Decision::NoOpinion(why) => why,
            decided => return decided,
        };
        match self.rbac.authorize(attributes).await {
            Decision::NoOpinion(why) if node.is_empty() => Decision::NoOpinion(why),
            Decision::NoOpinion(why) if why.is_empty() => Decision::NoOpinion(node),
            // As upstream joins what several authorizers say.
            Decision::NoOpinion(why) => Decision::NoOpinion(format!("{node}\n{why}")),
            decided => decided,
        }
    }
}
