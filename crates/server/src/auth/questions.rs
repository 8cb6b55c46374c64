//! Reviews: questions that are created, answered and never stored.
//!
//! As upstream's `pkg/registry/authentication` and `pkg/registry/authorization`.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Value, json};
use skiff_meta::field::{FieldError, FieldPath};
use skiff_meta::selector::{FieldSelector, LabelSelector};
use skiff_meta::{GroupKind, GroupVersionResource, Status, WorldRef, names};

use super::authn::{Authenticators, Bearer};
use super::authz::Authorizers;
use super::names::node_of;
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

/// Whose access is asked about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// That of whom the question names.
    Anyone,
    /// The same, in one namespace.
    Local,
    /// One's own.
    Own,
}

#[async_trait]
impl Questions for Reviews {
    async fn answer(&self, user: &Arc<User>, resource: &GroupVersionResource, question: Value) -> Option<Answer> {
        Some(match (resource.group.as_str(), resource.resource.as_str()) {
            (AUTHENTICATION, "tokenreviews") => self.token(question).await,
            (AUTHENTICATION, "selfsubjectreviews") => Ok(self.who_am_i(user, &question)),
            (AUTHORIZATION, "subjectaccessreviews") => self.access(user, Kind::Anyone, question).await,
            (AUTHORIZATION, "selfsubjectaccessreviews") => self.access(user, Kind::Own, question).await,
            (AUTHORIZATION, "localsubjectaccessreviews") => self.access(user, Kind::Local, question).await,
            (AUTHORIZATION, "selfsubjectrulesreviews") => self.own_rules(user, &question),
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
    field_selector: Option<Selection>,
    label_selector: Option<Selection>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Selection {
    raw_selector: String,
    requirements: Option<Vec<Requirement>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Requirement {
    key: String,
    operator: String,
    values: Option<Vec<String>>,
}

impl Selection {
    /// As a query string says it, and how much of it cannot be said there: that is left out, which only makes the
    /// question broader.
    fn text(&self, labels: bool) -> (String, Left) {
        if !self.raw_selector.is_empty() {
            let readable = match labels {
                true => LabelSelector::parse(&self.raw_selector).is_ok(),
                false => FieldSelector::parse(&self.raw_selector).is_ok(),
            };
            return if readable { (self.raw_selector.clone(), Left::Nothing) } else { (String::new(), Left::All) };
        }
        let all = self.requirements.as_deref().unwrap_or_default();
        let terms: Vec<String> = all.iter().filter_map(|requirement| requirement.text(labels)).collect();
        let left = match terms.len() {
            said if said == all.len() => Left::Nothing,
            0 => Left::All,
            _ => Left::Some,
        };
        (terms.join(","), left)
    }

    fn faults(&self, path: &FieldPath, labels: bool, faults: &mut Vec<FieldError>) {
        let requirements = self.requirements.as_deref().unwrap_or_default();
        match (self.raw_selector.is_empty(), requirements.is_empty()) {
            (false, false) => {
                let why = "may not specified at the same time as requirements";
                faults.push(FieldError::invalid(&path.child("rawSelector"), &*self.raw_selector, why));
            }
            (true, true) => {
                let why = format!("when {path} is specified, requirements or rawSelector is required");
                faults.push(FieldError::required(&path.child("requirements"), &why));
            }
            _ => {}
        }
        for (at, requirement) in requirements.iter().enumerate() {
            requirement.faults(&path.child("requirements").index(at), labels, faults);
        }
    }
}

/// How much of a selector is left out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Left {
    Nothing,
    Some,
    All,
}

impl Requirement {
    /// As a query string says it, if it can be said there.
    fn text(&self, labels: bool) -> Option<String> {
        let (key, values) = (&self.key, self.values.as_deref().unwrap_or_default());
        let text = match (labels, self.operator.as_str(), values) {
            (false, "In", [value]) => format!("{key}={}", skiff_meta::selector::escape_field_value(value)),
            (false, "NotIn", [value]) => format!("{key}!={}", skiff_meta::selector::escape_field_value(value)),
            (true, "In", [_, ..]) => format!("{key} in ({})", values.join(",")),
            (true, "NotIn", [_, ..]) => format!("{key} notin ({})", values.join(",")),
            (true, "Exists", []) => key.clone(),
            (true, "DoesNotExist", []) => format!("!{key}"),
            _ => return None,
        };
        (!labels || LabelSelector::parse(&text).is_ok()).then_some(text)
    }

    /// Operators that are not known are let through: clients may be newer.
    fn faults(&self, path: &FieldPath, labels: bool, faults: &mut Vec<FieldError>) {
        let values = self.values.as_deref().unwrap_or_default();
        if self.key.is_empty() && !labels {
            faults.push(FieldError::required(&path.child("key"), "must be specified"));
        }
        match self.operator.as_str() {
            "In" | "NotIn" if values.is_empty() => {
                let why = "must be specified when `operator` is 'In' or 'NotIn'";
                faults.push(FieldError::required(&path.child("values"), why));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                faults.push(FieldError::forbidden(&path.child("values"), why));
            }
            _ => {}
        }
        if labels {
            let bad = names::qualified_name(&self.key);
            faults.extend(bad.iter().map(|why| FieldError::invalid(&path.child("key"), &*self.key, why)));
            for (at, value) in values.iter().enumerate() {
                let path = path.child("values").index(at);
                faults.extend(names::label_value(value).iter().map(|why| FieldError::invalid(&path, &**value, why)));
            }
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct NonResource {
    path: String,
    verb: String,
}

impl AccessSpec {
    /// What is wrong with a question of this kind (upstream: `pkg/apis/authorization/validation`).
    fn faults(&self, metadata: &Value, kind: Kind) -> Vec<FieldError> {
        let path = |field: &str| FieldPath::new("spec").child(field);
        let mut faults = Vec::new();
        match (&self.resource_attributes, &self.non_resource_attributes) {
            (Some(_), Some(other)) => faults.push(FieldError::invalid(
                &path("nonResourceAttributes"),
                other.shown(),
                "cannot be specified in combination with resourceAttributes",
            )),
            (None, None) => faults.push(FieldError::invalid(
                &path("resourceAttributes"),
                Value::Null,
                "exactly one of nonResourceAttributes or resourceAttributes must be specified",
            )),
            _ => {}
        }
        if kind != Kind::Own && self.user.is_empty() && self.groups.as_ref().is_none_or(Vec::is_empty) {
            faults.push(FieldError::invalid(&path("user"), "", "at least one of user or group must be specified"));
        }
        if let Some(resource) = &self.resource_attributes {
            let path = path("resourceAttributes");
            let selectors =
                [(&resource.field_selector, "fieldSelector", false), (&resource.label_selector, "labelSelector", true)];
            for (selector, name, labels) in selectors {
                selector.iter().for_each(|selector| selector.faults(&path.child(name), labels, &mut faults));
            }
        }
        let local = kind == Kind::Local;
        let free = |name: &str| name == "managedFields" || local && name == "namespace";
        if metadata.as_object().into_iter().flatten().any(|(name, value)| !free(name) && !value.is_null()) {
            let why = if local { "must be empty except for namespace" } else { "must be empty" };
            faults.push(FieldError::invalid(&FieldPath::new("metadata"), metadata.clone(), why));
        }
        if !local {
            return faults;
        }
        if let Some(resource) = &self.resource_attributes
            && resource.namespace != metadata["namespace"]
        {
            let path = path("resourceAttributes").child("namespace");
            faults.push(FieldError::invalid(&path, &*resource.namespace, "must match metadata.namespace"));
        }
        if let Some(other) = &self.non_resource_attributes {
            let why = "disallowed on this kind of request";
            faults.push(FieldError::invalid(&path("nonResourceAttributes"), other.shown(), why));
        }
        faults
    }
}

impl NonResource {
    fn shown(&self) -> Value {
        json!({"Path": self.path, "Verb": self.verb})
    }
}

impl Reviews {
    async fn token(&self, mut question: Value) -> Answer {
        let asked: TokenSpec = spec(&question)?;
        if asked.token.is_empty() {
            return Err(Status::bad_request("token is required for TokenReview in authentication"));
        }
        let audiences = asked.audiences.unwrap_or_default();
        let known = self.authenticators.bearer(&asked.token, &audiences).await;
        // What else the question says there is said again.
        if !question["status"].is_object() {
            question["status"] = json!({});
        }
        let status = &mut question["status"];
        match known {
            Ok(Bearer { user, audiences }) => {
                status["authenticated"] = json!(true);
                status["user"] = user_info(&user);
                status["audiences"] = json!(audiences);
            }
            Err(error) => {
                if !status["user"].is_object() {
                    status["user"] = json!({});
                }
                status["error"] = json!(error.to_string());
                if let Some(status) = status.as_object_mut() {
                    status.remove("authenticated");
                }
            }
        }
        Ok(question)
    }

    /// Nothing of the question is told again.
    fn who_am_i(&self, user: &User, question: &Value) -> Value {
        let now = jiff::Timestamp::from_second(self.world.now().as_second()).unwrap_or_default();
        let metadata = json!({"creationTimestamp": now.to_string()});
        answer(question, metadata, None, json!({"userInfo": user_info(user)}))
    }

    async fn access(&self, user: &User, kind: Kind, mut question: Value) -> Answer {
        let asked: AccessSpec = spec(&question)?;
        let faults = asked.faults(&question["metadata"], kind);
        if !faults.is_empty() {
            // Go's objects have forgotten their kind by then.
            return Err(Status::invalid(&GroupKind::new(AUTHORIZATION, ""), "", &faults));
        }
        let subject = match kind {
            Kind::Own => user.clone(),
            Kind::Anyone | Kind::Local => User {
                name: asked.user.clone(),
                uid: asked.uid.clone(),
                groups: asked.groups.clone().unwrap_or_default(),
                extra: asked.extra.clone().unwrap_or_default(),
            },
        };
        question["status"] = self.decide(&subject, &asked).await;
        Ok(question)
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
            labels: "",
            path: "",
        };
        let resource = asked.resource_attributes.as_ref();
        let said = |selection: Option<&Selection>, labels| {
            selection.map_or((String::new(), Left::Nothing), |selection| selection.text(labels))
        };
        let (fields, no_fields) = said(resource.and_then(|r| r.field_selector.as_ref()), false);
        let (labels, no_labels) = said(resource.and_then(|r| r.label_selector.as_ref()), true);
        let attributes = match (&asked.resource_attributes, &asked.non_resource_attributes) {
            (Some(r), _) => Attributes {
                verb: &r.verb,
                group: &r.group,
                version: if r.version.is_empty() { "*" } else { &r.version },
                resource: &r.resource,
                subresource: &r.subresource,
                namespace: &r.namespace,
                name: &r.name,
                fields: &fields,
                labels: &labels,
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
        let ignored =
            [("fieldSelector", no_fields), ("labelSelector", no_labels)].into_iter().filter_map(|(name, left)| {
                let how = match left {
                    Left::Nothing => return None,
                    Left::Some => "partially ignored",
                    Left::All => "ignored",
                };
                Some(format!("spec.resourceAttributes.{name} {how} due to parse error"))
            });
        let ignored: Vec<String> = ignored.collect();
        if !ignored.is_empty() {
            status["evaluationError"] = json!(ignored.join("; "));
        }
        status
    }

    fn own_rules(&self, user: &User, question: &Value) -> Answer {
        let namespace = question["spec"]["namespace"].as_str().unwrap_or_default().to_owned();
        if namespace.is_empty() {
            return Err(Status::bad_request("no namespace on request"));
        }
        let (mut resources, mut paths) = (Vec::new(), Vec::new());
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
        Ok(answer(question, json!({}), Some(json!({})), status))
    }
}

/// An object of the question's kind that repeats nothing else of it.
fn answer(question: &Value, metadata: Value, spec: Option<Value>, status: Value) -> Value {
    let mut answer = json!({"apiVersion": question["apiVersion"], "kind": question["kind"], "metadata": metadata});
    if let Some(spec) = spec {
        answer["spec"] = spec;
    }
    answer["status"] = status;
    answer
}

#[cfg(test)]
mod tests;
