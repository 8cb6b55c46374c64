//! Messages and stubs compiled from `proto/`.

#![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated from proto/*.proto")]

/// The Container Runtime Interface, version 1.
pub mod v1 {
    tonic::include_proto!("runtime.v1");
}

/// containerd's own events.
pub(crate) mod containerd {
    tonic::include_proto!("containerd.services.events.v1");
}
