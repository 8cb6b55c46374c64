//! What keeps claims away from devices, and which claims do not mind.

use serde_json::Value;
use skiff_meta::field::FieldErrors;
use skiff_meta::names;

use crate::at::At;
use crate::view::Change;

const EFFECTS: &[&str] = &["NoExecute", "NoSchedule", "None"];
const MOST_TAINTS: usize = 16;

/// Fills in how a request's tolerations compare.
pub(super) fn default_tolerations(request: &mut Value) {
    request.items_mut("tolerations").iter_mut().for_each(|toleration| toleration.default_text("operator", "Equal"));
}

/// Faults of a request's tolerations.
pub(super) fn tolerations(request: &At<'_>, out: &mut FieldErrors) {
    for toleration in request.items("tolerations") {
        toleration.form("key", names::qualified_name, out);
        match toleration.text("operator") {
            "Exists" if !toleration.text("value").is_empty() => {
                toleration.invalid("value", "must be empty for operator `Exists`", out);
            }
            "Exists" => {}
            "Equal" => toleration.faults("value", &names::label_value(toleration.text("value")), out),
            _ => toleration.one_of("operator", &["Equal", "Exists"], out),
        }
        if !toleration.text("effect").is_empty() {
            toleration.one_of("effect", EFFECTS, out);
        }
    }
}

/// Faults of a device's taints.
pub(super) fn taints(device: &At<'_>, out: &mut FieldErrors) {
    let taint = |taint: &At<'_>, out: &mut FieldErrors| {
        taint.faults("key", &names::qualified_name(taint.text("key")), out);
        taint.form("value", names::label_value, out);
        taint.one_of("effect", EFFECTS, out);
    };
    device.each("taints", MOST_TAINTS, taint, out);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn faults() {
        let mut request = json!({"tolerations": [
            {"value": "v"}, {"operator": "Exists", "value": "v"}, {"operator": "Like", "key": "a b", "effect": "Never"}]});
        default_tolerations(&mut request);
        let device = json!({"taints": [{"key": "a", "effect": "None"}, {"effect": "Never", "value": "50%"}]});
        let mut found = Vec::new();
        tolerations(&At::root(&request), &mut found);
        taints(&At::root(&device), &mut found);
        let mut paths: Vec<&str> = found.iter().map(|fault| fault.path.as_str()).collect();
        paths.dedup();
        assert_eq!(
            paths,
            [
                "tolerations[1].value",
                "tolerations[2].key",
                "tolerations[2].operator",
                "tolerations[2].effect",
                "taints[1].key",
                "taints[1].value",
                "taints[1].effect",
            ]
        );
    }
}
