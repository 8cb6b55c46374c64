//! Objects of which only some members are read and changed: the others stay text, which costs a fraction of a tree.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// What is read: of these members of the object these members, or all of them where none is named.
pub type Wanted = [(&'static str, &'static [&'static str])];

/// A member's name, which seldom has to be copied.
struct Name<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Name<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }
            fn visit_borrowed_str<E: Error>(self, name: &'de str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Borrowed(name)))
            }
            fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Owned(name.to_owned())))
            }
        }
        from.deserialize_str(Reader)
    }
}

/// Members of an object as text, in their order.
struct Texts<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Texts<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Texts<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
                let mut texts = Vec::with_capacity(16);
                while let Some((name, text)) = members.next_entry::<Name<'de>, _>()? {
                    texts.push((name.0, text));
                }
                Ok(Texts(texts))
            }
        }
        from.deserialize_map(Reader)
    }
}

impl<'a> Texts<'a> {
    fn take(&mut self, name: &str) -> Option<&'a RawValue> {
        let place = self.0.iter().position(|(known, _)| known == name)?;
        Some(self.0.remove(place).1)
    }

    fn pieces(&self) -> Pieces<'_> {
        Pieces(self.0.iter().map(|(name, text)| (&**name, Piece::Text(text))).collect())
    }
}

/// What of an object was not read.
pub struct Partial<'a> {
    members: Texts<'a>,
    below: BTreeMap<&'static str, Texts<'a>>,
}

/// A piece of the object to be written.
enum Piece<'a> {
    Text(&'a RawValue),
    Tree(&'a Value),
    Members(Pieces<'a>),
}

/// The members of an object to be written.
struct Pieces<'a>(Vec<(&'a str, Piece<'a>)>);

impl<'a> Pieces<'a> {
    /// In the order of their names; what is there already is replaced.
    fn with(mut self, more: impl Iterator<Item = (&'a str, Piece<'a>)>) -> Self {
        self.0.extend(more);
        self.0.sort_by(|a, b| a.0.cmp(b.0));
        self.0.dedup_by(|later, earlier| {
            let same = later.0 == earlier.0;
            if same {
                std::mem::swap(later, earlier);
            }
            same
        });
        self
    }
}

impl Serialize for Pieces<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.0.iter().map(|(name, piece)| (name, piece)))
    }
}

impl Serialize for Piece<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => text.serialize(to),
            Self::Tree(tree) => tree.serialize(to),
            Self::Members(members) => members.serialize(to),
        }
    }
}

impl<'a> Partial<'a> {
    /// Reads `wanted` of a JSON object into a tree.
    ///
    /// # Errors
    /// What is no JSON object, or has something else where members are wanted.
    pub fn read(json: &'a [u8], wanted: &Wanted) -> Result<(Value, Self), serde_json::Error> {
        let mut members: Texts<'a> = serde_json::from_slice(json)?;
        let (mut tree, mut below) = (Map::new(), BTreeMap::new());
        for (name, wanted) in wanted {
            let Some(text) = members.take(name) else { continue };
            if wanted.is_empty() {
                tree.insert((*name).to_owned(), serde_json::from_str(text.get())?);
                continue;
            }
            let mut texts: Texts<'a> = serde_json::from_str(text.get())?;
            let mut read = Map::new();
            for member in *wanted {
                if let Some(text) = texts.take(member) {
                    read.insert((*member).to_owned(), serde_json::from_str(text.get())?);
                }
            }
            tree.insert((*name).to_owned(), Value::Object(read));
            below.insert(*name, texts);
        }
        Ok((Value::Object(tree), Self { members, below }))
    }

    /// The whole object with what has become of the tree, in canonical form if it was read from that.
    ///
    /// # Errors
    /// None, with a tree that [`Partial::read`] gave and others have changed since.
    pub fn write(&self, tree: &Value) -> Result<Bytes, serde_json::Error> {
        let changed = tree.as_object().into_iter().flatten().map(|(name, member)| {
            let piece = match (self.below.get(name.as_str()), member) {
                (Some(rest), Value::Object(members)) => {
                    let members = members.iter().map(|(name, member)| (name.as_str(), Piece::Tree(member)));
                    Piece::Members(rest.pieces().with(members))
                }
                _ => Piece::Tree(member),
            };
            (name.as_str(), piece)
        });
        crate::scratch::json(&self.members.pieces().with(changed))
    }
}

