//! ResourceQuota: what a namespace may use in all (upstream: `k8s.io/apiserver/pkg/admission/plugin/resourcequota`).
//!
//! What a write takes is added to the quota's status in the transaction of the write itself, on the condition that the
//! quota is as it was looked at: nothing can slip through between looking and writing, and nothing is charged that was
//! not written. Writers of one namespace take turns where a quota is charged, since all but one of them would have to
//! start over. What goes, ends or shrinks is found by the quota controller.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, Pod, ResourceQuota as Quota, ResourceQuotaSpec, ScopeSelector,
    ScopedResourceSelectorRequirement, Service,
};
use serde_json::{Value, json};
use skiff_api::quota;
use skiff_api::resources::{ResourceList, add, parse};
use skiff_meta::object::canonical_bytes;
use skiff_meta::{GroupResource, GroupVersionResource, Object, Status, WorldRef};
use skiff_store::{Compare, Write};
use tokio::sync::Mutex;

use super::config::LimitedResource;
use super::refuse;
use crate::chain::{Admission, AdmissionRequest, Extra, Operation, Turn};

/// Namespaces share this many turns.
const TURNS: usize = 64;

/// The plug-in.
pub(super) struct ResourceQuota {
    world: WorldRef,
    turns: Vec<Arc<Mutex<()>>>,
    limited: Vec<LimitedResource>,
}

/// What is measured.
enum Item {
    Pod(Pod),
    Service(Service),
    Claim(PersistentVolumeClaim),
    /// Simply counted.
    Other(GroupResource),
}

impl Item {
    fn read(resource: &GroupVersionResource, object: &Value) -> Result<Self, serde_json::Error> {
        let core = Some(resource.resource.as_str()).filter(|_| resource.group.is_empty());
        Ok(match core {
            Some("pods") => Self::Pod(serde_json::from_value(object.clone())?),
            Some("services") => Self::Service(serde_json::from_value(object.clone())?),
            Some("persistentvolumeclaims") => Self::Claim(serde_json::from_value(object.clone())?),
            _ => Self::Other(resource.group_resource()),
        })
    }

    /// Whether it takes of what a quota calls `name`.
    fn takes(&self, name: &str) -> bool {
        match self {
            Self::Pod(_) => quota::is_of_pods(name),
            Self::Service(_) => quota::is_of_services(name),
            Self::Claim(_) => quota::is_of_claims(name),
            Self::Other(resource) => quota::counted(name).as_ref() == Some(resource),
        }
    }

    /// Whether the quota's scopes are about it.
    fn in_scope(&self, spec: &ResourceQuotaSpec) -> bool {
        match self {
            Self::Pod(pod) => quota::covers_pod(spec, pod),
            Self::Claim(claim) => quota::covers_claim(spec, claim),
            Self::Service(_) | Self::Other(_) => !quota::has_scopes(spec),
        }
    }

    fn usage(&self, now: Timestamp) -> ResourceList {
        match self {
            Self::Pod(pod) => quota::of_pod(pod, now),
            Self::Service(service) => quota::of_service(service),
            Self::Claim(claim) => quota::of_claim(claim),
            Self::Other(resource) => quota::of_counted(resource),
        }
    }

    /// Of updates, those that can change what is used.
    fn is_worth_measuring(&self, old: Option<&Self>, subresource: &str) -> bool {
        match (self, old) {
            (Self::Pod(new), Some(Self::Pod(old))) if subresource.is_empty() => {
                let ends = |pod: &Pod| pod.spec.as_ref().is_some_and(quota::has_end);
                ends(new) != ends(old)
            }
            _ => true,
        }
    }
}

/// Whether quotas have anything to say about a resource at all.
fn is_ignored(resource: &GroupVersionResource) -> bool {
    match resource.group.as_str() {
        "" => matches!(resource.resource.as_str(), "bindings" | "componentstatuses" | "events" | "namespaces"),
        "events.k8s.io" => resource.resource == "events",
        "authentication.k8s.io" | "authorization.k8s.io" => true,
        _ => false,
    }
}

