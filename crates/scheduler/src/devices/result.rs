//! From a solution to what is written into claims.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm};
use k8s_openapi::api::resource::v1::{
    AllocationResult, DeviceAllocationConfiguration, DeviceAllocationResult, DeviceRequestAllocationResult,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::allocate::{Found, Pick};
use super::pools::Site;
use super::want::{Request, Want};

/// What is written into each claim. `share` makes the identity of a share of a device.
pub fn results(
    found: &Found,
    wants: &[&Want],
    site: &Site<'_>,
    mut share: impl FnMut() -> String,
) -> Vec<AllocationResult> {
    let each = wants.iter().zip(&found.picks).zip(&found.chosen);
    each.map(|((want, picks), chosen)| {
        let asked: Vec<&Request> =
            want.requests.iter().zip(chosen).map(|(request, chosen)| &request[*chosen]).collect();
        let devices = picks.iter().map(|pick| device(pick, asked[pick.request], site, &mut share)).collect();
        let config = configuration(want, &asked);
        AllocationResult {
            allocation_timestamp: None,
            devices: Some(DeviceAllocationResult {
                config: (!config.is_empty()).then_some(config),
                results: Some(devices),
            }),
            node_selector: nodes(picks, site),
        }
    })
    .collect()
}

fn device(
    pick: &Pick,
    asked: &Request,
    site: &Site<'_>,
    share: &mut impl FnMut() -> String,
) -> DeviceRequestAllocationResult {
    let candidate = &site.candidates[pick.device];
    let (driver, pool) = site.pools[candidate.pool].id.clone();
    let consumed = pick.share.as_ref().filter(|share| !share.is_empty());
    DeviceRequestAllocationResult {
        admin_access: asked.is_admin.then_some(true),
        binding_conditions: candidate.device.binding_conditions.clone(),
        binding_failure_conditions: candidate.device.binding_failure_conditions.clone(),
        consumed_capacity: consumed
            .map(|all| all.iter().map(|(name, n)| (name.clone(), Quantity(n.to_string()))).collect()),
        device: candidate.device.name.clone(),
        driver,
        pool,
        request: asked.full_name(),
        share_id: pick.share.is_some().then(share),
        tolerations: (!asked.tolerations.is_empty()).then(|| asked.tolerations.clone()),
    }
}

/// What the classes say, each once, and then what the claim says about its requests.
fn configuration(want: &Want, asked: &[&Request]) -> Vec<DeviceAllocationConfiguration> {
    let mut config = Vec::new();
    let mut classes = BTreeSet::new();
    for request in asked {
        if !classes.insert(&request.class.metadata.name) {
            continue;
        }
        let same = asked.iter().filter(|other| other.class.metadata.name == request.class.metadata.name);
        let requests: Vec<String> = same.map(|request| request.full_name()).collect();
        config.extend(request.class.spec.config.iter().flatten().map(|class| DeviceAllocationConfiguration {
            opaque: class.opaque.clone(),
            requests: Some(requests.clone()),
            source: "FromClass".to_owned(),
        }));
    }
    let own = want.claim.spec.devices.iter().flat_map(|devices| devices.config.iter().flatten());
    let own = own.filter(|config| asked.iter().any(|request| request.is_among(config.requests.as_ref())));
    config.extend(own.map(|config| DeviceAllocationConfiguration {
        opaque: config.opaque.clone(),
        requests: config.requests.clone(),
        source: "FromClaim".to_owned(),
    }));
    config
}

/// The nodes that reach all of the devices; `None`: all do.
fn nodes(picks: &[Pick], site: &Site<'_>) -> Option<NodeSelector> {
    let mut term = NodeSelectorTerm::default();
    for candidate in picks.iter().map(|pick| &site.candidates[pick.device]) {
        let (name, selector) = candidate.slice.nodes_of(candidate.place);
        if name.is_some() || candidate.device.binds_to_node == Some(true) {
            let this = NodeSelectorRequirement {
                key: "metadata.name".to_owned(),
                operator: "In".to_owned(),
                values: Some(vec![site.node.name.to_owned()]),
            };
            let term = NodeSelectorTerm { match_fields: Some(vec![this]), match_expressions: None };
            return Some(NodeSelector { node_selector_terms: vec![term] });
        }
        for more in selector.iter().flat_map(|selector| &selector.node_selector_terms) {
            merge(&mut term.match_fields, more.match_fields.as_ref());
            merge(&mut term.match_expressions, more.match_expressions.as_ref());
        }
    }
    let selects = term.match_fields.is_some() || term.match_expressions.is_some();
    selects.then(|| NodeSelector { node_selector_terms: vec![term] })
}

fn merge(into: &mut Option<Vec<NodeSelectorRequirement>>, more: Option<&Vec<NodeSelectorRequirement>>) {
    for requirement in more.into_iter().flatten() {
        let known = into.get_or_insert_default();
        if !known.contains(requirement) {
            known.push(requirement.clone());
        }
    }
}