/// Reads `wanted` of a JSON object, and nothing else, into a tree; null where members are wanted stays null.
///
/// # Errors
/// As [`Partial::read`].
pub fn pick(json: &[u8], wanted: &Wanted) -> Result<Value, serde_json::Error> {
    Pick::Object(wanted).deserialize(&mut serde_json::Deserializer::from_slice(json))
}

/// What is wanted of a value.
enum Pick<'w> {
    Object(&'w Wanted),
    Members(&'static [&'static str]),
    All,
}

impl<'w> Pick<'w> {
    fn below(&self, name: &str) -> Option<Pick<'w>> {
        match self {
            Self::Object(wanted) => match wanted.iter().find(|(known, _)| *known == name)?.1 {
                [] => Some(Pick::All),
                members => Some(Pick::Members(members)),
            },
            Self::Members(wanted) => wanted.contains(&name).then_some(Pick::All),
            Self::All => None,
        }
    }
}

impl<'de> DeserializeSeed<'de> for Pick<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        if let Self::All = self { Value::deserialize(from) } else { from.deserialize_any(self) }
    }
}

impl<'de> Visitor<'de> for Pick<'_> {
    type Value = Value;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }
    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut tree = Map::new();
        while let Some(Name(name)) = members.next_key()? {
            match self.below(&name) {
                Some(wanted) => drop(tree.insert(name.into_owned(), members.next_value_seed(wanted)?)),
                None => drop(members.next_value::<IgnoredAny>()?),
            }
        }
        Ok(Value::Object(tree))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::object::canonical_bytes;

    const WANTED: &Wanted =
        &[("metadata", &["labels"]), ("spec", &["nodeName", "gone"]), ("status", &[]), ("none", &["a"])];

    #[test]
    fn what_is_not_read_stays_as_it_is() {
        let object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"labels": {"a": "b"}, "name": "p\"\u{1}", "annotations": {"z\n": "é"}},
            "spec": {"containers": [{"image": "i", "n": 1.50}], "gone": 1},
            "status": {"phase": "Pending"},
        });
        let json = canonical_bytes(&object).unwrap();
        let (mut tree, rest) = Partial::read(&json, WANTED).unwrap();
        let read = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"gone": 1}, "status": {"phase": "Pending"}});
        assert_eq!(tree, read);
        assert_eq!(rest.write(&tree).unwrap(), json, "nothing was changed");

        let mut expected = object;
        for object in [&mut tree, &mut expected] {
            object["metadata"]["labels"]["c"] = json!("d");
            object["spec"]["nodeName"] = json!("n");
            object["spec"].as_object_mut().unwrap().remove("gone");
            object["status"] = json!({"phase": "Running"});
            object["none"] = json!({"a": null});
        }
        assert_eq!(rest.write(&tree).unwrap(), canonical_bytes(&expected).unwrap());
    }

    #[test]
    fn what_is_picked_is_what_is_read() {
        let object = json!({
            "kind": "Pod", "metadata": {"labels": {"a": ["b", {"c": null}]}, "name": "p"},
            "sp\"ec": 1, "spec": {"containers": [{"image": "i"}], "gone": 1.5}, "status": {"phase": "Pending"},
        });
        let json = canonical_bytes(&object).unwrap();
        let picked = pick(&json, WANTED).unwrap();
        assert_eq!(picked, Partial::read(&json, WANTED).unwrap().0);
        assert_eq!(picked["spec"], json!({"gone": 1.5}));
        let nothing = json!({"spec": null, "status": null});
        assert_eq!(pick(b"{\"spec\": null, \"status\": null}", WANTED).unwrap(), nothing);
    }

    #[test]
    fn names_are_sorted_wherever_they_come_from() {
        let json = br#"{"spec":{"b":1,"\u0064":2},"a":3}"#;
        let (mut tree, rest) = Partial::read(json, WANTED).unwrap();
        tree["spec"]["c"] = json!(4);
        assert_eq!(rest.write(&tree).unwrap(), &br#"{"a":3,"spec":{"b":1,"c":4,"d":2}}"#[..]);
        // Also what was not asked for can be changed.
        (tree["spec"]["d"], tree["a"]) = (json!(5), json!(6));
        assert_eq!(rest.write(&tree).unwrap(), &br#"{"a":6,"spec":{"b":1,"c":4,"d":5}}"#[..]);
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for json in ["[]", "{\"spec\": 1}", "{"] {
            assert!(Partial::read(json.as_bytes(), WANTED).is_err(), "{json}");
            assert!(pick(json.as_bytes(), WANTED).is_err(), "{json}");
        }
    }
}
