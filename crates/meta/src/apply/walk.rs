//! Walks of typed values: which fields a value has, how two differ, merging, removing
//! (`sigs.k8s.io/structured-merge-diff/typed`).
//!
//! What counts as one field is the type's to say: atomic lists and maps are one, others are as many as they have
//! items. Where nothing is known, objects are taken apart and lists are not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use serde_json::{Map, Value};

use super::set::{FieldSet, ItemValue, PathElement, path_text};
use crate::check::{go_type_of, plus_v, sharp_v};
use crate::schema::{ListType, Scalar, Schema, StructType, Type, TypeId, TypeRef};

type Members = Map<String, Value>;

/// How to look at a value.
pub(super) enum Shape<'a> {
    /// One field, whatever is inside.
    Leaf,
    /// Members by name.
    Members,
    /// Items told apart by value or key.
    Items(&'a ListType),
}

pub(super) fn shape<'a>(ty: TypeRef<'a>, value: Option<&Value>) -> Shape<'a> {
    match ty.get() {
        Type::Scalar(_) | Type::List { list: ListType::Atomic, .. } => Shape::Leaf,
        Type::List { list, .. } => Shape::Items(list),
        Type::Map { atomic, .. } if *atomic => Shape::Leaf,
        Type::Struct(s) if s.atomic => Shape::Leaf,
        Type::Map { .. } | Type::Struct(_) => Shape::Members,
        Type::Any if value.is_some_and(Value::is_object) => Shape::Members,
        Type::Any => Shape::Leaf,
    }
}

fn is_declared(ty: TypeRef<'_>, name: &str) -> bool {
    ty.field(name).is_some()
}

/// The type of a member as ownership sees it: what has no shape in a built-in kind is one field.
pub(super) fn member_type<'a>(ty: TypeRef<'a>, name: &str) -> TypeRef<'a> {
    static OPAQUE: LazyLock<(Schema, TypeId)> = LazyLock::new(|| {
        let mut schema = Schema::default();
        let id = schema.add(Type::Struct(Box::new(StructType { atomic: true, open: true, ..StructType::default() })));
        (schema, id)
    });
    let member = ty.member(name);
    let built_in = matches!(ty.get(), Type::Struct(s) if !s.name.is_empty() && s.field(name).is_some());
    if built_in && matches!(member.get(), Type::Any) { OPAQUE.0.at(OPAQUE.1) } else { member }
}

/// The type one step below.
pub(super) fn step_type<'a>(ty: TypeRef<'a>, step: &PathElement) -> TypeRef<'a> {
    match step {
        PathElement::Field(name) => member_type(ty, name),
        _ => ty.item(),
    }
}

pub(super) fn members(value: Option<&Value>) -> Option<&Members> {
    value.and_then(Value::as_object).filter(|m| !m.is_empty())
}

pub(super) fn items(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Why a list's item cannot be told apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NoIdentity(pub(super) String);

/// What tells `item` apart in its list. Missing keys have the schema's defaults.
pub(super) fn item_identity(list: &ListType, item: TypeRef<'_>, value: &Value) -> Result<PathElement, NoIdentity> {
    let refuse = |why: &str| Err(NoIdentity(why.to_owned()));
    let ListType::Map(keys) = list else {
        return match value {
            Value::Object(_) => refuse("associative list without keys has an element that's a map type"),
            Value::Array(_) => refuse("not supported: associative list with lists as elements"),
            Value::Null => refuse("associative list without keys has an element that's an explicit null"),
            scalar => Ok(PathElement::Value(ItemValue(scalar.clone()))),
        };
    };
    let Value::Object(members) = value else {
        return refuse(if value.is_null() {
            "associative list with keys may not have a null element"
        } else {
            "associative list with keys may not have non-map elements"
        });
    };
    let found = |key: &String| {
        let value = members.get(key).or_else(|| item.field(key)?.default.as_ref())?;
        Some((key.clone(), ItemValue(value.clone())))
    };
    let mut found: Vec<_> = keys.iter().filter_map(found).collect();
    if found.is_empty() {
        return refuse(&format!(
            "associative list with keys has an element that omits all key fields {keys:?} (and doesn't have default \
             values for any key fields)"
        ));
    }
    found.sort();
    Ok(PathElement::Key(found))
}

/// A list's items by what tells them apart; duplicates share an entry.
struct Indexed<'v> {
    order: Vec<(PathElement, &'v Value)>,
    items: BTreeMap<PathElement, Vec<&'v Value>>,
    /// Whether there are items that cannot be told apart from others.
    lost: bool,
}

impl<'v> Indexed<'v> {
    fn new(list: &ListType, item: TypeRef<'_>, values: &'v [Value]) -> Self {
        let mut indexed = Self { order: Vec::with_capacity(values.len()), items: BTreeMap::new(), lost: false };
        for value in values {
            match item_identity(list, item, value) {
                Ok(step) => {
                    indexed.items.entry(step.clone()).or_default().push(value);
                    indexed.order.push((step, value));
                }
                Err(NoIdentity(_)) => indexed.lost = true,
            }
        }
        indexed
    }
    fn get(&self, step: &PathElement) -> &[&'v Value] {
        self.items.get(step).map_or(&[], Vec::as_slice)
    }
    fn has(&self, step: &PathElement) -> bool {
        self.items.contains_key(step)
    }
    /// The item, unless there are several.
    fn single(&self, step: &PathElement) -> Option<&'v Value> {
        match self.get(step) {
            [one] => Some(one),
            _ => None,
        }
    }
}

