//! DynamicResources: a pod goes where the devices of its claims are, or can be had.
//!
//! What is found for the chosen node is promised at once (see [`plan`] and [`crate::devices::Stock`]), written before the
//! pod is bound, and waited for where drivers have to make devices ready first.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ContainerExtendedResourceRequest;
use k8s_openapi::api::resource::v1::{AllocationResult, ResourceClaim};
use skiff_api::affinity;
use skiff_api::claims::{self, is_allocated, is_reserved_for};

use crate::cluster::objects::Key;
use crate::cluster::{Cluster, NodeInfo, NodeIx, Objects, PodInfo};
use crate::devices::{self, Fault, Readiness, Site, Stock, Want, extended};
use crate::events::{Change, Event, Kind};
use crate::framework::{Begin, Cycle, GiveUp, Plugin, Reason, Verdict, normalize_by_highest};

/// How long drivers have to make devices ready.
pub const BINDING_TIMEOUT: Duration = Duration::from_secs(600);
const NOT_HERE: Reason = Reason::Text("resourceclaim not available on the node");
const NONE_LEFT: Reason = Reason::Text("cannot allocate all claims");
const LEFT_OVER: Reason = Reason::Text("cannot schedule extended resource claim");

/// The plugin.
pub struct DynamicResources;

/// A claim that has its devices.
struct Allocated {
    claim: Arc<ResourceClaim>,
    /// Its devices did not, or not in time, become ready: others may do better.
    failed: bool,
}

/// A claim for what a node has to meet with devices, and which container is met by what.
type Special = (Rc<Want>, Vec<ContainerExtendedResourceRequest>);

/// A pod's claims.
#[derive(Default)]
struct Claims {
    pod: Option<Arc<PodInfo>>,
    allocated: Vec<Allocated>,
    wants: Vec<Want>,
    /// The claim that was made for extended resources at an earlier attempt.
    left_over: Option<Arc<ResourceClaim>>,
    /// Devices may have to meet requests for extended resources.
    extended: bool,
    /// By the resources that a node has to meet so; the same on most nodes.
    specials: RefCell<BTreeMap<BTreeSet<String>, Special>>,
    /// Alternatives of requests are scored: by node.
    scores: RefCell<BTreeMap<NodeIx, i64>>,
    /// Which of the allocated claims some node does not reach.
    out_of_reach: RefCell<BTreeSet<usize>>,
}

/// A claim that is to be written before its pod is bound.
#[derive(Clone, Debug)]
pub struct Reservation {
    /// Its promise's key.
    pub key: String,
    /// The claim; without a name it has yet to be made.
    pub claim: Arc<ResourceClaim>,
    /// What it gets; `None`: it has its devices.
    pub allocation: Option<Arc<AllocationResult>>,
    /// Which container's request for an extended resource is met by which of its requests.
    pub mappings: Vec<ContainerExtendedResourceRequest>,
}

/// What has to be written for a pod's devices.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Claims to be reserved for the pod.
    pub reservations: Vec<Reservation>,
    /// Claims that are reserved for it already.
    pub reserved: Vec<Arc<ResourceClaim>>,
}

impl Plan {
    /// Whether there is nothing to write or to wait for.
    pub fn is_empty(&self) -> bool {
        self.reservations.is_empty() && self.reserved.is_empty()
    }
}

fn key(claim: &ResourceClaim) -> Key {
    (claim.metadata.namespace.clone().unwrap_or_default(), claim.metadata.name.clone().unwrap_or_default())
}

fn uid(claim: &ResourceClaim) -> &str {
    claim.metadata.uid.as_deref().unwrap_or_default()
}

/// A claim that cannot be used.
struct Unusable {
    why: String,
    /// It is about to be made from its template.
    coming: bool,
}

impl From<String> for Unusable {
    fn from(why: String) -> Self {
        Self { why, coming: false }
    }
}

