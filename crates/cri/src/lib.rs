//! Container runtimes and their images, as the node agent sees them.
//!
//! [`Runtime`] is the one narrow interface: the Container Runtime Interface v1 with its own message types, plus the two
//! things the agent needs and the interface lacks, importing an image from a file and hearing of exits. It has two
//! implementations: [`GrpcRuntime`] speaks to a socket, [`fake::FakeRuntime`] keeps everything in memory and fails on
//! demand. [`containerd::Containerd`] runs a private containerd of ours and watches over it.

pub mod containerd;
pub mod fake;
mod grpc;
pub mod proto;
mod runtime;

pub use grpc::GrpcRuntime;
pub use proto::v1;
pub use runtime::{ContainerEvent, EventStream, Runtime, RuntimeError};
