//! A request as expressions see it.

use std::borrow::Cow;

use serde_json::{Value, json};
use skiff_cel::Attributes;
use skiff_meta::{GroupVersionKind, GroupVersionResource, Status};
use skiff_rules::policy::Input;

use super::authorizer::CelAuthorizer;
use super::matching::Form;
use super::registry;
use crate::chain::{AdmissionRequest, Authorizer, User};

/// What a policy is shown of a request.
pub(super) struct Shown<'a> {
    object: Cow<'a, Value>,
    old: Cow<'a, Value>,
    namespace: Value,
    request: Value,
    attributes: Attributes,
}

static NOTHING: Value = Value::Null;

impl<'a> Shown<'a> {
    /// In the form that the policy matched.
    pub(super) async fn new(
        request: &AdmissionRequest<'a>,
        form: &Form,
        object: Option<&'a Value>,
    ) -> Result<Self, Status> {
        Ok(Self {
            object: seen(request, form, object).await?,
            old: seen(request, form, request.old).await?,
            namespace: registry::namespace(request).await?,
            request: described(request, &form.resource, &form.kind),
            attributes: attributes(request),
        })
    }

    /// Evaluates something with these parameters.
    pub(super) fn with<R>(
        &self,
        params: &Value,
        user: &User,
        authorizer: &dyn Authorizer,
        evaluate: impl FnOnce(&Input<'_>) -> R,
    ) -> R {
        let authorizer = CelAuthorizer { authorizer, user };
        evaluate(&Input {
            object: &self.object,
            old: &self.old,
            namespace: &self.namespace,
            request: &self.request,
            params,
            authorizer: &authorizer,
            resource: &self.attributes,
        })
    }
}

async fn seen<'a>(
    request: &AdmissionRequest<'a>,
    form: &Form,
    object: Option<&'a Value>,
) -> Result<Cow<'a, Value>, Status> {
    let Some(object) = object else { return Ok(Cow::Borrowed(&NOTHING)) };
    if form.resource == *request.resource {
        return Ok(Cow::Borrowed(object));
    }
    let mut object = object.clone();
    request.forms.convert(&mut object, &form.resource).await?;
    Ok(Cow::Owned(object))
}

/// The variable `request`, without objects; `resource` and `kind` are those that the policy matched.
pub(crate) fn described(
    request: &AdmissionRequest<'_>,
    resource: &GroupVersionResource,
    kind: &GroupVersionKind,
) -> Value {
    let named = |kind: &GroupVersionKind| json!({"group": kind.group, "version": kind.version, "kind": kind.kind});
    let placed = |resource: &GroupVersionResource| json!({"group": resource.group, "version": resource.version, "resource": resource.resource});
    let user = request.user;
    let mut info = json!({});
    for (field, value, empty) in [
        ("username", json!(user.name), user.name.is_empty()),
        ("uid", json!(user.uid), user.uid.is_empty()),
        ("groups", json!(user.groups), user.groups.is_empty()),
        ("extra", json!(user.extra), user.extra.is_empty()),
    ] {
        if !empty {
            info[field] = value;
        }
    }
    let mut tree = json!({
        "kind": named(kind),
        "resource": placed(resource),
        "requestKind": named(request.kind),
        "requestResource": placed(request.resource),
        "operation": request.operation.as_str(),
        "userInfo": info,
        "dryRun": request.dry_run,
        "options": request.options,
    });
    for (field, text) in [
        ("subResource", request.subresource),
        ("requestSubResource", request.subresource),
        ("name", request.name),
        ("namespace", namespace(request)),
    ] {
        if !text.is_empty() {
            tree[field] = json!(text);
        }
    }
    tree
}

/// The namespace a request is about: of a namespace, itself.
pub(crate) fn namespace<'a>(request: &AdmissionRequest<'a>) -> &'a str {
    let of_namespace = request.resource.group.is_empty() && request.resource.resource == "namespaces";
    if of_namespace { request.name } else { request.namespace }
}

/// What `authorizer.requestResource` asks for.
pub(crate) fn attributes(request: &AdmissionRequest<'_>) -> Attributes {
    Attributes {
        group: request.resource.group.clone(),
        resource: request.resource.resource.clone(),
        subresource: request.subresource.to_owned(),
        namespace: request.namespace.to_owned(),
        name: request.name.to_owned(),
        ..Attributes::default()
    }
}
