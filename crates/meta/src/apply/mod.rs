//! Who owns which field: server-side apply, and the book-keeping of every other write
//! (`k8s.io/apimachinery/pkg/util/managedfields`, `sigs.k8s.io/structured-merge-diff`).
//!
//! [`apply()`] merges what a manager applies into the live object: fields it no longer applies, and nobody else owns,
//! go; fields others own, with another value, are conflicts. [`update`] notes after any other write who now owns what.
//! Both are pure; defaults, admission and validation come after.

mod fresh;
mod last_applied;
mod managers;
mod set;
mod walk;

use std::sync::LazyLock;

use jiff::Timestamp;
use serde_json::Value;

pub use managers::{BadManagedFields, ManagerId};
pub use set::{BadFieldSet, FieldSet, ItemValue, PathElement, path_text};
pub use walk::{Comparison, blank_of, compare, empty, field_set, merge};

use managers::{Entry, Managers, encode_entry};
use walk::{faults, reconcile, remove, with_declared_parents};

use crate::schema::TypeRef;
use crate::status::{Cause, Details, Status};

/// Who takes over the fields an object had before anybody applied it.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// Who writes, and what of it counts.
#[derive(Clone, Debug)]
pub struct Writer<'a> {
    /// `fieldManager` of the request, or what stands before the first slash of its user agent.
    pub manager: &'a str,
    /// Version of the body, `apps/v1`.
    pub api_version: &'a str,
    /// Subresource of the request; empty: the object itself.
    pub subresource: &'a str,
    /// When.
    pub now: Timestamp,
    /// Fields that this part of the API resets, so that writing them owns nothing (`status` for the object itself).
    pub reset: &'a FieldSet,
}

impl Writer<'_> {
    fn id(&self, applied: bool) -> ManagerId {
        ManagerId {
            manager: if self.manager.is_empty() { "unknown" } else { self.manager }.to_owned(),
            applied,
            api_version: if applied { String::new() } else { self.api_version.to_owned() },
            subresource: self.subresource.to_owned(),
        }
    }
    fn entry(&self, set: FieldSet) -> Entry {
        Entry { set, api_version: self.api_version.to_owned(), time: Some(self.time()) }
    }
    fn time(&self) -> String {
        self.now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    }
}

/// One field another manager owns with another value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// Who owns it.
    pub manager: ManagerId,
    /// Where, as `.spec.replicas`.
    pub path: Vec<PathElement>,
}

/// Why an object cannot be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// Others own some fields with other values; force takes them.
    #[error("{}", conflict_message(.0))]
    Conflicts(Vec<Conflict>),
    /// The body carries managed fields.
    #[error("metadata.managedFields must be nil")]
    ManagedFieldsGiven,
    /// The body does not fit the kind; all faults, joined.
    #[error("failed to create typed patch object ({object}): {faults}")]
    Typed {
        /// `namespace/name; group/version, Kind=kind`.
        object: String,
        /// What is wrong.
        faults: String,
    },
    /// The live object, whose fields nobody has tracked so far, does not fit the kind.
    #[error(
        "failed to create manager for existing fields: failed to convert new object ({object}) to smd typed: {faults}"
    )]
    Existing {
        /// `namespace/name; group/version, Kind=kind`.
        object: String,
        /// What is wrong.
        faults: String,
    },
    /// The live object's managed fields are damaged.
    #[error("failed to decode managed fields: {0}")]
    ManagedFields(#[from] BadManagedFields),
}

fn conflict_message(conflicts: &[Conflict]) -> String {
    if let [one] = conflicts {
        return format!(
            "Apply failed with 1 conflict: conflict with {}: {}",
            one.manager.describe(),
            path_text(&one.path)
        );
    }
    let mut lines = Vec::new();
    let mut last = None;
    for conflict in conflicts {
        if last != Some(&conflict.manager) {
            lines.push(format!("conflicts with {}:", conflict.manager.describe()));
            last = Some(&conflict.manager);
        }
        lines.push(format!("- {}", path_text(&conflict.path)));
    }
    format!("Apply failed with {} conflicts: {}", conflicts.len(), lines.join("\n"))
}

