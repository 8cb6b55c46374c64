//! `cargo xtask check`: format, lints, floors, licences, and the rules of the house that a program can see.

use std::path::Path;

use serde_json::Value;

use crate::Failure;
use crate::floors;
use crate::run::{cargo, command, output, root, run};

/// Licences that may be linked into an Apache-2.0 binary.
const LICENCES: &[&str] = &[
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "MIT",
    "MIT-0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "Unicode-3.0",
    "0BSD",
    "Unlicense",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "BSL-1.0",
    "MPL-2.0",
];

pub(crate) fn check() -> Result<(), Failure> {
    let mut faults = Vec::new();
    let mut step = |name: &str, done: Result<(), Failure>| {
        println!("{} {name}", if done.is_ok() { "ok  " } else { "FAIL" });
        faults.extend(done.err().map(|why| format!("{name}: {why}")));
    };
    step("format", run(&mut cargo(["fmt", "--all", "--check"])));
    step("floors", floors::check());
    step("licences", licences());
    step("house", house());
    step(
        "lints",
        run(&mut cargo([
            "clippy",
            "--workspace",
            "--all-targets",
            "--test",
            "*",
            "--locked",
            "--quiet",
            "--",
            "-D",
            "warnings",
        ])),
    );
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n       ")) }
}

/// Every dependency's licence allows what we do.
fn licences() -> Result<(), Failure> {
    let text = output(&mut cargo(["metadata", "--format-version", "1", "--locked"]))?;
    let metadata: Value = serde_json::from_str(&text).map_err(|e| format!("cargo metadata: {e}"))?;
    let packages = metadata["packages"].as_array().cloned().unwrap_or_default();
    let bad: Vec<String> = packages
        .iter()
        .filter(|p| !p["license"].as_str().is_some_and(allowed))
        .map(|p| format!("{} ({})", p["name"].as_str().unwrap_or("?"), p["license"].as_str().unwrap_or("none")))
        .collect();
    if bad.is_empty() { Ok(()) } else { Err(format!("not allowed: {}", bad.join(", "))) }
}

/// Whether an SPDX expression can be met from [`LICENCES`]: of each AND all, of each OR one.
fn allowed(expression: &str) -> bool {
    let plain = expression.replace('/', " OR ").replace(['(', ')'], " ");
    if expression.contains('(') {
        // `(A OR B) AND C`: every name must be fine on one side of its OR; judged group by group.
        return expression.split(" AND ").all(|part| {
            part.trim_matches(['(', ')', ' '])
                .split(" OR ")
                .any(|l| LICENCES.contains(&l.trim_matches(['(', ')', ' '])))
        });
    }
    plain.split(" OR ").any(|choice| choice.split(" AND ").all(|l| LICENCES.contains(&l.trim())))
}

/// No ignored test, no stub, no file that nobody can read to the end.
fn house() -> Result<(), Failure> {
    let files = output(&mut command("git", ["ls-files", "--cached", "--others", "--exclude-standard", "*.rs"]))?;
    let mut faults = Vec::new();
    for file in files.lines() {
        let text = std::fs::read_to_string(root().join(Path::new(file))).map_err(|e| format!("{file}: {e}"))?;
        let lines = text.lines().count();
        if lines > 1000 && !text.contains("uniform table") {
            faults.push(format!("{file} has {lines} lines; split it"));
        }
        for stub in [concat!("#[ig", "nore"), concat!("to", "do!("), concat!("unimple", "mented!(")] {
            if text.contains(stub) {
                faults.push(format!("{file} has {stub}"));
            }
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(faults.join("; ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licence_expressions() {
        assert!(allowed("MIT OR Apache-2.0"));
        assert!(allowed("MIT/Apache-2.0"));
        assert!(allowed("(MIT OR Apache-2.0) AND Unicode-3.0"));
        assert!(allowed("GPL-3.0 OR MIT"));
        assert!(!allowed("GPL-3.0"));
        assert!(!allowed("MIT AND GPL-3.0"));
    }
}