#[async_trait]
impl Admission for ResourceQuota {
    fn name(&self) -> &'static str {
        "ResourceQuota"
    }

    fn handles(&self, operation: Operation, resource: &GroupVersionResource, subresource: &str) -> bool {
        let core = Some(resource.resource.as_str()).filter(|_| resource.group.is_empty());
        match (operation, subresource) {
            (Operation::Create, "") => !is_ignored(resource),
            (Operation::Update, "") => matches!(core, Some("pods" | "services" | "persistentvolumeclaims")),
            (Operation::Update, "resize") => core == Some("pods"),
            (Operation::Update, "status") => core == Some("persistentvolumeclaims"),
            _ => false,
        }
    }

    async fn validate(
        &self,
        request: &AdmissionRequest<'_>,
        object: Option<&Value>,
        extra: &mut Extra,
    ) -> Result<(), Status> {
        let id = GroupResource::new("", "resourcequotas");
        let quotas = || request.view.list(&id, request.namespace);
        let unlimited = self.limited.is_empty() && quotas().is_empty();
        let (Some(object), false) = (object, request.namespace.is_empty() || unlimited) else { return Ok(()) };
        let read = |object: &Value| Item::read(request.resource, object).map_err(Status::internal);
        let (new, old) = (read(object)?, request.old.map(read).transpose()?);
        if !new.is_worth_measuring(old.as_ref(), request.subresource) {
            return Ok(());
        }
        let now = self.world.now();
        let limits = request.subresource != "status";
        request.view.refresh(&id).await?;
        let resource = request.resource.group_resource();
        uncovered(&self.limited, &resource, &quotas(), &new, old.as_ref(), now)
            .map_err(|why| refuse(request, Some(object), &why))?;
        if charge(&quotas(), &new, old.as_ref(), now, limits).is_ok_and(|charges| charges.is_empty()) {
            return Ok(());
        }
        // Whoever was before us may have charged the same quota.
        let turn = if request.dry_run { None } else { Some(self.turn(request.namespace).await) };
        request.view.refresh(&id).await?;
        let charges =
            charge(&quotas(), &new, old.as_ref(), now, limits).map_err(|why| refuse(request, Some(object), &why))?;
        for Charge { quota, used } in charges {
            let mut tree = quota.to_value().map_err(Status::internal)?;
            crate::tree::metadata(&mut tree).remove("resourceVersion");
            let used: Value = used.iter().map(|(name, amount)| (name.clone(), json!(amount.to_string()))).collect();
            tree["status"]["used"] = used;
            let key = request.view.key(&id, request.namespace, &quota.meta().name);
            extra.compare.push(Compare::Modified(key.clone(), quota.revision()));
            let value = canonical_bytes(&tree).map_err(Status::internal)?;
            extra.writes.push(Write::Put { key, value, lease: 0 });
        }
        extra.turn = turn;
        Ok(())
    }
}

impl ResourceQuota {
    pub(super) fn new(world: WorldRef, limited: Vec<LimitedResource>) -> Self {
        Self { world, turns: (0..TURNS).map(|_| Arc::default()).collect(), limited }
    }

    /// Waits for the namespace's turn.
    async fn turn(&self, namespace: &str) -> Turn {
        let mut hasher = DefaultHasher::new();
        namespace.hash(&mut hasher);
        let turn = &self.turns[(hasher.finish() % TURNS as u64) as usize];
        Arc::new(turn.clone().lock_owned().await)
    }
}

/// A quota, and what is used of it with the write.
struct Charge {
    quota: Arc<Object>,
    used: ResourceList,
}

