//! The scheduler: gives each pod the node that suits it best, and says why when there is none.
//!
//! One task owns the whole state: it takes in what the watches tell, decides (pure, see [`decide`]), assumes the result
//! at once, and binds in the background, so that the next decision need not wait for the last one to be written. A pod
//! that fits nowhere is tried again only after an event that can help it.

pub mod amounts;
pub mod cluster;
pub mod config;
pub mod decide;
pub mod devices;
pub mod events;
pub mod extender;
pub mod framework;
pub mod plugins;
pub mod profile;
pub mod queue;
mod recent;
mod run;
pub mod stats;
pub mod why;

pub use config::{Config, ConfigError};
pub use run::{NAME, Options, run};
pub use stats::Stats;

#[cfg(test)]
mod tests;
