//! Small damages to good objects, chosen by dice and guided by what the kind's type graph knows.

use serde_json::{Map, Value, json};
use skiff_meta::schema::{Scalar, Type, TypeRef};

/// Chance that can be repeated: the same seed throws the same.
#[derive(Clone, Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }
    /// splitmix64.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    /// A number below `end`, 0 when that is 0.
    pub(super) fn below(&mut self, end: usize) -> usize {
        self.next().checked_rem(end as u64).unwrap_or_default() as usize
    }
    /// True once in `n` throws.
    pub(super) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
    /// One of several.
    pub(super) fn of<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        all.get(self.below(all.len()))
    }
}

const TEXTS: &[&str] = &[
    "",
    "a",
    "b",
    "UPPER",
    "with space",
    "-dash",
    "dot.ted",
    "under_score",
    "a/b",
    "1",
    "None",
    "Always",
    "Never",
    "TCP",
    "10.0.0.1",
    "::1",
    "256.1.1.1",
    "example.com/key",
    "example.com/",
    "*",
    "100m",
    "1Gi",
    "50%",
    "-5%",
    "true",
    "\u{e4}",
    "2026-01-01T00:00:00Z",
    "http",
    "../up",
    "/abs",
    "$(A)",
    "v1",
    "kube-system",
];
const NUMBERS: &[i64] = &[0, 1, -1, 2, 80, 100, 65_535, 65_536, 70_000, i32::MAX as i64, i32::MAX as i64 + 1, i64::MAX];
const QUANTITIES: &[&str] = &["1", "100m", "1Gi", "-1", "1.5", "0", "1e3", "1x", "", "0.0001", "12345678901234567890"];

/// Changes one place of an object whose root has type `ty`; `apiVersion`, `kind` and the name stay mostly.
pub(super) fn mutate(object: &mut Value, ty: TypeRef<'_>, dice: &mut Dice) {
    let mut places = Vec::new();
    collect(object, ty, "", &mut places);
    let Some((path, ty)) = dice.of(&places).cloned() else { return };
    let Some(place) = object.pointer_mut(&path) else { return };
    change(place, ty, dice);
}

/// Every value below, with its pointer and type.
fn collect<'a>(value: &Value, ty: TypeRef<'a>, path: &str, out: &mut Vec<(String, TypeRef<'a>)>) {
    // Entries of managed fields that a client makes up are kept by us as long as they can be read.
    let made_up = path.starts_with("/metadata/managedFields/");
    if made_up || matches!(path, "/apiVersion" | "/kind" | "/metadata/name") {
        return;
    }
    out.push((path.to_owned(), ty));
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| {
            let key_path = key.replace('~', "~0").replace('/', "~1");
            collect(value, ty.member(key), &format!("{path}/{key_path}"), out);
        }),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(i, item)| collect(item, ty.item(), &format!("{path}/{i}"), out));
        }
        _ => {}
    }
}

fn change(place: &mut Value, ty: TypeRef<'_>, dice: &mut Dice) {
    if dice.one_in(8) {
        *place = other_type(dice);
        return;
    }
    match place {
        Value::Object(map) => change_members(map, ty, dice),
        Value::Array(items) => match dice.below(4) {
            0 => items.clear(),
            1 => items.extend(items.first().cloned()),
            2 => items.push(generate(ty.item(), dice, 2)),
            _ => drop(items.pop()),
        },
        _ => *place = generate(ty, dice, 1),
    }
}

fn change_members(map: &mut Map<String, Value>, ty: TypeRef<'_>, dice: &mut Dice) {
    let kept = |key: &str| matches!(key, "apiVersion" | "kind" | "metadata");
    match (dice.below(6), ty.get()) {
        (0, _) => {
            let keys: Vec<String> = map.keys().filter(|k| !kept(k)).cloned().collect();
            if let Some(key) = dice.of(&keys) {
                map.remove(key);
            }
        }
        (1, _) => {
            map.insert("unknownField".to_owned(), json!(1));
        }
        (_, Type::Struct(s)) => {
            let absent: Vec<_> = s.fields.iter().filter(|f| !map.contains_key(&f.name)).collect();
            if let Some(field) = dice.of(&absent) {
                let value = generate(ty.to(field.ty), dice, 3);
                map.insert(field.name.clone(), value);
            }
        }
        _ => {
            let key = *dice.of(TEXTS).unwrap_or(&"a");
            map.insert(key.to_owned(), generate(ty.member(""), dice, 2));
        }
    }
}

fn other_type(dice: &mut Dice) -> Value {
    let all = [
        json!(null),
        json!(true),
        json!(7),
        json!(1.5),
        json!("text"),
        json!([]),
        json!({}),
        json!(["a"]),
        json!({"a": 1}),
    ];
    dice.of(&all).cloned().unwrap_or_default()
}

/// A value of a type, right or nearly so; `depth` bounds how far structs are filled.
pub(super) fn generate(ty: TypeRef<'_>, dice: &mut Dice, depth: usize) -> Value {
    let text = |dice: &mut Dice| json!(dice.of(TEXTS));
    match ty.get() {
        Type::Scalar(scalar) => match scalar {
            Scalar::Int32 | Scalar::Int64 => json!(dice.of(NUMBERS)),
            Scalar::Float64 => json!(1.5),
            Scalar::Bool => json!(dice.one_in(2)),
            Scalar::Bytes => json!(dice.of(&["", "YQ==", "not base64"])),
            Scalar::Quantity => json!(dice.of(QUANTITIES)),
            Scalar::IntOrString if dice.one_in(2) => json!(dice.of(NUMBERS)),
            Scalar::Time | Scalar::MicroTime => {
                json!(dice.of(&["2026-01-01T00:00:00Z", "2026-01-01T00:00:00.123456Z", "yesterday", ""]))
            }
            _ if dice.one_in(20) => json!("x".repeat(300)),
            _ => text(dice),
        },
        Type::List { .. } => {
            let count = dice.below(3);
            (0..count).map(|_| generate(ty.item(), dice, depth.saturating_sub(1))).collect()
        }
        Type::Map { .. } => {
            let count = dice.below(3);
            let mut pair = || {
                let key = dice.of(TEXTS).map(|t| (*t).to_owned()).unwrap_or_default();
                (key, generate(ty.member(""), dice, depth.saturating_sub(1)))
            };
            (0..count).map(|_| pair()).collect::<Map<_, _>>().into()
        }
        Type::Struct(s) => {
            let mut map = Map::new();
            for field in &s.fields {
                let likely = if field.required { 8 } else { 1 };
                if depth > 0 && dice.below(9) < likely {
                    map.insert(field.name.clone(), generate(ty.to(field.ty), dice, depth - 1));
                }
            }
            map.into()
        }
        Type::Any => other_type(dice),
    }
}
