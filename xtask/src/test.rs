//! `cargo xtask test`: everything that CI runs, by group.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use clap::ValueEnum;

use crate::Failure;
use crate::run::{cargo, run, target};
use crate::{check, clients, image, install};

/// What to run.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Group {
    /// Pure tests of every crate
    Unit,
    /// The pipeline and the black-box suite on a server without nodes
    Api,
    /// Real containers (as root)
    Cluster,
    /// All of them, and the checks
    All,
}

/// Test files that need root, containers or a built binary. Cargo leaves them out unless they are named (`test = false`
/// in the manifest).
const CLUSTER: &[&str] = &["root_net", "cluster", "wire_pods", "several_nodes"];

/// The same on servers without nodes: what the API says on the wire, several servers on one etcd, kubectl's verbs.
const WIRE: &[&str] = &[
    "wire",
    "wire_access",
    "wire_admission",
    "wire_aggregation",
    "wire_apps",
    "wire_cel",
    "wire_flow",
    "wire_kube",
    "wire_noise",
    "wire_scheduling",
    "wire_services",
    "wire_watch",
    "wire_versions",
    "server",
    "servers",
    "kubectl",
    "clients",
    "extenders",
];

/// What a whole run builds is the same for all its parts: Cargo chooses the features of libraries by what is asked for
/// together, and would build most of them anew for each package alone.
const EVERYTHING: &str = "--workspace";

/// Runs a group; the last line says how many tests ran.
pub(crate) fn test(group: Group) -> Result<(), Failure> {
    let mut tally = Tally::default();
    let mut faults = Vec::new();
    let all = group == Group::All;
    if all {
        faults.extend(check::check().err());
    }
    if group != Group::Cluster {
        faults.extend(install::ensure(install::TESTS).err());
    }
    if all {
        faults.extend(tally.cargo_test(&[EVERYTHING]).err());
    }
    if group == Group::Unit {
        let unit = [EVERYTHING, "--exclude", "skiff-testkit", "--exclude", "skiff-conformance"];
        faults.extend(tally.cargo_test(&unit).err());
    }
    if group == Group::Api {
        faults.extend(tally.cargo_test(&["-p", "skiff-testkit", "-p", "skiff-conformance"]).err());
    }
    if all || group == Group::Api {
        faults.extend(clients::ensure().err());
        faults.extend(on_the_binary(WIRE, &mut tally).err());
    }
    if all || group == Group::Cluster {
        faults.extend(cluster(&mut tally).err());
    }
    println!("\n{} passed, {} failed", tally.passed, tally.failed);
    if faults.is_empty() && tally.failed == 0 { Ok(()) } else { Err(faults.join("\n       ")) }
}

/// The cluster's cases alone, with so many kills.
pub(crate) fn cluster_cases(kills: &str) -> Result<(), Failure> {
    let mut tally = Tally { kills: Some(kills.to_owned()), ..Tally::default() };
    prepare_cluster()?;
    let done = on_the_binary(&["cluster"], &mut tally);
    println!("\n{} passed, {} failed", tally.passed, tally.failed);
    done
}

fn cluster(tally: &mut Tally) -> Result<(), Failure> {
    prepare_cluster()?;
    on_the_binary(CLUSTER, tally)
}

fn prepare_cluster() -> Result<(), Failure> {
    if !install::is_root() {
        return Err("the cluster tests start containers; run them as root".to_owned());
    }
    install::ensure(install::NODE)?;
    install::ensure(install::TESTS)?;
    let images = target().join("images");
    image::build("all", &images)?;
    clients::ensure().map(drop)
}

fn on_the_binary(targets: &[&str], tally: &mut Tally) -> Result<(), Failure> {
    run(&mut cargo(["build", "--locked", "--quiet", EVERYTHING, "--bins", "--tests"]))?;
    let mut faults = Vec::new();
    for name in targets {
        faults.extend(tally.cargo_test(&[EVERYTHING, "--test", name]).err());
    }
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n       ")) }
}

#[derive(Default)]
struct Tally {
    passed: usize,
    failed: usize,
    /// How often the cluster's processes are killed, where that is not as usual.
    kills: Option<String>,
}

impl Tally {
    /// Runs `cargo test`, shows its output and counts from its closing lines.
    fn cargo_test(&mut self, args: &[&str]) -> Result<(), Failure> {
        let mut command = cargo(["test", "--locked", "--no-fail-fast"]);
        command.args(args).stdout(Stdio::piped());
        command.env("SKIFF_BIN", target().join("debug/skiff")).env("SKIFF_IMAGES", target().join("images"));
        command.env("SKIFF_CLIENTS", target().join("clients"));
        command.envs(self.kills.iter().map(|kills| ("SKIFF_KILLS", kills)));
        let mut child = command.spawn().map_err(|e| format!("cannot start cargo test: {e}"))?;
        if let Some(stdout) = child.stdout.take() {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                self.count(&line);
                println!("{line}");
            }
        }
        let status = child.wait().map_err(|e| format!("cargo test: {e}"))?;
        if status.success() { Ok(()) } else { Err(format!("cargo test {}: {status}", args.join(" "))) }
    }

    fn count(&mut self, line: &str) {
        let Some(rest) = line.strip_prefix("test result: ") else { return };
        let number = |word: &str| {
            rest.split([';', '.'])
                .find_map(|part| part.trim().strip_suffix(word)?.trim().parse::<usize>().ok())
                .unwrap_or(0)
        };
        self.passed += number("passed");
        self.failed += number("failed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_are_counted() {
        let mut tally = Tally::default();
        tally.count("test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 3 filtered out; finished in 0.10s");
        tally.count("test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out");
        tally.count("test foo ... ok");
        assert_eq!((tally.passed, tally.failed), (13, 2));
    }
}
