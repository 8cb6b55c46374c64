//! Building a tree from any format while noting members that come twice.

use std::fmt::{self, Write};

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::map::Entry;
use serde_json::{Map, Number, Value};
use serde_saphyr::Spanned;

/// Most duplicates that are told; a body with more is refused all the same.
const MAX_TOLD: usize = 100;

/// Where the builder is, and what it noted.
#[derive(Default)]
pub(super) struct Builder {
    path: String,
    /// Tell lines instead of paths, as readers of YAML do.
    by_line: bool,
    pub(super) duplicates: Vec<String>,
    /// Members to look out for.
    pub(super) wanted: Vec<String>,
    /// Places in `wanted`, in the order in which the members come.
    pub(super) met: Vec<usize>,
}

impl Builder {
    /// One that tells lines.
    pub(super) fn by_line() -> Self {
        Self { by_line: true, ..Self::default() }
    }

    /// One that notes when these members come.
    pub(super) fn on_the_watch(wanted: Vec<String>) -> Self {
        Self { wanted, ..Self::default() }
    }

    fn note(&mut self, key: &str, line: u64) {
        let dot = if self.path.is_empty() { "" } else { "." };
        let message = match self.by_line {
            true => format!("line {line}: key {key:?} already set in map"),
            false => format!("duplicate field {:?}", format!("{}{dot}{key}", self.path)),
        };
        if self.duplicates.len() < MAX_TOLD && !self.duplicates.contains(&message) {
            self.duplicates.push(message);
        }
    }
}

impl<'de> DeserializeSeed<'de> for &mut Builder {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for &mut Builder {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("number is not finite"))
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }
    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        let parent = self.path.len();
        loop {
            // Writing to a string cannot fail.
            let _ = write!(self.path, "[{}]", items.len());
            let item = access.next_element_seed(&mut *self)?;
            self.path.truncate(parent);
            match item {
                Some(item) => items.push(item),
                None => return Ok(Value::Array(items)),
            }
        }
    }
    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        let parent = self.path.len();
        loop {
            let next = match self.by_line {
                true => access.next_key::<Spanned<Key>>()?.map(|key| (key.value.0, key.referenced.line())),
                false => access.next_key::<Key>()?.map(|key| (key.0, 0)),
            };
            let Some((key, line)) = next else { return Ok(Value::Object(members)) };
            // Looked for once: the place is kept while the member is read.
            let place = members.entry(key);
            if matches!(place, Entry::Occupied(_)) {
                self.note(place.key(), line);
            }
            if parent > 0 {
                self.path.push('.');
            }
            self.path.push_str(place.key());
            self.met.extend(self.wanted.iter().position(|wanted| *wanted == self.path));
            let member = access.next_value_seed(&mut *self)?;
            self.path.truncate(parent);
            match place {
                Entry::Occupied(mut place) => drop(place.insert(member)),
                Entry::Vacant(place) => drop(place.insert(member)),
            }
        }
    }
}

/// A key; YAML's numbers and booleans become text.
struct Key(String);

impl<'de> serde::Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl Visitor<'_> for KeyVisitor {
            type Value = Key;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }
            fn visit_str<E>(self, value: &str) -> Result<Key, E> {
                Ok(Key(value.to_owned()))
            }
            fn visit_string<E>(self, value: String) -> Result<Key, E> {
                Ok(Key(value))
            }
            fn visit_bool<E>(self, value: bool) -> Result<Key, E> {
                Ok(Key(value.to_string()))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Key, E> {
                Ok(Key(value.to_string()))
            }
            fn visit_u64<E>(self, value: u64) -> Result<Key, E> {
                Ok(Key(value.to_string()))
            }
            fn visit_f64<E>(self, value: f64) -> Result<Key, E> {
                Ok(Key(value.to_string()))
            }
        }
        deserializer.deserialize_any(KeyVisitor)
    }
}
