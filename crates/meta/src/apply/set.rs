//! Sets of fields, and their algebra: who owns what.
//!
//! A set is a tree of path elements; each node says whether it is itself a member, beside what lies below it. Owning a
//! field says nothing about its parents or children. On the wire it is `FieldsV1`
//! (<https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/object-meta/>).

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Map, Value};

/// A scalar with an order, to tell items of lists apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ItemValue(pub Value);

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PathElement {
    /// A member of an object.
    Field(String),
    /// The item of a list with these keys, sorted by name.
    Key(Vec<(String, ItemValue)>),
    /// The item of a set with this value.
    Value(ItemValue),
    /// An item of a list by its place.
    Index(i64),
}

/// A set of fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet {
    nodes: BTreeMap<PathElement, Node>,
}

/// What a set says about one step and what lies below.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Node {
    member: bool,
    below: FieldSet,
}

impl Node {
    /// Adds what lies at `path` below; the empty path: this itself.
    fn insert(&mut self, path: &[PathElement]) {
        match path {
            [] => self.member = true,
            below => self.below.insert(below),
        }
    }
}

/// `fieldsV1` that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot read field set at {0:?}")]
pub struct BadFieldSet(pub String);

impl ItemValue {
    fn rank(&self) -> u8 {
        match self.0 {
            Value::Number(_) => 0,
            Value::String(_) => 1,
            Value::Bool(_) => 2,
            Value::Array(_) => 3,
            Value::Object(_) => 4,
            Value::Null => 5,
        }
    }
}

impl Ord for ItemValue {
    fn cmp(&self, other: &Self) -> Ordering {
        match (&self.0, &other.0) {
            (Value::String(a), Value::String(b)) => a.cmp(b),
            (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
            (Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64()) {
                (Some(a), Some(b)) => a.cmp(&b),
                _ => a.as_f64().partial_cmp(&b.as_f64()).unwrap_or(Ordering::Equal),
            },
            (a, b) if self.rank() == other.rank() => a.to_string().cmp(&b.to_string()),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for ItemValue {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PathElement {
    /// A member of an object.
    pub fn field(name: &str) -> Self {
        Self::Field(name.to_owned())
    }

    pub(super) fn to_key(&self) -> String {
        match self {
            Self::Field(name) => ["f:", name].concat(),
            Self::Key(keys) => {
                let keys: BTreeMap<&String, &Value> = keys.iter().map(|(name, value)| (name, &value.0)).collect();
                ["k:", &serde_json::to_string(&keys).unwrap_or_default()].concat()
            }
            Self::Value(value) => format!("v:{}", value.0),
            Self::Index(index) => format!("i:{index}"),
        }
    }

    /// `None` for kinds of elements that a later version may know.
    fn from_key(text: &str) -> Result<Option<Self>, BadFieldSet> {
        let bad = || BadFieldSet(text.to_owned());
        let (kind, rest) = text.split_once(':').filter(|(kind, _)| kind.len() == 1).ok_or_else(bad)?;
        Ok(Some(match kind {
            "f" => Self::field(rest),
            "v" => Self::Value(ItemValue(serde_json::from_str(rest).map_err(|_| bad())?)),
            "k" => {
                let keys: BTreeMap<String, Value> = serde_json::from_str(rest).map_err(|_| bad())?;
                Self::Key(keys.into_iter().map(|(k, v)| (k, ItemValue(v))).collect())
            }
            "i" => Self::Index(rest.parse().map_err(|_| bad())?),
            _ => return Ok(None),
        }))
    }
}

impl fmt::Display for PathElement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => write!(f, ".{name}"),
            Self::Key(keys) => {
                let keys: Vec<String> = keys.iter().map(|(k, v)| format!("{k}={}", shown(&v.0))).collect();
                write!(f, "[{}]", keys.join(","))
            }
            Self::Value(value) => write!(f, "[={}]", shown(&value.0)),
            Self::Index(index) => write!(f, "[{index}]"),
        }
    }
}

/// A value in a path. Maps are none that should stand there.
fn shown(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(",")),
        Value::Object(members) => members.iter().map(|(name, value)| format!("{name}={}", shown(value))).collect(),
        scalar => scalar.to_string(),
    }
}

