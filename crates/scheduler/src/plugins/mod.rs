//! The plugins of upstream's default profile. A filter says whether a node can take a pod, a score which of those is
//! best; the order is upstream's, so that the reasons people read are the same.

mod balanced_allocation;
pub mod dynamic_resources;
mod image_locality;
mod inter_pod_affinity;
mod node_affinity;
mod node_declared_features;
mod node_name;
mod node_ports;
mod node_resources_fit;
mod node_unschedulable;
mod node_volume_limits;
mod pod_topology_spread;
pub mod scoring;
mod taint_toleration;
pub mod volume_binding;
mod volume_restrictions;
mod volume_zone;
pub mod volumes;

pub use balanced_allocation::BalancedAllocation;
pub use dynamic_resources::DynamicResources;
pub use image_locality::ImageLocality;
pub use inter_pod_affinity::InterPodAffinity;
pub use node_affinity::NodeAffinity;
pub use node_declared_features::NodeDeclaredFeatures;
pub use node_name::NodeName;
pub use node_ports::NodePorts;
pub(crate) use node_resources_fit::is_extended;
pub use node_resources_fit::{Ignored, NodeResourcesFit};
pub use node_unschedulable::NodeUnschedulable;
pub use node_volume_limits::NodeVolumeLimits;
pub use pod_topology_spread::PodTopologySpread;
pub use taint_toleration::TaintToleration;
pub use volume_binding::VolumeBinding;
pub use volume_restrictions::VolumeRestrictions;
pub use volume_zone::VolumeZone;
