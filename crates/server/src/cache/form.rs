//! What the store's values look like, and how they become objects.
//!
//! We write canonical JSON. On an etcd that other API servers use or used, values may also be upstream's: protobuf in an
//! envelope, JSON in another order, and objects of versions that are no longer the stored one. All of them are read;
//! written they are in our form, which upstream reads.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;
use skiff_meta::codec::protobuf::{self, ProtobufError};
use skiff_meta::object::{ObjectError, canonical_bytes};
use skiff_meta::{GroupVersionKind, Object, check};
use skiff_store::KeyValue;

use crate::resource::convert::Conversion;
use crate::resource::custom::Family;

/// Begins upstream's protobuf values.
const PROTOBUF: &[u8] = b"k8s\0";
/// Begins values that upstream has encrypted.
const ENCRYPTED: &[u8] = b"k8s:enc:";

/// The form in which a resource's objects are kept, and others in which they may be found.
pub(crate) struct Form {
    kept: GroupVersionKind,
    others: Vec<(String, Conversion)>,
    /// The versions of a custom kind, whose schemas may have changed since an object was written.
    family: Option<Arc<Family>>,
    /// How our own values begin: no member of an object sorts before `apiVersion`.
    opening: Vec<u8>,
}

/// A value that is no object of its resource.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error("it is encrypted, and there is no key for it")]
    Encrypted,
    #[error("it is of version {0:?}, which is not known")]
    Version(String),
    #[error("{0}")]
    Protobuf(String),
    #[error("{0}")]
    Object(String),
}

impl From<ProtobufError> for Unreadable {
    fn from(error: ProtobufError) -> Self {
        Self::Protobuf(error.to_string())
    }
}

impl From<ObjectError> for Unreadable {
    fn from(error: ObjectError) -> Self {
        Self::Object(error.to_string())
    }
}

impl Form {
    /// Objects are kept as `kept`; of the versions in `others`, each converts to it.
    pub(crate) fn new(kept: GroupVersionKind, others: impl IntoIterator<Item = (String, Conversion)>) -> Self {
        let opening = format!("{{\"apiVersion\":\"{}\",", kept.api_version()).into_bytes();
        Self { kept, others: others.into_iter().collect(), family: None, opening }
    }

    /// The same for a custom kind with these versions.
    pub(crate) fn of_family(self, family: Arc<Family>) -> Self {
        Self { family: Some(family), ..self }
    }

    /// The object that a pair of the store holds, and whether the store holds it in just this form.
    pub(crate) fn read(&self, pair: KeyValue) -> Result<(Object, bool), Unreadable> {
        let found = pair.value.clone();
        let bytes = self.canonical(pair.value)?;
        let as_found = found.trim_ascii_end() == bytes;
        // Memory is shared with the store where it can be.
        let bytes = if as_found { found.slice(..bytes.len()) } else { bytes };
        Ok((Object::from_canonical(bytes, pair.modified, pair.trace)?, as_found))
    }

    fn canonical(&self, value: Bytes) -> Result<Bytes, Unreadable> {
        if value.starts_with(PROTOBUF) {
            let (gvk, mut tree) = protobuf::decode(&value, Some(&self.kept), skiff_api::facts::schema)?;
            if let Some(schema) = skiff_api::facts::schema(&gvk) {
                // Protobuf leaves out what JSON says of empty fields.
                check::check(&mut tree, schema.root()).map_err(|misfit| Unreadable::Object(misfit.to_string()))?;
            }
            return self.convert(&gvk.api_version(), tree);
        }
        if value.starts_with(ENCRYPTED) {
            return Err(Unreadable::Encrypted);
        }
        if self.family.is_none() && value.starts_with(&self.opening) {
            // Upstream ends JSON with a new line.
            let length = value.trim_ascii_end().len();
            return Ok(value.slice(..length));
        }
        let tree: Value = serde_json::from_slice(&value).map_err(|error| Unreadable::Object(error.to_string()))?;
        let found = crate::tree::text(&tree, &["apiVersion"]).to_owned();
        self.convert(&found, tree)
    }

    fn convert(&self, found: &str, mut tree: Value) -> Result<Bytes, Unreadable> {
        if let Some(family) = &self.family {
            family.settle(&mut tree);
        }
        if found != self.kept.api_version() {
            let known = self.others.iter().find(|(version, _)| version == found);
            let (_, conversion) = known.ok_or_else(|| Unreadable::Version(found.to_owned()))?;
            conversion.to_stored(&mut tree);
        }
        Ok(canonical_bytes(&tree)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pair(value: impl Into<Bytes>) -> KeyValue {
        let key = "/registry/things/n/a".into();
        KeyValue { key, value: value.into(), created: 7, modified: 7, version: 1, lease: 0, trace: None }
    }

    #[test]
    fn all_forms_become_the_same_object() {
        let gvk = GroupVersionKind::new("", "v1", "ConfigMap");
        let renamed = Conversion::Renamed { served: "v0".to_owned(), stored: "v1".to_owned() };
        let form = Form::new(gvk.clone(), [("v0".to_owned(), renamed)]);
        let tree = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "data": {"key": "value"},
            "metadata": {"name": "a", "namespace": "n", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"},
        });
        let schema = skiff_api::facts::schema(&gvk).unwrap();
        let canonical = canonical_bytes(&tree).unwrap();
        let other_order = r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"uid":"u","namespace":"n","name":"a",
            "creationTimestamp":"2026-01-01T00:00:00Z"},"data":{"key":"value"}}"#;
        let found = [
            canonical.clone(),
            [&canonical[..], b"\n"].concat().into(),
            other_order.into(),
            other_order.replace("v1", "v0").into(),
            protobuf::encode(&tree, &gvk, schema.root()).unwrap().into(),
        ];
        for value in found {
            let object = form.read(pair(value.clone())).unwrap();
            let (object, as_found) = object;
            assert_eq!((object.canonical(), object.revision()), (&canonical, 7), "{value:?}");
            assert_eq!(as_found, value.trim_ascii_end() == canonical, "{value:?}");
        }
    }

    #[test]
    fn protobuf_says_nothing_of_what_json_says_is_empty() {
        let gvk = GroupVersionKind::new("", "v1", "Event");
        let tree = json!({"metadata": {"name": "a", "namespace": "n", "uid": "u"}, "reason": "r"});
        let schema = skiff_api::facts::schema(&gvk).unwrap();
        let value = protobuf::encode(&tree, &gvk, schema.root()).unwrap();
        let tree: Value = serde_json::from_slice(Form::new(gvk, []).read(pair(value)).unwrap().0.canonical()).unwrap();
        for (name, empty) in [("eventTime", Value::Null), ("source", json!({})), ("reportingComponent", json!(""))] {
            assert_eq!(tree.get(name), Some(&empty), "{name}");
        }
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        let form = Form::new(GroupVersionKind::new("", "v1", "ConfigMap"), []);
        let table = [
            ("k8s:enc:aescbc:v1:key1:xyz", "encrypted"),
            (r#"{"apiVersion":"v9","kind":"ConfigMap"}"#, "v9"),
            (r#"{"apiVersion":"v1","kind":"ConfigMap"}"#, "metadata"),
            ("k8s\0\u{12}\u{7f}", "proto"),
            ("nonsense", "expected"),
        ];
        for (value, why) in table {
            let error = form.read(pair(value)).unwrap_err().to_string();
            assert!(error.contains(why), "{value}: {error}");
        }
    }
}
