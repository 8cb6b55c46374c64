//! One object, once: the immutable, shared form in which objects are stored, cached, watched and read.
//!
//! An [`Object`] holds its *canonical bytes*: compact JSON with the keys of every object in byte order, without
//! `metadata.resourceVersion`. The resource version is the store's revision of the write, so it cannot be part of what
//! is written; it is spliced in at a known offset whenever bytes leave. GET, LIST and WATCH copy bytes; readers in the
//! same process decode the typed form once and share it.

use std::any::Any;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use bytes::{BufMut, Bytes, BytesMut};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::trace::TraceContext;

/// Bytes that are not an object in canonical form.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// Not JSON, or not of the type asked for.
    #[error("object cannot be decoded: {0}")]
    Decode(#[from] serde_json::Error),
    /// No `metadata.uid`, or the bytes are not in canonical order.
    #[error("object is not in canonical form: {0}")]
    NotCanonical(&'static str),
}

/// The parts of `metadata` that the machinery reads on every object, parsed once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Meta {
    /// Unique in namespace and resource.
    pub name: String,
    /// Empty for cluster-scoped kinds.
    pub namespace: String,
    /// Unique for ever.
    pub uid: String,
    /// Counts changes of the desired state.
    pub generation: i64,
    /// Labels, sorted.
    #[serde(deserialize_with = "null_default")]
    pub labels: BTreeMap<String, String>,
    /// Owners.
    #[serde(deserialize_with = "null_default")]
    pub owner_references: Vec<OwnerRef>,
    /// What must happen before the object may go.
    #[serde(deserialize_with = "null_default")]
    pub finalizers: Vec<String>,
    /// RFC 3339, once deletion was asked for.
    pub deletion_timestamp: Option<String>,
}

/// One entry of `metadata.ownerReferences`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OwnerRef {
    /// The owner's group and version.
    pub api_version: String,
    /// The owner's kind.
    pub kind: String,
    /// The owner's name.
    pub name: String,
    /// The owner's UID.
    pub uid: String,
    /// Whether the owner is the managing controller.
    pub controller: Option<bool>,
    /// Whether foreground deletion of the owner waits for this object.
    pub block_owner_deletion: Option<bool>,
}

