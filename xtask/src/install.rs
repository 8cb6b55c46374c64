//! Installs Debian packages that are missing, and says so; does nothing where nothing is.

use std::process::Stdio;

use crate::Failure;
use crate::run::{command, has, run};

/// A program and the Debian package it comes in.
type Need = (&'static str, &'static str);

/// What a node needs.
pub(crate) const NODE: &[Need] = &[
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("runc", "runc"),
    ("nft", "nftables"),
    ("ip", "iproute2"),
    ("conntrack", "conntrack"),
];

/// What the tests and benches need beyond that.
pub(crate) const TESTS: &[Need] =
    &[("wrk", "wrk"), ("jq", "jq"), ("curl", "curl"), ("etcdctl", "etcd-client"), ("etcd", "etcd-server")];

/// Makes sure that each program is there.
pub(crate) fn ensure(needs: &[Need]) -> Result<(), Failure> {
    let mut missing: Vec<&str> =
        needs.iter().filter(|(program, _)| !has(program)).map(|(_, package)| *package).collect();
    missing.sort_unstable();
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    if !is_root() {
        return Err(format!("missing Debian packages: {}; install them, or run this as root", missing.join(" ")));
    }
    println!("installing {}", missing.join(" "));
    apt(["update", "-qq"])?;
    let mut args = vec!["install", "-y", "-qq", "--no-install-recommends"];
    args.extend(missing);
    apt(args)
}

/// One quiet, unattended apt-get. Services that packages bring are not started (`policy-rc.d` by environment).
pub(crate) fn apt<'a>(args: impl IntoIterator<Item = &'a str>) -> Result<(), Failure> {
    let mut apt = command("apt-get", args);
    run(apt.env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1").stdout(Stdio::null()))
}

/// Whether we are root.
pub(crate) fn is_root() -> bool {
    std::fs::read_to_string("/proc/self/status")
        .is_ok_and(|s| s.lines().any(|l| l.starts_with("Uid:") && l.split_whitespace().nth(2) == Some("0")))
}
