//! Doubtful use: what is accepted, and told about in a header.
//!
//! All of it stands here rather than with the rules of each kind, since most kinds warn of the same few things: labels
//! of nodes that have new names, addresses written in unusual ways, fractions of bytes, and whatever is odd about pods.

mod kinds;
mod paths;
mod pods;

use serde_json::Value;
use skiff_meta::Quantity;
use skiff_meta::field::FieldPath;
use skiff_meta::names;
use skiff_meta::quantity::canonical_text;

use crate::at::At;
use crate::view::View;

pub(crate) use kinds::*;
pub(crate) use pods::app_armor_profile;

/// What is told, in order.
type Warnings = Vec<String>;

/// Labels of nodes that are set no longer (`pkg/api/node/util.go`).
const OLD_NODE_LABELS: &[(&str, &str)] = &[
    ("app.kubernetes.io/created-by", "deprecated since v1.9"),
    ("beta.kubernetes.io/arch", "deprecated since v1.14; use \"kubernetes.io/arch\" instead"),
    ("beta.kubernetes.io/instance-type", "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead"),
    ("beta.kubernetes.io/os", "deprecated since v1.14; use \"kubernetes.io/os\" instead"),
    (
        "failure-domain.beta.kubernetes.io/region",
        "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
    ),
    ("failure-domain.beta.kubernetes.io/zone", "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead"),
    ("node-role.kubernetes.io/master", "use \"node-role.kubernetes.io/control-plane\" instead"),
    ("scheduler.alpha.kubernetes.io/preferAvoidPods", "deprecated since v1.22; use Taints and Tolerations instead"),
];

/// What to say of a label of nodes, if anything.
fn old_node_label(label: &str) -> Option<&'static str> {
    OLD_NODE_LABELS.iter().find(|(old, _)| *old == label).map(|(_, why)| *why)
}

/// Warns of old labels in the expressions of a selector of nodes, and of values that no label has.
fn node_expressions(term: &At<'_>, values: bool, out: &mut Warnings) {
    for expression in term.items("matchExpressions") {
        let key = expression.text("key");
        if let Some(why) = old_node_label(key) {
            out.push(format!("{}: {key} is {why}", expression.path("key")));
        }
        for value in expression.items("values").filter(|_| values) {
            let text = value.value.as_str().unwrap_or_default();
            out.extend(names::label_value(text).iter().map(|why| format!("{}: {text} is invalid, {why}", value.path)));
        }
    }
}

/// Warns of a part of a byte at `name`.
fn fraction(list: &At<'_>, name: &str, out: &mut Warnings) {
    let amount = list.value.get_or_null(name);
    if Quantity::from_json(amount).is_ok_and(|amount| amount.milli() % 1000 != 0) {
        let path = list.path.key(name);
        out.push(format!("{path}: fractional byte value {:?} is invalid, must be an integer", shown(amount)));
    }
}

/// An amount as it is written in the end.
fn shown(amount: &Value) -> String {
    let text = amount.as_str().map_or_else(|| amount.to_string(), str::to_owned);
    canonical_text(&text).unwrap_or(text)
}

/// Warns of a claim's amounts.
fn claim_spec(spec: &At<'_>, out: &mut Warnings) {
    for list in ["requests", "limits"] {
        fraction(&spec.get("resources").get(list), "storage", out);
    }
}

/// Whether the desired state has changed, or is new.
fn counts(new: &Value, old: Option<&Value>) -> bool {
    old.is_none_or(|old| new.at("metadata.generation") != old.at("metadata.generation"))
}

/// Names that become part of pods' names and hostnames should be labels.
fn name(object: &Value, used_in: &str, out: &mut Warnings) {
    let faults = names::dns1123_label(object.at("metadata").text("name"));
    if !faults.is_empty() {
        out.push(format!(
            "metadata.name: this is used in {used_in}, which can result in surprising behavior; a DNS label is \
             recommended: [{}]",
            faults.join(" ")
        ));
    }
}

fn annotations(object: &Value) -> At<'_> {
    At { value: object.at("metadata.annotations"), path: FieldPath::new("metadata.annotations") }
}

#[cfg(test)]
mod tests;
