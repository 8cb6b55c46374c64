//! Names of everything this room creates on the machine.
//!
//! Several servers run side by side, so each name carries an id made from the data directory, and whatever bears that
//! id belongs to that server: clean-up finds it by name, without any list of what was made.

use std::fmt;
use std::path::Path;

/// Which server on this machine something belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Instance(String);

/// Digits of the id. Device names have room for 15 bytes: `sk`, the id, and eight digits for the pod.
const ID_DIGITS: usize = 5;

impl Instance {
    /// The instance that owns `data_dir`. Relative and absolute spellings of one existing directory agree.
    pub fn of(data_dir: &Path) -> Self {
        let path = std::fs::canonicalize(data_dir).unwrap_or_else(|_| data_dir.to_path_buf());
        let hash = fnv1a(path.as_os_str().as_encoded_bytes());
        Self(format!("{hash:016x}")[..ID_DIGITS].to_owned())
    }

    /// An instance by its id, as [`Instance::id`] gives it.
    pub fn from_id(id: &str) -> Option<Self> {
        let well_formed = id.len() == ID_DIGITS && id.bytes().all(|b| b.is_ascii_alphanumeric());
        well_formed.then(|| Self(id.to_owned()))
    }

    /// The id itself.
    pub fn id(&self) -> &str {
        &self.0
    }

    /// What the names of all our devices begin with.
    pub fn device_prefix(&self) -> String {
        format!("sk{}", self.0)
    }

    /// The device that holds the node's address in the pod network.
    pub fn node_device(&self) -> String {
        format!("sk{}br", self.0)
    }

    /// The tunnel's port, where the pod network is an overlay.
    pub fn tunnel_device(&self) -> String {
        format!("sk{}vx", self.0)
    }

    /// The host's end of the link to interface `interface` of the sandbox `container`.
    pub fn pod_device(&self, container: &str, interface: &str) -> String {
        let hash = fnv1a(format!("{container}@{interface}").as_bytes());
        format!("sk{}{:08x}", self.0, hash & 0xffff_ffff)
    }

    /// Whether a device is such an end, of whatever sandbox.
    pub(crate) fn is_pod_device(&self, name: &str) -> bool {
        let rest = name.strip_prefix(&self.device_prefix());
        rest.is_some_and(|rest| rest.len() == 8 && rest.bytes().all(|byte| byte.is_ascii_hexdigit()))
    }

    /// The nftables table of Services.
    pub fn service_table(&self) -> String {
        format!("skiff-{}", self.0)
    }

    /// The nftables table of network policies.
    pub fn policy_table(&self) -> String {
        format!("skiff-{}-policy", self.0)
    }

    /// The nftables table of the pod network: masquerade and host ports.
    pub fn pod_table(&self) -> String {
        format!("skiff-{}-pods", self.0)
    }
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The number of the overlay of the cluster that `cluster` tells from others; every node comes to the same.
pub(crate) fn overlay_number(cluster: &str) -> u32 {
    // Numbers have 24 bits.
    u32::try_from(fnv1a(cluster.as_bytes()) >> 40).unwrap_or_default()
}

/// FNV-1a, folded so that the top bits depend on every byte: stable across versions, since names on the machine outlive
/// the process, which the standard library's hasher does not promise.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    let hash = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
    (hash ^ (hash >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_a_device_and_differ_by_directory() {
        let (one, two) = (Instance::of(Path::new("/srv/one")), Instance::of(Path::new("/srv/two")));
        assert_ne!(one, two);
        assert_eq!(one.pod_device("c1", "eth0").len(), 15);
        assert_ne!(one.pod_device("c1", "eth0"), one.pod_device("c1", "net1"));
        assert!(one.pod_device("c1", "eth0").starts_with(&one.device_prefix()));
        assert_eq!(Instance::from_id(one.id()), Some(one));
        assert_eq!(Instance::from_id("../.."), None);
    }
}
