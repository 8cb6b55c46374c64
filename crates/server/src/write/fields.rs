//! Field ownership of writes that are no server-side apply, and what parts of the API reset.

use serde_json::Value;
use skiff_meta::apply::{self, FieldSet, Writer};
use skiff_rules::Part;

use crate::call::Call;

/// Fields that writing this part owns nothing of, since the part resets them.
pub(crate) fn reset(call: &Call, part: Part) -> FieldSet {
    FieldSet::of_fields(call.served.version.rules().reset_fields(part))
}

/// Who writes, for the book-keeping.
pub(crate) fn writer<'a>(call: &'a Call, manager: &'a str, reset: &'a FieldSet) -> Writer<'a> {
    Writer {
        manager,
        api_version: &call.served.version.api_version,
        subresource: &call.target.subresource,
        now: call.api.world.now(),
        reset,
    }
}

/// Notes who now owns what.
pub(crate) fn note(call: &Call, live: Option<&Value>, new: &mut Value, manager: &str, part: Part) {
    let manager = call.manager(manager);
    let reset = reset(call, part);
    apply::update(live, new, call.served.version.root(), &writer(call, &manager, &reset));
}

/// Whether two objects differ in nothing but the times in their managed fields and the old one's resourceVersion: then
/// nothing was changed.
pub(crate) fn same_but_for_times(new: &Value, old: &Value) -> bool {
    let (Some(new), Some(old)) = (new.as_object(), old.as_object()) else { return false };
    let elsewhere = new.len() == old.len() && new.iter().all(|(k, v)| k == "metadata" || old.get(k) == Some(v));
    elsewhere && without_times(new.get("metadata")) == without_times(old.get("metadata"))
}

fn without_times(metadata: Option<&Value>) -> Option<Value> {
    let mut metadata = metadata?.clone();
    metadata.as_object_mut()?.remove("resourceVersion");
    let entries = metadata.get_mut("managedFields").and_then(Value::as_array_mut);
    for entry in entries.into_iter().flatten().filter_map(Value::as_object_mut) {
        entry.remove("time");
    }
    Some(metadata)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn times_of_managed_fields_are_no_change() {
        let object = |time: &str, data: &str| json!({"data": {"k": data}, "metadata": {"name": "a", "managedFields": [{"manager": "m", "time": time}]}});
        assert!(same_but_for_times(&object("1", "x"), &object("2", "x")));
        assert!(!same_but_for_times(&object("1", "x"), &object("1", "y")));
        assert!(!same_but_for_times(&object("1", "x"), &json!({"data": {"k": "x"}, "metadata": {"name": "b"}})));
    }
}
