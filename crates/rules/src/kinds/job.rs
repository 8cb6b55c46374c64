//! Jobs: pods that run until enough of them succeeded.

mod policies;
mod status;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;
use skiff_meta::field::{FieldError, FieldErrors};
use skiff_meta::{LabelSelector, names};

use crate::at::At;
use crate::disabled;
use crate::row::{EMPTY, Row, name_cell};
use crate::view::{Change, View};
use crate::warnings;
use crate::{Part, age, cells, podspec, workload};

const UID_LABELS: [&str; 2] = ["controller-uid", "batch.kubernetes.io/controller-uid"];
const NAME_LABELS: [&str; 2] = ["job-name", "batch.kubernetes.io/job-name"];
/// Most pods of an indexed job at a time, and most indexes of one that may fail.
const MOST_INDEXES: i64 = 100_000;
/// The same for jobs with more completions than that.
const MOST_OF_MANY: i64 = 10_000;

pub(crate) const JOB: Row = Row {
    status: EMPTY,
    generation: &["spec"],
    default,
    prepare_create: generate_selector,
    prepare_update: |job, _, _| workload::label_as_template(job),
    validate,
    validate_create: |job, out| generated_selector(job, true, out),
    validate_update,
    validate_part: |new, old, part, out| {
        if part == Part::Status {
            status::validate(new, old, out);
        }
    },
    disabled: disabled::WORKLOAD,
    warnings: warnings::of_job,
    selectable: |job| vec![("status.successful", job.at("status").int("succeeded").unwrap_or_default().to_string())],
    columns: "Name,Status,Completions,Duration,Age,+Containers,+Images,+Selector",
    cells,
    ..Row::new("batch", "Job")
};

fn default(job: &mut Value) {
    workload::default_template(job);
    workload::label_as_template(job);
    let spec = job.child("spec");
    if !spec.has("completions") && !spec.has("parallelism") {
        spec.put("completions", 1.into());
    }
    spec.default_to("parallelism", 1);
    let tries = if spec.has("backoffLimitPerIndex") { i32::MAX } else { 6 };
    spec.default_to("backoffLimit", tries);
    spec.default_to("completionMode", "NonIndexed");
    spec.default_to("suspend", false);
    let replaced = if spec.has("podFailurePolicy") { "Failed" } else { "TerminatingOrFailed" };
    spec.default_to("podReplacementPolicy", replaced);
    spec.default_to("manualSelector", false);
    default_patterns(spec);
}

/// Fills in what a failure policy looks for.
pub(super) fn default_patterns(spec: &mut Value) {
    let Some(policy) = spec.existing("podFailurePolicy") else { return };
    for pattern in policy.items_mut("rules").iter_mut().flat_map(|rule| rule.items_mut("onPodConditions")) {
        pattern.default_text("status", "True");
    }
}

/// Pods are found by a label with the job's UID, unless the client chooses how.
fn generate_selector(job: &mut Value) {
    if job.at("spec").flag("manualSelector") {
        return;
    }
    let of = |name: &str| Value::from(job.at("metadata").text(name));
    let (uid, name) = (of("uid"), of("name"));
    let spec = job.child("spec");
    let labels = spec.child("template").child("metadata").child("labels");
    for (keys, value) in [(NAME_LABELS, name), (UID_LABELS, uid.clone())] {
        keys.iter().for_each(|key| labels.default_to(key, value.clone()));
    }
    spec.child("selector").child("matchLabels").default_to(UID_LABELS[1], uid);
    workload::label_as_template(job);
}

fn generated_selector(job: &Value, prefixed: bool, out: &mut FieldErrors) {
    let spec = At::member(job, "spec");
    if spec.flag("manualSelector") || !spec.has("selector") {
        return;
    }
    let meta = At::member(job, "metadata");
    meta.require("uid", out);
    let (uid, name) = (meta.text("uid"), meta.text("name"));
    let template = spec.get("template").get("metadata").get("labels");
    let mut expected = BTreeMap::new();
    for i in 0..if prefixed { 2 } else { 1 } {
        for (key, wanted) in [(UID_LABELS[i], uid), (NAME_LABELS[i], name)] {
            expected.insert(key.to_owned(), wanted.to_owned());
            let (path, why) = (template.path.key(key), format!("must be '{wanted}'"));
            if !template.has(key) {
                out.push(FieldError::required(&path, &why));
            } else if template.text(key) != wanted {
                out.push(FieldError::invalid(&path, template.value.clone(), &why));
            }
        }
    }
    if LabelSelector::from_json(spec.value.get_or_null("selector")).is_ok_and(|s| !s.matches(&expected)) {
        spec.invalid("selector", "`selector` not auto-generated", out);
    }
}

