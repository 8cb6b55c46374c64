//! What node agents may do: their own Node and Lease, the pods bound to them, and what those pods refer to.
//!
//! Users `system:node:NAME` in group `system:nodes` get their rights here and not by RBAC, because no role can say "the
//! secrets of the pods on this node". Rules as in upstream's `plugin/pkg/auth/authorizer/node`; what a node may write
//! inside an object is the business of the admission plug-in NodeRestriction.

mod graph;

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::rbac::v1::PolicyRule;
use skiff_meta::selector::FieldSelector;

use graph::NodeGraph;

use super::follow::Followed;
use super::rbac::{allows, default_objects};
use crate::auth::names::node_of;
use crate::auth::references::Kind;
use crate::chain::{Attributes, Authorizer, Decision, View};

/// The authorizer for node agents.
pub(crate) struct NodeAuthorizer {
    graph: Followed<NodeGraph>,
    /// What every node may do with resources that are not divided by node: the rules of role `system:node`.
    common: Vec<PolicyRule>,
}

/// Yes, or the words of a no.
type Verdict = Result<(), String>;

impl NodeAuthorizer {
    pub(crate) fn new(view: Arc<dyn View>) -> Self {
        let role = default_objects()
            .into_iter()
            .find(|o| o["kind"] == "ClusterRole" && o["metadata"]["name"] == "system:node");
        let common = role.and_then(|mut role| serde_json::from_value(role["rules"].take()).ok()).unwrap_or_default();
        Self { graph: Followed::new(view), common }
    }

    fn decide(&self, node: &str, a: &Attributes<'_>) -> Verdict {
        match (a.group, a.resource) {
            ("", "secrets") => self.read_of_pods(node, Kind::Secret, a),
            ("", "configmaps") => self.read_of_pods(node, Kind::ConfigMap, a),
            ("", "persistentvolumeclaims") if a.subresource == "status" => self.claim_status(node, a),
            ("", "persistentvolumeclaims") => self.get_of_pods(node, Kind::Claim, a),
            ("resource.k8s.io", "resourceslices") => slices(node, a),
            ("resource.k8s.io", "resourceclaims") => self.get_of_pods(node, Kind::ResourceClaim, a),
            ("", "persistentvolumes") => {
                only_get(a)?;
                related(node, self.graph.read().needs_volume(node, a.name))
            }
            ("", "serviceaccounts") => self.account(node, a),
            ("coordination.k8s.io", "leases") => lease(node, a),
            ("storage.k8s.io", "csinodes") => csi_node(node, a),
            ("", "nodes") => own_node(node, a),
            ("", "pods") => self.pod(node, a),
            _ if self.common.iter().any(|rule| allows(rule, a)) => Ok(()),
            _ => Err(String::new()),
        }
    }

    /// Single objects that pods refer to, by get or by a list or watch of just that name.
    fn read_of_pods(&self, node: &str, kind: Kind, a: &Attributes<'_>) -> Verdict {
        if !matches!(a.verb, "get" | "list" | "watch") {
            return no("can only read resources of this type");
        }
        if !a.subresource.is_empty() {
            return no("cannot read subresource");
        }
        if a.namespace.is_empty() {
            return no("can only read namespaced object of this type");
        }
        self.referred(node, kind, a)
    }

    fn get_of_pods(&self, node: &str, kind: Kind, a: &Attributes<'_>) -> Verdict {
        only_get(a)?;
        self.referred(node, kind, a)
    }

    fn claim_status(&self, node: &str, a: &Attributes<'_>) -> Verdict {
        match a.verb {
            "update" | "patch" => self.referred(node, Kind::Claim, a),
            _ => no("can only get/update/patch this type"),
        }
    }

    fn referred(&self, node: &str, kind: Kind, a: &Attributes<'_>) -> Verdict {
        if a.name.is_empty() {
            return no("No Object name found");
        }
        related(node, self.graph.read().needs(node, kind, a.namespace, a.name))
    }

    fn account(&self, node: &str, a: &Attributes<'_>) -> Verdict {
        if a.verb == "get" && a.subresource.is_empty() {
            return self.read_of_pods(node, Kind::Account, a);
        }
        if a.verb != "create" || a.name.is_empty() {
            return no("can only create tokens for individual service accounts");
        }
        if a.subresource != "token" {
            return no("can only create token subresource of serviceaccount");
        }
        self.referred(node, Kind::Account, a)
    }

