//! Devices: who may hand them out, who may speak for them, and where administrators may look at those of others.
//!
//! Upstream asks this while it validates, so that a refusal is a fault of a field.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;
use skiff_meta::field::{FieldError, FieldPath};
use skiff_meta::{GroupKind, GroupResource, GroupVersionResource, Status};

use super::{find, items, text};
use crate::auth::forbidden;
use crate::chain::{Admission, AdmissionRequest, Attributes, Authorizer, Decision, Extra, Operation};

const GROUP: &str = "resource.k8s.io";
/// The label of namespaces in which administrators may look at devices that others hold.
const ADMIN_NAMESPACE: &str = "resource.kubernetes.io/admin-access";
/// What a service account's token tells of the node it is for.
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// ResourceClaim: rights on the parts of a claim.
pub(super) struct ResourceClaim {
    authorizer: Arc<dyn Authorizer>,
}

fn same(a: &Value, b: &Value) -> bool {
    let empty = |value: &Value| value.is_null() || value.as_array().is_some_and(Vec::is_empty);
    a == b || (empty(a) && empty(b))
}

/// The only node that an allocation can be used on.
fn node_of(allocation: &Value) -> Option<&str> {
    let [term] = items(&allocation["nodeSelector"]["nodeSelectorTerms"]) else { return None };
    let [field] = items(&term["matchFields"]) else { return None };
    let [name] = items(&field["values"]) else { return None };
    let by_name = text(field, "key") == "metadata.name" && text(field, "operator") == "In";
    (by_name && items(&term["matchExpressions"]).is_empty()).then(|| name.as_str()).flatten()
}

/// The drivers of devices of which something else is said.
fn spoken_for<'a>(new: &'a Value, old: &'a Value) -> BTreeSet<&'a str> {
    let identity = |device: &'a Value| ["driver", "pool", "device", "shareID"].map(|field| text(device, field));
    let (new, old) = (items(&new["devices"]), items(&old["devices"]));
    let differs = |device: &'a Value, others: &'a [Value]| {
        others.iter().find(|other| identity(other) == identity(device)) != Some(device)
    };
    let changed = new.iter().filter(|device| differs(device, old));
    changed.chain(old.iter().filter(|device| differs(device, new))).map(|device| text(device, "driver")).collect()
}

impl ResourceClaim {
    pub(super) fn new(authorizer: Arc<dyn Authorizer>) -> Self {
        Self { authorizer }
    }

    /// Whether the author may do any of `verbs` on a part of claims; the error is why not.
    async fn may(
        &self,
        request: &AdmissionRequest<'_>,
        part: &str,
        verbs: &[String],
        (namespace, name): (&str, &str),
    ) -> Result<(), String> {
        let mut first = None;
        for verb in verbs {
            let attributes = Attributes {
                user: request.user,
                verb,
                group: GROUP,
                version: &request.resource.version,
                resource: "resourceclaims",
                subresource: part,
                namespace,
                name,
                fields: "",
                labels: "",
                path: "",
            };
            match self.authorizer.authorize(&attributes).await {
                Decision::Allow(_) => return Ok(()),
                Decision::Deny(why) | Decision::NoOpinion(why) => {
                    first.get_or_insert_with(|| forbidden(&attributes, &why).message);
                }
            }
        }
        Err(first.unwrap_or_default())
    }

    async fn status(&self, request: &AdmissionRequest<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut faults = Vec::new();
        let verb = if request.options["kind"] == "PatchOptions" { "patch" } else { "update" };
        let binds = ["allocation", "reservedFor"].iter().any(|field| !same(&new[field], &old[field]));
        if binds && let Err(why) = self.may(request, "binding", &[verb.to_owned()], ("", "")).await {
            let why = format!(
                "changing status.allocation or status.reservedFor requires resource=\"resourceclaims/binding\", \
                 verb=\"{verb}\" permission: {why}"
            );
            faults.push(FieldError::forbidden(&FieldPath::new("status.allocation"), &why));
        }
        if new["allocation"].is_null() {
            return faults;
        }
        let account = request.user.name.starts_with("system:serviceaccount:");
        let nodes = request.user.extra.get(NODE_NAME).map(Vec::as_slice).unwrap_or_default();
        let here = account && matches!(nodes, [node] if node_of(&new["allocation"]) == Some(node));
        let mut verbs = vec![format!("arbitrary-node:{verb}")];
        if here {
            verbs.insert(0, format!("associated-node:{verb}"));
        }
        for driver in spoken_for(new, old) {
            if let Err(why) = self.may(request, "driver", &verbs, (request.namespace, driver)).await {
                let why = format!(
                    "changing status.devices requires resource=\"resourceclaims/driver\", verb={:?} permission: {why}",
                    format!("[{}]", verbs.join(" "))
                );
                faults.push(FieldError::forbidden(&FieldPath::new("status.devices"), &why));
            }
        }
        faults
    }
}

/// Where a list of requests or results asks for an administrator's access.
fn admin(list: &Value, field: impl Fn(&Value) -> &Value) -> Option<usize> {
    items(list).iter().position(|item| field(item)["adminAccess"] == true)
}