/// The fields of a value.
pub fn field_set(value: &Value, ty: TypeRef<'_>) -> FieldSet {
    let mut set = FieldSet::default();
    collect(value, ty, &mut Vec::new(), &mut set);
    set
}

fn collect(value: &Value, ty: TypeRef<'_>, path: &mut Vec<PathElement>, set: &mut FieldSet) {
    match shape(ty, Some(value)) {
        Shape::Leaf => set.insert(path),
        Shape::Members => {
            for (name, member) in value.as_object().into_iter().flatten() {
                path.push(PathElement::field(name));
                collect(member, member_type(ty, name), path, set);
                let bare = member.is_null() || member.as_object().is_some_and(Map::is_empty);
                if bare || !is_declared(ty, name) {
                    set.insert(path);
                }
                path.pop();
            }
        }
        Shape::Items(list) => {
            let indexed = Indexed::new(list, ty.item(), items(Some(value)));
            for (step, values) in &indexed.items {
                path.push(step.clone());
                if let [one] = values.as_slice() {
                    collect(one, ty.item(), path, set);
                }
                set.insert(path);
                path.pop();
            }
        }
    }
}

/// How two values differ. No field is in more than one of the sets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Fields only the new value has.
    pub added: FieldSet,
    /// Fields both have, differently.
    pub modified: FieldSet,
    /// Fields only the old value has.
    pub removed: FieldSet,
    /// Whether one of them has list items that lack their keys: then nobody can say who owns what.
    pub untracked: bool,
}

impl Comparison {
    /// Whether the values are the same.
    pub fn is_same(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }
    /// What was added or modified.
    pub fn touched(&self) -> FieldSet {
        self.added.clone().union(&self.modified)
    }
    /// Without what lies at or below `ignored`.
    #[must_use]
    pub fn without(self, ignored: &FieldSet) -> Self {
        Self {
            added: self.added.without(ignored),
            modified: self.modified.without(ignored),
            removed: self.removed.without(ignored),
            untracked: self.untracked,
        }
    }
}

/// How `new` differs from `old`.
pub fn compare(old: &Value, new: &Value, ty: TypeRef<'_>) -> Comparison {
    let mut comparison = Comparison::default();
    if old != new {
        compare_at(Some(old), Some(new), ty, &mut Vec::new(), &mut comparison);
    }
    comparison
}

fn compare_at(
    old: Option<&Value>,
    new: Option<&Value>,
    ty: TypeRef<'_>,
    path: &mut Vec<PathElement>,
    out: &mut Comparison,
) {
    match (shape(ty, old), shape(ty, new)) {
        (Shape::Members, _) | (_, Shape::Members) => {
            let (left, right) = (members(old), members(new));
            if left.is_none() && right.is_none() {
                return compare_leaf(old, new, path, out);
            }
            let names: BTreeSet<&String> = left.into_iter().chain(right).flat_map(Map::keys).collect();
            for name in names {
                let (left, right) = (left.and_then(|m| m.get(name)), right.and_then(|m| m.get(name)));
                path.push(PathElement::field(name));
                compare_at(left, right, member_type(ty, name), path, out);
                path.pop();
            }
            compare_container(old, new, path, out);
            let other_kind = |v: Option<&Value>| v.is_some_and(|v| !v.is_object() && !v.is_null());
            if old.is_some() && new.is_some() && (other_kind(old) || other_kind(new)) {
                out.modified.insert(path);
            }
        }
        (Shape::Items(list), _) => {
            if items(old).is_empty() && items(new).is_empty() {
                return compare_leaf(old, new, path, out);
            }
            let left = Indexed::new(list, ty.item(), items(old));
            let right = Indexed::new(list, ty.item(), items(new));
            out.untracked |= left.lost || right.lost;
            let steps: BTreeSet<&PathElement> = left.items.keys().chain(right.items.keys()).collect();
            for step in steps {
                path.push(step.clone());
                compare_items(left.get(step), right.get(step), ty.item(), path, out);
                path.pop();
            }
            compare_container(old, new, path, out);
        }
        (Shape::Leaf, _) => compare_leaf(old, new, path, out),
    }
}

