//! What the cluster is told of a node's drivers: the CSINode object, and on the Node an annotation and the labels of where
//! it is to its drivers.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node as ApiNode;
use k8s_openapi::api::storage::v1::{CSINode, CSINodeDriver, CSINodeSpec, VolumeNodeResources};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::{Value, json};
use skiff_client::{ClientError, DeleteOptions, Patch};

use super::drivers::Driver;
use crate::node::Node;

/// On a Node: its names to its drivers, as JSON.
const NODE_IDS: &str = "csi.volume.kubernetes.io/nodeid";

/// Tells the cluster which drivers there are, and that one is gone. Others that it knows of stay: they may be about to
/// come back, as after a restart of the machine.
///
/// # Errors
/// When the API does not do as it is asked; trying again is fine.
pub(crate) async fn publish(node: &Node, gone: Option<&str>) -> Result<(), ClientError> {
    // What is told is what was read, and what changed since: one after the other, each with the drivers there are by then.
    let _turn = node.drivers.telling.lock().await;
    let drivers = node.drivers.all();
    let name = &node.config.name;
    let own = node.client.all::<ApiNode>().get(name).await?;
    if let Some(patch) = patch(&own, &drivers, gone) {
        node.client.all::<ApiNode>().patch(name, &Patch::Merge(patch)).await?;
    }
    let api = node.client.all::<CSINode>();
    let wanted = csi_node(&own, &drivers);
    match api.get_opt(name).await? {
        Some(known) if known.metadata.owner_references != wanted.metadata.owner_references => {
            // Of a node that had this name before.
            api.delete(name, &DeleteOptions::default()).await?;
            api.create(&wanted).await.map(drop)
        }
        Some(mut known) => {
            let spec = merged(&known.spec, wanted.spec, gone);
            if known.spec.drivers == spec.drivers {
                return Ok(());
            }
            known.spec = spec;
            api.update(&known).await.map(drop)
        }
        None => api.create(&wanted).await.map(drop),
    }
}

/// The CSINode of a node.
fn csi_node(own: &ApiNode, drivers: &[Arc<Driver>]) -> CSINode {
    let driver = |driver: &Arc<Driver>| CSINodeDriver {
        name: driver.name.clone(),
        node_id: driver.info.node_id.clone(),
        topology_keys: Some(segments(driver).keys().cloned().collect()),
        allocatable: (driver.info.max_volumes_per_node > 0).then(|| VolumeNodeResources {
            count: Some(i32::try_from(driver.info.max_volumes_per_node).unwrap_or(i32::MAX)),
        }),
    };
    let owner = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: own.metadata.name.clone().unwrap_or_default(),
        uid: own.metadata.uid.clone().unwrap_or_default(),
        ..OwnerReference::default()
    };
    CSINode {
        metadata: ObjectMeta {
            name: own.metadata.name.clone(),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: CSINodeSpec { drivers: drivers.iter().map(driver).collect() },
    }
}

/// The drivers that serve, and those that are known and not gone.
fn merged(known: &CSINodeSpec, serving: CSINodeSpec, gone: Option<&str>) -> CSINodeSpec {
    let mut drivers = known.drivers.clone();
    drivers.retain(|driver| Some(driver.name.as_str()) != gone);
    for driver in serving.drivers {
        match drivers.iter_mut().find(|known| known.name == driver.name) {
            Some(known) => *known = driver,
            None => drivers.push(driver),
        }
    }
    CSINodeSpec { drivers }
}

fn segments(driver: &Driver) -> BTreeMap<String, String> {
    driver.info.accessible_topology.as_ref().map(|place| place.segments.clone()).unwrap_or_default()
}

/// What has to change on the Node; `None`: nothing.
fn patch(own: &ApiNode, drivers: &[Arc<Driver>], gone: Option<&str>) -> Option<Value> {
    let known = own.metadata.annotations.as_ref().and_then(|all| all.get(NODE_IDS));
    let mut ids: BTreeMap<String, String> = known.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    ids.retain(|name, _| Some(name.as_str()) != gone);
    ids.extend(drivers.iter().map(|driver| (driver.name.clone(), driver.info.node_id.clone())));
    let ids = (!ids.is_empty()).then(|| json!(ids).to_string());
    let labels: BTreeMap<String, String> = drivers.iter().flat_map(|driver| segments(driver)).collect();
    let has = |(key, value): (&String, &String)| {
        own.metadata.labels.as_ref().is_some_and(|labels| labels.get(key) == Some(value))
    };
    let same = known == ids.as_ref() && labels.iter().all(has);
    (!same).then(|| json!({"metadata": {"annotations": {NODE_IDS: ids}, "labels": labels}}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_stays_known_until_it_goes() {
        let spec = |names: &[(&str, &str)]| -> CSINodeSpec {
            let drivers = names.iter().map(|(name, id)| json!({"name": name, "nodeID": id})).collect::<Vec<_>>();
            serde_json::from_value(json!({"drivers": drivers})).expect("a specification")
        };
        let known = spec(&[("a", "1"), ("b", "1")]);
        for (serving, gone, expected) in [
            (spec(&[]), None, spec(&[("a", "1"), ("b", "1")])),
            (spec(&[("b", "2"), ("c", "1")]), None, spec(&[("a", "1"), ("b", "2"), ("c", "1")])),
            (spec(&[("b", "1")]), Some("a"), spec(&[("b", "1")])),
        ] {
            assert_eq!(merged(&known, serving, gone).drivers, expected.drivers, "{gone:?}");
        }
    }
}
