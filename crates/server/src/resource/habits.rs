//! In what kinds differ beyond their rules: upstream's strategy flags, as one table.

use skiff_meta::GroupResource;

/// Who looks after the dependents of a deleted object that says nothing itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dependents {
    /// The garbage collector deletes them.
    Delete,
    /// They stay.
    Orphan,
    /// The kind has none, and its objects are never waited for.
    Unsupported,
}

/// How a kind's objects are read, written and deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Habits {
    /// PUT makes what is not there.
    pub(crate) create_on_update: bool,
    /// PUT without resourceVersion overwrites.
    pub(crate) unconditional_update: bool,
    /// What comes without a name gets one.
    pub(crate) named_by_server: bool,
    /// DELETE answers with the object rather than with a `Status`.
    pub(crate) returns_deleted: bool,
    /// What becomes of dependents.
    pub(crate) dependents: Dependents,
    /// Upstream reads it from memory, and tells a bad resourceVersion in other words than its store does.
    pub(crate) cached: bool,
}

const CREATE_ON_UPDATE: &[(&str, &str)] = &[
    ("", "endpoints"),
    ("", "events"),
    ("", "limitranges"),
    ("", "services"),
    ("coordination.k8s.io", "leasecandidates"),
    ("coordination.k8s.io", "leases"),
    ("events.k8s.io", "events"),
    ("node.k8s.io", "runtimeclasses"),
    ("rbac.authorization.k8s.io", "clusterrolebindings"),
    ("rbac.authorization.k8s.io", "clusterroles"),
    ("rbac.authorization.k8s.io", "rolebindings"),
    ("rbac.authorization.k8s.io", "roles"),
];

/// Kinds whose PUT must name the version it replaces; all custom kinds do as well.
const CONDITIONAL: &[(&str, &str)] = &[
    ("admissionregistration.k8s.io", "mutatingadmissionpolicies"),
    ("admissionregistration.k8s.io", "mutatingadmissionpolicybindings"),
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations"),
    ("admissionregistration.k8s.io", "validatingadmissionpolicies"),
    ("admissionregistration.k8s.io", "validatingadmissionpolicybindings"),
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations"),
    ("apiextensions.k8s.io", "customresourcedefinitions"),
    ("apiregistration.k8s.io", "apiservices"),
    ("certificates.k8s.io", "clustertrustbundles"),
    ("certificates.k8s.io", "podcertificaterequests"),
    ("coordination.k8s.io", "leasecandidates"),
    ("coordination.k8s.io", "leases"),
    ("internal.apiserver.k8s.io", "storageversions"),
    ("node.k8s.io", "runtimeclasses"),
    ("policy", "poddisruptionbudgets"),
    ("storage.k8s.io", "csidrivers"),
    ("storage.k8s.io", "csinodes"),
    ("storage.k8s.io", "csistoragecapacities"),
    ("storage.k8s.io", "volumeattachments"),
    ("storagemigration.k8s.io", "storageversionmigrations"),
];

const RETURNS_DELETED: &[(&str, &str)] = &[
    ("", "namespaces"),
    ("", "persistentvolumeclaims"),
    ("", "persistentvolumes"),
    ("", "pods"),
    ("", "podtemplates"),
    ("", "resourcequotas"),
    ("", "serviceaccounts"),
    ("", "services"),
    ("resource.k8s.io", "deviceclasses"),
    ("resource.k8s.io", "devicetaintrules"),
    ("resource.k8s.io", "resourceclaims"),
    ("resource.k8s.io", "resourceclaimtemplates"),
    ("resource.k8s.io", "resourceslices"),
    ("storage.k8s.io", "csidrivers"),
    ("storage.k8s.io", "csinodes"),
    ("storage.k8s.io", "storageclasses"),
    ("storage.k8s.io", "volumeattachments"),
    ("storage.k8s.io", "volumeattributesclasses"),
];

const ORPHANING: &[(&str, &str)] = &[("", "replicationcontrollers"), ("batch", "jobs")];

const EVENTS: &[(&str, &str)] = &[("", "events"), ("events.k8s.io", "events")];

/// The habits of a kind.
pub(crate) fn of(id: &GroupResource, custom: bool) -> Habits {
    let is_in = |table: &[(&str, &str)]| table.contains(&(&*id.group, &*id.resource));
    let is_event = is_in(EVENTS);
    let dependents = match (is_event, is_in(ORPHANING)) {
        (true, _) => Dependents::Unsupported,
        (false, true) => Dependents::Orphan,
        (false, false) => Dependents::Delete,
    };
    Habits {
        create_on_update: is_in(CREATE_ON_UPDATE),
        unconditional_update: !custom && !is_in(CONDITIONAL),
        named_by_server: is_in(&[("", "limitranges")]),
        returns_deleted: is_in(RETURNS_DELETED),
        dependents,
        cached: !is_event,
    }
}
