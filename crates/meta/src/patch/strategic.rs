//! Strategic merge patch: a merge patch that knows which lists merge, and by which key
//! (`k8s.io/apimachinery/pkg/util/strategicpatch`).
//!
//! Directives: `$patch: replace|delete` on objects and list items, `$retainKeys` for unions,
//! `$deleteFromPrimitiveList/FIELD`, and `$setElementOrder/FIELD`. The result's order: items the patch names keep the
//! order it gives them, items only the server has are fitted in where they stood.

use serde_json::{Map, Value};

use super::PatchError;
use crate::check::{go_type_of, plus_v};
use crate::schema::{PatchFacts, Type, TypeRef};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList";
const SET_ORDER: &str = "$setElementOrder";

const BAD_ORDER: PatchError = PatchError::Format("invalid patch format of setElementOrder list");
const BAD_RETAIN: PatchError = PatchError::Format("invalid patch format of retainKeys");
const BAD_PRIMITIVES: PatchError = PatchError::Format("invalid patch format of primitive list");

type Members = Map<String, Value>;

/// Applies the strategic merge patch `patch` to `original`, whose type is `ty`.
///
/// # Errors
/// When a directive is misused, or an item of a merging list lacks its key.
pub fn strategic_merge(original: &Value, patch: &Value, ty: TypeRef<'_>) -> Result<Value, PatchError> {
    match (original, patch) {
        (Value::Object(original), Value::Object(patch)) => {
            Ok(Value::Object(merge_map(original.clone(), patch.clone(), ty)?))
        }
        _ => Err(PatchError::Format("invalid JSON document")),
    }
}

/// The type of member `key`, and how it merges: what is merged must be known to be there.
fn member<'a>(ty: TypeRef<'a>, key: &str) -> Result<(TypeRef<'a>, &'a PatchFacts), PatchError> {
    static NONE: PatchFacts = PatchFacts { merge: false, replace: false, retain_keys: false, merge_key: String::new() };
    let no_struct = |kind: &str| {
        PatchError::Malformed(format!("merging an object in json but data type is not struct, instead is: {kind}"))
    };
    match ty.get() {
        Type::Any => Ok((TypeRef::any(), &NONE)),
        Type::Struct(s) => match s.field(key) {
            Some(field) => Ok((ty.to(field.ty), &field.patch)),
            None if s.open => Ok((TypeRef::any(), &NONE)),
            None => Err(PatchError::Malformed(format!(
                "unable to find api field in struct {} for the json field {key:?}",
                s.go_name()
            ))),
        },
        Type::Map { .. } => Err(no_struct("map")),
        Type::List { .. } => Err(no_struct("slice")),
        Type::Scalar(scalar) => Err(no_struct(scalar.go_type())),
    }
}

/// The same of a list: what its items are.
fn list_member<'a>(ty: TypeRef<'a>, key: &str) -> Result<(TypeRef<'a>, &'a PatchFacts), PatchError> {
    let (list, facts) = member(ty, key)?;
    let by_pointer = ty.field(key).is_some_and(|field| field.go.pointer);
    match list.get() {
        Type::Struct(_) | Type::Map { .. } | Type::Scalar(_) if !by_pointer => {
            Err(PatchError::Malformed("expected slice or array type, but got: struct".to_owned()))
        }
        _ => Ok((list.item(), facts)),
    }
}

