//! NodeRestriction: what a node agent may write inside the objects it may write at all.
//!
//! Rules as in upstream's `plugin/pkg/admission/noderestriction`.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use k8s_openapi::api::storage::v1::CSIDriver;
use serde_json::Value;
use skiff_meta::{GroupResource, GroupVersionResource, Status};

use super::{certificates, find, items, refuse, text};
use crate::auth::names::node_of;
use crate::auth::references::{Kind, references};
use crate::chain::{Admission, AdmissionRequest, Attributes, Authorizer, Decision, Extra, Operation};

const MIRROR: &str = "kubernetes.io/config.mirror";
const LEASES: &str = "kube-node-lease";
const RESTRICTED: &str = "node-restriction.kubernetes.io";
/// Labels of Kubernetes' own that a node may set on itself.
const OWN_LABELS: [&str; 11] = [
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "kubernetes.io/arch",
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];
const OWN_LABEL_DOMAINS: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];

/// The plug-in.
pub(super) struct NodeRestriction {
    authorizer: Arc<dyn Authorizer>,
}

/// Yes, the words of a no, or a status of its own.
enum No {
    Words(String),
    Status(Box<Status>),
}

type Verdict = Result<(), No>;

fn no(words: impl Into<String>) -> Verdict {
    Err(No::Words(words.into()))
}

impl From<Status> for No {
    fn from(status: Status) -> Self {
        Self::Status(Box::new(status))
    }
}

#[async_trait]
impl Admission for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    fn handles(&self, operation: Operation, _resource: &GroupVersionResource, _subresource: &str) -> bool {
        operation != Operation::Connect
    }

    async fn validate(
        &self,
        request: &AdmissionRequest<'_>,
        object: Option<&Value>,
        _extra: &mut Extra,
    ) -> Result<(), Status> {
        let Some(node) = node_of(request.user) else { return Ok(()) };
        self.check(node, request, object).await.map_err(|no| match no {
            No::Words(words) => refuse(request, object, &words),
            No::Status(status) => *status,
        })
    }
}

impl NodeRestriction {
    pub(super) fn new(authorizer: Arc<dyn Authorizer>) -> Self {
        Self { authorizer }
    }

    async fn check(&self, node: &str, request: &AdmissionRequest<'_>, object: Option<&Value>) -> Verdict {
        let new = object.unwrap_or(&Value::Null);
        let old = request.old.unwrap_or(&Value::Null);
        let resource = (request.resource.group.as_str(), request.resource.resource.as_str(), request.subresource);
        match resource {
            ("", "pods", "") => pod(node, request, new, old).await,
            ("", "pods", "status") => pod_status(node, new, old),
            ("", "pods", "eviction") => eviction(node, request).await,
            ("", "pods", other) => {
                no(format!("unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"))
            }
            ("", "nodes", _) => own_node(node, request, new, old),
            ("", "persistentvolumeclaims", "status") => claim_status(node, new, old),
            ("", "persistentvolumeclaims", _) => no("may only update PVC status"),
            ("", "serviceaccounts", "token") if request.operation == Operation::Create => {
                self.token(node, request, new).await
            }
            ("coordination.k8s.io", "leases", _) => lease(node, request, new),
            ("storage.k8s.io", "csinodes", _) => {
                named(node, request, new, "can only access CSINode with the same name as the requesting node")
            }
            ("certificates.k8s.io", "certificatesigningrequests", _) => signing_request(node, request, new),
            _ => Ok(()),
        }
    }

