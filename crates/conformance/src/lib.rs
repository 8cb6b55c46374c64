//! What a Kubernetes API says on the wire, above all to input that is wrong.
//!
//! Nothing here knows whose API it is: address and credentials come from a kubeconfig, expectations from upstream's
//! behaviour. Every case works in a namespace of its own, and what was refused must have left nothing behind.

pub mod diff;
mod judge;
mod refusals;
mod wire;

pub use diff::{Differ, SAMPLES};
pub use judge::judge;
pub use refusals::{REFUSALS, Refusal, Words};
pub use wire::{Answer, Credentials, Wire};
