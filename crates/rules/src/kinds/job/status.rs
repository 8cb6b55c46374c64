//! How a job may come along: its ends are final, and its counts agree with them.

use serde_json::Value;
use skiff_meta::field::{FieldError, FieldErrors};

use super::policies::index_count;
use crate::at::At;
use crate::cells::is_true;
use crate::view::View;

/// Faults of a job's new status, given the old. What was wrong before and did not change is let be.
pub(super) fn validate(new: &Value, old: &Value, out: &mut FieldErrors) {
    let status = At::member(new, "status");
    for name in ["active", "succeeded", "failed", "ready", "terminating"] {
        status.not_negative(name, out);
    }
    conditions(new, old, &status, out);
    times(new, old, &status, out);
    counts(new, old, &status, out);
    indexes(new, old, &status, out);
}

fn finished(job: &Value) -> bool {
    is_true(job, "Complete") || is_true(job, "Failed")
}

fn conditions(new: &Value, old: &Value, status: &At<'_>, out: &mut FieldErrors) {
    let path = status.path("conditions");
    let mut fault = |why: &str| out.push(FieldError::invalid_unshown(&path, why));
    let now = |kind: &str| is_true(new, kind);
    let changed = |kinds: &[&str]| kinds.iter().any(|kind| is_true(new, kind) != is_true(old, kind));
    for kind in ["Failed", "Complete", "FailureTarget"] {
        if is_true(old, kind) && !now(kind) {
            fault(&format!("cannot disable the terminal {kind}=True condition"));
        }
    }
    if is_true(old, "SuccessCriteriaMet") && !now("SuccessCriteriaMet") {
        fault("cannot disable the SuccessCriteriaMet=True condition");
    }
    if now("Complete") && now("Failed") && changed(&["Complete", "Failed"]) {
        fault("cannot set Complete=True and Failed=true conditions");
    }
    if now("Complete") && now("FailureTarget") && changed(&["Complete", "FailureTarget"]) {
        fault("cannot set Complete=True and FailureTarget=true conditions");
    }
    if now("Failed") && !now("FailureTarget") && changed(&["Failed"]) {
        fault("cannot set Failed=True condition without the FailureTarget=true condition");
    }
    if now("Complete") && !now("SuccessCriteriaMet") && changed(&["Complete", "SuccessCriteriaMet"]) {
        fault("cannot set Complete=True condition without the SuccessCriteriaMet=true condition");
    }
    if now("SuccessCriteriaMet") && now("Failed") {
        fault("cannot set SuccessCriteriaMet=True and Failed=true conditions");
    }
    if now("SuccessCriteriaMet") && now("FailureTarget") {
        fault("cannot set SuccessCriteriaMet=True and FailureTarget=true conditions");
    }
    if is_true(old, "Complete") && !is_true(old, "SuccessCriteriaMet") && now("SuccessCriteriaMet") {
        fault("cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions");
    }
}

fn times(new: &Value, old: &Value, status: &At<'_>, out: &mut FieldErrors) {
    let before = old.get_or_null("status");
    let changed = |name: &str| status.value.get_or_null(name) != before.get_or_null(name);
    let complete = is_true(new, "Complete");
    if complete != is_true(old, "Complete") || changed("completionTime") {
        if status.has("completionTime") && !complete {
            let why = "cannot set completionTime when there is no Complete=True condition";
            status.invalid("completionTime", why, out);
        }
        if !status.has("completionTime") && complete {
            status.missing("completionTime", "completionTime is required for Complete jobs", out);
        }
    }
    let end = status.text("completionTime");
    if (changed("startTime") || changed("completionTime")) && !end.is_empty() && end < status.text("startTime") {
        status.invalid("completionTime", "must be equal to or after `startTime`", out);
    }
    if before.has("completionTime") && status.has("completionTime") && changed("completionTime") {
        status.invalid("completionTime", "field is immutable", out);
    }
    let resumed = is_true(old, "Suspended") && !is_true(new, "Suspended");
    if before.has("startTime") && changed("startTime") && !new.at("spec").flag("suspend") && !resumed {
        status.invalid("startTime", "field is immutable for unsuspended job once set", out);
    }
    let nothing_to_do = new.at("spec").flag("suspend") && new.at("spec").int("completions") == Some(0);
    let checked = (finished(new) != finished(old) || changed("startTime")) && !nothing_to_do;
    if checked && finished(new) && !status.has("startTime") {
        status.missing("startTime", "startTime is required for finished job", out);
    }
}

fn counts(new: &Value, old: &Value, status: &At<'_>, out: &mut FieldErrors) {
    let before = old.get_or_null("status");
    let number = |status: &Value, name: &str| status.int(name).unwrap_or_default();
    let spec = new.get_or_null("spec");
    let elastic = spec.text("completionMode") == "Indexed" && spec.int("completions") == spec.int("parallelism");
    for name in ["failed", "succeeded"] {
        if number(status.value, name) < number(before, name) && !(elastic && name == "succeeded") {
            status.invalid(name, &format!("cannot decrease the {name} counter"), out);
        }
    }
    let just_finished = finished(new) && !finished(old);
    for name in ["active", "terminating"] {
        let count = number(status.value, name);
        if finished(new) && count > 0 && (just_finished || count != number(before, name)) {
            status.invalid(name, &format!("{name}>0 is invalid for finished job"), out);
        }
    }
    let changed = |name: &str| number(status.value, name) != number(before, name);
    if (changed("ready") || changed("active")) && number(status.value, "ready") > number(status.value, "active") {
        status.invalid("ready", "cannot set more ready pods than active", out);
    }
    let uncounted = status.get("uncountedTerminatedPods");
    let left = uncounted.value.count("failed") + uncounted.value.count("succeeded") > 0;
    if finished(new) && left && (just_finished || uncounted.value != before.get_or_null("uncountedTerminatedPods")) {
        uncounted.wrong("must be empty for finished job", out);
    }
}

fn indexes(new: &Value, old: &Value, status: &At<'_>, out: &mut FieldErrors) {
    let spec = new.get_or_null("spec");
    let changed = |name: &str| status.value.get_or_null(name) != old.at("status").get_or_null(name);
    let completions = spec.int("completions");
    let check = |name: &str, out: &mut FieldErrors| {
        if let Some(Err(why)) = completions.map(|completions| index_count(status.text(name), completions)) {
            status.invalid(name, &format!("error parsing {name}: {why}"), out);
        }
    };
    if changed("completedIndexes") {
        check("completedIndexes", out);
        if !status.text("completedIndexes").is_empty() && spec.text("completionMode") != "Indexed" {
            let why = "cannot set non-empty completedIndexes when non-indexed completion mode";
            status.invalid("completedIndexes", why, out);
        }
    }
    if changed("failedIndexes") && status.has("failedIndexes") {
        if spec.has("backoffLimitPerIndex") {
            check("failedIndexes", out);
        } else {
            let why = "cannot set non-null failedIndexes when backoffLimitPerIndex is null";
            status.invalid("failedIndexes", why, out);
        }
    }
}
