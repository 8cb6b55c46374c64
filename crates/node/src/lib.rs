//! The node agent: makes the pods that the cluster assigns to this node run, and tells how they are.
//!
//! It sees the cluster through the API only, as `system:node:NAME`, and containers through the Container Runtime
//! Interface only. Each pod has a worker ([`pod`]) that looks at what the runtime has, plans the next step as a plain
//! value, takes it, and looks again; nothing is remembered that cannot be found again, so the agent may be killed at any
//! moment and its successor adopts everything as it runs. What is asked of the runtime is computed in [`make`], what is
//! told to the API in `pod::status`; both are pure. The operating system is behind the traits of [`os`].

mod abilities;
mod agent;
mod allocation;
mod archives;
mod config;
mod csi;
mod devices;
mod dra;
pub mod hollow;
mod images;
mod log_rotation;
mod make;
mod metrics;
mod node;
mod node_status;
pub mod os;
mod pinning;
mod plugins;
mod pod;
mod pressure;
mod probe;
mod references;
mod server;
mod settings;
mod shutdown;
mod static_pods;
mod stats;
mod status_writer;
mod timed;
mod user_namespaces;
mod volumes;

#[cfg(test)]
mod agent_tests;
#[cfg(test)]
mod testing;

pub use agent::run;
pub use config::{NodeConfig, NodeError, ServerConfig};
pub use settings::{Settings, SettingsError};
