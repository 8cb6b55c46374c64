//! What control plane and nodes agree on about the network.

/// An annotation of a Service: the node that answers on the wire for the addresses its load balancer has from the pool.
pub const ANNOUNCER: &str = "skiff.io/announced-by";