/// What Go calls the kind of a list's items.
fn item_kind(item: TypeRef<'_>) -> &'static str {
    match item.get() {
        Type::Struct(_) | Type::Any => "struct",
        Type::Map { .. } => "map",
        Type::List { .. } => "slice",
        Type::Scalar(scalar) => scalar.go_type(),
    }
}

fn merge_map(mut original: Members, mut patch: Members, ty: TypeRef<'_>) -> Result<Members, PatchError> {
    match patch.get(DIRECTIVE) {
        None => {}
        Some(Value::String(d)) if d == "replace" => {
            patch.remove(DIRECTIVE);
            return Ok(patch);
        }
        Some(Value::String(d)) if d == "delete" => return Ok(Members::new()),
        Some(other) => return Err(unknown_directive(other, &patch)),
    }
    retain_keys(&mut original, &mut patch)?;
    merge_ordered_lists(&mut original, &mut patch, ty)?;
    for (key, change) in patch {
        match key.strip_prefix(DELETE_FROM) {
            Some(rest) => {
                let field = rest.strip_prefix('/').ok_or(BAD_PRIMITIVES)?;
                delete_primitives(&mut original, field, change, ty)?;
            }
            None => merge_member(&mut original, key, change, ty)?,
        }
    }
    Ok(original)
}

fn unknown_directive(directive: &Value, map: &Members) -> PatchError {
    let shown = match directive {
        Value::String(text) => text.clone(),
        Value::Number(_) | Value::Bool(_) => format!("%!s({}={directive})", go_type_of(directive)),
        other => plus_v(other),
    };
    PatchError::Directive { directive: shown, map: plus_v(&Value::Object(map.clone())) }
}

fn merge_member(original: &mut Members, key: String, change: Value, ty: TypeRef<'_>) -> Result<(), PatchError> {
    if change.is_null() {
        original.remove(&key);
        return Ok(());
    }
    let merged = match (original.remove(&key), change) {
        (Some(Value::Object(from)), Value::Object(change)) => {
            let (ty, facts) = member(ty, &key)?;
            Some(Value::Object(if facts.replace { change } else { merge_map(from, change, ty)? }))
        }
        (Some(Value::Array(from)), Value::Array(change)) => {
            let (item, facts) = list_member(ty, &key)?;
            Some(Value::Array(if facts.merge { merge_list(from, change, item, &facts.merge_key)? } else { change }))
        }
        (_, mut change) => {
            discard_nulls(&mut change);
            without_directives(change)
        }
    };
    if let Some(merged) = merged {
        original.insert(key, merged);
    }
    Ok(())
}

/// `$retainKeys`: of the original, only the listed members stay; the patch may set no other.
fn retain_keys(original: &mut Members, patch: &mut Members) -> Result<(), PatchError> {
    let Some(directive) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let Value::Array(keys) = directive else { return Err(BAD_RETAIN) };
    let listed = |key: &str| keys.iter().any(|k| k.as_str() == Some(key));
    let is_directive = |key: &str| key.starts_with(DELETE_FROM) || key.starts_with(SET_ORDER);
    if patch.iter().any(|(key, change)| !change.is_null() && !is_directive(key) && !listed(key)) {
        return Err(BAD_RETAIN);
    }
    original.retain(|key, _| listed(key));
    Ok(())
}

fn delete_primitives(original: &mut Members, field: &str, change: Value, ty: TypeRef<'_>) -> Result<(), PatchError> {
    match (original.get_mut(field), change) {
        (_, Value::Null) => {
            original.remove(field);
        }
        (Some(Value::Array(items)), Value::Array(gone)) => {
            let (item, facts) = list_member(ty, field)?;
            if items.is_empty() && gone.is_empty() {
                return Ok(());
            }
            if one_shape(&[items, &gone])? {
                // Go takes it for a list to merge then.
                *items = merge_list(std::mem::take(items), gone, item, &facts.merge_key)?;
            } else {
                items.retain(|item| !gone.contains(item));
            }
        }
        _ => {}
    }
    Ok(())
}

/// Handles the lists that have a `$setElementOrder` beside them; they are gone from the patch afterwards.
fn merge_ordered_lists(original: &mut Members, patch: &mut Members, ty: TypeRef<'_>) -> Result<(), PatchError> {
    let directives: Vec<String> = patch.keys().filter(|k| k.starts_with(SET_ORDER)).cloned().collect();
    for directive in directives {
        let field = directive[SET_ORDER.len()..].strip_prefix('/').ok_or(BAD_ORDER)?.to_owned();
        let order = match patch.remove(&directive) {
            Some(Value::Array(order)) => order,
            other => return Err(not_a_list(&other.unwrap_or_default())),
        };
        // A deletion beside the order acts first, as both speak of one list.
        if let Some(gone) = patch.remove(&format!("{DELETE_FROM}/{field}")) {
            delete_primitives(original, &field, gone, ty)?;
        }
        let live = take_list(original.get(&field))?;
        let change = take_list(patch.get(&field))?;
        let (item, facts) = list_member(ty, &field)?;
        let key = facts.merge_key.as_str();
        check_order(change.as_deref().unwrap_or_default(), &order, key)?;
        let objects = one_shape(&[live.as_deref().unwrap_or_default(), change.as_deref().unwrap_or_default()]);
        let merged = match (live.clone(), change) {
            (None, None) => continue,
            (Some(live), None) => live,
            (None, Some(change)) => change.into_iter().filter_map(without_directives).collect(),
            (Some(live), Some(change)) if facts.merge => merge_list(live, change, item, key)?,
            (Some(_), Some(change)) => change,
        };
        let live = live.unwrap_or_default();
        if objects? {
            // Objects are put in order by their key, also where the list is one value otherwise.
            let bare = |item: &&Value| item.get(key).is_none();
            if let Some(item) = merged.iter().chain(&order).chain(&live).find(bare) {
                return Err(PatchError::NoMergeKey { item: plus_v(item), key: key.to_owned() });
            }
        }
        let arranged = arrange(merged, &order, &live, key)?;
        original.insert(field.clone(), Value::Array(arranged));
        patch.remove(&field);
    }
    Ok(())
}

fn not_a_list(found: &Value) -> PatchError {
    // As Go prints a type that is none.
    let found = if found.is_null() { "%!s(<nil>)" } else { go_type_of(found) };
    PatchError::Malformed(format!("expected a []interface {{}}, but received a {found}"))
}

fn take_list(value: Option<&Value>) -> Result<Option<Vec<Value>>, PatchError> {
    match value {
        None => Ok(None),
        Some(Value::Array(items)) => Ok(Some(items.clone())),
        Some(other) => Err(not_a_list(other)),
    }
}

/// The patch's items must come in the given order, and all of them must be in it.
fn check_order(change: &[Value], order: &[Value], key: &str) -> Result<(), PatchError> {
    if change.is_empty() || order.is_empty() {
        return Ok(());
    }
    let mut places = order.iter();
    for item in change.iter().filter(|item| item.get(DIRECTIVE).is_none()) {
        let id = identity(item, key)?;
        if !places.any(|place| identity(place, key).is_ok_and(|p| p == id)) {
            return Err(PatchError::Malformed(format!(
                "The order in patch list:\n{}\n doesn't match {SET_ORDER} list:\n{}\n",
                plus_v(&Value::from(change.to_vec())),
                plus_v(&Value::from(order.to_vec()))
            )));
        }
    }
    Ok(())
}

/// What tells an item apart: the value of its merge key, or the item itself in lists without a key.
fn identity<'v>(item: &'v Value, key: &str) -> Result<&'v Value, PatchError> {
    if key.is_empty() {
        return Ok(item);
    }
    item.get(key).ok_or_else(|| PatchError::NoMergeKey { item: plus_v(item), key: key.to_owned() })
}

