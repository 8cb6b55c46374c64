//! Requests for certificates.
//!
//! Who asks is put in by the server, which also reads the request itself; here is what stands around it.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::Value;
use skiff_meta::field::{FieldError, FieldErrors};
use skiff_meta::names::{self, NameForm};

use crate::at::{At, Form};
use crate::cells::{NONE, or_none};
use crate::row::{EMPTY, Row, name_cell};
use crate::view::{Change, View};
use crate::{Part, age, pem};

const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];
/// Conditions that once set stay.
const FINAL: [&str; 3] = ["Approved", "Denied", "Failed"];

pub(crate) const CERTIFICATE_SIGNING_REQUEST: Row = Row {
    name: NameForm::PathSegment,
    status: EMPTY,
    // It never changes what it asks for.
    resets: &[&["spec"], &["status"]],
    default: |request| {
        for condition in request.child("status").items_mut("conditions") {
            condition.default_text("status", "True");
        }
    },
    prepare_update,
    validate,
    validate_part: |new, old, part, out| {
        conditions(new, out);
        changes(new, old, part, out);
    },
    selectable: |request| vec![("spec.signerName", request.at("spec").text("signerName").to_owned())],
    columns: "Name,Age,SignerName,Requestor,RequestedDuration,Condition",
    cells,
    ..Row::new("certificates.k8s.io", "CertificateSigningRequest")
};

fn prepare_update(new: &mut Value, old: &Value, part: Part) {
    new.put("spec", old.get_or_null("spec").clone());
    if part == Part::Other("approval") {
        let conditions = new.at("status.conditions").clone();
        new.put("status", old.get_or_null("status").clone());
        new.child("status").put("conditions", conditions);
    }
}

fn validate(request: &Value, out: &mut FieldErrors) {
    let spec = At::member(request, "spec");
    if pem::types(spec.text("request")).first().is_none_or(|label| label != "CERTIFICATE REQUEST") {
        spec.invalid("request", "PEM block type must be CERTIFICATE REQUEST", out);
    }
    if spec.value.count("usages") == 0 {
        spec.missing("usages", "", out);
    }
    let mut seen = BTreeSet::new();
    for usage in spec.items("usages") {
        let text = usage.value.as_str().unwrap_or_default();
        if !USAGES.contains(&text) {
            out.push(FieldError::not_supported(&usage.path, text, USAGES));
        }
        if !seen.insert(text) {
            out.push(FieldError::duplicate(&usage.path, text));
        }
    }
    if spec.text("signerName") == "kubernetes.io/legacy-unknown" {
        spec.invalid("signerName", "the legacy signerName is not allowed via this API version", out);
    } else {
        signer_name(&spec, out);
    }
    if spec.int("expirationSeconds").is_some_and(|seconds| seconds < 600) {
        let why = "may not specify a duration less than 600 seconds (10 minutes)";
        spec.invalid("expirationSeconds", why, out);
    }
}

fn signer_name(spec: &At<'_>, out: &mut FieldErrors) {
    let name = spec.text("signerName");
    if name.is_empty() {
        return spec.missing("signerName", "", out);
    }
    let Some((domain, path)) = name.split_once('/').filter(|(_, path)| !path.contains('/')) else {
        let why = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        return spec.invalid("signerName", why, out);
    };
    let mut wrong = |part: &str, why: &str| out.push(FieldError::invalid(&spec.path("signerName"), part, why));
    for (part, form) in [(domain, names::dns1123_label as Form), (path, names::dns1123_subdomain)] {
        // Only the first bad label is told of.
        let bad = part.split('.').map(|label| (label, form(label))).find(|(_, faults)| !faults.is_empty());
        for (label, why) in bad.iter().flat_map(|(label, faults)| faults.iter().map(move |why| (label, why))) {
            wrong(part, &format!("validating label {label:?}: {why}"));
        }
        if part == domain && !domain.contains('.') {
            wrong(domain, "should be a domain with at least two segments separated by dots");
        }
    }
}

fn conditions(request: &Value, out: &mut FieldErrors) {
    let status = At::member(request, "status");
    let has = |kind: &str| status.value.find("conditions", "type", kind).is_some();
    for condition in status.items("conditions") {
        condition.require("type", out);
        let allowed: &[&str] =
            if FINAL.contains(&condition.text("type")) { &["True"] } else { &["False", "True", "Unknown"] };
        condition.one_of("status", allowed, out);
    }
    if has("Approved") && has("Denied") {
        let why = "Approved and Denied conditions are mutually exclusive";
        out.push(FieldError::invalid(&status.path("conditions"), "Denied", why));
    }
    status.unique("conditions", "type", out);
}

