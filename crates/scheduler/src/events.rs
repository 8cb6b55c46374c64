//! What happens in the cluster, as far as it can make room for a pod that found none.

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaim, ResourceSlice};
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment};

use crate::cluster::PodInfo;

/// One kind's change: `old` is missing for what is new, `new` for what is gone.
#[derive(Debug)]
pub struct Change<'a, K> {
    /// As it was.
    pub old: Option<&'a K>,
    /// As it is.
    pub new: Option<&'a K>,
}

impl<K> Clone for Change<'_, K> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<K> Copy for Change<'_, K> {}

/// What happened.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A node, in something that matters here: not every heartbeat.
    Node(Change<'a, Node>),
    /// A pod that has a node, or waits for room on one, and that node.
    Pod(Change<'a, PodInfo>, &'a str),
    /// The waiting pod itself has changed.
    Own(Change<'a, PodInfo>),
    /// A claim.
    Claim(Change<'a, PersistentVolumeClaim>),
    /// A volume.
    Volume(Change<'a, PersistentVolume>),
    /// A storage class.
    Class(Change<'a, StorageClass>),
    /// What CSI drivers say of a node.
    CsiNode(Change<'a, CSINode>),
    /// A CSI driver.
    CsiDriver(Change<'a, CSIDriver>),
    /// Room for volumes.
    Capacity(Change<'a, CSIStorageCapacity>),
    /// A claim of devices.
    ResourceClaim(Change<'a, ResourceClaim>),
    /// A class of devices.
    DeviceClass(Change<'a, DeviceClass>),
    /// Devices.
    ResourceSlice(Change<'a, ResourceSlice>),
    /// An attached volume.
    Attachment(Change<'a, VolumeAttachment>),
}

/// Kinds of events, as plugins ask to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "an event's name and what became of its object")]
pub enum Kind {
    NodeAdded,
    NodeChanged,
    NodeGone,
    PodAdded,
    PodChanged,
    PodGone,
    Own,
    Claim,
    Volume,
    Class,
    CsiNode,
    CsiDriver,
    Capacity,
    ResourceClaim,
    DeviceClass,
    ResourceSlice,
    Attachment,
}

impl Event<'_> {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Node(Change { old: None, .. }) => Kind::NodeAdded,
            Self::Node(Change { new: None, .. }) => Kind::NodeGone,
            Self::Node(_) => Kind::NodeChanged,
            Self::Pod(Change { old: None, .. }, _) => Kind::PodAdded,
            Self::Pod(Change { new: None, .. }, _) => Kind::PodGone,
            Self::Pod(..) => Kind::PodChanged,
            Self::Own(_) => Kind::Own,
            Self::Claim(_) => Kind::Claim,
            Self::Volume(_) => Kind::Volume,
            Self::Class(_) => Kind::Class,
            Self::CsiNode(_) => Kind::CsiNode,
            Self::CsiDriver(_) => Kind::CsiDriver,
            Self::Capacity(_) => Kind::Capacity,
            Self::ResourceClaim(_) => Kind::ResourceClaim,
            Self::DeviceClass(_) => Kind::DeviceClass,
            Self::ResourceSlice(_) => Kind::ResourceSlice,
            Self::Attachment(_) => Kind::Attachment,
        }
    }
}

/// Whether a change of a node can make room for a pod: heartbeats cannot.
pub fn matters(old: &Node, new: &Node) -> bool {
    let spec = |node: &Node| node.spec.as_ref().map(|s| (s.taints.clone(), s.unschedulable.unwrap_or(false)));
    let room = |node: &Node| node.status.as_ref().and_then(|s| s.allocatable.clone());
    old.metadata.labels != new.metadata.labels
        || spec(old) != spec(new)
        || room(old) != room(new)
        || declared_features(old) != declared_features(new)
}

/// What the node's agent says it can do that not every agent can.
pub fn declared_features(node: &Node) -> &[String] {
    node.status.as_ref().and_then(|status| status.declared_features.as_deref()).unwrap_or_default()
}
