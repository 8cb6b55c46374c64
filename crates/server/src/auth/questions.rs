//! Reviews: questions that are created, answered and never stored.
//!
//! As upstream's `pkg/registry/authentication` and `pkg/registry/authorization`.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Value, json};
use skiff_meta::field::{FieldError, FieldPath};
use skiff_meta::{GroupKind, GroupVersionResource, Status, WorldRef};

use super::authn::{Authenticators, Bearer};
use super::authz::Authorizers;
use super::names::{MASTERS, node_of};
use crate::chain::{Attributes, Authorizer, Decision, Questions, User};

const AUTHENTICATION: &str = "authentication.k8s.io";
const AUTHORIZATION: &str = "authorization.k8s.io";

/// Answers them all.
pub(crate) struct Reviews {
    pub(crate) authenticators: Arc<Authenticators>,
    pub(crate) authorizers: Arc<Authorizers>,
    pub(crate) world: WorldRef,
}

type Answer = Result<Value, Status>;

#[async_trait]
impl Questions for Reviews {
    async fn answer(
        &self,
        user: &Arc<User>,
        resource: &GroupVersionResource,
        namespace: &str,
        question: Value,
    ) -> Option<Answer> {
        Some(match (resource.group.as_str(), resource.resource.as_str()) {
            (AUTHENTICATION, "tokenreviews") => self.token(question).await,
            (AUTHENTICATION, "selfsubjectreviews") => Ok(self.who_am_i(user, question)),
            (AUTHORIZATION, "subjectaccessreviews") => self.access("SubjectAccessReview", None, question).await,
            (AUTHORIZATION, "selfsubjectaccessreviews") => self.own_access(user, question).await,
            (AUTHORIZATION, "localsubjectaccessreviews") => {
                self.access("LocalSubjectAccessReview", Some(namespace), question).await
            }
            (AUTHORIZATION, "selfsubjectrulesreviews") => self.own_rules(user, question),
            _ => return None,
        })
    }
}

fn spec<'de, T: Deserialize<'de> + Default>(question: &'de Value) -> Result<T, Status> {
    match question.get("spec").filter(|spec| !spec.is_null()) {
        None => Ok(T::default()),
        Some(spec) => T::deserialize(spec).map_err(|error| Status::bad_request(error.to_string())),
    }
}

