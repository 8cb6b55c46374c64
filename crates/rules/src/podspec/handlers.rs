//! Probes and lifecycle hooks: what is done to a container to ask or tell it something.

use skiff_meta::field::{FieldError, FieldErrors};
use skiff_meta::names;

use crate::at::At;
use crate::view::View;

/// Faults of a container's probes.
pub(super) fn probes(container: &At<'_>, grace: Option<i64>, out: &mut FieldErrors) {
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let at = container.get(name);
        if !at.is_set() {
            continue;
        }
        probe(&at, grace, out);
        if name == "readinessProbe" {
            if at.has("terminationGracePeriodSeconds") {
                at.invalid("terminationGracePeriodSeconds", "must not be set for readinessProbes", out);
            }
        } else if at.int("successThreshold") != Some(1) {
            at.invalid("successThreshold", "must be 1", out);
        }
    }
}

fn probe(at: &At<'_>, grace: Option<i64>, out: &mut FieldErrors) {
    handler(at, &["exec", "httpGet", "tcpSocket", "grpc"], grace, out);
    for field in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        at.not_negative(field, out);
    }
    if at.int("terminationGracePeriodSeconds").is_some_and(|seconds| seconds <= 0) {
        at.invalid("terminationGracePeriodSeconds", "must be greater than 0", out);
    }
}

/// Faults of a container's hooks.
pub(super) fn lifecycle(container: &At<'_>, grace: Option<i64>, has_os: bool, out: &mut FieldErrors) {
    let at = container.get("lifecycle");
    for hook in ["postStart", "preStop"] {
        if at.has(hook) {
            handler(&at.get(hook), &["exec", "httpGet", "tcpSocket", "sleep"], grace, out);
        }
    }
    if at.has("stopSignal") && !has_os {
        at.forbidden("stopSignal", "may not be set for containers with empty `spec.os.name`", out);
    }
}

fn handler(at: &At<'_>, kinds: &[&str], grace: Option<i64>, out: &mut FieldErrors) {
    let mut found = kinds.iter().filter(|kind| at.has(kind));
    let Some(first) = found.next() else {
        return out.push(FieldError::required(&at.path, "must specify a handler type"));
    };
    let action = at.get(first);
    match *first {
        "exec" if action.value.count("command") == 0 => action.missing("command", "", out),
        "httpGet" => http(&action, out),
        "tcpSocket" | "grpc" => action.port_or_name("port", out),
        "sleep" => {
            let seconds = action.int("seconds").unwrap_or_default();
            if let Some(grace) = grace.filter(|grace| seconds < 0 || seconds > *grace) {
                let why = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
                out.push(FieldError::invalid(&action.path, seconds, &why));
            }
        }
        _ => {}
    }
    for extra in found {
        at.forbidden(extra, "may not specify more than 1 handler type", out);
    }
}

fn http(at: &At<'_>, out: &mut FieldErrors) {
    at.require("path", out);
    at.port_or_name("port", out);
    at.optional_one_of("scheme", &["HTTP", "HTTPS"], out);
    for header in at.items("httpHeaders") {
        for why in names::http_header_name(header.text("name")) {
            out.push(FieldError::invalid(&at.path("httpHeaders"), header.text("name"), &why));
        }
    }
}
