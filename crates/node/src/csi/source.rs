//! What a pod wants of a driver, from its own words or from the PersistentVolume behind its claim. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{CSIVolumeSource, PersistentVolume, PersistentVolumeClaim, Pod, SecretReference};
use skiff_api::volumes;
use skiff_meta::Quantity;
use skiff_plugins::csi::VolumeCapability;
use skiff_plugins::csi::volume_capability::access_mode::Mode;
use skiff_plugins::csi::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};

use super::drivers::Abilities;
use crate::pod::facts;

/// A driver's volume, as a pod wants it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Source {
    pub(crate) driver: String,
    pub(super) handle: String,
    /// The PersistentVolume's name, or the volume's name in its pod.
    pub(super) name: String,
    pub(super) attributes: BTreeMap<String, String>,
    pub(super) fs_type: String,
    pub(super) mount_options: Vec<String>,
    pub(super) modes: Vec<String>,
    pub(super) block: bool,
    pub(crate) read_only: bool,
    pub(super) stage_secret: Option<SecretReference>,
    pub(super) publish_secret: Option<SecretReference>,
    /// It is the pod's own, and goes with it.
    pub(super) ephemeral: bool,
    /// The claim it is for, and how large it is.
    pub(super) claim: Option<Arc<PersistentVolumeClaim>>,
    pub(super) size: Option<Quantity>,
    pub(super) expand_secret: Option<SecretReference>,
}

impl Source {
    /// The volume behind a PersistentVolume, if that is a driver's.
    pub(crate) fn claimed(volume: &PersistentVolume, claim: &PersistentVolumeClaim, read_only: bool) -> Option<Self> {
        let spec = volume.spec.as_ref()?;
        let csi = spec.csi.as_ref()?;
        Some(Self {
            driver: csi.driver.clone(),
            handle: csi.volume_handle.clone(),
            name: volume.metadata.name.clone().unwrap_or_default(),
            attributes: csi.volume_attributes.clone().unwrap_or_default(),
            fs_type: csi.fs_type.clone().unwrap_or_default(),
            mount_options: spec.mount_options.clone().unwrap_or_default(),
            modes: spec.access_modes.clone().unwrap_or_default(),
            block: spec.volume_mode.as_deref() == Some("Block"),
            read_only,
            stage_secret: csi.node_stage_secret_ref.clone(),
            publish_secret: csi.node_publish_secret_ref.clone(),
            ephemeral: false,
            claim: Some(Arc::new(claim.clone())),
            size: spec.capacity.as_ref().and_then(|capacity| capacity.get("storage")?.0.parse().ok()),
            expand_secret: csi.node_expand_secret_ref.clone(),
        })
    }

    /// The volume that a pod brings with it.
    pub(crate) fn inline(pod: &Pod, name: &str, csi: &CSIVolumeSource) -> Self {
        let secret = csi.node_publish_secret_ref.as_ref().map(|secret| SecretReference {
            name: Some(secret.name.clone()),
            namespace: pod.metadata.namespace.clone(),
        });
        Self {
            driver: csi.driver.clone(),
            handle: format!("csi-{}", volumes::digest(&[facts::uid(pod), name])),
            name: name.to_owned(),
            attributes: csi.volume_attributes.clone().unwrap_or_default(),
            fs_type: csi.fs_type.clone().unwrap_or_default(),
            read_only: csi.read_only == Some(true),
            publish_secret: secret,
            ephemeral: true,
            ..Self::default()
        }
    }

    /// The name that the control plane uses in the node's status.
    pub(super) fn unique_name(&self) -> String {
        volumes::unique_name(&self.driver, &self.handle)
    }

    /// What is wanted of the volume, in the driver's words. `group` only where the driver gives volumes to groups.
    pub(super) fn capability(&self, abilities: &Abilities, group: Option<u32>) -> VolumeCapability {
        let mode = match self.modes.first().map_or("ReadWriteOnce", String::as_str) {
            "ReadOnlyMany" => Mode::MultiNodeReaderOnly,
            "ReadWriteMany" => Mode::MultiNodeMultiWriter,
            "ReadWriteOncePod" if abilities.single_node => Mode::SingleNodeSingleWriter,
            "ReadWriteOnce" if abilities.single_node => Mode::SingleNodeMultiWriter,
            _ => Mode::SingleNodeWriter,
        };
        let mount = || MountVolume {
            fs_type: self.fs_type.clone(),
            mount_flags: self.mount_options.clone(),
            volume_mount_group: group.filter(|_| abilities.group).map(|group| group.to_string()).unwrap_or_default(),
        };
        let kind = if self.block { AccessType::Block(BlockVolume {}) } else { AccessType::Mount(mount()) };
        VolumeCapability { access_mode: Some(AccessMode { mode: mode.into() }), access_type: Some(kind) }
    }

