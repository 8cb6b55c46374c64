//! The protobuf transcoder over the facts of all kinds: bytes that others wrote, and round trips of made-up objects.

#![allow(clippy::unwrap_used, reason = "a test that fails should panic")]

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use skiff_api::{KINDS, facts};
use skiff_meta::codec::protobuf;
use skiff_meta::schema::{Field, Scalar, Type, TypeRef};
use skiff_meta::{GroupVersion, GroupVersionKind};

fn gvk_of(value: &Value) -> GroupVersionKind {
    let said: GroupVersion = value["apiVersion"].as_str().unwrap().parse().unwrap();
    GroupVersionKind::new(said.group, said.version, value["kind"].as_str().unwrap())
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

#[test]
fn bytes_of_another_implementation() {
    let mut lines = include_str!("protobuf_vectors.txt").lines().filter(|line| !line.starts_with('#'));
    let mut seen = 0;
    while let (Some(name), Some(json), Some(hex)) = (lines.next(), lines.next(), lines.next()) {
        let (expected, bytes): (Value, _) = (serde_json::from_str(json).unwrap(), unhex(hex));
        let (gvk, value) = protobuf::decode(&bytes, None, facts::schema).unwrap();
        assert_eq!(value, expected, "{name}");
        let schema = facts::schema(&gvk).unwrap();
        let encoded = protobuf::encode(&value, &gvk, schema.root()).unwrap();
        assert_eq!(encoded, bytes, "{name}");
        seen += 1;
    }
    assert_eq!(seen, 12);
}

/// Makes up objects of any type; the same seed makes the same object.
struct Maker(u64);

impl Maker {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn object(&mut self, ty: TypeRef<'_>, depth: u32) -> Value {
        let Type::Struct(s) = ty.get() else { panic!("a struct") };
        let mut map = Map::new();
        for field in s.fields.iter().filter(|f| f.proto != 0) {
            if self.below(if depth > 4 { 40 } else { 3 }) == 0 {
                map.insert(field.name.clone(), self.field(field, ty, depth));
            }
        }
        Value::Object(map)
    }

    fn field(&mut self, field: &Field, parent: TypeRef<'_>, depth: u32) -> Value {
        let schema = |maker: &mut Self| maker.object(parent, depth + 2);
        match field.go.named {
            "v1.JSONSchemaPropsOrBool" if self.below(2) == 0 => json!(self.below(2) == 0),
            "v1.JSONSchemaPropsOrBool" => schema(self),
            "v1.JSONSchemaPropsOrArray" if self.below(2) == 0 => schema(self),
            "v1.JSONSchemaPropsOrArray" => json!([schema(self), schema(self)]),
            "v1.JSONSchemaDependencies" => json!({"a": schema(self), "b": ["x", "y"]}),
            _ => self.value(parent.to(field.ty), field.go.pointer || !field.go.omit_empty, depth),
        }
    }

    /// `zero`: whether the type's zero survives.
    fn value(&mut self, ty: TypeRef<'_>, zero: bool, depth: u32) -> Value {
        match ty.get() {
            Type::Struct(_) => self.object(ty, depth + 1),
            Type::List { .. } => (0..=self.below(2)).map(|_| self.value(ty.item(), true, depth)).collect(),
            Type::Map { .. } => {
                let entry = |maker: &mut Self| (maker.text(true), maker.value(ty.member(""), true, depth));
                Value::Object((0..=self.below(2)).map(|_| entry(self)).collect())
            }
            Type::Any => json!({"any": [self.below(9), {"é": null}]}),
            Type::Scalar(scalar) => self.scalar(*scalar, zero),
        }
    }

    fn text(&mut self, zero: bool) -> String {
        let choices = ["", "a", "kube-system", "höhe ☸", "1", "\u{0}"];
        let skip = u64::from(!zero);
        choices[(skip + self.below(choices.len() as u64 - skip)) as usize].to_owned()
    }

    fn scalar(&mut self, scalar: Scalar, zero: bool) -> Value {
        let skip = usize::from(!zero);
        let mut pick = |choices: &[Value]| choices[skip + self.below((choices.len() - skip) as u64) as usize].clone();
        match scalar {
            Scalar::String => self.text(zero).into(),
            Scalar::Int32 => pick(&[json!(0), json!(1), json!(i32::MIN), json!(i32::MAX)]),
            Scalar::Int64 => pick(&[json!(0), json!(1), json!(i64::MIN), json!(i64::MAX)]),
            Scalar::Float64 => pick(&[json!(0), json!(1.5), json!(-3), json!(1e300)]),
            Scalar::Bool => pick(&[json!(false), json!(true)]),
            Scalar::Bytes => pick(&[json!(""), json!("AAEC"), json!("/w==")]),
            Scalar::Quantity => pick(&[json!("0"), json!("100m"), json!("1Gi")]),
            Scalar::IntOrString => pick(&[json!(0), json!("25%"), json!(-7)]),
            Scalar::Time => pick(&[json!("1970-01-01T00:00:00Z"), json!("2024-02-29T23:59:59Z")]),
            Scalar::MicroTime => pick(&[json!("1969-12-31T23:59:59.999999Z"), json!("2024-02-29T00:00:00.000000Z")]),
            Scalar::Duration => panic!("no kind has one"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_kind_round_trips(seed: u64) {
        let mut maker = Maker(seed);
        for kind in KINDS {
            for version in kind.versions {
                let gvk = kind.gvk_at(version);
                let schema = facts::schema(&gvk).unwrap();
                let mut value = maker.object(schema.root(), 0);
                value["apiVersion"] = gvk.api_version().into();
                value["kind"] = kind.kind.into();
                let bytes = protobuf::encode(&value, &gvk, schema.root()).unwrap();
                let (found, decoded) = protobuf::decode(&bytes, None, facts::schema).unwrap();
                prop_assert_eq!(gvk_of(&decoded), gvk.clone());
                prop_assert_eq!(found, gvk);
                prop_assert_eq!(decoded, value);
            }
        }
    }

    #[test]
    fn damaged_bytes_are_no_panic(seed: u64, at: u16, byte: u8) {
        let gvk = GroupVersionKind::new("apps", "v1", "Deployment");
        let schema = facts::schema(&gvk).unwrap();
        let mut bytes = protobuf::encode(&Maker(seed).object(schema.root(), 0), &gvk, schema.root()).unwrap();
        let at = at as usize % bytes.len();
        bytes[at] = byte;
        let _ = protobuf::decode(&bytes, None, facts::schema);
    }
}
