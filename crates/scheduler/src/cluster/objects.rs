//! The other objects that decisions look at: what selects a pod, what limits its disruption, what it stores on.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, ReplicationController, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaim, ResourceSlice};
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment};
use skiff_api::labels;
use skiff_meta::selector::{LabelSelector, Requirement};

use super::pod::PodInfo;
use crate::devices::Stock;
use crate::plugins::volume_binding::Plan;

/// `namespace/name`, or for kinds without namespaces `/name`.
pub type Key = (String, String);

/// Objects of one kind.
pub type All<K> = BTreeMap<Key, Arc<K>>;

/// The other objects.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    /// Services: pods of one spread.
    pub services: All<Service>,
    /// Replication controllers: pods of one spread.
    pub controllers: All<ReplicationController>,
    /// Replica sets: pods of one spread.
    pub replica_sets: All<ReplicaSet>,
    /// Stateful sets: pods of one spread.
    pub stateful_sets: All<StatefulSet>,
    /// Budgets that preemption tries to keep.
    pub budgets: All<PodDisruptionBudget>,
    /// Claims.
    pub claims: All<PersistentVolumeClaim>,
    /// Volumes.
    pub volumes: All<PersistentVolume>,
    /// Storage classes.
    pub classes: All<StorageClass>,
    /// What CSI drivers say of nodes.
    pub csi_nodes: All<CSINode>,
    /// CSI drivers.
    pub csi_drivers: All<CSIDriver>,
    /// How much room there is for volumes, and where.
    pub capacities: All<CSIStorageCapacity>,
    /// Claims of devices.
    pub resource_claims: All<ResourceClaim>,
    /// Classes of devices.
    pub device_classes: All<DeviceClass>,
    /// What devices there are.
    pub resource_slices: All<ResourceSlice>,
    /// Devices: what there is, and what is taken.
    pub devices: Stock,
    /// When the decision at hand began; drivers have only so much time.
    pub now: Timestamp,
    /// Volumes that are attached to nodes.
    pub attachments: All<VolumeAttachment>,
    /// What volumes and claims will be once their binding is written.
    pub assumed: Assumed,
    claim_users: BTreeMap<Key, usize>,
}

/// What volumes and claims will be once their binding is written.
#[derive(Clone, Debug, Default)]
pub struct Assumed {
    /// Volumes that are promised, to which claim.
    pub volumes: BTreeMap<String, Key>,
    /// Claims to be provisioned, on which node.
    pub claims: BTreeMap<Key, String>,
}

impl Assumed {
    /// A pod's volumes are promised on a node.
    pub fn promise(&mut self, plan: &Plan, node: &str) {
        self.volumes.extend(plan.promises.iter().map(|(volume, claim)| (volume.clone(), key_of(claim))));
        self.claims.extend(plan.provisions.iter().map(|claim| (key_of(claim), node.to_owned())));
    }
    /// They are not, after all.
    pub fn withdraw(&mut self, plan: &Plan) {
        plan.promises.iter().for_each(|(volume, _)| drop(self.volumes.remove(volume)));
        plan.provisions.iter().for_each(|claim| drop(self.claims.remove(&key_of(claim))));
    }
}

fn key_of(claim: &PersistentVolumeClaim) -> Key {
    key(claim.metadata.namespace.as_deref().unwrap_or_default(), claim.metadata.name.as_deref().unwrap_or_default())
}

fn key(namespace: &str, name: &str) -> Key {
    (namespace.to_owned(), name.to_owned())
}

impl Objects {
    /// A claim.
    pub fn claim(&self, namespace: &str, name: &str) -> Option<&Arc<PersistentVolumeClaim>> {
        self.claims.get(&key(namespace, name))
    }
    /// A volume.
    pub fn volume(&self, name: &str) -> Option<&Arc<PersistentVolume>> {
        self.volumes.get(&key("", name))
    }
    /// A storage class.
    pub fn class(&self, name: &str) -> Option<&Arc<StorageClass>> {
        self.classes.get(&key("", name))
    }
    /// What CSI drivers say of a node.
    pub fn csi_node(&self, name: &str) -> Option<&Arc<CSINode>> {
        self.csi_nodes.get(&key("", name))
    }
    /// A CSI driver.
    pub fn csi_driver(&self, name: &str) -> Option<&Arc<CSIDriver>> {
        self.csi_drivers.get(&key("", name))
    }

    /// How many placed pods use a claim.
    pub fn users_of(&self, namespace: &str, claim: &str) -> usize {
        self.claim_users.get(&key(namespace, claim)).copied().unwrap_or(0)
    }

    pub(super) fn count_claims(&mut self, pod: &PodInfo, sign: isize) {
        for claim in &pod.claims {
            let key = key(pod.namespace(), claim);
            let users = self.claim_users.entry(key.clone()).or_default();
            *users = users.saturating_add_signed(sign);
            if *users == 0 {
                self.claim_users.remove(&key);
            }
        }
    }

    /// Which pods belong together with this one: those that its Services select, and those of the same owner. `None`
    /// when nothing says so.
    pub fn siblings(&self, pod: &PodInfo) -> Option<LabelSelector> {
        let mut requirements: Vec<Requirement> = Vec::new();
        let equals = |labels: &BTreeMap<String, String>| LabelSelector::from_map(labels).requirements().to_vec();
        let from = key(pod.namespace(), "");
        let here = self.services.range(from..).take_while(|((namespace, _), _)| namespace == pod.namespace());
        for (_, service) in here {
            let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
            if let Some(selector) = selector.filter(|s| !s.is_empty())
                && selector.iter().all(|(label, value)| pod.labels().get(label) == Some(value))
            {
                requirements.extend(equals(selector));
            }
        }
        let mut owners = pod.pod.metadata.owner_references.iter().flatten();
        if let Some(owner) = owners.find(|owner| owner.controller == Some(true)) {
            let name = key(pod.namespace(), &owner.name);
            let typed = match (owner.api_version.as_str(), owner.kind.as_str()) {
                ("v1", "ReplicationController") => {
                    let found = self.controllers.get(&name).and_then(|rc| rc.spec.as_ref()?.selector.clone());
                    requirements.extend(found.iter().flat_map(equals));
                    None
                }
                ("apps/v1", "ReplicaSet") => {
                    self.replica_sets.get(&name).and_then(|rs| Some(rs.spec.as_ref()?.selector.clone()))
                }
                ("apps/v1", "StatefulSet") => {
                    self.stateful_sets.get(&name).and_then(|ss| Some(ss.spec.as_ref()?.selector.clone()))
                }
                _ => None,
            };
            let compiled = typed.and_then(|selector| labels::compile(Some(&selector)).ok());
            requirements.extend(compiled.iter().flat_map(|selector| selector.requirements().to_vec()));
        }
        requirements.sort_by_key(ToString::to_string);
        requirements.dedup();
        (!requirements.is_empty()).then(|| LabelSelector::new(requirements))
    }
}
