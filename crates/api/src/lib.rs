//! The kinds of Kubernetes, and the facts about them.
//!
//! Types come from `k8s-openapi`; this crate adds what types do not tell: which kinds are served under which names
//! ([`kinds`]), how their fields merge, default and look in protobuf ([`facts`]), and the small pure questions that
//! scheduler, node agent and controllers ask alike: does this pod bear that taint ([`taints`]), may it go onto that
//! node ([`affinity`]), what does it take ([`resources`], [`qos`], [`quota`]), is it ready ([`pods`]), whose is it ([`owners`]), is
//! it selected ([`labels`]), what does it claim and how is that attached ([`volumes`]), which devices has it ([`claims`]), is
//! its node ready ([`nodes`]); and how to read one that stays ([`read`]).

pub mod affinity;
pub mod claims;
pub mod facts;
pub mod kinds;
pub mod labels;
pub mod network;
pub mod nodes;
pub mod owners;
pub mod pods;
pub mod qos;
pub mod quota;
pub mod read;
pub mod resources;
pub mod taints;
pub mod volumes;

pub use kinds::{KINDS, Kind, Subresource};
