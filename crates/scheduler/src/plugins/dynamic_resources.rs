//! DynamicResources: a pod goes where the devices of its claims are. Devices are allocated by others: a claim without
//! allocation keeps its pod waiting.

use std::sync::Arc;

use k8s_openapi::api::core::v1::NodeSelector;
use skiff_api::affinity;

use crate::cluster::{Cluster, NodeInfo, PodInfo};
use crate::events::{Event, Kind};
use crate::framework::{Begin, Cycle, Plugin, Reason, Verdict};

/// The plugin.
pub struct DynamicResources;

/// Where the devices are.
struct Reach(Vec<NodeSelector>);

/// The claims of a pod, by their name in it: where they exist, their own name.
fn claims(pod: &PodInfo) -> Vec<(String, Option<String>)> {
    let made = pod.pod.status.as_ref().and_then(|status| status.resource_claim_statuses.as_deref()).unwrap_or_default();
    let claims = pod.pod.spec.iter().flat_map(|spec| spec.resource_claims.iter().flatten());
    claims
        .filter_map(|claim| {
            let generated = made.iter().find(|status| status.name == claim.name);
            match (&claim.resource_claim_name, generated) {
                (Some(name), _) => Some((claim.name.clone(), Some(name.clone()))),
                // A template that asks for nothing makes no claim.
                (None, Some(status)) => Some((claim.name.clone(), Some(status.resource_claim_name.clone()?))),
                (None, None) => Some((claim.name.clone(), None)),
            }
        })
        .collect()
}

impl Plugin for DynamicResources {
    fn name(&self) -> &'static str {
        "DynamicResources"
    }
    fn begin(&self, pod: &Arc<PodInfo>, cluster: &mut Cluster) -> Begin {
        let mut reach = Vec::new();
        for (name, claim) in claims(pod) {
            let Some(claim) = claim else {
                return Begin::Refuse(format!("pod {:?}: ResourceClaim not created yet for {name:?}", pod.key));
            };
            let Some(found) = cluster.objects.resource_claims.get(&(pod.namespace().to_owned(), claim.clone())) else {
                return Begin::Refuse(format!("resourceclaim \"{claim}\" not found"));
            };
            if found.metadata.deletion_timestamp.is_some() {
                return Begin::Refuse(format!("resourceclaim \"{claim}\" is being deleted"));
            }
            let Some(allocation) = found.status.as_ref().and_then(|status| status.allocation.as_ref()) else {
                return Begin::Refuse(format!("resourceclaim \"{claim}\" has no devices allocated"));
            };
            reach.extend(allocation.node_selector.clone());
        }
        if reach.is_empty() { Begin::Skip } else { Begin::Go(Box::new(Reach(reach))) }
    }
    fn events(&self) -> &'static [Kind] {
        &[Kind::ResourceClaim, Kind::Own, Kind::NodeAdded, Kind::NodeChanged]
    }
    fn hint(&self, pod: &PodInfo, event: &Event<'_>, _cluster: &Cluster) -> bool {
        match event {
            Event::ResourceClaim(change) => change.new.is_some_and(|new| {
                let own = |name: &String| claims(pod).iter().any(|(_, claim)| claim.as_ref() == Some(name));
                new.metadata.namespace.as_deref() == Some(pod.namespace())
                    && new.metadata.name.as_ref().is_some_and(own)
            }),
            Event::Own(_) | Event::Node(_) => true,
            _ => false,
        }
    }
}

impl Cycle for Reach {
    fn filter(&self, _cluster: &Cluster, node: &NodeInfo, reasons: &mut Vec<Reason>) -> Verdict {
        if self.0.iter().all(|selector| affinity::selects(selector, node.view())) {
            return Verdict::Fits;
        }
        reasons.push(Reason::Text("resourceclaim not available on the node"));
        Verdict::Unresolvable
    }
}
