//! Events: what components tell people.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::kind::{ColumnFacts, KindRules, NAME};
use crate::show::{age, name};
use crate::tree::{number, text};

const COLUMNS: &[ColumnFacts] = &[
    ("Last Seen", "string", 0, "Time since it happened last"),
    ("Type", "string", 0, "Normal or Warning"),
    ("Reason", "string", 0, "What happened, in a word"),
    ("Object", "string", 0, "What it happened to"),
    ("Subobject", "string", 1, "Which part of it"),
    ("Source", "string", 1, "Who tells"),
    ("Message", "string", 0, "What happened"),
    ("First Seen", "string", 1, "Time since it happened first"),
    ("Count", "string", 1, "How often it happened"),
    (NAME.0, NAME.1, 1, NAME.3),
];

pub(crate) static CORE: KindRules = KindRules { columns: COLUMNS, cells, fields, ..KindRules::new("", "Event") };
pub(crate) static EVENTS: KindRules =
    KindRules { columns: COLUMNS, cells, fields, ..KindRules::new("events.k8s.io", "Event") };

fn involved(event: &Value) -> &Value {
    if event["involvedObject"].is_object() { &event["involvedObject"] } else { &event["regarding"] }
}

fn cells(event: &Value, now: Timestamp) -> Vec<Value> {
    let either = |a: &str, b: &str| {
        [text(&event[a]), text(&event[b])].into_iter().find(|t| !t.is_empty()).unwrap_or_default().to_owned()
    };
    let first_time = either("firstTimestamp", "deprecatedFirstTimestamp");
    let first = if first_time.is_empty() { age(&event["eventTime"], now) } else { age(&json!(first_time), now) };
    let last_time = either("lastTimestamp", "deprecatedLastTimestamp");
    let (mut last, mut count) = (
        if last_time.is_empty() { first.clone() } else { age(&json!(last_time), now) },
        number(&event["count"]).max(number(&event["deprecatedCount"])),
    );
    if event["series"].is_object() {
        last = age(&event["series"]["lastObservedTime"], now);
        count = number(&event["series"]["count"]);
    }
    let object = involved(event);
    let kind = text(&object["kind"]).to_lowercase();
    let target = if text(&object["name"]).is_empty() { kind } else { format!("{kind}/{}", text(&object["name"])) };
    vec![
        last.into(),
        event["type"].clone(),
        event["reason"].clone(),
        target.into(),
        text(&object["fieldPath"]).into(),
        source(event).into(),
        either("message", "note").trim().into(),
        first.into(),
        count.max(1).into(),
        name(event),
    ]
}

fn source(event: &Value) -> String {
    let old = if event["source"].is_object() { &event["source"] } else { &event["deprecatedSource"] };
    let component = [text(&old["component"]), text(&event["reportingComponent"]), text(&event["reportingController"])]
        .into_iter()
        .find(|t| !t.is_empty())
        .unwrap_or_default();
    let host =
        [text(&old["host"]), text(&event["reportingInstance"])].into_iter().find(|t| !t.is_empty()).unwrap_or_default();
    if host.is_empty() { component.to_owned() } else { format!("{component}, {host}") }
}

fn fields(event: &Value) -> Vec<(&'static str, String)> {
    let object = involved(event);
    let of = |field: &str| text(&object[field]).to_owned();
    vec![
        ("involvedObject.kind", of("kind")),
        ("involvedObject.namespace", of("namespace")),
        ("involvedObject.name", of("name")),
        ("involvedObject.uid", of("uid")),
        ("involvedObject.apiVersion", of("apiVersion")),
        ("involvedObject.resourceVersion", of("resourceVersion")),
        ("involvedObject.fieldPath", of("fieldPath")),
        ("reason", text(&event["reason"]).to_owned()),
        (
            "reportingComponent",
            [text(&event["reportingComponent"]), text(&event["reportingController"])]
                .into_iter()
                .find(|t| !t.is_empty())
                .unwrap_or_default()
                .to_owned(),
        ),
        ("source", text(&event["source"]["component"]).to_owned()),
        ("type", text(&event["type"]).to_owned()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rules;

    #[test]
    fn a_row() {
        let event = json!({"metadata": {"name": "e"}, "type": "Warning", "reason": "Failed", "message": " no \n", "involvedObject": {"kind": "Pod", "name": "a"},
            "firstTimestamp": "1970-01-01T00:00:00Z", "lastTimestamp": "1970-01-01T00:00:50Z", "count": 3, "source": {"component": "kubelet", "host": "n"}});
        let row = CORE.cells(&event, "1970-01-01T00:01:00Z".parse().unwrap());
        assert_eq!(row[0], "10s");
        assert_eq!(
            (&row[3], &row[5], &row[6], &row[8]),
            (&json!("pod/a"), &json!("kubelet, n"), &json!("no"), &json!(3))
        );
        assert!(CORE.selectable_fields(&event).contains(&("involvedObject.name", "a".to_owned())));
    }
}
