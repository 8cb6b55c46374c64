//! What becomes of claims of devices: which ones a pod needs, and who still uses one. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodResourceClaim};
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimConsumerReference, ResourceClaimTemplate};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use skiff_api::claims::{self, FINALIZER, is_allocated, is_reserved_for, users};
use skiff_api::pods;
use skiff_client::Kind;

use crate::shared::{controller_of, controller_ref, is_controlled_by, node_of};

/// Which of a pod's claims a claim was made for.
const POD_CLAIM: &str = "resource.kubernetes.io/pod-claim-name";
/// The longest base of a generated name; a hyphen and five characters follow.
const LONGEST_BASE: usize = 57;

/// What a pod needs.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Needs {
    /// Claims to make from templates, with their names in the pod.
    pub(super) make: Vec<(String, ResourceClaim)>,
    /// Claims that were made, and that the pod does not say so of yet: by the name in the pod.
    pub(super) note: BTreeMap<String, String>,
    /// What kept claims from being made: their names in the pod, and why.
    pub(super) missing: Vec<(String, String)>,
    /// Claims that have their devices, and do not count the pod among their users though it has a node.
    pub(super) reserve: Vec<Arc<ResourceClaim>>,
}

fn spec_claims(pod: &Pod) -> &[PodResourceClaim] {
    pod.spec.as_ref().and_then(|spec| spec.resource_claims.as_deref()).unwrap_or_default()
}

/// The names of the claims that a pod uses, that for its extended resources included.
pub(super) fn claims_of(pod: &Pod) -> Vec<String> {
    let extended = pod.status.as_ref().and_then(|status| status.extended_resource_claim_status.as_ref());
    let own = spec_claims(pod).iter().filter_map(|claim| claims::name(pod, claim)?);
    own.map(str::to_owned).chain(extended.map(|status| status.resource_claim_name.clone())).collect()
}

/// The templates that a pod's claims are made from.
pub(super) fn templates_of(pod: &Pod) -> Vec<String> {
    spec_claims(pod).iter().filter_map(|claim| claim.resource_claim_template_name.clone()).collect()
}

/// Whether a pod runs no more, and never will.
pub(super) fn is_done(pod: &Pod) -> bool {
    pods::is_finished(pod) || (pods::is_terminating(pod) && node_of(pod).is_empty())
}

/// What a pod needs. `owned`: claims that were made for it.
pub(super) fn needs(
    pod: &Pod,
    claim: impl Fn(&str) -> Option<Arc<ResourceClaim>>,
    owned: &[Arc<ResourceClaim>],
    template: impl Fn(&str) -> Option<Arc<ResourceClaimTemplate>>,
) -> Needs {
    let mut needs = Needs::default();
    for own in spec_claims(pod) {
        let noted = claims::name(pod, own);
        let known = noted.flatten().and_then(&claim);
        let stranger =
            |claim: &Arc<ResourceClaim>| own.resource_claim_name.is_none() && !is_controlled_by(&**claim, pod);
        if let Some(known) = known.filter(|known| !stranger(known)) {
            if !node_of(pod).is_empty() && is_allocated(&known) && !is_reserved_for(&known, pod.uid()) {
                needs.reserve.push(known);
            }
            continue;
        }
        // A template may ask for nothing.
        let Some(wanted) = own.resource_claim_template_name.as_ref().filter(|_| noted != Some(None)) else { continue };
        let is_for = |claim: &&Arc<ResourceClaim>| {
            let annotations = claim.metadata.annotations.as_ref();
            annotations.and_then(|all| all.get(POD_CLAIM)) == Some(&own.name)
        };
        match (owned.iter().find(is_for), template(wanted)) {
            (Some(made), _) => drop(needs.note.insert(own.name.clone(), made.name().to_owned())),
            (None, Some(template)) => needs.make.push((own.name.clone(), from_template(pod, &own.name, &template))),
            (None, None) => {
                let why = format!("resourceclaimtemplate.resource.k8s.io {wanted:?} not found");
                needs.missing.push((own.name.clone(), format!("resource claim template {wanted:?}: {why}")));
            }
        }
    }
    needs
}

fn from_template(pod: &Pod, name: &str, template: &ResourceClaimTemplate) -> ResourceClaim {
    let given = template.spec.metadata.clone().unwrap_or_default();
    let mut annotations = given.annotations.unwrap_or_default();
    annotations.insert(POD_CLAIM.to_owned(), name.to_owned());
    ResourceClaim {
        metadata: ObjectMeta {
            generate_name: Some(base(pod.name(), name)),
            namespace: pod.metadata.namespace.clone(),
            labels: given.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![controller_ref(pod)]),
            ..ObjectMeta::default()
        },
        spec: template.spec.spec.clone(),
        status: None,
    }
}

/// `POD-CLAIM-`; of names that are too long together, as much as fits of each.
fn base(pod: &str, claim: &str) -> String {
    let full = format!("{pod}-{claim}-");
    if full.len() <= LONGEST_BASE {
        return full;
    }
    let part = |name: &str| name.chars().take(name.len() * LONGEST_BASE / full.len()).collect::<String>();
    format!("{}-{}", part(pod), part(claim))
}

/// The name of the pod that a claim was made for.
pub(super) fn pod_of(claim: &ResourceClaim) -> Option<&str> {
    let owner = controller_of(claim).filter(|owner| owner.api_version == "v1" && owner.kind == "Pod")?;
    Some(&owner.name)
}

/// What is to be done about a claim.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Settlement {
    /// The claim with a new status.
    pub(super) status: Option<ResourceClaim>,
    /// Its devices are given back: nothing keeps it any more.
    pub(super) release: bool,
    /// Nobody needs it any more.
    pub(super) delete: bool,
}

/// What becomes of a claim of which only some users are left. `owner`: the pod that it was made for, where that is known.
pub(super) fn settle(
    claim: &ResourceClaim,
    left: Vec<ResourceClaimConsumerReference>,
    owner: Option<&Pod>,
) -> Settlement {
    let kept = claim.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER);
    let (unused, fewer) = (left.is_empty(), left.len() < users(claim).len());
    let goes = claim.metadata.deletion_timestamp.is_some();
    let deallocate = unused && kept && (fewer || goes) && is_allocated(claim);
    let status = (fewer || deallocate).then(|| {
        let mut claim = claim.clone();
        let status = claim.status.get_or_insert_default();
        status.reserved_for = (!left.is_empty()).then_some(left);
        if deallocate {
            status.allocation = None;
        }
        claim
    });
    let release = unused && kept && (fewer || goes);
    let delete = unused && !goes && owner.is_some_and(|pod| !is_controlled_by(claim, pod) || is_done(pod));
    Settlement { status, release, delete }
}

#[cfg(test)]
mod tests;
