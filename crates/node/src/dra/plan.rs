//! Which claims are a pod's, and whether it may use them. Pure.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Pod, PodResourceClaim};
use k8s_openapi::api::resource::v1::ResourceClaim;
use skiff_api::claims;

use crate::pod::facts;

/// The name in the API of the claim that a container names; `None` where none is needed, or none is made yet.
pub(super) fn named<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    let wanted = facts::spec(pod).resource_claims.iter().flatten().find(|wanted| wanted.name == name)?;
    claims::name(pod, wanted).flatten()
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
    if !claims::is_reserved_for(claim, facts::uid(pod)) {
        return Err("is not reserved for this pod");
    }
    if !claims::is_allocated(claim) {
        return Err("was not given anything yet");
    }
    Ok(claims::allocated(claim).iter().map(|result| result.driver.clone()).collect())
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
        assert_eq!((named(&made, "a"), named(&made, "b")), (Some("x"), Some("y")));
        assert_eq!(named(&made, "c"), None);
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
