//! Which objects a node needs for the pods bound to it.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{Pod, Volume};
use skiff_meta::Object;

use crate::auth::authz::follow::Derived;
use crate::auth::containers::{Environment, environments};

/// What a pod can refer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Secret,
    ConfigMap,
    Claim,
    Account,
    ResourceClaim,
}

type Key = (String, String);

/// What one bound pod refers to.
#[derive(Debug)]
struct Bound {
    uid: String,
    node: String,
    references: Vec<(Kind, String)>,
}

/// Pods by node, and what they refer to.
#[derive(Debug, Default)]
pub(crate) struct NodeGraph {
    pods: HashMap<Key, Bound>,
    /// Kind, namespace, name: how many pods of which node refer to it.
    users: HashMap<(Kind, String, String), HashMap<String, usize>>,
    /// Persistent volumes: namespace and name of the claim they belong to.
    volumes: HashMap<String, Key>,
}

impl NodeGraph {
    /// Whether a pod on `node` refers to the object.
    pub(crate) fn needs(&self, node: &str, kind: Kind, namespace: &str, name: &str) -> bool {
        let key = (kind, namespace.to_owned(), name.to_owned());
        self.users.get(&key).is_some_and(|nodes| nodes.contains_key(node))
    }

    /// Whether a pod on `node` claims the volume.
    pub(crate) fn needs_volume(&self, node: &str, name: &str) -> bool {
        self.volumes.get(name).is_some_and(|(namespace, claim)| self.needs(node, Kind::Claim, namespace, claim))
    }

    /// Whether the pod is bound to `node`.
    pub(crate) fn runs(&self, node: &str, namespace: &str, name: &str) -> bool {
        self.pods.get(&(namespace.to_owned(), name.to_owned())).is_some_and(|pod| pod.node == node)
    }

    fn put_pod(&mut self, object: &Object) {
        let meta = object.meta();
        let key = (meta.namespace.clone(), meta.name.clone());
        // What a pod refers to does not change once it is bound, but for claims made for it; most changes are of status.
        if self.pods.get(&key).is_some_and(|known| known.uid == meta.uid && says_nothing_new(object)) {
            return;
        }
        self.remove_pod(&key);
        let Ok(pod) = object.typed::<Pod>() else { return };
        let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).filter(|n| !n.is_empty()) else {
            return;
        };
        let references = references(&pod);
        for (kind, name) in &references {
            let nodes = self.users.entry((*kind, meta.namespace.clone(), name.clone())).or_default();
            *nodes.entry(node.clone()).or_default() += 1;
        }
        self.pods.insert(key, Bound { uid: meta.uid.clone(), node, references });
    }

    fn remove_pod(&mut self, key: &Key) {
        let Some(pod) = self.pods.remove(key) else { return };
        for (kind, name) in pod.references {
            let place = (kind, key.0.clone(), name);
            let Some(nodes) = self.users.get_mut(&place) else { continue };
            if let Some(count) = nodes.get_mut(&pod.node) {
                *count -= 1;
                if *count == 0 {
                    nodes.remove(&pod.node);
                }
            }
            if nodes.is_empty() {
                self.users.remove(&place);
            }
        }
    }

    fn put_volume(&mut self, object: &Object) {
        let name = object.meta().name.clone();
        let claim = object
            .typed::<k8s_openapi::api::core::v1::PersistentVolume>()
            .ok()
            .and_then(|volume| volume.spec.as_ref()?.claim_ref.clone())
            .and_then(|claim| Some((claim.namespace?, claim.name?)));
        match claim {
            Some(claim) => self.volumes.insert(name, claim),
            None => self.volumes.remove(&name),
        };
    }
}

/// Resource claims and ephemeral containers come later than the binding; both are rare, and only with them is a pod
/// read again.
fn says_nothing_new(object: &Object) -> bool {
    let later = ["\"resourceClaimStatuses\":", "\"ephemeralContainers\":"];
    later.iter().all(|field| memchr::memmem::find(object.canonical(), field.as_bytes()).is_none())
}

impl Derived for NodeGraph {
    const RESOURCES: &'static [(&'static str, &'static str)] = &[("", "pods"), ("", "persistentvolumes")];

    fn put(&mut self, resource: usize, object: &Object) {
        match resource {
            0 => self.put_pod(object),
            _ => self.put_volume(object),
        }
    }

    fn remove(&mut self, resource: usize, object: &Object) {
        let meta = object.meta();
        match resource {
            0 => self.remove_pod(&(meta.namespace.clone(), meta.name.clone())),
            _ => drop(self.volumes.remove(&meta.name)),
        }
    }