fn validate(job: &Value, out: &mut FieldErrors) {
    let spec = At::member(job, "spec");
    validate_spec(&spec, out);
    if spec.has("selector") {
        spec.get("selector").label_selector(out);
        if let Ok(selector) = LabelSelector::from_json(spec.value.get_or_null("selector")) {
            workload::matches_template(&selector, &spec.get("template"), out);
        }
    } else {
        // No selector selects nothing.
        spec.missing("selector", "", out);
        let labels = spec.value.at("template.metadata.labels").clone();
        let path = spec.path("template").child("metadata").child("labels");
        out.push(FieldError::invalid(&path, labels, "`selector` does not match template `labels`"));
    }
    let completions = spec.int("completions").unwrap_or_default();
    if spec.text("completionMode") == "Indexed" && completions > 0 {
        let meta = At::member(job, "metadata");
        let longest = format!("{}-{}", meta.text("name"), completions - 1);
        if !names::dns1123_label(&longest).is_empty() {
            let why = format!("will not able to create pod with invalid DNS label: {longest}");
            meta.invalid("name", &why, out);
        }
    }
}

/// Faults of a job's spec, or of one in a template of jobs; those of its selector are apart.
pub(super) fn validate_spec(spec: &At<'_>, out: &mut FieldErrors) {
    for name in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        spec.not_negative(name, out);
    }
    if spec.has("maxFailedIndexes") && !spec.has("backoffLimitPerIndex") {
        spec.missing("backoffLimitPerIndex", "when maxFailedIndexes is specified", out);
    }
    if spec.has("managedBy") {
        spec.domain_prefixed_path("managedBy", out);
        if spec.text("managedBy").len() > 63 {
            out.push(FieldError::too_long(&spec.path("managedBy"), 63));
        }
    }
    spec.optional_one_of("completionMode", &["Indexed", "NonIndexed"], out);
    indexes(spec, out);
    policies::failure(spec, out);
    policies::success(spec, out);
    let replacements: &[&str] =
        if spec.has("podFailurePolicy") { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
    spec.optional_one_of("podReplacementPolicy", replacements, out);
    let template = spec.get("template");
    podspec::validate_template(&template, out);
    restarts(spec, &template.get("spec"), out);
}

fn indexes(spec: &At<'_>, out: &mut FieldErrors) {
    let int = |name: &str| spec.int(name);
    let over = |name: &str, limit: i64| int(name).is_some_and(|n| n > limit);
    if spec.text("completionMode") != "Indexed" {
        for name in ["backoffLimitPerIndex", "maxFailedIndexes"].into_iter().filter(|name| spec.has(name)) {
            spec.invalid(name, "requires indexed completion mode", out);
        }
        return;
    }
    if !spec.has("completions") {
        spec.missing("completions", "when completion mode is Indexed", out);
    }
    if over("parallelism", MOST_INDEXES) {
        let why = format!("must be less than or equal to {MOST_INDEXES} when completion mode is Indexed");
        spec.invalid("parallelism", &why, out);
    }
    if int("completions").is_some_and(|completions| over("maxFailedIndexes", completions)) {
        spec.invalid("maxFailedIndexes", "must be less than or equal to completions", out);
    }
    if over("maxFailedIndexes", MOST_INDEXES) {
        spec.invalid("maxFailedIndexes", &format!("must be less than or equal to {MOST_INDEXES}"), out);
    }
    if !over("completions", MOST_INDEXES) || !spec.has("backoffLimitPerIndex") {
        return;
    }
    if !spec.has("maxFailedIndexes") {
        let why = format!("must be specified when completions is above {MOST_INDEXES}");
        spec.missing("maxFailedIndexes", &why, out);
    }
    for name in ["parallelism", "maxFailedIndexes"].into_iter().filter(|name| over(name, MOST_OF_MANY)) {
        let why = format!(
            "must be less than or equal to {MOST_OF_MANY} when completions are above {MOST_INDEXES} and used with \
             backoff limit per index"
        );
        spec.invalid(name, &why, out);
    }
}

