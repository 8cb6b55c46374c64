//! The pod network: CNI plugin, Services on nftables, cluster DNS.
//!
//! Six parts that share no state but the machine: the [`cni`] plugin, a short-lived process that hangs a pod on the
//! node; [`network`], which sets up what the plugin builds on; [`peers`], the way to other nodes' pods; [`proxy`], which
//! turns Services into an nftables table; [`policy`], which does the same with network policies; and [`dns`], which
//! answers the cluster's names. All but the first two watch the API; [`run`] starts them together.
//! What is decided is decided in plain values ([`proxy::plan`], [`dns::Zone`], [`nft::Table`]) that tests can read; what
//! touches the machine stands behind narrow traits ([`cni::Effects`], [`nft::Nft`]).
//!
//! Every range of addresses is of one family; what is kept per family (tables, routes) is the same code twice.

pub mod cni;
mod config;
pub mod dns;
mod error;
#[cfg(test)]
mod fake;
mod family;
mod guard;
mod http;
mod names;
pub mod netlink;
pub mod network;
mod news;
pub mod nft;
mod others;
pub mod peers;
pub mod policy;
mod ports;
pub mod proxy;
mod run;
mod sysctl;
mod watch;
pub mod wireguard;

pub use config::{NetConfig, NetworkMode};
pub use error::NetError;
pub use family::Family;
pub use guard::Losses;
pub use names::Instance;
pub use ports::PodNetwork;
pub use run::{Clients, run};
