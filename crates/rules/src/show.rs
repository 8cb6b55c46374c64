//! Cells as upstream's tables have them.

use jiff::Timestamp;
use serde_json::Value;

/// `5s`, `3m12s`, `2d3h`: how long ago; `<unknown>` without a time.
pub(crate) fn age(time: &Value, now: Timestamp) -> String {
    crate::age::since(time, now)
}

/// The name of the object.
pub(crate) fn name(object: &Value) -> Value {
    object["metadata"]["name"].clone()
}

/// The age of the object.
pub(crate) fn created(object: &Value, now: Timestamp) -> Value {
    age(&object["metadata"]["creationTimestamp"], now).into()
}
