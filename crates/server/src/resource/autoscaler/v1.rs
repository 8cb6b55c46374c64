//! What rides in the annotations of `autoscaling/v1`: metrics as that version had them, behaviour in the names of
//! upstream's own types, members in upstream's order and with the zeros it writes, so that clients who compare such texts
//! see no change (`pkg/apis/autoscaling/v1/conversion.go`).

use serde_json::{Value, json};

/// Whether a metric says what shall be or what is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Target,
    Current,
}

impl Side {
    fn name(self) -> &'static str {
        match self {
            Self::Target => "target",
            Self::Current => "current",
        }
    }
    /// `target` and `AverageValue` are `targetAverageValue`.
    fn member(self, what: &str) -> String {
        format!("{}{what}", self.name())
    }
}

/// Types of metrics and the members that hold them, in upstream's order.
const SOURCES: [&str; 5] = ["object", "pods", "resource", "containerResource", "external"];

/// An object whose members keep their order.
#[derive(Default)]
struct Ordered(String);

impl Ordered {
    /// Adds a member, unless there is none.
    fn put(self, name: &str, value: &Value) -> Self {
        if value.is_null() { self } else { self.text(name, &value.to_string()) }
    }
    /// Adds a member that is always written: without a value as `otherwise`.
    fn always(self, name: &str, value: &Value, otherwise: &Value) -> Self {
        self.text(name, &if value.is_null() { otherwise } else { value }.to_string())
    }
    fn text(mut self, name: &str, json: &str) -> Self {
        self.0.push_str(if self.0.is_empty() { "{" } else { "," });
        self.0.push_str(&format!("{:?}:{json}", name));
        self
    }
    fn end(self) -> String {
        if self.0.is_empty() { "{}".to_owned() } else { self.0 + "}" }
    }
}

fn array(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(","))
}

/// Metrics of `v2` as the text of an annotation.
pub(super) fn write_metrics(list: &[Value], side: Side) -> String {
    array(list.iter().map(|metric| {
        let mut text = Ordered::default().always("type", &metric["type"], &json!(""));
        for source in SOURCES.into_iter().filter(|source| metric[source].is_object()) {
            text = text.text(source, &write_source(source, &metric[source], side));
        }
        text.end()
    }))
}

fn write_source(kind: &str, source: &Value, side: Side) -> String {
    let (amount, zero, none) = (&source[side.name()], json!("0"), json!(""));
    let (value, average, share) = (&amount["value"], &amount["averageValue"], &amount["averageUtilization"]);
    let (metric, text) = (&source["metric"], Ordered::default());
    let average_name = side.member("AverageValue");
    // Amounts of what is are never left out.
    let amount = |text: Ordered, name: &str, amount: &Value| match side {
        Side::Target => text.put(name, amount),
        Side::Current => text.always(name, amount, &zero),
    };
    match kind {
        "object" => {
            let of = &source["describedObject"];
            let of = Ordered::default().always("kind", &of["kind"], &none).always("name", &of["name"], &none);
            text.text("target", &of.put("apiVersion", &source["describedObject"]["apiVersion"]).end())
                .always("metricName", &metric["name"], &none)
                .always(&side.member("Value"), value, &zero)
                .put("selector", &metric["selector"])
                .put("averageValue", average)
        }
        "pods" => text
            .always("metricName", &metric["name"], &none)
            .always(&average_name, average, &zero)
            .put("selector", &metric["selector"]),
        "external" => {
            let text = text.always("metricName", &metric["name"], &none).put("metricSelector", &metric["selector"]);
            amount(text, &side.member("Value"), value).put(&average_name, average)
        }
        _ => {
            let text = text.always("name", &source["name"], &none).put(&side.member("AverageUtilization"), share);
            let text = amount(text, &average_name, average);
            if kind == "containerResource" { text.always("container", &source["container"], &none) } else { text }
        }
    }
    .end()
}

