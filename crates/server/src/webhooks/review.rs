//! What a webhook is asked, and what its answer means (`admission.k8s.io/v1` and `v1beta1`). Pure.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use skiff_meta::{GroupVersionKind, GroupVersionResource, Status};

use crate::chain::AdmissionRequest;
use crate::policies::described;

/// A version of AdmissionReview.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    V1,
    V1beta1,
}

impl Version {
    /// The first that we know of those that the webhook knows.
    pub(super) fn best(known: &[String]) -> Option<Self> {
        known.iter().find_map(|version| match version.as_str() {
            "v1" => Some(Self::V1),
            "v1beta1" => Some(Self::V1beta1),
            _ => None,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V1beta1 => "v1beta1",
        }
    }
}

/// What a hook is shown, in the form it wants.
pub(super) struct Shown<'a> {
    pub(super) resource: &'a GroupVersionResource,
    pub(super) kind: &'a GroupVersionKind,
    pub(super) object: Option<&'a Value>,
    pub(super) old: Option<&'a Value>,
}

/// The `request` of a review.
pub(super) fn request(uid: &str, request: &AdmissionRequest<'_>, shown: &Shown<'_>) -> Value {
    let mut tree = described(request, shown.resource, shown.kind);
    tree["uid"] = json!(uid);
    tree["object"] = json!(shown.object);
    tree["oldObject"] = json!(shown.old);
    tree
}

/// The review as it is sent.
pub(super) fn review(version: Version, request: &Value) -> Value {
    json!({
        "kind": "AdmissionReview",
        "apiVersion": format!("admission.k8s.io/{}", version.name()),
        "request": request,
    })
}

/// What a webhook says.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Answer {
    pub(super) allowed: bool,
    pub(super) status: Option<Box<Status>>,
    /// A JSON patch, or nothing.
    pub(super) patch: Vec<u8>,
    pub(super) annotations: Vec<(String, String)>,
    pub(super) warnings: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Response {
    uid: String,
    allowed: bool,
    status: Option<Value>,
    patch: Option<Bytes>,
    patch_type: Option<String>,
    audit_annotations: Option<Map<String, Value>>,
    warnings: Option<Vec<String>>,
}

/// Bytes as Go reads them: base64, or a list of numbers, which is how other languages' serializers write them.
#[derive(Deserialize)]
#[serde(untagged)]
enum Bytes {
    Base64(String),
    Numbers(Vec<u8>),
}

/// Reads an answer; the error says what is wrong with it.
pub(super) fn answer(version: Version, uid: &str, mutating: bool, body: &[u8]) -> Result<Answer, String> {
    let review: Value = serde_json::from_slice(body).map_err(|error| format!("couldn't get version/kind; {error}"))?;
    let text = |field: &str| review[field].as_str().unwrap_or_default();
    if review["response"].is_null() {
        return Err("webhook response was absent".to_owned());
    }
    let response = Response::deserialize(&review["response"]).map_err(|error| error.to_string())?;
    let patch = match response.patch {
        None => Vec::new(),
        Some(Bytes::Numbers(bytes)) => bytes,
        Some(Bytes::Base64(text)) => STANDARD.decode(&text).map_err(|error| format!("illegal base64 data: {error}"))?,
    };
    if version == Version::V1 {
        if response.uid != uid {
            return Err(format!("expected response.uid={uid:?}, got {:?}", response.uid));
        }
        let (group, found) = text("apiVersion").split_once('/').unwrap_or(("", text("apiVersion")));
        if (group, found, text("kind")) != ("admission.k8s.io", "v1", "AdmissionReview") {
            let kind = text("kind");
            let expected = "admission.k8s.io/v1, Kind=AdmissionReview";
            return Err(format!("expected webhook response of {expected}, got {group}/{found}, Kind={kind}"));
        }
        match (mutating, patch.is_empty(), response.patch_type.as_deref()) {
            (false, false, _) => return Err("validating webhook may not return response.patch".to_owned()),
            (false, true, Some(_)) => return Err("validating webhook may not return response.patchType".to_owned()),
            (true, false, None) => return Err("webhook returned response.patch but not response.patchType".to_owned()),
            (true, true, Some(_)) => {
                return Err("webhook returned response.patchType but not response.patch".to_owned());
            }
            (true, false, Some("")) => return Err("webhook returned invalid response.patchType of \"\"".to_owned()),
            (true, false, Some(ty)) if ty != "JSONPatch" => return Err(format!("unsupported patch type {ty:?}")),
            _ => {}
        }
    }
    let annotations = response.audit_annotations.unwrap_or_default().into_iter();
    Ok(Answer {
        allowed: response.allowed,
        status: response.status.and_then(|status| Status::deserialize(status).ok()).map(Box::new),
        patch: if mutating { patch } else { Vec::new() },
        annotations: annotations.filter_map(|(name, value)| Some((name, value.as_str()?.to_owned()))).collect(),
        warnings: response.warnings.unwrap_or_default(),
    })
}

