//! etcd's role in Kubernetes: revisioned bytes behind one contract with several engines.
//!
//! The store knows keys and values, never kinds. It promises: every acknowledged write is durable, revisions are
//! total and gapless in order, a transaction is all or nothing, and a watch sees each write exactly once, in order.
//! Keys are laid out as upstream lays them out in etcd (`/registry/pods/NAMESPACE/NAME`), so that a cluster can move.

pub mod contract;

pub use contract::*;