fn user_info(user: &User) -> Value {
    let mut info = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        info["uid"] = json!(user.uid);
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct TokenSpec {
    token: String,
    audiences: Option<Vec<String>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct AccessSpec {
    user: String,
    uid: String,
    groups: Option<Vec<String>>,
    extra: Option<BTreeMap<String, Vec<String>>>,
    resource_attributes: Option<Resource>,
    non_resource_attributes: Option<NonResource>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Resource {
    namespace: String,
    verb: String,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    name: String,
    field_selector: Option<FieldSelection>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct FieldSelection {
    raw_selector: String,
    requirements: Option<Vec<FieldRequirement>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct FieldRequirement {
    key: String,
    operator: String,
    values: Option<Vec<String>>,
}

impl FieldSelection {
    /// As a query string says it. What cannot be said there is left out, which only makes the question broader.
    fn text(&self) -> String {
        if !self.raw_selector.is_empty() {
            return self.raw_selector.clone();
        }
        let terms = self.requirements.iter().flatten().filter_map(|requirement| {
            let [value] = requirement.values.as_deref()? else { return None };
            let operator = match requirement.operator.as_str() {
                "In" => "=",
                "NotIn" => "!=",
                _ => return None,
            };
            Some(format!("{}{operator}{}", requirement.key, skiff_meta::selector::escape_field_value(value)))
        });
        terms.collect::<Vec<_>>().join(",")
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct NonResource {
    path: String,
    verb: String,
}

impl AccessSpec {
    fn faults(&self, local: bool) -> Vec<FieldError> {
        let path = |field: &str| FieldPath::new("spec").child(field);
        let mut faults = Vec::new();
        match (&self.resource_attributes, &self.non_resource_attributes) {
            (Some(_), Some(other)) => faults.push(FieldError::invalid(
                &path("nonResourceAttributes"),
                json!({"path": other.path, "verb": other.verb}),
                "cannot be specified in combination with resourceAttributes",
            )),
            (None, None) => faults.push(FieldError::invalid(
                &path("resourceAttributes"),
                Value::Null,
                "exactly one of nonResourceAttributes or resourceAttributes must be specified",
            )),
            (None, Some(other)) if local => faults.push(FieldError::invalid(
                &path("nonResourceAttributes"),
                json!({"path": other.path, "verb": other.verb}),
                "disallowed on this kind of request",
            )),
            _ => {}
        }
        faults
    }
}

impl Reviews {
    async fn token(&self, mut question: Value) -> Answer {
        let asked: TokenSpec = spec(&question)?;
        if asked.token.is_empty() {
            return Err(Status::bad_request("token is required for TokenReview in authentication"));
        }
        let audiences = asked.audiences.unwrap_or_default();
        question["status"] = match self.authenticators.bearer(&asked.token, &audiences).await {
            Ok(Bearer { user, audiences }) => {
                json!({"authenticated": true, "user": user_info(&user), "audiences": audiences})
            }
            Err(error) => json!({"user": {}, "error": error.to_string()}),
        };
        Ok(question)
    }

    fn who_am_i(&self, user: &User, mut question: Value) -> Value {
        let now = jiff::Timestamp::from_second(self.world.now().as_second()).unwrap_or_default();
        question["metadata"]["creationTimestamp"] = json!(now.to_string());
        question["status"] = json!({"userInfo": user_info(user)});
        question
    }

    /// `namespace` is that of a local review, which must ask about nothing else.
    async fn access(&self, kind: &str, namespace: Option<&str>, question: Value) -> Answer {
        let asked: AccessSpec = spec(&question)?;
        let mut faults = asked.faults(namespace.is_some());
        if asked.user.is_empty() && asked.groups.as_ref().is_none_or(Vec::is_empty) {
            let path = FieldPath::new("spec").child("user");
            faults.push(FieldError::invalid(&path, "", "at least one of user or group must be specified"));
        }
        if let (Some(namespace), Some(resource)) = (namespace, &asked.resource_attributes)
            && resource.namespace != namespace
        {
            let path = FieldPath::new("spec").child("resourceAttributes").child("namespace");
            faults.push(FieldError::invalid(&path, &*resource.namespace, "must match metadata.namespace"));
        }
        refuse(kind, &faults)?;
        let user = User {
            name: asked.user.clone(),
            uid: asked.uid.clone(),
            groups: asked.groups.clone().unwrap_or_default(),
            extra: asked.extra.clone().unwrap_or_default(),
        };
        let status = self.decide(&user, &asked).await;
        Ok(with_status(question, status))
    }

    async fn own_access(&self, user: &User, question: Value) -> Answer {
        let asked: AccessSpec = spec(&question)?;
        refuse("SelfSubjectAccessReview", &asked.faults(false))?;
        let status = self.decide(user, &asked).await;
        Ok(with_status(question, status))
    }

    async fn decide(&self, user: &User, asked: &AccessSpec) -> Value {
        let base = Attributes {
            user,
            verb: "",
            group: "",
            version: "",
            resource: "",
            subresource: "",
            namespace: "",
            name: "",
            fields: "",
            path: "",
        };
        let fields =
            asked.resource_attributes.as_ref().and_then(|r| r.field_selector.as_ref()).map(FieldSelection::text);
        let attributes = match (&asked.resource_attributes, &asked.non_resource_attributes) {
            (Some(r), _) => Attributes {
                verb: &r.verb,
                group: &r.group,
                version: if r.version.is_empty() { "*" } else { &r.version },
                resource: &r.resource,
                subresource: &r.subresource,
                namespace: &r.namespace,
                name: &r.name,
                fields: fields.as_deref().unwrap_or_default(),
                ..base
            },
            (None, Some(other)) => Attributes { verb: &other.verb, path: &other.path, ..base },
            (None, None) => base,
        };
        let (allowed, denied, reason) = match self.authorizers.authorize(&attributes).await {
            Decision::Allow(reason) => (true, false, reason),
            Decision::Deny(reason) => (false, true, reason),
            Decision::NoOpinion(reason) => (false, false, reason),
        };
        let mut status = json!({"allowed": allowed});
        if denied {
            status["denied"] = json!(true);
        }
        if !reason.is_empty() {
            status["reason"] = json!(reason);
        }
        status
    }

    fn own_rules(&self, user: &User, question: Value) -> Answer {
        let namespace = question["spec"]["namespace"].as_str().unwrap_or_default().to_owned();
        if namespace.is_empty() {
            return Err(Status::bad_request("no namespace on request"));
        }
        let (mut resources, mut paths) = (Vec::new(), Vec::new());
        if user.is_in(MASTERS) {
            resources.push(json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}));
            paths.push(json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
        }
        let held = self.authorizers.rbac().held(user, &namespace);
        for rule in held.rules {
            if rule.resources.as_ref().is_some_and(|r| !r.is_empty()) {
                let mut shown = json!({"verbs": rule.verbs, "apiGroups": rule.api_groups, "resources": rule.resources});
                if let Some(names) = rule.resource_names {
                    shown["resourceNames"] = json!(names);
                }
                resources.push(shown);
            } else if let Some(urls) = rule.non_resource_urls {
                paths.push(json!({"verbs": rule.verbs, "nonResourceURLs": urls}));
            }
        }
        let mut doubts = held.missing;
        if node_of(user).is_some() {
            doubts.push("node authorizer does not support user rule resolution".to_owned());
        }
        let mut status =
            json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": node_of(user).is_some()});
        if !doubts.is_empty() {
            status["evaluationError"] = json!(doubts.join(", "));
        }
        Ok(with_status(question, status))
    }
}

fn with_status(mut question: Value, status: Value) -> Value {
    question["status"] = status;
    question
}

fn refuse(kind: &str, faults: &[FieldError]) -> Result<(), Status> {
    match faults {
        [] => Ok(()),
        faults => Err(Status::invalid(&GroupKind::new(AUTHORIZATION, kind), "", faults)),
    }
}

#[cfg(test)]
mod tests;
