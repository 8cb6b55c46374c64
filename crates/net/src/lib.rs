//! The pod network: CNI plugin, Services on nftables, cluster DNS.
//!
//! Four parts that share no state but the machine: the [`cni`] plugin, a short-lived process that hangs a pod on the
//! node; [`network`], which sets up what the plugin builds on; [`proxy`], which turns Services into an nftables table;
//! and [`dns`], which answers the cluster's names. The last three watch the API and are started together by [`run`].
//! What is decided is decided in plain values ([`proxy::plan`], [`dns::Zone`], [`nft::Table`]) that tests can read; what
//! touches the machine stands behind narrow traits ([`cni::Effects`], [`nft::Nft`]).
//!
//! IPv4 only, one node per network so far.

pub mod cni;
mod config;
pub mod dns;
mod error;
#[cfg(test)]
mod fake;
mod names;
pub mod netlink;
pub mod network;
pub mod nft;
mod ports;
pub mod proxy;
mod run;
mod sysctl;
mod watch;

pub use config::{NetConfig, NetworkMode};
pub use error::NetError;
pub use names::Instance;
pub use ports::PodNetwork;
pub use run::{Clients, run};