fn null_default<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(d: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

#[derive(Deserialize)]
struct Head {
    #[serde(default, deserialize_with = "null_default")]
    metadata: Meta,
}

/// The immutable, shared form of one object at one revision.
#[derive(Debug)]
pub struct Object {
    bytes: Bytes,
    splice: u32,
    /// Where the member `kind` begins, 0 where there is none.
    kind: u32,
    /// From the member `metadata.managedFields` to the next one.
    managed: Range<u32>,
    revision: u64,
    meta: Meta,
    trace: Option<TraceContext>,
    decoded: OnceLock<Arc<dyn Any + Send + Sync>>,
}

impl Object {
    /// From canonical bytes, as the store returns them with the revision of their write.
    ///
    /// # Errors
    /// When the bytes are not a JSON object with `metadata.uid`.
    pub fn from_canonical(bytes: Bytes, revision: u64, trace: Option<TraceContext>) -> Result<Self, ObjectError> {
        let head: Head = serde_json::from_slice(&bytes)?;
        let Offsets { splice, kind, managed } = offsets(&bytes, &head.metadata.uid)?;
        Ok(Self { bytes, splice, kind, managed, revision, meta: head.metadata, trace, decoded: OnceLock::new() })
    }

    /// From a JSON tree that carries its own resourceVersion, as the wire does (clients use this).
    ///
    /// # Errors
    /// When the tree has no `metadata.uid`.
    pub fn from_wire(mut value: Value) -> Result<Self, ObjectError> {
        let metadata = value.get_mut("metadata").and_then(Value::as_object_mut);
        let revision = metadata.and_then(|m| m.remove("resourceVersion"));
        let revision = revision.as_ref().and_then(Value::as_str).and_then(|v| v.parse().ok()).unwrap_or(0);
        Self::from_canonical(canonical_bytes(&value)?, revision, None)
    }

    /// From JSON that carries its own resourceVersion. What a server of this kind sends is canonical but for that member,
    /// and is taken as it is; of another server's JSON the tree is read.
    ///
    /// # Errors
    /// When it is no JSON object with `metadata.uid`.
    pub fn from_wire_json(bytes: &[u8]) -> Result<Self, ObjectError> {
        let Head { metadata: meta } = serde_json::from_slice(bytes)?;
        let Offsets { splice, kind, managed } = offsets(bytes, &meta.uid)?;
        let (head, rest) = bytes.split_at(splice as usize);
        let Some((head, revision)) = spliced(head) else { return Self::from_wire(serde_json::from_slice(bytes)?) };
        let splice = splice - (bytes.len() - head.len() - rest.len()) as u32;
        let bytes = [head, rest].concat().into();
        Ok(Self { bytes, splice, kind, managed, revision, meta, trace: None, decoded: OnceLock::new() })
    }

    /// The same object as of another revision: the last state of a removed object is told with the revision of its
    /// removal.
    pub fn at_revision(&self, revision: u64) -> Self {
        let (bytes, meta) = (self.bytes.clone(), self.meta.clone());
        Self {
            bytes,
            splice: self.splice,
            kind: self.kind,
            managed: self.managed.clone(),
            revision,
            meta,
            trace: self.trace,
            decoded: OnceLock::new(),
        }
    }

    /// The canonical bytes, without resourceVersion.
    pub fn canonical(&self) -> &Bytes {
        &self.bytes
    }

    /// The revision of the write that made this object, its resourceVersion.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// What the machinery reads of `metadata`.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// The trace context of the write that made this object, where known.
    pub fn trace(&self) -> Option<TraceContext> {
        self.trace
    }

    /// The member `apiVersion`, empty where there is none.
    pub fn api_version(&self) -> &str {
        let version = || {
            let head = &self.bytes[..self.kind as usize];
            let first = head.get(1..).is_some_and(|rest| rest.starts_with(VERSION));
            let rest = &head[if first { 1 } else { member(head, VERSION.strip_suffix(b":\"")?)? }..];
            let value = rest.strip_prefix(VERSION)?;
            std::str::from_utf8(&value[..memchr::memchr(b'"', value)?]).ok()
        };
        version().unwrap_or_default()
    }

    /// The size of [`Object::write_json`]'s output in bytes, at most.
    pub fn json_size(&self) -> usize {
        self.bytes.len() + 44
    }

    /// Appends the JSON with its resourceVersion.
    pub fn write_json(&self, out: &mut BytesMut) {
        let splice = self.splice as usize;
        out.reserve(self.json_size());
        out.put_slice(&self.bytes[..splice]);
        self.write_version(out);
        out.put_slice(&self.bytes[splice..]);
    }

    /// Appends the JSON as an item of a list, which says `apiVersion` and `kind` for all of its items.
    pub fn write_item(&self, out: &mut BytesMut) {
        let (kind, splice) = (self.kind as usize, self.splice as usize);
        out.reserve(self.json_size());
        // Few kinds have a member that sorts before `apiVersion`.
        let first = self.bytes[..kind].get(1..).is_some_and(|rest| rest.starts_with(VERSION));
        let version = if first { Some(1) } else { member(&self.bytes[..kind], b"\"apiVersion\"") };
        let past = |start: usize| memchr::memchr(b',', &self.bytes[start..]).map_or(start, |comma| start + comma + 1);
        let (to, from) = version.map_or((0, 0), |at| (at, past(at)));
        out.put_slice(&self.bytes[..to]);
        out.put_slice(&self.bytes[from..kind]);
        out.put_slice(&self.bytes[if kind > 0 { past(kind) } else { from }..splice]);
        self.write_version(out);
        out.put_slice(&self.bytes[splice..]);
    }

    fn write_version(&self, out: &mut BytesMut) {
        let mut digits = [0; 20];
        out.put_slice(b"\"resourceVersion\":\"");
        out.put_slice(decimal(self.revision, &mut digits));
        out.put_slice(b"\",");
    }

    /// The JSON with its resourceVersion.
    pub fn to_json(&self) -> Bytes {
        let mut out = BytesMut::new();
        self.write_json(&mut out);
        out.freeze()
    }

    /// The JSON with its resourceVersion and without `metadata.managedFields`.
    fn unmanaged_json(&self) -> BytesMut {
        let (splice, managed) = (self.splice as usize, self.managed.start as usize..self.managed.end as usize);
        let mut out = BytesMut::with_capacity(self.json_size() - managed.len());
        out.put_slice(&self.bytes[..managed.start]);
        out.put_slice(&self.bytes[managed.end..splice]);
        self.write_version(&mut out);
        out.put_slice(&self.bytes[splice..]);
        out
    }

    /// The JSON tree with its resourceVersion.
    ///
    /// # Errors
    /// Never for objects made by [`Object::from_canonical`]; the type says so for completeness.
    pub fn to_value(&self) -> Result<Value, ObjectError> {
        Ok(serde_json::from_slice(&self.to_json())?)
    }

    /// The typed form, decoded at the first call and shared from then on, without `metadata.managedFields`: decoded they
    /// are several times as large as all the rest, no reader of typed objects asks for them, and a write without them
    /// leaves them as they are.
    ///
    /// One object has one typed form in a process; asking for a second type decodes anew at every call.
    ///
    /// # Errors
    /// When the JSON does not fit `K`.
    pub fn typed<K: DeserializeOwned + Clone + Send + Sync + 'static>(&self) -> Result<Arc<K>, ObjectError> {
        // Lists that grew while they were read have room for more than they hold; a copy fits.
        self.typed_by(|json| {
            let typed: K = serde_json::from_slice(json)?;
            Ok(typed.clone())
        })
    }

    /// The same for a type that something else reads better.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn typed_by<K: Send + Sync + 'static>(
        &self,
        read: impl FnOnce(&[u8]) -> serde_json::Result<K>,
    ) -> Result<Arc<K>, ObjectError> {
        if let Some(found) = self.decoded.get()
            && let Ok(typed) = found.clone().downcast::<K>()
        {
            return Ok(typed);
        }
        let typed: Arc<K> = Arc::new(read(&self.unmanaged_json())?);
        // Whoever loses the race, or asks for another type, keeps a copy of its own.
        let _ = self.decoded.set(typed.clone());
        Ok(typed)
    }
}

