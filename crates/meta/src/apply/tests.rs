//! Scenarios on a small kind, `v1 Thing`, with every sort of list.

use super::*;
use crate::schema::{Field, ListType, Scalar, Schema, StructType, Type, TypeId};
use serde_json::json;

fn schema() -> (Schema, TypeId) {
    let mut schema = Schema::default();
    let fields = |schema: &mut Schema, list: &[(&str, TypeId, Option<Value>)]| {
        let mut fields: Vec<_> = list
            .iter()
            .map(|(name, ty, default)| Field {
                name: (*name).to_owned(),
                ty: *ty,
                default: default.clone(),
                ..Field::default()
            })
            .collect();
        fields.sort_by(|a, b| a.name.cmp(&b.name));
        schema.add(Type::Struct(Box::new(StructType { fields, ..StructType::default() })))
    };
    let text = schema.add(Type::Scalar(Scalar::String));
    let number = schema.add(Type::Scalar(Scalar::Int32));
    let labels = schema.add(Type::Map { value: text, atomic: false });
    let selector = schema.add(Type::Map { value: text, atomic: true });
    let names = schema.add(Type::List { item: text, list: ListType::Set });
    let args = schema.add(Type::List { item: text, list: ListType::Atomic });
    let port =
        fields(&mut schema, &[("port", number, None), ("protocol", text, Some(json!("TCP"))), ("name", text, None)]);
    let keys = ListType::Map(vec!["port".to_owned(), "protocol".to_owned()]);
    let ports = schema.add(Type::List { item: port, list: keys });
    let deep = fields(&mut schema, &[("value", text, None), ("other", text, None)]);
    let spec = fields(
        &mut schema,
        &[
            ("replicas", number, None),
            ("ports", ports, None),
            ("names", names, None),
            ("args", args, None),
            ("selector", selector, None),
            ("deep", deep, None),
        ],
    );
    let any = schema.add(Type::Any);
    let meta = fields(
        &mut schema,
        &[
            ("name", text, None),
            ("labels", labels, None),
            ("annotations", labels, None),
            ("managedFields", any, None),
            ("uid", text, None),
        ],
    );
    let root = fields(
        &mut schema,
        &[
            ("apiVersion", text, None),
            ("kind", text, None),
            ("metadata", meta, Some(json!({}))),
            ("spec", spec, Some(json!({}))),
            ("status", any, None),
        ],
    );
    (schema, root)
}

fn thing(spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Thing", "metadata": {"name": "a"}, "spec": spec})
}

/// A tiny server: one object, and a clock that counts seconds.
struct Server {
    schema: (Schema, TypeId),
    live: Option<Value>,
    second: i64,
}

impl Server {
    fn new() -> Self {
        Self { schema: schema(), live: None, second: 0 }
    }
    fn with<T>(&mut self, manager: &str, run: impl FnOnce(Option<&Value>, TypeRef<'_>, &Writer<'_>) -> T) -> T {
        self.second += 1;
        let reset = FieldSet::of_fields(&[&["status"]]);
        let now = Timestamp::from_second(self.second).unwrap();
        let writer = Writer { manager, api_version: "v1", subresource: "", now, reset: &reset };
        run(self.live.as_ref(), self.schema.0.at(self.schema.1), &writer)
    }
    fn apply(&mut self, manager: &str, spec: Value, force: bool) -> Result<(), ApplyError> {
        let object = self.with(manager, |live, ty, writer| apply(live, &thing(spec), ty, writer, force))?;
        self.live = Some(object);
        Ok(())
    }
    fn update(&mut self, manager: &str, change: impl FnOnce(&mut Value)) {
        let mut new = self.live.clone().unwrap_or_else(|| thing(json!({})));
        change(&mut new);
        self.with(manager, |live, ty, writer| update(live, &mut new, ty, writer));
        self.live = Some(new);
    }
    fn spec(&self) -> Value {
        self.live.as_ref().map_or(Value::Null, |live| live["spec"].clone())
    }
    fn owned(&self, manager: &str) -> Value {
        let entries =
            self.live.as_ref().and_then(managed_fields).and_then(Value::as_array).cloned().unwrap_or_default();
        entries.into_iter().find(|e| e["manager"] == manager).map_or(Value::Null, |e| e["fieldsV1"].clone())
    }
    fn time(&self, manager: &str) -> Value {
        let entries =
            self.live.as_ref().and_then(managed_fields).and_then(Value::as_array).cloned().unwrap_or_default();
        entries.into_iter().find(|e| e["manager"] == manager).map_or(Value::Null, |e| e["time"].clone())
    }
}

fn conflicts_of(error: ApplyError) -> Vec<String> {
    let status = error.to_status();
    assert_eq!((status.code, &*status.reason), (409, "Conflict"));
    status.details.unwrap().causes.into_iter().map(|c| format!("{} {}", c.message, c.field)).collect()
}