fn position(list: &[Value], item: &Value, key: &str) -> Result<Option<usize>, PatchError> {
    let id = identity(item, key)?;
    Ok(list.iter().position(|other| identity(other, key).is_ok_and(|o| o == id)))
}

/// All items of the lists must be alike; says whether they are objects.
fn one_shape(lists: &[&[Value]]) -> Result<bool, PatchError> {
    let mut items = lists.iter().copied().flatten();
    let Some(first) = items.next() else {
        return Err(PatchError::Malformed("no elements in any of the given slices".to_owned()));
    };
    if first.is_array() {
        return Err(PatchError::ListOfLists);
    }
    if items.any(|item| go_type_of(item) != go_type_of(first)) {
        let lists: Vec<Value> = lists.iter().map(|list| Value::from(list.to_vec())).collect();
        let why = format!("list element types are not identical: {}", plus_v(&Value::from(lists)));
        return Err(PatchError::Malformed(why));
    }
    Ok(first.is_object())
}

fn merge_list(live: Vec<Value>, change: Vec<Value>, item: TypeRef<'_>, key: &str) -> Result<Vec<Value>, PatchError> {
    if live.is_empty() && change.is_empty() {
        return Ok(live);
    }
    if !one_shape(&[&live, &change])? {
        let mut merged = Vec::with_capacity(live.len() + change.len());
        for value in live.iter().chain(&change) {
            if !merged.contains(value) {
                merged.push(value.clone());
            }
        }
        return arrange(merged, &change, &live, "");
    }
    if key.is_empty() {
        let why = format!("cannot merge lists without merge key for {}", item_kind(item));
        return Err(PatchError::Malformed(why));
    }
    let (mut merged, change) = apply_item_directives(live, change, key)?;
    let live = merged.clone();
    for value in &change {
        match position(&merged, value, key)? {
            Some(at) => {
                if let (Value::Object(from), Value::Object(change)) = (merged[at].take(), value) {
                    merged[at] = Value::Object(merge_map(from, change.clone(), item)?);
                }
            }
            None => merged.push(value.clone()),
        }
    }
    arrange(merged, &change, &live, key)
}