    /// A token for a pod on this node, for an audience the pod asks for.
    async fn token(&self, node: &str, request: &AdmissionRequest<'_>, new: &Value) -> Verdict {
        let bound = &new["spec"]["boundObjectRef"];
        let to_pod = text(bound, "apiVersion") == "v1" && text(bound, "kind") == "Pod";
        if !to_pod || text(bound, "name").is_empty() {
            return no("node requested token not bound to a pod");
        }
        let uid = text(bound, "uid");
        if uid.is_empty() {
            return no("node requested token with a pod binding without a uid");
        }
        let pods = GroupResource::new("", "pods");
        let found = find(request.view, &pods, request.namespace, text(bound, "name")).await?;
        let pod = found.ok_or_else(|| Status::not_found(&pods, text(bound, "name")))?;
        if pod.meta().uid != uid {
            return no(format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have \
                 been deleted and then recreated"
            ));
        }
        let pod = pod.typed::<Pod>().map_err(Status::internal)?;
        let spec = pod.spec.as_ref();
        if spec.and_then(|s| s.node_name.as_deref()) != Some(node) {
            return no("node requested token bound to a pod scheduled on a different node");
        }
        let audience = match items(&new["spec"]["audiences"]) {
            [] => "",
            [one] => one.as_str().unwrap_or_default(),
            _ => return no("node may only request 0 or 1 audiences"),
        };
        let volumes = spec.and_then(|s| s.volumes.as_deref()).unwrap_or_default();
        if volumes.iter().any(|volume| projects_audience(volume, audience)) {
            return Ok(());
        }
        for volume in volumes {
            if driver_wants(request, volume, &pod, audience).await? {
                return Ok(());
            }
        }
        self.may_request(request, audience).await
    }

    async fn may_request(&self, request: &AdmissionRequest<'_>, audience: &str) -> Verdict {
        let attributes = Attributes {
            user: request.user,
            verb: "request-serviceaccounts-token-audience",
            group: "",
            version: "v1",
            resource: audience,
            subresource: "",
            namespace: request.namespace,
            name: request.name,
            fields: "",
            labels: "",
            path: "",
        };
        if matches!(self.authorizer.authorize(&attributes).await, Decision::Allow(_)) {
            return Ok(());
        }
        no(format!(
            "audience {audience:?} not found in pod spec volume, {} is not authorized to request tokens for this audience",
            request.user.name
        ))
    }
}

/// Whether the driver of a volume asks for tokens for this audience.
async fn driver_wants(
    request: &AdmissionRequest<'_>,
    volume: &Volume,
    pod: &Pod,
    audience: &str,
) -> Result<bool, Status> {
    let named = match (&volume.csi, skiff_api::volumes::claim(pod, volume)) {
        (Some(inline), _) => Some(inline.driver.clone()),
        (None, Some(claim)) => claimed_driver(request, &claim).await?,
        (None, None) => None,
    };
    let Some(named) = named else { return Ok(false) };
    let drivers = GroupResource::new("storage.k8s.io", "csidrivers");
    let Some(driver) = find(request.view, &drivers, "", &named).await? else { return Ok(false) };
    let driver = driver.typed::<CSIDriver>().map_err(Status::internal)?;
    Ok(driver.spec.token_requests.iter().flatten().any(|wanted| wanted.audience == audience))
}

/// The driver behind a claim of the pod's namespace.
async fn claimed_driver(request: &AdmissionRequest<'_>, claim: &str) -> Result<Option<String>, Status> {
    let claims = GroupResource::new("", "persistentvolumeclaims");
    let Some(claim) = find(request.view, &claims, request.namespace, claim).await? else { return Ok(None) };
    let claim = claim.typed::<PersistentVolumeClaim>().map_err(Status::internal)?;
    let Some(name) = claim.spec.as_ref().and_then(|spec| spec.volume_name.clone()) else { return Ok(None) };
    let volumes = GroupResource::new("", "persistentvolumes");
    let Some(volume) = find(request.view, &volumes, "", &name).await? else { return Ok(None) };
    let volume = volume.typed::<PersistentVolume>().map_err(Status::internal)?;
    Ok(volume.spec.as_ref().and_then(|spec| Some(spec.csi.as_ref()?.driver.clone())))
}

fn projects_audience(volume: &Volume, audience: &str) -> bool {
    let sources = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
    let tokens = sources.filter_map(|source| source.service_account_token.as_ref());
    tokens.into_iter().any(|token| token.audience.as_deref().unwrap_or_default() == audience)
}

async fn pod(node: &str, request: &AdmissionRequest<'_>, new: &Value, old: &Value) -> Verdict {
    match request.operation {
        Operation::Create => mirror_pod(node, request, new).await,
        Operation::Delete if text(&old["spec"], "nodeName") == node => Ok(()),
        Operation::Delete => no(format!("node {node:?} can only delete pods with spec.nodeName set to itself")),
        other => no(format!(
            "unexpected operation {:?}, node {node:?} can only create and delete mirror pods",
            other.as_str()
        )),
    }
}