/// The claims that a pod names. The error says what is missing.
fn named(pod: &PodInfo, objects: &Objects) -> Result<Vec<Arc<ResourceClaim>>, Unusable> {
    let mut found = Vec::new();
    for reference in pod.pod.spec.iter().flat_map(|spec| spec.resource_claims.iter().flatten()) {
        let Some(name) = claims::name(&pod.pod, reference) else {
            let why = format!("pod {:?}: ResourceClaim not created yet", pod.key);
            return Err(Unusable { why, coming: true });
        };
        let Some(name) = name else { continue };
        let Some(claim) = objects.resource_claims.get(&(pod.namespace().to_owned(), name.to_owned())) else {
            return Err(format!("resourceclaim.resource.k8s.io \"{name}\" not found").into());
        };
        if claim.metadata.deletion_timestamp.is_some() {
            return Err(format!("resourceclaim \"{name}\" is being deleted").into());
        }
        let mut owners = claim.metadata.owner_references.iter().flatten();
        let own = owners.any(|owner| owner.controller == Some(true) && owner.uid == pod.uid);
        if reference.resource_claim_name.is_none() && !own {
            let claim = devices::shown(claim);
            return Err(format!("ResourceClaim {claim} was not created for Pod {} (Pod is not owner)", pod.key).into());
        }
        found.push(claim.clone());
    }
    Ok(found)
}

impl Claims {
    /// All that the pod needs to know before any node. The error is why no node will do.
    fn of(pod: &Arc<PodInfo>, claims: Vec<Arc<ResourceClaim>>, objects: &Objects) -> Result<Self, String> {
        let stock = &objects.devices;
        let mut all = Self { pod: Some(pod.clone()), ..Self::default() };
        all.extended = extended::resources_of(pod, stock).next().is_some();
        if all.extended {
            let here = objects.resource_claims.range((pod.namespace().to_owned(), String::new())..);
            let mut here = here.take_while(|((namespace, _), _)| namespace == pod.namespace());
            all.left_over = here.find(|(_, claim)| extended::is_for(claim, pod)).map(|(_, claim)| claim.clone());
        }
        for claim in claims {
            if is_allocated(&claim) {
                let failed = match devices::readiness(&claim) {
                    Readiness::Ready => false,
                    Readiness::Waits => is_late(&claim, objects.now),
                    Readiness::Failed(_) => true,
                };
                all.allocated.push(Allocated { claim, failed });
                continue;
            }
            let shown = devices::shown(&claim);
            if stock.is_pending(uid(&claim)) {
                return Err(format!("resource claim {shown} is in the process of being allocated"));
            }
            all.wants.push(Want::new(claim, stock).map_err(|fault| match fault {
                Fault::NoClass { request, class, .. } => {
                    format!("request {request}: device class {class} does not exist")
                }
                other => other.to_string(),
            })?);
        }
        Ok(all)
    }

    /// What devices have to meet of the pod's extended resources on a node.
    fn special(&self, stock: &Stock, node: &NodeInfo) -> Result<Option<Special>, Fault> {
        let Some(pod) = self.pod.as_deref().filter(|_| self.extended) else { return Ok(None) };
        let names = extended::backed(pod, stock, node);
        if names.is_empty() {
            return Ok(None);
        }
        let owned: BTreeSet<String> = names.iter().map(|name| (*name).to_owned()).collect();
        if let Some(known) = self.specials.borrow().get(&owned) {
            return Ok(Some(known.clone()));
        }
        let (claim, mappings) = extended::claim(pod, stock, &names);
        let special = (Rc::new(Want::new(claim, stock)?), mappings);
        self.specials.borrow_mut().insert(owned, special.clone());
        Ok(Some(special))
    }

    /// All that has to be allocated.
    fn wants<'a>(&'a self, special: Option<&'a Special>) -> Vec<&'a Want> {
        self.wants.iter().chain(special.map(|(want, _)| &**want)).collect()
    }

    /// The allocated claims that a node does not reach.
    fn out_of_reach<'a>(&'a self, node: &'a NodeInfo) -> impl Iterator<Item = usize> + 'a {
        let reaches = |claim: &ResourceClaim| {
            let allocation = claim.status.as_ref().and_then(|status| status.allocation.as_ref());
            let selector = allocation.and_then(|allocation| allocation.node_selector.as_ref());
            selector.is_none_or(|selector| affinity::selects(selector, node.view()))
        };
        let all = self.allocated.iter().enumerate();
        all.filter(move |(_, a)| a.failed || !reaches(&a.claim)).map(|(number, _)| number)
    }