/// Metrics of `v2` from the text of an annotation; `None`: it is none.
pub(super) fn read_metrics(text: &str, side: Side) -> Option<Vec<Value>> {
    let list: Vec<Value> = serde_json::from_str(text).ok()?;
    let read = |metric: &Value| {
        let mut read = json!({"type": metric["type"]});
        for source in SOURCES.into_iter().filter(|source| metric[source].is_object()) {
            read[source] = read_source(source, &metric[source], side);
        }
        read
    };
    Some(list.iter().map(read).collect())
}

fn read_source(kind: &str, source: &Value, side: Side) -> Value {
    let zero = json!("0");
    let or_zero = |value: &Value| if value.is_null() { zero.clone() } else { value.clone() };
    let (average, share) = (&source[side.member("AverageValue")], &source[side.member("AverageUtilization")]);
    let value = &source[side.member("Value")];
    let identifier =
        |selector: &str| without_nulls(json!({"name": source["metricName"], "selector": source[selector]}));
    let typed = |kind: &str, mut amount: Value| {
        if side == Side::Target {
            amount["type"] = json!(kind);
        }
        without_nulls(amount)
    };
    let name = side.name();
    match kind {
        "object" => {
            let average = &source["averageValue"];
            // A zero stands for nothing beside an average.
            let value = or_zero(value);
            let value = if side == Side::Target && !average.is_null() && value == zero { Value::Null } else { value };
            let kind = if average.is_null() { "Value" } else { "AverageValue" };
            let amount = typed(kind, json!({"value": value, "averageValue": average}));
            json!({"describedObject": source["target"], "metric": identifier("selector"), name: amount})
        }
        "pods" => {
            let amount = typed("AverageValue", json!({"averageValue": or_zero(average)}));
            json!({"metric": identifier("selector"), name: amount})
        }
        "external" => {
            let value = if side == Side::Current { or_zero(value) } else { value.clone() };
            let kind = if value.is_null() { "AverageValue" } else { "Value" };
            let amount = typed(kind, json!({"value": value, "averageValue": average}));
            json!({"metric": identifier("metricSelector"), name: amount})
        }
        _ => {
            let average = if side == Side::Current { or_zero(average) } else { average.clone() };
            let kind = if share.is_null() { "AverageValue" } else { "Utilization" };
            let amount = typed(kind, json!({"averageValue": average, "averageUtilization": share}));
            without_nulls(json!({"name": source["name"], "container": source["container"], name: amount}))
        }
    }
}

fn without_nulls(mut value: Value) -> Value {
    if let Some(members) = value.as_object_mut() {
        members.retain(|_, member| !member.is_null());
    }
    value
}

/// Conditions as the text of an annotation.
pub(super) fn write_conditions(list: &[Value]) -> String {
    const ORDER: [&str; 5] = ["type", "status", "lastTransitionTime", "reason", "message"];
    array(
        list.iter().map(|condition| {
            ORDER.iter().fold(Ordered::default(), |text, name| text.put(name, &condition[name])).end()
        }),
    )
}

/// Behaviour as the text of an annotation: upstream's own type has no names for JSON, and nothing is left out.
pub(super) fn write_behavior(behavior: &Value) -> String {
    let policy = |policy: &Value| {
        Ordered::default()
            .always("Type", &policy["type"], &json!(""))
            .always("Value", &policy["value"], &json!(0))
            .always("PeriodSeconds", &policy["periodSeconds"], &json!(0))
            .end()
    };
    let rules = |rules: &Value| {
        if rules.is_null() {
            return "null".to_owned();
        }
        let policies = rules["policies"].as_array().map(|all| array(all.iter().map(policy)));
        Ordered::default()
            .always("StabilizationWindowSeconds", &rules["stabilizationWindowSeconds"], &Value::Null)
            .always("SelectPolicy", &rules["selectPolicy"], &Value::Null)
            .text("Policies", policies.as_deref().unwrap_or("null"))
            .always("Tolerance", &rules["tolerance"], &Value::Null)
            .end()
    };
    let text = Ordered::default().text("ScaleUp", &rules(&behavior["scaleUp"]));
    text.text("ScaleDown", &rules(&behavior["scaleDown"])).end()
}

