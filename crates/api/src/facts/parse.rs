//! Reads the table of facts.
//!
//! A line that begins without a tab begins a struct: its OpenAPI name (`io.k8s.api.` left out), then tab-separated
//! `GROUP/VERSION` for each place where it is a kind (`*`: everywhere), and `atomic` when server-side apply owns it as
//! a whole. The lines below it, each after a tab, are its fields:
//!
//! | column | meaning |
//! |---|---|
//! | 1 | JSON name |
//! | 2 | type: a leaf (`string`, `int32`, `quantity`, `any`, ...), a struct, `[]` item, `{}` value |
//! | 3 | protobuf number, after the numbers of embedded structs it lies in; 0: none |
//! | 4 | `!` required, `*` a Go pointer, `o` left out when empty |
//! | `list=` | `atomic`, `set`, `map:KEY,KEY` |
//! | `atomic` | server-side apply owns the map as a whole |
//! | `granular` | the struct is `atomic` elsewhere but not here |
//! | `patch=` | `merge`, `retain` or both, then `:KEY`; `replace` |
//! | `go=` | the Go type, where its shape does not tell it |
//! | `default=` | JSON; a field that Go always writes defaults to its zero, a struct in place to `{}`, without saying so |
//!
//! The file is ours, so what cannot be read is left out rather than reported; tests see to it that nothing is.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Value, json};
use skiff_meta::schema::{Field, GoFacts, ListType, PatchFacts, Scalar, Schema, StructType, Type, TypeId};

use super::{Facts, KindFact};

pub(super) fn parse(text: &'static str) -> Facts {
    let mut reader = Reader::default();
    let heads = text.lines().filter(|line| !line.starts_with(['\t', '#']));
    for head in heads.clone() {
        let name = head.split('\t').next().unwrap_or_default();
        let id = reader.schema.add(Type::Any);
        reader.structs.insert(name, id);
    }
    let mut kinds: HashMap<&'static str, Vec<KindFact>> = HashMap::new();
    let mut current: Option<(TypeId, StructType)> = None;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        match (line.strip_prefix('\t'), &mut current) {
            (Some(field), Some((_, s))) => s.fields.extend(reader.field(field)),
            _ => {
                reader.finish(current.take());
                current = reader.head(line, &mut kinds);
            }
        }
    }
    reader.finish(current);
    reader.copy_granular();
    let by_name = reader.by_name;
    Facts { schema: Arc::new(reader.schema), by_name, kinds }
}

#[derive(Default)]
struct Reader {
    schema: Schema,
    /// By name as the file writes it.
    structs: HashMap<&'static str, TypeId>,
    /// By full name.
    by_name: HashMap<&'static str, TypeId>,
    /// Leaves, lists and maps, shared: by type as the file writes it, list type and map type.
    others: HashMap<(&'static str, &'static str, &'static str), TypeId>,
    /// Structs that are copies of others, but for being atomic.
    granular: Vec<(TypeId, TypeId)>,
}

impl Reader {
    fn head(
        &mut self,
        line: &'static str,
        kinds: &mut HashMap<&'static str, Vec<KindFact>>,
    ) -> Option<(TypeId, StructType)> {
        let mut columns = line.split('\t');
        let short = columns.next()?;
        let root = *self.structs.get(short)?;
        let mut s = StructType { name: full_name(short).into_owned(), ..StructType::default() };
        for column in columns {
            match column {
                "atomic" => s.atomic = true,
                group_version => {
                    let kind = short.rsplit('.').next().unwrap_or_default();
                    kinds.entry(kind).or_default().push(KindFact { group_version, root });
                }
            }
        }
        Some((root, s))
    }

    fn finish(&mut self, done: Option<(TypeId, StructType)>) {
        let Some((id, s)) = done else { return };
        // Names live as long as the program: the table is read once.
        self.by_name.insert(String::leak(s.name.clone()), id);
        self.schema.set(id, Type::Struct(Box::new(s)));
    }

    fn copy_granular(&mut self) {
        for (copy, original) in std::mem::take(&mut self.granular) {
            if let Type::Struct(s) = self.schema.get(original) {
                let s = StructType { atomic: false, ..(**s).clone() };
                self.schema.set(copy, Type::Struct(Box::new(s)));
            }
        }
    }

    fn field(&mut self, line: &'static str) -> Option<Field> {
        let mut columns = line.split('\t');
        let (name, ty, numbers, flags) = (columns.next()?, columns.next()?, columns.next()?, columns.next()?);
        let (mut list, mut map, mut default) = ("", "", None);
        let mut go = GoFacts { named: "", pointer: flags.contains('*'), omit_empty: flags.contains('o') };
        let mut patch = PatchFacts::default();
        for column in columns {
            match column.split_once('=') {
                Some(("list", value)) => list = value,
                Some(("patch", value)) => patch = patch_facts(value),
                Some(("go", value)) => go.named = value,
                Some(("default", value)) => default = serde_json::from_str(value).ok(),
                _ => map = column,
            }
        }
        let mut proto_parents: Vec<u32> = numbers.split('.').filter_map(|n| n.parse().ok()).collect();
        let proto = proto_parents.pop()?;
        let in_place = self.structs.contains_key(ty) && !go.pointer;
        let ty = self.type_of(ty, list, map)?;
        if in_place {
            default = default.or_else(|| Some(json!({})));
        } else if !go.pointer && !go.omit_empty {
            default = default.or_else(|| zero(self.schema.get(ty)));
        }
        let required = flags.contains('!');
        Some(Field { name: name.to_owned(), ty, required, default, patch, proto, proto_parents, go })
    }