/// Items with one identity; where there are several, they count as one field.
fn compare_items(old: &[&Value], new: &[&Value], ty: TypeRef<'_>, path: &mut Vec<PathElement>, out: &mut Comparison) {
    match (old, new) {
        ([] | [_], [] | [_]) => compare_at(old.first().copied(), new.first().copied(), ty, path, out),
        ([_, _, ..], [_, _, ..]) => {
            if old != new {
                out.modified.insert(path);
            }
        }
        ([_, _, ..], _) => {
            if let Some(one) = new.first() {
                compare_at(None, Some(one), ty, path, out);
            }
            out.removed.insert(path);
        }
        (_, _) => {
            if let Some(one) = old.first() {
                compare_at(Some(one), None, ty, path, out);
            }
            out.added.insert(path);
        }
    }
}

fn compare_leaf(old: Option<&Value>, new: Option<&Value>, path: &[PathElement], out: &mut Comparison) {
    compare_container(old, new, path, out);
    if old.is_some() && new.is_some() && old != new {
        out.modified.insert(path);
    }
}

fn compare_container(old: Option<&Value>, new: Option<&Value>, path: &[PathElement], out: &mut Comparison) {
    match (old, new) {
        (None, Some(_)) => out.added.insert(path),
        (Some(_), None) => out.removed.insert(path),
        _ => {}
    }
}

/// Both together; where both have a field, `new` wins. Lists keep the order of `new`'s items, with `old`'s others in
/// between where they stood.
pub fn merge(old: &Value, new: &Value, ty: TypeRef<'_>) -> Value {
    merge_at(Some(old), Some(new), ty).unwrap_or_else(|| Value::Object(Map::new()))
}

fn merge_at(old: Option<&Value>, new: Option<&Value>, ty: TypeRef<'_>) -> Option<Value> {
    let keep_new = || new.or(old).cloned();
    match shape(ty, new.filter(|v| !v.is_null()).or(old)) {
        Shape::Leaf => keep_new(),
        Shape::Members => {
            let (left, right) = (members(old), members(new));
            if left.is_none() && right.is_none() {
                return keep_new();
            }
            let names: BTreeSet<&String> = left.into_iter().chain(right).flat_map(Map::keys).collect();
            let merged = names.into_iter().filter_map(|name| {
                let (left, right) = (left.and_then(|m| m.get(name)), right.and_then(|m| m.get(name)));
                Some((name.clone(), merge_at(left, right, member_type(ty, name))?))
            });
            Some(Value::Object(merged.collect()))
        }
        Shape::Items(list) => {
            if items(old).is_empty() && items(new).is_empty() {
                return keep_new();
            }
            Some(Value::Array(merge_items(items(old), items(new), list, ty.item())))
        }
    }
}

fn merge_items(old: &[Value], new: &[Value], list: &ListType, item: TypeRef<'_>) -> Vec<Value> {
    let (left, right) = (Indexed::new(list, item, old), Indexed::new(list, item, new));
    let shared: Vec<&PathElement> = right.order.iter().map(|(step, _)| step).filter(|step| left.has(step)).collect();
    let (mut l, mut r, mut next_shared) = (0, 0, 0);
    let (mut result, mut done) = (Vec::with_capacity(old.len().max(new.len())), BTreeSet::new());
    loop {
        let (at_left, at_right) = (left.order.get(l), right.order.get(r));
        if let Some((step, value)) = at_left
            && at_right.is_none_or(|(wanted, _)| wanted != step)
        {
            if !right.has(step) {
                result.push((*value).clone());
                l += 1;
                continue;
            }
            let out_of_turn = at_right.is_some() && shared.get(next_shared).is_some_and(|next| *next != step);
            if out_of_turn || done.contains(step) {
                l += 1;
                continue;
            }
        }
        let Some((step, _)) = at_right else { return result };
        l += usize::from(at_left.is_some_and(|(left, _)| left == step));
        r += 1;
        next_shared += usize::from(shared.get(next_shared) == Some(&step));
        result.extend(merge_at(left.single(step), right.single(step), item));
        done.insert(step);
    }
}

