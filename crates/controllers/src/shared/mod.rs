//! What several controllers need: facts about pods and owners, selectors, waiting for one's own writes, settling of
//! statuses.

mod claim;
pub(crate) mod doubt;
mod expect;
pub(crate) mod history;
mod labels;
mod owners;
mod pods;
pub(crate) mod services;
mod settle;
mod slow_start;
pub(crate) mod template;

pub(crate) use claim::{claims, execute_claims};
pub(crate) use expect::Expectations;
pub(crate) use labels::{Selector, map_selector, selector, selects};
pub(crate) use owners::{controller_of, controller_ref, enqueue_owners, is_controlled_by};
pub(crate) use pods::{deletion_order, node_of, pod_from_template};
pub(crate) use settle::Settling;
pub(crate) use slow_start::slow_start;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// `value` as a number of `total`: percentages are rounded up or down. What is neither counts as 0, as validation keeps
/// it out.
pub(crate) fn scaled(value: &IntOrString, total: i32, round_up: bool) -> i32 {
    match value {
        IntOrString::Int(number) => *number,
        IntOrString::String(text) => {
            let percent = text.strip_suffix('%').and_then(|digits| digits.parse::<i64>().ok()).unwrap_or(0);
            let product = percent * i64::from(total);
            let rounded = if round_up { (product + 99).div_euclid(100) } else { product.div_euclid(100) };
            i32::try_from(rounded).unwrap_or(i32::MAX)
        }
    }
}

/// A counter as statuses carry it: left out when zero.
pub(crate) fn counter(number: usize) -> Option<i32> {
    (number > 0).then(|| i32::try_from(number).unwrap_or(i32::MAX))
}

/// The revision an object was written at.
pub(crate) fn revision_of<K: skiff_client::Kind>(object: &K) -> u64 {
    object.metadata().resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
}

/// Whether things can be created in a namespace.
pub(crate) fn is_active_namespace(namespace: &k8s_openapi::api::core::v1::Namespace) -> bool {
    namespace.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Active")
}

/// Whether a refusal says that the namespace is going away, so that creating there is pointless.
pub(crate) fn namespace_terminating(error: &skiff_client::ClientError) -> bool {
    let skiff_client::ClientError::Api(status) = error else { return false };
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_are_rounded_as_asked() {
        let percent = |text: &str| IntOrString::String(text.to_owned());
        let table = [
            (IntOrString::Int(3), 10, 3, 3),
            (percent("25%"), 3, 1, 0),
            (percent("25%"), 8, 2, 2),
            (percent("100%"), 5, 5, 5),
            (percent("x"), 5, 0, 0),
        ];
        for (value, total, up, down) in table {
            assert_eq!((scaled(&value, total, true), scaled(&value, total, false)), (up, down), "{value:?} of {total}");
        }
    }
}