/// Whether all that is used of what is limited is covered by a quota.
fn uncovered(
    limited: &[LimitedResource],
    resource: &GroupResource,
    quotas: &[Arc<Object>],
    new: &Item,
    old: Option<&Item>,
    now: Timestamp,
) -> Result<(), String> {
    if limited.is_empty() {
        return Ok(());
    }
    let (mut usage, before) = (new.usage(now), old.map(|old| old.usage(now)).unwrap_or_default());
    if usage.iter().all(|(name, amount)| before.get(name).is_some_and(|before| *before >= *amount)) {
        return Ok(());
    }
    let own = limited.iter().filter(|l| l.api_group == resource.group && l.resource == resource.resource);
    let parts: Vec<&String> = own.flat_map(|limited| &limited.match_contains).collect();
    usage.retain(|name, amount| {
        !amount.is_zero() && !amount.is_negative() && parts.iter().any(|part| name.contains(part.as_str()))
    });
    let matches = |scope: &ScopedResourceSelectorRequirement| {
        let selector = ScopeSelector { match_expressions: Some(vec![scope.clone()]) };
        new.in_scope(&ResourceQuotaSpec { scope_selector: Some(selector), ..ResourceQuotaSpec::default() })
    };
    let mut scopes: Vec<&ScopedResourceSelectorRequirement> =
        limited.iter().flat_map(|limited| &limited.match_scopes).filter(|scope| matches(scope)).collect();
    for quota in quotas.iter().filter_map(|quota| quota.typed::<Quota>().ok()) {
        let spec = quota.spec.clone().unwrap_or_default();
        let selected = spec.scope_selector.iter().flat_map(|selector| selector.match_expressions.iter().flatten());
        for own in selected.filter(|scope| matches(scope)) {
            scopes.retain(|scope| scope.scope_name != own.scope_name);
        }
        scopes.retain(|scope| !spec.scopes.iter().flatten().any(|own| *own == scope.scope_name && matches(scope)));
        if new.in_scope(&spec) {
            let hard = quota.status.as_ref().and_then(|status| status.hard.as_ref());
            usage.retain(|name, _| !hard.is_some_and(|hard| hard.contains_key(name)));
        }
    }
    if !usage.is_empty() {
        let names: Vec<&str> = usage.keys().map(String::as_str).collect();
        return Err(format!("insufficient quota to consume: {}", names.join(",")));
    }
    if !scopes.is_empty() {
        let shown = |scope: &&ScopedResourceSelectorRequirement| {
            let values = scope.values.clone().unwrap_or_default().join(" ");
            format!("{{{} {} [{values}]}}", scope.scope_name, scope.operator)
        };
        let scopes: Vec<String> = scopes.iter().map(shown).collect();
        return Err(format!("insufficient quota to match these scopes: [{}]", scopes.join(" ")));
    }
    Ok(())
}

/// What a write costs, or why it may not be. Pure.
fn charge(
    quotas: &[Arc<Object>],
    new: &Item,
    old: Option<&Item>,
    now: Timestamp,
    limits: bool,
) -> Result<Vec<Charge>, String> {
    let mut concerned = Vec::new();
    for object in quotas {
        let Ok(quota) = object.typed::<Quota>() else { continue };
        let (spec, status) = (quota.spec.clone().unwrap_or_default(), quota.status.clone().unwrap_or_default());
        let (hard, used) = (parse(&status.hard), parse(&status.used));
        let names: Vec<&str> = hard.keys().map(String::as_str).filter(|name| new.takes(name)).collect();
        if names.is_empty() || !new.in_scope(&spec) {
            continue;
        }
        if let Item::Pod(pod) = new
            && let Some(missing) = quota::missing(pod, &names)
        {
            return Err(format!("failed quota: {}: must specify {missing}", object.meta().name));
        }
        if names.iter().any(|name| !used.contains_key(*name)) {
            let name = &object.meta().name;
            return Err(format!("status unknown for quota: {name}, resources: {}", names.join(",")));
        }
        concerned.push((object, spec, hard, used));
    }
    let usage = new.usage(now);
    let mut charges = Vec::new();
    for (object, spec, hard, mut used) in concerned {
        // What has just come into the quota's scope is new to it as a whole.
        let before = old.filter(|old| old.in_scope(&spec)).map(|old| old.usage(now)).unwrap_or_default();
        let asked: ResourceList = usage
            .iter()
            .filter(|(name, _)| hard.contains_key(*name))
            .map(|(name, amount)| (name.clone(), before.get(name).map_or(*amount, |before| amount.minus(*before))))
            .filter(|(_, amount)| !amount.is_zero() && !amount.is_negative())
            .collect();
        if asked.is_empty() {
            continue;
        }
        let was = used.clone();
        add(&mut used, &asked);
        let beyond: Vec<&str> = asked.keys().map(String::as_str).filter(|name| used[*name] > hard[*name]).collect();
        if limits && !beyond.is_empty() {
            let shown = |list: &ResourceList| {
                let each = beyond.iter().filter_map(|name| Some(format!("{name}={}", list.get(*name)?)));
                each.collect::<Vec<_>>().join(",")
            };
            let (name, asked, was, hard) = (&object.meta().name, shown(&asked), shown(&was), shown(&hard));
            return Err(format!("exceeded quota: {name}, requested: {asked}, used: {was}, limited: {hard}"));
        }
        charges.push(Charge { quota: object.clone(), used });
    }
    Ok(charges)
}

#[cfg(test)]
mod tests;