#[test]
fn fields_no_longer_applied_go() {
    let mut server = Server::new();
    server
        .apply("a", json!({"replicas": 1, "deep": {"value": "x"}, "names": ["n", "m"], "ports": [{"port": 1}]}), false)
        .unwrap();
    assert_eq!(
        server.owned("a"),
        json!({"f:spec": {"f:replicas": {}, "f:deep": {"f:value": {}}, "f:names": {"v:\"n\"": {}, "v:\"m\"": {}},
            "f:ports": {"k:{\"port\":1,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}}}}})
    );
    server.apply("a", json!({"names": ["m"]}), false).unwrap();
    assert_eq!(server.spec(), json!({"names": ["m"]}));
}

#[test]
fn shared_fields_stay_until_the_last_owner_goes() {
    let mut server = Server::new();
    server.apply("a", json!({"replicas": 1, "ports": [{"port": 1}, {"port": 2, "name": "x"}]}), false).unwrap();
    server.apply("b", json!({"replicas": 1, "ports": [{"port": 2}]}), false).unwrap();
    server.apply("a", json!({}), false).unwrap();
    assert_eq!(server.spec(), json!({"replicas": 1, "ports": [{"port": 2}]}));
    server.apply("b", json!({}), false).unwrap();
    assert_eq!(server.spec(), json!({}), "what is applied, empty, stays");
}

#[test]
fn what_another_owns_stays_when_all_in_it_goes() {
    let mut server = Server::new();
    server.update("creator", |o| o["spec"] = json!({"deep": {"value": "x"}, "ports": [{"port": 1}]}));
    server.apply("a", json!({"deep": {"value": "y"}, "ports": [{"port": 1, "name": "p"}]}), true).unwrap();
    server.apply("a", json!({}), false).unwrap();
    assert_eq!(server.spec(), json!({"deep": {}, "ports": [{"port": 1}]}));
    assert_eq!(server.owned("creator")["f:spec"]["f:deep"], json!({}));
}

#[test]
fn conflicts_and_force() {
    let mut server = Server::new();
    server.apply("a", json!({"replicas": 1, "args": ["x"]}), false).unwrap();
    server.update("kubectl-edit", |o| o["spec"]["deep"] = json!({"value": "1"}));
    let error = server.apply("b", json!({"replicas": 2, "deep": {"value": "2"}}), false).unwrap_err();
    let expected = "Apply failed with 2 conflicts: conflicts with \"a\":\n- .spec.replicas\nconflicts with \
                    \"kubectl-edit\" using v1:\n- .spec.deep.value";
    assert_eq!(error.to_string(), expected);
    assert_eq!(
        conflicts_of(error),
        ["conflict with \"a\" .spec.replicas", "conflict with \"kubectl-edit\" using v1 .spec.deep.value"]
    );
    server.apply("b", json!({"replicas": 2, "deep": {"value": "2"}}), true).unwrap();
    assert_eq!(server.spec(), json!({"replicas": 2, "deep": {"value": "2"}, "args": ["x"]}));
    assert_eq!(server.owned("a"), json!({"f:spec": {"f:args": {}}}));
    let error = server.apply("c", json!({"args": ["y"]}), false).unwrap_err();
    assert_eq!(error.to_string(), "Apply failed with 1 conflict: conflict with \"a\": .spec.args");
}

#[test]
fn updates_take_what_they_change() {
    let mut server = Server::new();
    server.update("creator", |o| o["spec"] = json!({"replicas": 1, "selector": {"a": "b"}, "deep": {"value": "x"}}));
    assert_eq!(
        server.owned("creator"),
        json!({"f:spec": {"f:replicas": {}, "f:selector": {}, "f:deep": {".": {}, "f:value": {}}}})
    );
    server.update("editor", |o| o["spec"]["replicas"] = json!(2));
    assert_eq!(server.owned("editor"), json!({"f:spec": {"f:replicas": {}}}));
    assert_eq!(server.owned("creator"), json!({"f:spec": {"f:selector": {}, "f:deep": {".": {}, "f:value": {}}}}));
    server.update("remover", |o| drop(o["spec"].as_object_mut().unwrap().remove("deep")));
    assert_eq!(server.owned("creator"), json!({"f:spec": {"f:selector": {}}}));
    assert_eq!(server.owned("remover"), Value::Null);
    server.update("status-writer", |o| o["status"] = json!({"ready": 1}));
    assert_eq!(server.owned("status-writer"), Value::Null);
}

#[test]
fn no_change_keeps_the_time() {
    let mut server = Server::new();
    server.update("u", |o| o["spec"]["replicas"] = json!(1));
    server.apply("a", json!({"args": ["x"]}), false).unwrap();
    let before = server.live.clone();
    server.update("u", |_| {});
    server.update("u", |o| drop(o["metadata"].as_object_mut().unwrap().remove("managedFields")));
    server.apply("a", json!({"args": ["x"]}), false).unwrap();
    assert_eq!(server.live, before);
    server.update("u", |o| o["spec"]["replicas"] = json!(2));
    assert_eq!((server.time("u"), server.time("a")), (json!("1970-01-01T00:00:06Z"), json!("1970-01-01T00:00:02Z")));
}

#[test]
fn tracking_can_be_cleared_and_begins_with_the_next_apply() {
    for reset in [json!([]), json!([{}])] {
        let mut server = Server::new();
        server.update("u", |o| o["spec"]["replicas"] = json!(1));
        server.update("u", |o| o["metadata"]["managedFields"] = reset);
        assert!(server.live.as_ref().and_then(managed_fields).is_none());
        server.live.as_mut().unwrap()["metadata"]["uid"] = json!("1");
        server.update("u", |o| o["spec"]["replicas"] = json!(2));
        assert!(server.live.as_ref().and_then(managed_fields).is_none());
        let error = server.apply("a", json!({"replicas": 3}), false).unwrap_err();
        assert_eq!(conflicts_of(error), ["conflict with \"before-first-apply\" using v1 .spec.replicas"]);
    }
}

#[test]
fn client_side_apply_hands_over_to_kubectl() {
    let mut server = Server::new();
    let annotation = "kubectl.kubernetes.io/last-applied-configuration";
    let last = thing(json!({"replicas": 1})).to_string();
    server.update("kubectl-client-side-apply", |o| {
        o["spec"]["replicas"] = json!(1);
        o["metadata"]["annotations"] = json!({ annotation: last });
    });
    assert!(server.apply("other", json!({"replicas": 2}), false).is_err());
    server.apply("kubectl", json!({"replicas": 2}), false).unwrap();
    let live = server.live.clone().unwrap();
    let text = live["metadata"]["annotations"][annotation].as_str().unwrap();
    assert_eq!(serde_json::from_str::<Value>(text).unwrap(), thing(json!({"replicas": 2})));
    server.update("scaler", |o| o["spec"]["replicas"] = json!(5));
    assert!(server.apply("kubectl", json!({"replicas": 3}), false).is_err());
}

#[test]
fn old_managers_are_merged() {
    let mut server = Server::new();
    for i in 0..13 {
        server.update(&format!("m{i:02}"), |o| o["metadata"]["labels"][format!("l{i:02}")] = json!("x"));
    }
    let entries = server.live.as_ref().and_then(managed_fields).and_then(Value::as_array).unwrap().clone();
    assert_eq!(entries.len(), 10);
    let ancient = server.owned("ancient-changes");
    let labels: Vec<_> = ancient["f:metadata"]["f:labels"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(labels, [".", "f:l00", "f:l01", "f:l02", "f:l03"]);
}

#[test]
fn lists_keep_the_applied_order_and_others_items() {
    let mut server = Server::new();
    server.update("u", |o| o["spec"]["names"] = json!(["a", "s1", "b", "s2", "c"]));
    server.apply("x", json!({"names": ["c", "b", "n"]}), false).unwrap();
    assert_eq!(server.spec()["names"], json!(["a", "s1", "s2", "c", "b", "n"]));
}

#[test]
fn bodies_that_do_not_fit() {
    let mut server = Server::new();
    for (spec, fault) in [
        (json!({"foo": 1}), ".spec.foo: field not declared in schema"),
        (json!({"replicas": "1"}), ".spec.replicas: expected numeric (int or float), got string"),
        (json!({"names": ["a", "a"]}), ".spec.names: duplicate entries for key [=\"a\"]"),
        (
            json!({"ports": [{"port": 1}, {"port": 1}]}),
            ".spec.ports: duplicate entries for key [port=1,protocol=\"TCP\"]",
        ),
        (json!({"deep": []}), ".spec.deep: expected map, got &{[]}"),
    ] {
        let error = server.apply("a", spec, false).unwrap_err();
        assert_eq!(error.to_string(), format!("failed to create typed patch object (/a; /v1, Kind=Thing): {fault}"));
        assert_eq!(error.to_status().code, 500);
    }
    let mut body = thing(json!({}));
    body["metadata"]["managedFields"] = json!([]);
    let refused = server.with("a", |live, ty, writer| apply(live, &body, ty, writer, false));
    assert_eq!(refused, Err(ApplyError::ManagedFieldsGiven));
}

#[test]
fn nobody_applies_a_part_of_what_is_a_whole_without_owning_it() {
    let (schema, root) = schema();
    let live = thing(json!({"names": ["a"], "args": ["x"], "ports": [{"port": 1, "protocol": "TCP", "name": "p"}]}));
    let laid =
        |spec: Value| overlay(&live, &json!({"spec": spec}), schema.at(root)).map(|object| object["spec"].clone());
    let ports = json!([{"port": 1, "protocol": "TCP", "name": "q"}]);
    let merged = json!({"names": ["a", "b"], "args": ["x"], "ports": ports});
    assert_eq!(laid(json!({"names": ["b"], "ports": ports})), Ok(merged));
    for (spec, why) in [
        (
            json!({"args": ["y"], "selector": {"a": "b"}}),
            "invalid ApplyConfiguration: may not mutate atomic arrays, maps or \
            structs: .spec.args, .spec.selector",
        ),
        (json!({"foo": 1}), "failed to convert patch object to typed object: .spec.foo: field not declared in schema"),
    ] {
        assert_eq!(laid(spec), Err(why.to_owned()));
    }
}

mod makers_own_all {
    use proptest::prelude::*;

    use super::*;

    fn scalar() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (0..3i64).prop_map(Value::from),
            "[ab]?".prop_map(Value::from)
        ]
    }

    fn members(names: &'static [&'static str], value: BoxedStrategy<Value>) -> BoxedStrategy<Value> {
        let members = proptest::collection::btree_map(proptest::sample::select(names), value, 0..4);
        members.prop_map(|members| members.into_iter().collect()).boxed()
    }

    /// Whatever may stand anywhere, with names that mean something here and there.
    fn anything() -> BoxedStrategy<Value> {
        scalar()
            .prop_recursive(3, 24, 4, |inner| {
                let list = proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from);
                prop_oneof![list, members(&["a", "port", "protocol", "name", "value", "other"], inner.boxed())]
            })
            .boxed()
    }

    fn one_of(names: &'static [&'static str], right: BoxedStrategy<Value>) -> BoxedStrategy<Value> {
        members(names, prop_oneof![4 => right, 1 => anything()].boxed())
    }

    fn object() -> impl Strategy<Value = Value> {
        let list = |item: BoxedStrategy<Value>| proptest::collection::vec(item, 0..4).prop_map(Value::from);
        let ports = list(members(&["port", "protocol", "name"], scalar().boxed())).boxed();
        let lists = one_of(&["ports"], ports);
        let plain = one_of(&["replicas", "names", "args"], prop_oneof![scalar(), list(scalar().boxed())].boxed());
        let nested = one_of(&["selector", "deep"], members(&["a", "value", "other"], scalar().boxed()));
        let spec = (lists, plain, nested).prop_map(|parts| {
            let parts = [parts.0, parts.1, parts.2].into_iter();
            parts.flat_map(|part| part.as_object().cloned().unwrap_or_default()).collect::<Value>()
        });
        let names = &["name", "labels", "annotations", "uid", "managedFields", "resourceVersion"];
        let meta = one_of(names, members(&["a", "b"], scalar().boxed()));
        (spec, meta, anything(), anything()).prop_map(|(spec, mut metadata, status, other)| {
            if let Some(metadata) = metadata.as_object_mut() {
                metadata.remove("managedFields").is_some().then(|| metadata.insert("managedFields".into(), Value::Null));
            }
            json!({"apiVersion": "v1", "kind": "Thing", "metadata": metadata, "spec": spec, "status": status, "more": other})
        })
    }

    /// Without this the comparison below might be one of the long way with itself.
    #[test]
    fn the_short_way_is_gone_where_items_are_told_apart() {
        let (schema, root) = schema();
        let short = |spec| fresh::fields(&thing(spec), schema.at(root), &FieldSet::default());
        let ports = json!({"ports": [{"port": 1, "name": "p"}], "deep": {"value": "x"}});
        let port = json!({".": {}, "f:name": {}, "f:port": {}});
        let expected = json!({"f:spec": {
            "f:deep": {".": {}, "f:value": {}},
            "f:ports": {".": {}, "k:{\"port\":1,\"protocol\":\"TCP\"}": port},
        }});
        assert_eq!(short(ports).map(Value::Object), Some(expected));
        assert_eq!(short(json!({"ports": [7]})), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// The short way and the comparison with a blank say the same, where the short way can be gone.
        #[test]
        fn the_short_way_says_the_same(object in object(), reset in any::<bool>()) {
            let (schema, root) = schema();
            let reset = if reset { FieldSet::of_fields(&[&["status"], &["spec", "deep"]]) } else { FieldSet::default() };
            let writer = Writer { manager: "m", api_version: "v1", subresource: "", now: Timestamp::UNIX_EPOCH, reset: &reset };
            let (mut short, mut long) = (object.clone(), object);
            update(None, &mut short, schema.at(root), &writer);
            compare_and_note(None, &mut long, schema.at(root), &writer);
            prop_assert_eq!(short, long);
        }
    }
}