/// The refusal of a webhook.
pub(super) fn refusal(name: &str, status: Option<Box<Status>>) -> Status {
    let mut status = status.map_or_else(|| Status::failure(0, "", ""), |status| *status);
    if status.code < 400 {
        status.code = 400;
    }
    status.status = "Failure".to_owned();
    let denied = format!("admission webhook {name:?} denied the request");
    let why = if status.message.is_empty() { &status.reason } else { &status.message };
    status.message = if why.is_empty() { format!("{denied} without explanation") } else { format!("{denied}: {why}") };
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(mutating: bool, response: Value) -> Result<Answer, String> {
        let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response});
        answer(Version::V1, "u", mutating, review.to_string().as_bytes())
    }

    #[test]
    fn answers_are_taken_at_their_word_or_not_at_all() {
        let allowed = read(
            true,
            json!({"uid": "u", "allowed": true, "patch": "W10=", "patchType": "JSONPatch",
            "warnings": ["w"], "auditAnnotations": {"a": "b"}}),
        )
        .unwrap();
        assert_eq!((allowed.allowed, allowed.patch, allowed.warnings), (true, b"[]".to_vec(), vec!["w".to_owned()]));
        for (mutating, response, why) in [
            (true, json!(null), "webhook response was absent"),
            (true, json!({"uid": "v"}), "expected response.uid=\"u\", got \"v\""),
            (true, json!({"uid": "u", "patch": "W10="}), "webhook returned response.patch but not response.patchType"),
            (
                true,
                json!({"uid": "u", "patchType": "JSONPatch"}),
                "webhook returned response.patchType but not response.patch",
            ),
            (false, json!({"uid": "u", "patch": "W10="}), "validating webhook may not return response.patch"),
            (false, json!({"uid": "u", "patchType": "x"}), "validating webhook may not return response.patchType"),
            (true, json!({"uid": "u", "patch": "W10=", "patchType": "x"}), "unsupported patch type \"x\""),
        ] {
            assert_eq!(read(mutating, response), Err(why.to_owned()));
        }
        let numbers = json!({"uid": "u", "allowed": true, "patch": b"[]", "patchType": "JSONPatch"});
        assert_eq!(read(true, numbers).unwrap().patch, b"[]");
        let old = json!({"response": {"allowed": true, "patch": "W10="}}).to_string();
        assert_eq!(answer(Version::V1beta1, "u", true, old.as_bytes()).unwrap().patch, b"[]");
        let other =
            json!({"apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview", "response": {"uid": "u"}});
        assert!(
            answer(Version::V1, "u", true, other.to_string().as_bytes()).unwrap_err().starts_with("expected webhook")
        );
        assert_eq!(Version::best(&["v9".to_owned(), "v1beta1".to_owned(), "v1".to_owned()]), Some(Version::V1beta1));
    }

    #[test]
    fn refusals_say_whose_they_are() {
        for (status, code, message) in [
            (None, 400, "admission webhook \"h\" denied the request without explanation"),
            (Some(Status::failure(200, "Because", "")), 400, "admission webhook \"h\" denied the request: Because"),
            (Some(Status::failure(403, "x", "no")), 403, "admission webhook \"h\" denied the request: no"),
        ] {
            let refusal = refusal("h", status.map(Box::new));
            assert_eq!((refusal.code, &*refusal.message), (code, message));
        }
    }
}
