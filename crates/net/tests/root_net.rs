//! The pod network on the kernel's own: namespaces, veths, nftables. Needs root and nftables.
//!
//! Every test makes a network namespace that plays the machine, with an uplink to another one that plays the world; the
//! system's own network is not touched, and everything is gone with the test's thread.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail as tests do")]

#[path = "root_net/cni.rs"]
mod cni;
#[path = "root_net/machine.rs"]
mod machine;
#[path = "root_net/peers.rs"]
mod peers;
#[path = "root_net/policy.rs"]
mod policy;
#[path = "root_net/services.rs"]
mod services;
#[path = "root_net/whole.rs"]
mod whole;