    fn clear(&mut self, resource: usize) {
        match resource {
            0 => {
                self.pods.clear();
                self.users.clear();
            }
            _ => self.volumes.clear(),
        }
    }
}

/// All objects of its namespace that a pod refers to.
fn references(pod: &Pod) -> Vec<(Kind, String)> {
    // A node makes its own mirror pods; they must not open anything to it.
    let mirror = pod.metadata.annotations.as_ref().is_some_and(|a| a.contains_key("kubernetes.io/config.mirror"));
    let Some(spec) = pod.spec.as_ref().filter(|_| !mirror) else { return Vec::new() };
    let mut found = Vec::new();
    found.extend(spec.service_account_name.iter().map(|name| (Kind::Account, name.clone())));
    found.extend(spec.image_pull_secrets.iter().flatten().map(|secret| (Kind::Secret, secret.name.clone())));
    for environment in environments(spec) {
        from_environment(&environment, &mut found);
    }
    let pod_name = pod.metadata.name.as_deref().unwrap_or_default();
    for volume in spec.volumes.iter().flatten() {
        from_volume(volume, pod_name, &mut found);
    }
    let statuses = pod.status.iter().flat_map(|s| s.resource_claim_statuses.iter().flatten());
    found.extend(statuses.filter_map(|claim| claim.resource_claim_name.clone()).map(|n| (Kind::ResourceClaim, n)));
    let claims = spec.resource_claims.iter().flatten().filter_map(|claim| claim.resource_claim_name.clone());
    found.extend(claims.map(|name| (Kind::ResourceClaim, name)));
    found.retain(|(_, name)| !name.is_empty());
    found.sort_by(|a, b| (a.0 as u8, &a.1).cmp(&(b.0 as u8, &b.1)));
    found.dedup();
    found
}

fn from_environment(environment: &Environment<'_>, found: &mut Vec<(Kind, String)>) {
    for source in environment.from {
        found.extend(source.secret_ref.iter().map(|secret| (Kind::Secret, secret.name.clone())));
        found.extend(source.config_map_ref.iter().map(|map| (Kind::ConfigMap, map.name.clone())));
    }
    for source in environment.variables.iter().filter_map(|variable| variable.value_from.as_ref()) {
        found.extend(source.secret_key_ref.iter().map(|secret| (Kind::Secret, secret.name.clone())));
        found.extend(source.config_map_key_ref.iter().map(|map| (Kind::ConfigMap, map.name.clone())));
    }
}

fn from_volume(volume: &Volume, pod: &str, found: &mut Vec<(Kind, String)>) {
    for source in volume.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
        found.extend(source.secret.iter().map(|secret| (Kind::Secret, secret.name.clone())));
        found.extend(source.config_map.iter().map(|map| (Kind::ConfigMap, map.name.clone())));
    }
    found.extend(volume.config_map.iter().map(|map| (Kind::ConfigMap, map.name.clone())));
    found.extend(volume.persistent_volume_claim.iter().map(|claim| (Kind::Claim, claim.claim_name.clone())));
    found.extend(volume.ephemeral.iter().map(|_| (Kind::Claim, format!("{pod}-{}", volume.name))));
    let secrets = [
        volume.secret.as_ref().and_then(|s| s.secret_name.clone()),
        volume.azure_file.as_ref().map(|s| s.secret_name.clone()),
        volume.cephfs.as_ref().and_then(|s| s.secret_ref.as_ref()).map(|s| s.name.clone()),
        volume.cinder.as_ref().and_then(|s| s.secret_ref.as_ref()).map(|s| s.name.clone()),
        volume.flex_volume.as_ref().and_then(|s| s.secret_ref.as_ref()).map(|s| s.name.clone()),
        volume.rbd.as_ref().and_then(|s| s.secret_ref.as_ref()).map(|s| s.name.clone()),
        volume.scale_io.as_ref().map(|s| s.secret_ref.name.clone()),
        volume.iscsi.as_ref().and_then(|s| s.secret_ref.as_ref()).map(|s| s.name.clone()),
        volume.storageos.as_ref().and_then(|s| s.secret_ref.as_ref()).map(|s| s.name.clone()),
        volume.csi.as_ref().and_then(|s| s.node_publish_secret_ref.as_ref()).map(|s| s.name.clone()),
    ];
    found.extend(secrets.into_iter().flatten().map(|name| (Kind::Secret, name)));
}
