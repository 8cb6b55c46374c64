//! One object in the cache, with what selectors ask of it.

use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
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
    /// The object in other versions, where a webhook had to be asked.
    forms: OnceLock<Box<Forms>>,
}

/// By `apiVersion`.
type Forms = Mutex<Vec<(Box<str>, Arc<Entry>)>>;

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
        Self { key: key.into(), object, fields: OnceLock::new(), forms: OnceLock::new() }
    }

    /// The object.
    pub(crate) fn object(&self) -> &Arc<Object> {
        &self.object
    }

    /// The entry in another version, or itself when that is its own; `None` when it was not asked for yet.
    pub(crate) fn form(self: &Arc<Self>, api_version: &str) -> Option<Arc<Self>> {
        if self.object.api_version() == api_version {
            return Some(self.clone());
        }
        let forms = self.forms.get()?.lock();
        forms.iter().find(|(version, _)| **version == *api_version).map(|(_, form)| form.clone())
    }

    /// Keeps the entry in another version as long as this one.
    pub(crate) fn keep_form(&self, api_version: &str, form: &Arc<Self>) {
        let mut forms = self.forms.get_or_init(Box::default).lock();
        if !forms.iter().any(|(version, _)| **version == *api_version) {
            forms.push((api_version.into(), form.clone()));
        }
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
