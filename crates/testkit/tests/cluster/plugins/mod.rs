//! Plugins of the node: programs of ours that speak what drivers speak, and pods that use them.

mod sockets;
mod storage;

pub(crate) use storage::drivers_volumes;
