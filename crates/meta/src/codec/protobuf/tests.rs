use std::sync::Arc;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::schema::{Field, GoFacts, ListType, Scalar, Schema, StructType, Type};

/// A kind with every sort of field; the tests over real kinds stand in `skiff-api`, which knows their facts.
fn thing() -> (GroupVersionKind, KindSchema) {
    let mut schema = Schema::default();
    let root = schema.add(Type::Any);
    let mut fields = Vec::new();
    let mut add = |name: &str, ty, proto, parents: &[u32], go| {
        let proto_parents = parents.to_vec();
        fields.push(Field { name: name.to_owned(), ty, proto, proto_parents, go, ..Field::default() });
    };
    let plain = GoFacts { omit_empty: true, ..GoFacts::default() };
    let pointer = GoFacts { pointer: true, ..plain };
    let string = schema.add(Type::Scalar(Scalar::String));
    let int = schema.add(Type::Scalar(Scalar::Int32));
    let time = schema.add(Type::Scalar(Scalar::Time));
    let micro = schema.add(Type::Scalar(Scalar::MicroTime));
    let quantity = schema.add(Type::Scalar(Scalar::Quantity));
    let port = schema.add(Type::Scalar(Scalar::IntOrString));
    let ints = schema.add(Type::List { item: int, list: ListType::Atomic });
    let map = schema.add(Type::Map { value: quantity, atomic: false });
    add("always", string, 1, &[], GoFacts::default());
    add("int", int, 2, &[], plain);
    add("intPointer", int, 3, &[], pointer);
    add("ints", ints, 4, &[], plain);
    add("micro", micro, 5, &[], plain);
    add("port", port, 6, &[], plain);
    add("quantities", map, 7, &[], plain);
    add("self", root, 8, &[], pointer);
    add("time", time, 9, &[], plain);
    add("within", string, 1, &[20], plain);
    add("withinDeeper", string, 1, &[20, 2], plain);
    let name = "io.k8s.api.test.v1.Thing".to_owned();
    schema.set(root, Type::Struct(Box::new(StructType { name, fields, ..StructType::default() })));
    (GroupVersionKind::new("test", "v1", "Thing"), KindSchema::new(Arc::new(schema), root))
}

fn decode_thing(bytes: &[u8]) -> Result<Value, ProtobufError> {
    let (gvk, schema) = thing();
    decode(bytes, None, |asked| (*asked == gvk).then_some(schema)).map(|(_, value)| value)
}

fn enveloped(body: &[u8]) -> Vec<u8> {
    envelope(&thing().0, body)
}

#[test]
fn every_sort_of_field_round_trips() {
    let (gvk, schema) = thing();
    let value = json!({
        "apiVersion": "test/v1", "kind": "Thing", "always": "a", "int": -5, "intPointer": 0, "ints": [1, 0, -1],
        "micro": "1969-12-31T23:59:59.000001Z", "port": "http", "quantities": {"cpu": "100m", "": "0"},
        "self": {"always": "b", "port": 80}, "time": "2024-02-29T12:00:00Z", "within": "c", "withinDeeper": "d",
    });
    let bytes = encode(&value, &gvk, schema.root()).unwrap();
    assert_eq!(decode_thing(&bytes).unwrap(), value);
}

#[test]
fn zeros_become_what_go_makes_of_them() {
    // always "", int 0, intPointer 0, time zero, within "".
    let body = [0x0a, 0, 0x10, 0, 0x18, 0, 0x4a, 0, 0xa2, 0x01, 2, 0x0a, 0];
    let expected = json!({"apiVersion": "test/v1", "kind": "Thing", "always": "", "intPointer": 0});
    assert_eq!(decode_thing(&enveloped(&body)).unwrap(), expected);
}

#[test]
fn packed_lists_unknown_fields_and_parts_are_read() {
    let mut body = vec![0x22, 3, 1, 2, 3]; // ints, packed
    body.extend([0x20, 4]); // ints, one more
    body.extend([0x42, 2, 0x10, 7]); // self.int = 7
    body.extend([0x42, 2, 0x18, 8]); // self.intPointer = 8, in a second part
    body.extend([0xf8, 0x07, 1]); // field 127: unknown
    let value = decode_thing(&enveloped(&body)).unwrap();
    assert_eq!(value["ints"], json!([1, 2, 3, 4]));
    assert_eq!(value["self"], json!({"int": 7, "intPointer": 8}));
}

#[test]
fn what_is_no_object_is_refused() {
    assert!(matches!(decode_thing(b"{}"), Err(ProtobufError::NoMagic)));
    assert!(matches!(decode_thing(b"k8s\0"), Err(ProtobufError::NoKind)));
    let other = envelope(&GroupVersionKind::new("", "v1", "Other"), b"");
    let error = decode_thing(&other).unwrap_err();
    assert_eq!(error.to_string(), "no kind \"Other\" is registered for version \"v1\"");
    for body in [&[0x0a, 9][..], &[0x08, 1], &[0x0a, 1, 0xff], &[0x4a, 9, 8, 255, 255, 255, 255, 255, 255, 255, 127]] {
        assert!(matches!(decode_thing(&enveloped(body)), Err(ProtobufError::Malformed(_))), "{body:?}");
    }
    let mut deep = Vec::new();
    for _ in 0..200 {
        let mut outer = Vec::new();
        put_bytes(&mut outer, 8, &deep);
        deep = outer;
    }
    assert!(matches!(decode_thing(&enveloped(&deep)), Err(ProtobufError::TooDeep(_))));
}

#[test]
fn the_default_kind_stands_in() {
    let (gvk, schema) = thing();
    let bytes = [MAGIC, &[0x12, 2, 0x10, 7]].concat();
    let (found, value) = decode(&bytes, Some(&gvk), |_| Some(schema)).unwrap();
    assert_eq!((found, &value["int"], &value["kind"]), (gvk, &json!(7), &json!("Thing")));
}

#[test]
fn trees_that_do_not_fit_are_refused() {
    let (gvk, schema) = thing();
    for bad in [json!([]), json!({"int": "x"}), json!({"ints": 1}), json!({"time": "noon"}), json!({"always": 1})] {
        assert!(matches!(encode(&bad, &gvk, schema.root()), Err(ProtobufError::Unfit(_))), "{bad}");
    }
}

#[test]
fn lists_are_put_together_from_bodies() {
    let (gvk, schema) = thing();
    let body = encode_body(&json!({"int": 7}), schema.root()).unwrap();
    let bytes = encode_list(&gvk, schema.root(), &Value::Null, [&*body, &*body]).unwrap();
    let mut expected = Vec::new();
    put_bytes(&mut expected, 2, &body);
    put_bytes(&mut expected, 2, &body);
    assert_eq!(bytes, envelope(&gvk, &expected));
}

#[test]
fn watch_frames_say_their_length() {
    let frame = watch_frame("ADDED", b"k8s\0");
    assert_eq!(frame, [&[0, 0, 0, 15][..], &[0x0a, 5], b"ADDED", &[0x12, 6, 0x0a, 4], b"k8s\0"].concat());
}

proptest! {
    #[test]
    fn no_input_panics(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode_thing(&enveloped(&body));
        let _ = decode_thing(&[MAGIC, &body].concat());
    }
}
