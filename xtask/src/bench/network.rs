//! The network: what changes of Services cost, what a ClusterIP costs a connection, how many names are answered.
//!
//! The work is done by an example of the network's crate, in a namespace of its own.

use std::process::Command;

use super::Table;
use crate::Failure;
use crate::install;
use crate::run::{cargo, run, target};

/// Builds the load, runs it, and takes its figures over.
pub(crate) fn measure(table: &mut Table) -> Result<(), Failure> {
    install::ensure(&[("dnsmasq", "dnsmasq-base")])?;
    run(&mut cargo(["build", "--locked", "--release", "-p", "skiff-net", "--example", "network"]))?;
    let program = target().join("release/examples/network");
    let output = Command::new(&program).output().map_err(|e| format!("{}: {e}", program.display()))?;
    if !output.status.success() {
        return Err(format!("the network's bench failed: {}", String::from_utf8_lossy(&output.stderr)));
    }
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        if let Some((what, figure)) = line.rsplit_once(": ") {
            table.row(what, figure);
        }
    }
    Ok(())
}
