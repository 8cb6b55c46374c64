//! `Status`: how the API says no (<https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/status/>).
//!
//! Rooms have their own typed errors; at the server's door each becomes one of these, once. Clients read them back
//! into the same type. Messages and reasons are upstream's, since clients match on them.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::field::FieldError;
use crate::gvk::{GroupKind, GroupResource};

/// An API error (or, with `status: Success`, the answer of a delete).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// `Status`.
    #[serde(default = "kind")]
    pub kind: String,
    /// `v1`.
    #[serde(default = "v1")]
    pub api_version: String,
    /// List metadata; always empty.
    #[serde(default)]
    pub metadata: Empty,
    /// `Failure` or `Success`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub status: String,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// For programs: `NotFound`, `Conflict`, ...
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// What it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Box<Details>>,
    /// The HTTP code, 0 when unknown.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub code: u16,
}

/// An object without fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}

/// What a [`Status`] is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Details {
    /// Name of the object.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// API group.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// Kind, or for some reasons the resource.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// The object's UID.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// Single faults.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
    /// When to try again, in seconds; 0: not said.
    #[serde(skip_serializing_if = "is_zero_u32")]
    pub retry_after_seconds: u32,
}

/// One fault of several.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cause {
    /// For programs.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// For people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Field path.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field: String,
}

fn kind() -> String {
    "Status".to_owned()
}
fn v1() -> String {
    "v1".to_owned()
}
fn is_zero(code: &u16) -> bool {
    *code == 0
}
fn is_zero_u32(seconds: &u32) -> bool {
    *seconds == 0
}

impl Status {
    /// A failure with no details.
    pub fn failure(code: u16, reason: &str, message: impl Into<String>) -> Self {
        Self {
            kind: kind(),
            api_version: v1(),
            metadata: Empty {},
            status: "Failure".to_owned(),
            message: message.into(),
            reason: reason.to_owned(),
            details: None,
            code,
        }
    }
    fn about(mut self, resource: &GroupResource, name: &str) -> Self {
        let details = Details {
            name: name.to_owned(),
            group: resource.group.clone(),
            kind: resource.resource.clone(),
            ..Details::default()
        };
        self.details = Some(Box::new(details));
        self
    }
    /// The answer of a delete that removed `name` at once.
    pub fn success(details: Details) -> Self {
        Self { status: "Success".to_owned(), details: Some(Box::new(details)), code: 0, ..Self::failure(200, "", "") }
    }
    /// 404: no such object.
    pub fn not_found(resource: &GroupResource, name: &str) -> Self {
        Self::failure(404, "NotFound", format!("{resource} \"{name}\" not found")).about(resource, name)
    }
    /// 404: no such path, resource or verb.
    pub fn no_such_path() -> Self {
        let mut status = Self::failure(404, "NotFound", "the server could not find the requested resource");
        status.details = Some(Box::default());
        status
    }
    /// 409: the name is taken.
    pub fn already_exists(resource: &GroupResource, name: &str) -> Self {
        Self::failure(409, "AlreadyExists", format!("{resource} \"{name}\" already exists")).about(resource, name)
    }
    /// 409: somebody else was faster, or a precondition does not hold.
    pub fn conflict(resource: &GroupResource, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {resource} \"{name}\": {why}");
        Self::failure(409, "Conflict", message).about(resource, name)
    }
    /// The conflict of an update whose resourceVersion is not the newest.
    pub fn stale(resource: &GroupResource, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(resource, name, why)
    }
    /// 422: well-formed, but against the rules.
    pub fn invalid(kind: &GroupKind, name: &str, errors: &[FieldError]) -> Self {
        let mut seen = BTreeSet::new();
        let said: Vec<String> =
            errors.iter().map(ToString::to_string).filter(|error| seen.insert(error.clone())).collect();
        let all = match said.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let causes = errors
            .iter()
            .map(|e| Cause {
                reason: e.kind.reason().to_owned(),
                message: e.message.clone(),
                field: e.path.to_string(),
            })
            .collect();
        let mut status = Self::failure(422, "Invalid", format!("{kind} \"{name}\" is invalid: {all}"));
        let details = Details {
            name: name.to_owned(),
            group: kind.group.clone(),
            kind: kind.kind.clone(),
            causes,
            ..Details::default()
        };
        status.details = Some(Box::new(details));
        status
    }
    /// 400: the request cannot be read.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::failure(400, "BadRequest", message)
    }
    /// 401: nobody we know.
    pub fn unauthorized() -> Self {
        Self::failure(401, "Unauthorized", "Unauthorized")
    }
    /// 403: known, but not allowed; `why` follows the colon.
    pub fn forbidden(resource: &GroupResource, name: &str, why: &str) -> Self {
        let what = if name.is_empty() { format!("{resource} is") } else { format!("{resource} \"{name}\" is") };
        Self::failure(403, "Forbidden", format!("{what} forbidden: {why}")).about(resource, name)
    }
    /// 405: the resource exists, the verb does not.
    pub fn method_not_allowed(action: &str, resource: &GroupResource) -> Self {
        let message = format!("{action} is not supported on resources of kind \"{resource}\"");
        Self::failure(405, "MethodNotAllowed", message).about(resource, "")
    }
    /// 410: the resource version asked for is no longer known.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::failure(410, "Expired", message)
    }
    /// 413: the body is too large.
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::failure(413, "RequestEntityTooLarge", message)
    }
    /// 415: a body in a form we do not read.
    pub fn unsupported_media_type(message: impl Into<String>) -> Self {
        Self::failure(415, "UnsupportedMediaType", message)
    }
    /// 406: asked for a form we do not write.
    pub fn not_acceptable(message: impl Into<String>) -> Self {
        Self::failure(406, "NotAcceptable", message)
    }
    /// 429: later.
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        let mut status = Self::failure(429, "TooManyRequests", message);
        status.details = Some(Box::new(Details { retry_after_seconds, ..Details::default() }));
        status
    }
    /// 500: our fault.
    pub fn internal(message: impl fmt::Display) -> Self {
        let mut status = Self::failure(500, "InternalError", format!("Internal error occurred: {message}"));
        let cause = Cause { message: message.to_string(), ..Cause::default() };
        status.details = Some(Box::new(Details { causes: vec![cause], ..Details::default() }));
        status
    }
    /// 503: not now.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::failure(503, "ServiceUnavailable", message)
    }
    /// 504: it took too long.
    pub fn timeout(message: impl Into<String>) -> Self {
        let message = message.into();
        Self::failure(504, "Timeout", format!("Timeout: {message}"))
    }
    /// Whether the reason is `reason`.
    pub fn is(&self, reason: &str) -> bool {
        self.reason == reason
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.message.is_empty() { &self.reason } else { &self.message })
    }
}

impl std::error::Error for Status {}
