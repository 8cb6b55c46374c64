//! The kinds of Kubernetes, and the facts about them.
//!
//! Types come from `k8s-openapi`; this crate adds what types do not tell: which kinds are served under which names
//! ([`kinds`]), and how their fields merge, default and look in protobuf ([`facts`]).

pub mod facts;
pub mod kinds;

pub use kinds::{KINDS, Kind, Subresource};
