//! etcd's role in Kubernetes: revisioned bytes behind one contract with several engines.
//!
//! The store knows keys and values, never kinds. It promises: every acknowledged write is durable, revisions are
//! total and gapless in order, a transaction is all or nothing, and a watch sees each write exactly once, in order.
//! Keys are laid out as upstream lays them out in etcd (`/registry/pods/NAMESPACE/NAME`), so that a cluster can move.
//!
//! [`MemoryStore`] and [`EmbeddedStore`] are one engine, without and with a log on disk. The state is a plain value
//! (`state`, made of `index`, `history` and `lease`) behind one lock; `engine` brings it to callers, `watch` to watchers,
//! `staging` and `log` to the disk. [`EtcdStore`] is the same contract over etcd v3.

pub mod contract;
pub mod disk;
mod engine;
mod entry;
mod etcd;
mod expiry;
pub mod face;
mod history;
mod index;
mod lease;
mod log;
mod promise;
pub mod proto;
mod slot;
pub mod snapshot;
mod sorted;
mod staging;
mod state;
mod watch;

pub use contract::*;
pub use engine::{EmbeddedStore, Engine, Logged, MemoryStore, Volatile};
pub use etcd::{EtcdConfig, EtcdStore};
pub use log::{HistoryLimits, Options};
pub use snapshot::Snapshot;
pub use state::Retention;