/// `$patch` on items: removes what shall be deleted; with a `replace` anywhere, the patch's plain items are the list.
fn apply_item_directives(
    mut live: Vec<Value>,
    change: Vec<Value>,
    key: &str,
) -> Result<(Vec<Value>, Vec<Value>), PatchError> {
    let (mut plain, mut replace) = (Vec::with_capacity(change.len()), false);
    for value in change {
        match value.get(DIRECTIVE).map(|d| d.as_str().unwrap_or_default()) {
            None => plain.push(value),
            Some("replace") => replace = true,
            Some("delete") => {
                let gone = identity(&value, key)?;
                live.retain(|item| item.get(key) != Some(gone));
            }
            Some("merge") => {
                return Err(PatchError::Malformed("merging lists cannot yet be specified in the patch".to_owned()));
            }
            Some(_) => {
                let empty = Members::new();
                return Err(unknown_directive(&value[DIRECTIVE], value.as_object().unwrap_or(&empty)));
            }
        }
    }
    Ok(if replace { (plain, Vec::new()) } else { (live, plain) })
}

/// Items that are in `order` come in that order; the others keep the order of `live` and are fitted in before the
/// first ordered item that stood after them.
fn arrange(merged: Vec<Value>, order: &[Value], live: &[Value], key: &str) -> Result<Vec<Value>, PatchError> {
    let (mut ordered, mut others) = (Vec::new(), Vec::new());
    for item in merged {
        let stood = position(live, &item, key)?;
        match position(order, &item, key)? {
            Some(place) => ordered.push((place, stood, item)),
            None => others.push((stood.unwrap_or(usize::MAX), stood, item)),
        }
    }
    ordered.sort_by_key(|(place, ..)| *place);
    others.sort_by_key(|(place, ..)| *place);
    let mut result = Vec::with_capacity(ordered.len() + others.len());
    let mut others = others.into_iter().peekable();
    for (_, stood, item) in ordered {
        while let Some((_, _, other)) =
            others.next_if(|(_, other, _)| matches!((other, stood), (Some(o), Some(s)) if *o < s))
        {
            result.push(other);
        }
        result.push(item);
    }
    result.extend(others.map(|(.., item)| item));
    Ok(result)
}

fn discard_nulls(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, member| !member.is_null());
            members.values_mut().for_each(discard_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(discard_nulls),
        _ => {}
    }
}