impl ApplyError {
    /// The answer upstream gives.
    pub fn to_status(&self) -> Status {
        match self {
            Self::Conflicts(conflicts) => {
                let cause = |conflict: &Conflict| Cause {
                    reason: "FieldManagerConflict".to_owned(),
                    message: format!("conflict with {}", conflict.manager.describe()),
                    field: path_text(&conflict.path),
                };
                let mut status = Status::failure(409, "Conflict", self.to_string());
                let causes = conflicts.iter().map(cause).collect();
                status.details = Some(Box::new(Details { causes, ..Details::default() }));
                status
            }
            Self::ManagedFieldsGiven => Status::bad_request(self.to_string()),
            Self::Typed { .. } | Self::Existing { .. } | Self::ManagedFields(_) => {
                Status::failure(500, "", self.to_string())
            }
        }
    }
}

fn managed_fields(object: &Value) -> Option<&Value> {
    object.get("metadata")?.get("managedFields").filter(|fields| !fields.is_null())
}

fn set_managed_fields(object: &mut Value, fields: Option<Value>) {
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    match fields {
        Some(fields) => metadata.insert("managedFields".to_owned(), fields),
        None => metadata.remove("managedFields"),
    };
}

/// `[]` or `[{}]`: the client wants the book-keeping to begin anew.
fn is_reset(fields: &Value) -> bool {
    let entries = fields.as_array().map_or(&[][..], Vec::as_slice);
    match entries {
        [] => true,
        [one] => one.as_object().is_some_and(serde_json::Map::is_empty),
        _ => false,
    }
}

/// Fields that identify the object or are the server's own; nobody owns them.
static NEVER_OWNED: LazyLock<FieldSet> = LazyLock::new(|| {
    FieldSet::of_fields(&[
        &["apiVersion"],
        &["kind"],
        &["metadata"],
        &["metadata", "name"],
        &["metadata", "namespace"],
        &["metadata", "creationTimestamp"],
        &["metadata", "selfLink"],
        &["metadata", "uid"],
        &["metadata", "clusterName"],
        &["metadata", "generation"],
        &["metadata", "managedFields"],
        &["metadata", "resourceVersion"],
    ])
});
static MANAGED_FIELDS: LazyLock<FieldSet> = LazyLock::new(|| FieldSet::of_fields(&[&["metadata", "managedFields"]]));

/// The comparison without `metadata.managedFields`, at any depth of it.
fn compare_objects(live: &Value, new: &Value, ty: TypeRef<'_>, reset: &FieldSet) -> Comparison {
    compare(live, new, ty).without(reset).without(&MANAGED_FIELDS)
}

/// Notes in `new.metadata.managedFields` who owns what after a create (`live` is `None`), update or patch.
///
/// A write that changes nothing leaves the entries, and their times, as they were. Never fails: entries that cannot be
/// read begin anew.
pub fn update(live: Option<&Value>, new: &mut Value, ty: TypeRef<'_>, writer: &Writer<'_>) {
    if live.is_none()
        && managed_fields(new).is_none()
        && let Some(fields) = fresh::fields(new, ty, writer.reset)
    {
        let entry = |fields| encode_entry(&writer.id(false), writer.api_version, Some(&writer.time()), fields);
        let entries = (!fields.is_empty()).then(|| vec![entry(fields.into())].into());
        return set_managed_fields(new, entries);
    }
    compare_and_note(live, new, ty, writer);
}