/// How the member begins that tells an object's version.
const VERSION: &[u8] = b"\"apiVersion\":\"";

/// Compact JSON with sorted keys: what is stored. `serde_json`'s map is a `BTreeMap` here (its `preserve_order` feature
/// stays off, which a test checks), so that plain serialization is canonical.
///
/// # Errors
/// Never for trees parsed from JSON.
pub fn canonical_bytes(value: &Value) -> Result<Bytes, ObjectError> {
    Ok(crate::scratch::json(value)?)
}

/// Places in canonical bytes.
struct Offsets {
    /// Where `"resourceVersion":"N",` belongs: right before `"uid":"<this uid>"` in the metadata. The UID's text also
    /// stands elsewhere at times (in an annotation, in its own managed fields), but not as this member of this object:
    /// metadata sorts before spec and status, and after it only `kind`, so the first hit at depth two is searched for.
    splice: u32,
    /// Where the object's member `kind`, which is passed on the way, begins; 0 when there is none.
    kind: u32,
    /// From `metadata.managedFields` to the next member; empty where there are none.
    managed: Range<u32>,
}

fn offsets(bytes: &[u8], uid: &str) -> Result<Offsets, ObjectError> {
    if uid.is_empty() {
        return Err(ObjectError::NotCanonical("metadata.uid is missing"));
    }
    let place = |at| u32::try_from(at).map_err(|_| ObjectError::NotCanonical("object is over 4 GiB"));
    let (mut depth, mut i, mut kind, mut managed) = (0u32, 0usize, 0u32, 0..0);
    let mut in_metadata = false;
    while i < bytes.len() {
        match bytes[i] {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                if depth == 1 {
                    in_metadata = false;
                }
            }
            b'"' => {
                let start = i;
                i = string_end(bytes, i)?;
                let key = Some(&bytes[start..=i]).filter(|_| bytes.get(i + 1) == Some(&b':'));
                match key {
                    Some(b"\"metadata\"") if depth == 1 => in_metadata = true,
                    Some(b"\"kind\"") if depth == 1 => kind = place(start)?,
                    Some(key) if depth == 2 && in_metadata => {
                        if managed.end < managed.start {
                            managed.end = place(start)?;
                        }
                        match key {
                            b"\"managedFields\"" => managed = place(start)?..0,
                            b"\"uid\"" => return Ok(Offsets { splice: place(start)?, kind, managed }),
                            _ => {}
                        }
                    }
                    _ => {}
                }
            }
            _ => {}
        }
        i += 1;
    }
    Err(ObjectError::NotCanonical("metadata.uid is not where it belongs"))
}

/// What stands before the `"resourceVersion":"N",` that it ends with, and that version.
fn spliced(head: &[u8]) -> Option<(&[u8], u64)> {
    let head = head.strip_suffix(b"\",")?;
    let digits = head.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let (head, version) = head.split_at(head.len() - digits);
    Some((head.strip_suffix(b"\"resourceVersion\":\"")?, std::str::from_utf8(version).ok()?.parse().ok()?))
}

/// Where the object's own member `quoted` begins.
fn member(bytes: &[u8], quoted: &[u8]) -> Option<usize> {
    let (mut depth, mut i) = (0u32, 0usize);
    while i < bytes.len() {
        match bytes[i] {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => {
                let start = i;
                i = string_end(bytes, i).ok()?;
                if depth == 1 && bytes.get(i + 1) == Some(&b':') && &bytes[start..=i] == quoted {
                    return Some(start);
                }
            }
            _ => {}
        }
        i += 1;
    }
    None
}

/// The index of the quote that ends the string beginning at `start`.
fn string_end(bytes: &[u8], start: usize) -> Result<usize, ObjectError> {
    let mut i = start + 1;
    loop {
        let rest = bytes.get(i..).ok_or(ObjectError::NotCanonical("unterminated string"))?;
        let found = memchr::memchr2(b'"', b'\\', rest).ok_or(ObjectError::NotCanonical("unterminated string"))?;
        if rest[found] == b'"' {
            return Ok(i + found);
        }
        i += found + 2;
    }
}

