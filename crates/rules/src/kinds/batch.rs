//! Kinds whose pods end.

use serde_json::Value;
use skiff_meta::field::FieldErrors;

use super::{pod, pod_spec};
use crate::faults::At;
use crate::kind::{AGE, ColumnFacts, KindRules, NAME, empty_status};
use crate::show::{age, containers, created, duration, name, selector};
use crate::tree::{fill, items, items_mut, number, object, put, text};

const WIDE: [ColumnFacts; 3] = [
    ("Containers", "string", 1, "Names of the containers"),
    ("Images", "string", 1, "Images of the containers"),
    ("Selector", "string", 1, "Selector of the pods"),
];

pub(crate) static JOB: KindRules = KindRules {
    default: |job| default_job(object(job, "spec"), true),
    first_status: Some(empty_status),
    counts_generation: true,
    create: generate_selector,
    validate: |at, faults| job(&at.get("spec"), faults),
    validate_change: job_change,
    columns: &[
        NAME,
        ("Status", "string", 0, "Whether the job runs, is done, or why not"),
        ("Completions", "string", 0, "Pods that succeeded, of those wanted"),
        ("Duration", "string", 0, "How long it took, or takes so far"),
        AGE,
        WIDE[0],
        WIDE[1],
        WIDE[2],
    ],
    cells: |object, now| {
        let (spec, status) = (&object["spec"], &object["status"]);
        let wanted = match (spec["completions"].as_i64(), number(&spec["parallelism"])) {
            (Some(completions), _) => completions.to_string(),
            (None, parallelism) if parallelism > 1 => format!("1 of {parallelism}"),
            _ => "1".to_owned(),
        };
        let seconds = |value: &Value| text(value).parse::<jiff::Timestamp>().ok().map(|t| t.as_second());
        let took = match (seconds(&status["startTime"]), seconds(&status["completionTime"])) {
            (None, _) => String::new(),
            (Some(start), end) => duration(end.unwrap_or(now.as_second()) - start),
        };
        let [names, images] = containers(&spec["template"]["spec"]);
        vec![
            name(object),
            state(object).into(),
            format!("{}/{wanted}", number(&status["succeeded"])).into(),
            took.into(),
            created(object, now),
            names,
            images,
            selector(&spec["selector"]),
        ]
    },
    fields: |object| vec![("status.successful", number(&object["status"]["succeeded"]).to_string())],
    ..KindRules::new("batch", "Job")
};

fn state(job: &Value) -> &'static str {
    let holds = |ty: &str| items(&job["status"]["conditions"]).iter().any(|c| c["type"] == ty && c["status"] == "True");
    if holds("Complete") {
        "Complete"
    } else if holds("Failed") {
        "Failed"
    } else if job["metadata"]["deletionTimestamp"].is_string() {
        "Terminating"
    } else if holds("Suspended") {
        "Suspended"
    } else if holds("FailureTarget") {
        "FailureTarget"
    } else if holds("SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    }
}

fn default_job(spec: &mut Value, whole: bool) {
    pod::template(spec);
    if !whole {
        return;
    }
    if spec["completions"].is_null() && spec["parallelism"].is_null() {
        fill(spec, "completions", 1);
        fill(spec, "parallelism", 1);
    }
    fill(spec, "parallelism", 1);
    let per_index = spec["backoffLimitPerIndex"].is_i64();
    fill(spec, "backoffLimit", if per_index { i64::from(i32::MAX) } else { 6 });
    fill(spec, "completionMode", "NonIndexed");
    fill(spec, "suspend", false);
    fill(spec, "manualSelector", false);
    let has_policy = spec["podFailurePolicy"].is_object();
    fill(spec, "podReplacementPolicy", if has_policy { "Failed" } else { "TerminatingOrFailed" });
    if spec["manualSelector"] == false {
        put(spec, "manualSelector", Value::Null);
    }
    if let Some(map) = spec.as_object_mut() {
        map.retain(|_, v| !v.is_null());
    }
    for rule in spec.pointer_mut("/podFailurePolicy/rules").into_iter().flat_map(items_mut) {
        for pattern in rule.get_mut("onPodConditions").into_iter().flat_map(items_mut) {
            fill(pattern, "status", "True");
        }
    }
}

/// Selector and labels that tie pods to this very job, made at creation from its UID.
fn generate_selector(job: &mut Value) {
    if job["spec"]["manualSelector"] == true {
        return;
    }
    let (uid, name) = (job["metadata"]["uid"].clone(), job["metadata"]["name"].clone());
    let labels = object(object(object(object(job, "spec"), "template"), "metadata"), "labels");
    for (key, value) in [
        ("batch.kubernetes.io/job-name", &name),
        ("job-name", &name),
        ("batch.kubernetes.io/controller-uid", &uid),
        ("controller-uid", &uid),
    ] {
        labels[key] = value.clone();
    }
    let selector = object(object(object(job, "spec"), "selector"), "matchLabels");
    selector["batch.kubernetes.io/controller-uid"] = uid;
}