fn restarts(spec: &At<'_>, pod: &At<'_>, out: &mut FieldErrors) {
    match pod.text("restartPolicy") {
        "" | "Always" => pod.missing("restartPolicy", "valid values: \"OnFailure\", \"Never\"", out),
        "OnFailure" if spec.has("podFailurePolicy") => {
            pod.invalid("restartPolicy", "only \"Never\" is supported when podFailurePolicy is specified", out);
        }
        "OnFailure" | "Never" => {}
        other => {
            let path = pod.path("restartPolicy");
            out.push(FieldError::not_supported(&path, other, &["OnFailure", "Never"]));
        }
    }
}

fn validate_update(new: &Value, old: &Value, out: &mut FieldErrors) {
    let labels = old.at("spec.template.metadata.labels");
    generated_selector(new, labels.has(NAME_LABELS[1]) && labels.has(UID_LABELS[1]), out);
    let (spec, before) = (At::member(new, "spec"), old.get_or_null("spec"));
    if spec.text("completionMode") != "Indexed" {
        spec.immutable("completions", before, out);
    } else if spec.has("completions")
        && spec.int("completions") != before.int("completions")
        && spec.int("completions") != spec.int("parallelism")
    {
        spec.invalid("completions", "can only be modified in tandem with spec.parallelism", out);
    }
    spec.immutable("selector", before, out);
    template_update(&spec, old, out);
    for name in ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"] {
        spec.immutable(name, before, out);
    }
}

/// Only while a job is suspended and none of its pods run may be changed where they run and what they need.
fn template_update(spec: &At<'_>, old: &Value, out: &mut FieldErrors) {
    let before = old.get_or_null("spec");
    let started = old.at("status").has("startTime") && !cells::is_true(old, "Suspended");
    let at_rest = before.flag("suspend") && !started && old.at("status").int("active").unwrap_or_default() == 0;
    let mut allowed = before.get_or_null("template").clone();
    if at_rest {
        let wanted = spec.value.get_or_null("template");
        for field in ["annotations", "labels"] {
            allowed.child("metadata").put(field, wanted.at("metadata").get_or_null(field).clone());
        }
        allow_elsewhere(allowed.child("spec"), wanted.get_or_null("spec"));
    }
    if spec.value.get_or_null("template") != &allowed {
        spec.invalid("template", "field is immutable", out);
    }
}

fn allow_elsewhere(allowed: &mut Value, wanted: &Value) {
    for field in ["nodeSelector", "tolerations", "schedulingGates"] {
        allowed.put(field, wanted.get_or_null(field).clone());
    }
    let on_node = wanted.at("affinity.nodeAffinity").clone();
    if wanted.has("affinity") || allowed.has("affinity") {
        allowed.child("affinity").put("nodeAffinity", on_node);
    }
    if !wanted.has("affinity") && allowed.count("affinity") == 0 {
        allowed.drop_member("affinity");
    }
    for list in ["containers", "initContainers"] {
        if wanted.count(list) != allowed.count(list) {
            continue;
        }
        for (container, wanted) in allowed.items_mut(list).iter_mut().zip(wanted.items(list)) {
            if container.text("name") == wanted.text("name") {
                container.put("resources", wanted.get_or_null("resources").clone());
            }
        }
    }
}

fn cells(job: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (job.get_or_null("spec"), job.get_or_null("status"));
    let wanted = match (spec.int("completions"), spec.int("parallelism").unwrap_or_default()) {
        (Some(completions), _) => completions.to_string(),
        (None, parallelism) if parallelism > 1 => format!("1 of {parallelism}"),
        _ => "1".to_owned(),
    };
    let end = age::timestamp(status.get_or_null("completionTime")).unwrap_or(now);
    let took = age::timestamp(status.get_or_null("startTime")).map(|start| age::seconds_between(start, end));
    let [names, images] = cells::containers(spec.at("template.spec"));
    vec![
        name_cell(job),
        state(job).into(),
        format!("{}/{wanted}", status.int("succeeded").unwrap_or_default()).into(),
        took.map(age::human).unwrap_or_default().into(),
        age::cell(job, now),
        names,
        images,
        cells::selector(spec.get_or_null("selector")),
    ]
}

fn state(job: &Value) -> &'static str {
    let first = |states: &[&'static str]| states.iter().copied().find(|state| cells::is_true(job, state));
    first(&["Complete", "Failed"])
        .or_else(|| job.at("metadata").has("deletionTimestamp").then_some("Terminating"))
        .or_else(|| first(&["Suspended", "FailureTarget", "SuccessCriteriaMet"]))
        .unwrap_or("Running")
}

#[cfg(test)]
mod tests;
