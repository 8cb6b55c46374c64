//! Policies: admission by expressions, kept in the cluster (`ValidatingAdmissionPolicy`, `MutatingAdmissionPolicy`).
//!
//! What an expression says is told by `skiff_rules::policy`; here it is found out which policies a request is for
//! (`matching`), by which bindings and with which parameters (`registry`), and what that means for the request.

mod authorizer;
mod checks;
mod matching;
mod mutating;
mod registry;
mod request;
pub(crate) mod typing;
mod validating;

use std::sync::Arc;

use skiff_meta::WorldRef;

pub(crate) use authorizer::CelAuthorizer;
pub(crate) use request::{attributes, described, namespace};

use crate::chain::{Admission, Authorizer};

/// MutatingAdmissionPolicy and ValidatingAdmissionPolicy.
pub(crate) fn plugins(authorizer: &Arc<dyn Authorizer>, world: &WorldRef) -> (Arc<dyn Admission>, Arc<dyn Admission>) {
    let mutating = mutating::MutatingAdmissionPolicy::new(authorizer.clone(), world.clone());
    let validating = validating::ValidatingAdmissionPolicy::new(authorizer.clone(), world.clone());
    (Arc::new(mutating), Arc::new(validating))
}