/// Behaviour from the text of an annotation; `None`: it is none, or says nothing.
pub(super) fn read_behavior(text: &str) -> Option<Value> {
    fn lower(value: Value) -> Value {
        match value {
            Value::Object(members) => {
                let members = members.into_iter().filter(|(_, value)| !value.is_null()).map(|(name, value)| {
                    let mut letters = name.chars();
                    let first = letters.next().map(|letter| letter.to_ascii_lowercase());
                    (first.into_iter().chain(letters).collect::<String>(), lower(value))
                });
                Value::Object(members.collect())
            }
            Value::Array(items) => Value::Array(items.into_iter().map(lower).collect()),
            plain => plain,
        }
    }
    let read = lower(serde_json::from_str(text).ok()?);
    read.as_object().is_some_and(|members| !members.is_empty()).then_some(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_written_as_upstream_writes_them_and_read_again() {
        let selector = json!({"matchLabels": {"a": "b"}});
        for (metric, side, text) in [
            (
                json!({"type": "Pods", "pods": {"metric": {"name": "q", "selector": selector},
                    "target": {"type": "AverageValue", "averageValue": "3"}}}),
                Side::Target,
                r#"[{"type":"Pods","pods":{"metricName":"q","targetAverageValue":"3","selector":{"matchLabels":{"a":"b"}}}}]"#,
            ),
            (
                json!({"type": "Object", "object": {"metric": {"name": "q"}, "describedObject": {"kind": "Service", "name": "s"},
                    "target": {"type": "AverageValue", "averageValue": "3"}}}),
                Side::Target,
                r#"[{"type":"Object","object":{"target":{"kind":"Service","name":"s"},"metricName":"q","targetValue":"0","averageValue":"3"}}]"#,
            ),
            (
                json!({"type": "External", "external": {"metric": {"name": "q"}, "target": {"type": "Value", "value": "3"}}}),
                Side::Target,
                r#"[{"type":"External","external":{"metricName":"q","targetValue":"3"}}]"#,
            ),
            (
                json!({"type": "Resource", "resource": {"name": "memory", "target": {"type": "Utilization", "averageUtilization": 5}}}),
                Side::Target,
                r#"[{"type":"Resource","resource":{"name":"memory","targetAverageUtilization":5}}]"#,
            ),
            (
                json!({"type": "ContainerResource", "containerResource": {"name": "cpu", "container": "c",
                    "current": {"averageUtilization": 5, "averageValue": "0"}}}),
                Side::Current,
                r#"[{"type":"ContainerResource","containerResource":{"name":"cpu","currentAverageUtilization":5,"currentAverageValue":"0","container":"c"}}]"#,
            ),
        ] {
            assert_eq!(write_metrics(std::slice::from_ref(&metric), side), text);
            assert_eq!(read_metrics(text, side), Some(vec![metric]));
        }
        assert_eq!(read_metrics("{}", Side::Target), None);
    }

    #[test]
    fn behaviour_is_written_whole_and_read_again() {
        let behavior = json!({"scaleDown": {"selectPolicy": "Max", "policies": [{"type": "Pods", "value": 4, "periodSeconds": 15}]}});
        let text = r#"{"ScaleUp":null,"ScaleDown":{"StabilizationWindowSeconds":null,"SelectPolicy":"Max","Policies":[{"Type":"Pods","Value":4,"PeriodSeconds":15}],"Tolerance":null}}"#;
        assert_eq!(write_behavior(&behavior), text);
        assert_eq!(read_behavior(text), Some(behavior));
        assert_eq!(read_behavior(r#"{"ScaleUp":null}"#), None);
    }
}