    fn type_of(&mut self, text: &'static str, list: &'static str, map: &'static str) -> Option<TypeId> {
        if let Some(id) = self.others.get(&(text, list, map)) {
            return Some(*id);
        }
        if let Some(id) = self.structs.get(text).copied() {
            if map != "granular" {
                return Some(id);
            }
            let copy = self.schema.add(Type::Any);
            self.granular.push((copy, id));
            self.others.insert((text, list, map), copy);
            return Some(copy);
        }
        let ty = if let Some(item) = text.strip_prefix("[]") {
            Type::List { item: self.type_of(item, "", "")?, list: list_type(list) }
        } else if let Some(value) = text.strip_prefix("{}") {
            Type::Map { value: self.type_of(value, "", "")?, atomic: map == "atomic" }
        } else {
            leaf(text)?
        };
        let id = self.schema.add(ty);
        self.others.insert((text, list, map), id);
        Some(id)
    }
}

fn full_name(short: &str) -> Cow<'_, str> {
    if short.starts_with("io.") { Cow::Borrowed(short) } else { Cow::Owned(format!("io.k8s.api.{short}")) }
}

fn leaf(text: &str) -> Option<Type> {
    Some(Type::Scalar(match text {
        "string" => Scalar::String,
        "int32" => Scalar::Int32,
        "int64" => Scalar::Int64,
        "float64" => Scalar::Float64,
        "bool" => Scalar::Bool,
        "bytes" => Scalar::Bytes,
        "quantity" => Scalar::Quantity,
        "intorstring" => Scalar::IntOrString,
        "time" => Scalar::Time,
        "microtime" => Scalar::MicroTime,
        "duration" => Scalar::Duration,
        "any" => return Some(Type::Any),
        _ => return None,
    }))
}

fn list_type(text: &str) -> ListType {
    match text.split_once(':') {
        Some((_, keys)) => ListType::Map(keys.split(',').map(str::to_owned).collect()),
        None if text == "set" => ListType::Set,
        None => ListType::Atomic,
    }
}

fn patch_facts(text: &str) -> PatchFacts {
    let (strategies, key) = text.split_once(':').unwrap_or((text, ""));
    let has = |name| strategies.split(',').any(|s| s == name);
    PatchFacts { merge: has("merge"), replace: has("replace"), retain_keys: has("retain"), merge_key: key.to_owned() }
}

fn zero(ty: &Type) -> Option<Value> {
    match ty {
        Type::Scalar(Scalar::String) => Some(json!("")),
        Type::Scalar(Scalar::Int32 | Scalar::Int64 | Scalar::Float64) => Some(json!(0)),
        Type::Scalar(Scalar::Bool) => Some(json!(false)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_of_the_table_is_left_out() {
        let facts = super::super::facts();
        let heads = super::super::TEXT.lines().filter(|l| !l.starts_with(['\t', '#'])).count();
        let fields = super::super::TEXT.lines().filter(|l| l.starts_with('\t')).count();
        assert_eq!(facts.by_name.len(), heads);
        let mut read = 0;
        for (name, id) in facts.names() {
            let Type::Struct(s) = facts.schema.get(id) else { panic!("{name} is no struct") };
            assert!(s.fields.is_sorted_by_key(|f| &f.name), "{name}");
            read += s.fields.len();
        }
        assert_eq!(read, fields);
    }

    #[test]
    fn every_column_is_read() {
        let facts = parse(concat!(
            "a.v1.Thing\tg/v1\t/v1\tatomic\n",
            "\tlist\t[]a.v1.Thing\t2.3\t!o\tlist=map:x,y\tpatch=merge,retain:x\tgo=v1.Things\n",
            "\tloose\ta.v1.Thing\t5\to\tgranular\n",
            "\tmap\t{}[]bytes\t0\t*\tatomic\n",
            "\tnumber\tint32\t1\t\n",
            "\ttext\tstring\t4\to\tdefault=\"a\"\n",
        ));
        let root = facts.schema.at(facts.by_name["io.k8s.api.a.v1.Thing"]);
        let Type::Struct(s) = root.get() else { panic!("a struct") };
        assert!(s.atomic && s.name == "io.k8s.api.a.v1.Thing");
        let list = s.field("list").unwrap();
        assert_eq!((list.proto, &*list.proto_parents, list.required), (3, &[2][..], true));
        assert_eq!(list.patch, PatchFacts { merge: true, replace: false, retain_keys: true, merge_key: "x".into() });
        assert_eq!(list.go, GoFacts { named: "v1.Things", pointer: false, omit_empty: true });
        let Type::List { item, list } = root.member("list").get() else { panic!("a list") };
        assert_eq!((*item, list), (root.id(), &ListType::Map(vec!["x".into(), "y".into()])));
        let Type::Struct(loose) = root.member("loose").get() else { panic!("a struct") };
        assert!(!loose.atomic && loose.fields.len() == s.fields.len());
        assert!(matches!(root.member("map").get(), Type::Map { atomic: true, .. }));
        assert!(matches!(root.member("map").member("k").item().get(), Type::Scalar(Scalar::Bytes)));
        assert_eq!(s.field("number").unwrap().default, Some(json!(0)));
        assert_eq!(s.field("text").unwrap().default, Some(json!("a")));
        assert_eq!(facts.kinds["Thing"].iter().map(|k| k.group_version).collect::<Vec<_>>(), ["g/v1", "/v1"]);
    }
}
