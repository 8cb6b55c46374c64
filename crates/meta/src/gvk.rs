//! Names of kinds and resources.

use std::fmt;
use std::str::FromStr;

/// An API group and version, `apps/v1`; the core group is the empty string and prints as `v1`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupVersion {
    /// The group, empty for core.
    pub group: String,
    /// The version, such as `v1`.
    pub version: String,
}

/// Group, version and kind: what a body says it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupVersionKind {
    /// The group, empty for core.
    pub group: String,
    /// The version, such as `v1`.
    pub version: String,
    /// The kind, such as `Deployment`.
    pub kind: String,
}

/// Group, version and resource: what a path says it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupVersionResource {
    /// The group, empty for core.
    pub group: String,
    /// The version, such as `v1`.
    pub version: String,
    /// The plural resource, such as `deployments`.
    pub resource: String,
}

/// Group and kind, for errors about objects whatever their version; prints as `Deployment.apps`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupKind {
    /// The group, empty for core.
    pub group: String,
    /// The kind.
    pub kind: String,
}

/// Group and resource, for errors and authorization; prints as `deployments.apps`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupResource {
    /// The group, empty for core.
    pub group: String,
    /// The plural resource.
    pub resource: String,
}

macro_rules! constructor {
    ($name:ident, $($field:ident),+) => {
        impl $name {
            /// From its parts.
            pub fn new($($field: impl Into<String>),+) -> Self {
                Self { $($field: $field.into()),+ }
            }
        }
    };
}
constructor!(GroupVersion, group, version);
constructor!(GroupVersionKind, group, version, kind);
constructor!(GroupVersionResource, group, version, resource);
constructor!(GroupKind, group, kind);
constructor!(GroupResource, group, resource);

impl GroupVersionKind {
    /// `apps/v1`, as `apiVersion` says it.
    pub fn api_version(&self) -> String {
        self.group_version().to_string()
    }
    /// Without the kind.
    pub fn group_version(&self) -> GroupVersion {
        GroupVersion::new(&*self.group, &*self.version)
    }
    /// Without the version.
    pub fn group_kind(&self) -> GroupKind {
        GroupKind::new(&*self.group, &*self.kind)
    }
}

impl GroupVersionResource {
    /// Without the resource.
    pub fn group_version(&self) -> GroupVersion {
        GroupVersion::new(&*self.group, &*self.version)
    }
    /// Without the version.
    pub fn group_resource(&self) -> GroupResource {
        GroupResource::new(&*self.group, &*self.resource)
    }
}

impl fmt::Display for GroupVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.group.is_empty() { f.write_str(&self.version) } else { write!(f, "{}/{}", self.group, self.version) }
    }
}

/// An `apiVersion` with more than one slash.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unexpected GroupVersion string: {0}")]
pub struct BadGroupVersion(pub String);

impl FromStr for GroupVersion {
    type Err = BadGroupVersion;
    fn from_str(s: &str) -> Result<Self, BadGroupVersion> {
        match s.split_once('/') {
            None => Ok(Self::new("", s)),
            Some((group, version)) if !version.contains('/') => Ok(Self::new(group, version)),
            Some(_) => Err(BadGroupVersion(s.to_owned())),
        }
    }
}

fn dotted(f: &mut fmt::Formatter<'_>, name: &str, group: &str) -> fmt::Result {
    if group.is_empty() { f.write_str(name) } else { write!(f, "{name}.{group}") }
}

impl fmt::Display for GroupKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        dotted(f, &self.kind, &self.group)
    }
}

impl fmt::Display for GroupResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        dotted(f, &self.resource, &self.group)
    }
}