/// The value without the fields in `gone`; `None` when nothing is left. What is not in `gone` itself stays, empty, when all
/// that was in it goes.
pub(super) fn remove(value: &Value, gone: &FieldSet, ty: TypeRef<'_>) -> Option<Value> {
    match shape(ty, Some(value)) {
        Shape::Leaf if matches!(ty.get(), Type::Scalar(_)) || !(value.is_object() || value.is_array()) => {
            Some(value.clone())
        }
        // Something inside a field that is one whole shall go: all of it goes.
        Shape::Leaf => None,
        Shape::Members => {
            let (mut left, mut reduced) = (Map::new(), false);
            for (name, member) in members(Some(value))? {
                let step = PathElement::field(name);
                if gone.has(&step) {
                    continue;
                }
                let below = gone.below(&step);
                reduced |= below.is_some();
                left.insert(name.clone(), without(member, below, member_type(ty, name)));
            }
            (reduced || !left.is_empty()).then_some(Value::Object(left))
        }
        Shape::Items(list) => {
            let (mut left, mut reduced) = (Vec::new(), false);
            for item in items(Some(value)) {
                let step = item_identity(list, ty.item(), item).ok();
                if step.as_ref().is_some_and(|step| gone.has(step)) {
                    continue;
                }
                let below = step.as_ref().and_then(|step| gone.below(step));
                reduced |= below.is_some();
                left.push(without(item, below, ty.item()));
            }
            (reduced || !left.is_empty()).then_some(Value::Array(left))
        }
    }
}

fn without(value: &Value, gone: Option<&FieldSet>, ty: TypeRef<'_>) -> Value {
    let Some(gone) = gone else { return value.clone() };
    remove(value, gone, ty).unwrap_or_else(|| match value {
        Value::Object(_) => Value::Object(Map::new()),
        Value::Array(_) => Value::Array(Vec::new()),
        _ => Value::Null,
    })
}

/// The set with the declared fields on the way to its members made members too, so that structs go with their last
/// field.
pub(super) fn with_declared_parents(set: &FieldSet, ty: TypeRef<'_>) -> FieldSet {
    let mut out = set.clone();
    for (step, below) in set.parents() {
        let declared = matches!(step, PathElement::Field(name) if is_declared(ty, name));
        let below = with_declared_parents(below, step_type(ty, step));
        out.set(step.clone(), set.has(step) || declared, below);
    }
    out
}

/// The set as it must read today: what a schema has made one field since then is owned as one.
pub(super) fn reconcile(set: FieldSet, ty: TypeRef<'_>) -> FieldSet {
    let mut out = set.clone();
    for (step, below) in set.parents() {
        let below_type = step_type(ty, step);
        let whole = match below_type.get() {
            Type::List { list, .. } => *list == ListType::Atomic,
            Type::Map { atomic, .. } => *atomic,
            Type::Struct(s) => s.atomic,
            Type::Scalar(_) | Type::Any => false,
        };
        if whole {
            out.set(step.clone(), true, FieldSet::default());
        } else {
            out.set(step.clone(), set.has(step), reconcile(below.clone(), below_type));
        }
    }
    out
}

/// What an object of this type has before anybody wrote anything: the structs Go holds in place, empty.
pub fn empty(ty: TypeRef<'_>) -> Value {
    let Type::Struct(s) = ty.get() else { return Value::Object(Map::new()) };
    let in_place = s.fields.iter().filter(|f| f.default.as_ref().is_some_and(Value::is_object));
    Value::Object(in_place.map(|f| (f.name.clone(), empty(ty.to(f.ty)))).collect())
}

/// What Go writes of an object nobody has filled in: fields that are always written, as null or zero. Who then creates
/// the object owns of these only what differs. Custom kinds are no Go structs.
pub fn blank_of(ty: TypeRef<'_>) -> Value {
    match ty.get() {
        Type::Struct(s) if !s.name.is_empty() => crate::check::zero_struct(ty),
        _ => empty(ty),
    }
}

/// Paths of the parts of a value that are owned as a whole.
pub(super) fn wholes(value: &Value, ty: TypeRef<'_>) -> Vec<String> {
    let mut found = Vec::new();
    find_wholes(value, ty, &mut String::new(), &mut found);
    found
}