/// Mirror pods show what a node runs of its own accord; they may not pull in anything from the API.
async fn mirror_pod(node: &str, request: &AdmissionRequest<'_>, new: &Value) -> Verdict {
    if new["metadata"]["annotations"].get(MIRROR).is_none() {
        return no(format!("pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"));
    }
    if text(&new["spec"], "nodeName") != node {
        return no(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
    }
    let [owner] = items(&new["metadata"]["ownerReferences"]) else {
        let several = items(&new["metadata"]["ownerReferences"]).len() > 1;
        let which = if several { "a single owner reference" } else { "an owner reference" };
        return no(format!("node {node:?} can only create pods with {which} set to itself"));
    };
    if (text(owner, "apiVersion"), text(owner, "kind"), text(owner, "name")) != ("v1", "Node", node) {
        return no(format!("node {node:?} can only create pods with an owner reference set to itself"));
    }
    if owner["controller"] != true {
        return no(format!("node {node:?} can only create pods with a controller owner reference set to itself"));
    }
    if owner["blockOwnerDeletion"] == true {
        return no(format!("node {node:?} must not set blockOwnerDeletion on an owner reference"));
    }
    let nodes = GroupResource::new("", "nodes");
    let found = find(request.view, &nodes, "", node).await?.ok_or_else(|| Status::not_found(&nodes, node))?;
    let (said, is) = (text(owner, "uid"), &found.meta().uid);
    if said != is {
        return no(format!("node {node} UID mismatch: expected {said} got {is}"));
    }
    match referred(new)? {
        Some(what) => no(format!("node {node:?} can not create pods that reference {what}")),
        None => Ok(()),
    }
}

/// The first sort of API objects that a pod refers to.
fn referred(pod: &Value) -> Result<Option<&'static str>, No> {
    let typed: Pod = serde_json::from_value(pod.clone()).map_err(Status::internal)?;
    let kinds: Vec<Kind> = references(&typed).into_iter().map(|(kind, _)| kind).collect();
    let by_name = [
        (Kind::Account, "serviceaccounts"),
        (Kind::Secret, "secrets"),
        (Kind::ConfigMap, "configmaps"),
        (Kind::ResourceClaim, "resourceclaims"),
        (Kind::Claim, "persistentvolumeclaims"),
    ];
    let spec = typed.spec.unwrap_or_default();
    if let Some((_, what)) = by_name.iter().find(|(kind, _)| kinds.contains(kind)) {
        return Ok(Some(what));
    }
    if spec.resource_claims.is_some_and(|claims| !claims.is_empty()) {
        return Ok(Some("resourceclaims"));
    }
    Ok(spec.volumes.iter().flatten().find_map(through_volume))
}

/// What a volume takes from the API beside objects of the pod's own namespace.
fn through_volume(volume: &Volume) -> Option<&'static str> {
    if volume.csi.is_some() {
        return Some("csidrivers (via CSI volumes)");
    }
    if volume.glusterfs.is_some() {
        return Some("endpoints (via glusterFS volumes)");
    }
    volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten()).find_map(|source| {
        if source.service_account_token.is_some() {
            Some("serviceaccounts (via projected volumes)")
        } else if source.cluster_trust_bundle.is_some() {
            Some("clustertrustbundles")
        } else {
            source.pod_certificate.as_ref().map(|_| "podcertificates")
        }
    })
}

/// Whether a pod refers to secrets.
pub(super) fn references_secrets(spec: &Value) -> bool {
    let pod = serde_json::from_value::<Pod>(serde_json::json!({"spec": spec})).unwrap_or_default();
    references(&pod).iter().any(|(kind, _)| *kind == Kind::Secret)
}

fn pod_status(node: &str, new: &Value, old: &Value) -> Verdict {
    if text(&old["spec"], "nodeName") != node {
        return no(format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself"));
    }
    if labels(old) != labels(new) {
        return no(format!("node {node:?} cannot update labels through pod status"));
    }
    let same = |field: &str| old["status"][field] == new["status"][field];
    if !same("resourceClaimStatuses") {
        return no(format!("node {node:?} cannot update resource claim statues"));
    }
    if !same("extendedResourceClaimStatus") {
        return no(format!("node {node:?} cannot update extended resource claim status"));
    }
    Ok(())
}

async fn eviction(node: &str, request: &AdmissionRequest<'_>) -> Verdict {
    let pods = GroupResource::new("", "pods");
    let found = find(request.view, &pods, request.namespace, request.name).await?;
    let pod = found.ok_or_else(|| Status::not_found(&pods, request.name))?;
    let pod = pod.typed::<Pod>().map_err(Status::internal)?;
    if pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) != Some(node) {
        return no(format!("node {node} can only evict pods with spec.nodeName set to itself"));
    }
    Ok(())
}

