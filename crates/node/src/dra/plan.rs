//! Which claims are a pod's, and whether it may use them. Pure.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Pod, PodResourceClaim};
use k8s_openapi::api::resource::v1::ResourceClaim;

use crate::pod::facts;

/// The name of a pod's claim in the API: its own, or that of the one made for it; `None` where none is needed.
///
/// # Errors
/// When it has not been made yet.
pub(super) fn claim_of(pod: &Pod, wanted: &PodResourceClaim) -> Result<Option<String>, ()> {
    if let Some(name) = &wanted.resource_claim_name {
        return Ok(Some(name.clone()));
    }
    let status = pod.status.iter().flat_map(|status| status.resource_claim_statuses.iter().flatten());
    let mut made = status.filter(|made| made.name == wanted.name);
    made.next().map(|made| made.resource_claim_name.clone()).ok_or(())
}

/// The same for the claim that a container names.
pub(super) fn named(pod: &Pod, name: &str) -> Option<String> {
    let wanted = facts::spec(pod).resource_claims.iter().flatten().find(|wanted| wanted.name == name)?;
    claim_of(pod, wanted).ok().flatten()
}

/// The drivers of what the claim was given, if the pod may use it.
///
/// # Errors
/// Why it may not.
pub(super) fn usable(
    pod: &Pod,
    wanted: &PodResourceClaim,
    claim: &ResourceClaim,
) -> Result<BTreeSet<String>, &'static str> {
    let mut owners = claim.metadata.owner_references.iter().flatten();
    let owns = owners.any(|owner| owner.uid == facts::uid(pod) && owner.controller == Some(true));
    if wanted.resource_claim_name.is_none() && !owns {
        return Err("was not created for this pod");
    }
    let status = claim.status.as_ref();
    let mut users = status.iter().flat_map(|status| status.reserved_for.iter().flatten());
    if !users.any(|user| user.uid == facts::uid(pod)) {
        return Err("is not reserved for this pod");
    }
    let given = status.and_then(|status| status.allocation.as_ref()).ok_or("was not given anything yet")?;
    let results = given.devices.iter().flat_map(|devices| devices.results.iter().flatten());
    Ok(results.map(|result| result.driver.clone()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn claims_by_name_and_from_templates() {
        let pod = |statuses: Value| -> Pod {
            serde_json::from_value(json!({"metadata": {"uid": "u"}, "spec": {"containers": [], "resourceClaims": [
                {"name": "a", "resourceClaimName": "x"}, {"name": "b", "resourceClaimTemplateName": "t"}]},
                "status": {"resourceClaimStatuses": statuses}}))
            .expect("a pod")
        };
        let made = pod(json!([{"name": "b", "resourceClaimName": "y"}]));
        assert_eq!((named(&made, "a").as_deref(), named(&made, "b").as_deref()), (Some("x"), Some("y")));
        assert_eq!(named(&made, "c"), None);
        let template = &facts::spec(&made).resource_claims.as_ref().expect("claims")[1];
        assert_eq!(claim_of(&pod(json!([])), template), Err(()));
        assert_eq!(claim_of(&pod(json!([{"name": "b"}])), template), Ok(None), "nothing is needed");
    }

    #[test]
    fn a_claim_must_be_given_and_reserved() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"uid": "u"}})).expect("a pod");
        let usable = |wanted: Value, claim: Value| {
            let wanted = serde_json::from_value(wanted).expect("a wish");
            usable(&pod, &wanted, &serde_json::from_value(claim).expect("a claim"))
        };
        let named = || json!({"name": "a", "resourceClaimName": "x"});
        let reserved = json!([{"resource": "pods", "name": "p", "uid": "u"}]);
        let results = json!([{"driver": "d", "pool": "p", "device": "1", "request": "r"}]);
        let given = json!({"devices": {"results": results}});
        let claim = |reserved: &Value, given: &Value| json!({"metadata": {"name": "x"}, "spec": {}, "status": {"reservedFor": reserved, "allocation": given}});
        assert_eq!(usable(named(), claim(&reserved, &given)), Ok(["d".to_owned()].into()));
        assert!(usable(named(), claim(&json!([]), &given)).is_err_and(|why| why.contains("reserved")));
        assert!(usable(named(), claim(&reserved, &json!(null))).is_err_and(|why| why.contains("given")));
        let template = json!({"name": "a", "resourceClaimTemplateName": "t"});
        assert!(usable(template, claim(&reserved, &given)).is_err_and(|why| why.contains("created")));
    }
}
