//! The fields of an object that somebody makes. They are all its maker's, and most writes of a cluster that grows are of
//! this kind, so they are told in one walk: without a comparison with what is not there, and without sets.

use serde_json::{Map, Value};

use super::NEVER_OWNED;
use super::set::{FieldSet, PathElement};
use super::walk::{Shape, blank_of, item_identity, items, member_type, members, shape};
use crate::schema::TypeRef;

/// What lies below one step, as `fieldsV1`, and whether the step itself is a field.
#[derive(Default)]
struct Found {
    member: bool,
    below: Map<String, Value>,
}

impl Found {
    fn leaf(member: bool) -> Self {
        Self { member, below: Map::new() }
    }

    /// Goes below `step`, unless nothing was found.
    fn put(mut self, step: String, fields: &mut Map<String, Value>) {
        if !self.member && self.below.is_empty() {
            return;
        }
        if self.member && !self.below.is_empty() {
            self.below.insert(".".to_owned(), Value::Object(Map::new()));
        }
        fields.insert(step, Value::Object(self.below));
    }
}

/// What of the fields at one place does not count.
#[derive(Clone, Copy, Default)]
struct Except<'a> {
    /// Fields that nobody owns; what lies below them may be owned.
    never: Option<&'a FieldSet>,
    /// Fields that are reset, and all that lies below them.
    reset: Option<&'a FieldSet>,
}

impl<'a> Except<'a> {
    fn below(self, name: &str) -> Self {
        let below = |set: Option<&'a FieldSet>| set.and_then(|set| set.member(name)).map(|(_, below)| below);
        Self { never: below(self.never), reset: below(self.reset) }
    }

    fn has(set: Option<&FieldSet>, name: &str) -> bool {
        set.and_then(|set| set.member(name)).is_some_and(|(member, _)| member)
    }
}

/// `fieldsV1` of the maker of `object`, which has no managed fields yet; `None` where that takes a comparison: lists with
/// items that cannot be told apart, and lists that are there in an object that nobody has filled in.
pub(super) fn fields(object: &Value, ty: TypeRef<'_>, reset: &FieldSet) -> Option<Map<String, Value>> {
    let except = Except { never: Some(&NEVER_OWNED), reset: Some(reset) };
    Some(find(Some(&blank_of(ty)), object, ty, except)?.below)
}

fn find(old: Option<&Value>, new: &Value, ty: TypeRef<'_>, except: Except<'_>) -> Option<Found> {
    match (shape(ty, old), shape(ty, Some(new))) {
        (Shape::Members, _) | (_, Shape::Members) => {
            let (left, right) = (members(old), members(Some(new)));
            if left.is_none() && right.is_none() {
                return Some(Found::leaf(old != Some(new)));
            }
            let mut found = Found::default();
            for (name, member) in right.into_iter().flatten() {
                if Except::has(except.reset, name) {
                    continue;
                }
                let left = left.and_then(|members| members.get(name));
                let mut below = find(left, member, member_type(ty, name), except.below(name))?;
                below.member &= !Except::has(except.never, name);
                below.put(["f:", name].concat(), &mut found.below);
            }
            let other_kind = |value: &Value| !value.is_object() && !value.is_null();
            found.member = old.is_none_or(|old| other_kind(old) || other_kind(new));
            Some(found)
        }
        (Shape::Items(list), _) => {
            if !items(old).is_empty() {
                return None;
            }
            if items(Some(new)).is_empty() {
                return Some(Found::leaf(old != Some(new)));
            }
            let steps = items(Some(new)).iter().map(|item| Some((item_identity(list, ty.item(), item).ok()?, item)));
            let mut steps: Vec<(PathElement, &Value)> = steps.collect::<Option<_>>()?;
            steps.sort_by(|(a, _), (b, _)| a.cmp(b));
            let mut found = Found::leaf(old.is_none());
            for same in steps.chunk_by(|(a, _), (b, _)| a.cmp(b).is_eq()) {
                let below = match same {
                    [(_, one)] => find(None, one, ty.item(), Except::default())?,
                    // Together they are one field.
                    _ => Found::leaf(true),
                };
                below.put(same[0].0.to_key(), &mut found.below);
            }
            Some(found)
        }
        (Shape::Leaf, _) => Some(Found::leaf(old != Some(new))),
    }
}