    fn score_of_allocated(&self) -> i64 {
        self.allocated.iter().map(|allocated| devices::score_of(&allocated.claim)).sum()
    }

    fn is_scored(&self) -> bool {
        self.wants.iter().any(Want::has_alternatives)
    }
}

/// Whether drivers have had their time to make a claim's devices ready.
fn is_late(claim: &ResourceClaim, now: jiff::Timestamp) -> bool {
    let allocation = claim.status.as_ref().and_then(|status| status.allocation.as_ref());
    let since = allocation.and_then(|allocation| allocation.allocation_timestamp.as_ref());
    since.is_some_and(|since| {
        now.duration_since(since.0) > jiff::SignedDuration::from_secs(BINDING_TIMEOUT.as_secs() as i64)
    })
}

/// What has to be written for the pod's devices on this node. `share` makes the identity of a share of a device.
///
/// # Errors
/// What does not fit, when something has changed since the node was found to fit.
pub fn plan(
    pod: &Arc<PodInfo>,
    objects: &Objects,
    node: &NodeInfo,
    share: impl FnMut() -> String,
) -> Result<Plan, String> {
    let claims = named(pod, objects).map_err(|unusable| unusable.why)?;
    if claims.is_empty() && extended::resources_of(pod, &objects.devices).next().is_none() {
        return Ok(Plan::default());
    }
    let claims = Claims::of(pod, claims, objects)?;
    let mut plan = Plan::default();
    for Allocated { claim, .. } in &claims.allocated {
        match is_reserved_for(claim, &pod.uid) {
            true => plan.reserved.push(claim.clone()),
            false => plan.reservations.push(Reservation {
                key: uid(claim).to_owned(),
                claim: claim.clone(),
                allocation: None,
                mappings: Vec::new(),
            }),
        }
    }
    let special = claims.special(&objects.devices, node).map_err(|fault| fault.to_string())?;
    let wants = claims.wants(special.as_ref());
    if wants.is_empty() {
        return Ok(plan);
    }
    let site = Site::new(&objects.devices, node.view());
    let found = devices::allocate(&site, &wants).map_err(|fault| fault.to_string())?;
    let found = found.ok_or_else(|| NONE_LEFT.to_string())?;
    let results = devices::results(&found, &wants, &site, share);
    for (number, (want, allocation)) in wants.iter().zip(results).enumerate() {
        let mappings = special.as_ref().filter(|_| number == claims.wants.len()).map(|(_, mappings)| mappings.clone());
        plan.reservations.push(Reservation {
            key: if mappings.is_some() { pod.uid.clone() } else { uid(&want.claim).to_owned() },
            claim: want.claim.clone(),
            allocation: Some(Arc::new(allocation)),
            mappings: mappings.unwrap_or_default(),
        });
    }
    Ok(plan)
}

impl Plugin for DynamicResources {
    fn name(&self) -> &'static str {
        "DynamicResources"
    }
    fn begin(&self, pod: &Arc<PodInfo>, cluster: &mut Cluster) -> Begin {
        let claims = match named(pod, &cluster.objects) {
            Ok(claims) => claims,
            Err(Unusable { why, coming: true }) => return Begin::Wait(why),
            Err(Unusable { why, .. }) => return Begin::Refuse(why),
        };
        if claims.is_empty() && extended::resources_of(pod, &cluster.objects.devices).next().is_none() {
            return Begin::Skip;
        }
        match Claims::of(pod, claims, &cluster.objects) {
            Ok(claims) => Begin::Go(Box::new(claims)),
            Err(why) => Begin::Refuse(why),
        }
    }
    fn events(&self) -> &'static [Kind] {
        use Kind::{DeviceClass, NodeAdded, NodeChanged, Own, ResourceClaim, ResourceSlice};
        &[ResourceClaim, DeviceClass, ResourceSlice, Own, NodeAdded, NodeChanged]
    }
    fn hint(&self, pod: &PodInfo, event: &Event<'_>, cluster: &Cluster) -> bool {
        let own = || named(pod, &cluster.objects);
        match event {
            Event::ResourceClaim(Change { old, new }) => {
                let Ok(own) = own() else { return false };
                let frees = old.is_some_and(is_allocated) && !new.is_some_and(is_allocated);
                let status =
                    |claim: &Option<&ResourceClaim>| claim.and_then(|claim| claim.status.clone()).unwrap_or_default();
                let is_own = |new: &ResourceClaim| own.iter().any(|claim| claim.metadata.uid == new.metadata.uid);
                let left_over = new.is_none() && old.is_some_and(|old| extended::is_for(old, pod));
                frees || left_over || (new.is_some_and(is_own) && (old.is_none() || status(old) != status(new)))
            }
            Event::Own(_) => own().is_ok(),
            Event::DeviceClass(change) => change.new.is_some(),
            Event::ResourceSlice(change) => change.new.is_some(),
            Event::Node(_) => true,
            _ => false,
        }
    }
}