fn find_wholes(value: &Value, ty: TypeRef<'_>, path: &mut String, out: &mut Vec<String>) {
    let whole = match (ty.get(), value) {
        (Type::Struct(s), Value::Object(_)) => s.atomic,
        (Type::Map { atomic, .. }, Value::Object(_)) => *atomic,
        (Type::List { list, .. }, Value::Array(_)) => *list == ListType::Atomic,
        _ => false,
    };
    if whole {
        out.push(path.clone());
    }
    let end = path.len();
    let mut below = |step: String, value: &Value, ty| {
        path.push_str(&step);
        find_wholes(value, ty, path, out);
        path.truncate(end);
    };
    match (ty.get(), value) {
        (Type::Struct(_), Value::Object(members)) => {
            members.iter().for_each(|(name, member)| below(format!(".{name}"), member, ty.member(name)));
        }
        (Type::List { .. }, Value::Array(items)) => {
            items.iter().enumerate().for_each(|(place, item)| below(format!("[{place}]"), item, ty.item()));
        }
        _ => {}
    }
}

/// What is wrong with a value that shall be applied: unknown fields, wrong types, items that cannot be told apart.
pub(super) fn faults(value: &Value, ty: TypeRef<'_>) -> Vec<String> {
    let mut faults = Vec::new();
    find_faults(value, ty, &mut Vec::new(), &mut faults);
    faults
}

fn find_faults(value: &Value, ty: TypeRef<'_>, path: &mut Vec<PathElement>, out: &mut Vec<String>) {
    match (ty.get(), value) {
        (_, Value::Null) | (Type::Any, _) => {}
        // An object of which no field is known may have any: that is how the schemas read that upstream merges by.
        (Type::Struct(s), Value::Object(_)) if s.fields.is_empty() => {}
        (Type::Struct(_) | Type::Map { .. }, Value::Object(members)) => {
            for (name, member) in members {
                path.push(PathElement::field(name));
                if matches!(ty.get(), Type::Struct(s) if !s.open && s.field(name).is_none()) {
                    add_fault(out, path, "field not declared in schema");
                    path.pop();
                    return;
                } else {
                    find_faults(member, ty.member(name), path, out);
                }
                path.pop();
            }
        }
        (Type::List { list, .. }, Value::Array(values)) => find_item_faults(values, list, ty.item(), path, out),
        (Type::Struct(_) | Type::Map { .. }, other) => {
            add_fault(out, path, &format!("expected map, got {}", boxed(other)))
        }
        (Type::List { .. }, other) => add_fault(out, path, &format!("expected list, got {}", boxed(other))),
        (Type::Scalar(scalar), other) => {
            if let Some(expected) = scalar_fault(*scalar, other) {
                add_fault(out, path, &expected);
            }
        }
    }
}

fn find_item_faults(
    values: &[Value],
    list: &ListType,
    ty: TypeRef<'_>,
    path: &mut Vec<PathElement>,
    out: &mut Vec<String>,
) {
    let mut seen = BTreeSet::new();
    for (i, item) in values.iter().enumerate() {
        let step = match list {
            ListType::Atomic => Ok(PathElement::Index(i64::try_from(i).unwrap_or(i64::MAX))),
            _ => item_identity(list, ty, item),
        };
        let step = match step {
            Ok(step) => step,
            Err(NoIdentity(why)) => return add_fault(out, path, &format!("element {i}: {why}")),
        };
        if !seen.insert(step.clone()) {
            add_fault(out, path, &format!("duplicate entries for key {step}"));
        }
        path.push(step);
        find_faults(item, ty, path, out);
        path.pop();
    }
}

fn add_fault(out: &mut Vec<String>, path: &[PathElement], what: &str) {
    out.push(format!("{}: {what}", path_text(path)));
}

/// A value as upstream shows it: held by what reads it.
fn boxed(value: &Value) -> String {
    format!("&{{{}}}", plus_v(value))
}

fn scalar_fault(scalar: Scalar, value: &Value) -> Option<String> {
    let (fits, expected, got): (bool, _, fn(&Value) -> String) = match scalar {
        Scalar::Int32 | Scalar::Int64 | Scalar::Float64 => {
            (value.is_number(), "numeric (int or float)", |value| go_type_of(value).to_owned())
        }
        Scalar::Bool => (value.is_boolean(), "boolean", boxed),
        // Its schema has no type.
        Scalar::IntOrString => return None,
        Scalar::Quantity | Scalar::Time | Scalar::MicroTime => {
            (!value.is_object() && !value.is_array(), "any scalar", boxed)
        }
        Scalar::String | Scalar::Bytes | Scalar::Duration => {
            (value.is_string(), "string", |value| format!("&value.valueUnstructured{{Value:{}}}", sharp_v(value)))
        }
    };
    (!fits).then(|| format!("expected {expected}, got {}", got(value)))
}
