//! When a job counts as failed or as succeeded before all its pods have ended.

use std::collections::BTreeSet;

use skiff_meta::field::{FieldError, FieldErrors};
use skiff_meta::names;

use crate::at::At;
use crate::view::View;

const ACTIONS: &[&str] = &["Count", "FailIndex", "FailJob", "Ignore"];
const STATUSES: &[&str] = &["False", "True", "Unknown"];
/// Most rules of a policy, and most patterns of a rule.
const MOST: usize = 20;

/// One of `supported` must stand at `name`.
fn choice(at: &At<'_>, name: &str, supported: &[&str], out: &mut FieldErrors) {
    if at.text(name).is_empty() {
        let names: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
        at.missing(name, &format!("valid values: [{}]", names.join(" ")), out);
    } else {
        at.optional_one_of(name, supported, out);
    }
}

/// Faults of `podFailurePolicy`.
pub(super) fn failure(spec: &At<'_>, out: &mut FieldErrors) {
    let policy = spec.get("podFailurePolicy");
    policy.at_most("rules", MOST, out);
    let pod = spec.value.at("template.spec");
    let containers: BTreeSet<&str> =
        pod.items("containers").iter().chain(pod.items("initContainers")).map(|c| c.text("name")).collect();
    for rule in policy.items("rules") {
        if rule.text("action") == "FailIndex" && !spec.has("backoffLimitPerIndex") {
            rule.invalid("action", "requires the backoffLimitPerIndex to be set", out);
        }
        choice(&rule, "action", ACTIONS, out);
        let codes = rule.get("onExitCodes");
        if codes.is_set() {
            exit_codes(&codes, &containers, out);
        }
        conditions(&rule, out);
        match (codes.is_set(), rule.value.count("onPodConditions") > 0) {
            (true, true) => {
                let why = "specifying both OnExitCodes and OnPodConditions is not supported";
                out.push(FieldError::invalid_unshown(&rule.path, why));
            }
            (false, false) => {
                let why = "specifying one of OnExitCodes and OnPodConditions is required";
                out.push(FieldError::invalid_unshown(&rule.path, why));
            }
            _ => {}
        }
    }
}

fn conditions(rule: &At<'_>, out: &mut FieldErrors) {
    rule.at_most("onPodConditions", MOST, out);
    for pattern in rule.items("onPodConditions") {
        pattern.faults("type", &names::qualified_name(pattern.text("type")), out);
        choice(&pattern, "status", STATUSES, out);
    }
}

fn exit_codes(codes: &At<'_>, containers: &BTreeSet<&str>, out: &mut FieldErrors) {
    choice(codes, "operator", &["In", "NotIn"], out);
    if codes.has("containerName") && !containers.contains(codes.text("containerName")) {
        let why = "must be one of the container or initContainer names in the pod template";
        codes.invalid("containerName", why, out);
    }
    if codes.value.count("values") == 0 {
        codes.invalid("values", "at least one value is required", out);
    }
    codes.at_most("values", 255, out);
    let mut seen = BTreeSet::new();
    for code in codes.items("values") {
        let number = code.value.as_i64().unwrap_or_default();
        if codes.text("operator") == "In" && number == 0 {
            code.wrong("must not be 0 for the In operator", out);
        }
        if !seen.insert(number) {
            out.push(FieldError::duplicate(&code.path, number));
        }
    }
    if !codes.value.items("values").is_sorted_by_key(|code| code.as_i64()) {
        codes.invalid("values", "must be ordered", out);
    }
}

/// Faults of `successPolicy`.
pub(super) fn success(spec: &At<'_>, out: &mut FieldErrors) {
    if !spec.has("successPolicy") {
        return;
    }
    if spec.text("completionMode") != "Indexed" {
        return spec.invalid("successPolicy", "requires indexed completion mode", out);
    }
    let policy = spec.get("successPolicy");
    if policy.value.count("rules") == 0 {
        policy.missing("rules", "at least one rules must be specified when the successPolicy is specified", out);
    }
    policy.at_most("rules", MOST, out);
    let completions = spec.int("completions").unwrap_or_default();
    for rule in policy.items("rules") {
        success_rule(&rule, completions, out);
    }
}

fn success_rule(rule: &At<'_>, completions: i64, out: &mut FieldErrors) {
    if !rule.has("succeededCount") && !rule.has("succeededIndexes") {
        let why = "at least one of succeededCount or succeededIndexes must be specified";
        out.push(FieldError::required(&rule.path, why));
    }
    let total = rule.has("succeededIndexes").then(|| {
        index_count(rule.text("succeededIndexes"), completions).unwrap_or_else(|why| {
            rule.invalid("succeededIndexes", &format!("error parsing succeededIndexes: {why}"), out);
            0
        })
    });
    rule.not_negative("succeededCount", out);
    let Some(count) = rule.int("succeededCount") else { return };
    for (limit, what) in [
        (Some(completions), "the number of specified completions"),
        (total, "the number of indexes in the specified succeededIndexes field"),
    ] {
        if let Some(limit) = limit.filter(|limit| count > *limit) {
            rule.invalid("succeededCount", &format!("must be less than or equal to {limit} ({what})"), out);
        }
    }
}

/// How many indexes `1,3-5,7` names, all below `completions`.
pub(super) fn index_count(text: &str, completions: i64) -> Result<i64, String> {
    let (mut total, mut last) = (0, None);
    for interval in text.split(',').filter(|_| !text.is_empty()) {
        let (low, high) = match interval.split('-').collect::<Vec<_>>()[..] {
            [one] => index(one, completions).map(|n| (n, n))?,
            [low, high] => {
                let (low, high) = (index(low, completions)?, index(high, completions)?);
                if low >= high {
                    return Err(format!("non-increasing order, previous: {low}, current: {high}"));
                }
                (low, high)
            }
            _ => {
                return Err(format!(
                    "the fragment {interval:?} violates the requirement that an index interval can have at most two \
                     parts separated by '-'"
                ));
            }
        };
        if let Some(last) = last.filter(|last| *last >= low) {
            return Err(format!("non-increasing order, previous: {last}, current: {low}"));
        }
        total += high - low + 1;
        last = Some(high);
    }
    Ok(total)
}

fn index(text: &str, completions: i64) -> Result<i64, String> {
    let index = text.parse().map_err(|_| format!("cannot convert string to integer for index: {text:?}"))?;
    if index < completions { Ok(index) } else { Err(format!("too large index: {text:?}")) }
}