fn own_node(node: &str, request: &AdmissionRequest<'_>, new: &Value, old: &Value) -> Verdict {
    let name = if request.name.is_empty() { text(&new["metadata"], "name") } else { request.name };
    if name != node {
        return no(format!("node {node:?} is not allowed to modify node {name:?}"));
    }
    match request.operation {
        Operation::Create => {
            let forbidden = forbidden_labels(new, &Value::Null);
            if !forbidden.is_empty() {
                let words =
                    format!("node {node:?} is not allowed to set the following labels: {}", forbidden.join(", "));
                return no(words);
            }
        }
        Operation::Update => {
            if new["spec"]["taints"] != old["spec"]["taints"] {
                return no(format!("node {node:?} is not allowed to modify taints"));
            }
            if new["metadata"]["ownerReferences"] != old["metadata"]["ownerReferences"] {
                return no(format!("node {node:?} is not allowed to modify ownerReferences"));
            }
            let forbidden = forbidden_labels(new, old);
            if !forbidden.is_empty() {
                return no(format!("is not allowed to modify labels: {}", forbidden.join(", ")));
            }
        }
        Operation::Delete | Operation::Connect => {}
    }
    Ok(())
}

fn labels(object: &Value) -> std::collections::BTreeMap<&str, &str> {
    let labels = object["metadata"]["labels"].as_object().into_iter().flatten();
    labels.map(|(key, value)| (key.as_str(), value.as_str().unwrap_or_default())).collect()
}

/// Labels that differ and that a node must not touch, since they could steer pods to it.
fn forbidden_labels<'a>(new: &'a Value, old: &'a Value) -> Vec<&'a str> {
    let (new, old) = (labels(new), labels(old));
    let keys: BTreeSet<&str> = new.keys().chain(old.keys()).copied().collect();
    keys.into_iter().filter(|key| new.get(key) != old.get(key) && is_forbidden(key)).collect()
}

fn is_forbidden(label: &str) -> bool {
    let domain = label.split_once('/').map_or("", |(domain, _)| domain);
    let within = |of: &str| domain == of || domain.strip_suffix(of).is_some_and(|rest| rest.ends_with('.'));
    let kubernetes = within("kubernetes.io") || within("k8s.io");
    let own = OWN_LABELS.contains(&label) || OWN_LABEL_DOMAINS.iter().any(|of| within(of));
    within(RESTRICTED) || (kubernetes && !own)
}

/// Size and conditions of a claim's volume are the node's to report, nothing else.
fn claim_status(node: &str, new: &Value, old: &Value) -> Verdict {
    let rest = |claim: &Value| {
        let mut claim = claim.clone();
        for (part, fields) in [
            ("status", ["capacity", "conditions", "allocatedResources", "allocatedResourceStatuses"].as_slice()),
            ("metadata", ["managedFields", "resourceVersion"].as_slice()),
        ] {
            if let Some(part) = claim[part].as_object_mut() {
                fields.iter().for_each(|field| drop(part.remove(*field)));
            }
        }
        claim
    };
    if rest(new) != rest(old) {
        return no(format!(
            "node {node:?} is not allowed to update fields other than status.quantity and status.conditions"
        ));
    }
    Ok(())
}

fn lease(node: &str, request: &AdmissionRequest<'_>, new: &Value) -> Verdict {
    if request.namespace != LEASES {
        return no(format!("can only access leases in the {LEASES:?} system namespace"));
    }
    named(node, request, new, "can only access node lease with the same name as the requesting node")
}

fn named(node: &str, request: &AdmissionRequest<'_>, new: &Value, words: &str) -> Verdict {
    let name = if request.operation == Operation::Create { text(&new["metadata"], "name") } else { request.name };
    if name == node { Ok(()) } else { no(words) }
}

fn signing_request(node: &str, request: &AdmissionRequest<'_>, new: &Value) -> Verdict {
    let signer = text(&new["spec"], "signerName");
    let of_nodes = matches!(signer, "kubernetes.io/kubelet-serving" | "kubernetes.io/kube-apiserver-client-kubelet");
    if request.operation != Operation::Create || !of_nodes {
        return Ok(());
    }
    match certificates::subject(new) {
        None => no("unable to parse csr"),
        Some((name, _)) if name == format!("system:node:{node}") => Ok(()),
        Some(_) => no(format!("can only create a node CSR with CN=system:node:{node}")),
    }
}

#[cfg(test)]
mod tests;
