//! Volumes of storage drivers: programs on the node that speak the Container Storage Interface.
//!
//! A volume is attached to the node by the control plane, then *staged* once for all pods, then *published* to each pod
//! that uses it; and the other way round in the end. Every call may be repeated, so nothing is remembered but what lies
//! beside the mounts: `DIRECTORY/pods/UID/volumes/kubernetes.io~csi/NAME/vol_data.json` says that a pod may have a volume,
//! and is there before the driver is asked for anything. Places and names are upstream's, since drivers know them.

mod csi_node;
mod drivers;
mod expand;
mod fill;
mod mount;
mod record;
mod release;
mod source;

pub(crate) use csi_node::publish as publish_csi_node;
pub(crate) use drivers::{Driver, Drivers};
pub(crate) use fill::fill;
pub(crate) use mount::{Wish, mount};
pub(crate) use release::release;
pub(crate) use source::Source;

/// What a driver, or its absence, has to say.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CsiError {
    #[error("driver name {0} not found in the list of registered CSI drivers")]
    NoDriver(String),
    #[error("CSI driver {0} does not support volumes that live with their pod")]
    NotEphemeral(String),
    #[error("{call}: rpc error: code = {:?} desc = {}", status.code(), status.message())]
    Refused { call: &'static str, status: skiff_plugins::Status },
    #[error("fetching secret {0}: {1}")]
    Secret(String, skiff_client::ClientError),
    #[error("{0}")]
    Api(#[from] skiff_client::ClientError),
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The control plane has not attached it yet.
    #[error("volume {0} is not attached yet")]
    NotAttached(String),
    #[error("volume {0} is still mounted")]
    Mounted(String),
}

fn refused(call: &'static str) -> impl Fn(skiff_plugins::Status) -> CsiError {
    move |status| CsiError::Refused { call, status }
}