    fn pod(&self, node: &str, a: &Attributes<'_>) -> Verdict {
        match (a.subresource, a.verb) {
            ("", "get") => related(node, self.graph.read().runs(node, a.namespace, a.name)),
            ("", "list" | "watch") => {
                let selector = FieldSelector::parse(a.fields).ok();
                if selector.is_some_and(|s| s.exact("spec.nodeName") == Some(node)) {
                    return Ok(());
                }
                match a.name {
                    "" => no("can only list/watch pods with spec.nodeName field selector"),
                    name => related(node, self.graph.read().runs(node, a.namespace, name)),
                }
            }
            // Which pods, and what in them, NodeRestriction decides.
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => Ok(()),
            _ => Err(String::new()),
        }
    }
}

/// What drivers offer on the node, as a whole; drivers themselves come with rights of their own.
fn slices(node: &str, a: &Attributes<'_>) -> Verdict {
    let selector = FieldSelector::parse(a.fields).ok();
    match (a.subresource, a.verb) {
        ("", "list" | "watch" | "deletecollection") => {
            match selector.and_then(|s| s.exact("spec.nodeName").map(|n| n == node)) {
                Some(true) => Ok(()),
                _ => no("can only list/watch/deletecollection resourceslices with nodeName field selector"),
            }
        }
        _ => Err(String::new()),
    }
}

fn no(why: &str) -> Verdict {
    Err(why.to_owned())
}

fn only_get(a: &Attributes<'_>) -> Verdict {
    match (a.verb, a.subresource) {
        ("get", "") => Ok(()),
        ("get", _) => no("cannot get subresource"),
        _ => no("can only get individual resources of this type"),
    }
}

fn related(node: &str, is: bool) -> Verdict {
    if is { Ok(()) } else { Err(format!("no relationship found between node '{node}' and this object")) }
}

fn lease(node: &str, a: &Attributes<'_>) -> Verdict {
    if !matches!(a.verb, "get" | "create" | "update" | "patch" | "delete") {
        return no("can only get, create, update, patch, or delete a node lease");
    }
    if a.namespace != "kube-node-lease" {
        return no("can only access leases in the \"kube-node-lease\" system namespace");
    }
    // The name is not known at creation; NodeRestriction looks at it then.
    if a.verb != "create" && a.name != node {
        return no("can only access node lease with the same name as the requesting node");
    }
    Ok(())
}

fn csi_node(node: &str, a: &Attributes<'_>) -> Verdict {
    if !matches!(a.verb, "get" | "create" | "update" | "patch" | "delete") {
        return no("can only get, create, update, patch, or delete a CSINode");
    }
    if !a.subresource.is_empty() {
        return no("cannot authorize CSINode subresources");
    }
    if a.verb != "create" && a.name != node {
        return no("can only access CSINode with the same name as the requesting node");
    }
    Ok(())
}

fn own_node(node: &str, a: &Attributes<'_>) -> Verdict {
    match (a.subresource, a.verb) {
        ("", "create" | "update" | "patch") | ("status", "update" | "patch") => Ok(()),
        ("", "get" | "list" | "watch") => match a.name {
            name if name == node => Ok(()),
            "" => Err(format!("node '{node}' cannot read all nodes, only its own Node object")),
            other => Err(format!("node '{node}' cannot read '{other}', only its own Node object")),
        },
        _ => Err(String::new()),
    }
}

#[async_trait]
impl Authorizer for NodeAuthorizer {
    async fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        let Some(node) = node_of(attributes.user) else { return Decision::NoOpinion(String::new()) };
        let mut verdict = self.decide(node, attributes);
        // A pod may have been bound a moment ago, and the cache not know it yet.
        if verdict.is_err() && matches!(self.graph.refresh().await, Ok(true)) {
            verdict = self.decide(node, attributes);
        }
        match verdict {
            Ok(()) => Decision::Allow(String::new()),
            Err(why) => Decision::NoOpinion(why),
        }
    }
}

#[cfg(test)]
mod tests;