impl FieldSet {
    /// A set of plain paths, such as `["metadata", "name"]`.
    pub fn of_fields(paths: &[&[&str]]) -> Self {
        let mut set = Self::default();
        for path in paths {
            let path: Vec<_> = path.iter().map(|name| PathElement::field(name)).collect();
            set.insert(&path);
        }
        set
    }

    /// Adds one field; its parents are not added. The empty path is the whole object, which nobody owns.
    pub fn insert(&mut self, path: &[PathElement]) {
        let [first, below @ ..] = path else { return };
        match self.nodes.get_mut(first) {
            Some(node) => node.insert(below),
            None => {
                let mut node = Node::default();
                node.insert(below);
                self.nodes.insert(first.clone(), node);
            }
        }
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Whether the field at `path` is a member.
    pub fn contains(&self, path: &[PathElement]) -> bool {
        let Some((last, parents)) = path.split_last() else { return false };
        let parent = parents.iter().try_fold(self, |here, step| here.nodes.get(step).map(|n| &n.below));
        parent.is_some_and(|set| set.has(last))
    }

    /// Whether `step` itself is a member.
    pub fn has(&self, step: &PathElement) -> bool {
        self.nodes.get(step).is_some_and(|n| n.member)
    }

    /// Whether the member `name` of an object is in it, and what lies below. For sets that are looked at often and hold
    /// little: no step is made for it.
    pub(super) fn member(&self, name: &str) -> Option<(bool, &FieldSet)> {
        let is_it = |step: &PathElement| matches!(step, PathElement::Field(field) if field == name);
        self.nodes.iter().find(|(step, _)| is_it(step)).map(|(_, node)| (node.member, &node.below))
    }

    /// What lies below `step`, if anything does.
    pub fn below(&self, step: &PathElement) -> Option<&FieldSet> {
        self.nodes.get(step).map(|n| &n.below).filter(|below| !below.is_empty())
    }

    /// The steps that have something below them.
    pub fn parents(&self) -> impl Iterator<Item = (&PathElement, &FieldSet)> {
        self.nodes.iter().filter(|(_, n)| !n.below.is_empty()).map(|(step, n)| (step, &n.below))
    }

    /// Says whether `step` is a member and what lies below it; keeps the set free of empty nodes.
    pub fn set(&mut self, step: PathElement, member: bool, below: FieldSet) {
        if member || !below.is_empty() {
            self.nodes.insert(step, Node { member, below });
        } else {
            self.nodes.remove(&step);
        }
    }

    /// What is in either.
    #[must_use]
    pub fn union(mut self, other: &Self) -> Self {
        for (step, theirs) in &other.nodes {
            match self.nodes.get_mut(step) {
                Some(ours) => {
                    ours.member |= theirs.member;
                    ours.below = std::mem::take(&mut ours.below).union(&theirs.below);
                }
                None => {
                    self.nodes.insert(step.clone(), theirs.clone());
                }
            }
        }
        self
    }

    /// What is in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let mut both = Self::default();
        for (step, ours) in &self.nodes {
            if let Some(theirs) = other.nodes.get(step) {
                both.set(step.clone(), ours.member && theirs.member, ours.below.intersection(&theirs.below));
            }
        }
        both
    }

    /// What is here and not in `other`. Children stay where only their parent is in `other`.
    #[must_use]
    pub fn difference(mut self, other: &Self) -> Self {
        self.nodes.retain(|step, ours| {
            if let Some(theirs) = other.nodes.get(step) {
                ours.member &= !theirs.member;
                ours.below = std::mem::take(&mut ours.below).difference(&theirs.below);
            }
            ours.member || !ours.below.is_empty()
        });
        self
    }

