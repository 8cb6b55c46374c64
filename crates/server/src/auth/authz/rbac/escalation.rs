//! Nobody hands out rights they do not have: checks on writes of roles and bindings.
//!
//! Upstream does this in the storage of these kinds (`pkg/registry/rbac/*/policybased`); here it is a plug-in like the
//! others, and the last to validate.

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::rbac::v1::PolicyRule;
use serde::Deserialize;
use serde_json::Value;
use skiff_meta::{GroupResource, GroupVersionResource, Status};

use super::Rbac;
use super::index::RoleRef;
use super::rule::{self, quoted};
use crate::auth::names::MASTERS;
use crate::chain::{Admission, AdmissionRequest, Attributes, Authorizer, Decision, Extra, Operation};

const GROUP: &str = "rbac.authorization.k8s.io";

/// The check.
pub(crate) struct Escalation {
    rbac: Arc<Rbac>,
    authorizer: Arc<dyn Authorizer>,
}

/// The parts of a role or binding that grant something.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Granting {
    rules: Option<Vec<PolicyRule>>,
    aggregation_rule: Option<Aggregation>,
    role_ref: RoleRef,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Aggregation {
    cluster_role_selectors: Option<Vec<Value>>,
}

impl Granting {
    fn of(object: &Value) -> Self {
        Self::deserialize(object).unwrap_or_default()
    }
    fn aggregates(&self) -> bool {
        self.aggregation_rule.as_ref().is_some_and(|a| a.cluster_role_selectors.as_ref().is_some_and(|s| !s.is_empty()))
    }
}

impl Escalation {
    pub(crate) fn new(rbac: Arc<Rbac>, authorizer: Arc<dyn Authorizer>) -> Self {
        Self { rbac, authorizer }
    }

    async fn check_role(&self, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), Status> {
        if self.may(request, "escalate", &request.resource.resource, request.name).await {
            return Ok(());
        }
        let role = Granting::of(object);
        self.confirm(request, role.rules.as_deref().unwrap_or_default())?;
        if role.aggregates() || request.old.is_some_and(|old| Granting::of(old).aggregates()) {
            // What is aggregated is not known now, so only who has everything may say so.
            self.confirm(request, &everything())
                .map_err(|_| refuse(request, "must have cluster-admin privileges to use the aggregationRule"))?;
        }
        Ok(())
    }

    async fn check_binding(&self, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), Status> {
        let role = Granting::of(object).role_ref;
        let resource = match role.kind.as_str() {
            "ClusterRole" => "clusterroles",
            "Role" => "roles",
            // Refused by the validation of the kind.
            _ => return Ok(()),
        };
        if self.may(request, "bind", resource, &role.name).await {
            return Ok(());
        }
        let rules = self
            .rbac
            .role_rules(&role, request.namespace)
            .map_err(|_| Status::not_found(&GroupResource::new(GROUP, role.kind.to_lowercase()), &role.name))?;
        self.confirm(request, &rules)
    }

    async fn may(&self, request: &AdmissionRequest<'_>, verb: &str, resource: &str, name: &str) -> bool {
        let attributes = Attributes {
            user: request.user,
            verb,
            group: GROUP,
            version: "*",
            resource,
            subresource: "",
            namespace: request.namespace,
            name,
            fields: "",
            labels: "",
            path: "",
        };
        matches!(self.authorizer.authorize(&attributes).await, Decision::Allow(_))
    }

    fn confirm(&self, request: &AdmissionRequest<'_>, wanted: &[PolicyRule]) -> Result<(), Status> {
        let held = self.rbac.held(request.user, request.namespace);
        let owned: Vec<&PolicyRule> = held.rules.iter().collect();
        let lacking = rule::uncovered(&owned, wanted);
        if lacking.is_empty() {
            return Ok(());
        }
        let mut words = format!(
            "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
            request.user.name,
            quoted(&request.user.groups),
            rule::describe(&lacking).join("\n"),
        );
        if !held.missing.is_empty() {
            words.push_str(&format!("; resolution errors: [{}]", held.missing.join(", ")));
        }
        Err(refuse(request, &words))
    }
}

fn refuse(request: &AdmissionRequest<'_>, why: &str) -> Status {
    Status::forbidden(&request.resource.group_resource(), request.name, why)
}

fn everything() -> [PolicyRule; 2] {
    let star = || Some(vec!["*".to_owned()]);
    let verbs = || vec!["*".to_owned()];
    [
        PolicyRule { api_groups: star(), resources: star(), verbs: verbs(), ..PolicyRule::default() },
        PolicyRule { non_resource_urls: star(), verbs: verbs(), ..PolicyRule::default() },
    ]
}

/// Whether an update changes nothing but what the garbage collector writes.
fn only_collector_fields(new: &Value, old: &Value) -> bool {
    let stripped = |object: &Value| {
        let mut object = object.clone();
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            for field in ["ownerReferences", "finalizers", "managedFields", "resourceVersion"] {
                metadata.remove(field);
            }
        }
        object
    };
    stripped(new) == stripped(old)
}

#[async_trait]
impl Admission for Escalation {
    fn name(&self) -> &'static str {
        "RBACEscalation"
    }

    fn handles(&self, operation: Operation, resource: &GroupVersionResource, subresource: &str) -> bool {
        matches!(operation, Operation::Create | Operation::Update) && resource.group == GROUP && subresource.is_empty()
    }

    async fn validate(
        &self,
        request: &AdmissionRequest<'_>,
        object: Option<&Value>,
        _extra: &mut Extra,
    ) -> Result<(), Status> {
        let Some(object) = object else { return Ok(()) };
        if request.user.is_in(MASTERS) || request.old.is_some_and(|old| only_collector_fields(object, old)) {
            return Ok(());
        }
        self.rbac.refresh().await?;
        match request.resource.resource.as_str() {
            "roles" | "clusterroles" => self.check_role(request, object).await,
            _ => self.check_binding(request, object).await,
        }
    }
}
