//! Leases, events, priority classes: what components tell one another.

use serde_json::Value;
use skiff_meta::field::{FieldError, FieldErrors, FieldPath};
use skiff_meta::names::{self, NameForm};

use crate::age;
use crate::at::At;
use crate::row::{Row, name_cell};
use crate::view::{Change, View};

pub(crate) const LEASE: Row = Row {
    prepare_create: |lease| without_election(lease, &Value::Null),
    prepare_update: |new, old, _| without_election(new, old),
    validate: |lease, out| {
        let spec = At::member(lease, "spec");
        if spec.int("leaseDurationSeconds").is_some_and(|seconds| seconds <= 0) {
            spec.invalid("leaseDurationSeconds", "must be greater than 0", out);
        }
        spec.not_negative("leaseTransitions", out);
        if spec.has("strategy") {
            strategy(&spec, out);
        }
        if !spec.text("preferredHolder").is_empty() && spec.text("strategy").is_empty() {
            spec.forbidden("preferredHolder", "may only be specified if `strategy` is defined", out);
        }
    },
    columns: "Name,Holder,Age",
    cells: |lease, now| vec![name_cell(lease), lease.at("spec").text("holderIdentity").into(), age::cell(lease, now)],
    ..Row::new("coordination.k8s.io", "Lease")
};

pub(crate) const PRIORITY_CLASS: Row = Row {
    // Counted once at creation and never again.
    prepare_create: |class| class.child("metadata").put("generation", 1.into()),
    default: |class| class.default_to("preemptionPolicy", "PreemptLowerPriority"),
    validate_create: |class, out| {
        let policy = class.text("preemptionPolicy");
        let supported = &["PreemptLowerPriority", "Never"];
        let path = FieldPath::new("preemptionPolicy");
        if policy.is_empty() {
            out.push(FieldError::required(&path, ""));
        } else if !supported.contains(&policy) {
            out.push(FieldError::not_supported(&path, policy, supported));
        }
        const HIGHEST: i64 = 1_000_000_000;
        let name = class.at("metadata").text("name");
        if class.int("value").unwrap_or_default() > HIGHEST && !name.starts_with("system-") {
            let why = format!("maximum allowed value of a user defined priority is {HIGHEST}");
            out.push(FieldError::forbidden(&FieldPath::new("value"), &why));
        }
        let known = [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];
        if name.starts_with("system-") && !known.contains(&(name, class.int("value").unwrap_or_default())) {
            let why = "priority class names with 'system-' prefix are reserved for system use only. error: only \
                       system-node-critical and system-cluster-critical are known";
            out.push(FieldError::forbidden(&FieldPath::new("metadata.name"), why));
        }
    },
    validate_update: |new, old, out| {
        for (field, why) in [("value", "may not be changed in an update."), ("preemptionPolicy", "field is immutable")]
        {
            if new.get_or_null(field) != old.get_or_null(field) {
                let path = FieldPath::new(field);
                out.push(if field == "value" {
                    FieldError::forbidden(&path, why)
                } else {
                    FieldError::invalid(&path, new.get_or_null(field).clone(), why)
                });
            }
        }
    },
    columns: "Name,#Value,?Global-Default,Age,PreemptionPolicy",
    cells: |class, now| {
        vec![
            name_cell(class),
            class.int("value").unwrap_or_default().into(),
            class.flag("globalDefault").into(),
            age::cell(class, now),
            class.text("preemptionPolicy").into(),
        ]
    },
    ..Row::new("scheduling.k8s.io", "PriorityClass")
};

/// Elections that the server coordinates are off by default: nobody begins with them.
fn without_election(lease: &mut Value, old: &Value) {
    for field in ["strategy", "preferredHolder"] {
        if !old.at("spec").has(field)
            && let Some(spec) = lease.existing("spec")
        {
            spec.drop_member(field);
        }
    }
}

const EVENT_COLUMNS: &str = "Last Seen,Type,Reason,Object,+Subobject,+Source,Message,+First Seen,+Count,+Name";

pub(crate) const EVENT: Row = Row {
    // No more is asked of the older group's.
    name: NameForm::PathSegment,
    validate: validate_event,
    selectable: selectable_event,
    columns: EVENT_COLUMNS,
    cells: event_cells,
    ..Row::new("", "Event")
};