fn decimal(mut number: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &digits[at..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn sample() -> Value {
        json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "data": {"metadata": "{\"uid\":\"u-1\"}", "uid": "u-1"},
            "metadata": {"name": "a", "namespace": "b", "uid": "u-1", "labels": {"uid": "u-1", "é\"\\": "x"},
                "annotations": {"uid": "u-1"}},
        })
    }

    #[test]
    fn resource_version_is_spliced_where_it_belongs() {
        let object = Object::from_canonical(canonical_bytes(&sample()).unwrap(), 12_345, None).unwrap();
        let mut expected = sample();
        expected["metadata"]["resourceVersion"] = json!("12345");
        assert_eq!(object.to_json(), canonical_bytes(&expected).unwrap());
        assert_eq!(object.meta().labels["uid"], "u-1");
    }

    #[test]
    fn items_of_lists_leave_out_what_the_list_says() {
        let mut event = sample();
        event["action"] = json!("x");
        event["aggregationRule"] = json!({"apiVersion": "v1", "kind": "ConfigMap"});
        event["involvedObject"] = json!({"apiVersion": "v1", "kind": "ConfigMap"});
        for whole in [sample(), event, json!({"metadata": {"uid": "u-1", "name": "a"}})] {
            let object = Object::from_canonical(canonical_bytes(&whole).unwrap(), 7, None).unwrap();
            let mut expected = whole.clone();
            expected["metadata"]["resourceVersion"] = json!("7");
            expected.as_object_mut().unwrap().retain(|key, _| key != "kind" && key != "apiVersion");
            let mut out = BytesMut::new();
            object.write_item(&mut out);
            assert_eq!(out, canonical_bytes(&expected).unwrap());
        }
    }

    #[test]
    fn keys_are_sorted() {
        let value: Value = serde_json::from_str(r#"{"b":1,"a":{"d":1,"c":2}}"#).unwrap();
        assert_eq!(&*canonical_bytes(&value).unwrap(), br#"{"a":{"c":2,"d":1},"b":1}"#);
    }

    #[test]
    fn wire_form_round_trips_and_types_are_shared() {
        let mut wire = sample();
        wire["metadata"]["resourceVersion"] = json!("7");
        let quick = Object::from_wire_json(&canonical_bytes(&wire).unwrap()).unwrap();
        let object = Object::from_wire(wire.clone()).unwrap();
        assert_eq!(format!("{quick:?}"), format!("{object:?}"));
        // In the order of another server, and with another spacing.
        for foreign in [
            r#"{"kind":"K","apiVersion":"v1","metadata":{"name":"a","uid":"u","resourceVersion":"7","managedFields":[]}}"#,
            r#"{"apiVersion": "v1", "kind": "K", "metadata": {"name": "a", "resourceVersion": "7", "uid": "u"}}"#,
        ] {
            let tree = Object::from_wire(serde_json::from_str(foreign).unwrap()).unwrap();
            assert_eq!(format!("{:?}", Object::from_wire_json(foreign.as_bytes()).unwrap()), format!("{tree:?}"));
        }
        assert_eq!(object.revision(), 7);
        assert_eq!(object.to_value().unwrap(), wire);
        let (one, two) = (object.typed::<Value>().unwrap(), object.typed::<Value>().unwrap());
        assert!(Arc::ptr_eq(&one, &two));
    }

    #[test]
    fn the_typed_form_leaves_managed_fields_out() {
        let entry = json!({"manager": "m", "fieldsV1": {"f:metadata": {"f:managedFields": {}}, "uid": "u-1"}});
        for (managed, more) in [(json!([entry]), json!({})), (json!([]), json!({"ownerReferences": [{"uid": "u-2"}]}))]
        {
            let mut whole = sample();
            whole["data"]["managedFields"] = json!("kept");
            whole["metadata"].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let mut managed_too = whole.clone();
            managed_too["metadata"]["managedFields"] = managed;
            let object = Object::from_canonical(canonical_bytes(&managed_too).unwrap(), 7, None).unwrap();
            for tree in [&mut whole, &mut managed_too] {
                tree["metadata"]["resourceVersion"] = json!("7");
            }
            assert_eq!(*object.typed::<Value>().unwrap(), whole);
            assert_eq!(object.to_value().unwrap(), managed_too);
        }
    }

    #[test]
    fn refuses_what_is_no_object() {
        for bad in ["", "[]", "{}", r#"{"metadata":{"name":"x"}}"#] {
            assert!(Object::from_canonical(Bytes::from(bad), 1, None).is_err(), "{bad}");
        }
    }
}
