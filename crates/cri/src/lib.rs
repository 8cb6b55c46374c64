//! The container runtime and image interfaces, their gRPC client, the supervised containerd, and a fake
