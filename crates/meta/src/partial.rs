//! Objects of which only some members are read and changed: the others stay text, which costs a fraction of a tree.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// What is read: of these members of the object these members, or all of them where none is named.
pub type Wanted = [(&'static str, &'static [&'static str])];

type Texts<'a> = BTreeMap<String, &'a RawValue>;

/// What of an object was not read.
pub struct Partial<'a> {
    members: Texts<'a>,
    below: BTreeMap<&'static str, Texts<'a>>,
}

/// A piece of the object to be written.
enum Piece<'a> {
    Text(&'a RawValue),
    Tree(&'a Value),
    Members(BTreeMap<&'a str, Piece<'a>>),
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
            let Some(text) = members.remove(*name) else { continue };
            if wanted.is_empty() {
                tree.insert((*name).to_owned(), serde_json::from_str(text.get())?);
                continue;
            }
            let mut texts: Texts<'a> = serde_json::from_str(text.get())?;
            let mut read = Map::new();
            for member in *wanted {
                if let Some(text) = texts.remove(*member) {
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
        let mut pieces = texts(&self.members);
        for (name, member) in tree.as_object().into_iter().flatten() {
            let piece = match (self.below.get(name.as_str()), member) {
                (Some(rest), Value::Object(members)) => {
                    let mut all = texts(rest);
                    all.extend(members.iter().map(|(name, member)| (name.as_str(), Piece::Tree(member))));
                    Piece::Members(all)
                }
                _ => Piece::Tree(member),
            };
            pieces.insert(name, piece);
        }
        crate::scratch::json(&pieces)
    }
}

fn texts<'a>(texts: &'a Texts<'_>) -> BTreeMap<&'a str, Piece<'a>> {
    texts.iter().map(|(name, text)| (name.as_str(), Piece::Text(text))).collect()
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
    fn what_is_no_object_is_refused() {
        for json in ["[]", "{\"spec\": 1}", "{"] {
            assert!(Partial::read(json.as_bytes(), WANTED).is_err(), "{json}");
        }
    }
}
