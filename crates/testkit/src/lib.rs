//! Clusters for tests: whole server processes and cases that share one, and whole clusters in one simulated process.

pub mod cases;
pub mod cluster;
pub mod faults;
mod ground;
pub mod hollow;
pub mod nodes;
pub mod process;
pub mod sim;
pub mod witness;
pub mod writes;

pub use cluster::{Cluster, Options};
pub use sim::Sim;