    /// What is here and neither in `other` nor below something in `other`.
    #[must_use]
    pub fn without(mut self, other: &Self) -> Self {
        self.nodes.retain(|step, ours| {
            let Some(theirs) = other.nodes.get(step) else { return true };
            if theirs.member {
                return false;
            }
            ours.below = std::mem::take(&mut ours.below).without(&theirs.below);
            ours.member || !ours.below.is_empty()
        });
        self
    }

    /// All members' paths; at every level first the members, then what lies below.
    pub fn paths(&self) -> Vec<Vec<PathElement>> {
        let mut paths = Vec::new();
        self.collect_paths(&mut Vec::new(), &mut paths);
        paths
    }

    fn collect_paths(&self, prefix: &mut Vec<PathElement>, paths: &mut Vec<Vec<PathElement>>) {
        for (step, _) in self.nodes.iter().filter(|(_, n)| n.member) {
            paths.push(prefix.iter().chain([step]).cloned().collect());
        }
        for (step, below) in self.parents() {
            prefix.push(step.clone());
            below.collect_paths(prefix, paths);
            prefix.pop();
        }
    }

    /// As `fieldsV1`.
    pub fn to_json(&self) -> Value {
        let entry = |(step, node): (&PathElement, &Node)| {
            let mut below = node.below.to_json();
            if node.member && !node.below.is_empty() {
                below["."] = Value::Object(Map::new());
            }
            (step.to_key(), below)
        };
        Value::Object(self.nodes.iter().map(entry).collect())
    }

    /// From `fieldsV1`.
    ///
    /// # Errors
    /// When a key is none.
    pub fn from_json(fields: &Value) -> Result<Self, BadFieldSet> {
        let members = fields.as_object().ok_or_else(|| BadFieldSet(fields.to_string()))?;
        let mut set = Self::default();
        for (key, value) in members.iter().filter(|(key, _)| *key != ".") {
            let Some(step) = PathElement::from_key(key)? else { continue };
            let below = Self::from_json(value)?;
            let member = below.is_empty() || value.get(".").is_some();
            set.set(step, member, below);
        }
        Ok(set)
    }
}

/// The text of a path, as conflicts show it.
pub fn path_text(path: &[PathElement]) -> String {
    path.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set(value: Value) -> FieldSet {
        FieldSet::from_json(&value).unwrap()
    }

    #[test]
    fn round_trip() {
        let fields = json!({
            "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
            "f:spec": {"f:list": {"k:{\"a\":1,\"b\":\"x\"}": {".": {}, "f:v": {}}}, "f:set": {"v:\"one\"": {}, "v:2": {}},
                "f:at": {"i:3": {}}},
        });
        assert_eq!(set(fields.clone()).to_json(), fields);
        assert!(set(json!({"x:new": {}})).is_empty());
        for bad in [json!({"f": {}}), json!({"v:": {}}), json!({"i:x": {}}), json!([]), json!({"f:a": 1})] {
            assert!(FieldSet::from_json(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn algebra() {
        let a = set(json!({"f:a": {".": {}, "f:b": {}}, "f:c": {}}));
        let b = set(json!({"f:a": {}, "f:d": {"f:e": {}}}));
        assert_eq!(a.clone().union(&b), set(json!({"f:a": {".": {}, "f:b": {}}, "f:c": {}, "f:d": {"f:e": {}}})));
        assert_eq!(a.intersection(&b), set(json!({"f:a": {}})));
        assert_eq!(a.clone().difference(&b), set(json!({"f:a": {"f:b": {}}, "f:c": {}})));
        assert_eq!(a.clone().without(&b), set(json!({"f:c": {}})));
        assert!(a.clone().difference(&a).is_empty());
    }

    #[test]
    fn paths_read_well() {
        let fields =
            set(json!({"f:spec": {"f:c": {"k:{\"name\":\"x\",\"port\":1}": {"f:image": {}}}, "f:s": {"v:\"f\"": {}}}}));
        let texts: Vec<_> = fields.paths().iter().map(|p| path_text(p)).collect();
        assert_eq!(texts, [".spec.c[name=\"x\",port=1].image", ".spec.s[=\"f\"]"]);
    }
}
