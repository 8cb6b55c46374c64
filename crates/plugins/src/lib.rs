//! What the plugins of a node and its agent say to each other, and how: gRPC over sockets in directories that both know.
//!
//! The modules are the interfaces as they are published: [`registration`] of plugins whose sockets the agent finds, the
//! Container Storage Interface's part for nodes ([`csi`]), [`devices`], drivers of dynamic resources ([`dra`]), and
//! [`podresources`], which the agent serves itself. Each has both sides, so that tests can be the other one.

mod proto;
mod socket;

pub use proto::{csi, devices, dra, podresources, registration};
pub use socket::{connect, limited, serve};
/// What servers implement.
pub use tonic::async_trait;
/// What answers are made of.
pub use tonic::body::Body;
/// A connection to a plugin.
pub use tonic::transport::Channel;
/// What calls answer with.
pub use tonic::{Code, Request, Response, Status};
