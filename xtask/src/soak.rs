//! `cargo xtask soak`: the long form of tests whose short form is part of `cargo xtask test`.

use clap::ValueEnum;

use crate::Failure;
use crate::run::{cargo, run};

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
    /// A Deployment's life under 5,000 seeds
    Simulation,
    /// All of them
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
            Self::Simulation => ["skiff-testkit", "simulation", "SKIFF_SEEDS", "5000"],
            Self::All => return None,
        })
    }
}

/// Runs one, or all in turn; the environment may ask for more than the plan.
pub(crate) fn soak(which: Soak) -> Result<(), Failure> {
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
