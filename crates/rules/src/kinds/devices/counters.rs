//! What devices of a slice share, and what each of them takes of it.

use skiff_meta::field::{FieldError, FieldErrors};
use skiff_meta::names;

use crate::at::At;
use crate::view::View;

/// Most sets of counters in a slice, counters in a set, and sets that a device takes from.
const MOST_SETS: usize = 8;
const MOST_COUNTERS: usize = 32;
const MOST_TAKEN: usize = 2;

/// Faults of the counters that devices of a slice share.
pub(super) fn shared(spec: &At<'_>, out: &mut FieldErrors) {
    spec.each_unique("sharedCounters", (MOST_SETS, "name"), |set, out| counters(set, "name", out), out);
}

/// Faults of what a device takes from them.
pub(super) fn consumed(device: &At<'_>, out: &mut FieldErrors) {
    let taken = |taken: &At<'_>, out: &mut FieldErrors| counters(taken, "counterSet", out);
    device.each_unique("consumesCounters", (MOST_TAKEN, "counterSet"), taken, out);
}

fn counters(at: &At<'_>, name: &str, out: &mut FieldErrors) {
    at.require_form(name, names::dns1123_label, out);
    let path = at.path("counters");
    match at.value.count("counters") {
        0 => out.push(FieldError::required(&path, "")),
        count if count > MOST_COUNTERS => out.push(FieldError::too_many(&path, count, MOST_COUNTERS)),
        _ => {
            for (counter, _) in at.entries("counters") {
                out.extend(names::dns1123_label(counter).iter().map(|why| FieldError::invalid(&path, counter, why)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn faults() {
        let device =
            json!({"consumesCounters": [{"counterSet": "s", "counters": {"c": {"value": "1"}}}, {"counterSet": "s"}]});
        let slice = json!({"sharedCounters": [{"name": "S", "counters": {"c_": {}}}]});
        let mut found = Vec::new();
        consumed(&At::root(&device), &mut found);
        shared(&At::root(&slice), &mut found);
        let paths: Vec<&str> = found.iter().map(|fault| fault.path.as_str()).collect();
        assert_eq!(
            paths,
            [
                "consumesCounters[1].counters",
                "consumesCounters[1]",
                "sharedCounters[0].name",
                "sharedCounters[0].counters"
            ]
        );
    }
}
