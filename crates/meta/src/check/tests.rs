use super::*;
use crate::schema::{GoFacts, ListType, Schema, TypeId};
use serde_json::json;

fn go(pointer: bool, omit_empty: bool) -> GoFacts {
    GoFacts { named: "", pointer, omit_empty }
}

fn add_struct(schema: &mut Schema, name: &str, fields: &[(&str, TypeId, GoFacts)]) -> TypeId {
    let mut fields: Vec<_> = fields
        .iter()
        .map(|(name, ty, go)| {
            let in_place = !go.pointer && matches!(schema.get(*ty), Type::Struct(_));
            let default = in_place.then(|| json!({}));
            Field { name: (*name).to_owned(), ty: *ty, go: *go, default, ..Field::default() }
        })
        .collect();
    fields.sort_by(|a, b| a.name.cmp(&b.name));
    schema.add(Type::Struct(Box::new(StructType { name: name.to_owned(), fields, ..StructType::default() })))
}

/// A kind with a field of every sort; `custom` has a root without a name and typed metadata.
fn schema(custom: bool) -> (Schema, TypeId) {
    let mut schema = Schema::default();
    let scalar = |schema: &mut Schema, scalar| schema.add(Type::Scalar(scalar));
    let text = scalar(&mut schema, Scalar::String);
    let number = scalar(&mut schema, Scalar::Int32);
    let flag = scalar(&mut schema, Scalar::Bool);
    let time = scalar(&mut schema, Scalar::Time);
    let quantity = scalar(&mut schema, Scalar::Quantity);
    let port = scalar(&mut schema, Scalar::IntOrString);
    let bytes = scalar(&mut schema, Scalar::Bytes);
    let labels = schema.add(Type::Map { value: text, atomic: false });
    let omitted = go(false, true);
    let pointer = go(true, true);
    let always = go(false, false);
    let item_fields = [("name", text, always), ("port", port, omitted), ("limit", quantity, omitted)];
    let item = add_struct(&mut schema, "io.k8s.api.core.v1.Item", &item_fields);
    let items = schema.add(Type::List { item, list: ListType::Atomic });
    let spec_fields = [
        ("replicas", number, pointer),
        ("count", number, omitted),
        ("class", text, pointer),
        ("host", text, omitted),
        ("flag", flag, omitted),
        ("items", items, omitted),
        ("required", items, always),
        ("probe", item, pointer),
        ("when", time, omitted),
        ("data", bytes, omitted),
        ("labels", labels, omitted),
    ];
    let spec = add_struct(&mut schema, if custom { "" } else { "io.k8s.api.core.v1.ThingSpec" }, &spec_fields);
    let meta_fields = [("name", text, omitted), ("labels", labels, omitted), ("creationTimestamp", time, omitted)];
    let meta = add_struct(&mut schema, "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta", &meta_fields);
    let root_fields = [("metadata", meta, omitted), ("spec", spec, omitted), ("kind", text, omitted)];
    let root = add_struct(&mut schema, if custom { "" } else { "io.k8s.api.core.v1.Thing" }, &root_fields);
    (schema, root)
}

fn checked(custom: bool, mut value: Value) -> Result<(Value, Vec<String>), String> {
    let (schema, root) = schema(custom);
    let unknown = check(&mut value, schema.at(root)).map_err(|e| e.to_string())?;
    Ok((value, unknown))
}

#[test]
fn what_go_would_write() {
    let (value, unknown) = checked(
        false,
        json!({"spec": {"replicas": 0, "count": 0, "class": "", "host": "", "flag": false, "items": [], "labels": {},
            "probe": {}, "when": "2026-01-02T03:04:05.5+01:00"}, "metadata": {"creationTimestamp": null, "name": "a"}}),
    )
    .unwrap();
    assert_eq!(
        value,
        json!({"metadata": {"name": "a"}, "spec": {"replicas": 0, "class": "", "required": null,
            "probe": {"name": "", "port": 0, "limit": "0"}, "when": "2026-01-02T02:04:05Z"}})
    );
    assert!(unknown.is_empty());
    let again = checked(false, value.clone()).unwrap().0;
    assert_eq!(again, value);
}

#[test]
fn unknown_fields_are_told_and_dropped() {
    let body = json!({"foo": 1, "spec": {"items": [{"name": "a", "bar": 2}], "labels": {"any": "x"}, "baz": {}}});
    let (value, unknown) = checked(false, body).unwrap();
    assert_eq!(value["spec"]["items"], json!([{"name": "a", "port": 0, "limit": "0"}]));
    let message = strict_message(&unknown);
    let expected =
        "strict decoding error: unknown field \"foo\", unknown field \"spec.baz\", unknown field \"spec.items[0].bar\"";
    assert_eq!(message, expected);
}

