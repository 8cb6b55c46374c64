//! The floors of the house (docs/architecture.md): a crate knows only crates on lower floors.
//!
//! Proven from Cargo's own metadata, dev- and build-dependencies included. A few doors are narrower than the floors:
//! the store is the server's alone, rules are the server's (and the node's, for static pods), runtime and plugins are the
//! node's.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::Failure;
use crate::run::{cargo, output};

const FLOORS: &[(&str, u8)] = &[
    ("skiff-meta", 0),
    ("skiff-cel", 1),
    ("skiff-store", 1),
    ("skiff-cri", 1),
    ("skiff-plugins", 1),
    ("skiff-api", 1),
    ("skiff-rules", 2),
    ("skiff-client", 2),
    ("skiff-server", 3),
    ("skiff-controllers", 3),
    ("skiff-scheduler", 3),
    ("skiff-node", 3),
    ("skiff-net", 3),
    ("skiff-cli", 3),
    ("skiff", 4),
    ("skiff-testkit", 5),
    ("skiff-conformance", 6),
];

/// Rooms that only some may enter from below the binary.
const DOORS: &[(&str, &[&str])] = &[
    ("skiff-store", &["skiff-server"]),
    ("skiff-rules", &["skiff-server", "skiff-node"]),
    ("skiff-cri", &["skiff-node"]),
    ("skiff-plugins", &["skiff-node"]),
];

/// Every dependency that goes up, sideways, or through a door that is not its own.
pub(crate) fn check() -> Result<(), Failure> {
    let text = output(&mut cargo(["metadata", "--format-version", "1", "--no-deps", "--locked"]))?;
    let metadata: Value = serde_json::from_str(&text).map_err(|e| format!("cargo metadata: {e}"))?;
    let faults = faults(&dependencies(&metadata));
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n       ")) }
}

fn dependencies(metadata: &Value) -> BTreeMap<String, Vec<String>> {
    let names = |value: &Value| value.as_array().cloned().unwrap_or_default();
    names(&metadata["packages"])
        .iter()
        .map(|p| {
            let of = p["name"].as_str().unwrap_or_default().to_owned();
            let on = names(&p["dependencies"]).iter().filter_map(|d| d["name"].as_str().map(str::to_owned)).collect();
            (of, on)
        })
        .collect()
}

fn faults(dependencies: &BTreeMap<String, Vec<String>>) -> Vec<String> {
    let floor = |name: &str| FLOORS.iter().find(|(n, _)| *n == name).map(|(_, f)| *f);
    let mut faults = Vec::new();
    for (of, on) in dependencies {
        if of == "xtask" {
            faults.extend(
                on.iter()
                    .filter(|n| floor(n).is_some())
                    .map(|n| format!("xtask knows {n}, but stands beside the house")),
            );
            continue;
        }
        let Some(own) = floor(of) else {
            faults.push(format!("{of} has no floor; give it one in xtask/src/floors.rs and docs/architecture.md"));
            continue;
        };
        for name in on {
            let Some(other) = floor(name) else { continue };
            if other >= own {
                faults.push(format!("{of} (floor {own}) depends on {name} (floor {other})"));
            }
            let doors = DOORS.iter().find(|(n, _)| n == name);
            if own < 4 && doors.is_some_and(|(_, allowed)| !allowed.contains(&of.as_str())) {
                faults.push(format!("{of} enters {name}, which is not its room"));
            }
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(of: &str, on: &[&str]) -> Vec<String> {
        faults(&BTreeMap::from([(of.to_owned(), on.iter().map(|s| (*s).to_owned()).collect())]))
    }

    #[test]
    fn only_downwards() {
        assert!(one("skiff-server", &["skiff-store", "skiff-rules", "serde"]).is_empty());
        assert_eq!(one("skiff-meta", &["skiff-api"]).len(), 1);
        assert_eq!(one("skiff-node", &["skiff-net"]).len(), 1, "rooms of one floor never meet");
        assert_eq!(one("skiff-controllers", &["skiff-store"]).len(), 1, "the store is the server's");
        assert_eq!(one("skiff-attic", &[]).len(), 1, "a crate without a floor");
    }

    #[test]
    fn this_house_stands() {
        check().unwrap();
    }
}