fn changes(new: &Value, old: &Value, part: Part, out: &mut FieldErrors) {
    let status = At::member(new, "status");
    let path = status.path("conditions");
    for kind in FINAL {
        let (now, before) =
            (status.value.find("conditions", "type", kind), old.at("status").find("conditions", "type", kind));
        let fault = match (before, now) {
            (Some(_), None) => "remove",
            (None, Some(_)) if kind != "Failed" && part == Part::Status => "add",
            (Some(before), Some(now)) if kind != "Failed" && part == Part::Status && before != now => "modify",
            _ => continue,
        };
        out.push(FieldError::forbidden(&path, &format!("updates may not {fault} a condition of type {kind:?}")));
    }
    let before = old.at("status").text("certificate");
    if status.text("certificate") != before {
        if part != Part::Status {
            status.forbidden("certificate", "updates may not set certificate content", out);
        } else if !before.is_empty() {
            status.forbidden("certificate", "updates may not modify existing certificate content", out);
        }
    }
}

fn cells(request: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (request.get_or_null("spec"), request.get_or_null("status"));
    let has = |kind: &str| status.find("conditions", "type", kind).is_some();
    let mut state = ["Denied", "Approved"].into_iter().find(|kind| has(kind)).unwrap_or("Pending").to_owned();
    if has("Failed") {
        state.push_str(",Failed");
    }
    if !status.text("certificate").is_empty() {
        state.push_str(",Issued");
    }
    vec![
        name_cell(request),
        age::cell(request, now),
        or_none(spec.text("signerName")).into(),
        spec.text("username").into(),
        spec.int("expirationSeconds").map_or_else(|| NONE.to_owned(), age::human).into(),
        state.into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rules;
    use serde_json::json;

    fn request() -> Value {
        json!({"metadata": {"name": "r"}, "spec": {"request": "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KQUFFQwotLS0tLUVORCBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0K", "usages": ["client auth"], "username": "u",
            "signerName": "kubernetes.io/kube-apiserver-client", "expirationSeconds": 3600}})
    }

    #[test]
    fn faults() {
        assert_eq!(CERTIFICATE_SIGNING_REQUEST.validate_create(&request()), []);
        for (name, value, count) in [
            ("usages", json!([]), 1),
            ("usages", json!(["fun", "fun"]), 3),
            ("signerName", json!("nobody"), 1),
            ("signerName", json!("kubernetes.io/legacy-unknown"), 1),
            ("expirationSeconds", json!(10), 1),
        ] {
            let mut request = request();
            request["spec"][name] = value;
            assert_eq!(CERTIFICATE_SIGNING_REQUEST.validate_create(&request).len(), count, "{request}");
        }
    }

    #[test]
    fn approval_and_issue_are_apart() {
        let old = request();
        let mut approved = old.clone();
        approved["spec"]["username"] = json!("someone else");
        approved["status"] = json!({"conditions": [{"type": "Approved", "status": "True"}], "certificate": "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KQUFFQwotLS0tLUVORCBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0K"});
        let mut by_status = approved.clone();
        CERTIFICATE_SIGNING_REQUEST.prepare_update(&mut approved, &old, Part::Other("approval"));
        assert_eq!((&approved["spec"], approved["status"].get("certificate")), (&old["spec"], None));
        assert_eq!(CERTIFICATE_SIGNING_REQUEST.validate_update(&approved, &old, Part::Other("approval")), []);
        CERTIFICATE_SIGNING_REQUEST.prepare_update(&mut by_status, &old, Part::Status);
        let found = CERTIFICATE_SIGNING_REQUEST.validate_update(&by_status, &old, Part::Status);
        assert_eq!(
            found[0].to_string(),
            "status.conditions: Forbidden: updates may not add a condition of type \"Approved\""
        );
        by_status["status"]["conditions"] = approved["status"]["conditions"].clone();
        assert_eq!(CERTIFICATE_SIGNING_REQUEST.validate_update(&by_status, &approved, Part::Status), []);
        let cells = CERTIFICATE_SIGNING_REQUEST.cells(&by_status, Timestamp::UNIX_EPOCH);
        assert_eq!(cells[2..], ["kubernetes.io/kube-apiserver-client", "u", "60m", "Approved,Issued"].map(Value::from));
    }
}
