//! Devices for pods: which devices of which pools a pod's claims get on a node, by the rules of upstream's structured
//! allocator.
//!
//! [`Stock`] is what there is: pools as the slices of their newest generation, device classes, and what claims hold
//! already; all kept as objects change. A [`Want`] is a claim, read once. [`allocate`] is pure: on one node, it tries for
//! each request the devices in their order, goes back where a later request finds none left, and ends with the first
//! solution. Only for the node that was chosen is the solution made an allocation that can be written.

mod allocate;
mod capacity;
pub mod extended;
mod pools;
mod result;
mod selectors;
mod slices;
mod stock;
mod taken;
mod want;

pub use allocate::{Found, allocate, explain};
pub use pools::Site;
pub use result::results;
pub use stock::Stock;
pub use taken::PoolId;
pub use want::Want;

use k8s_openapi::api::resource::v1::{AllocatedDeviceStatus, DeviceRequestAllocationResult, ResourceClaim};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use skiff_api::claims::allocated;

#[cfg(test)]
mod tests;

/// Most devices of one claim.
const MOST_DEVICES: usize = 32;
/// The best score that the choice among alternatives of one request can add: as many as there may be.
const MOST_ALTERNATIVES: i64 = 8;

/// Why claims could not be allocated, other than that no devices are left.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The class is not there.
    #[error(
        "claim {claim}, request {request}: could not retrieve device class {class}: deviceclass.resource.k8s.io \
             \"{class}\" not found"
    )]
    #[allow(missing_docs)]
    NoClass { claim: String, request: String, class: String },
    /// All devices are asked for, and nobody knows yet which these are.
    #[error("claim {claim}, request {request}: asks for all devices, but resource pool {pool} is currently {what}")]
    #[allow(missing_docs)]
    Pool { claim: String, request: String, pool: String, what: &'static str },
    /// More devices than one claim may have.
    #[error("claim {claim}: number of requested devices {number} exceeds the claim limit of {}", MOST_DEVICES)]
    #[allow(missing_docs)]
    TooMany { claim: String, number: usize },
    /// All devices are asked for, and some must not be together.
    #[error(
        "claim {claim}, request {request}: cannot add device {device} because a claim constraint would not be \
             satisfied"
    )]
    #[allow(missing_docs)]
    Constraint { claim: String, request: String, device: String },
    /// A selector cannot be evaluated; `of` names its claim or class.
    #[error("{of}: selector #{number}: CEL {what} error: {why}")]
    #[allow(missing_docs)]
    Selector { of: String, number: usize, what: &'static str, why: String },
    /// There is no end of combinations.
    #[error("node {node}: timed out trying to allocate devices")]
    #[allow(missing_docs)]
    TooLong { node: String },
    /// There might be devices, were their pools not broken; another node may do better.
    #[error("invalid resource pools were encountered")]
    InvalidPools,
}

impl Fault {
    /// Whether it says nothing about other nodes.
    pub fn is_of_node(&self) -> bool {
        *self == Self::InvalidPools
    }
}

/// `namespace/name`.
pub fn shown(claim: &ResourceClaim) -> String {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    format!("{}/{}", text(&claim.metadata.namespace), text(&claim.metadata.name))
}

/// How far a claim's devices are from being usable on their node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// All conditions that their drivers ask for are true.
    Ready,
    /// Some are not true yet.
    Waits,
    /// A driver has given up.
    Failed(String),
}

/// Whether drivers have made ready what they ask to be waited for.
pub fn readiness(claim: &ResourceClaim) -> Readiness {
    let status = claim.status.as_ref();
    let known = status.and_then(|status| status.devices.as_deref()).unwrap_or_default();
    for result in allocated(claim) {
        let wanted = result.binding_conditions.as_deref().unwrap_or_default();
        if wanted.is_empty() {
            continue;
        }
        let Some(device) = known.iter().find(|device| is_about(device, result)) else { return Readiness::Waits };
        let is_true = |name: &String| -> Option<&Condition> {
            device.conditions.iter().flatten().find(|condition| condition.type_ == *name && condition.status == "True")
        };
        for failure in result.binding_failure_conditions.iter().flatten() {
            if let Some(failed) = is_true(failure) {
                let name = claim.metadata.name.as_deref().unwrap_or_default();
                return Readiness::Failed(format!(
                    "device binding failed: claim={name}, reason={}, message={:?}",
                    failed.reason, failed.message
                ));
            }
        }
        if !wanted.iter().all(|name| is_true(name).is_some()) {
            return Readiness::Waits;
        }
    }
    Readiness::Ready
}

/// How much the alternatives that a claim has got are to its liking.
pub fn score_of(claim: &ResourceClaim) -> i64 {
    let got: std::collections::BTreeSet<&str> = allocated(claim).iter().map(|result| result.request.as_str()).collect();
    let requests = claim.spec.devices.iter().flat_map(|devices| devices.requests.iter().flatten());
    let alternatives = requests.flat_map(|request| {
        let each = request.first_available.iter().flatten().enumerate();
        each.map(move |(number, sub)| (number, format!("{}/{}", request.name, sub.name)))
    });
    alternatives.filter(|(_, name)| got.contains(name.as_str())).map(|(n, _)| MOST_ALTERNATIVES - n as i64).sum()
}

fn is_about(device: &AllocatedDeviceStatus, result: &DeviceRequestAllocationResult) -> bool {
    device.driver == result.driver
        && device.pool == result.pool
        && device.device == result.device
        && device.share_id == result.share_id
}
