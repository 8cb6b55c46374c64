//! The scheduler: gives each pod the node that suits it best, and says why when there is none.
//!
//! One task owns the whole state: it takes in what informers tell, decides (pure, see [`decide`]), assumes the result
//! at once, and binds in the background, so that the next decision need not wait for the last one to be written.
//! A pod that fits nowhere is tried again only after an event that can help it.

pub mod amounts;
pub mod cluster;
pub mod decide;
pub mod plugins;
pub mod queue;
mod run;

pub use run::{NAME, Options, run};

#[cfg(test)]
mod tests;
