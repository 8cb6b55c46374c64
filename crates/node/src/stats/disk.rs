//! What pods have on the node's disk.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::Pod;
use skiff_cri::v1::ContainerStatsFilter;

use crate::make::sandbox;
use crate::node::Node;
use crate::os::Size;
use crate::pod::facts::{self, key};
use crate::pressure::{ContainerOnDisk, OnDisk};
use crate::volumes;

/// What containers have written into their roots, by pod and name.
pub(crate) type Layers = HashMap<(String, String), Size>;

/// Asks the runtime; what it does not tell counts as nothing.
pub(crate) async fn layers(node: &Node) -> Layers {
    let mut layers = Layers::new();
    for container in node.runtime.list_container_stats(ContainerStatsFilter::default()).await.unwrap_or_default() {
        let (Some(attributes), Some(layer)) = (container.attributes, container.writable_layer) else { continue };
        let labels = attributes.labels;
        let (Some(uid), Some(name)) = (labels.get(key::POD_UID), labels.get(key::CONTAINER_NAME)) else { continue };
        let value = |number: Option<skiff_cri::v1::UInt64Value>| number.map_or(0, |number| number.value);
        let size = Size { bytes: value(layer.used_bytes), inodes: value(layer.inodes_used) };
        let known = layers.entry((uid.clone(), name.clone())).or_default();
        // Of several attempts one counts, as the others may go at any time.
        *known = size.max(*known);
    }
    layers
}

/// One pod's.
pub(crate) fn of(node: &Node, pod: &Pod, layers: &Layers) -> OnDisk {
    let (files, uid) = (&*node.config.os.files, facts::uid(pod));
    let logs = sandbox::log_directory(&node.config.log_directory, pod);
    let volumes = facts::spec(pod).volumes.iter().flatten().filter_map(|volume| {
        let path = volumes::own_directory(node, uid, volume)?;
        Some((volume.name.clone(), files.size(&path).unwrap_or_default()))
    });
    let containers = facts::containers(pod).into_iter().map(|(_, container)| {
        let layer = layers.get(&(uid.to_owned(), container.name.clone())).copied().unwrap_or_default();
        let logs = files.size(&logs.join(&container.name)).unwrap_or_default();
        (container.name.clone(), ContainerOnDisk { logs, layer })
    });
    OnDisk { volumes: volumes.collect(), containers: containers.collect() }
}