fn compare_and_note(live: Option<&Value>, new: &mut Value, ty: TypeRef<'_>, writer: &Writer<'_>) {
    let kept = live.and_then(managed_fields).cloned();
    let given = managed_fields(new).cloned().filter(|_| writer.subresource.is_empty());
    if given.as_ref().is_some_and(is_reset) && live.is_some() {
        return set_managed_fields(new, None);
    }
    let blank;
    let base = match live {
        Some(live) => live,
        None => {
            blank = blank_of(ty);
            &blank
        }
    };
    let comparison = compare_objects(base, new, ty, writer.reset);
    if comparison.untracked {
        return set_managed_fields(new, None);
    }
    if comparison.is_same() && (given.is_none() || given == kept) {
        return set_managed_fields(new, kept);
    }
    let decode = |fields: Option<&Value>| Managers::decode(fields).ok().filter(|m| !m.0.is_empty());
    let managers = decode(given.as_ref()).or_else(|| decode(kept.as_ref()));
    let mut managers = match managers {
        // An object whose fields nobody tracks stays so until somebody applies it.
        None if live.is_some() => return set_managed_fields(new, None),
        found => found.unwrap_or_default(),
    };
    note_update(&mut managers, comparison, writer);
    set_managed_fields(new, managers.encode());
}

fn note_update(managers: &mut Managers, comparison: Comparison, writer: &Writer<'_>) {
    let Comparison { added, modified, removed, .. } = comparison;
    let touched = added.union(&modified);
    if !managers.0.is_empty() {
        managers.take_away(&touched.clone().union(&removed), None);
    }
    let own = touched.difference(&NEVER_OWNED);
    if !own.is_empty() {
        let id = writer.id(false);
        let before = managers.0.remove(&id).map(|e| e.set).unwrap_or_default();
        managers.0.insert(id, writer.entry(own.union(&before)));
    }
    managers.cap();
}

/// Merges `applied` into the live object (`None`: there is none yet) and returns the result with its
/// `metadata.managedFields`, not yet defaulted.
///
/// # Errors
/// Conflicts, unless `force`; a body that does not fit the kind or carries managed fields.
pub fn apply(
    live: Option<&Value>,
    applied: &Value,
    ty: TypeRef<'_>,
    writer: &Writer<'_>,
    force: bool,
) -> Result<Value, ApplyError> {
    if managed_fields(applied).is_some() {
        return Err(ApplyError::ManagedFieldsGiven);
    }
    let mut base = live.cloned().unwrap_or_else(|| empty(ty));
    let mut managers = Managers::decode(managed_fields(&base))?;
    set_managed_fields(&mut base, None);
    if live.is_some() && managers.0.is_empty() {
        let before = Writer { manager: BEFORE_FIRST_APPLY, ..writer.clone() };
        let comparison = compare_objects(&blank_of(ty), &base, ty, writer.reset);
        if comparison.untracked {
            return Err(ApplyError::Existing { object: described(&base), faults: joined(&walk::faults(&base, ty)) });
        }
        note_update(&mut managers, comparison, &before);
    }
    let faults = faults(applied, ty);
    if !faults.is_empty() {
        return Err(typed_error(applied, &faults));
    }
    for entry in managers.0.values_mut() {
        entry.set = reconcile(std::mem::take(&mut entry.set), ty);
    }
    let attempt = |force| apply_once(&base, applied, ty, writer, managers.clone(), force);
    let (mut object, managers) = match attempt(force) {
        Err(ApplyError::Conflicts(conflicts)) if writer.manager == last_applied::MANAGER => {
            let inherited = last_applied::inherited_fields(&base, ty, writer.api_version).unwrap_or_default();
            let left: Vec<_> = conflicts.into_iter().filter(|c| !inherited.contains(&c.path)).collect();
            if !left.is_empty() {
                return Err(ApplyError::Conflicts(left));
            }
            attempt(true)?
        }
        other => other?,
    };
    set_managed_fields(&mut object, managers.encode());
    if writer.manager == last_applied::MANAGER {
        last_applied::refresh(&mut object, applied);
    }
    Ok(object)
}

