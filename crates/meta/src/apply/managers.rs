//! Who manages which fields: `metadata.managedFields`, decoded.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::set::{BadFieldSet, FieldSet};

/// Most managers with operation Update; the oldest are merged beyond that.
const MAX_UPDATE_MANAGERS: usize = 10;
/// Who the merged ones become.
const ANCIENT: &str = "ancient-changes";

/// What tells one entry from another. The derived order is that of upstream's identifiers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ManagerId {
    /// `kubectl`, `kube-controller-manager`, ...
    pub manager: String,
    /// Whether by server-side apply, rather than any other write.
    pub applied: bool,
    /// Version it wrote; empty for appliers, who have one entry whatever their version.
    pub api_version: String,
    /// Which subresource it wrote; empty: the object itself.
    pub subresource: String,
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) set: FieldSet,
    pub(super) api_version: String,
    pub(super) time: Option<String>,
}

/// All entries of one object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Managers(pub(super) BTreeMap<ManagerId, Entry>);

/// `managedFields` that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadManagedFields {
    /// Neither `Apply` nor `Update`.
    #[error("operation must be `Apply` or `Update`")]
    Operation,
    /// No version.
    #[error("apiVersion must not be empty")]
    ApiVersion,
    /// Not `FieldsV1`.
    #[error("invalid fieldsType {0:?} in managed fields entry {1}")]
    FieldsType(String, usize),
    /// The fields themselves.
    #[error("error decoding set: {0}")]
    Fields(#[from] BadFieldSet),
}

impl ManagerId {
    /// As conflicts name it.
    pub fn describe(&self) -> String {
        let subresource = match &*self.subresource {
            "" => String::new(),
            subresource => format!(" with subresource {subresource:?}"),
        };
        let version = if self.applied { String::new() } else { format!(" using {}", self.api_version) };
        format!("{:?}{subresource}{version}", self.manager)
    }
}

/// One entry of `metadata.managedFields`.
pub(super) fn encode_entry(id: &ManagerId, api_version: &str, time: Option<&str>, fields: Value) -> Value {
    let mut encoded = json!({
        "manager": id.manager,
        "operation": if id.applied { "Apply" } else { "Update" },
        "apiVersion": api_version,
        "fieldsType": "FieldsV1",
    });
    encoded["fieldsV1"] = fields;
    if let Some(time) = time {
        encoded["time"] = json!(time);
    }
    if !id.subresource.is_empty() {
        encoded["subresource"] = json!(id.subresource);
    }
    encoded
}

impl Managers {
    /// From `metadata.managedFields`; null and absent are none.
    pub(super) fn decode(fields: Option<&Value>) -> Result<Self, BadManagedFields> {
        let mut managers = BTreeMap::new();
        for (i, entry) in fields.and_then(Value::as_array).into_iter().flatten().enumerate() {
            let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
            let applied = match &*text("operation") {
                "Apply" => true,
                "Update" => false,
                _ => return Err(BadManagedFields::Operation),
            };
            let api_version = text("apiVersion");
            if api_version.is_empty() {
                return Err(BadManagedFields::ApiVersion);
            }
            if text("fieldsType") != "FieldsV1" {
                return Err(BadManagedFields::FieldsType(text("fieldsType"), i));
            }
            let id = ManagerId {
                manager: text("manager"),
                applied,
                api_version: if applied { String::new() } else { api_version.clone() },
                subresource: text("subresource"),
            };
            let set = entry.get("fieldsV1").map_or_else(|| Ok(FieldSet::default()), FieldSet::from_json)?;
            managers.insert(id, Entry { set, api_version, time: entry["time"].as_str().map(str::to_owned) });
        }
        Ok(Self(managers))
    }

    /// As `metadata.managedFields`: appliers first, then by time and name. `None` when there are none.
    pub(super) fn encode(&self) -> Option<Value> {
        let mut entries: Vec<_> = self.0.iter().collect();
        entries.sort_by(|(a, x), (b, y)| {
            (b.applied.cmp(&a.applied)).then_with(|| x.time.cmp(&y.time)).then_with(|| a.cmp(b))
        });
        let encode = |(id, entry): (&ManagerId, &Entry)| {
            encode_entry(id, &entry.api_version, entry.time.as_deref(), entry.set.to_json())
        };
        (!entries.is_empty()).then(|| entries.into_iter().map(encode).collect())
    }

    /// Takes `gone` from everybody but `except`, who may be nobody; managers of nothing vanish.
    pub(super) fn take_away(&mut self, gone: &FieldSet, except: Option<&ManagerId>) {
        self.0.retain(|id, entry| {
            if Some(id) != except {
                entry.set = std::mem::take(&mut entry.set).difference(gone);
            }
            !entry.set.is_empty()
        });
    }

    /// Merges the managers that updated longest ago, version by version, until there are few enough.
    pub(super) fn cap(&mut self) {
        let mut updaters: Vec<_> =
            self.0.iter().filter(|(id, _)| !id.applied).map(|(id, e)| (e.time.clone(), id.clone())).collect();
        let mut count = updaters.len();
        updaters.sort();
        let mut first_of_version: BTreeMap<String, ManagerId> = BTreeMap::new();
        for (_, id) in updaters {
            if count <= MAX_UPDATE_MANAGERS {
                return;
            }
            let Some(first) = first_of_version.get(&id.api_version) else {
                first_of_version.insert(id.api_version.clone(), id);
                continue;
            };
            let bucket = ManagerId {
                manager: ANCIENT.to_owned(),
                applied: false,
                api_version: id.api_version.clone(),
                subresource: String::new(),
            };
            if !self.0.contains_key(&bucket)
                && let Some(entry) = self.0.remove(first)
            {
                self.0.insert(bucket.clone(), entry);
            }
            if id != bucket
                && let Some(merged) = self.0.remove(&id)
                && let Some(entry) = self.0.get_mut(&bucket)
            {
                entry.set = std::mem::take(&mut entry.set).union(&merged.set);
                entry.time = merged.time;
                count -= 1;
            }
        }
    }
}