fn job(spec: &At<'_>, faults: &mut FieldErrors) {
    for field in [
        "parallelism",
        "completions",
        "backoffLimit",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
        "activeDeadlineSeconds",
        "ttlSecondsAfterFinished",
    ] {
        spec.get(field).not_negative(faults);
    }
    let mode = spec.get("completionMode");
    mode.one_of(faults, &["NonIndexed", "Indexed"]);
    if mode.text() == "Indexed" {
        spec.get("completions").required(faults, "when completion mode is Indexed");
    } else if spec.get("backoffLimitPerIndex").exists() {
        spec.get("backoffLimitPerIndex").forbidden(faults, "requires indexed completion mode");
    }
    let pod = spec.walk("template.spec");
    pod_spec::validate(&pod, faults);
    let policy = pod.get("restartPolicy");
    if policy.text() == "Always" {
        faults.push(skiff_meta::field::FieldError::not_supported(
            &policy.path,
            policy.value.clone(),
            &["OnFailure", "Never"],
        ));
    }
}

fn job_change(new: &At<'_>, old: &At<'_>, faults: &mut FieldErrors) {
    let (new_spec, old_spec) = (new.get("spec"), old.get("spec"));
    for field in
        ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy", "selector"]
    {
        new_spec.get(field).immutable(&old_spec.get(field), faults);
    }
    if old_spec.get("completionMode").text() != "Indexed" {
        new_spec.get("completions").immutable(&old_spec.get("completions"), faults);
    }
    let suspended = old_spec.value["suspend"] == true && !old.walk("status.startTime").exists();
    if !suspended {
        new_spec.get("template").immutable(&old_spec.get("template"), faults);
    }
}

pub(crate) static CRON_JOB: KindRules = KindRules {
    default: |cron| {
        let spec = object(cron, "spec");
        fill(spec, "concurrencyPolicy", "Allow");
        fill(spec, "suspend", false);
        fill(spec, "successfulJobsHistoryLimit", 3);
        fill(spec, "failedJobsHistoryLimit", 1);
        if let Some(job) = spec.pointer_mut("/jobTemplate/spec") {
            default_job(job, false);
        }
    },
    first_status: Some(empty_status),
    counts_generation: true,
    validate: |at, faults| {
        let spec = at.get("spec");
        let schedule = spec.get("schedule");
        if schedule.required(faults, "") && !is_schedule(schedule.text()) {
            schedule.invalid(faults, "expected exactly 5 fields, or a descriptor such as @hourly");
        }
        spec.get("concurrencyPolicy").one_of(faults, &["Allow", "Forbid", "Replace"]);
        for field in ["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
            spec.get(field).not_negative(faults);
        }
        job(&spec.walk("jobTemplate.spec"), faults);
    },
    columns: &[
        NAME,
        ("Schedule", "string", 0, "When jobs start"),
        ("Timezone", "string", 0, "Time zone of the schedule"),
        ("Suspend", "boolean", 0, "Whether jobs start at all"),
        ("Active", "integer", 0, "Jobs that run"),
        ("Last Schedule", "string", 0, "Time since a job started last"),
        AGE,
        WIDE[0],
        WIDE[1],
        WIDE[2],
    ],
    cells: |object, now| {
        let (spec, status) = (&object["spec"], &object["status"]);
        let [names, images] = containers(&spec["jobTemplate"]["spec"]["template"]["spec"]);
        let last = &status["lastScheduleTime"];
        let suspend = if spec["suspend"] == true { "True" } else { "False" };
        vec![
            name(object),
            spec["schedule"].clone(),
            crate::show::or_none(&spec["timeZone"]),
            suspend.into(),
            items(&status["active"]).len().into(),
            if last.is_string() { age(last, now) } else { "<none>".to_owned() }.into(),
            created(object, now),
            names,
            images,
            selector(&spec["jobTemplate"]["spec"]["selector"]),
        ]
    },
    ..KindRules::new("batch", "CronJob")
};

fn is_schedule(text: &str) -> bool {
    let known = ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];
    known.contains(&text) || text.starts_with("@every ") || text.split_whitespace().count() == 5
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rules;
    use crate::tree::members;
    use serde_json::json;

    fn sample() -> Value {
        json!({"metadata": {"name": "j", "uid": "u"}, "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "x:1"}]}}}})
    }

    #[test]
    fn a_job_runs_once_by_default() {
        let mut object = sample();
        Rules::default(&JOB, &mut object);
        assert_eq!(
            (&object["spec"]["completions"], &object["spec"]["parallelism"], &object["spec"]["backoffLimit"]),
            (&json!(1), &json!(1), &json!(6))
        );
        assert!(JOB.validate_create(&object).is_empty());
        generate_selector(&mut object);
        assert_eq!(object["spec"]["selector"]["matchLabels"]["batch.kubernetes.io/controller-uid"], "u");
        assert_eq!(members(&object["spec"]["template"]["metadata"]["labels"]).count(), 4);
    }

    #[test]
    fn a_job_ends() {
        let mut object = sample();
        object["spec"]["template"]["spec"]["restartPolicy"] = json!("Always");
        assert!(!JOB.validate_create(&object).is_empty());
        assert!(is_schedule("*/5 * * * *") && is_schedule("@daily") && !is_schedule("soon"));
    }
}