/// The newer group is strict where the older one keeps to what it always took (upstream: `validation/events.go`).
pub(crate) const EVENT_V1: Row = Row {
    group: "events.k8s.io",
    name: NameForm::Subdomain,
    validate_create: |event, out| {
        series(event, out);
        if !event.has("eventTime") {
            out.push(FieldError::required(&FieldPath::new("eventTime"), ""));
        }
        let ty = event.text("type");
        if !matches!(ty, "Normal" | "Warning") {
            out.push(FieldError::invalid(&FieldPath::new("type"), "", &format!("has invalid value: {ty}")));
        }
        let source = event.get_or_null("deprecatedSource");
        for (name, set) in [
            ("firstTimestamp", event.has("deprecatedFirstTimestamp")),
            ("lastTimestamp", event.has("deprecatedLastTimestamp")),
            ("count", event.int("deprecatedCount").is_some_and(|count| count != 0)),
            ("source", !source.text("component").is_empty() || !source.text("host").is_empty()),
        ] {
            if set {
                out.push(FieldError::invalid(&FieldPath::new(name), "", "needs to be unset"));
            }
        }
    },
    validate_update: |new, old, out| {
        if new.get_or_null("series") != old.get_or_null("series") {
            series(new, out);
        }
        for (field, name) in IMMUTABLE {
            let (new, old) = (new.get_or_null(field), old.get_or_null(field));
            if new != old {
                out.push(FieldError::invalid(&FieldPath::new(*name), new.clone(), "field is immutable"));
            }
        }
    },
    ..EVENT
};

/// What an event of the newer group may not change, and what faults call it.
const IMMUTABLE: &[(&str, &str)] = &[
    ("regarding", "involvedObject"),
    ("reason", "reason"),
    ("note", "message"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
    ("type", "type"),
    ("eventTime", "eventTime"),
    ("action", "action"),
    ("related", "related"),
    ("reportingController", "reportingController"),
    ("reportingInstance", "reportingInstance"),
];

fn series(event: &Value, out: &mut FieldErrors) {
    let Some(series) = event.get("series").filter(|series| !series.is_null()) else { return };
    if series.int("count").unwrap_or_default() < 2 {
        out.push(FieldError::invalid(&FieldPath::new("series.count"), "", "should be at least 2"));
    }
    if !series.has("lastObservedTime") {
        out.push(FieldError::required(&FieldPath::new("series.lastObservedTime"), ""));
    }
}

fn strategy(spec: &At<'_>, out: &mut FieldErrors) {
    let text = spec.text("strategy");
    let path = spec.path("strategy").child("strategy");
    if text.contains('/') {
        out.extend(names::qualified_name(text).iter().map(|why| FieldError::invalid(&path, text, why)));
    } else if text != "OldestEmulationVersion" {
        out.push(FieldError::not_supported(&path, text, &["OldestEmulationVersion"]));
    }
}

/// A member that the two groups of events name differently.
fn either<'v>(event: &'v Value, core: &str, new: &str) -> &'v Value {
    if event.has(core) { event.get_or_null(core) } else { event.get_or_null(new) }
}

fn involved(event: &Value) -> &Value {
    either(event, "involvedObject", "regarding")
}

fn reporter(event: &Value) -> &str {
    either(event, "reportingComponent", "reportingController").as_str().unwrap_or_default()
}

fn validate_event(event: &Value, out: &mut FieldErrors) {
    let namespace = event.at("metadata").text("namespace");
    let of_object = involved(event).text("namespace");
    let new = event.has("eventTime");
    let agrees = match (of_object, new) {
        ("", false) => matches!(namespace, "" | "default"),
        ("", true) => matches!(namespace, "default" | "kube-system"),
        (of_object, false) => of_object == namespace,
        (_, true) => true,
    };
    if !agrees {
        let path = FieldPath::new("involvedObject.namespace");
        out.push(FieldError::invalid(&path, of_object, "does not match event.namespace"));
    }
    if new {
        validate_new_event(event, out);
    }
    let path = FieldPath::new("namespace");
    out.extend(names::dns1123_subdomain(namespace).iter().map(|why| FieldError::invalid(&path, namespace, why)));
}

fn validate_new_event(event: &Value, out: &mut FieldErrors) {
    let reporter = reporter(event);
    let older = event.text("apiVersion") == "v1";
    let path = FieldPath::new(if older { "reportingComponent" } else { "reportingController" });
    if reporter.is_empty() {
        out.push(FieldError::required(&path, ""));
    }
    out.extend(names::qualified_name(reporter).iter().map(|why| FieldError::invalid(&path, reporter, why)));
    for (field, max) in [("reportingInstance", 128), ("action", 128), ("reason", 128), ("message", 1024)] {
        let text = if field == "message" { either(event, "message", "note").as_str() } else { Some(event.text(field)) };
        let text = text.unwrap_or_default();
        let path = FieldPath::new(field);
        if text.is_empty() && field != "message" {
            out.push(FieldError::required(&path, ""));
        }
        if text.len() > max {
            out.push(FieldError::invalid(&path, "", &format!("can have at most {max} characters")));
        }
    }
}

