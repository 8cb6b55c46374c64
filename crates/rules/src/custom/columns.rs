//! The columns a definition asks for (`registry/customresource/tableconvertor` upstream).

use jiff::Timestamp;
use serde_json::Value;

use super::jsonpath::JsonPath;
use crate::show;
use crate::tree::{items, number, text};
use crate::{Column, kind::NAME};

/// One column after the name.
pub(super) struct Printed {
    column: Column,
    path: Option<JsonPath>,
}

/// The columns of a version; the age where it asks for none.
pub(super) fn of_version(version: &Value) -> Vec<Printed> {
    let asked: Vec<Printed> = items(&version["additionalPrinterColumns"]).iter().map(read).collect();
    if !asked.is_empty() {
        return asked;
    }
    let column = Column {
        name: "Age".to_owned(),
        ty: "date".to_owned(),
        format: String::new(),
        description: "Time since the object was created".to_owned(),
        priority: 0,
    };
    vec![Printed { column, path: JsonPath::parse(".metadata.creationTimestamp") }]
}

fn read(asked: &Value) -> Printed {
    let json_path = text(&asked["jsonPath"]);
    let description = match text(&asked["description"]) {
        "" => format!("Custom resource definition column (in JSONPath format): {json_path}"),
        said => said.to_owned(),
    };
    let column = Column {
        name: text(&asked["name"]).to_owned(),
        ty: text(&asked["type"]).to_owned(),
        format: text(&asked["format"]).to_owned(),
        description,
        priority: i32::try_from(number(&asked["priority"])).unwrap_or(0),
    };
    Printed { column, path: JsonPath::parse(json_path) }
}

/// All columns, the name first.
pub(super) fn columns(printed: &[Printed]) -> Vec<Column> {
    let (name, ty, priority, help) = NAME;
    let name = Column {
        name: name.to_owned(),
        ty: ty.to_owned(),
        format: "name".to_owned(),
        description: help.to_owned(),
        priority,
    };
    std::iter::once(name).chain(printed.iter().map(|p| p.column.clone())).collect()
}

/// A cell for each of them.
pub(super) fn cells(printed: &[Printed], object: &Value, now: Timestamp) -> Vec<Value> {
    let cell = |p: &Printed| p.path.as_ref()?.first(object).map(|value| cell(&p.column.ty, value, now));
    let others = printed.iter().map(|p| cell(p).unwrap_or(Value::Null));
    std::iter::once(show::name(object)).chain(others).collect()
}

fn cell(ty: &str, value: &Value, now: Timestamp) -> Value {
    match (ty, value) {
        ("string", Value::String(_)) | ("boolean", Value::Bool(_)) => value.clone(),
        ("string", other) => other.to_string().into(),
        ("integer", Value::Number(n)) => n.as_i64().or_else(|| n.as_f64().map(|f| f as i64)).into(),
        ("number", Value::Number(n)) => n.as_f64().into(),
        ("date", Value::String(time)) if time.parse::<Timestamp>().is_err() => "<invalid>".into(),
        ("date", Value::String(_)) => show::age(value, now).into(),
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn cells_by_type() {
        let column = |name: &str, ty: &str| json!({"name": name, "type": ty, "jsonPath": format!(".spec.{name}")});
        let version = json!({"additionalPrinterColumns": [
            column("text", "string"), column("list", "string"), column("count", "integer"), column("share", "number"),
            column("on", "boolean"), column("since", "date"), column("never", "date"), column("none", "string"),
            column("text", "integer")]});
        let object = json!({"metadata": {"name": "n"}, "spec": {"text": "a", "list": [1], "count": 3, "share": 2,
            "on": true, "since": "2024-01-01T00:00:00Z", "never": "soon"}});
        let now = "2024-01-01T00:01:00Z".parse().unwrap();
        let printed = of_version(&version);
        let expected = json!(["n", "a", "[1]", 3, 2.0, true, "60s", "<invalid>", null, null]);
        assert_eq!(json!(cells(&printed, &object, now)), expected);
        assert_eq!(columns(&printed).len(), 10);
        assert_eq!(
            columns(&printed)[1].description,
            "Custom resource definition column (in JSONPath format): .spec.text"
        );
    }

    #[test]
    fn without_columns_there_is_the_age() {
        let printed = of_version(&json!({}));
        let names: Vec<String> = columns(&printed).into_iter().map(|c| c.name).collect();
        assert_eq!(names, ["Name", "Age"]);
    }
}