/// The value without any part that carries a directive; `None` when it carries one itself.
fn without_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(members) if members.contains_key(DIRECTIVE) => None,
        Value::Object(members) => Some(Value::Object(
            members.into_iter().filter_map(|(key, member)| Some((key, without_directives(member)?))).collect(),
        )),
        Value::Array(items) => Some(Value::Array(items.into_iter().filter_map(without_directives).collect())),
        other => Some(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{Field, ListType, Scalar, Schema, StructType, Type, TypeId};
    use serde_json::json;

    fn field(name: &str, ty: TypeId, patch: PatchFacts) -> Field {
        Field { name: name.to_owned(), ty, patch, ..Field::default() }
    }

    /// `{items: [{name, value, tags: [string] merging}] merging by name, plain: [string], tags, union}`.
    fn schema() -> (Schema, TypeId) {
        let merge = |key: &str| PatchFacts { merge: true, merge_key: key.to_owned(), ..PatchFacts::default() };
        let mut schema = Schema::default();
        let text = schema.add(Type::Scalar(Scalar::String));
        let texts = schema.add(Type::List { item: text, list: ListType::Set });
        let item_fields = vec![
            field("name", text, PatchFacts::default()),
            field("tags", texts, merge("")),
            field("value", text, PatchFacts::default()),
        ];
        let item = schema.add(Type::Struct(Box::new(StructType { fields: item_fields, ..StructType::default() })));
        let items = schema.add(Type::List { item, list: ListType::Map(vec!["name".to_owned()]) });
        let union = PatchFacts { retain_keys: true, ..PatchFacts::default() };
        let replaced = PatchFacts { replace: true, ..PatchFacts::default() };
        let fields = vec![
            field("items", items, merge("name")),
            field("plain", texts, PatchFacts::default()),
            field("replaced", item, replaced),
            field("tags", texts, merge("")),
            field("union", item, union),
        ];
        let root = schema.add(Type::Struct(Box::new(StructType { fields, ..StructType::default() })));
        (schema, root)
    }

    fn patched(original: Value, patch: Value) -> Result<Value, PatchError> {
        let (schema, root) = schema();
        strategic_merge(&original, &patch, schema.at(root))
    }

    #[test]
    fn merging() {
        for (original, patch, expected) in [
            (json!({"a": 1}), json!({"a": null, "b": {"c": null, "d": 1}}), json!({"b": {"d": 1}})),
            (json!({"plain": ["a"]}), json!({"plain": ["b"]}), json!({"plain": ["b"]})),
            (json!({"tags": ["a", "b"]}), json!({"tags": ["c", "b"]}), json!({"tags": ["c", "a", "b"]})),
            (
                json!({"items": [{"name": "a", "value": "1"}, {"name": "b", "value": "2"}]}),
                json!({"items": [{"name": "b", "value": "3"}, {"name": "c"}]}),
                json!({"items": [{"name": "a", "value": "1"}, {"name": "b", "value": "3"}, {"name": "c"}]}),
            ),
            (
                json!({"items": [{"name": "a", "value": "1"}, {"name": "b"}]}),
                json!({"items": [{"name": "a", "$patch": "delete"}]}),
                json!({"items": [{"name": "b"}]}),
            ),
            (
                json!({"items": [{"name": "a"}, {"name": "b"}]}),
                json!({"items": [{"name": "c"}, {"$patch": "replace"}]}),
                json!({"items": [{"name": "c"}]}),
            ),
            (
                json!({"union": {"name": "a", "value": "1"}}),
                json!({"union": {"$patch": "replace", "name": "b"}}),
                json!({"union": {"name": "b"}}),
            ),
            (json!({"union": {"name": "a"}}), json!({"union": {"$patch": "delete"}}), json!({"union": {}})),
            (
                json!({"replaced": {"name": "a"}}),
                json!({"replaced": {"value": "1"}}),
                json!({"replaced": {"value": "1"}}),
            ),
            (
                json!({"union": {"name": "a", "value": "1"}}),
                json!({"union": {"$retainKeys": ["name"], "name": "b"}}),
                json!({"union": {"name": "b"}}),
            ),
            (json!({"tags": ["a", "b"]}), json!({"$deleteFromPrimitiveList/tags": ["a"]}), json!({"tags": ["b"]})),
            (
                json!({"tags": ["a", "b"]}),
                json!({"$setElementOrder/tags": ["b", "c"], "$deleteFromPrimitiveList/tags": ["a"], "tags": ["c"]}),
                json!({"tags": ["b", "c"]}),
            ),
            (
                json!({"items": [{"name": "a"}, {"name": "s"}, {"name": "b"}]}),
                json!({"$setElementOrder/items": [{"name": "b"}, {"name": "a"}], "items": [{"name": "a", "value": "1"}]}),
                json!({"items": [{"name": "s"}, {"name": "b"}, {"name": "a", "value": "1"}]}),
            ),
            (
                json!({}),
                json!({"$setElementOrder/items": [{"name": "a"}], "items": [{"name": "a"}, {"name": "x", "$patch": "delete"}]}),
                json!({"items": [{"name": "a"}]}),
            ),
            (
                json!({"items": [{"name": "a", "tags": ["x"]}]}),
                json!({"items": [{"name": "a", "tags": ["y"]}]}),
                json!({"items": [{"name": "a", "tags": ["y", "x"]}]}),
            ),
        ] {
            let result = patched(original.clone(), patch.clone()).unwrap_or_else(|e| panic!("{patch}: {e}"));
            assert_eq!(result, expected, "{original} {patch}");
        }
    }

    #[test]
    fn refusals() {
        for (original, patch, code) in [
            (json!({}), json!([]), 400),
            (json!({}), json!({"$patch": "merge"}), 500),
            (json!({"items": [{"name": "a"}]}), json!({"items": [{"value": "1"}]}), 500),
            (json!({}), json!({"$setElementOrder": []}), 400),
            (json!({}), json!({"$deleteFromPrimitiveList": ["a"]}), 400),
            (json!({"union": {}}), json!({"union": {"$retainKeys": ["name"], "value": "1"}}), 400),
            (json!({"tags": ["a"]}), json!({"tags": [["b"]]}), 500),
            (json!({"tags": [["a"]]}), json!({"tags": [["b"]]}), 422),
            (json!({}), json!({"$setElementOrder/tags": ["b"], "tags": ["a"]}), 500),
            (json!({}), json!({"$setElementOrder/nowhere": ["b"]}), 500),
            (json!({}), json!({"$setElementOrder/union": ["b"]}), 500),
            (json!({"tags": ["a"]}), json!({"tags": [1]}), 500),
            (json!({"plain": [{}]}), json!({"$deleteFromPrimitiveList/plain": [{}]}), 500),
            (json!({"plain": [{"a": 1}]}), json!({"$setElementOrder/plain": [], "plain": []}), 500),
        ] {
            let error = patched(original, patch.clone()).expect_err(&patch.to_string());
            assert_eq!(error.to_status().code, code, "{patch}: {error}");
        }
    }
}
