//! What the server itself writes into `metadata` (upstream: `k8s.io/apiserver/pkg/registry/rest/{meta,create,update}.go`).

use jiff::Timestamp;
use serde_json::Value;
use skiff_meta::world::WorldExt;
use skiff_meta::{Status, World};

use crate::tree;

/// Letters appended to `generateName`.
const SUFFIX: usize = 5;
/// Longest base of a generated name; the rest is cut off.
const BASE: usize = 63 - SUFFIX;

/// The object's namespace is that of the request; a different one is an error.
pub(crate) fn match_namespace(object: &mut Value, namespace: &str, namespaced: bool) -> Result<(), Status> {
    let expected = if namespaced { namespace } else { "" };
    let given = tree::text(object, &["metadata", "namespace"]);
    if given == expected {
        return Ok(());
    }
    if !given.is_empty() && !expected.is_empty() {
        let why = "the namespace of the provided object does not match the namespace sent on the request";
        return Err(Status::bad_request(why));
    }
    let value = (!expected.is_empty()).then(|| Value::from(expected));
    tree::put(tree::metadata(object), "namespace", value);
    Ok(())
}

/// Forgets what clients may not say at creation.
pub(crate) fn wipe(object: &mut Value) {
    let metadata = tree::metadata(object);
    for name in ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"] {
        metadata.remove(name);
    }
}

/// UID and time of birth.
pub(crate) fn fill(object: &mut Value, world: &dyn World) {
    let metadata = tree::metadata(object);
    metadata.insert("uid".to_owned(), Value::from(world.uuid()));
    metadata.insert("creationTimestamp".to_owned(), Value::from(tree::timestamp(world.now())));
}

/// Whether the server has to make up a name.
pub(crate) fn wants_name(object: &Value) -> bool {
    tree::text(object, &["metadata", "name"]).is_empty()
        && !tree::text(object, &["metadata", "generateName"]).is_empty()
}

/// Makes up a name from `generateName`.
pub(crate) fn generate_name(object: &mut Value, world: &dyn World) {
    let base = tree::text(object, &["metadata", "generateName"]);
    let cut: String = base.chars().take(BASE).collect();
    let name = format!("{cut}{}", world.name_suffix(SUFFIX));
    tree::metadata(object).insert("name".to_owned(), Value::from(name));
}

/// Before an update's preparation: clients cannot set the generation.
pub(crate) fn keep_generation(new: &mut Value, old: &Value) {
    let generation = tree::at(old, &["metadata", "generation"]).cloned();
    tree::put(tree::metadata(new), "generation", generation);
}

/// After an update's preparation: what no update can change.
pub(crate) fn keep_system_fields(new: &mut Value, old: &Value) {
    let old = |name: &str| tree::at(old, &["metadata", name]).cloned();
    let metadata = tree::metadata(new);
    metadata.remove("selfLink");
    if metadata.get("uid").and_then(Value::as_str).unwrap_or_default().is_empty() {
        tree::put(metadata, "uid", old("uid"));
    }
    if let Some(born) = old("creationTimestamp") {
        metadata.insert("creationTimestamp".to_owned(), born);
    }
    if let Some(time) = old("deletionTimestamp") {
        metadata.insert("deletionTimestamp".to_owned(), time);
    }
    if metadata.get("deletionGracePeriodSeconds").is_none_or(Value::is_null) {
        tree::put(metadata, "deletionGracePeriodSeconds", old("deletionGracePeriodSeconds"));
    }
}

/// Drops repeated owner references, as upstream does for clients that send them; what to warn of if there were any.
pub(crate) fn drop_repeated_owners(object: &mut Value) -> Option<String> {
    let owners = object.pointer_mut("/metadata/ownerReferences").and_then(Value::as_array_mut)?;
    let mut seen: Vec<Value> = Vec::with_capacity(owners.len());
    let mut repeated = Vec::new();
    owners.retain(|owner| {
        let new = !seen.contains(owner);
        if new {
            seen.push(owner.clone());
        } else {
            repeated.push(tree::text(owner, &["uid"]).to_owned());
        }
        new
    });
    (!repeated.is_empty()).then(|| {
        format!(
            ".metadata.ownerReferences contains duplicate entries; API server dedups owner references in 1.20+, and may \
             reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {}",
            repeated.join(", ")
        )
    })
}

/// Removes empty members that mean nothing, so that an object that never had labels looks the same as one that lost
/// them. Go leaves them out as well.
pub(crate) fn tidy(object: &mut Value) {
    let metadata = tree::metadata(object);
    let empty = |value: &Value| match value {
        Value::Null => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    };
    metadata.retain(|name, value| !(empty(value) || name == "generation" && value.as_i64() == Some(0)));
}

/// Asks an object without grace period to go: its finalizers see this and do their work.
pub(crate) fn mark_deleting(object: &mut Value, now: Timestamp) {
    let set = tree::text(object, &["metadata", "deletionTimestamp"]);
    let later = set.parse::<Timestamp>().is_ok_and(|t| t > now);
    let unset = set.is_empty();
    let generation = tree::number(object, &["metadata", "generation"]).unwrap_or(0);
    let metadata = tree::metadata(object);
    if unset && generation > 0 {
        metadata.insert("generation".to_owned(), Value::from(generation.wrapping_add(1)));
    }
    if unset || later {
        metadata.insert("deletionTimestamp".to_owned(), Value::from(tree::timestamp(now)));
    }
    metadata.insert("deletionGracePeriodSeconds".to_owned(), Value::from(0));
}
