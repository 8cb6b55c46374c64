//! What a certificate request needs next. Pure.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::request::Request;

const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
const LEGACY: &str = "kubernetes.io/legacy-unknown";

const SHORTEST: SignedDuration = SignedDuration::from_mins(10);
/// Certificates begin this much early, for clients whose clocks are behind.
const BACKDATE: SignedDuration = SignedDuration::from_mins(5);
/// The end of shorter ones is not moved by it.
const SHORT: SignedDuration = SignedDuration::from_hours(8);
/// How long requests stay: decided ones, and those that nobody decides or signs.
const DECIDED: SignedDuration = SignedDuration::from_hours(1);
const WAITING: SignedDuration = SignedDuration::from_hours(24);

/// From when until when a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) begin: Timestamp,
    pub(super) end: Timestamp,
}

/// The next step.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    Wait,
    Delete,
    /// Approve it where its author may create this subresource; the message that says so.
    Approve(Vec<(&'static str, &'static str)>),
    Fail(String),
    Sign(Validity),
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Plan {
    pub(super) step: Step,
    /// When to look again though nothing changes.
    pub(super) look_again: Option<Duration>,
}

/// A condition as of now.
pub(super) fn condition(
    type_: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> CertificateSigningRequestCondition {
    CertificateSigningRequestCondition {
        type_: type_.to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_update_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    }
}

fn find<'a>(object: &'a CertificateSigningRequest, type_: &str) -> Option<&'a CertificateSigningRequestCondition> {
    object.status.as_ref()?.conditions.iter().flatten().find(|condition| condition.type_ == type_)
}

/// The plan for a request; `request` is what it asks for, where it can be read.
pub(super) fn plan(
    object: &CertificateSigningRequest,
    request: Option<&Request>,
    longest: Duration,
    now: Timestamp,
) -> Plan {
    let expiry = expiry(object);
    if expiry.is_some_and(|expiry| expiry <= now) {
        return Plan { step: Step::Delete, look_again: None };
    }
    let left = expiry.and_then(|expiry| Duration::try_from(expiry.duration_since(now)).ok());
    Plan { step: step(object, request, longest, now), look_again: left.map(|left| left + Duration::from_secs(1)) }
}

fn has_certificate(object: &CertificateSigningRequest) -> bool {
    object.status.as_ref().and_then(|status| status.certificate.as_ref()).is_some_and(|pem| !pem.0.is_empty())
}

fn step(object: &CertificateSigningRequest, request: Option<&Request>, longest: Duration, now: Timestamp) -> Step {
    let holds = |type_: &str| find(object, type_).is_some();
    let Some(request) = request.filter(|_| !has_certificate(object) && !holds("Denied") && !holds("Failed")) else {
        return Step::Wait;
    };
    if !holds("Approved") {
        return approval(object, request);
    }
    match objection(object, request) {
        None => Step::Wait,
        Some(Err(why)) => Step::Fail(why),
        Some(Ok(())) => Step::Sign(validity(object.spec.expiration_seconds, longest, now)),
    }
}

/// Whether it is a kubelet's request for a client certificate, which its author may have.
fn approval(object: &CertificateSigningRequest, request: &Request) -> Step {
    let usages = object.spec.usages.as_deref().unwrap_or_default();
    if object.spec.signer_name != KUBELET_CLIENT || request.not_for_kubelet(usages, "client auth").is_some() {
        return Step::Wait;
    }
    let own = ("selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview.");
    let any = ("nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview.");
    let itself = object.spec.username.as_ref() == Some(&request.common_name);
    Step::Approve(if itself { vec![own, any] } else { vec![any] })
}

/// Whether the signer it names is one of ours, and if so, why it would not sign.
fn objection(object: &CertificateSigningRequest, request: &Request) -> Option<Result<(), String>> {
    let usages = object.spec.usages.as_deref().unwrap_or_default();
    let refused = |why: Option<&str>| Some(why.map_or(Ok(()), |why| Err(why.to_owned())));
    match &*object.spec.signer_name {
        KUBELET_CLIENT => refused(request.not_for_kubelet(usages, "client auth")),
        KUBELET_SERVING => refused(request.not_for_kubelet(usages, "server auth")),
        CLIENT => {
            let known = ["digital signature", "key encipherment", "client auth"];
            if let Some(other) = usages.iter().find(|usage| !known.contains(&usage.as_str())) {
                return Some(Err(format!("invalid usage for client certificate: {other}")));
            }
            let client = usages.iter().any(|usage| usage == "client auth");
            refused((!client).then_some("missing required usage for client certificate: client auth"))
        }
        LEGACY => Some(Ok(())),
        _ => None,
    }
}

/// From now until the wanted number of seconds has passed, at most the `longest` time.
fn validity(seconds: Option<i32>, longest: Duration, now: Timestamp) -> Validity {
    let longest = SignedDuration::try_from(longest).unwrap_or(SignedDuration::MAX);
    let wanted = seconds.map(|seconds| SignedDuration::from_secs(seconds.into()).max(SHORTEST));
    let lifetime = wanted.map_or(longest, |wanted| wanted.min(longest));
    let begin = now.checked_sub(BACKDATE).unwrap_or(now);
    let from = if lifetime < SHORT { now } else { begin };
    Validity { begin, end: from.checked_add(lifetime).unwrap_or(Timestamp::MAX) }
}

/// When a request is cleaned up.
fn expiry(object: &CertificateSigningRequest) -> Option<Timestamp> {
    let after = |time: Option<&Time>, stay: SignedDuration| time?.0.checked_add(stay).ok();
    let updated = |type_: &str| find(object, type_).and_then(|condition| condition.last_update_time.as_ref());
    let decided = ["Denied", "Failed"].into_iter().filter_map(|type_| after(updated(type_), DECIDED));
    let approved = after(updated("Approved"), if has_certificate(object) { DECIDED } else { WAITING });
    let pending = object.status.as_ref().is_none_or(|status| status.conditions.iter().flatten().next().is_none());
    let waiting = after(object.metadata.creation_timestamp.as_ref().filter(|_| pending), WAITING);
    decided.chain(approved).chain(waiting).min()
}

#[cfg(test)]
mod tests;
