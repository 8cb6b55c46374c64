//! Which objects a list, watch or deletecollection is about.

use std::sync::Arc;

use skiff_meta::selector::{FieldSelector, LabelSelector};
use skiff_meta::{Object, Status};

use crate::cache::{Entry, FieldReader, Lane, ResourceCache};
use crate::request::ListOptions;
use crate::resource::{Served, Version};

/// Which objects.
#[derive(Clone)]
pub(crate) struct Selection {
    namespace: String,
    namespaced: bool,
    labels: LabelSelector,
    fields: FieldSelector,
    reader: FieldReader,
    version: Arc<Version>,
    /// A webhook makes of what is stored what is selected from.
    by_webhook: bool,
}

impl Selection {
    /// What `options` select in a namespace, or (empty) in all.
    pub(crate) fn new(
        served: &Served,
        cache: &ResourceCache,
        namespace: &str,
        options: &ListOptions,
    ) -> Result<Self, Status> {
        check_fields(&options.fields, served)?;
        Ok(Self {
            namespace: namespace.to_owned(),
            namespaced: served.resource.namespaced,
            labels: options.labels.clone(),
            fields: options.fields.clone(),
            reader: cache.reader().clone(),
            version: served.version.clone(),
            by_webhook: served.resource.webhook.is_some(),
        })
    }

    /// Restricts the selection to one name, as the old watch paths do.
    pub(crate) fn only(mut self, name: &str) -> Self {
        let term = format!("metadata.name={}", skiff_meta::selector::escape_field_value(name));
        if let Ok(fields) = FieldSelector::parse(&term) {
            self.fields = fields;
        }
        self
    }

    /// The namespace, empty for all.
    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// What is asked of the labels that are stored, which are others than those that a webhook makes of them.
    pub(crate) fn of_stored_labels(&self) -> Option<&LabelSelector> {
        (!self.by_webhook).then_some(&self.labels)
    }

    /// Whether every object of the namespace is selected.
    pub(crate) fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything()
    }

    /// Whether the selection holds an object of the cache.
    pub(crate) fn matches(&self, entry: &Entry) -> bool {
        let meta = entry.object().meta();
        (self.namespace.is_empty() || meta.namespace == self.namespace)
            && self.labels.matches(&meta.labels)
            && self.fields_match(entry)
    }

    fn fields_match(&self, entry: &Entry) -> bool {
        if self.fields.is_everything() {
            return true;
        }
        let conversion = &self.version.conversion;
        if conversion.is_same() {
            return self.fields.matches_with(|name| entry.field(name, &self.reader));
        }
        self.fields.matches_with(|name| entry.field(&conversion.stored_field(name), &self.reader))
    }

    /// Whether the selection holds an object that is not in the cache.
    pub(crate) fn matches_object(&self, key: &str, object: &Arc<Object>) -> bool {
        self.is_everything() || self.matches(&Entry::of(key, object.clone()))
    }

    /// The one name that can be selected, where the fields say so.
    pub(crate) fn name(&self) -> Option<&str> {
        self.fields.exact("metadata.name")
    }

    /// The key of the one object that can be selected, where name and namespace are known.
    pub(crate) fn one_key(&self) -> Option<String> {
        let name = self.name()?;
        match (self.namespaced, self.namespace.as_str()) {
            (false, _) => Some(name.to_owned()),
            (true, "") => None,
            (true, namespace) => Some(format!("{namespace}/{name}")),
        }
    }

    /// The narrowest lane that shows all events of the selection.
    pub(crate) fn lane(&self, cache: &ResourceCache) -> Lane {
        if let Some(key) = self.one_key() {
            return Lane::One(key.into());
        }
        if let Some(value) = cache.trigger().and_then(|t| self.fields.exact(t)) {
            return Lane::Trigger(value.into());
        }
        if self.namespace.is_empty() { Lane::All } else { Lane::Namespace(self.namespace.as_str().into()) }
    }
}

/// Only some fields can be selected by.
fn check_fields(fields: &FieldSelector, served: &Served) -> Result<(), Status> {
    let selectable = &served.version.selectable;
    let known =
        |name: &str| matches!(name, "metadata.name" | "metadata.namespace") || selectable.iter().any(|s| s == name);
    match fields.terms().iter().find(|t| !known(&t.field)) {
        None => Ok(()),
        Some(term) if selectable.is_empty() => Err(Status::bad_request(format!(
            "{:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
            term.field
        ))),
        Some(term) => Err(Status::bad_request(format!("field label not supported: {}", term.field))),
    }
}
