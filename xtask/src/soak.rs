//! `cargo xtask soak`: the long form of tests whose short form is part of `cargo xtask test`.

use std::path::Path;
use std::process::Command;

use clap::ValueEnum;

use crate::Failure;
use crate::bench::{Server, memory};
use crate::run::{cargo, run, target};

/// Which of them.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Soak {
    /// SIGKILL under 16 writers, 500 times
    Crash,
    /// Power cuts that keep any part of what was not synced, 20,000 lives
    Power,
    /// Random operations against the store's model, 20,000 runs
    Model,
    /// Concurrent histories, 1,000 of them, for linearizability
    Linear,
    /// A Deployment's life, and the healing of every owner, under 100,000 seeds each: hours
    Simulation,
    /// Pods come and go while containerd is killed 100 times and the server with its agent 50 times; as root
    Node,
    /// 200,000 damaged requests, bombs, slow readers and writers, half-open upgrades; what the server keeps is told
    Noise,
    /// Generated requests to this server and to `--vs`, and where the answers part
    Diff,
    /// All of them but `node`, `noise` and `diff`
    All,
}

impl Soak {
    /// Package, test and the variable that makes it long.
    fn plan(self) -> Option<[&'static str; 4]> {
        Some(match self {
            Self::Crash => ["skiff-store", "crash", "SKIFF_CRASH_ROUNDS", "500"],
            Self::Power => ["skiff-store", "damage", "SKIFF_POWER_SEEDS", "20000"],
            Self::Model => ["skiff-store", "model", "SKIFF_MODEL_RUNS", "20000"],
            Self::Linear => ["skiff-store", "linear", "SKIFF_LINEAR_ROUNDS", "1000"],
            Self::Simulation => ["skiff-testkit", "simulation", "SKIFF_SEEDS", "100000"],
            Self::Node | Self::Noise | Self::Diff | Self::All => return None,
        })
    }
}

/// Runs one, or all in turn; the environment may ask for more than the plan.
pub(crate) fn soak(which: Soak, vs: Option<&Path>) -> Result<(), Failure> {
    if which == Soak::Diff {
        return diff(vs.ok_or("--vs names the kubeconfig of the other API")?);
    }
    if which == Soak::Node {
        return node();
    }
    if which == Soak::Noise {
        return noise();
    }
    let chosen = Soak::value_variants().iter().filter(|soak| which == Soak::All || **soak == which);
    let mut faults = Vec::new();
    for [package, test, variable, value] in chosen.filter_map(|soak| soak.plan()) {
        let value = std::env::var(variable).unwrap_or_else(|_| value.to_owned());
        println!("{variable}={value} {package} {test}");
        let mut command = cargo(["test", "--locked", "--release", "-p", package, "--test", test]);
        faults.extend(run(command.env(variable, value)).err());
    }
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n       ")) }
}

/// The cluster's cases with many more kills; the last one looks for what was left behind.
fn node() -> Result<(), Failure> {
    let kills = std::env::var("SKIFF_KILLS").unwrap_or_else(|_| "100".to_owned());
    println!("SKIFF_KILLS={kills} skiff-testkit cluster");
    crate::test::cluster_cases(&kills)
}

/// The suite with many more seeds, against one server whose memory is read before and after: noise leaves nothing.
fn noise() -> Result<(), Failure> {
    /// MiB that may be kept more than after the short run, which warms all caches.
    const KEPT: f64 = 64.0;
    run(&mut cargo(["build", "--locked", "--release", "-p", "skiff"]))?;
    let server = Server::alone("agent,scheduler,controller-manager,proxy,dns")?;
    let seeds = std::env::var("SKIFF_SEEDS").unwrap_or_else(|_| "200000".to_owned());
    let mut before = None;
    for seeds in ["400", &seeds] {
        println!("SKIFF_SEEDS={seeds} skiff-conformance wire_noise");
        let mut suite = cargo(["test", "--locked", "-p", "skiff-conformance", "--test", "wire_noise"]);
        run(suite.env("SKIFF_SEEDS", seeds).env("CONFORMANCE_KUBECONFIG", server.kubeconfig()))?;
        let now = memory(server.pid())?;
        println!("the server keeps {now:.1} MiB");
        match before {
            Some(before) if now > before + KEPT => return Err(format!("it kept {before:.1} MiB before")),
            _ => before = Some(now),
        }
    }
    Ok(())
}

/// The same requests to both; the other runs without controllers too, which would change objects in between.
fn diff(theirs: &Path) -> Result<(), Failure> {
    run(&mut cargo(["build", "--locked", "--release", "-p", "skiff", "-p", "skiff-conformance", "--bins"]))?;
    let server = Server::alone("agent,scheduler,controller-manager,proxy,dns")?;
    let rounds = std::env::var("SKIFF_DIFF_ROUNDS").unwrap_or_else(|_| "100".to_owned());
    let mut diff = Command::new(target().join("release/diff"));
    run(diff.arg(rounds).env("OURS", server.kubeconfig()).env("THEIRS", theirs))
}
