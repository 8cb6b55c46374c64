//! Reading and writing trees with few words. What is absent reads as null, empty or nothing.

use serde_json::{Map, Value};

/// Reading.
pub(crate) trait View {
    /// The member `name`, or null.
    fn get_or_null(&self, name: &str) -> &Value;
    /// The member at a dotted path, or null.
    fn at(&self, path: &str) -> &Value;
    /// Text of the member `name`, or nothing.
    fn text(&self, name: &str) -> &str;
    /// The whole number at member `name`.
    fn int(&self, name: &str) -> Option<i64>;
    /// Whether member `name` is `true`.
    fn flag(&self, name: &str) -> bool;
    /// Whether member `name` is there and not null.
    fn has(&self, name: &str) -> bool;
    /// Items of the list at member `name`.
    fn items(&self, name: &str) -> &[Value];
    /// Members of the object at member `name`, sorted.
    fn entries(&self, name: &str) -> impl Iterator<Item = (&str, &Value)>;
    /// Text items of the list at member `name`.
    fn texts(&self, name: &str) -> impl Iterator<Item = &str>;
    /// How many items or members there are at member `name`.
    fn count(&self, name: &str) -> usize;
    /// The item of the list at member `name` whose member `key` is `value`.
    fn find(&self, name: &str, key: &str, value: &str) -> Option<&Value>;
}

static NULL: Value = Value::Null;

impl View for Value {
    fn get_or_null(&self, name: &str) -> &Value {
        self.get(name).unwrap_or(&NULL)
    }
    fn at(&self, path: &str) -> &Value {
        path.split('.').fold(self, |here, name| here.get_or_null(name))
    }
    fn text(&self, name: &str) -> &str {
        self.get_or_null(name).as_str().unwrap_or_default()
    }
    fn int(&self, name: &str) -> Option<i64> {
        self.get_or_null(name).as_i64()
    }
    fn flag(&self, name: &str) -> bool {
        self.get_or_null(name) == &Value::Bool(true)
    }
    fn has(&self, name: &str) -> bool {
        !self.get_or_null(name).is_null()
    }
    fn items(&self, name: &str) -> &[Value] {
        self.get_or_null(name).as_array().map_or(&[], Vec::as_slice)
    }
    fn entries(&self, name: &str) -> impl Iterator<Item = (&str, &Value)> {
        self.get_or_null(name).as_object().into_iter().flatten().map(|(key, value)| (key.as_str(), value))
    }
    fn texts(&self, name: &str) -> impl Iterator<Item = &str> {
        self.items(name).iter().filter_map(Value::as_str)
    }
    fn count(&self, name: &str) -> usize {
        match self.get_or_null(name) {
            Value::Array(items) => items.len(),
            Value::Object(members) => members.len(),
            _ => 0,
        }
    }
    fn find(&self, name: &str, key: &str, value: &str) -> Option<&Value> {
        self.items(name).iter().find(|item| item.text(key) == value)
    }
}

/// Writing.
pub(crate) trait Change {
    /// Sets the member `name` where it is absent or null.
    fn default_to(&mut self, name: &str, value: impl Into<Value>);
    /// Sets the member `name` where it is absent, null or empty text.
    fn default_text(&mut self, name: &str, value: &str);
    /// Sets the member `name`; null removes it.
    fn put(&mut self, name: &str, value: Value);
    /// Removes the member `name`.
    fn drop_member(&mut self, name: &str);
    /// The member `name`, made an empty object where it is absent or null.
    fn child(&mut self, name: &str) -> &mut Value;
    /// The member `name`, where it is there and not null.
    fn existing(&mut self, name: &str) -> Option<&mut Value>;
    /// Items of the list at member `name`.
    fn items_mut(&mut self, name: &str) -> &mut [Value];
}

impl Change for Value {
    fn default_to(&mut self, name: &str, value: impl Into<Value>) {
        if !self.has(name) {
            self.put(name, value.into());
        }
    }
    fn default_text(&mut self, name: &str, value: &str) {
        if self.text(name).is_empty() {
            self.put(name, value.into());
        }
    }
    fn put(&mut self, name: &str, value: Value) {
        if let Value::Object(members) = self {
            if value.is_null() {
                members.remove(name);
            } else {
                members.insert(name.to_owned(), value);
            }
        }
    }
    fn drop_member(&mut self, name: &str) {
        self.put(name, Value::Null);
    }
    fn child(&mut self, name: &str) -> &mut Value {
        if !self.is_object() {
            *self = Value::Object(Map::new());
        }
        let child = &mut self[name];
        if child.is_null() {
            *child = Value::Object(Map::new());
        }
        child
    }
    fn existing(&mut self, name: &str) -> Option<&mut Value> {
        self.get_mut(name).filter(|member| !member.is_null())
    }
    fn items_mut(&mut self, name: &str) -> &mut [Value] {
        self.get_mut(name).and_then(Value::as_array_mut).map_or(&mut [], Vec::as_mut_slice)
    }
}