impl Cycle for Claims {
    fn filter(&self, cluster: &Cluster, node: &NodeInfo, reasons: &mut Vec<Reason>) -> Verdict {
        let stock = &cluster.objects.devices;
        if self.left_over.is_some() {
            reasons.push(LEFT_OVER);
            return Verdict::Unresolvable;
        }
        if self.out_of_reach(node).next().is_some() {
            self.out_of_reach.borrow_mut().extend(self.out_of_reach(node));
            reasons.push(NOT_HERE);
            return Verdict::Unresolvable;
        }
        let outcome = self.special(stock, node).and_then(|special| {
            let wants = self.wants(special.as_ref());
            if wants.is_empty() {
                return Ok(true);
            }
            let found = devices::allocate(&Site::new(stock, node.view()), &wants)?;
            if let Some(found) = &found
                && self.is_scored()
            {
                let score = self.score_of_allocated() + found.score(&wants);
                self.scores.borrow_mut().insert(node.ix, score);
            }
            Ok(found.is_some())
        });
        match outcome {
            Ok(true) => return Verdict::Fits,
            Ok(false) => reasons.push(NONE_LEFT),
            Err(fault) if fault.is_of_node() => reasons.push(Reason::Said(fault.to_string().into())),
            Err(fault) => {
                reasons.push(Reason::Said(fault.to_string().into()));
                return Verdict::Failed;
            }
        }
        Verdict::Unresolvable
    }
    fn pre_score(&mut self, _cluster: &Cluster, _nodes: &[NodeIx]) -> bool {
        self.is_scored()
    }
    fn score(&self, _cluster: &Cluster, node: &NodeInfo) -> i64 {
        self.scores.borrow().get(&node.ix).copied().unwrap_or(0)
    }
    fn normalize(&self, scores: &mut [i64]) {
        normalize_by_highest(scores, false);
    }
    fn give_up(&self) -> Option<GiveUp> {
        let pod = self.pod.as_deref()?;
        let free = |claim: &&Arc<ResourceClaim>| claims::users(claim).iter().all(|user| user.uid == pod.uid);
        let out_of_reach = self.out_of_reach.borrow();
        let claim = out_of_reach.iter().map(|number| &self.allocated[*number].claim).find(free).cloned();
        Some(match (claim, &self.left_over) {
            (Some(claim), _) => GiveUp::Deallocate(claim),
            (None, Some(claim)) => GiveUp::Delete(claim.clone()),
            (None, None) => GiveUp::Nothing,
        })
    }
    fn explain(&self, cluster: &Cluster, node: &NodeInfo) -> Option<String> {
        if let Some(number) = self.out_of_reach(node).next() {
            let Allocated { claim, failed } = &self.allocated[number];
            let why = if *failed { "its devices did not become ready" } else { "its devices are on other nodes" };
            return Some(format!("claim {}: {why}", key(claim).1));
        }
        let stock = &cluster.objects.devices;
        let special = self.special(stock, node).ok()?;
        devices::explain(&Site::new(stock, node.view()), &self.wants(special.as_ref()))
    }
}
