//! Plugins of the node: programs of ours that speak what drivers speak, and pods that use them.

mod claims;
mod devices;
mod sockets;
mod storage;

pub(crate) use claims::claims_of_devices;
pub(crate) use devices::devices;
pub(crate) use storage::drivers_volumes;