#[async_trait]
impl Admission for ResourceClaim {
    fn name(&self) -> &'static str {
        "ResourceClaim"
    }

    fn handles(&self, operation: Operation, resource: &GroupVersionResource, subresource: &str) -> bool {
        resource.group == GROUP
            && match (operation, &*resource.resource) {
                (Operation::Create, "resourceclaims" | "resourceclaimtemplates") => subresource.is_empty(),
                (Operation::Update, "resourceclaims") => subresource == "status",
                _ => false,
            }
    }

    async fn validate(
        &self,
        request: &AdmissionRequest<'_>,
        object: Option<&Value>,
        _extra: &mut Extra,
    ) -> Result<(), Status> {
        let Some(new) = object else { return Ok(()) };
        let mut faults = Vec::new();
        let looks = match request.old {
            Some(old) => {
                let results =
                    |claim: &'_ Value| admin(&claim["status"]["allocation"]["devices"]["results"], |result| result);
                faults = self.status(request, &new["status"], &old["status"]).await;
                results(new)
                    .filter(|_| results(old).is_none())
                    .map(|n| format!("status.allocation.devices.results[{n}]"))
            }
            None => {
                let spec = if new["spec"]["spec"].is_object() { &new["spec"]["spec"] } else { &new["spec"] };
                let place = admin(&spec["devices"]["requests"], |asked| &asked["exactly"]);
                place.map(|n| format!("spec.devices.requests[{n}]"))
            }
        };
        if let Some(path) = looks {
            let namespace = find(request.view, &GroupResource::new("", "namespaces"), "", request.namespace).await?;
            let labelled = namespace.and_then(|namespace| namespace.meta().labels.get(ADMIN_NAMESPACE).cloned());
            if labelled.as_deref() != Some("true") {
                let why = format!(
                    "admin access to devices requires the `{ADMIN_NAMESPACE}: true` label on the containing namespace"
                );
                faults.push(FieldError::forbidden(&FieldPath::new(path + ".adminAccess"), &why));
            }
        }
        if faults.is_empty() {
            return Ok(());
        }
        Err(Status::invalid(&GroupKind::new(GROUP, &request.kind.kind), request.name, &faults))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::Trial;
    use crate::chain::User;
    use serde_json::json;

    /// Allows what is listed, as `VERB PART NAME`.
    struct Only(&'static [&'static str]);

    #[async_trait]
    impl Authorizer for Only {
        async fn authorize(&self, a: &Attributes<'_>) -> Decision {
            let asked = format!("{} {} {}", a.verb, a.subresource, a.name);
            let allowed = self.0.contains(&asked.trim());
            if allowed { Decision::Allow(String::new()) } else { Decision::NoOpinion(String::new()) }
        }
    }

    const CLAIMS: &str = "resourceclaims.resource.k8s.io";

    #[test]
    fn parts_of_a_claim_take_rights_of_their_own() {
        let here = json!({"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]}]});
        let claim = |status: Value| json!({"metadata": {"name": "c"}, "status": status});
        let allocation = json!({"nodeSelector": here});
        let allocated = json!({"allocation": allocation});
        let says = json!({"allocation": allocation, "devices": [{"driver": "d", "pool": "p", "device": "a"}]});
        let user = |node: &str| User {
            extra: [(NODE_NAME.to_owned(), vec![node.to_owned()])].into(),
            ..User::new("system:serviceaccount:x:driver", &[])
        };
        let none: &[&str] = &[];
        for (what, rights, old, new, node, refused) in [
            ("nothing changes", none, allocated.clone(), allocated.clone(), "n", none),
            ("allocated", none, json!({}), allocated.clone(), "n", &["status.allocation"][..]),
            ("allocated, rightly", &["update binding"][..], json!({}), allocated.clone(), "n", none),
            ("given back", none, allocated.clone(), json!({}), "n", &["status.allocation"][..]),
            ("a driver speaks", none, allocated.clone(), says.clone(), "n", &["status.devices"][..]),
            ("on its node", &["associated-node:update driver d"][..], allocated.clone(), says.clone(), "n", none),
            (
                "on another",
                &["associated-node:update driver d"][..],
                allocated.clone(),
                says.clone(),
                "m",
                &["status.devices"][..],
            ),
            ("on any", &["arbitrary-node:update driver d"][..], allocated.clone(), says.clone(), "m", none),
            ("of another", &["arbitrary-node:update driver e"][..], says, allocated, "n", &["status.devices"][..]),
        ] {
            let trial = Trial::new(ResourceClaim::new(Arc::new(Only(rights))));
            let update = trial.update(CLAIMS, claim(old)).subresource("status").name("c").by(user(node));
            let outcome = update.validate(&claim(new));
            let faults =
                outcome.err().and_then(|status| status.details).map(|details| details.causes).unwrap_or_default();
            let fields: Vec<&str> = faults.iter().map(|cause| &*cause.field).collect();
            assert_eq!(fields, refused, "{what}");
        }
    }

    #[test]
    fn administrators_look_only_where_they_may() {
        let trial = Trial::new(ResourceClaim::new(Arc::new(Only(&["update binding"]))));
        trial.view.put("namespaces", json!({"metadata": {"name": "users"}}));
        trial.view.put("namespaces", json!({"metadata": {"name": "admins", "labels": {ADMIN_NAMESPACE: "true"}}}));
        let devices =
            |admin: bool| json!({"devices": {"requests": [{"name": "r", "exactly": {"adminAccess": admin}}]}});
        let got = json!({"status": {"allocation": {"devices": {"results": [{"adminAccess": true}]}}}});
        for (namespace, admin, allowed) in [("users", true, false), ("users", false, true), ("admins", true, true)] {
            let create = |resource: &'static str, object: Value| {
                trial.create(resource).namespace(namespace).validate(&object).is_ok()
            };
            assert_eq!(create(CLAIMS, json!({"spec": devices(admin)})), allowed, "{namespace} {admin}");
            let template = json!({"spec": {"spec": devices(admin)}});
            assert_eq!(create("resourceclaimtemplates.resource.k8s.io", template), allowed, "{namespace} {admin}");
            if admin {
                let update = trial.update(CLAIMS, json!({})).subresource("status").namespace(namespace);
                assert_eq!(update.validate(&got).is_ok(), allowed, "{namespace}");
            }
        }
    }
}
