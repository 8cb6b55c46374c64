//! Whether the names of a definition are free
//! (upstream: `k8s.io/apiextensions-apiserver/pkg/controller/status/naming_controller.go`).

use serde_json::{Value, json};

use crate::tree;

/// Which names a definition may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// `status.acceptedNames`.
    pub(crate) names: Value,
    /// Reason and message when some name is another's.
    pub(crate) fault: Option<(&'static str, String)>,
}

const RESOURCES: [&str; 2] = ["plural", "singular"];
const KINDS: [&str; 2] = ["kind", "listKind"];

/// Judges the names of a definition against those that others of its group hold. Who was there first holds a name:
/// the status says so, and while it says nothing yet, the creation time does.
pub(crate) fn judge(definition: &Value, all: &[Value]) -> Verdict {
    let wanted = &definition["spec"]["names"];
    let mut names = definition.pointer("/status/acceptedNames").cloned().unwrap_or_else(|| json!({}));
    let (mut resources, mut kinds) = (Vec::new(), Vec::new());
    for other in all.iter().filter(|o| is_rival(definition, o)) {
        let held = held_names(definition, other);
        resources.extend(RESOURCES.iter().map(|n| tree::text(held, &[n])).chain(tree::texts(held, &["shortNames"])));
        kinds.extend(KINDS.iter().map(|n| tree::text(held, &[n])));
    }
    let mut fault = None;
    let taken = |name: &str, among: &[&str]| !name.is_empty() && among.contains(&name);
    let in_use = |name: &str| format!("{name:?} is already in use");
    for (name, among, reason) in [
        ("plural", &resources, "PluralConflict"),
        ("singular", &resources, "SingularConflict"),
        ("kind", &kinds, "KindConflict"),
        ("listKind", &kinds, "ListKindConflict"),
    ] {
        let asked = tree::text(wanted, &[name]);
        if asked != tree::text(&names, &[name]) && taken(asked, among) {
            fault = Some((reason, in_use(asked)));
        } else if !asked.is_empty() {
            names[name] = json!(asked);
        }
    }
    let short = tree::texts(wanted, &["shortNames"]);
    let own: Vec<String> = tree::texts(&names, &["shortNames"]).into_iter().map(str::to_owned).collect();
    match short.iter().find(|s| !own.iter().any(|o| o == *s) && taken(s, &resources)) {
        Some(asked) => fault = Some(("ShortNamesConflict", in_use(asked))),
        None => tree::put(tree::map(&mut names), "shortNames", wanted.get("shortNames").cloned()),
    }
    tree::put(tree::map(&mut names), "categories", wanted.get("categories").cloned());
    Verdict { names, fault }
}

fn is_rival(definition: &Value, other: &Value) -> bool {
    let name = |d: &Value| tree::text(d, &["metadata", "name"]).to_owned();
    name(definition) != name(other) && definition["spec"]["group"] == other["spec"]["group"]
}

/// What another definition holds: what was accepted, or all it asks for when it came first and was not judged yet.
fn held_names<'a>(definition: &Value, other: &'a Value) -> &'a Value {
    if let Some(accepted) = other.pointer("/status/acceptedNames").filter(|n| !tree::text(n, &["plural"]).is_empty()) {
        return accepted;
    }
    let order = |d: &Value| {
        (tree::text(d, &["metadata", "creationTimestamp"]).to_owned(), tree::text(d, &["metadata", "name"]).to_owned())
    };
    if order(other) < order(definition) { &other["spec"]["names"] } else { &Value::Null }
}
