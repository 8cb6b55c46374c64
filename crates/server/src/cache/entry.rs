//! One object in the cache, with what selectors ask of it.

use std::sync::{Arc, OnceLock};

use skiff_meta::Object;

use super::sorted::Keyed;

/// Reads the selectable fields of a kind's objects (beside `metadata.name` and `metadata.namespace`).
pub(crate) type FieldReader = Arc<dyn Fn(&Object) -> Fields + Send + Sync>;

/// Names and values of selectable fields.
pub(crate) type Fields = Box<[(String, String)]>;

/// One object in the cache.
#[derive(Debug)]
pub(crate) struct Entry {
    key: Box<str>,
    object: Arc<Object>,
    fields: OnceLock<Fields>,
}

impl Keyed for Entry {
    fn key(&self) -> &str {
        &self.key
    }
}

impl Entry {
    /// `key` is `NAMESPACE/NAME` or `NAME`, the tail of the store's key.
    pub(crate) fn new(key: &str, object: Object) -> Self {
        Self::of(key, Arc::new(object))
    }

    /// The same for an object that is shared already.
    pub(crate) fn of(key: &str, object: Arc<Object>) -> Self {
        Self { key: key.into(), object, fields: OnceLock::new() }
    }

    /// The object.
    pub(crate) fn object(&self) -> &Arc<Object> {
        &self.object
    }

    /// The value of a selectable field; unset ones are empty.
    pub(crate) fn field(&self, name: &str, reader: &FieldReader) -> &str {
        match name {
            "metadata.name" => &self.object.meta().name,
            "metadata.namespace" => &self.object.meta().namespace,
            _ => {
                let fields = self.fields.get_or_init(|| reader(&self.object));
                fields.iter().find(|(n, _)| n == name).map_or("", |(_, v)| v)
            }
        }
    }
}
