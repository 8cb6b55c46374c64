//! Skiff: a complete Kubernetes in one binary.
fn main() {}