/// What somebody applies without owning it afterwards, as admission policies do. Parts that are owned as a whole may not be
/// among it: who names some of their members would remove the others.
///
/// # Errors
/// What does not fit, in upstream's words.
pub fn overlay(live: &Value, applied: &Value, ty: TypeRef<'_>) -> Result<Value, String> {
    let faults = faults(applied, ty);
    if !faults.is_empty() {
        return Err(format!("failed to convert patch object to typed object: {}", joined(&faults)));
    }
    let wholes = walk::wholes(applied, ty);
    if !wholes.is_empty() {
        let wholes = wholes.join(", ");
        return Err(format!("invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {wholes}"));
    }
    Ok(merge(live, applied, ty))
}

fn joined(faults: &[String]) -> String {
    match faults {
        [one] => one.clone(),
        many => format!("errors:\n  {}", many.join("\n  ")),
    }
}

fn typed_error(applied: &Value, faults: &[String]) -> ApplyError {
    ApplyError::Typed { object: described(applied), faults: joined(faults) }
}

/// `namespace/name; group/version, Kind=kind`.
fn described(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let metadata = &object["metadata"];
    let version = text(&object["apiVersion"]);
    format!(
        "{}/{}; {}{version}, Kind={}",
        text(&metadata["namespace"]),
        text(&metadata["name"]),
        if version.contains('/') { "" } else { "/" },
        text(&object["kind"])
    )
}

fn apply_once(
    live: &Value,
    applied: &Value,
    ty: TypeRef<'_>,
    writer: &Writer<'_>,
    mut managers: Managers,
    force: bool,
) -> Result<(Value, Managers), ApplyError> {
    let id = writer.id(true);
    let last = managers.0.remove(&id);
    let own = field_set(applied, ty).without(writer.reset);
    let merged = merge(live, applied, ty);
    managers.0.insert(id.clone(), writer.entry(own));
    let object = match &last {
        Some(last) if !last.set.is_empty() => prune(merged, &last.set, &managers, ty),
        _ => merged,
    };
    let comparison = compare_objects(live, &object, ty, writer.reset);
    let touched = comparison.touched();
    if !force {
        let conflicts = conflicts(&managers, &touched, &id);
        if !conflicts.is_empty() {
            return Err(ApplyError::Conflicts(conflicts));
        }
    }
    managers.take_away(&touched.union(&comparison.removed), Some(&id));
    if let Some(mut entry) = managers.0.remove(&id) {
        entry.set = entry.set.difference(&NEVER_OWNED);
        // Applying what is there already is no change, and has no time. What is reset afterwards is one.
        if *live == object {
            entry.time = last.and_then(|last| last.time);
        }
        if !entry.set.is_empty() {
            managers.0.insert(id, entry);
        }
    }
    Ok((object, managers))
}

fn conflicts(managers: &Managers, touched: &FieldSet, own: &ManagerId) -> Vec<Conflict> {
    let others = managers.0.iter().filter(|(id, _)| *id != own);
    let conflicts = others.flat_map(|(id, entry)| {
        let paths = entry.set.intersection(touched).paths();
        paths.into_iter().map(|path| Conflict { manager: id.clone(), path })
    });
    conflicts.collect()
}

/// Removes what its manager applied last time and does not now, and nobody else owns.
fn prune(merged: Value, last: &FieldSet, managers: &Managers, ty: TypeRef<'_>) -> Value {
    let complete = |set: &FieldSet| with_declared_parents(set, ty);
    let without = |gone: &FieldSet| remove(&merged, gone, ty).unwrap_or_else(|| Value::Object(serde_json::Map::new()));
    let last = complete(last);
    let everything = complete(&field_set(&merged, ty));
    let owned = managers.0.values().fold(FieldSet::default(), |all, entry| all.union(&entry.set));
    // Take out all of the last time; put back what others, or the new configuration, own; and put back what the
    // manager did not own last time, which went only because something around it did.
    let stripped = complete(&field_set(&without(&last), ty));
    let unowned = everything.clone().difference(&stripped.union(&complete(&owned)));
    let pruned = complete(&field_set(&without(&unowned), ty));
    without(&everything.difference(&pruned).intersection(&last))
}

#[cfg(test)]
mod tests;
