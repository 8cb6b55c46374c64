//! Which objects a node needs for the pods bound to it.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::Pod;
use skiff_meta::Object;

use crate::auth::authz::follow::Derived;
use crate::auth::references::{Kind, references};

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
    volumes: HashMap<String, Volume>,
    /// The volumes that take a secret to be mounted, by the secret's namespace and name.
    secrets: HashMap<Key, Vec<String>>,
}

/// What a persistent volume refers to.
#[derive(Debug)]
struct Volume {
    /// Namespace and name of the claim it belongs to.
    claim: Key,
    /// Those of the secrets that a node needs to mount it.
    secrets: Vec<Key>,
}

impl NodeGraph {
    /// Whether a pod on `node` refers to the object.
    pub(crate) fn needs(&self, node: &str, kind: Kind, namespace: &str, name: &str) -> bool {
        let key = (kind, namespace.to_owned(), name.to_owned());
        self.users.get(&key).is_some_and(|nodes| nodes.contains_key(node))
            || kind == Kind::Secret && self.mounts_with(node, (key.1, key.2))
    }

    /// Whether a pod on `node` claims a volume that is mounted with the secret.
    fn mounts_with(&self, node: &str, secret: Key) -> bool {
        self.secrets.get(&secret).is_some_and(|volumes| volumes.iter().any(|volume| self.needs_volume(node, volume)))
    }

    /// Whether a pod on `node` claims the volume.
    pub(crate) fn needs_volume(&self, node: &str, name: &str) -> bool {
        let claim = self.volumes.get(name).map(|volume| &volume.claim);
        claim.is_some_and(|(namespace, claim)| self.needs(node, Kind::Claim, namespace, claim))
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
        let Ok(pod) = object.typed_by(skiff_api::read::fitting::<Pod>) else { return };
        let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).filter(|n| !n.is_empty()) else {
            return;
        };
        // A node makes its own mirror pods; they must not open anything to it.
        let references = if is_mirror(&pod) { Vec::new() } else { references(&pod) };
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
        self.remove_volume(&name);
        let Ok(volume) = object.typed::<k8s_openapi::api::core::v1::PersistentVolume>() else { return };
        let Some(spec) = &volume.spec else { return };
        let claim = spec.claim_ref.as_ref().and_then(|claim| Some((claim.namespace.clone()?, claim.name.clone()?)));
        let Some(claim) = claim else { return };
        let driver = spec.csi.iter();
        let references = driver.flat_map(|csi| {
            [&csi.node_stage_secret_ref, &csi.node_publish_secret_ref, &csi.node_expand_secret_ref]
                .into_iter()
                .flatten()
        });
        let secrets: Vec<Key> =
            references.filter_map(|secret| Some((secret.namespace.clone()?, secret.name.clone()?))).collect();
        for secret in &secrets {
            self.secrets.entry(secret.clone()).or_default().push(name.clone());
        }
        self.volumes.insert(name, Volume { claim, secrets });
    }

    fn remove_volume(&mut self, name: &str) {
        let Some(volume) = self.volumes.remove(name) else { return };
        for secret in volume.secrets {
            let left = self.secrets.get_mut(&secret).is_some_and(|volumes| {
                volumes.retain(|other| other != name);
                !volumes.is_empty()
            });
            if !left {
                self.secrets.remove(&secret);
            }
        }
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
            _ => self.remove_volume(&meta.name),
        }
    }

    fn clear(&mut self, resource: usize) {
        match resource {
            0 => {
                self.pods.clear();
                self.users.clear();
            }
            _ => {
                self.volumes.clear();
                self.secrets.clear();
            }
        }
    }
}

fn is_mirror(pod: &Pod) -> bool {
    pod.metadata.annotations.as_ref().is_some_and(|a| a.contains_key("kubernetes.io/config.mirror"))
}