    /// Whether the volume is given to the pod's group here, by the driver's policy of the matter.
    pub(super) fn is_given_to_group(&self, policy: Option<&str>) -> bool {
        let once = self.ephemeral || self.modes.iter().any(|mode| mode.starts_with("ReadWriteOnce"));
        !self.read_only
            && !self.block
            && match policy {
                Some("File") => true,
                Some("None") => false,
                _ => once && !self.fs_type.is_empty(),
            }
    }

    /// What the driver is told of the pod, where it wants to know.
    pub(super) fn about(&self, pod: &Pod) -> BTreeMap<String, String> {
        let account = facts::spec(pod).service_account_name.as_deref().unwrap_or_default();
        let told = [
            ("pod.name", facts::name(pod)),
            ("pod.namespace", facts::namespace(pod)),
            ("pod.uid", facts::uid(pod)),
            ("serviceAccount.name", account),
            ("ephemeral", if self.ephemeral { "true" } else { "false" }),
        ];
        told.map(|(key, value)| (format!("csi.storage.k8s.io/{key}"), value.to_owned())).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn claimed(spec: Value) -> Source {
        let mut spec = spec;
        spec["csi"] =
            json!({"driver": "d", "volumeHandle": "h", "fsType": spec["fsType"].as_str().unwrap_or_default()});
        let volume = serde_json::from_value(json!({"metadata": {"name": "pv"}, "spec": spec})).expect("a volume");
        Source::claimed(&volume, &PersistentVolumeClaim::default(), false).expect("a driver's volume")
    }

    #[test]
    fn access_modes_are_said_in_the_drivers_words() {
        for (mode, single_node, expected) in [
            (json!(["ReadWriteOnce"]), false, Mode::SingleNodeWriter),
            (json!(["ReadWriteOnce"]), true, Mode::SingleNodeMultiWriter),
            (json!(["ReadWriteOncePod"]), false, Mode::SingleNodeWriter),
            (json!(["ReadWriteOncePod"]), true, Mode::SingleNodeSingleWriter),
            (json!(["ReadOnlyMany"]), true, Mode::MultiNodeReaderOnly),
            (json!(["ReadWriteMany", "ReadWriteOnce"]), true, Mode::MultiNodeMultiWriter),
            (json!([]), false, Mode::SingleNodeWriter),
        ] {
            let abilities = Abilities { single_node, ..Abilities::default() };
            let told = claimed(json!({"accessModes": mode})).capability(&abilities, None);
            assert_eq!(told.access_mode.expect("a mode").mode(), expected, "{mode} {single_node}");
        }
    }

    #[test]
    fn a_group_is_the_drivers_or_ours_to_give_to() {
        let once = claimed(json!({"accessModes": ["ReadWriteOnce"], "fsType": "ext4"}));
        let many = claimed(json!({"accessModes": ["ReadWriteMany"], "fsType": "ext4"}));
        let unknown = claimed(json!({"accessModes": ["ReadWriteOnce"]}));
        let given = |source: &Source, policy| source.is_given_to_group(policy);
        assert!(given(&once, None) && !given(&many, None) && !given(&unknown, None));
        assert!(given(&many, Some("File")) && !given(&once, Some("None")));
        let read_only = Source { read_only: true, ..once.clone() };
        assert!(!given(&read_only, Some("File")));
        let able = Abilities { group: true, ..Abilities::default() };
        let group = |abilities: &Abilities| match once.capability(abilities, Some(7)).access_type {
            Some(AccessType::Mount(mount)) => mount.volume_mount_group,
            _ => "a device".to_owned(),
        };
        assert_eq!((group(&able), group(&Abilities::default())), ("7".to_owned(), String::new()));
        let block = claimed(json!({"volumeMode": "Block"})).capability(&able, Some(7));
        assert_eq!(block.access_type, Some(AccessType::Block(BlockVolume {})));
    }

    #[test]
    fn a_pod_brings_its_own() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"containers": [], "serviceAccountName": "a"}}))
        .expect("a pod");
        let csi =
            serde_json::from_value(json!({"driver": "d", "nodePublishSecretRef": {"name": "s"}})).expect("a source");
        let source = Source::inline(&pod, "v", &csi);
        assert_eq!(source.handle, format!("csi-{}", volumes::digest(&["u", "v"])));
        assert_eq!(source.publish_secret.as_ref().and_then(|s| s.namespace.as_deref()), Some("n"));
        let about = source.about(&pod);
        assert_eq!(about["csi.storage.k8s.io/ephemeral"], "true");
        assert_eq!(about["csi.storage.k8s.io/serviceAccount.name"], "a");
    }
}