fn selectable_event(event: &Value) -> Vec<(&'static str, String)> {
    let (object, source) = (involved(event), either(event, "source", "deprecatedSource"));
    let of = |name: &str| object.text(name).to_owned();
    let component = if source.text("component").is_empty() { reporter(event) } else { source.text("component") };
    let mut fields = Vec::with_capacity(18);
    for (core, new, member) in [
        ("involvedObject.kind", "regarding.kind", "kind"),
        ("involvedObject.namespace", "regarding.namespace", "namespace"),
        ("involvedObject.name", "regarding.name", "name"),
        ("involvedObject.uid", "regarding.uid", "uid"),
        ("involvedObject.apiVersion", "regarding.apiVersion", "apiVersion"),
        ("involvedObject.resourceVersion", "regarding.resourceVersion", "resourceVersion"),
        ("involvedObject.fieldPath", "regarding.fieldPath", "fieldPath"),
    ] {
        fields.push((core, of(member)));
        fields.push((new, of(member)));
    }
    fields.push(("reason", event.text("reason").to_owned()));
    fields.push(("reportingComponent", reporter(event).to_owned()));
    fields.push(("reportingController", reporter(event).to_owned()));
    fields.push(("source", component.to_owned()));
    fields.push(("type", event.text("type").to_owned()));
    fields
}

fn event_cells(event: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let first = either(event, "firstTimestamp", "deprecatedFirstTimestamp");
    let first = age::since(if first.is_null() { event.get_or_null("eventTime") } else { first }, now);
    let last = either(event, "lastTimestamp", "deprecatedLastTimestamp");
    let mut last = if last.is_null() { first.clone() } else { age::since(last, now) };
    let mut count = either(event, "count", "deprecatedCount").as_i64().filter(|count| *count != 0).unwrap_or(1);
    let series = event.get_or_null("series");
    if !series.is_null() {
        last = age::since(series.get_or_null("lastObservedTime"), now);
        count = series.int("count").unwrap_or_default();
    }
    let object = involved(event);
    let kind = object.text("kind").to_lowercase();
    let target = if object.text("name").is_empty() { kind } else { format!("{kind}/{}", object.text("name")) };
    let source = either(event, "source", "deprecatedSource");
    let pick = |a: &str, b: &str| if a.is_empty() { b.to_owned() } else { a.to_owned() };
    let component = pick(source.text("component"), reporter(event));
    let instance = pick(source.text("host"), event.text("reportingInstance"));
    let source = if instance.is_empty() { component } else { format!("{component}, {instance}") };
    vec![
        last.into(),
        event.text("type").into(),
        event.text("reason").into(),
        target.into(),
        object.text("fieldPath").into(),
        source.into(),
        either(event, "message", "note").as_str().unwrap_or_default().trim().into(),
        first.into(),
        count.into(),
        name_cell(event),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Part, Rules};
    use serde_json::json;

    #[test]
    fn leases() {
        let lease = json!({"metadata": {"name": "l"}, "spec": {"leaseDurationSeconds": 0, "leaseTransitions": -1, "preferredHolder": "x"}});
        let found: Vec<_> = LEASE.validate_create(&lease).iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0",
                "spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0",
                "spec.preferredHolder: Forbidden: may only be specified if `strategy` is defined",
            ]
        );
    }

    #[test]
    fn priority_classes() {
        let mut class = json!({"metadata": {"name": "high"}, "value": 2_000_000_000});
        PRIORITY_CLASS.default(&mut class);
        assert_eq!(
            PRIORITY_CLASS.validate_create(&class)[0].to_string(),
            "value: Forbidden: maximum allowed value of a user defined priority is 1000000000"
        );
        let system =
            json!({"metadata": {"name": "system-node-critical"}, "value": 2_000_001_000, "preemptionPolicy": "Never"});
        assert_eq!(PRIORITY_CLASS.validate_create(&system), []);
        let mut new = system.clone();
        new["value"] = json!(1);
        assert_eq!(
            PRIORITY_CLASS.validate_update(&new, &system, Part::Main)[0].to_string(),
            "value: Forbidden: may not be changed in an update."
        );
    }

    #[test]
    fn events() {
        let event = json!({"metadata": {"name": "e", "namespace": "d"}, "involvedObject": {"kind": "Pod", "name": "p", "namespace": "x"},
            "type": "Warning", "reason": "Failed", "message": " oops\n", "count": 3, "source": {"component": "kubelet", "host": "n"},
            "firstTimestamp": "1970-01-01T00:00:00Z", "lastTimestamp": "1970-01-01T00:01:00Z"});
        assert_eq!(
            EVENT.validate_create(&event)[0].to_string(),
            "involvedObject.namespace: Invalid value: \"x\": does not match event.namespace"
        );
        let cells = EVENT.cells(&event, jiff::Timestamp::from_second(90).unwrap());
        let expected = [
            json!("30s"),
            json!("Warning"),
            json!("Failed"),
            json!("pod/p"),
            json!(""),
            json!("kubelet, n"),
            json!("oops"),
            json!("90s"),
            json!(3),
            json!("e"),
        ];
        assert_eq!(cells, expected);
        assert!(EVENT.selectable_fields(&event).contains(&("involvedObject.name", "p".to_owned())));
        let new = json!({"metadata": {"namespace": "default"}, "eventTime": "1970-01-01T00:00:00.000000Z", "regarding": {"kind": "Node", "name": "n"}});
        let fields: Vec<_> = EVENT_V1.validate_create(&new).iter().map(|f| f.path.to_string()).collect();
        assert_eq!(fields.len(), 7, "{fields:?}");
    }
}