#[test]
fn misfits_read_as_gos() {
    for (body, message) in [
        (json!([]), "json: cannot unmarshal array into Go value of type v1.Thing"),
        (json!({"spec": "x"}), "json: cannot unmarshal string into Go struct field Thing.spec of type v1.ThingSpec"),
        (
            json!({"spec": {"replicas": "x"}}),
            "json: cannot unmarshal string into Go struct field ThingSpec.spec.replicas of type int32",
        ),
        (
            json!({"spec": {"replicas": 1.5}}),
            "json: cannot unmarshal number 1.5 into Go struct field ThingSpec.spec.replicas of type int32",
        ),
        (
            json!({"spec": {"replicas": 3_000_000_000_i64}}),
            "json: cannot unmarshal number 3000000000 into Go struct field ThingSpec.spec.replicas of type int32",
        ),
        (
            json!({"spec": {"items": [{"name": 1}]}}),
            "json: cannot unmarshal number into Go struct field Item.spec.items.name of type string",
        ),
        (
            json!({"spec": {"items": {}}}),
            "json: cannot unmarshal object into Go struct field ThingSpec.spec.items of type []v1.Item",
        ),
        (
            json!({"metadata": {"labels": {"a": true}}}),
            "json: cannot unmarshal bool into Go struct field ObjectMeta.metadata.labels of type string",
        ),
        (
            json!({"spec": {"items": [{"limit": "1x"}]}}),
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
        (
            json!({"spec": {"when": 7}}),
            "json: cannot unmarshal number into Go struct field ThingSpec.spec.when of type string",
        ),
        (json!({"spec": {"data": "a$=="}}), "illegal base64 data at input byte 1"),
        (
            json!({"spec": {"when": "noon"}}),
            "parsing time \"noon\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"noon\" as \"2006\"",
        ),
    ] {
        assert_eq!(checked(false, body.clone()), Err(message.to_owned()), "{body}");
    }
}

#[test]
fn custom_kinds_are_pruned_only() {
    let body = json!({"spec": {"replicas": "many", "host": "", "foo": 1, "items": null}, "metadata": {"name": "a"}});
    let (value, unknown) = checked(true, body).unwrap();
    assert_eq!(value, json!({"spec": {"replicas": "many", "host": "", "items": null}, "metadata": {"name": "a"}}));
    assert_eq!(unknown, ["unknown field \"spec.foo\""]);
    assert!(checked(true, json!({"metadata": {"labels": {"a": 1}}})).is_err());
}

#[test]
fn quantities_and_ports_are_put_in_form() {
    let body =
        json!({"spec": {"items": [{"name": "a", "port": "http", "limit": 0.5}, {"name": "b", "limit": "1024Mi"}]}});
    let items = checked(false, body).unwrap().0["spec"]["items"].clone();
    assert_eq!(
        items,
        json!([{"name": "a", "port": "http", "limit": "500m"}, {"name": "b", "port": 0, "limit": "1Gi"}])
    );
}

#[test]
fn refusals_of_bodies() {
    let long = format!("{{\"a\": \"{}\"}}", "x".repeat(50));
    for (body, summary) in
        [("", "<empty>"), ("{}", "{}"), ("hi", "6869"), (&*long, "{\"a\": \"xxxxxxxxxxxxxxxxxxxxxxx ...")]
    {
        let status = unrecognized("Pod", "why", body.as_bytes());
        let expected = format!("the object provided is unrecognized (must be of type Pod): why ({summary})");
        assert_eq!((status.code, status.message), (400, expected));
    }
    let status = cannot_be_handled("Pod", "v1", "Pod", "why");
    assert_eq!(status.message, "Pod in version \"v1\" cannot be handled as a Pod: why");
}

#[test]
fn go_prints_maps_sorted() {
    let tree = json!({"b": [1, "x", null], "a": {"c": true}});
    assert_eq!(plus_v(&tree), "map[a:map[c:true] b:[1 x <nil>]]");
    let sharp = "map[string]interface {}{\"a\":map[string]interface {}{\"c\":true}, \
        \"b\":[]interface {}{1, \"x\", interface {}(nil)}}";
    assert_eq!(sharp_v(&tree), sharp);
}
