//! `cargo xtask bench`: what is promised about speed and size, measured on the built binary and printed as one table.
//!
//! The load comes from `wrk` with the scripts in `bench/`, and from a compiled reader of watches. Everything runs on
//! this machine, server and load on the same cores, so figures of two machines say nothing about each other; `--vs`
//! gives another cluster the same load in the same run.

#![allow(clippy::disallowed_methods, reason = "a bench measures real time, of a process with its own clock")]

mod api;
mod load;
mod network;
mod node;
mod scale;
mod server;
mod steps;
mod worker;

use std::path::PathBuf;

use clap::ValueEnum;

use crate::Failure;
use crate::install::{self, TESTS};
use crate::run::{cargo, run};
use load::Target;
pub(crate) use server::{Server, memory};

/// Which bench.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Bench {
    /// Start, memory, writes, reads and watches of one server, and (as root) a Deployment on real containers
    First,
    /// Only the API server: start, memory, writes, reads, watches; many objects and definitions, a flood, a webhook that hangs
    Api,
    /// Only the store, beside Debian's etcd: durable writes, ranges, watchers, a million keys
    Store,
    /// Only the node: start, first pod, a Deployment, idle memory and CPU
    Node,
    /// Only the controllers: 1,000 Deployments of 10 on hollow nodes, and what it costs to have them
    Controllers,
    /// Only the network, as root: changes of Services, connections through them, names
    Network,
    /// Only the scheduler: upstream's scheduler_perf shapes on 5,000 nodes, on the API server and the durable store
    Scheduler,
}

/// Builds, measures, prints.
pub(crate) fn bench(which: Bench, vs: Option<PathBuf>) -> Result<(), Failure> {
    if matches!(which, Bench::Controllers) {
        return run(&mut cargo(["run", "--locked", "--release", "-p", "skiff-testkit", "--example", "controllers"]));
    }
    if matches!(which, Bench::Scheduler) {
        return run(&mut cargo(["run", "--locked", "--release", "-p", "skiff-testkit", "--example", "scheduler"]));
    }
    let mut table = Table::default();
    if matches!(which, Bench::Network) {
        install::ensure(install::NODE)?;
        network::measure(&mut table)?;
        table.print();
        return Ok(());
    }
    install::ensure(TESTS)?;
    if matches!(which, Bench::Store) {
        return run(&mut cargo(["bench", "--locked", "-p", "skiff-store"]));
    }
    // One package for both, so that the server is built once.
    run(&mut cargo(["build", "--locked", "--release", "-p", "skiff", "--bin", "skiff", "--example", "watchers"]))?;
    if matches!(which, Bench::First | Bench::Api) {
        let other = vs.map(|path| Target::from_kubeconfig(&path)).transpose()?;
        api::measure(&mut table, other.as_ref())?;
    }
    if matches!(which, Bench::Api) {
        scale::measure(&mut table)?;
    }
    if matches!(which, Bench::First | Bench::Node) {
        node::measure(&mut table)?;
    }
    table.print();
    Ok(())
}

/// What was measured, in order; each line is also told when it is known.
#[derive(Default)]
pub(crate) struct Table(Vec<(String, String)>);

impl Table {
    pub(crate) fn row(&mut self, what: impl Into<String>, figure: impl Into<String>) {
        let (what, figure) = (what.into(), figure.into());
        println!("{what}: {figure}");
        self.0.push((what, figure));
    }

    fn print(&self) {
        let width = self.0.iter().map(|(what, _)| what.chars().count()).max().unwrap_or_default();
        println!();
        for (what, figure) in &self.0 {
            println!("{what:width$}  {figure}");
        }
    }
}
